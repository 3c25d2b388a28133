//! Files: read whole and bounded, parsed with all their faults, and watched for changes.

pub mod pem;
pub mod read;
pub mod toml;
pub mod watched;
pub(crate) mod watcher;
