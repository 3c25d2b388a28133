//! Small disks that a test fills: a tmpfs if the system allows mounts, otherwise a preloaded library. For a process,
//! both look like a full disk.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Command,
};

use tempfile::TempDir;

use super::{
    clock::Clock,
    shim,
    tollgate::{Tollgate, program_by},
};

const SIZE: &str = "size=8m";

pub struct Disk {
    dir: TempDir,
    kind: Kind,
}

enum Kind {
    /// A tmpfs that only the service sees. These words before a command mount it.
    Mounted(Vec<String>),
    /// While a file `full` exists, writes of the service fail.
    Preloaded,
}

impl Disk {
    /// A tmpfs in a mount namespace of the service.
    ///
    /// # Errors
    ///
    /// The system allows no mounts, as is usual in containers; gives the reason.
    pub fn mounted() -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let namespace: &[&str] = match nix::unistd::geteuid().is_root() {
            true => &["unshare", "--mount"],
            false => &["unshare", "--user", "--map-root-user", "--mount"],
        };
        let script = format!("mount -t tmpfs -o {SIZE} tmpfs \"$0\" && exec \"$@\"");
        let mount = dir.path().to_str().unwrap();
        let words = [namespace, &["sh", "-c", &script, mount]].concat();
        let tried = Command::new(words[0])
            .args(&words[1..])
            .arg("true")
            .output()
            .map_err(|error| format!("unshare: {error}"))?;
        if !tried.status.success() {
            return Err(String::from_utf8_lossy(&tried.stderr).into_owned());
        }
        let words = words.into_iter().map(str::to_owned).collect();
        let kind = Kind::Mounted(words);
        Ok(Self { dir, kind })
    }

    pub fn preloaded() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            kind: Kind::Preloaded,
        }
    }

    /// Starts a service with its file store on this disk.
    pub fn launch(&self, args: &[&str], clock: &Clock) -> Tollgate {
        let store = format!("file:{}", self.path().join("tollgate.db").display());
        let args = [&["--store", &store], args].concat();
        let launcher = match &self.kind {
            Kind::Mounted(words) => words.iter().map(String::as_str).collect(),
            Kind::Preloaded => vec![],
        };
        Tollgate::launch(program_by(&launcher), &args, |command| {
            clock.preload(command);
            if let Kind::Preloaded = self.kind {
                shim::preload(command, "disk_shim");
                command.env("DISK_SHIM_DIRECTORY", self.path());
            }
        })
    }

    /// Fills the disk.
    pub fn fill(&self, tollgate: &Tollgate) {
        let mut file = File::create(self.filler(tollgate)).unwrap();
        if let Kind::Mounted(_) = self.kind {
            for size in [65_536, 4_096, 1] {
                while file.write_all(&vec![1; size]).is_ok() {}
            }
        }
    }

    /// Frees the space again.
    pub fn free(&self, tollgate: &Tollgate) {
        fs::remove_file(self.filler(tollgate)).unwrap();
    }

    fn filler(&self, tollgate: &Tollgate) -> PathBuf {
        let full = self.path().join("full");
        match self.kind {
            // The path to the service's own mount.
            Kind::Mounted(_) => {
                PathBuf::from(format!("/proc/{}/root{}", tollgate.pid(), full.display()))
            }
            Kind::Preloaded => full,
        }
    }

    /// Without symlinks, as the system reports paths.
    fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }
}
