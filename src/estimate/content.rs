//! The lists of a body: messages, items, their parts, and tools.

use enum_map::EnumMap;
use serde::de::{IgnoredAny, MapAccess, SeqAccess};

use super::{
    input::{FieldName, Input, UniqueField},
    json::{Json, ValueSeed, ValueVisitor},
    key::Key,
};

/// An element of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementKind {
    /// A message of a Chat Completions request.
    Message,
    /// An item of a Responses request.
    Item,
    /// A part of a content.
    Part,
    /// A tool. Its bytes are not added to the input: it counts as JSON, with its list.
    Tool,
}

/// The `type` of a part, an item or a tool.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ContentType {
    TextPart,
    ImagePart,
    /// It has fewer tokens than bytes.
    AudioPart,
    /// An item of a Responses request that holds all of its content.
    WholeItem,
    /// The same, if it holds its text or its encrypted text. Otherwise the provider has stored it.
    Reasoning,
    /// A tool that the client runs.
    ClientTool,
    /// It may stand for more than it holds, as a file of any number of pages, a compacted conversation, the reference
    /// to an item, or the call of a hosted tool.
    #[default]
    Other,
}

impl ContentType {
    fn of(name: &str) -> Self {
        match name {
            "text" | "input_text" | "output_text" | "refusal" | "summary_text"
            | "reasoning_text" => Self::TextPart,
            "image_url" | "input_image" => Self::ImagePart,
            "input_audio" => Self::AudioPart,
            "message"
            | "function_call"
            | "function_call_output"
            | "custom_tool_call"
            | "custom_tool_call_output" => Self::WholeItem,
            "reasoning" => Self::Reasoning,
            "function" | "custom" => Self::ClientTool,
            _ => Self::Other,
        }
    }
}

/// The size of a value.
pub(super) struct Size {
    /// Its bytes as JSON.
    pub(super) json: u64,
    /// Its bytes, of a string as such.
    text: u64,
    is_null: bool,
}

impl Size {
    fn of(value: &Json<'_>) -> Self {
        let json = value.bytes();
        let text = match value {
            Json::String(text) => text.len() as u64,
            _ => json,
        };
        Self {
            json,
            text,
            is_null: value.is_null(),
        }
    }
}

/// Reads the list that a field has, and adds to the input what it holds.
pub(super) struct List<'i> {
    pub(super) key: Key,
    pub(super) of: ElementKind,
    pub(super) input: &'i mut Input,
}

impl ValueVisitor for List<'_> {
    type Output = Size;

    /// What may be there instead of a list.
    fn value(self, value: &Json<'_>) -> Size {
        use ElementKind::{Item, Part, Tool};
        match (self.of, value) {
            (Item | Part | Tool, Json::Null) => {}
            (Item | Part, Json::String(text)) => {
                self.input.bytes += text.len() as u64;
                self.input.messages += u64::from(self.of == Item);
            }
            _ => {
                let wanted = match self.of {
                    Part => "a string or a list of parts",
                    _ => "a list",
                };
                self.input.note(value.fault(Some(self.key), wanted));
            }
        }
        Size::of(value)
    }

    fn list<'b, A: SeqAccess<'b>>(self, mut list: A) -> Result<Size, A::Error> {
        let Self { key, of, input } = self;
        let mut bytes = 2;
        for index in 0.. {
            if input.fault.is_some() {
                // After a fault it only matters whether the rest is JSON.
                while list.next_element::<IgnoredAny>()?.is_some() {}
                break;
            }
            let element = ElementVisitor(&mut Element::new(of), input);
            let Some(element) = list.next_element_seed(ValueSeed(element))? else {
                break;
            };
            bytes += 1 + element;
            if let Some(fault) = &mut input.fault {
                *fault = fault.within(key, index);
            }
        }
        Ok(Size::of(&Json::Array(bytes)))
    }
}

/// What was read of an element.
struct Element {
    kind: ElementKind,
    content_type: UniqueField<ContentType>,
    /// The fields whose meaning depends on the type: what they hold if they are contents or text, and their bytes as
    /// JSON, which count otherwise.
    contents: Input,
    contents_json: u64,
    image_json: u64,
    /// The fields that it has, and whether they are never null.
    has: EnumMap<Key, Option<bool>>,
}

