//! Files: read whole and bounded, parsed with all their faults, and followed while they change.

pub mod pem;
pub mod toml;
pub mod trim;
pub mod watched;
