//! The CPU time of other processes, from `/proc`.

use std::{fs, str::FromStr, time::Duration};

use anyhow::Context as _;

/// A process and its name in the report.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) name: String,
    pid: u32,
}

impl FromStr for Process {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('=').and_then(|(name, pid)| {
            let (name, pid) = (name.to_owned(), pid.parse().ok()?);
            Some(Self { name, pid })
        });
        parsed.ok_or("must be NAME=PID, such as server=1234")
    }
}

impl Process {
    /// The CPU time used so far. Sums the threads' `schedstat`, in nanoseconds; `stat` counts in hundredths of a
    /// second.
    ///
    /// # Errors
    ///
    /// The process does not exist, or the system has no `schedstat`.
    pub(super) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let Self { name, pid } = self;
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("--pid {name}={pid}: there is no such process here"))?;
        let mut nanos = 0;
        for thread in threads {
            // Skips a thread that has ended.
            let Ok(account) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let on_cpu = account.split(' ').next().map(str::parse::<u64>);
            nanos += on_cpu
                .and_then(Result::ok)
                .with_context(|| format!("--pid {name}={pid}: no CPU time in {account:?}"))?;
        }
        Ok(Duration::from_nanos(nanos))
    }
}
