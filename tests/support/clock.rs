//! A wall clock that a test sets: a function for the memory store, a preloaded library for redis-server. It runs on
//! from the time that is set.

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

/// A clock ahead of the real one by an adjustable amount.
pub struct Clock {
    shift_micros: Arc<AtomicI64>,
    /// How far the boot-time clock is ahead.
    boot_shift_micros: Arc<AtomicI64>,
    /// Read by the preloaded library.
    file: File,
    path: PathBuf,
    /// Whether a process uses it.
    is_preloaded: AtomicBool,
    _dir: TempDir,
}

/// Valkey 9 reads the wall clock at most once a millisecond, so it may use the old time for this long.
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

    /// Sets the clock to a time such as "2026-11-22T23:59:59Z".
    pub fn set(&self, moment: &str) {
        let moment: DateTime<Utc> = moment.parse().unwrap();
        self.shift(moment - Utc::now());
    }

    pub fn advance(&self, by: TimeDelta) {
        self.shift(self.ahead() + by);
    }

    /// Lets time pass, as during a suspension. All other changes are steps of the wall clock.
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

    /// The clock for the memory store.
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

    /// Makes the process use this clock.
    pub fn preload(&self, command: &mut Command) {
        self.preload_again().preload(command);
    }

    /// For processes that are restarted. Valid as long as this clock exists.
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
    /// Updates the file of the preloaded library.
    fn write(&self) {
        for (at, micros) in [(0, &self.shift_micros), (8, &self.boot_shift_micros)] {
            let micros = micros.load(Ordering::SeqCst);
            self.file.write_all_at(&micros.to_ne_bytes(), at).unwrap();
        }
    }
}

/// What a process needs to use a clock.
pub struct Preload(PathBuf);

impl Preload {
    pub fn preload(&self, command: &mut Command) {
        shim::preload(command, "clock_shim");
        command.env("TOLLGATE_CLOCK_FILE", &self.0);
    }
}
