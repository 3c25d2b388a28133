//! What a body says of a request.

use std::fmt;

use enum_map::EnumMap;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::{Deserializer, de::Read};

use super::{
    content::{ElementKind, List, Size},
    embedded::EmbeddedInput,
    endpoint::Endpoint,
    error::EstimateError,
    input::{FieldName, Input, UniqueField},
    json::{Json, ValueSeed, excess_digits, is_of_number, malformed},
    key::Key,
};
use crate::domain::Workload;

/// What an estimate depends on.
pub(super) struct Body {
    pub(super) endpoint: Endpoint,
    /// Whether the end of the body is missing.
    pub(super) is_cut: bool,
    pub(super) model: UniqueField<String>,
    pub(super) input: Input,
    /// `n` and the maximum of the output.
    pub(super) numbers: EnumMap<Key, UniqueField<u64>>,
    /// Flex or priority processing, if the request asks for it.
    service_tier: UniqueField<Option<Workload>>,
    has_required_field: bool,
}

/// The fields that refer to what the provider has stored.
const STORED: [Key; 3] = [Key::PreviousResponseId, Key::Conversation, Key::Prompt];

impl Body {
    /// Reads a whole body.
    pub(super) fn of(endpoint: Endpoint, body: &[u8]) -> Result<Self, EstimateError> {
        let mut read = Self::new(endpoint, false);
        // One check of the whole text instead of one for each string, which takes a third longer.
        match str::from_utf8(body) {
            Ok(text) => read.read_all(Deserializer::from_str(text))?,
            Err(_) => read.read_all(Deserializer::from_slice(body))?,
        }
        read.input.bytes += excess_digits(body);
        match endpoint.required_field() {
            Some(key) if !read.has_required_field => {
                Err(EstimateError::of_field(key, "is missing"))
            }
            _ => read.checked(),
        }
    }

    fn read_all<'b, R: Read<'b>>(
        &mut self,
        mut deserializer: Deserializer<R>,
    ) -> Result<(), EstimateError> {
        let done = deserializer.deserialize_map(&mut *self);
        done.and_then(|()| deserializer.end()).map_err(malformed)
    }

    /// Reads the beginning of a body, to its end. What follows may ask for hosted tools.
    pub(super) fn of_prefix(endpoint: Endpoint, prefix: &[u8]) -> Result<Self, EstimateError> {
        if endpoint == Endpoint::Embeddings {
            return Err(EstimateError::of_field(Key::Input, "is cut"));
        }
        let mut read = Self::new(endpoint, true);
        read.input.has_hosted_tools = true;
        // Digits of the last number may be missing.
        let end = prefix.iter().rposition(|byte| !is_of_number(byte));
        let prefix = &prefix[..end.map_or(0, |last| last + 1)];
        match Deserializer::from_slice(prefix).deserialize_map(&mut read) {
            Err(error) if !error.is_eof() => Err(malformed(error)),
            _ => read.checked(),
        }
    }

    fn new(endpoint: Endpoint, is_cut: bool) -> Self {
        Self {
            endpoint,
            is_cut,
            model: UniqueField::default(),
            input: Input::default(),
            numbers: EnumMap::default(),
            service_tier: UniqueField::default(),
            has_required_field: false,
        }
    }

    fn checked(self) -> Result<Self, EstimateError> {
        match self.input.fault {
            Some(fault) => Err(fault.into()),
            None => Ok(self),
        }
    }

    fn field<'b, A: MapAccess<'b>>(
        &mut self,
        name: &FieldName,
        object: &mut A,
    ) -> Result<(), A::Error> {
        use ElementKind::{Item, Message, Tool};
        use Endpoint::{ChatCompletions, Embeddings, Responses};
        let key = name.key;
        self.has_required_field |= self.endpoint.required_field() == Some(key);
        match (self.endpoint, key) {
            (_, Key::Model) => {
                let read = |value: &Json<'_>| {
                    let model = value.string(key, str::to_owned);
                    self.model.set(key, model, &mut self.input);
                };
                object.next_value_seed(ValueSeed(read))?;
            }
            (ChatCompletions, Key::Messages) => self.list(Message, key, object).map(drop)?,
            (Responses, Key::Input) => self.list(Item, key, object).map(drop)?,
            (Embeddings, Key::Input) => {
                object.next_value_seed(ValueSeed(EmbeddedInput(&mut self.input)))?;
            }
            (ChatCompletions | Responses, Key::Tools) => {
                let tools = self.list(Tool, key, object)?;
                self.input.bytes += name.bytes + tools.json;
            }
            _ => self.other_field(name, object)?,
        }
        Ok(())
    }

    fn list<'b, A: MapAccess<'b>>(
        &mut self,
        of: ElementKind,
        key: Key,
        object: &mut A,
    ) -> Result<Size, A::Error> {
        let input = &mut self.input;
        object.next_value_seed(ValueSeed(List { key, of, input }))
    }

    /// Reads a field that counts as JSON.
    fn other_field<'b, A: MapAccess<'b>>(
        &mut self,
        name: &FieldName,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let key = name.key;
        let read = |value: &Json<'_>| {
            self.input.bytes += name.bytes + value.bytes();
            if self.endpoint.numbers().contains(&key) {
                self.numbers[key].set(key, value.whole(key), &mut self.input);
            }
            if key == Key::ServiceTier {
                let tier = value.string(key, service_tier);
                self.service_tier.set(key, tier, &mut self.input);
            }
            if self.endpoint != Endpoint::Embeddings && !value.is_null() {
                let input = &mut self.input;
                input.has_references |= STORED.contains(&key);
                // A stored prompt may have tools.
                input.has_hosted_tools |= matches!(key, Key::WebSearchOptions | Key::Prompt);
                input.has_client_tools |= key == Key::Functions && !value.is_empty_list();
            }
        };
        object.next_value_seed(ValueSeed(read))
    }

    /// The kind of work. Of several kinds, one that is not covered decides: the whole request is billed then.
    pub(super) fn workload(&self, covers: impl Fn(Workload) -> bool) -> Workload {
        let kinds = [
            self.input.has_hosted_tools.then_some(Workload::HostedTool),
            self.input
                .has_client_tools
                .then_some(Workload::FunctionCalling),
            self.service_tier.value.flatten(),
        ];
        let mut kinds = kinds.into_iter().flatten();
        let first = kinds.clone().next().unwrap_or(Workload::Inference);
        kinds.find(|kind| !covers(*kind)).unwrap_or(first)
    }
}

fn service_tier(name: &str) -> Option<Workload> {
    match name {
        "flex" => Some(Workload::Flex),
        "priority" => Some(Workload::Priority),
        _ => None,
    }
}

impl<'b> Visitor<'b> for &mut Body {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(name) = object.next_key_seed(ValueSeed(FieldName::of))? {
            self.field(&name, &mut object)?;
        }
        Ok(())
    }
}
