//! The names of what an operator can choose from.

use clap::{ValueEnum, builder::PossibleValue};

use crate::{grpc::ReflectionFor, ledger::OnStoreFailure, store::redis::UnsafeEviction};

impl ValueEnum for OnStoreFailure {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Error, Self::Billed]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Error => "error".into(),
            Self::Billed => "billed".into(),
        })
    }
}

impl ValueEnum for ReflectionFor {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Everyone, Self::Callers, Self::Nobody]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Everyone => "everyone".into(),
            Self::Callers => "callers".into(),
            Self::Nobody => "off".into(),
        })
    }
}

impl ValueEnum for UnsafeEviction {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Refuse, Self::Warn]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Refuse => "refuse".into(),
            Self::Warn => "warn".into(),
        })
    }
}
