//! Parses the replies of the script that decides.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::script::{
    keys::{self, CounterId},
    reader::{BadReply, MsgPackReader, bad},
};
use crate::{
    domain::{
        BilledReason, CounterOverflow, Eligibility, ExternalUsage, PoolCounters, PoolName, Refusal,
        RequestField, Terms, Tokens, Verdict,
    },
    store::{Batch, Operation, Outcome, PoolBalance, codes},
};

/// The script's reply to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchReply {
    /// It is another day by Redis' clock.
    DayChanged,
    /// The script for Reserves leaves it to the full script.
    Declined,
    /// It needs pools or shares that it does not name.
    UnnamedPools {
        /// Its reservations are in these.
        pools: Vec<CounterId>,
        /// Reservations are carried: it needs tomorrow's pools too.
        tomorrow: bool,
    },
    /// Redis lost writes of the replica to the batch's pools: the snapshots must be sent.
    Stale,
    /// An outcome for each operation, and the pools that were written.
    Done(Vec<Outcome>, Vec<WrittenPool>),
    /// It failed before its first write.
    Failed {
        /// The error message of Redis or of the script.
        why: String,
        /// The key that was read last.
        key: String,
    },
    /// It failed between its writes.
    PartialWrite(String),
}

/// A pool or a share after a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenPool {
    /// Its index among the pools and shares that the batch names, from 0.
    pub place: usize,
    /// The sequence number of the replica's last write to it.
    pub seq: u64,
    /// Its record, as Redis holds it.
    pub record: Vec<u8>,
    /// Only if the batch raised the pool's peak.
    pub raised: Option<RaisedPeak>,
}

/// What was before a pool's peak was raised, and with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaisedPeak {
    /// The peak before.
    pub before: Tokens,
    /// The external usage at the peak.
    pub external: Tokens,
}

/// Parses the reply to a call with these batches: Redis' clock, and a reply for each batch.
///
/// # Errors
///
/// [`BadReply`] if the script can't have returned this.
pub fn parse_decided(
    reply: &[u8],
    batches: &[&Batch],
) -> Result<(DateTime<Utc>, Vec<BatchReply>), BadReply> {
    let mut reader = MsgPackReader::new(reply);
    let now = reader.time()?;
    let mut lookahead = reader.clone();
    if lookahead.text() == Ok("day") && lookahead.left() == 0 {
        return Ok((now, vec![BatchReply::DayChanged; batches.len()]));
    }
    let mut replies = Vec::with_capacity(batches.len());
    for batch in batches {
        replies.push(reader.reply(batch)?);
    }
    reader.end().map(|()| (now, replies))
}

