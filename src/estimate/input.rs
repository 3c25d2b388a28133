//! What the input of a request is made of.

use super::{
    endpoint::Endpoint,
    error::EstimateError,
    json::{Fields, Json, field_bytes},
};
use crate::domain::Workload;

/// The input of a request: what bounds its tokens.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The bytes of the text, and of all other fields as JSON. A token has at least one byte.
    pub(super) bytes: u64,
    /// Messages and items, which have some tokens of their own.
    pub(super) messages: u64,
    /// Images, which count by the model.
    pub(super) images: u64,
    /// Inputs of an embedding: each has the context window of its own.
    pub(super) embedded: u64,
    /// Whether it has content that is not in the body, or whose tokens its bytes don't bound.
    pub(super) has_references: bool,
    /// Whether it may call tools that the provider hosts.
    pub(super) has_hosted_tools: bool,
    /// Whether it may call tools that the client runs: functions and custom tools.
    pub(super) has_client_tools: bool,
    /// Flex or priority processing, if the request asks for it.
    pub(super) service_tier: Option<Workload>,
}

/// The fields of a body that refer to what the provider has stored.
const STORED: &[&str] = &["previous_response_id", "conversation", "prompt"];

/// The parts of a content that are text.
const TEXT_PARTS: &[&str] = &[
    "text",
    "input_text",
    "output_text",
    "refusal",
    "summary_text",
    "reasoning_text",
];

/// The items of a Responses request that hold all of their content. Others, such as a compacted conversation, the
/// reference to an item, or the call of a hosted tool, stand for more than they hold.
const WHOLE_ITEMS: &[&str] = &[
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
];

/// Whether an item is reasoning that the provider has stored: it holds neither the text nor the encrypted text.
fn is_stored_reasoning(fields: &Fields<'_>) -> Result<bool, EstimateError> {
    let is_reasoning = match single(fields, "type")? {
        Some(kind) => kind.string("type")? == "reasoning",
        None => false,
    };
    let is_held = |key| single(fields, key).map(|it| it.is_some_and(|it| !it.is_null()));
    Ok(is_reasoning && !is_held("encrypted_content")? && !is_held("content")?)
}

impl Input {
    /// Reads the fields of a body.
    pub(super) fn of(endpoint: Endpoint, fields: &Fields<'_>) -> Result<Self, EstimateError> {
        let mut input = Self {
            service_tier: service_tier(fields)?,
            ..Self::default()
        };
        for (key, value) in fields {
            match (endpoint, &**key) {
                (_, "model") => {}
                (Endpoint::ChatCompletions, "messages") => {
                    input.messages(key, value, Self::message)?
                }
                (Endpoint::Responses, "input") => input.items(value)?,
                (Endpoint::Embeddings, "input") => input.embedded(value)?,
                (Endpoint::ChatCompletions | Endpoint::Responses, key) => {
                    input.bytes += field_bytes(key, value);
                    input.has_references |= STORED.contains(&key) && !value.is_null();
                    match key {
                        "tools" => input.tools(value)?,
                        "functions" => input.has_client_tools |= !value.is_empty(),
                        "web_search_options" => input.has_hosted_tools |= !value.is_null(),
                        _ => {}
                    }
                }
                (Endpoint::Embeddings, key) => input.bytes += field_bytes(key, value),
            }
        }
        Ok(input)
    }

    fn messages(
        &mut self,
        key: &str,
        list: &Json<'_>,
        read: fn(&mut Self, &Fields<'_>) -> Result<(), EstimateError>,
    ) -> Result<(), EstimateError> {
        for (index, message) in list.array(key)?.iter().enumerate() {
            self.messages += 1;
            let read = message.object("").and_then(|fields| read(self, fields));
            read.map_err(|error| error.within(&format!("{key}[{index}]")))?;
        }
        Ok(())
    }

    /// A message of a Chat Completions request.
    fn message(&mut self, fields: &Fields<'_>) -> Result<(), EstimateError> {
        for (key, value) in fields {
            match &**key {
                "content" => self.content(key, value)?,
                "role" => self.text(value),
                key => {
                    self.bytes += field_bytes(key, value);
                    // An answer in audio, by its id.
                    self.has_references |= key == "audio" && !value.is_null();
                }
            }
        }
        Ok(())
    }

    /// The input of a Responses request: one text, or items.
    fn items(&mut self, value: &Json<'_>) -> Result<(), EstimateError> {
        match value {
            Json::Null => Ok(()),
            Json::String(text) => {
                self.messages += 1;
                self.bytes += text.len() as u64;
                Ok(())
            }
            value => self.messages("input", value, Self::item),
        }
    }

    fn item(&mut self, fields: &Fields<'_>) -> Result<(), EstimateError> {
        let is_whole = match single(fields, "type")? {
            None => single(fields, "role")?.is_some(),
            Some(kind) => WHOLE_ITEMS.contains(&kind.string("type")?),
        };
        self.has_references |= !is_whole || is_stored_reasoning(fields)?;
        for (key, value) in fields {
            match &**key {
                "content" | "output" | "summary" if is_whole => self.content(key, value)?,
                "role" | "type" => self.text(value),
                key => self.bytes += field_bytes(key, value),
            }
        }
        Ok(())
    }

    fn content(&mut self, key: &str, value: &Json<'_>) -> Result<(), EstimateError> {
        match value {
            Json::Null => {}
            Json::String(text) => self.bytes += text.len() as u64,
            Json::Array(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    let read = part.object("").and_then(|fields| self.part(fields));
                    read.map_err(|error| error.within(&format!("{key}[{index}]")))?;
                }
            }
            other => return Err(other.fault(key, "a string or a list of parts")),
        }
        Ok(())
    }

