//! The CPU time of other processes, from `/proc`.

use std::{fs, str::FromStr, time::Duration};

use anyhow::Context as _;

/// A process and its name in the report.
#[derive(Debug, Clone)]
pub(super) struct Process {
    name: String,
    pid: u32,
}

impl Process {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Process {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "must be NAME=PID, such as server=1234".to_owned();
        let (name, pid) = text.split_once('=').ok_or_else(form)?;
        let pid = pid.parse().map_err(|_| form())?;
        let name = name.to_owned();
        Ok(Self { name, pid })
    }
}

/// The CPU time that each process has used so far.
///
/// # Errors
///
/// A process does not exist, or the system has no `schedstat`.
pub(super) fn times(processes: &[Process]) -> anyhow::Result<Vec<Duration>> {
    processes.iter().map(time).collect()
}

/// Sums the threads' `schedstat`, in nanoseconds; `stat` counts in hundredths of a second.
fn time(process: &Process) -> anyhow::Result<Duration> {
    let Process { name, pid } = process;
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("--pid {name}={pid}: there is no such process here"))?;
    let mut nanos = 0;
    for thread in threads {
        // Skips a thread that has ended.
        let Ok(account) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let on_cpu = account
            .split(' ')
            .next()
            .and_then(|text| text.parse::<u64>().ok());
        nanos +=
            on_cpu.with_context(|| format!("--pid {name}={pid}: no CPU time in {account:?}"))?;
    }
    Ok(Duration::from_nanos(nanos))
}
