//! A pool's record: a PN-counter, which sums what each replica added and took back (pools.lua, "Record").

use std::collections::BTreeMap;

use crate::{
    domain::{ExternalUsage, PoolCounters, Thresholds, Tokens},
    store::redis::script::reader::{BadReply, MsgPackReader, bad},
};

/// The number of the component with the pool's external usage (recovery.lua). Replicas have smaller ones.
const EXTERNAL: u64 = 1 << 52;

/// The numbers of components without counters. Their sequence numbers are the pool's peak, and the two halves of the
/// thresholds whose notices were delivered.
const PEAK: u64 = EXTERNAL + 1;
const NOTIFIED: [u64; 2] = [EXTERNAL + 2, EXTERNAL + 3];

/// A pool's record on a day. The sum of its components is what the pool has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolCounter {
    closed: bool,
    /// By replica.
    components: BTreeMap<u64, Component>,
}

/// The peak in a record: as [`PoolCounter::peak`], without reading the record into memory.
pub(crate) fn peak_of(packed: &[u8]) -> Result<Tokens, BadReply> {
    let mut reader = MsgPackReader::new(packed);
    reader.flag()?;
    while reader.left() > 0 {
        let (number, seq) = (reader.amount()?.get(), reader.amount()?);
        if number == PEAK {
            return Ok(seq);
        }
        for _ in 0..4 {
            reader.change()?;
        }
    }
    Ok(Tokens::ZERO)
}

/// What one replica counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Component {
    /// The sequence number of its last write.
    seq: u64,
    /// Free tokens, billed tokens, free requests, billed requests: negative if it took back what another counted.
    /// Of [`EXTERNAL`]: the figure that counts, 0, the manual figure, the reconciled one.
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
        let component = self.components.get(&replica);
        component.map_or(0, |component| component.seq)
    }

    /// The pool's peak.
    #[must_use]
    pub fn peak(&self) -> Tokens {
        Tokens::new(self.seq_of(PEAK)).unwrap_or(Tokens::MAX)
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
            let components = self.components.iter();
            let components = components.filter(|(number, _)| **number != EXTERNAL);
            let sum = components.map(|(_, component)| i128::from(component.counted[which]));
            let sum = u64::try_from(sum.sum::<i128>().max(0)).unwrap_or(0);
            Tokens::new(sum).unwrap_or(Tokens::MAX)
        };
        let external = self.components.get(&EXTERNAL);
        let figure = |which: usize| {
            let figure = external.and_then(|it| u64::try_from(it.counted[which]).ok());
            figure.and_then(Tokens::new).unwrap_or_default()
        };
        PoolCounters {
            used: sum(0),
            billed_tokens: sum(1),
            free_requests: sum(2).get(),
            billed_requests: sum(3).get(),
            held: Tokens::ZERO,
            external: ExternalUsage {
                manual: figure(2),
                reconciled: figure(3),
            },
            closed: self.closed,
            peak: self.peak(),
            notified: Thresholds::from_halves(NOTIFIED.map(|it| self.seq_of(it)))
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(closed: bool, components: &[(u64, u64, [i64; 4])]) -> PoolCounter {
        let components = components.iter();
        let components = components.map(|(replica, seq, counted)| {
            let (seq, counted) = (*seq, *counted);
            (*replica, Component { seq, counted })
        });
        PoolCounter {
            closed,
            components: components.collect(),
        }
    }

    #[test]
    fn the_counters_of_a_pool_are_the_sums_of_its_components_and_never_negative() {
        let sums = counter(false, &[(7, 3, [100, 0, 2, 0]), (9, 1, [-40, 5, -3, 1])]).counters();
        assert_eq!((sums.used.get(), sums.billed_tokens.get()), (60, 5));
        // Redis lost what another replica counted.
        assert_eq!((sums.free_requests, sums.billed_requests), (0, 1));
    }

    #[test]
    fn external_usage_is_in_no_sum_and_the_later_write_counts() {
        let own = (7, 3, [100, 0, 2, 0]);
        let mut one = counter(false, &[own, (EXTERNAL, 10, [50, 0, 50, 0])]);
        let other = counter(false, &[(EXTERNAL, 11, [40, 0, 30, 40])]);
        assert_eq!(one.counters().external.tokens().get(), 50);
        one.merge(other);
        let sums = one.counters();
        let external = sums.external;
        assert_eq!((sums.used.get(), sums.free_requests), (100, 2));
        assert_eq!((external.manual.get(), external.reconciled.get()), (30, 40));
        assert_eq!(external.tokens().get(), 40);
    }

    #[test]
    fn merging_takes_the_newer_component_of_each_replica() {
        let older = counter(false, &[(7, 3, [100, 0, 2, 0]), (9, 8, [10, 0, 1, 0])]);
        let newer = counter(true, &[(7, 5, [50, 0, 1, 0]), (9, 2, [3, 0, 1, 0])]);
        let merged = counter(true, &[(7, 5, [50, 0, 1, 0]), (9, 8, [10, 0, 1, 0])]);
        for (mut one, other) in [(older.clone(), newer.clone()), (newer, older)] {
            one.merge(other);
            assert_eq!(one, merged);
        }
    }

    #[test]
    fn a_foreign_record_is_refused() {
        let component = b"\x07\x01\0\0\0\0";
        let of_one_replica = [b"\xc2", component.as_slice()].concat();
        assert!(PoolCounter::parse(&of_one_replica).is_ok());
        let twice = [&*of_one_replica, component].concat();
        for foreign in [&*twice, &of_one_replica[..4], b"", b"7", b"\xc2\x01"] {
            assert!(PoolCounter::parse(foreign).is_err(), "{foreign:?}");
        }
    }
}