    fn part(&mut self, fields: &Fields<'_>) -> Result<(), EstimateError> {
        let kind = single(fields, "type")?.map(|kind| kind.string("type"));
        let kind = kind.transpose()?.unwrap_or_default();
        let is_text = TEXT_PARTS.contains(&kind);
        let is_image = matches!(kind, "image_url" | "input_image");
        self.images += u64::from(is_image);
        // A file may have any number of pages. Audio has fewer tokens than bytes.
        self.has_references |= !is_text && !is_image && kind != "input_audio";
        for (key, value) in fields {
            match &**key {
                "type" => self.text(value),
                "text" | "refusal" if is_text => self.text(value),
                "image_url" if is_image => {}
                key => {
                    self.bytes += field_bytes(key, value);
                    self.has_references |= key == "file_id" && !value.is_null();
                }
            }
        }
        Ok(())
    }

    fn tools(&mut self, tools: &Json<'_>) -> Result<(), EstimateError> {
        if tools.is_null() {
            return Ok(());
        }
        for (index, tool) in tools.array("tools")?.iter().enumerate() {
            let kind = tool
                .object("")
                .and_then(|tool| match single(tool, "type")? {
                    Some(kind) => kind.string("type"),
                    None => Ok(""),
                });
            let kind = kind.map_err(|error| error.within(&format!("tools[{index}]")))?;
            match kind {
                "function" | "custom" => self.has_client_tools = true,
                _ => self.has_hosted_tools = true,
            }
        }
        Ok(())
    }

    /// A string as such, anything else as JSON.
    fn text(&mut self, value: &Json<'_>) {
        self.bytes += match value {
            Json::String(text) => text.len() as u64,
            other => other.bytes(),
        };
    }

    /// The input of an Embeddings request: a text, tokens, or several of either.
    fn embedded(&mut self, value: &Json<'_>) -> Result<(), EstimateError> {
        let one = |value: &Json<'_>| match value {
            Json::String(text) => Some(text.len() as u64),
            Json::Array(tokens) => {
                let are_tokens = tokens.iter().all(|it| matches!(it, Json::Whole(_)));
                are_tokens.then_some(tokens.len() as u64)
            }
            _ => None,
        };
        if let Some(tokens) = one(value) {
            self.embedded += 1;
            self.bytes += tokens;
            return Ok(());
        }
        for (index, value) in value.array("input")?.iter().enumerate() {
            let wanted = "a string or a list of tokens";
            let fault = || value.fault(&format!("input[{index}]"), wanted);
            self.embedded += 1;
            self.bytes += one(value).ok_or_else(fault)?;
        }
        Ok(())
    }
}

fn service_tier(fields: &Fields<'_>) -> Result<Option<Workload>, EstimateError> {
    let tier = single(fields, "service_tier")?.map(|it| it.string("service_tier"));
    Ok(match tier.transpose()? {
        Some("flex") => Some(Workload::Flex),
        Some("priority") => Some(Workload::Priority),
        _ => None,
    })
}

/// The value of a field that may be given once; null counts as left out.
pub(super) fn single<'f, 'b>(
    fields: &'f Fields<'b>,
    key: &str,
) -> Result<Option<&'f Json<'b>>, EstimateError> {
    let mut values = fields.iter().filter(|(name, _)| name == key);
    let value = values.next().map(|(_, value)| value);
    if values.next().is_some() {
        return Err(EstimateError::of_field(key, "is given twice"));
    }
    Ok(value.filter(|value| !value.is_null()))
}

impl<'b> Json<'b> {
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Array(values) => values.is_empty(),
            other => other.is_null(),
        }
    }

    fn array(&self, field: &str) -> Result<&[Json<'b>], EstimateError> {
        match self {
            Self::Array(values) => Ok(values),
            other => Err(other.fault(field, "a list")),
        }
    }

    fn object(&self, field: &str) -> Result<&Fields<'b>, EstimateError> {
        match self {
            Self::Object(fields) => Ok(fields),
            other => Err(other.fault(field, "an object")),
        }
    }

    pub(super) fn string(&self, field: &str) -> Result<&str, EstimateError> {
        match self {
            Self::String(text) => Ok(text),
            other => Err(other.fault(field, "a string")),
        }
    }

    /// A whole number, which may be written as 1.0. One past 64 bits is the largest of them.
    pub(super) fn whole(&self, field: &str) -> Result<u64, EstimateError> {
        match self {
            Self::Whole(number) => Ok(*number),
            Self::Number(number) if *number >= 0.0 && number.fract() == 0.0 => Ok(*number as u64),
            Self::Number(_) => {
                let fault = "must be a whole number, 0 or more";
                Err(EstimateError::of_field(field, fault))
            }
            other => Err(other.fault(field, "a whole number")),
        }
    }

    fn fault(&self, field: &str, wanted: &str) -> EstimateError {
        EstimateError::of_field(field, format!("must be {wanted}, and is {}", self.kind()))
    }
}
