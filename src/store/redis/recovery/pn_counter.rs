//! What Redis holds of a pool on a day: what each replica counted (decide/plain.lua, "A pool's record").

use std::collections::BTreeMap;

use crate::domain::{PoolCounters, Tokens};
use crate::store::redis::script::reader::{BadReply, MsgPackReader, bad};

/// A pool's record. The sum of its parts is what the pool has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolCounter {
    closed: bool,
    /// By replica.
    parts: BTreeMap<u64, Component>,
}

/// What one replica counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Component {
    /// Its last write: a number that each raises.
    turn: u64,
    /// Free tokens, billed tokens, free requests, billed requests: below 0 where it took back what
    /// another counted.
    counted: [i64; 4],
}

impl PoolCounter {
    /// Reads a record.
    ///
    /// # Errors
    ///
    /// [`BadReply`] where the script can't have written it.
    pub fn parse(packed: &[u8]) -> Result<Self, BadReply> {
        let mut said = MsgPackReader::new(packed);
        let mut record = Self {
            closed: said.flag()?,
            parts: BTreeMap::new(),
        };
        while said.left() > 0 {
            let replica = said.amount()?.get();
            let turn = said.amount()?.get();
            let mut counted = [0; 4];
            for value in &mut counted {
                *value = said.change()?;
            }
            let part = Component { turn, counted };
            if record.parts.insert(replica, part).is_some() {
                return Err(bad("a replica with two parts"));
            }
        }
        Ok(record)
    }

    /// The turn of a replica's last write, 0 where it has none.
    #[must_use]
    pub fn seq_of(&self, replica: u64) -> u64 {
        self.parts.get(&replica).map_or(0, |part| part.turn)
    }

    /// Takes from another record what is further there.
    pub fn merge(&mut self, other: Self) {
        self.closed |= other.closed;
        for (replica, part) in other.parts {
            let known = self.parts.entry(replica).or_insert(part);
            if part.turn > known.turn {
                *known = part;
            }
        }
    }

    /// What the pool has counted. What is held is kept elsewhere.
    #[must_use]
    pub fn counters(&self) -> PoolCounters {
        let sum = |which: usize| {
            let sum = self
                .parts
                .values()
                .map(|part| i128::from(part.counted[which]));
            let sum = u64::try_from(sum.sum::<i128>().max(0)).unwrap_or(0);
            Tokens::new(sum).unwrap_or(Tokens::MAX)
        };
        PoolCounters {
            used: sum(0),
            billed_tokens: sum(1),
            free_requests: sum(2).get(),
            billed_requests: sum(3).get(),
            held: Tokens::ZERO,
            closed: self.closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(closed: bool, parts: &[(u64, u64, [i64; 4])]) -> Vec<u8> {
        let mut packed = Vec::new();
        rmp::encode::write_bool(&mut packed, closed).expect("written");
        for (replica, turns, counted) in parts {
            rmp::encode::write_uint(&mut packed, *replica).expect("written");
            rmp::encode::write_uint(&mut packed, *turns).expect("written");
            for value in counted {
                rmp::encode::write_sint(&mut packed, *value).expect("written");
            }
        }
        packed
    }

    fn used(record: &PoolCounter) -> u64 {
        record.counters().used.get()
    }

    #[test]
    fn a_pool_has_counted_what_all_replicas_counted() {
        let packed = record(false, &[(7, 3, [100, 0, 2, 0]), (9, 1, [-40, 5, -1, 1])]);
        let counters = PoolCounter::parse(&packed).expect("a record").counters();
        assert_eq!(counters.used.get(), 60);
        assert_eq!((counters.free_requests, counters.billed_requests), (1, 1));
    }

    #[test]
    fn of_two_records_the_further_part_of_each_replica_counts() {
        let older = record(false, &[(7, 3, [100, 0, 2, 0]), (9, 8, [10, 0, 1, 0])]);
        let newer = record(true, &[(7, 5, [50, 0, 1, 0]), (9, 2, [3, 0, 1, 0])]);
        let parse = |packed: &[u8]| PoolCounter::parse(packed).expect("a record");
        let mut joined = parse(&older);
        joined.merge(parse(&newer));
        assert_eq!(used(&joined), 60);
        assert!(joined.counters().closed);
        let mut other_way = parse(&newer);
        other_way.merge(parse(&older));
        assert_eq!(joined, other_way);
    }

    #[test]
    fn what_is_lost_leaves_no_pool_below_zero() {
        let packed = record(false, &[(9, 1, [-40, 0, -1, 0])]);
        assert_eq!(used(&PoolCounter::parse(&packed).expect("a record")), 0);
    }

    #[test]
    fn a_foreign_record_is_refused() {
        let twice = record(false, &[(7, 1, [0; 4]), (7, 2, [0; 4])]);
        let cut = &record(false, &[(7, 1, [0; 4])])[..4];
        for foreign in [twice.as_slice(), cut, b"", b"7", b"\xc2\x01"] {
            assert!(PoolCounter::parse(foreign).is_err(), "{foreign:?}");
        }
    }
}
