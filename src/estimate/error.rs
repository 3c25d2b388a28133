//! Why a request has no estimate.

use super::key::Key;
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
    /// The error of a field of the body itself.
    pub(super) fn of_field(key: Key, fault: impl Into<String>) -> Self {
        let field = <&str>::from(key).to_owned();
        let fault = fault.into();
        Self::WrongField { field, fault }
    }
}

/// What is wrong with a field. It is made without an allocation: there may be as many as there are values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// The elements of lists in which the field is.
    pub(super) places: [Option<(Key, u32)>; 2],
    /// None: the element itself.
    pub(super) key: Option<Key>,
    pub(super) text: &'static str,
    /// What it is instead, where the text says what there must be.
    pub(super) kind: Option<&'static str>,
}

impl Fault {
    pub(super) fn new(key: Key, text: &'static str) -> Self {
        Self {
            places: [None; 2],
            key: Some(key),
            text,
            kind: None,
        }
    }

    /// The fault in an element of a list.
    pub(super) fn within(self, list: Key, index: u32) -> Self {
        let places = [Some((list, index)), self.places[0]];
        Self { places, ..self }
    }
}

impl From<Fault> for EstimateError {
    fn from(fault: Fault) -> Self {
        let elements = fault.places.into_iter().flatten();
        let elements = elements.map(|(list, index)| format!("{}[{index}]", <&str>::from(list)));
        let field = fault.key.map(|key| <&str>::from(key).to_owned());
        let path: Vec<String> = elements.chain(field).collect();
        let text = fault.text;
        Self::WrongField {
            field: path.join("."),
            fault: match fault.kind {
                Some(kind) => format!("must be {text}, and is {kind}"),
                None => text.to_owned(),
            },
        }
    }
}
