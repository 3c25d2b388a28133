//! The parsers of the scripts' replies take what the scripts can say, and refuse the rest; they never
//! panic, and never make up an amount.
//!
//! The first byte tells how many batches were asked about, and of what; the rest is the reply.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use redis::Value;
use tollgate::{
    domain::{
        BilledReason, Eligibility, ModelName, OrgId, PoolName, ProjectId, RequestFields, RequestId,
        Terms, Tokens, UtcDay, Verdict, Workload,
    },
    store::{
        Batch, Operation, Outcome, Recording,
        redis::{
            queries::{parse_pools, parse_scan},
            reply::{BatchReply, parse_decided},
        },
    },
};

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
    }
}

/// Up to three batches of up to seven operations of every kind, as the bits of a byte say.
fn batches(shape: u8) -> Vec<Batch> {
    let request_id = RequestId::parse("r").expect("legal");
    let pool = PoolName::parse("large").expect("legal");
    let kinds = [
        reserve(Eligibility::Eligible(pool.clone())),
        Operation::Settle { request_id: request_id.clone(), tokens: Tokens::ZERO },
        Operation::Release { request_id },
        reserve(Eligibility::Ineligible(BilledReason::ModelNotCovered)),
    ];
    let (count, length, first) = (shape & 3, (shape >> 2) & 7, usize::from(shape >> 5));
    let batch = |at: usize| Batch {
        org: OrgId::parse("acme").expect("legal"),
        day: UtcDay::parse("2026-11-22").expect("a day"),
        terms: Arc::new(Terms { allowances: vec![(pool.clone(), Tokens::MAX)], ..Terms::default() }),
        operations: kinds.iter().cycle().skip(first + at).take(usize::from(length)).cloned().collect(),
    };
    (0..usize::from(count)).map(batch).collect()
}

/// An outcome answers its operation, and tells figures of the pool that was asked about, or of one that
/// a reservation names.
fn fits(outcome: &Outcome, operation: &Operation) -> bool {
    match (outcome, operation) {
        (Outcome::Reserved { pool, replayed: true, .. }, Operation::Reserve { .. }) => {
            pool.as_ref().is_none_or(|it| it.used <= Tokens::MAX)
        }
        (Outcome::Reserved { verdict, pool, .. }, Operation::Reserve { eligibility, .. }) => {
            match (pool, eligibility) {
                (Some(figures), Eligibility::Eligible(pool)) => figures.pool == *pool,
                (None, Eligibility::Ineligible(_)) => *verdict != Verdict::Free,
                _ => false,
            }
        }
        (Outcome::Settled { .. }, Operation::Settle { .. })
        | (Outcome::Released { .. }, Operation::Release { .. })
        | (Outcome::Refused(_) | Outcome::CounterOverflow(_), _) => true,
        _ => false,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((shape, reply)) = input.split_first() else {
        return;
    };
    let asked = batches(*shape);
    let asked: Vec<&Batch> = asked.iter().collect();
    if let Ok((_, replies)) = parse_decided(reply, &asked) {
        assert_eq!(replies.len(), asked.len());
        for (reply, batch) in replies.iter().zip(&asked) {
            if let BatchReply::Done(outcomes, _) = reply {
                assert_eq!(outcomes.len(), batch.operations.len());
                assert!(outcomes.iter().zip(&batch.operations).all(|(it, asked)| fits(it, asked)));
            }
        }
        // What was understood is whole: nothing can be cut from it, and nothing added.
        assert!(parse_decided(&reply[..reply.len() - 1], &asked).is_err());
        assert!(parse_decided(&[reply, b"\0"].concat(), &asked).is_err());
    }

    // The same bytes as what is read without deciding.
    let pools = usize::from(*shape & 7);
    if let Ok((_, counters)) = parse_pools(reply, pools) {
        assert_eq!(counters.len(), pools);
        assert!(counters.iter().all(|(_, held)| *held <= Tokens::MAX));
        let mut counters = counters.iter().map(|(record, _)| record.counters());
        assert!(counters.all(|it| it.used <= Tokens::MAX && it.free_requests < 1 << 53));
    }
    // The parts of a scan: one a line.
    let texts = |lines: &[&[u8]]| lines.iter().map(|it| Value::BulkString(it.to_vec())).collect();
    let lines: Vec<&[u8]> = reply.split(|byte| *byte == b'\n').collect();
    let scan = vec![Value::BulkString(lines[0].to_vec()), Value::Array(texts(&lines[1..]))];
    if let Ok((_, rows)) = parse_scan(&Value::Array(scan)) {
        assert!(rows.len() <= lines.len() / 2);
        assert!(rows.iter().all(|(_, row)| !row.is_empty() && row.free_tokens <= Tokens::MAX));
    }
});
