//! Dynamic metadata: what Check gives to the access log, and what Envoy's filters say about usage.

use std::collections::BTreeMap;

use prost::Name;
use prost_types::{Any, Struct, Value, value::Kind};

use super::{
    outcome::{ReportedUsage, StreamEnd},
    proto::envoy::{
        config::core::v3::Metadata,
        data::ai::v3::{TokenUsage, token_usage::ExtractionStatus},
    },
    response,
};
use crate::domain::{
    InvalidField, ModelName, OrgId, ProjectId, RequestFields, RequestId, Tokens, Verdict, Workload,
};

/// The namespace under which Envoy publishes the metadata of a Check.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// The key of the reservation in it.
const KEY: &str = "tollgate";

/// A reservation, as Check publishes it and the access log returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublishedReservation {
    pub(super) org: String,
    project: String,
    model: String,
    id: String,
    tokens: u64,
    pub(super) is_free: bool,
}

/// Where Envoy publishes the usage of a response.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UsageSource {
    /// `NAMESPACE`: typed metadata, an `envoy.data.ai.v3.TokenUsage`.
    Typed(String),
    /// `NAMESPACE:KEY`: a number in untyped metadata.
    Untyped {
        /// The namespace, mostly a filter's name.
        namespace: String,
        /// The key of the number of tokens.
        key: String,
    },
}

impl UsageSource {
    /// Reads `NAMESPACE` or `NAMESPACE:KEY`; none if a part is empty.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, key) = match text.split_once(':') {
            None => (text, None),
            Some((namespace, key)) => (namespace, Some(key)),
        };
        if namespace.is_empty() || key.is_some_and(str::is_empty) {
            return None;
        }
        let namespace = namespace.to_owned();
        Some(match key {
            None => Self::Typed(namespace),
            Some(key) => Self::Untyped {
                namespace,
                key: key.to_owned(),
            },
        })
    }

    /// The usage that is published here. Untyped metadata does not say whether all of the response was read, so it
    /// counts only if the exchange ended well.
    fn usage(&self, metadata: &Metadata, end: StreamEnd) -> ReportedUsage {
        match self {
            Self::Typed(namespace) => {
                let usage = metadata.typed_filter_metadata.get(namespace);
                usage.and_then(decode).map_or(ReportedUsage::Missing, typed)
            }
            Self::Untyped { namespace, key } => {
                let values = metadata.filter_metadata.get(namespace);
                let tokens = values.and_then(|values| whole_number(values.fields.get(key)?));
                match (tokens, end) {
                    (None, _) => ReportedUsage::Missing,
                    (Some(tokens), StreamEnd::Clean) => ReportedUsage::Complete(tokens),
                    (Some(_), _) => ReportedUsage::Partial,
                }
            }
        }
    }
}

/// The usage of the first source that has one.
pub(super) fn usage(sources: &[UsageSource], metadata: &Metadata, end: StreamEnd) -> ReportedUsage {
    let usage = sources.iter().map(|source| source.usage(metadata, end));
    let mut found = usage.filter(|usage| *usage != ReportedUsage::Missing);
    found.next().unwrap_or(ReportedUsage::Missing)
}

fn typed(usage: TokenUsage) -> ReportedUsage {
    let tokens = usage.provider_total_tokens.or(usage.total_tokens);
    match (usage.extraction_status(), tokens) {
        (ExtractionStatus::Complete, Some(tokens)) => ReportedUsage::Complete(tokens),
        _ => ReportedUsage::Partial,
    }
}

/// A typed message; none if it is another one, or malformed.
pub(super) fn decode<M: prost::Message + Name + Default>(any: &Any) -> Option<M> {
    any.to_msg().ok()
}

impl PublishedReservation {
    /// The reservation that a Check of this request has published; none if there was no Check, or it reserved nothing.
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        let published = metadata.filter_metadata.get(NAMESPACE)?.fields.get(KEY)?;
        let Some(Kind::StructValue(Struct { fields })) = &published.kind else {
            return None;
        };
        Some(Self {
            org: string(fields.get("org")?)?,
            project: string(fields.get("project")?)?,
            model: string(fields.get("model")?)?,
            id: string(fields.get("id")?)?,
            tokens: whole_number(fields.get("tokens")?)?,
            is_free: string(fields.get("verdict")?)? == response::names(Verdict::Free).0,
        })
    }

    /// Its id and its fields, parsed. The workload is not published.
    pub(super) fn parse(self) -> Result<(RequestId, RequestFields), InvalidField> {
        let fields = RequestFields {
            project: ProjectId::parse(self.project)?,
            model: ModelName::parse(self.model)?,
            tokens: Tokens::of_reserve(self.tokens)?,
            workload: Workload::Inference,
        };
        Ok((RequestId::parse(self.id)?, fields))
    }
}

/// The metadata of a Check: its verdict, and the reservation.
pub(super) fn of_check(
    org: &OrgId,
    id: &RequestId,
    fields: &RequestFields,
    verdict: Verdict,
) -> Struct {
    let text = |text: &str| value(Kind::StringValue(text.to_owned()));
    let (name, reason) = response::names(verdict);
    #[allow(clippy::cast_precision_loss)]
    let tokens = fields.tokens.get() as f64;
    let reservation = BTreeMap::from([
        ("org".to_owned(), text(org.as_str())),
        ("project".to_owned(), text(fields.project.as_str())),
        ("model".to_owned(), text(fields.model.as_str())),
        ("id".to_owned(), text(id.as_str())),
        ("tokens".to_owned(), value(Kind::NumberValue(tokens))),
        ("verdict".to_owned(), text(name)),
        (
            "billed_reason".to_owned(),
            text(&reason.unwrap_or_default()),
        ),
    ]);
    let reservation = value(Kind::StructValue(Struct {
        fields: reservation,
    }));
    Struct {
        fields: BTreeMap::from([(KEY.to_owned(), reservation)]),
    }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn string(value: &Value) -> Option<String> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}

/// A whole number that a double has exactly.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn whole_number(value: &Value) -> Option<u64> {
    let Some(Kind::NumberValue(number)) = value.kind else {
        return None;
    };
    let range = 0.0..=Tokens::MAX.get() as f64;
    (range.contains(&number) && number.fract() == 0.0).then_some(number as u64)
}
