//! What the input of a request is made of.

use super::{error::Fault, json::Json, key::Key};

/// The input of a request: what bounds its tokens.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Input {
    /// The bytes of the text, and of all other fields as JSON. A token has at least one byte.
    pub(super) bytes: u64,
    /// Messages and items, which have some tokens of their own.
    pub(super) messages: u64,
    /// Images, which count by the model.
    pub(super) images: u64,
    /// Inputs of an embedding: each has a context window of its own.
    pub(super) embedded: u64,
    /// Whether it has content that is not in the body, or whose tokens its bytes don't bound.
    pub(super) has_references: bool,
    /// Whether it may call tools that the provider hosts.
    pub(super) has_hosted_tools: bool,
    /// Whether it may call tools that the client runs: functions and custom tools.
    pub(super) has_client_tools: bool,
    /// The first thing that is wrong with it.
    pub(super) fault: Option<Fault>,
}

impl Input {
    pub(super) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.messages += other.messages;
        self.images += other.images;
        self.embedded += other.embedded;
        self.has_references |= other.has_references;
        self.has_hosted_tools |= other.has_hosted_tools;
        self.has_client_tools |= other.has_client_tools;
        if let Some(fault) = other.fault {
            self.note(fault);
        }
    }

    /// Keeps the first fault.
    pub(super) fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }
}

/// A field that may be given once; null counts as left out.
#[derive(Debug, Default, Clone)]
pub(super) struct UniqueField<T> {
    is_given: bool,
    pub(super) value: Option<T>,
}

impl<T> UniqueField<T> {
    pub(super) fn set(&mut self, key: Key, value: Result<Option<T>, Fault>, input: &mut Input) {
        match value {
            _ if self.is_given => input.note(Fault::new(key, "is given twice")),
            Ok(value) => self.value = value,
            Err(fault) => input.note(fault),
        }
        self.is_given = true;
    }
}

/// The name of a field.
pub(super) struct FieldName {
    pub(super) key: Key,
    /// Its bytes as JSON, with colon and comma.
    pub(super) bytes: u64,
}

impl FieldName {
    pub(super) fn of(name: &Json<'_>) -> Self {
        let key = match name {
            Json::String(name) => name.parse().unwrap_or(Key::Other),
            _ => Key::Other,
        };
        let bytes = name.bytes() + 2;
        Self { key, bytes }
    }
}
