//! What a failure of the file means for the caller.

use std::io;

use super::records::BadRecord;
use crate::store::{RefusalReason, StoreError};

/// Before the commit: nothing was written.
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
