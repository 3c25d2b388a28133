//! An upper bound on the tokens of a request, from its body, before it is dispatched (docs/CONTRACT.md, "Estimate").
//!
//! A token of text has at least one byte, so the bytes of the text bound its tokens. What the body only refers to is
//! bounded by the model's context window, the output by the stated maximum or the model's. No part of a body is in an
//! error's text.

mod body;
mod content;
mod embedded;
mod endpoint;
mod error;
mod input;
mod json;
mod key;

use self::{body::Body, key::Key};
pub use self::{endpoint::Endpoint, error::EstimateError};
use crate::domain::{ModelCapacity, ModelName, Tokens, Workload};

/// What bounds the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EstimateBasis {
    /// The bytes of the text.
    TextBytes,
    /// The model's context window: the request refers to what the body does not hold, or calls hosted tools.
    ContextWindow,
}

/// The most tokens that a request may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// Input and output together: the `tokens` of its Reserve.
    pub tokens: Tokens,
    /// The most that the input counts.
    pub input_tokens: u64,
    /// The most that the output counts, reasoning included.
    pub output_tokens: u64,
    /// What bounds the input.
    pub basis: EstimateBasis,
    /// The model that was asked for.
    pub model: ModelName,
    /// The kind of work: if the request is of several, the first of them that is not covered.
    pub workload: Workload,
    /// Whether the request states the maximum of its output. Otherwise the model's was taken.
    pub output_capped: bool,
}

/// Tokens of every request beside its text: the beginning of the answer, and what precedes tools.
const REQUEST_TOKENS: u64 = 16;

/// Tokens of every message beside its text: its frame, its role, and that it has a name.
const MESSAGE_TOKENS: u64 = 8;

/// Estimates a request from its whole body. `model` takes the place of the body's model; `capacity` knows that of a
/// model, and `covers` which kinds of work the programme covers.
///
/// # Errors
///
/// The body is malformed, or a field that the estimate depends on is missing, of a wrong type, or given twice; or the
/// request may use more than 1,000,000,000 tokens.
pub fn estimate(
    endpoint: Endpoint,
    body: &[u8],
    model: Option<&str>,
    capacity: impl Fn(&str) -> ModelCapacity,
    covers: impl Fn(Workload) -> bool,
) -> Result<Estimate, EstimateError> {
    Body::of(endpoint, body)?.estimate(model, capacity, covers)
}

/// Estimates a request from the beginning of its body. `model` takes the place of the body's model.
///
/// The input is the model's context window, the output the model's maximum, times `n` if that is in the part that was
/// seen. The rest of the body may ask for more: further answers, images, tools, a service tier. So the workload is that
/// of hosted tools, which makes the request BILLED. A request to embeddings has no estimate, since each of its inputs
/// has a context window of its own.
///
/// # Errors
///
/// As for [`estimate`]; also if the body is cut before its model, and `model` is none.
pub fn estimate_partial(
    endpoint: Endpoint,
    prefix: &[u8],
    model: Option<&str>,
    capacity: impl Fn(&str) -> ModelCapacity,
    covers: impl Fn(Workload) -> bool,
) -> Result<Estimate, EstimateError> {
    Body::of_prefix(endpoint, prefix)?.estimate(model, capacity, covers)
}

impl Body {
    fn estimate(
        &self,
        model: Option<&str>,
        capacity: impl Fn(&str) -> ModelCapacity,
        covers: impl Fn(Workload) -> bool,
    ) -> Result<Estimate, EstimateError> {
        let model = model.or(self.model.value.as_deref());
        let model = ModelName::parse(model.ok_or(EstimateError::ModelMissing)?)?;
        let capacity = capacity(model.as_str());
        let choices = self.numbers[Key::N].value.unwrap_or(1);
        if choices == 0 {
            return Err(EstimateError::of_field(Key::N, "must be at least 1"));
        }
        let stated = self.stated_output();
        let of_one = match (self.endpoint, stated) {
            (Endpoint::Embeddings, _) => 0,
            (_, Some((number, _))) => number,
            (_, None) => capacity.max_output,
        };
        let output_tokens = of_one.saturating_mul(choices);
        let (input_tokens, basis) = self.input_tokens(capacity);
        let sum = input_tokens.saturating_add(output_tokens);
        let tokens = Tokens::of_reserve(sum).map_err(|_| {
            let key = match stated {
                _ if choices > 1 => Key::N,
                Some((_, key)) => key,
                None => Key::Model,
            };
            let max = Tokens::MAX_PER_REQUEST;
            let fault = format!("lets the request use {sum} tokens, at most {max} are allowed");
            EstimateError::of_field(key, fault)
        })?;
        Ok(Estimate {
            tokens,
            input_tokens,
            output_tokens,
            basis,
            model,
            workload: self.workload(covers),
            output_capped: stated.is_some(),
        })
    }

    /// The maximum of the output that the request states. The rest of a body may state a larger one.
    fn stated_output(&self) -> Option<(u64, Key)> {
        let numbers = self.numbers.iter().filter(|(key, _)| *key != Key::N);
        let stated = numbers.filter_map(|(key, number)| Some((number.value?, key)));
        stated
            .max_by_key(|(number, _)| *number)
            .filter(|_| !self.is_cut)
    }

    /// The most tokens of the input, and what bounds it. Images come on top of the context window: some models bill an
    /// image for more than it takes of the window.
    fn input_tokens(&self, capacity: ModelCapacity) -> (u64, EstimateBasis) {
        let input = &self.input;
        let window = capacity.context.saturating_mul(input.embedded.max(1));
        let text = REQUEST_TOKENS + MESSAGE_TOKENS * input.messages + input.bytes;
        let (text, basis) = match input.has_references || input.has_hosted_tools {
            true => (window, EstimateBasis::ContextWindow),
            false => (text.min(window), EstimateBasis::TextBytes),
        };
        let images = capacity.image.saturating_mul(input.images);
        (text.saturating_add(images), basis)
    }
}
