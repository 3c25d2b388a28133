//! Why a store did not decide, and what is known of the outcome.

/// Why a store failed. Knows no transport: `grpc` maps it to a status. A reason is one line without secrets; hosts and
/// keys stand in square brackets and are for the log only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store can't be reached. Nothing was written.
    #[error("the store can't be reached: {reason}")]
    Unreachable {
        /// The error of the connection.
        reason: String,
    },
    /// No answer came, so the outcome is unknown. A retry with the same request id reveals it.
    #[error("the store did not answer, the outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// The error of the connection.
        reason: String,
    },
    /// The store answered that it can't serve now. Nothing was written.
    #[error("the store refused, {why}: {reason}")]
    Refused {
        /// The kind of refusal.
        why: RefusalReason,
        /// The store's own words.
        reason: String,
    },
    /// The store answers, but may lose counters (it may evict keys, for example) or is of the wrong kind.
    /// Nothing was written.
    #[error("the store is unfit: {reason}")]
    Unsuitable {
        /// What is wrong and how to fix it, without secrets.
        reason: String,
    },
    /// A record or reply can't be read: Tollgate did not write it.
    #[error("the store holds something that is not Tollgate's: {reason}")]
    Corrupt {
        /// The place and the fault.
        reason: String,
    },
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

/// Why a store that answers refuses to serve now. Each of these can pass without a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// Out of memory or disk space.
    #[error("it is full")]
    Full,
    /// It can't save to disk, and stopped accepting writes.
    #[error("it can't save what it holds")]
    CannotSave,
    /// A long-running script blocks it.
    #[error("it is busy")]
    Busy,
    /// It has just started and is loading its data.
    #[error("it is loading")]
    Loading,
    /// It is a read-only replica.
    #[error("it is read-only")]
    ReadOnly,
    /// It is a replica that has lost its master.
    #[error("it is cut off from its master")]
    CutOff,
    /// Fewer replicas follow it than are required.
    #[error("too few replicas follow it")]
    TooFewReplicas,
    /// A part of the cluster is missing.
    #[error("a part of it is missing")]
    Incomplete,
    /// The key is being moved to another node of the cluster.
    #[error("it is being moved")]
    Moving,
    /// The user lacks a right.
    #[error("its user lacks a right")]
    NoRight,
    /// It rejects the user or password.
    #[error("it does not accept the user or password")]
    NotLoggedIn,
    /// It has reached its maximum number of connections.
    #[error("it takes no more connections")]
    TooManyClients,
    /// Anything else, in its own words.
    #[error("in its own words")]
    Other,
}
