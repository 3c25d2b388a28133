//! A request's body as a tree that borrows its strings and keeps keys that are given twice.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::error::EstimateError;

/// A value of a body. Nesting is bounded: `serde_json` refuses a body with more than 128 levels.
#[derive(Debug)]
pub(super) enum Json<'b> {
    Null,
    Bool(bool),
    Whole(u64),
    /// Any other number: with a sign, a fraction or an exponent, or past 64 bits.
    Number(f64),
    String(Cow<'b, str>),
    Array(Vec<Json<'b>>),
    Object(Fields<'b>),
}

/// The fields of an object, in their order.
pub(super) type Fields<'b> = Vec<(Cow<'b, str>, Json<'b>)>;

/// The bytes of the longest number that a double is written as. What a literal has beyond that is counted by
/// [`excess_digits`].
const MAX_NUMBER_BYTES: u64 = 24;

/// Reads a whole body.
pub(super) fn read(body: &[u8]) -> Result<Fields<'_>, EstimateError> {
    let mut fields = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = FieldCollector(&mut fields).deserialize(&mut deserializer);
    let read = read.and_then(|()| deserializer.end());
    read.map_err(malformed)?;
    Ok(fields)
}

/// Reads a body that may be cut off: the fields that are there to their end.
pub(super) fn read_prefix(prefix: &[u8]) -> Result<Fields<'_>, EstimateError> {
    let mut fields = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(prefix);
    match FieldCollector(&mut fields).deserialize(&mut deserializer) {
        Ok(()) => {}
        Err(error) if error.is_eof() => {
            // Digits of it may be missing.
            fields.pop_if(|(_, value)| matches!(value, Json::Whole(_) | Json::Number(_)));
        }
        Err(error) => return Err(malformed(error)),
    }
    Ok(fields)
}

/// The text must not repeat the body. That of a wrong type would.
fn malformed(error: serde_json::Error) -> EstimateError {
    let fault = match error.is_data() {
        true => {
            let (line, column) = (error.line(), error.column());
            format!("must be a JSON object, and is none at line {line} column {column}")
        }
        false => error.to_string(),
    };
    EstimateError::Malformed { fault }
}

/// The bytes that the numbers of a valid body have beyond [`MAX_NUMBER_BYTES`] each: a tree keeps their values, and not
/// how they are written.
pub(super) fn excess_digits(body: &[u8]) -> u64 {
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
            b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E' => {
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
            // Each comma is counted, the last one with the second bracket.
            Self::Array(values) => 2 + values.iter().map(|it| 1 + it.bytes()).sum::<u64>(),
            Self::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| field_bytes(key, value));
                2 + fields.sum::<u64>()
            }
        }
    }

    /// For faults.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Whole(_) | Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// The bytes of a field as compact JSON, with a comma.
pub(super) fn field_bytes(key: &str, value: &Json<'_>) -> u64 {
    quoted_bytes(key) + 2 + value.bytes()
}

/// The bytes of a string as JSON, with as few escapes as there must be.
fn quoted_bytes(text: &str) -> u64 {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    });
    2 + bytes.sum::<u64>()
}

/// Pushes the fields of the outermost object, so that those before an error are there.
struct FieldCollector<'f, 'b>(&'f mut Fields<'b>);

impl<'b> DeserializeSeed<'b> for FieldCollector<'_, 'b> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'b> Visitor<'b> for FieldCollector<'_, 'b> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((JsonString(key), value)) = map.next_entry()? {
            self.0.push((key, value));
        }
        Ok(())
    }
}

/// A string that is borrowed if it has no escapes.
#[derive(Deserialize)]
struct JsonString<'b>(#[serde(borrow)] Cow<'b, str>);

impl<'b> Deserialize<'b> for Json<'b> {
    fn deserialize<D: Deserializer<'b>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'b> Visitor<'b> for JsonVisitor {
    type Value = Json<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Json<'b>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'b>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'b>, E> {
        Ok(Json::Whole(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'b>, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'b>, E> {
        Ok(Json::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'b str) -> Result<Json<'b>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'b>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut list: A) -> Result<Json<'b>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'b>>(self, map: A) -> Result<Json<'b>, A::Error> {
        let mut fields = Vec::new();
        FieldCollector(&mut fields).visit_map(map)?;
        Ok(Json::Object(fields))
    }
}