impl MsgPackReader<'_> {
    fn reply(&mut self, batch: &Batch) -> Result<BatchReply, BadReply> {
        let mut external = BTreeMap::new();
        let mut kind = self.text()?;
        if kind == "external" {
            for _ in 0..self.amount()?.get() {
                external.insert(parse_pool(self.text()?)?, self.amount()?);
            }
            kind = self.text()?;
        }
        Ok(match kind {
            "pools" => {
                let (tomorrow, count) = (self.flag()?, self.amount()?.get());
                let pools = (0..count).map(|_| {
                    let name = self.text()?;
                    CounterId::decode(name).ok_or_else(|| bad(format!("a pool {name:?}")))
                });
                let pools = pools.collect::<Result<_, _>>()?;
                BatchReply::UnnamedPools { pools, tomorrow }
            }
            "declined" => BatchReply::Declined,
            "stale" => BatchReply::Stale,
            "done" => {
                let mut outcomes = Vec::with_capacity(batch.operations.len());
                let mut balances = Balances {
                    terms: &batch.terms,
                    external,
                };
                for operation in &batch.operations {
                    outcomes.push(self.outcome(&mut balances, operation)?);
                }
                let count = self.amount()?.get();
                let written = (0..count).map(|_| self.written());
                let mut written: Vec<_> = written.collect::<Result<_, _>>()?;
                self.raised_peaks(&mut written)?;
                BatchReply::Done(outcomes, written)
            }
            "failed" => BatchReply::Failed {
                why: self.text()?.to_owned(),
                key: self.text()?.to_owned(),
            },
            "partial" => BatchReply::PartialWrite(self.text()?.to_owned()),
            kind => return Err(bad(format!("a reply {kind:?}"))),
        })
    }

    fn written(&mut self) -> Result<WrittenPool, BadReply> {
        Ok(WrittenPool {
            place: self.place()?,
            seq: self.amount()?.get(),
            record: self.bytes()?.to_vec(),
            raised: None,
        })
    }

    fn place(&mut self) -> Result<usize, BadReply> {
        let place = usize::try_from(self.amount()?.get()).ok();
        let place = place.and_then(|place| place.checked_sub(1));
        place.ok_or_else(|| bad("a place that does not exist"))
    }

    /// Reads which of the written pools have a higher peak, if the reply has any.
    fn raised_peaks(&mut self, written: &mut [WrittenPool]) -> Result<(), BadReply> {
        let mut lookahead = self.clone();
        if lookahead.left() == 0 || lookahead.text() != Ok("peaks") {
            return Ok(());
        }
        *self = lookahead;
        for _ in 0..self.amount()?.get() {
            let place = self.place()?;
            let pool = written.iter_mut().find(|it| it.place == place);
            let pool = pool.ok_or_else(|| bad("a peak of a pool that was not written"))?;
            pool.raised = Some(RaisedPeak {
                before: self.amount()?,
                external: self.amount()?,
            });
        }
        Ok(())
    }

    fn outcome(
        &mut self,
        balances: &mut Balances<'_>,
        operation: &Operation,
    ) -> Result<Outcome, BadReply> {
        if let Operation::Reserve { eligibility, .. } = operation
            && self.is_number()
        {
            // Only an eligible request can be free.
            let pool = balances.of_reserve(eligibility, self.amount()?, false);
            pool.as_ref().ok_or_else(|| bad("free, and not eligible"))?;
            return Ok(Outcome::Reserved {
                verdict: Verdict::Free,
                pool,
                replayed: false,
            });
        }
        let kind = self.text()?;
        Ok(match (kind, operation) {
            ("r", Operation::Reserve { .. }) => Outcome::Reserved {
                verdict: verdict_of(self.text()?)?,
                pool: self.balance(balances)?,
                replayed: true,
            },
            ("s", Operation::Settle { .. }) => Outcome::Settled {
                verdict: verdict_of(self.text()?)?,
                reserved_as: verdict_of(self.text()?)?,
                replayed: self.flag()?,
                pool: self.balance(balances)?,
            },
            ("v", Operation::Release { .. }) => Outcome::Released {
                tokens: self.amount()?,
                replayed: self.flag()?,
                pool: self.balance(balances)?,
            },
            ("c", Operation::ConfirmNotice { .. }) => Outcome::NoticeConfirmed,
            ("x", Operation::SetExternalUsage { pool, .. }) => {
                self.external_usage_set(balances, pool)?
            }
            ("e", _) => self.refused()?,
            ("d", Operation::Reserve { .. }) => {
                let differing = self.text()?.chars().map(field_of);
                let differing = differing.collect::<Result<_, _>>()?;
                Outcome::Refused(Refusal::OtherFields { differing })
            }
            ("a", Operation::Settle { .. }) => {
                let settled = self.amount()?;
                Outcome::Refused(Refusal::OtherAmount { settled })
            }
            (
                verdict,
                Operation::Reserve {
                    eligibility,
                    recording,
                    ..
                },
            ) if verdict != "F" => {
                let (verdict, used) = (verdict_of(verdict)?, self.amount()?);
                let closes = recording.writes() && verdict == EXCEEDED;
                let closed = closes || verdict == Verdict::Billed(BilledReason::PoolClosed);
                Outcome::Reserved {
                    verdict,
                    pool: balances.of_reserve(eligibility, used, closed),
                    replayed: false,
                }
            }
            (kind, _) => return Err(bad(format!("an answer {kind:?} to another operation"))),
        })
    }

    fn external_usage_set(
        &mut self,
        balances: &mut Balances<'_>,
        pool: &PoolName,
    ) -> Result<Outcome, BadReply> {
        let before = self.amount()?;
        balances.external.insert(pool.clone(), self.amount()?);
        let (used, closed) = (self.amount()?, self.flag()?);
        let pool = balances.of(pool.clone(), used, closed);
        Ok(Outcome::ExternalUsageSet { before, pool })
    }

    fn refused(&mut self) -> Result<Outcome, BadReply> {
        Ok(match self.text()? {
            "released" => Outcome::Refused(Refusal::Released),
            "settled" => Outcome::Refused(Refusal::Settled),
            "unknown" => Outcome::Refused(Refusal::UnknownRequestId),
            "full" => Outcome::CounterOverflow(CounterOverflow),
            place @ ("outside" | "within") => Outcome::Refused(Refusal::OtherPlace {
                outside_program: place == "outside",
            }),
            why => return Err(bad(format!("a refusal {why:?}"))),
        })
    }

    /// The balance of a pool of today; of a past day only the pool's name, and false.
    fn balance(&mut self, balances: &Balances<'_>) -> Result<Option<PoolBalance>, BadReply> {
        let pool = self.text()?;
        if self.skip_false() {
            return Ok(Some(PoolBalance::of_another_day(parse_pool(pool)?)));
        }
        let (used, closed) = (self.amount()?, self.flag()?);
        Ok(match pool {
            "" => None,
            pool => Some(balances.of(parse_pool(pool)?, used, closed)),
        })
    }
}

