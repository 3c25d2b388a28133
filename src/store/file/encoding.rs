//! The encoding of records. Read strictly: bytes that Tollgate can't have written are an error.
//!
//! | record | bytes |
//! | --- | --- |
//! | pool | used, billed tokens, free requests, billed requests, closed, held, external usage, manual and reconciled, peak, thresholds whose notices were delivered in two halves: 8 each, little-endian |
//! | share | its FREE tokens: 8 |
//! | usage row | free tokens, billed tokens, free requests, billed requests: 8 each |
//! | row counts | rows, rows of unlisted models: 8 each |
//! | reservation | state, verdict, workload: 1 each; tokens: 8; if settled, verdict: 1, tokens: 8; pool and project, each after its length (2); model |

use super::{super::codes, errors::RecordError};
use crate::domain::{
    ExternalUsage, ModelName, PoolCounters, PoolName, ProjectId, RequestFields, Reservation,
    ReservationState, RowChoice, RowCounts, Thresholds, Tokens, UsageCounters, Verdict,
};

/// A record of a table.
pub(super) trait Record: Sized {
    /// What it is, for errors.
    const NAME: &'static str;

    fn encode(&self) -> Vec<u8>;

    fn decode(bytes: &[u8]) -> Option<Self>;

    /// Decodes what a table holds.
    fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        Self::decode(bytes).ok_or(RecordError::Corrupt(Self::NAME))
    }
}

impl Record for PoolCounters {
    const NAME: &'static str = "counters of a pool";

    fn encode(&self) -> Vec<u8> {
        let [low, high] = self.notified.to_halves();
        encode_counters([
            self.used.get(),
            self.billed_tokens.get(),
            self.free_requests,
            self.billed_requests,
            u64::from(self.closed),
            self.held.get(),
            self.external.manual.get(),
            self.external.reconciled.get(),
            self.peak.get(),
            low,
            high,
        ])
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        // Format 1 has no held tokens, format 3 no external usage, and format 5 no peak.
        let (bytes, [manual, reconciled, peak, low, high]) = match bytes.split_at_checked(48) {
            Some((counters, rest)) if !rest.is_empty() => {
                let rest = match decode_counters::<2>(rest) {
                    Some([manual, reconciled]) => [manual, reconciled, 0, 0, 0],
                    None => decode_counters(rest)?,
                };
                (counters, rest)
            }
            _ => (bytes, [0; 5]),
        };
        let ([used, billed, free_requests, billed_requests, closed], held) =
            match decode_counters::<6>(bytes) {
                Some([counters @ .., held]) => (counters, held),
                None => (decode_counters(bytes)?, 0),
            };
        Some(Self {
            used: Tokens::new(used)?,
            billed_tokens: Tokens::new(billed)?,
            free_requests,
            billed_requests,
            held: Tokens::new(held)?,
            external: ExternalUsage {
                manual: Tokens::new(manual)?,
                reconciled: Tokens::new(reconciled)?,
            },
            closed: (closed <= 1).then_some(closed == 1)?,
            peak: Tokens::new(peak)?,
            notified: Thresholds::from_halves([low, high])?,
        })
    }
}

impl Record for Tokens {
    const NAME: &'static str = "the tokens of a share";

    fn encode(&self) -> Vec<u8> {
        encode_counters([self.get()])
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [tokens] = decode_counters(bytes)?;
        Self::new(tokens)
    }
}

impl Record for UsageCounters {
    const NAME: &'static str = "a usage row";

    fn encode(&self) -> Vec<u8> {
        encode_counters([
            self.free_tokens.get(),
            self.billed_tokens.get(),
            self.free_requests,
            self.billed_requests,
        ])
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [free, billed, free_requests, billed_requests] = decode_counters(bytes)?;
        Some(Self {
            free_tokens: Tokens::new(free)?,
            billed_tokens: Tokens::new(billed)?,
            free_requests,
            billed_requests,
        })
    }
}

impl Record for RowCounts {
    const NAME: &'static str = "a count of usage rows";

    fn encode(&self) -> Vec<u8> {
        encode_counters([self.rows, self.unlisted])
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [rows, unlisted] = decode_counters(bytes)?;
        Some(Self { rows, unlisted })
    }
}

/// The first byte of a reservation that is held: in a row of its own or in `(other)`, `(other)`, and whether it is carried
/// into the pool of the next day. In upper case if a share counts it.
const HELD: [(u8, RowChoice, bool); 4] = [
    (b'h', RowChoice::Own, false),
    (b'o', RowChoice::Other, false),
    (b'c', RowChoice::Own, true),
    (b'd', RowChoice::Other, true),
];
const SETTLED: u8 = b's';
const RELEASED: u8 = b'r';

impl Record for Reservation {
    const NAME: &'static str = "a reservation";

