//! Files: reads them whole and bounded, parses them with all their faults, and watches them for changes.

pub(crate) mod memory;
pub mod pem;
pub mod read;
pub mod toml;
mod version;
pub mod watched;
mod watcher;
