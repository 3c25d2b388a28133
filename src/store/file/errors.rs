//! From failures of the file to store errors.

use std::io;

use crate::store::{RefusalReason, StoreError};

/// Why a record can't be read or written.
#[derive(Debug)]
pub(super) enum RecordError {
    /// The file can't be read or written. The transaction must not be committed.
    Storage(redb::Error),
    /// Tollgate did not write this record, of which this is the name.
    Corrupt(&'static str),
}

impl<E: Into<redb::Error>> From<E> for RecordError {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
    }
}

impl From<RecordError> for StoreError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Storage(error) => refused(error),
            RecordError::Corrupt(record) => Self::Corrupt {
                reason: format!("{record} that can't be read"),
            },
        }
    }
}

/// A failure before the commit: nothing was written.
pub(super) fn refused(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    let why = match &error {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => RefusalReason::Full,
        _ => RefusalReason::CannotSave,
    };
    let reason = error.to_string();
    StoreError::Refused { why, reason }
}
