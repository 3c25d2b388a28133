//! Reservations: what a Reserve with a `request_id` leaves. Held, then settled or released, once only.
//!
//! Rules: docs/CONTRACT.md, "Reserve" 5, "Settle" and "Release".

use super::{
    ids::{ModelName, PoolName, ProjectId},
    tokens::Tokens,
    usage::RowChoice,
    verdict::Verdict,
};

/// The kind of work of a request. Unspecified is inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Workload {
    Inference,
    HostedTool,
    FineTuning,
    Evaluation,
    Batch,
    FunctionCalling,
    Flex,
    Priority,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 8] = [
        Self::Inference,
        Self::HostedTool,
        Self::FineTuning,
        Self::Evaluation,
        Self::Batch,
        Self::FunctionCalling,
        Self::Flex,
        Self::Priority,
    ];

    /// The name in the policy's `covered_workloads`, and in the client's `--workload`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::HostedTool => "hosted_tool",
            Self::FineTuning => "fine_tuning",
            Self::Evaluation => "evaluation",
            Self::Batch => "batch",
            Self::FunctionCalling => "function_calling",
            Self::Flex => "flex",
            Self::Priority => "priority",
        }
    }
}

/// The fields of a Reserve. A retry with the same id must have the same fields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RequestFields {
    pub project: ProjectId,
    pub model: ModelName,
    /// The reserved tokens.
    pub tokens: Tokens,
    pub workload: Workload,
}

/// What is kept of a Reserve with an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The request.
    pub fields: RequestFields,
    /// The verdict of the Reserve.
    pub verdict: Verdict,
    /// The pool, if the request was eligible.
    pub pool: Option<PoolName>,
    /// Whether it is held, settled or released.
    pub state: ReservationState,
}

/// The state of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationState {
    /// The request may be running. It is counted as reserved.
    Held {
        /// The usage row that counts it.
        row: RowChoice,
        /// Whether the pool of the next day counts it too.
        is_carried: bool,
        /// Whether the share of its project counts it, as far as it is FREE.
        in_share: bool,
    },
    /// The request ran. It is counted with its actual tokens.
    Settled {
        /// The actual tokens.
        tokens: Tokens,
        /// The verdict on the actual tokens. It also says whether the request ran outside the programme.
        verdict: Verdict,
    },
    /// The request never ran. It counts nothing.
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

/// Advice for a caller who used an id twice.
const SAME_OR_NEW: &str = "a retry sends the same fields; a new attempt needs a new request_id";

fn place(outside_program: bool) -> &'static str {
    if outside_program { "outside" } else { "within" }
}

fn names(fields: &[RequestField]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
    names.join(", ")
}

/// Why an id does not allow an operation. Nothing was counted or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Reserve: the id stands for a request with other fields.
    #[error("request_id: was used before with other fields ({}); {SAME_OR_NEW}", names(.differing))]
    OtherFields {
        /// Those that differ.
        differing: Vec<RequestField>,
    },
    /// Settle: the reservation was settled with the other value of `outside_program`.
    #[error("request_id: was settled before {} the programme; {SAME_OR_NEW}", place(*.outside_program))]
    OtherPlace {
        /// The value it was settled with.
        outside_program: bool,
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

/// Whether an operation is due, or was done before.
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
            ReservationState::Held { .. } | ReservationState::Settled { .. } => Ok(self.verdict),
            ReservationState::Released => Err(Refusal::Released),
        }
    }

    /// Whether a Settle with these actual tokens is due, or a replay with its verdict.
    ///
    /// # Errors
    ///
    /// Settled before with the other value of `outside_program`, or with another amount; or released.
    pub fn settle(
        &self,
        actual: Tokens,
        outside_program: bool,
    ) -> Result<Progress<Verdict>, Refusal> {
        match self.state {
            ReservationState::Held { row, .. } => Ok(Progress::Due(row)),
            ReservationState::Settled { verdict, .. }
                if (verdict == Verdict::RAN_OUTSIDE_PROGRAM) != outside_program =>
            {
                Err(Refusal::OtherPlace {
                    outside_program: !outside_program,
                })
            }
            ReservationState::Settled { tokens, verdict } if tokens == actual => {
                Ok(Progress::Replay(verdict))
            }
            ReservationState::Settled { tokens, .. } => {
                Err(Refusal::OtherAmount { settled: tokens })
            }
            ReservationState::Released => Err(Refusal::Released),
        }
    }

    /// Whether a Release is due, or a replay.
    ///
    /// # Errors
    ///
    /// Settled before.
    pub fn release(&self) -> Result<Progress<()>, Refusal> {
        match self.state {
            ReservationState::Held { row, .. } => Ok(Progress::Due(row)),
            ReservationState::Released => Ok(Progress::Replay(())),
            ReservationState::Settled { .. } => Err(Refusal::Settled),
        }
    }
}
