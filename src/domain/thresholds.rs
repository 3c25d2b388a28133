//! Thresholds: the parts of an allowance at which a notice is due (docs/CONTRACT.md, "Notices").

use std::fmt;

use super::tokens::Tokens;

/// A part of an allowance in whole per cent, 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold(u8);

impl Threshold {
    /// The threshold at this many per cent, 1 to 100.
    #[must_use]
    pub const fn new(per_cent: u8) -> Option<Self> {
        match per_cent {
            1..=100 => Some(Self(per_cent)),
            _ => None,
        }
    }

    /// Per cent of the allowance.
    #[must_use]
    pub const fn per_cent(self) -> u8 {
        self.0
    }

    /// The fewest tokens that reach it, rounded up.
    #[must_use]
    pub fn tokens(self, allowance: Tokens) -> Tokens {
        // The largest amount times 100 is less than 2^60.
        let tokens = (allowance.get() * u64::from(self.0)).div_ceil(100);
        Tokens::new(tokens).unwrap_or(Tokens::MAX)
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of thresholds. By default it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Thresholds {
    /// Bit n is the threshold at n per cent.
    bits: u128,
}

impl Thresholds {
    /// Fifty bits.
    const HALF: u64 = (1 << 50) - 1;

    /// Those of an organization whose policy names none: 80, 95 and 100 per cent.
    pub const USUAL: Self = Self {
        bits: 1 << 80 | 1 << 95 | 1 << 100,
    };

    /// The thresholds, the lowest first.
    pub fn iter(self) -> impl Iterator<Item = Threshold> {
        (1..=100)
            .filter(move |per_cent| self.bits >> per_cent & 1 == 1)
            .map(Threshold)
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn contains(self, threshold: Threshold) -> bool {
        self.bits >> threshold.0 & 1 == 1
    }

    /// Adds a threshold.
    pub const fn insert(&mut self, threshold: Threshold) {
        self.bits |= 1 << threshold.0;
    }

    /// The set as two numbers, as stores keep it: of 1 to 50 per cent, and of 51 to 100 per cent. Each has a bit for each
    /// threshold, the lowest first.
    #[must_use]
    pub const fn to_halves(self) -> [u64; 2] {
        let (low, high) = (self.bits >> 1, self.bits >> 51);
        [low as u64 & Self::HALF, high as u64 & Self::HALF]
    }

    /// The set of two numbers; none if no set has them.
    #[must_use]
    pub fn from_halves(halves: [u64; 2]) -> Option<Self> {
        let [low, high] = halves;
        let bits = u128::from(low) << 1 | u128::from(high) << 51;
        (low <= Self::HALF && high <= Self::HALF).then_some(Self { bits })
    }

    /// Those of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            bits: self.bits | other.bits,
        }
    }

    /// The fewest tokens of an allowance that reach a further threshold than `counted` does. None if there is none, or
    /// no allowance.
    #[must_use]
    pub fn next(self, allowance: Tokens, counted: Tokens) -> Option<Tokens> {
        let mut bits = self.bits;
        while bits != 0 && allowance > Tokens::ZERO {
            let tokens = Threshold(bits.trailing_zeros() as u8).tokens(allowance);
            if tokens > counted {
                return Some(tokens);
            }
            bits &= bits - 1;
        }
        None
    }

    /// Those that `counted` reaches, the lowest first: none of an allowance of 0.
    pub fn reached(self, allowance: Tokens, counted: Tokens) -> impl Iterator<Item = Threshold> {
        let thresholds = self.iter().filter(move |_| allowance > Tokens::ZERO);
        thresholds.take_while(move |threshold| threshold.tokens(allowance) <= counted)
    }
}

impl fmt::Display for Thresholds {
    /// As in the policy file: `[80, 95, 100]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_cent = self.iter().map(Threshold::per_cent);
        f.debug_list().entries(per_cent).finish()
    }
}

impl FromIterator<Threshold> for Thresholds {
    fn from_iter<I: IntoIterator<Item = Threshold>>(thresholds: I) -> Self {
        let bits = thresholds.into_iter().map(|Threshold(it)| 1 << it);
        Self {
            bits: bits.fold(0, |all, bit: u128| all | bit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(amount: u64) -> Tokens {
        Tokens::new(amount).expect("an amount")
    }

    fn reached(allowance: u64, counted: u64) -> Vec<u8> {
        let reached = Thresholds::USUAL.reached(tokens(allowance), tokens(counted));
        reached.map(Threshold::per_cent).collect()
    }

    #[test]
    fn a_threshold_is_reached_by_its_part_of_the_allowance_rounded_up() {
        for (allowance, counted, expected) in [
            (1_000, 799, &[][..]),
            (1_000, 800, &[80]),
            (1_000, 950, &[80, 95]),
            (1_000, 2_000, &[80, 95, 100]),
            // 80 per cent of 11 are 8.8.
            (11, 8, &[]),
            (11, 9, &[80]),
            (1, 1, &[80, 95, 100]),
            (0, 7, &[]),
            (Tokens::MAX.get(), Tokens::MAX.get() - 1, &[80, 95]),
        ] {
            assert_eq!(
                reached(allowance, counted),
                expected,
                "{counted} of {allowance}"
            );
        }
    }

    #[test]
    fn the_next_threshold_is_the_lowest_that_is_not_reached() {
        let next = |allowance, counted| {
            let next = Thresholds::USUAL.next(tokens(allowance), tokens(counted));
            next.map(Tokens::get)
        };
        assert_eq!(next(1_000, 0), Some(800));
        assert_eq!(next(1_000, 800), Some(950));
        assert_eq!(next(1_000, 999), Some(1_000));
        assert_eq!(next(1_000, 1_000), None);
        assert_eq!(next(0, 0), None);
        assert_eq!(
            Thresholds::default().next(tokens(1_000), Tokens::ZERO),
            None
        );
    }

    #[test]
    fn a_set_has_each_threshold_once_in_order() {
        let of = |list: &[u8]| -> Thresholds {
            let list = list.iter().map(|it| Threshold::new(*it).expect("legal"));
            list.collect()
        };
        assert_eq!(of(&[100, 80, 95, 80]), Thresholds::USUAL);
        let ends = of(&[1, 50, 51, 100]);
        assert_eq!(ends.to_halves(), [1 | 1 << 49, 1 | 1 << 49]);
        assert_eq!(Thresholds::from_halves(ends.to_halves()), Some(ends));
        assert_eq!(Thresholds::from_halves([1 << 50, 0]), None);
        let mut one = Thresholds::default();
        one.insert(Threshold(51));
        assert!(one.contains(Threshold(51)) && !one.contains(Threshold(50)));
        assert_eq!(one.to_halves(), [0, 1]);
        let union: Vec<_> = of(&[1]).union(of(&[100])).iter().collect();
        assert_eq!(union, [Threshold(1), Threshold(100)]);
        assert_eq!((Threshold::new(0), Threshold::new(101)), (None, None));
    }
}