    fn encode(&self) -> Vec<u8> {
        let state = match self.state {
            ReservationState::Held {
                row,
                is_carried,
                in_share,
            } => {
                let found = HELD
                    .into_iter()
                    .find(|it| (it.1, it.2) == (row, is_carried));
                let (code, ..) = found.expect("HELD has all four");
                if in_share {
                    code.to_ascii_uppercase()
                } else {
                    code
                }
            }
            ReservationState::Settled { .. } => SETTLED,
            ReservationState::Released => RELEASED,
        };
        let workload = codes::workload_code(self.fields.workload) as u8;
        let mut bytes = vec![state, verdict_byte(self.verdict), workload];
        bytes.extend(self.fields.tokens.get().to_le_bytes());
        if let ReservationState::Settled { tokens, verdict } = self.state {
            bytes.push(verdict_byte(verdict));
            bytes.extend(tokens.get().to_le_bytes());
        }
        let pool = self.pool.as_ref().map_or("", PoolName::as_str);
        for name in [pool, self.fields.project.as_str()] {
            let length = u16::try_from(name.len()).expect("names are short");
            bytes.extend(length.to_le_bytes());
            bytes.extend(name.as_bytes());
        }
        bytes.extend(self.fields.model.as_str().as_bytes());
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        let [state, verdict, workload] = take(rest)?;
        let verdict = decode_verdict(verdict)?;
        let workload = codes::parse_workload(char::from(workload))?;
        let tokens = take_tokens(rest)?;
        let state = match state {
            RELEASED => ReservationState::Released,
            SETTLED => {
                let [verdict] = take(rest)?;
                ReservationState::Settled {
                    verdict: decode_verdict(verdict)?,
                    tokens: take_tokens(rest)?,
                }
            }
            held => {
                let code = held.to_ascii_lowercase();
                let (_, row, is_carried) = HELD.into_iter().find(|it| it.0 == code)?;
                ReservationState::Held {
                    row,
                    is_carried,
                    in_share: held != code,
                }
            }
        };
        let pool = match take_name(rest)? {
            "" => None,
            pool => Some(PoolName::parse(pool).ok()?),
        };
        Some(Self {
            fields: RequestFields {
                project: ProjectId::parse(take_name(rest)?).ok()?,
                model: ModelName::parse(str::from_utf8(rest).ok()?).ok()?,
                tokens,
                workload,
            },
            verdict,
            pool,
            state,
        })
    }
}

fn encode_counters<const COUNT: usize>(counters: [u64; COUNT]) -> Vec<u8> {
    counters.map(u64::to_le_bytes).concat()
}

fn decode_counters<const COUNT: usize>(bytes: &[u8]) -> Option<[u64; COUNT]> {
    let (counters, rest) = bytes.as_chunks();
    let counters: [_; COUNT] = counters.try_into().ok()?;
    rest.is_empty().then_some(counters.map(u64::from_le_bytes))
}

fn verdict_byte(verdict: Verdict) -> u8 {
    codes::verdict_code(verdict) as u8
}

fn decode_verdict(byte: u8) -> Option<Verdict> {
    codes::parse_verdict(str::from_utf8(&[byte]).ok()?)
}

fn take<const COUNT: usize>(rest: &mut &[u8]) -> Option<[u8; COUNT]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

fn take_tokens(rest: &mut &[u8]) -> Option<Tokens> {
    Tokens::new(u64::from_le_bytes(take(rest)?))
}

fn take_name<'b>(rest: &mut &'b [u8]) -> Option<&'b str> {
    let length = u16::from_le_bytes(take(rest)?);
    let (name, left) = rest.split_at_checked(usize::from(length))?;
    *rest = left;
    str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BilledReason, Workload};

    /// What a contract test over the file store does not reach: a record that was cut or damaged.
    #[test]
    fn what_was_cut_off_or_is_beyond_bounds_is_refused() {
        let verdict = Verdict::Billed(BilledReason::DayClosed);
        let tokens = Tokens::ZERO;
        let (own, other) = (RowChoice::Own, RowChoice::Other);
        let held = |row, is_carried| ReservationState::Held {
            row,
            is_carried,
            in_share: row == RowChoice::Other,
        };
        for (state, pool) in [
            (held(own, false), None),
            (held(other, false), Some("é")),
            (held(own, true), Some("é")),
            (held(other, true), Some("mini")),
            (ReservationState::Settled { tokens, verdict }, None),
            (ReservationState::Released, Some("mini")),
        ] {
            let written = Reservation {
                fields: RequestFields {
                    project: ProjectId::parse("p:%").expect("a name"),
                    model: ModelName::parse("gpt-4o").expect("a name"),
                    tokens: Tokens::MAX,
                    workload: Workload::Evaluation,
                },
                verdict: Verdict::Free,
                pool: pool.map(|pool| PoolName::parse(pool).expect("a name")),
                state,
            };
            let bytes = written.encode();
            assert_eq!(Reservation::decode(&bytes), Some(written));
            // The model ends the record: cut, it is another model.
            for end in 0..bytes.len() - "gpt-4o".len() {
                assert_eq!(Reservation::decode(&bytes[..end]), None, "{end}");
            }
        }
        for bytes in [
            &[][..],
            &[0; 39],
            &[0; 41],
            &[255; 40],
            &[255; 48],
            &[255; 64],
        ] {
            assert_eq!(PoolCounters::decode(bytes), None);
        }
        for bytes in [&[][..], &[0; 31], &[0; 40], &[255; 32]] {
            assert_eq!(UsageCounters::decode(bytes), None);
        }
    }
}
