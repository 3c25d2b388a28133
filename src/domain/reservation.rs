//! What a Reserve with a `request_id` leaves: held, then settled or released, once only.
//!
//! Rules: docs/CONTRACT.md, "Reserve" 5, "Settle" and "Release".

use super::{
    ids::{ModelName, PoolName, ProjectId},
    tokens::Tokens,
    usage::RowChoice,
    verdict::Verdict,
};

/// What kind of work a request is. Unspecified counts as inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Workload {
    Inference,
    HostedTool,
    FineTuning,
    Evaluation,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 4] = [
        Self::Inference,
        Self::HostedTool,
        Self::FineTuning,
        Self::Evaluation,
    ];

    /// The name in the policy's `covered_workloads`, and in the client's `--workload`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::HostedTool => "hosted_tool",
            Self::FineTuning => "fine_tuning",
            Self::Evaluation => "evaluation",
        }
    }
}

/// The fields of a Reserve that must be the same again for its id to give the same answer again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RequestFields {
    pub project: ProjectId,
    pub model: ModelName,
    /// The reserved tokens.
    pub tokens: Tokens,
    pub workload: Workload,
}

/// A remembered Reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// What was asked.
    pub fields: RequestFields,
    /// The verdict of the Reserve.
    pub verdict: Verdict,
    /// The pool, where the request was eligible.
    pub pool: Option<PoolName>,
    /// What became of it.
    pub state: State,
}

/// What became of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its request may be running: it stays counted.
    Held {
        /// Which usage row counts it.
        row: RowChoice,
    },
    /// Its request ran, and was this.
    Settled {
        /// The actual tokens.
        tokens: Tokens,
        /// The verdict on the actual tokens.
        verdict: Verdict,
    },
    /// Its request never ran, or ran elsewhere: it counts nothing.
    Released,
}

/// The fields of a Reserve, as the proto names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RequestField {
    Project,
    Model,
    Tokens,
    Workload,
}

impl RequestField {
    /// Its name in the proto.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Model => "model",
            Self::Tokens => "tokens",
            Self::Workload => "workload",
        }
    }
}

impl RequestFields {
    /// The fields in which another request differs, in the order of [`RequestField`].
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<RequestField> {
        let differs = [
            (RequestField::Project, self.project != other.project),
            (RequestField::Model, self.model != other.model),
            (RequestField::Tokens, self.tokens != other.tokens),
            (RequestField::Workload, self.workload != other.workload),
        ];
        let differs = differs.into_iter().filter(|(_, differs)| *differs);
        differs.map(|(field, _)| field).collect()
    }
}

/// What a caller does about an id that stands for something else.
const SAME_OR_NEW: &str = "a retry sends the same fields; a new attempt needs a new request_id";

fn names(fields: &[RequestField]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
    names.join(", ")
}

/// Why an id can't be used so. Nothing was counted or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Reserve: the id stands for a request with other fields.
    #[error("request_id: was used before with other fields ({}); {SAME_OR_NEW}", names(.differing))]
    OtherFields {
        /// Those that differ.
        differing: Vec<RequestField>,
    },
    /// Settle: the reservation was settled with another amount.
    #[error("request_id: was settled before with other tokens ({settled}); {SAME_OR_NEW}")]
    OtherAmount {
        /// The amount it was settled with.
        settled: Tokens,
    },
    /// Reserve or Settle: the reservation was released. What runs again needs a new id.
    #[error("request_id: was released before; a request that runs again needs a new request_id")]
    Released,
    /// Release: the reservation was settled.
    #[error("request_id: was settled before, and what ran can't be released")]
    Settled,
    /// Settle or Release: there is no such reservation of today or yesterday.
    #[error("request_id: no such reservation of today or yesterday in this organization")]
    UnknownRequestId,
}

/// Whether something is still to be done, or was done before and only has to be said again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<T> {
    /// Not done before; this usage row counts the request.
    Due(RowChoice),
    /// Done before, with this outcome.
    Replay(T),
}

impl Reservation {
    /// The first verdict again, for a Reserve with the same id.
    ///
    /// # Errors
    ///
    /// Other fields, or released before.
    pub fn reserve_again(&self, fields: &RequestFields) -> Result<Verdict, Refusal> {
        let differing = self.fields.differences(fields);
        if !differing.is_empty() {
            return Err(Refusal::OtherFields { differing });
        }
        match self.state {
            State::Held { .. } | State::Settled { .. } => Ok(self.verdict),
            State::Released => Err(Refusal::Released),
        }
    }

    /// Whether a Settle with these actual tokens is due, or a replay with its verdict.
    ///
    /// # Errors
    ///
    /// Settled with another amount before, or released.
    pub fn settle(&self, actual: Tokens) -> Result<Progress<Verdict>, Refusal> {
        match self.state {
            State::Held { row } => Ok(Progress::Due(row)),
            State::Settled { tokens, verdict } if tokens == actual => Ok(Progress::Replay(verdict)),
            State::Settled { tokens, .. } => Err(Refusal::OtherAmount { settled: tokens }),
            State::Released => Err(Refusal::Released),
        }
    }

    /// Whether a Release is due, or a replay.
    ///
    /// # Errors
    ///
    /// Settled before.
    pub fn release(&self) -> Result<Progress<()>, Refusal> {
        match self.state {
            State::Held { row } => Ok(Progress::Due(row)),
            State::Released => Ok(Progress::Replay(())),
            State::Settled { .. } => Err(Refusal::Settled),
        }
    }
}
