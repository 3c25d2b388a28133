//! Why a request has no estimate.

use crate::domain::InvalidField;

/// Why a request has no estimate. The text names `path`, `model` or `body`, and the field in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EstimateError {
    /// The path is that of another endpoint.
    #[error("path: {path:?} ends with none of /chat/completions, /responses and /embeddings")]
    UnknownPath {
        /// The beginning of the path.
        path: String,
    },
    /// The body is no JSON object.
    #[error("body: {fault}")]
    Malformed {
        /// What is wrong, with line and column.
        fault: String,
    },
    /// A field of the body is missing, of a wrong type, out of bounds, or given twice.
    #[error("body: {field} {fault}")]
    WrongField {
        /// The field's path in the body: `messages[0].content`.
        field: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Neither the body nor the caller names a model.
    #[error("model: is missing: neither the body nor the caller names it")]
    ModelMissing,
    /// The model's name is out of bounds.
    #[error(transparent)]
    InvalidModel(#[from] InvalidField),
}

impl EstimateError {
    pub(super) fn of_field(field: &str, fault: impl Into<String>) -> Self {
        let (field, fault) = (field.to_owned(), fault.into());
        Self::WrongField { field, fault }
    }

    /// The error with the place of its field.
    pub(super) fn within(self, place: &str) -> Self {
        match self {
            Self::WrongField { field, fault } if field.is_empty() => Self::of_field(place, fault),
            Self::WrongField { field, fault } => Self::of_field(&format!("{place}.{field}"), fault),
            other => other,
        }
    }
}