const EXCEEDED: Verdict = Verdict::Billed(BilledReason::AllowanceExceeded);

/// What the balances of a batch's pools have beside its answers.
struct Balances<'b> {
    terms: &'b Terms,
    /// The external usage of pools that have some, before the next operation.
    external: BTreeMap<PoolName, Tokens>,
}

impl Balances<'_> {
    /// The balance of the pool of an eligible Reserve.
    fn of_reserve(
        &self,
        eligibility: &Eligibility,
        used: Tokens,
        closed: bool,
    ) -> Option<PoolBalance> {
        match eligibility {
            Eligibility::Eligible(pool) => Some(self.of(pool.clone(), used, closed)),
            Eligibility::Ineligible(_) => None,
        }
    }

    fn of(&self, pool: PoolName, used: Tokens, closed: bool) -> PoolBalance {
        let manual = self.external.get(&pool).copied().unwrap_or_default();
        let counters = PoolCounters {
            used,
            closed,
            external: ExternalUsage {
                manual,
                ..ExternalUsage::default()
            },
            ..PoolCounters::default()
        };
        PoolBalance::today(self.terms, pool, &counters)
    }
}

fn field_of(letter: char) -> Result<RequestField, BadReply> {
    Ok(match letter {
        'p' => RequestField::Project,
        'm' => RequestField::Model,
        't' => RequestField::Tokens,
        'w' => RequestField::Workload,
        letter => return Err(bad(format!("a field {letter:?}"))),
    })
}

fn verdict_of(text: &str) -> Result<Verdict, BadReply> {
    codes::parse_verdict(text).ok_or_else(|| bad(format!("a verdict {text:?}")))
}

fn parse_pool(encoded: &str) -> Result<PoolName, BadReply> {
    let name = keys::decode(encoded).and_then(|name| PoolName::parse(name).ok());
    name.ok_or_else(|| bad(format!("a pool {encoded:?}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{ModelName, OrgId, ProjectId, RequestFields, RequestId, UtcDay, Workload},
        store::Recording,
    };

    /// The reply to a batch of one operation, with these values and the number of written pools.
    fn parse(values: &[u8], operation: &Operation) -> Result<Vec<BatchReply>, BadReply> {
        let batch = Batch {
            org: OrgId::parse("acme").expect("legal"),
            day: UtcDay::parse("2026-11-22").expect("a day"),
            terms: Arc::default(),
            operations: vec![operation.clone()],
        };
        let reply = [
            b"\xaa1795305600\xa15",
            b"\xa4done".as_slice(),
            values,
            b"\0",
        ]
        .concat();
        parse_decided(&reply, &[&batch]).map(|(_, replies)| replies)
    }

    fn reserve(eligibility: Eligibility) -> Operation {
        Operation::Reserve {
            request_id: None,
            fields: RequestFields {
                project: ProjectId::parse("p").expect("legal"),
                model: ModelName::parse("gpt-4o").expect("legal"),
                tokens: Tokens::ZERO,
                workload: Workload::Inference,
            },
            eligibility,
            is_listed: true,
            recording: Recording::Record,
            has_run: false,
        }
    }

    /// MessagePack: `\xa1` begins a text of one byte, `\xc2` is false, a small number is one byte.
    #[test]
    fn a_reply_that_the_script_cannot_give_is_refused() {
        let large = PoolName::parse("large").expect("legal");
        let eligible = reserve(Eligibility::Eligible(large));
        for possible in [
            b"\x07".as_slice(),
            b"\xa1X\x07",
            b"\xa1r\xa1F\xa5large\x07\xc2",
        ] {
            assert!(parse(possible, &eligible).is_ok(), "{possible:?}");
        }
        for impossible in [
            b"".as_slice(),
            b"\xa1X",
            // A number alone means free.
            b"\xa1F\x07",
            b"\xa1?\x07",
            b"\xa1X\xa17",
            // 2^53.
            b"\xcf\0\x20\0\0\0\0\0\0",
            b"\x07\x07",
            b"\xa1r\xa1F\xa6la rge\x07\xc2",
            b"\xa1s\xa1F\xa1F\xc3\xa5large\x07\xc2",
            b"\xa1e\xa0",
        ] {
            assert!(parse(impossible, &eligible).is_err(), "{impossible:?}");
        }
        let ineligible = reserve(Eligibility::Ineligible(BilledReason::ModelNotCovered));
        assert!(parse(b"\xa1M\0", &ineligible).is_ok());
        assert!(parse(b"\0", &ineligible).is_err());
        let request_id = RequestId::parse("r").expect("legal");
        assert!(parse(b"\x07", &Operation::Release { request_id }).is_err());
        assert!(parse_decided(b"", &[]).is_err());
        assert!(parse_decided(b"\xa11\xa71000000", &[]).is_err());
    }
}
