//! An upper bound on the tokens of a request, from its body, before it is dispatched (docs/CONTRACT.md, "Estimate").
//!
//! A token of text has at least one byte, so the bytes of the text bound its tokens. What the body only refers to is
//! bounded by the model's context window, the output by the stated maximum or the model's. No part of a body is in an
//! error's text.

mod endpoint;
mod error;
mod input;
mod json;

pub use self::{endpoint::Endpoint, error::EstimateError};
use self::{
    input::{Input, single},
    json::Fields,
};
use crate::domain::{ModelCapacity, ModelName, Tokens, Workload};

/// What bounds the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EstimateBasis {
    /// The bytes of the text.
    TextBytes,
    /// The model's context window: the request refers to what the body does not hold, or calls hosted tools.
    ContextWindow,
    /// The size of a body of which only the beginning is known.
    BodySize,
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
    let fields = json::read(body)?;
    if let Some(required) = endpoint.required_field()
        && !fields.iter().any(|(key, _)| key == required)
    {
        return Err(EstimateError::of_field(required, "is missing"));
    }
    let model = model_name(&fields, model)?;
    let capacity = capacity(model.as_str());
    let input = Input::of(endpoint, &fields)?;
    let bytes = input.bytes + json::excess_digits(body);
    let text = bytes + REQUEST_TOKENS + MESSAGE_TOKENS * input.messages;
    let (input_tokens, basis) = input.tokens(text, EstimateBasis::TextBytes, capacity);
    let output = Output::of(endpoint, &fields, capacity)?;
    let workload = input.workload(covers);
    output.estimate(input_tokens, basis, model, workload)
}

/// Estimates a request from the beginning of its body, which is `size` bytes long (`u64::MAX` if that is not known).
/// `model` takes the place of the body's model.
///
/// The input goes by the size, the output by the model's maximum, times `n` if that is in the part that was seen. What
/// the rest of the body may hold besides text is not in the estimate: `n`, images, tools, the service tier, and
/// references to stored content.
///
/// # Errors
///
/// As for [`estimate`]; also if the body is cut before its model, and `model` is none.
pub fn estimate_partial(
    endpoint: Endpoint,
    prefix: &[u8],
    size: u64,
    model: Option<&str>,
    capacity: impl Fn(&str) -> ModelCapacity,
    covers: impl Fn(Workload) -> bool,
) -> Result<Estimate, EstimateError> {
    let fields = json::read_prefix(prefix)?;
    let model = model_name(&fields, model)?;
    let capacity = capacity(model.as_str());
    let mut input = Input::of(endpoint, &fields)?;
    if endpoint == Endpoint::Embeddings {
        // As many as there is room for.
        input.embedded = u64::MAX;
    }
    let size = size.max(prefix.len() as u64).saturating_add(REQUEST_TOKENS);
    let (input_tokens, basis) = input.tokens(size, EstimateBasis::BodySize, capacity);
    let output = Output {
        stated: None,
        ..Output::of(endpoint, &fields, capacity)?
    };
    let workload = input.workload(covers);
    output.estimate(input_tokens, basis, model, workload)
}

/// The model that the caller names, otherwise the body's.
fn model_name(fields: &Fields<'_>, model: Option<&str>) -> Result<ModelName, EstimateError> {
    let in_body = single(fields, "model")?.map(|it| it.string("model"));
    let model = model.or(in_body.transpose()?);
    Ok(ModelName::parse(model.ok_or(EstimateError::ModelMissing)?)?)
}

impl Input {
    /// The most tokens of the input, if its text has at most `text`, and what bounds it. Images come on top of the
    /// context window: some models bill an image for more than it takes of the window.
    fn tokens(
        &self,
        text: u64,
        basis: EstimateBasis,
        capacity: ModelCapacity,
    ) -> (u64, EstimateBasis) {
        let window = capacity.context.saturating_mul(self.embedded.max(1));
        let (text, basis) = match self.has_references || self.has_hosted_tools {
            true => (window, EstimateBasis::ContextWindow),
            false => (text.min(window), basis),
        };
        let images = capacity.image.saturating_mul(self.images);
        (text.saturating_add(images), basis)
    }

    /// The kind of work. Of several kinds, one that is not covered decides: the whole request is billed then.
    fn workload(&self, covers: impl Fn(Workload) -> bool) -> Workload {
        let kinds = [
            self.has_hosted_tools.then_some(Workload::HostedTool),
            self.has_client_tools.then_some(Workload::FunctionCalling),
            self.service_tier,
        ];
        let mut kinds = kinds.into_iter().flatten();
        let first = kinds.clone().next().unwrap_or(Workload::Inference);
        kinds.find(|kind| !covers(*kind)).unwrap_or(first)
    }
}

/// What bounds the output.
struct Output {
    /// How many answers are asked for.
    choices: u64,
    /// The maximum that the request states, and the name of its field.
    stated: Option<(u64, &'static str)>,
    /// The model's maximum; 0 for an embedding.
    of_model: u64,
}

impl Output {
    fn of(
        endpoint: Endpoint,
        fields: &Fields<'_>,
        capacity: ModelCapacity,
    ) -> Result<Self, EstimateError> {
        let number = |key| {
            let value = single(fields, key)?.map(|it| it.whole(key));
            value.transpose()
        };
        let choices = match endpoint {
            Endpoint::ChatCompletions => number("n")?.unwrap_or(1),
            Endpoint::Responses | Endpoint::Embeddings => 1,
        };
        if choices == 0 {
            return Err(EstimateError::of_field("n", "must be at least 1"));
        }
        let mut stated = None;
        for field in endpoint.output_fields() {
            stated = stated.max(number(field)?.map(|number| (number, *field)));
        }
        let of_model = match endpoint {
            Endpoint::ChatCompletions | Endpoint::Responses => capacity.max_output,
            Endpoint::Embeddings => 0,
        };
        Ok(Self {
            choices,
            stated,
            of_model,
        })
    }

    fn estimate(
        &self,
        input_tokens: u64,
        basis: EstimateBasis,
        model: ModelName,
        workload: Workload,
    ) -> Result<Estimate, EstimateError> {
        let of_one = self.stated.map_or(self.of_model, |(number, _)| number);
        let output_tokens = of_one.saturating_mul(self.choices);
        let sum = input_tokens.saturating_add(output_tokens);
        let tokens = Tokens::of_reserve(sum).map_err(|_| {
            let field = match self.stated {
                _ if self.choices > 1 => "n",
                Some((_, field)) => field,
                None => "model",
            };
            let max = Tokens::MAX_PER_REQUEST;
            let fault = format!("lets the request use {sum} tokens, at most {max} are allowed");
            EstimateError::of_field(field, fault)
        })?;
        Ok(Estimate {
            tokens,
            input_tokens,
            output_tokens,
            basis,
            model,
            workload,
            output_capped: self.stated.is_some(),
        })
    }
}
