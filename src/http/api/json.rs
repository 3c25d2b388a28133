//! Messages as protobuf's JSON.

use std::{collections::HashSet, fmt};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json};

pub(super) const MEDIA_TYPE: &str = "application/json";

/// The text of an error is at most this long: it may repeat what the caller sent.
const MAX_ERROR_CHARS: usize = 300;

/// Integers up to this have an exact double.
const MAX_EXACT_DOUBLE: f64 = 9_007_199_254_740_992.0;

/// All fields, with 64-bit integers as numbers: no counter passes 2^53 − 1.
const OPTIONS: SerializeOptions = SerializeOptions::new()
    .stringify_64_bit_integers(false)
    .skip_default_fields(false);

/// The entries of an object, with repeated names.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object such as {\"org\": \"org-acme\"}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Parses a message. An error names the field.
pub(super) fn parse(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, String> {
    let Entries(entries) = serde_json::from_slice(text).map_err(|error| {
        let error = format!(
            "the body is not the JSON of a {}: {error}",
            descriptor.name()
        );
        shortened(error)
    })?;
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut seen = HashSet::new();
    for (name, value) in entries {
        let field = descriptor.get_field_by_json_name(&name);
        let field = field.or_else(|| descriptor.get_field_by_name(&name));
        let field = field.ok_or_else(|| {
            let message = descriptor.name();
            shortened(format!(
                "{name:?} is an unknown field: a {message} has none such"
            ))
        })?;
        if !seen.insert(field.number()) {
            return Err(format!("{}: is given twice", field.name()));
        }
        set(&mut message, &field, value)
            .map_err(|fault| shortened(format!("{}: {fault}", field.name())))?;
    }
    Ok(message)
}

/// Sets a field to a value. `null` sets nothing.
fn set(message: &mut DynamicMessage, field: &FieldDescriptor, value: Value) -> Result<(), String> {
    let is_float = matches!(field.kind(), Kind::Double | Kind::Float);
    let double = value.as_f64().filter(|_| value.is_f64() && !is_float);
    if double.is_some_and(|double| double.abs() > MAX_EXACT_DOUBLE) {
        return Err("is out of range, or no exact integer".to_owned());
    }
    let alone = json!({field.json_name(): value});
    let alone = DynamicMessage::deserialize(field.parent_message().clone(), alone);
    let alone = alone.map_err(|error| error.to_string())?;
    if alone.has_field(field) {
        message.set_field(field, alone.get_field(field).into_owned());
    }
    Ok(())
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_ERROR_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The text of an encoded message.
pub(super) fn text(descriptor: &MessageDescriptor, encoded: &[u8]) -> Result<Vec<u8>, String> {
    let message = DynamicMessage::decode(descriptor.clone(), encoded);
    let message = message.map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &OPTIONS)
        .map_err(|error| error.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::grpc::proto::DESCRIPTORS;

    fn descriptor(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        let name = format!("tollgate.v1.{name}");
        pool.get_message_by_name(&name).expect("a message")
    }

    /// The tokens of a ReserveRequest, or the error.
    fn tokens(value: &str) -> Result<u64, String> {
        let text = format!("{{\"tokens\": {value}}}");
        let message = parse(&descriptor("ReserveRequest"), text.as_bytes())?;
        let tokens = message.get_field_by_name("tokens").expect("a field");
        Ok(tokens.as_u64().expect("a number"))
    }

    #[test]
    fn integers_are_exact_up_to_the_largest_and_beyond_it_an_error_names_the_field() {
        for (value, wanted) in [
            ("9007199254740993", 9_007_199_254_740_993),
            ("\"9007199254740993\"", 9_007_199_254_740_993),
            ("18446744073709551615", u64::MAX),
            ("\"18446744073709551615\"", u64::MAX),
            ("1.0", 1),
            ("1e3", 1_000),
            ("9007199254740992.0", 9_007_199_254_740_992),
            ("null", 0),
            ("-0", 0),
        ] {
            assert_eq!(tokens(value), Ok(wanted), "{value}");
        }
        for value in [
            "18446744073709551616",
            "\"18446744073709551616\"",
            "1e19",
            "1e300",
            "9007199254740994.0",
            "1.5",
            "-1",
            "\"-1\"",
            "\"1e3\"",
            "\"\"",
            "\" 1\"",
            "true",
            "[1]",
            "{}",
        ] {
            let error = tokens(value).expect_err(value);
            assert!(error.starts_with("tokens: "), "{value}: {error}");
        }
        assert!(tokens("1e400").is_err_and(|it| it.contains("number out of range")));
    }

    #[test]
    fn both_names_of_a_field_are_known_and_one_of_them_may_be_given_once() {
        let parse = |text: &str| parse(&descriptor("ReserveRequest"), text.as_bytes());
        for name in ["request_id", "requestId"] {
            let message = parse(&format!("{{\"{name}\": \"a\"}}")).expect("a message");
            let id = message.get_field_by_name("request_id").expect("a field");
            assert_eq!(id.as_str(), Some("a"));
        }
        for text in [
            "{\"request_id\": \"a\", \"requestId\": \"a\"}",
            "{\"requestId\": \"a\", \"requestId\": null}",
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error, "request_id: is given twice");
        }
        for name in ["requestID", "REQUEST_ID", "tokns", ""] {
            let error = parse(&format!("{{\"{name}\": 1}}")).expect_err(name);
            assert!(
                error.starts_with(&format!("{name:?} is an unknown field")),
                "{error}"
            );
        }
    }

    #[test]
    fn an_answer_has_all_its_fields_with_their_names_in_json() {
        let text = text(&descriptor("PoolQuota"), &[])
            .map_err(|_| ())
            .expect("a text");
        let text: Value = serde_json::from_slice(&text).expect("JSON");
        let wanted = json!({
            "pool": "", "allowance": 0, "used": 0, "remaining": 0, "billedTokens": 0,
            "freeRequests": 0, "billedRequests": 0, "heldTokens": 0, "closed": false,
            "marginTokens": 0, "externalTokens": 0, "shares": [],
        });
        assert_eq!(text, wanted);
    }

    #[test]
    fn an_error_is_short() {
        let text = format!("{{\"tokens\": \"{}\"}}", "é".repeat(60_000));
        let error = parse(&descriptor("ReserveRequest"), text.as_bytes()).expect_err("no number");
        assert!(error.chars().count() <= MAX_ERROR_CHARS + 1, "{error}");
    }
}
