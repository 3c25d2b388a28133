use std::sync::Arc;

use super::*;
use crate::{
    domain::{
        BilledReason, ModelName, OrgId, ProjectId, RequestFields, RequestId, Tokens, UtcDay,
        Workload,
    },
    store::{Recording, redis::script::reader::bytes},
};

/// One value of a reply.
enum ReplyValue {
    Text(&'static str),
    Number(u64),
    Flag(bool),
}
use ReplyValue::{Flag, Number, Text};

fn pack(parts: &[ReplyValue]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Text(text) => rmp::encode::write_str(&mut bytes, text).expect("written"),
            Number(it) => drop(rmp::encode::write_uint(&mut bytes, *it).expect("written")),
            Flag(flag) => rmp::encode::write_bool(&mut bytes, *flag).expect("written"),
        }
    }
    bytes
}

fn pool() -> PoolName {
    PoolName::parse("large").expect("legal")
}

fn reserve() -> Operation {
    let fields = RequestFields {
        project: ProjectId::parse("p").expect("legal"),
        model: ModelName::parse("gpt-4o").expect("legal"),
        tokens: Tokens::ZERO,
        workload: Workload::Inference,
    };
    Operation::Reserve {
        request_id: None,
        fields,
        eligibility: Eligibility::Eligible(pool()),
        is_listed: true,
        recording: Recording::Record,
    }
}

fn settle() -> Operation {
    Operation::Settle {
        request_id: RequestId::parse("r").expect("legal"),
        tokens: Tokens::ZERO,
    }
}

fn batch(operations: &[Operation]) -> Batch {
    Batch {
        org: OrgId::parse("acme").expect("legal"),
        day: UtcDay::parse("2026-11-22").expect("a day"),
        terms: Arc::default(),
        operations: operations.to_vec(),
    }
}

const TIME: [ReplyValue; 2] = [Text("1795305600"), Text("5")];

fn parse(parts: &[ReplyValue], operations: &[Operation]) -> Result<Vec<BatchReply>, BadReply> {
    let reply = [pack(&TIME), pack(&[Text("done")]), pack(parts)].concat();
    parse_decided(&reply, &[&batch(operations)]).map(|(_, replies)| replies)
}

#[test]
fn a_reply_gives_an_outcome_for_each_operation() {
    let balance = |used| {
        Some(PoolBalance {
            pool: pool(),
            allowance: Tokens::ZERO,
            used: Tokens::new(used).expect("small"),
            is_closed: false,
        })
    };
    let parts = [
        [Number(7)].as_slice(),
        &[Text("X"), Number(7)],
        &[Text("r"), Text("F"), Text("large"), Number(7), Flag(false)],
        &[
            Text("s"),
            Text("X"),
            Text("F"),
            Flag(false),
            Text("large"),
            Flag(false),
        ],
        &[Text("a"), Number(12)],
        &[Text("e"), Text("unknown")],
    ];
    let exceeded = Verdict::Billed(BilledReason::AllowanceExceeded);
    let reserved = |verdict, replayed| Outcome::Reserved {
        verdict,
        pool: balance(7),
        replayed,
    };
    let outcomes = vec![
        reserved(Verdict::Free, false),
        reserved(exceeded, false),
        reserved(Verdict::Free, true),
        Outcome::Settled {
            verdict: exceeded,
            reserved_as: Verdict::Free,
            pool: balance(0),
            replayed: false,
        },
        Outcome::Refused(Refusal::OtherAmount {
            settled: Tokens::new(12).expect("small"),
        }),
        Outcome::Refused(Refusal::UnknownRequestId),
    ];
    let operations = [vec![reserve(); 3], vec![settle(); 3]].concat();
    let record = [Number(1), Number(2), Number(9), Text("record")];
    let written = vec![WrittenPool {
        place: 1,
        seq: 9,
        record: b"record".to_vec(),
    }];
    let reply: Vec<u8> = parts
        .into_iter()
        .chain([record.as_slice()])
        .flat_map(pack)
        .collect();
    let failed = pack(&[Text("failed"), Text("foreign"), Text("k")]);
    let head = [pack(&TIME), failed, pack(&[Text("done")])].concat();
    let batches = [batch(&[reserve()]), batch(&operations)];
    let (now, replies) =
        parse_decided(&[head, reply].concat(), &batches.each_ref()).expect("a reply");
    assert_eq!(now.timestamp_micros(), 1_795_305_600_000_005);
    let (why, key) = ("foreign".to_owned(), "k".to_owned());
    let failed = BatchReply::Failed { why, key };
    assert_eq!(replies, [failed, BatchReply::Done(outcomes, written)]);
}

#[test]
fn another_day_answers_every_batch() {
    let batches = [batch(&[reserve()]), batch(&[settle()])];
    let day = [pack(&TIME), pack(&[Text("day")])].concat();
    let (_, replies) = parse_decided(&day, &batches.each_ref()).expect("a reply");
    assert_eq!(replies, [BatchReply::DayChanged, BatchReply::DayChanged]);
}

#[test]
fn an_ineligible_request_is_never_free() {
    let mut ineligible = reserve();
    if let Operation::Reserve { eligibility, .. } = &mut ineligible {
        *eligibility = Eligibility::Ineligible(BilledReason::ModelNotCovered);
    }
    assert!(parse(&[Text("M"), Number(0), Number(0)], &[ineligible.clone()]).is_ok());
    for free in [
        &[Number(0), Number(0)][..],
        &[Text("F"), Number(0), Number(0)],
    ] {
        assert!(parse(free, &[ineligible.clone()]).is_err());
    }
}

#[test]
fn a_reply_that_the_script_cannot_give_is_refused() {
    let cases: [&[ReplyValue]; 10] = [
        &[],
        &[Text("X")],
        // A number alone means free.
        &[Text("F"), Number(7)],
        &[Text("?"), Number(7)],
        &[Text("X"), Text("7")],
        &[Number(1 << 53)],
        &[Number(7), Number(7)],
        &[Text("r"), Text("F"), Text("la rge"), Number(7)],
        &[
            Text("s"),
            Text("F"),
            Text("F"),
            Flag(true),
            Text("large"),
            Number(7),
        ],
        &[Text("e"), Text("")],
    ];
    for parts in cases {
        assert!(parse(parts, &[reserve()]).is_err());
    }
    assert!(parse(&[Number(7)], &[]).is_err());
    assert!(parse(&[Number(7)], &[settle()]).is_err());
    assert!(parse_decided(&[], &[]).is_err());
    assert!(bytes(&redis::Value::Nil).is_err());
    let late = pack(&[Text("1"), Text("1000000")]);
    assert!(parse_decided(&late, &[]).is_err());
}
