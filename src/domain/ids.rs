//! Names as the provider writes them, parsed once into types that can't be out of bounds.
//!
//! Rule (docs/CONTRACT.md, "Reserve" 1): names are 1 to 256 bytes, a request id at most 128, without
//! control characters. Any other UTF-8 is legal. Names are compared byte by byte.

use std::{borrow::Borrow, fmt, sync::Arc};

/// The maximum length of an organization, project, model or pool name, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// The maximum length of a request id, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// A field is out of bounds. The message names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct InvalidField {
    /// The field's name in the proto and the policy file.
    pub field: &'static str,
    /// What is wrong with it.
    pub fault: FieldFault,
}

/// What can be wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FieldFault {
    #[error("must not be empty")]
    Empty,
    #[error("is {bytes} bytes long, at most {max} are allowed")]
    TooLong { bytes: usize, max: usize },
    #[error("holds the control character U+{code:04X} at byte {at}")]
    ControlCharacter { code: u32, at: usize },
    #[error("is {value}, allowed are {min} to {max}")]
    OutOfBounds { value: i128, min: u64, max: u64 },
    #[error("is {0}, and must not be negative")]
    Negative(i32),
    #[error("has no value of number {0}")]
    UnknownValue(i32),
    #[error("is not a day of the form 2026-11-22: {0:?}")]
    NotADay(String),
    #[error("was not given out by this service for this organization and day")]
    ForeignPageToken,
}

fn checked(field: &'static str, value: &str, max: usize) -> Result<(), InvalidField> {
    let fault = if value.is_empty() {
        FieldFault::Empty
    } else if value.len() > max {
        FieldFault::TooLong {
            bytes: value.len(),
            max,
        }
    } else if let Some((at, c)) = value.char_indices().find(|(_, c)| c.is_control()) {
        FieldFault::ControlCharacter {
            code: u32::from(c),
            at,
        }
    } else {
        return Ok(());
    };
    Err(InvalidField { field, fault })
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
            #[must_use]
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

impl ModelName {
    /// Whether this is a fine-tuned model, which the programme never covers.
    #[must_use]
    pub fn is_fine_tuned(&self) -> bool {
        self.0.starts_with("ft:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_1_to_256_bytes_of_any_utf8() {
        for name in ["a", "a:b", "{x}", "a b", "50%", "\"'", &"🦀".repeat(64)] {
            assert_eq!(OrgId::parse(name).expect("legal").as_str(), name);
        }
        assert_eq!(
            OrgId::parse("").expect_err("empty").to_string(),
            "org: must not be empty"
        );
        assert_eq!(
            ModelName::parse("x".repeat(257))
                .expect_err("too long")
                .to_string(),
            "model: is 257 bytes long, at most 256 are allowed"
        );
    }

    #[test]
    fn control_characters_are_refused_wherever_they_stand() {
        for name in ["\0", "a\n", "\u{7f}b", "a\u{85}b"] {
            assert!(ProjectId::parse(name).is_err(), "{name:?}");
        }
        assert_eq!(
            ProjectId::parse("ab\tc").expect_err("a tab").to_string(),
            "project: holds the control character U+0009 at byte 2"
        );
    }

    #[test]
    fn a_request_id_is_at_most_128_bytes() {
        assert!(RequestId::parse("x".repeat(128)).is_ok());
        assert!(RequestId::parse("x".repeat(129)).is_err());
    }
}
