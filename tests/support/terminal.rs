//! A program in a pseudo-terminal, and what is on its screen.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

/// Longer than any change takes to be shown, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Terminal {
    process: Child,
    master: OwnedFd,
    /// Kept open, so that the terminal outlives the process.
    slave: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
}

fn winsize(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// The words before a program that give it the terminal of its standard input as its own.
pub const LAUNCHER: [&str; 2] = ["setsid", "--ctty"];

impl Terminal {
    /// Starts a program by [`LAUNCHER`] in a terminal of this size.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        tcsetwinsize(&slave, winsize(columns, rows)).unwrap();
        let end = || slave.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end());
        let process = command.env("TERM", "xterm-256color").spawn().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let (mut output, shown) = (File::from(master.try_clone().unwrap()), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..read]);
            }
        });
        Self {
            process,
            master,
            slave,
            screen,
        }
    }

    /// Types text or the bytes of a key.
    pub fn type_keys(&self, keys: &str) {
        let mut input = File::from(self.master.try_clone().unwrap());
        input.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.screen
            .lock()
            .unwrap()
            .screen_mut()
            .set_size(rows, columns);
        tcsetwinsize(&self.master, winsize(columns, rows)).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// The lines of the screen.
    pub fn lines(&self) -> Vec<String> {
        let parser = self.screen.lock().unwrap();
        let (_, columns) = parser.screen().size();
        parser.screen().rows(0, columns).collect()
    }

    /// The column in which a text begins in a line.
    pub fn column_of(&self, line: usize, text: &str) -> Option<u16> {
        let parser = self.screen.lock().unwrap();
        let (_, columns) = parser.screen().size();
        let row = u16::try_from(line).unwrap();
        let cell = |column| match parser.screen().cell(row, column) {
            // The second half of a wide character has no text, nor has a cell that nothing was written to.
            Some(cell) if cell.has_contents() || cell.is_wide_continuation() => cell.contents(),
            _ => " ",
        };
        (0..columns).find(|from| {
            let rest: String = (*from..columns).map(cell).collect();
            rest.starts_with(text)
        })
    }

    /// Waits until the lines of the screen are as wanted; fails after 30 seconds.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let lines = self.lines();
            if wanted(&lines) {
                return lines;
            }
            let screen = lines.join("\n");
            assert!(Instant::now() < deadline, "{what} is not shown:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a text is on the screen.
    pub fn wait_for_text(&self, text: &str) -> Vec<String> {
        self.wait_for(text, |lines| lines.iter().any(|line| line.contains(text)))
    }

    /// Whether the terminal is as before a program that draws: lines are edited and echoed, and the screen and the
    /// cursor are the shell's.
    pub fn is_restored(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
            && !screen.alternate_screen()
            && !screen.hide_cursor()
    }

    /// Waits for the end of the process; fails after 30 seconds.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                // What it printed last may still be on its way.
                let restored = self.wait_until_restored(deadline);
                assert!(restored, "the terminal is not restored");
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_until_restored(&self, deadline: Instant) -> bool {
        while !self.is_restored() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.is_restored()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
