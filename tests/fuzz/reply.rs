//! The parsers of the scripts' replies accept valid replies and refuse all others. They never panic, and never invent
//! an amount.
//!
//! The first byte selects the batches; the rest is the reply.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use redis::Value;
use tollgate::{
    domain::{
        BilledReason, Eligibility, Grant, ModelName, OrgId, PoolName, ProjectId, RequestFields, RequestId,
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
            has_run: false,
    }
}

/// Up to three batches of up to seven operations of every kind, selected by the bits of a byte.
fn batches(shape: u8) -> Vec<Batch> {
    let request_id = RequestId::parse("r").expect("legal");
    let pool = PoolName::parse("large").expect("legal");
    let kinds = [
        reserve(Eligibility::Eligible(pool.clone())),
        Operation::Settle { request_id: request_id.clone(), tokens: Tokens::ZERO, outside_program: false },
        Operation::Release { request_id },
        reserve(Eligibility::Ineligible(BilledReason::ModelNotCovered)),
    ];
    let (count, length, first) = (shape & 3, (shape >> 2) & 7, usize::from(shape >> 5));
    let batch = |at: usize| Batch {
        org: OrgId::parse("acme").expect("legal"),
        day: UtcDay::parse("2026-11-22").expect("a day"),
        terms: Arc::new(Terms { pools: vec![(pool.clone(), Grant { allowance: Tokens::MAX, ..Grant::default() })], ..Terms::default() }),
        operations: kinds.iter().cycle().skip(first + at).take(usize::from(length)).cloned().collect(),
    };
    (0..usize::from(count)).map(batch).collect()
}

/// Whether an outcome fits its operation, and its balance the pool.
fn fits(outcome: &Outcome, operation: &Operation) -> bool {
    match (outcome, operation) {
        (Outcome::Reserved { pool, replayed: true, .. }, Operation::Reserve { .. }) => {
            pool.as_ref().is_none_or(|it| it.used <= Tokens::MAX)
        }
        (Outcome::Reserved { verdict, pool, .. }, Operation::Reserve { eligibility, .. }) => {
            match (pool, eligibility) {
                (Some(balance), Eligibility::Eligible(pool)) => balance.pool == *pool,
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
    let batches = batches(*shape);
    let batches: Vec<&Batch> = batches.iter().collect();
    if let Ok((_, replies)) = parse_decided(reply, &batches) {
        assert_eq!(replies.len(), batches.len());
        for (reply, batch) in replies.iter().zip(&batches) {
            if let BatchReply::Done(outcomes, _) = reply {
                assert_eq!(outcomes.len(), batch.operations.len());
                assert!(outcomes.iter().zip(&batch.operations).all(|(it, operation)| fits(it, operation)));
            }
        }
        // A valid reply is complete: without its last byte, or with another one, it is refused.
        assert!(parse_decided(&reply[..reply.len() - 1], &batches).is_err());
        assert!(parse_decided(&[reply, b"\0"].concat(), &batches).is_err());
    }

    // The same bytes as a reply of the query script.
    let (pools, shares) = (usize::from(*shape & 7), usize::from(*shape >> 6));
    if let Ok(stored) = parse_pools(reply, pools, shares) {
        assert_eq!((stored.pools.len(), stored.shares.len()), (pools, shares));
        assert!(stored.pools.iter().all(|(_, held)| *held <= Tokens::MAX));
        let pools = stored.pools.iter().map(|(record, _)| record);
        let mut counters = pools.chain(&stored.shares).map(|record| record.counters());
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
