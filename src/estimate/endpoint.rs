//! Which kind of request it is.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use super::{error::EstimateError, json::malformed, key::Key};

/// The kinds of requests that have an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `…/chat/completions`
    ChatCompletions,
    /// `…/responses`
    Responses,
    /// `…/embeddings`
    Embeddings,
}

/// Characters of a path that an error repeats.
const MAX_PATH_CHARS: usize = 100;

impl Endpoint {
    /// The endpoint of a request, by the end of its path. A query and a final slash are ignored.
    ///
    /// # Errors
    ///
    /// The path is that of another endpoint.
    pub fn of_path(path: &str) -> Result<Self, EstimateError> {
        let end = path.split('?').next().unwrap_or_default();
        let end = end.strip_suffix('/').unwrap_or(end);
        let endpoints = [
            ("/chat/completions", Self::ChatCompletions),
            ("/responses", Self::Responses),
            ("/embeddings", Self::Embeddings),
        ];
        let found = endpoints.into_iter().find(|(it, _)| end.ends_with(it));
        let path = || path.chars().take(MAX_PATH_CHARS).collect();
        found
            .map(|(_, endpoint)| endpoint)
            .ok_or_else(|| EstimateError::UnknownPath { path: path() })
    }

    /// The endpoint that a body is probably for: Responses if it has `input` and no `messages`, otherwise Chat
    /// Completions.
    ///
    /// # Errors
    ///
    /// The body is no JSON object.
    pub fn of_body(body: &[u8]) -> Result<Self, EstimateError> {
        let fields: BTreeMap<String, IgnoredAny> =
            serde_json::from_slice(body).map_err(malformed)?;
        let has = |name| fields.contains_key(name);
        Ok(match has("input") && !has("messages") {
            true => Self::Responses,
            false => Self::ChatCompletions,
        })
    }

    /// The field without which a request has nothing to run on.
    pub(super) fn required_field(self) -> Option<Key> {
        match self {
            Self::ChatCompletions => Some(Key::Messages),
            Self::Embeddings => Some(Key::Input),
            // A stored prompt or the previous response may be all of it.
            Self::Responses => None,
        }
    }

    /// The fields whose numbers bound the output.
    pub(super) fn numbers(self) -> &'static [Key] {
        match self {
            Self::ChatCompletions => &[Key::N, Key::MaxCompletionTokens, Key::MaxTokens],
            Self::Responses => &[Key::MaxOutputTokens],
            Self::Embeddings => &[],
        }
    }
}
