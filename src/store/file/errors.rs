//! From failures of the file to store errors.

use std::io;

use super::encoding::BadRecord;
use crate::store::{RefusalReason, StoreError};

/// Why a record can't be read or written.
#[derive(Debug)]
pub(super) enum RecordError {
    /// The file can't be read or written. The transaction must not be committed.
    Storage(redb::Error),
    /// A record that Tollgate did not write.
    Corrupt(BadRecord),
}

impl<E: Into<redb::Error>> From<E> for RecordError {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
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

pub(super) fn corrupt(bad: BadRecord) -> StoreError {
    let reason = bad.to_string();
    StoreError::Corrupt { reason }
}

pub(super) fn closed() -> StoreError {
    let reason = "the file failed, and is opened again soon".to_owned();
    StoreError::Unreachable { reason }
}
