//! Which kind of request it is.

use super::{error::EstimateError, json::read};

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
        let fields = read(body)?;
        let has = |name: &str| fields.iter().any(|(key, _)| key == name);
        Ok(match has("input") && !has("messages") {
            true => Self::Responses,
            false => Self::ChatCompletions,
        })
    }

    /// The field without which a request has nothing to run on.
    pub(super) fn required_field(self) -> Option<&'static str> {
        match self {
            Self::ChatCompletions => Some("messages"),
            Self::Embeddings => Some("input"),
            // A stored prompt or the previous response may be all of it.
            Self::Responses => None,
        }
    }

    /// The fields that state the maximum of the output.
    pub(super) fn output_fields(self) -> &'static [&'static str] {
        match self {
            Self::ChatCompletions => &["max_completion_tokens", "max_tokens"],
            Self::Responses => &["max_output_tokens"],
            Self::Embeddings => &[],
        }
    }
}
