//! The input of an Embeddings request: a text, tokens, or several of either.

use serde::de::SeqAccess;

use super::{
    input::Input,
    json::{Json, ValueSeed, ValueVisitor},
    key::Key,
};

pub(super) struct EmbeddedInput<'i>(pub(super) &'i mut Input);

impl ValueVisitor for EmbeddedInput<'_> {
    type Output = ();

    fn value(self, value: &Json<'_>) {
        self.0.embedded += 1;
        match value {
            Json::String(text) => self.0.bytes += text.len() as u64,
            other => self.0.note(other.fault(Some(Key::Input), "a list")),
        }
    }

    fn list<'b, A: SeqAccess<'b>>(self, mut list: A) -> Result<(), A::Error> {
        let mut read = EmbeddedList {
            input: &mut *self.0,
            index: 0,
            texts: 0,
            first_token: None,
        };
        while list.next_element_seed(ValueSeed(&mut read))?.is_some() {
            read.index += 1;
        }
        let (texts, first_token) = (read.texts, read.first_token);
        match first_token {
            Some(index) if texts > 0 => read.note(index, &Json::Whole(0)),
            _ => self.0.embedded += texts.max(1),
        }
        Ok(())
    }
}

/// Adds to the input what a list holds: texts and lists of tokens, or tokens.
struct EmbeddedList<'i> {
    input: &'i mut Input,
    /// That of the element that is read.
    index: u32,
    /// Texts and lists of tokens so far.
    texts: u64,
    first_token: Option<u32>,
}

impl EmbeddedList<'_> {
    fn note(&mut self, index: u32, value: &Json<'_>) {
        let fault = value.fault(None, "a string or a list of tokens");
        self.input.note(fault.within(Key::Input, index));
    }
}

impl ValueVisitor for &mut EmbeddedList<'_> {
    type Output = ();

    fn value(self, value: &Json<'_>) {
        match value {
            Json::String(text) => {
                self.texts += 1;
                self.input.bytes += text.len() as u64;
            }
            Json::Whole(_) => {
                self.first_token.get_or_insert(self.index);
                self.input.bytes += 1;
            }
            other => self.note(self.index, other),
        }
    }

    fn list<'b, A: SeqAccess<'b>>(self, mut list: A) -> Result<(), A::Error> {
        let mut are_tokens = true;
        let is_token = |value: &Json<'_>| matches!(value, Json::Whole(_));
        while let Some(is_token) = list.next_element_seed(ValueSeed(is_token))? {
            self.input.bytes += 1;
            are_tokens &= is_token;
        }
        self.texts += 1;
        if !are_tokens {
            self.note(self.index, &Json::Array(0));
        }
        Ok(())
    }
}
