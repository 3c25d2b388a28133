//! The encoding of records. Read strictly: bytes that Tollgate can't have written are an error.
//!
//! | record | bytes |
//! | --- | --- |
//! | pool | used, billed tokens, free requests, billed requests, closed, held: 8 each, little-endian |
//! | usage row | free tokens, billed tokens, free requests, billed requests: 8 each |
//! | row counts | rows, rows of unlisted models: 8 each |
//! | reservation | state, verdict, workload: 1 each; tokens: 8; if settled, verdict: 1, tokens: 8; pool and project, each after its length (2); model |

use super::super::codes;
use crate::domain::{
    ModelName, PoolCounters, PoolName, ProjectId, RequestFields, Reservation, ReservationState,
    RowChoice, RowCounts, Tokens, UsageCounters, Verdict,
};

/// Bytes that are no record of Tollgate's, with the kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} that can't be read")]
pub(super) struct BadRecord(&'static str);

/// A usage row, or its key.
pub(super) const BAD_ROW: BadRecord = BadRecord("a usage row");

const COUNTER_BYTES: usize = 8;

/// The first byte of a reservation.
const HELD: u8 = b'h';
/// Held, and counted in the row `(other)`, `(other)`.
const HELD_IN_OTHER: u8 = b'o';
const SETTLED: u8 = b's';
const RELEASED: u8 = b'r';

pub(super) fn pool_bytes(counters: &PoolCounters) -> Vec<u8> {
    let amounts = [
        counters.used.get(),
        counters.billed_tokens.get(),
        counters.free_requests,
        counters.billed_requests,
        u64::from(counters.closed),
        counters.held.get(),
    ];
    amounts.map(u64::to_le_bytes).concat()
}

pub(super) fn pool(bytes: &[u8]) -> Result<PoolCounters, BadRecord> {
    // Format 1 has no held tokens.
    let counters = amounts(bytes).or_else(|| {
        let [used, billed, free_requests, billed_requests, closed] = amounts(bytes)?;
        Some([used, billed, free_requests, billed_requests, closed, 0])
    });
    let counters = counters.and_then(|counters| {
        let [used, billed, free_requests, billed_requests, closed, held] = counters;
        Some(PoolCounters {
            used: Tokens::new(used)?,
            billed_tokens: Tokens::new(billed)?,
            free_requests,
            billed_requests,
            held: Tokens::new(held)?,
            closed: [false, true].get(usize::try_from(closed).ok()?).copied()?,
        })
    });
    counters.ok_or(BadRecord("counters of a pool"))
}

pub(super) fn row_counts_bytes(counts: RowCounts) -> Vec<u8> {
    [counts.rows, counts.unlisted]
        .map(u64::to_le_bytes)
        .concat()
}

pub(super) fn row_counts(bytes: &[u8]) -> Result<RowCounts, BadRecord> {
    let counts = amounts(bytes).map(|[rows, unlisted]| RowCounts { rows, unlisted });
    counts.ok_or(BadRecord("a count of usage rows"))
}

pub(super) fn row_bytes(row: &UsageCounters) -> Vec<u8> {
    let amounts = [
        row.free_tokens.get(),
        row.billed_tokens.get(),
        row.free_requests,
        row.billed_requests,
    ];
    amounts.map(u64::to_le_bytes).concat()
}

pub(super) fn row(bytes: &[u8]) -> Result<UsageCounters, BadRecord> {
    let row = amounts(bytes).and_then(|[free, billed, free_requests, billed_requests]| {
        Some(UsageCounters {
            free_tokens: Tokens::new(free)?,
            billed_tokens: Tokens::new(billed)?,
            free_requests,
            billed_requests,
        })
    });
    row.ok_or(BAD_ROW)
}

pub(super) fn reservation_bytes(reservation: &Reservation) -> Vec<u8> {
    let Reservation {
        fields,
        verdict,
        pool,
        state,
    } = reservation;
    let mut bytes = Vec::with_capacity(64);
    bytes.push(match state {
        ReservationState::Held {
            row: RowChoice::Own,
        } => HELD,
        ReservationState::Held {
            row: RowChoice::Other,
        } => HELD_IN_OTHER,
        ReservationState::Settled { .. } => SETTLED,
        ReservationState::Released => RELEASED,
    });
    bytes.push(ascii(codes::verdict_code(*verdict)));
    bytes.push(ascii(codes::workload_code(fields.workload)));
    put_tokens(&mut bytes, fields.tokens);
    if let ReservationState::Settled { tokens, verdict } = state {
        bytes.push(ascii(codes::verdict_code(*verdict)));
        put_tokens(&mut bytes, *tokens);
    }
    put_name(&mut bytes, pool.as_ref().map_or("", PoolName::as_str));
    put_name(&mut bytes, fields.project.as_str());
    bytes.extend_from_slice(fields.model.as_str().as_bytes());
    bytes
}

pub(super) fn reservation(bytes: &[u8]) -> Result<Reservation, BadRecord> {
    read_reservation(bytes).ok_or(BadRecord("a reservation"))
}

fn read_reservation(mut rest: &[u8]) -> Option<Reservation> {
    let state = take(&mut rest, 1)?[0];
    let verdict = take_verdict(&mut rest)?;
    let workload = codes::parse_workload(char::from(take(&mut rest, 1)?[0]))?;
    let tokens = take_tokens(&mut rest)?;
    let state = match state {
        HELD => ReservationState::Held {
            row: RowChoice::Own,
        },
        HELD_IN_OTHER => ReservationState::Held {
            row: RowChoice::Other,
        },
        RELEASED => ReservationState::Released,
        SETTLED => ReservationState::Settled {
            verdict: take_verdict(&mut rest)?,
            tokens: take_tokens(&mut rest)?,
        },
        _ => return None,
    };
    let pool = take_name(&mut rest)?;
    let pool = match pool {
        "" => None,
        pool => Some(PoolName::parse(pool).ok()?),
    };
    let project = ProjectId::parse(take_name(&mut rest)?).ok()?;
    let model = ModelName::parse(std::str::from_utf8(rest).ok()?).ok()?;
    Some(Reservation {
        fields: RequestFields {
            project,
            model,
            tokens,
            workload,
        },
        verdict,
        pool,
        state,
    })
}

fn amounts<const COUNT: usize>(bytes: &[u8]) -> Option<[u64; COUNT]> {
    let (amounts, rest) = bytes.as_chunks::<COUNTER_BYTES>();
    let amounts: [_; COUNT] = amounts.try_into().ok()?;
    rest.is_empty().then_some(amounts.map(u64::from_le_bytes))
}

fn ascii(code: char) -> u8 {
    u8::try_from(code).expect("codes are ASCII")
}

fn put_tokens(bytes: &mut Vec<u8>, tokens: Tokens) {
    bytes.extend_from_slice(&tokens.get().to_le_bytes());
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    let length = u16::try_from(name.len()).expect("names are short");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
}

fn take<'b>(rest: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn take_verdict(rest: &mut &[u8]) -> Option<Verdict> {
    codes::parse_verdict(std::str::from_utf8(take(rest, 1)?).ok()?)
}

