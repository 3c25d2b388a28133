//! The errors of settings.

use crate::files::toml::Faults;

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// The file can't be read; or a flag, an environment variable, or a combination of settings has a fault.
    #[error("{name}: {fault}")]
    Value {
        /// Its name.
        name: String,
        /// What is wrong.
        fault: String,
    },
}

impl SettingsError {
    pub(super) fn value(name: impl Into<String>, fault: impl ToString) -> Self {
        Self::Value {
            name: name.into(),
            fault: fault.to_string(),
        }
    }
}
