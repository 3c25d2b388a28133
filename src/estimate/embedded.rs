//! The input of an Embeddings request: a text, tokens, or several of either.

use serde::de::SeqAccess;

use super::{
    error::Fault,
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
        let input = self.0;
        let (mut texts, mut first_token) = (0, None);
        for index in 0.. {
            let Some(element) = list.next_element_seed(ValueSeed(EmbeddedElement))? else {
                break;
            };
            match element {
                Ok(Some(tokens)) => {
                    texts += 1;
                    input.bytes += tokens;
                }
                Ok(None) => {
                    first_token.get_or_insert(index);
                    input.bytes += 1;
                }
                Err(fault) => input.note(fault.within(Key::Input, index)),
            }
        }
        match first_token {
            Some(index) if texts > 0 => {
                input.note(EmbeddedElement::fault(&Json::Whole(0)).within(Key::Input, index));
            }
            _ => input.embedded += texts.max(1),
        }
        Ok(())
    }
}

/// Reads an element of the input: the most tokens of a text or a list of tokens; none for a token itself.
struct EmbeddedElement;

impl EmbeddedElement {
    fn fault(value: &Json<'_>) -> Fault {
        value.fault(None, "a string or a list of tokens")
    }
}

impl ValueVisitor for EmbeddedElement {
    type Output = Result<Option<u64>, Fault>;

    fn value(self, value: &Json<'_>) -> Self::Output {
        match value {
            Json::String(text) => Ok(Some(text.len() as u64)),
            Json::Whole(_) => Ok(None),
            other => Err(Self::fault(other)),
        }
    }

    fn list<'b, A: SeqAccess<'b>>(self, mut list: A) -> Result<Self::Output, A::Error> {
        let (mut tokens, mut are_tokens) = (0, true);
        let is_token = |value: &Json<'_>| matches!(value, Json::Whole(_));
        while let Some(is_token) = list.next_element_seed(ValueSeed(is_token))? {
            tokens += 1;
            are_tokens &= is_token;
        }
        Ok(match are_tokens {
            true => Ok(Some(tokens)),
            false => Err(Self::fault(&Json::Array(0))),
        })
    }
}