impl Element {
    fn new(kind: ElementKind) -> Self {
        Self {
            kind,
            content_type: UniqueField::default(),
            contents: Input::default(),
            contents_json: 0,
            image_json: 0,
            has: EnumMap::default(),
        }
    }

    /// Reads a field, and returns the bytes of its value as JSON.
    fn field<'b, A: MapAccess<'b>>(
        &mut self,
        name: &FieldName,
        object: &mut A,
        input: &mut Input,
    ) -> Result<u64, A::Error> {
        use ElementKind::{Item, Message, Part, Tool};
        let (kind, key) = (self.kind, name.key);
        let has_parts = match kind {
            Message => key == Key::Content,
            Item => matches!(key, Key::Content | Key::Output | Key::Summary),
            Part | Tool => false,
        };
        let size = match has_parts {
            true => object.next_value_seed(ValueSeed(List {
                key,
                of: Part,
                input: &mut self.contents,
            }))?,
            false => object.next_value_seed(ValueSeed(|value: &Json<'_>| {
                if key == Key::Type && kind != Message {
                    let content_type = value.string(key, ContentType::of);
                    self.content_type.set(key, content_type, input);
                }
                Size::of(value)
            }))?,
        };
        let json = name.bytes + size.json;
        match (kind, key) {
            (Tool, _) => {}
            _ if has_parts => self.contents_json += json,
            (Part, Key::Text | Key::Refusal) => {
                self.contents.bytes += size.text;
                self.contents_json += json;
            }
            (Part, Key::ImageUrl) => self.image_json += json,
            (Message | Item, Key::Role) | (Item | Part, Key::Type) => input.bytes += size.text,
            _ => input.bytes += json,
        }
        // An answer in audio, by its id.
        let is_reference = matches!((kind, key), (Message, Key::Audio) | (Part, Key::FileId));
        input.has_references |= is_reference && !size.is_null;
        let has = &mut self.has[key];
        *has = Some(*has != Some(false) && !size.is_null);
        Ok(size.json)
    }

    /// Adds what depends on several fields.
    fn end(&self, input: &mut Input) {
        let content_type = self.content_type.value;
        let has = |key| self.has[key] == Some(true);
        let has_contents = match (self.kind, content_type) {
            (ElementKind::Item, None) => has(Key::Role),
            (ElementKind::Item, Some(it)) => {
                matches!(it, ContentType::WholeItem | ContentType::Reasoning)
            }
            (ElementKind::Part, it) => it == Some(ContentType::TextPart),
            (ElementKind::Message | ElementKind::Tool, _) => true,
        };
        match has_contents {
            true => input.add(self.contents),
            false => input.bytes += self.contents_json,
        }
        match (self.kind, content_type) {
            (ElementKind::Message, _) => input.messages += 1,
            (ElementKind::Item, it) => {
                let is_stored = it == Some(ContentType::Reasoning)
                    && !has(Key::Content)
                    && !has(Key::EncryptedContent);
                input.messages += 1;
                input.has_references |= !has_contents || is_stored;
            }
            (ElementKind::Part, Some(ContentType::ImagePart)) => input.images += 1,
            (ElementKind::Part, it) => {
                let is_audio = it == Some(ContentType::AudioPart);
                input.bytes += self.image_json;
                input.has_references |= !has_contents && !is_audio;
            }
            (ElementKind::Tool, Some(ContentType::ClientTool)) => input.has_client_tools = true,
            (ElementKind::Tool, _) => input.has_hosted_tools = true,
        }
    }
}

/// Reads an element, and returns its bytes as JSON.
struct ElementVisitor<'i>(&'i mut Element, &'i mut Input);

impl ValueVisitor for ElementVisitor<'_> {
    type Output = u64;

    fn value(self, value: &Json<'_>) -> u64 {
        self.1.note(value.fault(None, "an object"));
        value.bytes()
    }

    fn object<'b, A: MapAccess<'b>>(self, mut object: A) -> Result<u64, A::Error> {
        let mut bytes = 2;
        while let Some(name) = object.next_key_seed(ValueSeed(FieldName::of))? {
            bytes += name.bytes + self.0.field(&name, &mut object, self.1)?;
        }
        self.0.end(self.1);
        Ok(bytes)
    }
}
