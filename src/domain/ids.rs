//! Names as the provider writes them, parsed once into types that can't be out of bounds.
//!
//! Rule (docs/CONTRACT.md, "Reserve" 1): names are 1 to 256 bytes, a request id at most 128, without
//! control characters. Any other UTF-8 is legal. Names are compared byte by byte.

use std::{borrow::Borrow, fmt, sync::Arc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// The maximum length of an organization, project, model or pool name, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// The maximum length of a request id, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// The maximum length of a note, in bytes.
pub const MAX_NOTE_BYTES: usize = 512;

/// What percent-encoding encodes of a name in a key, an address or an id: all bytes but letters, digits, `-`, `.`, `_` and
/// `~`. No two names have the same encoding.
pub const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A field is out of bounds. The message names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct InvalidField {
    /// The field's name in the proto and the policy file.
    pub field: &'static str,
    /// What is wrong with it.
    pub fault: String,
}

fn checked(field: &'static str, value: &str, max: usize) -> Result<(), InvalidField> {
    let bytes = value.len();
    let fault = if bytes == 0 {
        "must not be empty".to_owned()
    } else if bytes > max {
        format!("is {bytes} bytes long, at most {max} are allowed")
    } else if let Some((at, c)) = value.char_indices().find(|(_, c)| c.is_control()) {
        let code = u32::from(c);
        format!("holds the control character U+{code:04X} at byte {at}")
    } else {
        return Ok(());
    };
    Err(InvalidField { field, fault })
}

/// Checks a part of a name that is searched for: at most 256 bytes without control characters; it may be empty.
///
/// # Errors
///
/// Names the field `query`.
pub fn check_query(query: &str) -> Result<(), InvalidField> {
    match query {
        "" => Ok(()),
        query => checked("query", query, MAX_NAME_BYTES),
    }
}

/// Checks a note for the audit log: at most 512 bytes without control characters; it may be empty.
///
/// # Errors
///
/// Names the field `note`.
pub fn check_note(note: &str) -> Result<(), InvalidField> {
    match note {
        "" => Ok(()),
        note => checked("note", note, MAX_NOTE_BYTES),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident($inner:ty), $field:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            ///
            /// The name is out of bounds. The error names the field.
            pub fn parse(value: impl Into<$inner>) -> Result<Self, InvalidField> {
                let value = value.into();
                checked($field, &value, $max)?;
                Ok(Self(value))
            }

            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// An organization, as the provider names it. Cheap to clone.
    OrgId(Arc<str>), "org", MAX_NAME_BYTES
);
name_type!(
    /// A project of an organization, as the provider names it.
    ProjectId(String), "project", MAX_NAME_BYTES
);
name_type!(
    /// A model, exactly as the provider names it.
    ModelName(String), "model", MAX_NAME_BYTES
);
name_type!(
    /// A pool: the models that share one allowance. Cheap to clone.
    PoolName(Arc<str>), "pool", MAX_NAME_BYTES
);
name_type!(
    /// Makes a Reserve idempotent, and identifies its reservation. Unique within an organization.
    RequestId(String), "request_id", MAX_REQUEST_ID_BYTES
);

/// Whether a model of this name is fine-tuned, which the programme never covers.
pub fn is_fine_tuned(model: &str) -> bool {
    model.starts_with("ft:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_the_field_and_the_bound() {
        for (fault, wanted) in [
            (OrgId::parse("").err(), "org: must not be empty"),
            (
                ModelName::parse("x".repeat(257)).err(),
                "model: is 257 bytes long, at most 256 are allowed",
            ),
            (
                ProjectId::parse("ab\tc").err(),
                "project: holds the control character U+0009 at byte 2",
            ),
        ] {
            assert_eq!(fault.expect("a fault").to_string(), wanted);
        }
    }
}
