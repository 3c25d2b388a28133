//! Reads the values of a body one after the other, and keeps none of them: filling memory would take most of the time
//! of an estimate.
//!
//! Nesting is bounded: `serde_json` refuses a body with more than 128 levels.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{
    error::{EstimateError, Fault},
    key::Key,
};

/// A value.
pub(super) enum Json<'t> {
    Null,
    Bool(bool),
    Whole(u64),
    /// Any other number: with a sign, a fraction or an exponent, or past 64 bits.
    Number(f64),
    String(&'t str),
    /// A list, of as many bytes as compact JSON.
    Array(u64),
    /// An object, of as many bytes as compact JSON.
    Object(u64),
}

/// The bytes of the longest number that a double is written as. What a literal has beyond that is counted by
/// [`excess_digits`].
const MAX_NUMBER_BYTES: u64 = 24;

/// The text must not repeat the body, as serde's text for a wrong type would.
pub(super) fn malformed(error: serde_json::Error) -> EstimateError {
    let fault = match error.is_data() {
        true => {
            let (line, column) = (error.line(), error.column());
            format!("must be a JSON object, and is none at line {line} column {column}")
        }
        false => error.to_string(),
    };
    EstimateError::Malformed { fault }
}

/// Whether it may be in a number.
pub(super) fn is_of_number(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
}

/// The bytes that the numbers of a valid body have beyond [`MAX_NUMBER_BYTES`] each: a visitor gets their values, and
/// not how they are written.
pub(super) fn excess_digits(body: &[u8]) -> u64 {
    // Most bodies have no such number: it would fill one of these chunks.
    let mut chunks = body.chunks_exact(MAX_NUMBER_BYTES as usize / 2);
    if !chunks.any(|chunk| chunk.iter().all(is_of_number)) {
        return 0;
    }
    let (mut excess, mut length) = (0, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => {
                in_string = !in_string;
                length = 0;
            }
            _ if in_string => {}
            byte if is_of_number(byte) => {
                length += 1;
                excess += u64::from(length > MAX_NUMBER_BYTES);
            }
            _ => length = 0,
        }
    }
    excess
}

impl Json<'_> {
    /// The bytes of it as compact JSON. Without what [`excess_digits`] counts.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Null | Self::Bool(true) => 4,
            Self::Bool(false) => 5,
            Self::Whole(number) => 1 + u64::from(number.checked_ilog10().unwrap_or(0)),
            Self::Number(_) => MAX_NUMBER_BYTES,
            Self::String(text) => quoted_bytes(text),
            Self::Array(bytes) | Self::Object(bytes) => *bytes,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(super) fn is_empty_list(&self) -> bool {
        matches!(self, Self::Array(2))
    }

    /// What `read` makes of a string; null counts as left out.
    pub(super) fn string<T>(
        &self,
        key: Key,
        read: impl FnOnce(&str) -> T,
    ) -> Result<Option<T>, Fault> {
        match self {
            Self::Null => Ok(None),
            Self::String(text) => Ok(Some(read(text))),
            other => Err(other.fault(Some(key), "a string")),
        }
    }

    /// A whole number, which may be written as 1.0; null counts as left out. One past 64 bits counts as `u64::MAX`.
    pub(super) fn whole(&self, key: Key) -> Result<Option<u64>, Fault> {
        match self {
            Self::Null => Ok(None),
            Self::Whole(number) => Ok(Some(*number)),
            Self::Number(number) if *number >= 0.0 && number.fract() == 0.0 => {
                Ok(Some(*number as u64))
            }
            Self::Number(_) => Err(Fault::new(key, "must be a whole number, 0 or more")),
            other => Err(other.fault(Some(key), "a whole number")),
        }
    }

    pub(super) fn fault(&self, key: Option<Key>, text: &'static str) -> Fault {
        let kind = match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Whole(_) | Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        };
        Fault {
            places: [None; 2],
            key,
            text,
            kind: Some(kind),
        }
    }
}

pub(super) fn bytes_of(value: &Json<'_>) -> u64 {
    value.bytes()
}

/// The bytes of a string as JSON, with as few escapes as there must be.
fn quoted_bytes(text: &str) -> u64 {
    let has_escapes = |byte| matches!(byte, b'"' | b'\\' | 0..0x20);
    if !text.bytes().any(has_escapes) {
        return 2 + text.len() as u64;
    }
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    });
    2 + bytes.sum::<u64>()
}

/// Makes something of a value.
pub(super) trait ValueVisitor: Sized {
    type Output;

    fn value(self, value: &Json<'_>) -> Self::Output;

    fn list<'b, A: SeqAccess<'b>>(self, mut list: A) -> Result<Self::Output, A::Error> {
        // Each comma is counted, the last one with the second bracket.
        let mut bytes = 2;
        while let Some(value) = list.next_element_seed(ValueSeed(bytes_of))? {
            bytes += 1 + value;
        }
        Ok(self.value(&Json::Array(bytes)))
    }

    fn object<'b, A: MapAccess<'b>>(self, mut object: A) -> Result<Self::Output, A::Error> {
        let mut bytes = 2;
        while let Some(key) = object.next_key_seed(ValueSeed(bytes_of))? {
            bytes += key + 2 + object.next_value_seed(ValueSeed(bytes_of))?;
        }
        Ok(self.value(&Json::Object(bytes)))
    }
}

impl<T, F: FnOnce(&Json<'_>) -> T> ValueVisitor for F {
    type Output = T;

    fn value(self, value: &Json<'_>) -> T {
        self(value)
    }
}

/// Has a value visited.
pub(super) struct ValueSeed<V>(pub(super) V);

impl<'b, V: ValueVisitor> DeserializeSeed<'b> for ValueSeed<V> {
    type Value = V::Output;

    fn deserialize<D: Deserializer<'b>>(self, deserializer: D) -> Result<V::Output, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'b, V: ValueVisitor> Visitor<'b> for ValueSeed<V> {
    type Value = V::Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<V::Output, E> {
        Ok(self.0.value(&Json::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<V::Output, E> {
        Ok(self.0.value(&Json::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<V::Output, E> {
        Ok(self.0.value(&Json::Whole(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<V::Output, E> {
        Ok(self.0.value(&Json::Number(value as f64)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<V::Output, E> {
        Ok(self.0.value(&Json::Number(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<V::Output, E> {
        Ok(self.0.value(&Json::String(value)))
    }

    fn visit_seq<A: SeqAccess<'b>>(self, list: A) -> Result<V::Output, A::Error> {
        self.0.list(list)
    }

    fn visit_map<A: MapAccess<'b>>(self, object: A) -> Result<V::Output, A::Error> {
        self.0.object(object)
    }
}
