//! The errors of settings.

use std::path::PathBuf;

use crate::files::toml::Faults;

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("{}: can't be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// A flag, an environment variable, or a combination of settings has a fault.
    #[error("{name}: {fault}")]
    Value {
        /// Its name.
        name: String,
        /// What is wrong.
        fault: String,
    },
}

impl SettingsError {
    pub(super) fn value(name: impl Into<String>, fault: impl Into<String>) -> Self {
        Self::Value {
            name: name.into(),
            fault: fault.into(),
        }
    }
}
