//! A pool's record: a PN-counter, which sums what each replica added and took back (pools.lua, "Record").

use std::collections::BTreeMap;

use crate::{
    domain::{PoolCounters, Tokens},
    store::redis::script::reader::{BadReply, MsgPackReader, bad},
};

/// A pool's record on a day. The sum of its components is what the pool has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolCounter {
    closed: bool,
    /// By replica.
    components: BTreeMap<u64, Component>,
}

/// What one replica counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Component {
    /// The sequence number of its last write.
    seq: u64,
    /// Free tokens, billed tokens, free requests, billed requests: negative if it took back what another counted.
    counted: [i64; 4],
}

impl PoolCounter {
    /// Reads a record.
    ///
    /// # Errors
    ///
    /// [`BadReply`] if the script can't have written it.
    pub fn parse(packed: &[u8]) -> Result<Self, BadReply> {
        let mut reader = MsgPackReader::new(packed);
        let mut record = Self {
            closed: reader.flag()?,
            components: BTreeMap::new(),
        };
        while reader.left() > 0 {
            let replica = reader.amount()?.get();
            let seq = reader.amount()?.get();
            let mut counted = [0; 4];
            for value in &mut counted {
                *value = reader.change()?;
            }
            let component = Component { seq, counted };
            if record.components.insert(replica, component).is_some() {
                return Err(bad("a replica with two components"));
            }
        }
        Ok(record)
    }

    /// The sequence number of a replica's last write, 0 if it has none.
    #[must_use]
    pub fn seq_of(&self, replica: u64) -> u64 {
        self.components
            .get(&replica)
            .map_or(0, |component| component.seq)
    }

    /// Merges another record: per replica, the component with the higher sequence number wins.
    pub fn merge(&mut self, other: Self) {
        self.closed |= other.closed;
        for (replica, newer) in other.components {
            let component = self.components.entry(replica).or_insert(newer);
            if newer.seq > component.seq {
                *component = newer;
            }
        }
    }

    /// The pool's counters. Held tokens are not in the record.
    #[must_use]
    pub fn counters(&self) -> PoolCounters {
        let sum = |which: usize| {
            let components = self.components.values();
            let sum = components.map(|component| i128::from(component.counted[which]));
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

    fn record(closed: bool, components: &[(u64, u64, [i64; 4])]) -> Vec<u8> {
        let mut packed = Vec::new();
        rmp::encode::write_bool(&mut packed, closed).expect("written");
        for (replica, seq, counted) in components {
            rmp::encode::write_uint(&mut packed, *replica).expect("written");
            rmp::encode::write_uint(&mut packed, *seq).expect("written");
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
    fn the_counters_of_a_pool_are_the_sums_of_its_components() {
        let packed = record(false, &[(7, 3, [100, 0, 2, 0]), (9, 1, [-40, 5, -1, 1])]);
        let counters = PoolCounter::parse(&packed).expect("a record").counters();
        assert_eq!(counters.used.get(), 60);
        assert_eq!((counters.free_requests, counters.billed_requests), (1, 1));
    }

    #[test]
    fn merging_takes_the_newer_component_of_each_replica() {
        let older = record(false, &[(7, 3, [100, 0, 2, 0]), (9, 8, [10, 0, 1, 0])]);
        let newer = record(true, &[(7, 5, [50, 0, 1, 0]), (9, 2, [3, 0, 1, 0])]);
        let parse = |packed: &[u8]| PoolCounter::parse(packed).expect("a record");
        let mut merged = parse(&older);
        merged.merge(parse(&newer));
        assert_eq!(used(&merged), 60);
        assert!(merged.counters().closed);
        let mut other_way = parse(&newer);
        other_way.merge(parse(&older));
        assert_eq!(merged, other_way);
    }

    #[test]
    fn no_counter_is_negative_after_a_loss() {
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
