//! The machine's clocks, as the embedded stores read them (docs/CONTRACT.md, "The day").
//!
//! The wall clock decides the day. An operator or a time service may step it, so nothing is removed before it has
//! been steady for a while. It is compared with the boot-time clock, which nobody sets and which keeps running
//! while the machine is suspended.

use std::{fs, sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};

/// The source of time of an embedded store.
pub type Clock = Arc<dyn Fn() -> ClockReading + Send + Sync>;

/// A reading of the machine's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The wall clock.
    pub wall: DateTime<Utc>,
    /// The time since the machine was started, suspended time included.
    pub since_boot: TimeDelta,
    /// The boot that `since_boot` counts from.
    pub boot: BootId,
}

/// Identifies a boot of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootId(pub u128);

/// A larger difference between the wall clock and the boot-time clock is a step.
const MAX_DIFFERENCE: TimeDelta = TimeDelta::seconds(5);

/// How long the wall clock must have been steady before records are removed.
const STEADY_AFTER: TimeDelta = TimeDelta::minutes(10);

/// How long a step is reported.
const REPORT_TIME: TimeDelta = TimeDelta::hours(1);

/// If the boot-time clock advances by more while the wall clock is read, both are read again.
const MAX_READING_TIME: TimeDelta = TimeDelta::milliseconds(100);

/// The clocks of this machine.
#[must_use]
pub fn system_clock() -> Clock {
    let boot = BootId::of_this_boot();
    Arc::new(move || {
        let mut before = since_boot();
        loop {
            let wall = crate::wall_clock::now();
            let since_boot = since_boot();
            // If the process was stopped between the two, the readings would look like a step.
            if since_boot - before <= MAX_READING_TIME {
                return ClockReading {
                    wall,
                    since_boot,
                    boot,
                };
            }
            before = since_boot;
        }
    })
}

fn since_boot() -> TimeDelta {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    TimeDelta::new(now.tv_sec, nanos).unwrap_or(TimeDelta::MAX)
}

impl BootId {
    /// The kernel's random number of this boot. Without one, each start of the process counts as a boot.
    fn of_this_boot() -> Self {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
        let process = || {
            let started = crate::wall_clock::now().timestamp_micros().unsigned_abs();
            u128::from(started) << 32 | u128::from(std::process::id())
        };
        Self(u128::from_str_radix(&digits, 16).unwrap_or_else(|_| process()))
    }
}

/// The wall clock was stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStep {
    /// The wall clock after the step.
    pub at: DateTime<Utc>,
    /// The size of the step, negative if the clock went back.
    pub by: TimeDelta,
}

/// Since when the wall clock has been steady. The file store saves it across restarts of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SteadyTime {
    pub(super) boot: BootId,
    /// The time of the boot by the present wall clock, in microseconds since 1970.
    pub(super) boot_micros: i64,
    /// When it began, in microseconds since the boot.
    pub(super) since_micros: i64,
    /// The step that it began with, in microseconds; 0 if it began with a boot or a new store.
    pub(super) step_micros: i64,
}

impl SteadyTime {
    fn new(reading: ClockReading, step_micros: i64) -> Self {
        Self {
            boot: reading.boot,
            boot_micros: boot_micros(reading),
            since_micros: micros(reading.since_boot),
            step_micros,
        }
    }

    fn duration(&self, reading: ClockReading) -> TimeDelta {
        TimeDelta::microseconds(micros(reading.since_boot) - self.since_micros)
    }
}

#[derive(Debug)]
pub(super) struct StepDetector {
    steady: SteadyTime,
    steps: u64,
}

impl StepDetector {
    /// Resumes the steady time that was saved before a restart of the process, if the boot is the same.
    pub(super) fn new(reading: ClockReading, saved: Option<SteadyTime>) -> Self {
        let steady = saved
            .filter(|saved| saved.boot == reading.boot)
            .unwrap_or_else(|| SteadyTime::new(reading, 0));
        let mut detector = Self { steady, steps: 0 };
        detector.observe(reading);
        detector
    }

    /// Compares a reading with the steady time. Each step is logged once.
    pub(super) fn observe(&mut self, reading: ClockReading) {
        let difference = boot_micros(reading).saturating_sub(self.steady.boot_micros);
        if difference.saturating_abs() <= micros(MAX_DIFFERENCE) {
            return;
        }
        self.steady = SteadyTime::new(reading, difference);
        self.steps += 1;
        tracing::warn!(
            by_seconds = TimeDelta::microseconds(difference).num_seconds(),
            now = %reading.wall.to_rfc3339_opts(SecondsFormat::Secs, true),
            "the wall clock was stepped: each day keeps its own counters, and nothing is removed until the \
             clock has been steady for ten minutes"
        );
    }

    /// Whether records of past days may be removed.
    pub(super) fn is_steady(&self, reading: ClockReading) -> bool {
        self.steady.duration(reading) >= STEADY_AFTER
    }

    pub(super) fn steady(&self) -> SteadyTime {
        self.steady
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The latest step, for an hour after it.
    pub(super) fn latest_step(&self, reading: ClockReading) -> Option<ClockStep> {
        let SteadyTime {
            boot_micros,
            since_micros,
            step_micros,
            ..
        } = self.steady;
        let is_recent = step_micros != 0 && self.steady.duration(reading) < REPORT_TIME;
        is_recent.then_some(ClockStep {
            at: DateTime::from_timestamp_micros(boot_micros.saturating_add(since_micros))?,
            by: TimeDelta::microseconds(step_micros),
        })
    }
}

impl std::fmt::Display for ClockStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = Duration::from_secs(self.by.num_seconds().unsigned_abs());
        let direction = match self.by < TimeDelta::zero() {
            true => "back",
            false => "ahead",
        };
        let at = self.at.to_rfc3339_opts(SecondsFormat::Secs, true);
        write!(
            f,
            "the wall clock was stepped {direction} by {}, to {at}",
            humantime::format_duration(by)
        )
    }
}

fn micros(time: TimeDelta) -> i64 {
    time.num_microseconds().unwrap_or(i64::MAX)
}

fn boot_micros(reading: ClockReading) -> i64 {
    let wall = reading.wall.timestamp_micros();
    wall.saturating_sub(micros(reading.since_boot))
}
