//! Why a store did not decide, and what is known of the outcome.

/// Why a store failed. Knows no transport: `grpc` maps it to a status. A reason is one line without secrets; hosts and
/// keys stand in square brackets and are for the log only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    /// The store can't be reached. Nothing was written.
    #[error("the store can't be reached: {reason}")]
    Unreachable { reason: String },
    /// No answer came, so the outcome is unknown. A retry with the same request id reveals it.
    #[error("the store did not answer, the outcome is unknown: {reason}")]
    OutcomeUnknown { reason: String },
    /// The store answered that it can't serve now. Nothing was written.
    #[error("the store refused, {why}: {reason}")]
    Refused { why: RefusalReason, reason: String },
    /// The store answers, but may lose counters (it may evict keys, for example) or is of the wrong kind.
    /// Nothing was written. The reason says how to fix it.
    #[error("the store is unfit: {reason}")]
    Unsuitable { reason: String },
    /// A record or reply can't be read: Tollgate did not write it.
    #[error("the store holds something that is not Tollgate's: {reason}")]
    Corrupt { reason: String },
}

impl StoreError {
    /// The reason for callers: without the hosts and keys in square brackets.
    #[must_use]
    pub fn public_message(&self) -> String {
        let words = match self {
            Self::Unreachable { reason } => format!("it can't be reached: {reason}"),
            Self::OutcomeUnknown { reason } => format!("it does not answer: {reason}"),
            Self::Refused {
                why: RefusalReason::Other,
                reason,
            } => format!("it refuses: {reason}"),
            Self::Refused { why, reason } => format!("{why}: {reason}"),
            Self::Unsuitable { reason } => reason.clone(),
            Self::Corrupt { .. } => "it holds something that is not Tollgate's".to_owned(),
        };
        let mut short = String::new();
        let mut depth = 0_u32;
        for c in words.chars() {
            match c {
                '[' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                ' ' if depth == 0 && short.ends_with(' ') => {}
                c if depth == 0 => short.push(c),
                _ => {}
            }
        }
        short.trim_end().to_owned()
    }
}

/// Why a store that answers refuses to serve now, as its message says. Each of these can pass without a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum RefusalReason {
    #[error("it is full")]
    Full,
    #[error("it can't save what it holds")]
    CannotSave,
    #[error("it is busy")]
    Busy,
    #[error("it is loading")]
    Loading,
    #[error("it is read-only")]
    ReadOnly,
    #[error("it is cut off from its master")]
    CutOff,
    #[error("too few replicas follow it")]
    TooFewReplicas,
    #[error("a part of it is missing")]
    Incomplete,
    #[error("it is being moved")]
    Moving,
    #[error("its user lacks a right")]
    NoRight,
    #[error("it does not accept the user or password")]
    NotLoggedIn,
    #[error("it takes no more connections")]
    TooManyClients,
    #[error("in its own words")]
    Other,
}
