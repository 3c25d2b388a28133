//! No token is lost between the kinds, and no report makes the reader panic.

use proptest::prelude::*;
use tollgate::reconcile::{DriftKind, UsageReport};

use super::{Books, DAY, FREE, bucket, page};

/// Models of both pools: the ledger's names, and the provider's.
const MODELS: [(&str, &str); 4] = [
    ("gpt-4o", "gpt-4o-2024-08-06"),
    ("o3", "o3-2025-04-16"),
    ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    ("gpt-5.4-mini", "gpt-5.4-mini-2026-03-17"),
];

/// FREE and BILLED in the ledger, free and billed at the provider.
fn amounts() -> impl Strategy<Value = [u64; 4]> {
    // Often equal, often 0, sometimes beyond the allowance.
    let amount = || {
        prop_oneof![
            Just(0),
            Just(50),
            0..100_u64,
            Just(150_000),
            Just(3_000_000)
        ]
    };
    [amount(), amount(), amount(), amount()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// `f + p = (L − lost) + missed_free + billed_in_sharing_project + external`, and what of `L` is not free at the
    /// provider is `false_free` or `lost`.
    #[test]
    fn every_token_of_both_sides_is_of_one_kind_or_agrees(cells in prop::collection::vec(amounts(), 8)) {
        let places: Vec<(&str, &str, &str)> = ["p", "q"]
            .iter()
            .flat_map(|project| MODELS.map(|(asked, reported)| (*project, asked, reported)))
            .collect();
        let (mut rows, mut used) = (Vec::new(), vec![("r", MODELS[0].1, FREE, 1)]);
        for ((project, asked, reported), [free, billed, provider_free, provider_billed]) in places.iter().zip(&cells) {
            rows.push((DAY, *project, *asked, *free, *billed));
            used.push((*project, *reported, FREE, *provider_free));
            used.push((*project, *reported, "default", *provider_billed));
        }
        let comparison = Books::sharing().compare(&rows, &[bucket(DAY, &used)]);
        for usage in comparison.usage.values() {
            let of = |kind| usage.drift.tokens[kind];
            let missing = usage.ledger_free.saturating_sub(usage.provider_free);
            prop_assert_eq!(of(DriftKind::FalseFree) + of(DriftKind::Lost), missing);
            let here = usage.ledger_free - of(DriftKind::Lost)
                + of(DriftKind::MissedFree)
                + of(DriftKind::BilledInSharingProject)
                + of(DriftKind::External);
            prop_assert_eq!(usage.provider_total(), here);
        }
        Books::sharing().changes(&comparison);
    }

    #[test]
    fn a_damaged_report_is_read_or_refused(at in 0..400_usize, byte: u8, cut in 0..600_usize) {
        let csv = "start_time,end_time,num_model_requests,input_tokens,output_tokens,model\n\
                   1795046400,1795132800,1,2,3,gpt-4o\n";
        let json = page(&[bucket(DAY, &[("p", "gpt-4o", FREE, 100)])]).to_string();
        for text in [csv, json.as_str()] {
            let mut bytes = text.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.max(1));
            if let Ok(report) = UsageReport::from_bytes(&bytes) {
                prop_assert!(report.rows.iter().all(|row| report.days.contains(&row.bucket.day())));
            }
        }
    }
}
