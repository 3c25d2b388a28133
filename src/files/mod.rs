//! Files: reads them whole and bounded, parses them with all their faults, and watches them for changes.

pub mod pem;
pub mod read;
pub mod toml;
pub mod watched;
mod watcher;
