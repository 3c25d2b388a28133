//! A wall clock that a test sets: for the memory store as a function, for redis-server as a preloaded
//! library of ours. Once set, it runs on.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tempfile::TempDir;
use tollgate::store::clock::{ClockReading, system_clock};

use super::shim;

/// A clock that is ahead of the real one by a settable amount.
pub struct Clock {
    shift_micros: Arc<AtomicI64>,
    /// How far the boot-time clock is ahead: by the time that has passed for the test.
    boot_shift_micros: Arc<AtomicI64>,
    /// What the preloaded library reads.
    file: File,
    path: PathBuf,
    /// Whether a process sees it.
    is_preloaded: AtomicBool,
    _dir: TempDir,
}

/// Valkey 9 reads the wall clock once a millisecond at most: so long it may say the time before.
const CLOCK_RESOLUTION: Duration = Duration::from_millis(3);

impl Clock {
    pub fn real() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shift");
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let clock = Self {
            shift_micros: Arc::default(),
            boot_shift_micros: Arc::default(),
            file,
            path,
            is_preloaded: AtomicBool::new(false),
            _dir: dir,
        };
        clock.write();
        clock
    }

    pub fn at(moment: &str) -> Self {
        let clock = Self::real();
        clock.set(moment);
        clock
    }

    /// Sets the clock to a moment such as "2026-11-22T23:59:59Z".
    pub fn set(&self, moment: &str) {
        let moment: DateTime<Utc> = moment.parse().unwrap();
        self.shift(moment - Utc::now());
    }

    pub fn advance(&self, by: TimeDelta) {
        self.shift(self.ahead() + by);
    }

    /// Lets time pass: what a machine sees that was suspended. All other changes are steps of the wall clock.
    pub fn pass(&self, time: TimeDelta) {
        let micros = time.num_microseconds().unwrap();
        self.boot_shift_micros.fetch_add(micros, Ordering::SeqCst);
        self.advance(time);
    }

    /// How far it is ahead of the real clock.
    pub fn ahead(&self) -> TimeDelta {
        TimeDelta::microseconds(self.shift_micros.load(Ordering::SeqCst))
    }

    pub fn now(&self) -> DateTime<Utc> {
        (self.function())().wall
    }

    /// The clock as the memory store takes it.
    pub fn function(&self) -> tollgate::store::Clock {
        let (shift, boot_shift) = (self.shift_micros.clone(), self.boot_shift_micros.clone());
        let of = |shift: &AtomicI64| TimeDelta::microseconds(shift.load(Ordering::SeqCst));
        let real = system_clock();
        Arc::new(move || {
            let reading = real();
            ClockReading {
                wall: reading.wall + of(&shift),
                since_boot: reading.since_boot + of(&boot_shift),
                ..reading
            }
        })
    }

    /// Makes the process see this clock.
    pub fn preload(&self, command: &mut Command) {
        self.preload_again().preload(command);
    }

    /// For processes that are started again: as long as this clock is there.
    pub fn preload_again(&self) -> Preload {
        self.is_preloaded.store(true, Ordering::SeqCst);
        Preload(self.path.clone())
    }

    /// Sets how far it is ahead of the real clock.
    pub fn shift(&self, shift: TimeDelta) {
        let micros = shift.num_microseconds().unwrap();
        self.shift_micros.store(micros, Ordering::SeqCst);
        self.write();
        if self.is_preloaded.load(Ordering::SeqCst) {
            std::thread::sleep(CLOCK_RESOLUTION);
        }
    }
}

impl Clock {
    /// For the preloaded library.
    fn write(&self) {
        for (at, micros) in [(0, &self.shift_micros), (8, &self.boot_shift_micros)] {
            let micros = micros.load(Ordering::SeqCst);
            self.file.write_all_at(&micros.to_ne_bytes(), at).unwrap();
        }
    }
}

/// What a process needs to see a clock.
pub struct Preload(PathBuf);

impl Preload {
    pub fn preload(&self, command: &mut Command) {
        shim::preload(command, "clock_shim");
        command.env("TOLLGATE_CLOCK_FILE", &self.0);
    }
}