fn take_tokens(rest: &mut &[u8]) -> Option<Tokens> {
    let bytes = take(rest, COUNTER_BYTES)?.try_into().ok()?;
    Tokens::new(u64::from_le_bytes(bytes))
}

fn take_name<'b>(rest: &mut &'b [u8]) -> Option<&'b str> {
    let length = u16::from_le_bytes(take(rest, 2)?.try_into().ok()?);
    std::str::from_utf8(take(rest, usize::from(length))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BilledReason, Workload};

    fn tokens(amount: u64) -> Tokens {
        Tokens::new(amount).expect("an amount")
    }

    fn reservations() -> impl Iterator<Item = Reservation> {
        let verdict = Verdict::Billed(BilledReason::DayClosed);
        let settled = ReservationState::Settled {
            tokens: Tokens::ZERO,
            verdict,
        };
        let [own, other] =
            [RowChoice::Own, RowChoice::Other].map(|row| ReservationState::Held { row });
        [own, other, settled, ReservationState::Released]
            .into_iter()
            .zip(["", "mini", "large", "é"])
            .map(|(state, pool)| Reservation {
                fields: RequestFields {
                    project: ProjectId::parse("p:%").expect("a name"),
                    model: ModelName::parse("gpt-4o").expect("a name"),
                    tokens: tokens(1_000_000_000),
                    workload: Workload::Evaluation,
                },
                verdict: Verdict::Free,
                pool: (!pool.is_empty()).then(|| PoolName::parse(pool).expect("a name")),
                state,
            })
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        for written in reservations() {
            assert_eq!(reservation(&reservation_bytes(&written)), Ok(written));
        }
        let counters = PoolCounters {
            used: Tokens::MAX,
            free_requests: 1,
            billed_tokens: tokens(2),
            billed_requests: 3,
            held: tokens(4),
            closed: true,
        };
        let bytes = pool_bytes(&counters);
        assert_eq!(pool(&bytes), Ok(counters));
        let held = Tokens::ZERO;
        let of_format_1 = PoolCounters { held, ..counters };
        assert_eq!(pool(&bytes[..40]), Ok(of_format_1));
        let (rows, unlisted) = (7, 3);
        let counts = RowCounts { rows, unlisted };
        assert_eq!(row_counts(&row_counts_bytes(counts)), Ok(counts));
        let usage = UsageCounters {
            free_tokens: tokens(4),
            billed_tokens: Tokens::MAX,
            free_requests: 5,
            billed_requests: 6,
        };
        assert_eq!(row(&row_bytes(&usage)), Ok(usage));
    }

    #[test]
    fn what_was_cut_off_or_is_beyond_bounds_is_refused() {
        for written in reservations() {
            let bytes = reservation_bytes(&written);
            // The model ends the record: cut, it is another model.
            for end in 0..bytes.len() - "gpt-4o".len() {
                assert!(reservation(&bytes[..end]).is_err(), "{end}");
            }
        }
        for bytes in [&[][..], &[0; 39], &[0; 41], &[255; 40], &[255; 48]] {
            assert!(pool(bytes).is_err());
        }
        for bytes in [&[][..], &[0; 31], &[0; 40], &[255; 32]] {
            assert!(row(bytes).is_err());
        }
    }
}
