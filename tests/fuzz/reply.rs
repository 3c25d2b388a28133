//! The parsers of the scripts' replies take what the scripts can say, and refuse the rest; they never
//! panic, and never make up an amount.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis::Value;
use tollgate::{
    domain::Terms,
    store::{
        Outcome,
        redis::reply::{Reply, parse_decided, parse_pools, parse_scan},
    },
};

// The parts of a reply, one a line.
fuzz_target!(|input: &[u8]| {
    let parts: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let items = parts.len().saturating_sub(3);
    let reply = Value::Array(parts.iter().map(|part| Value::BulkString(part.to_vec())).collect());
    if let Ok((_, Reply::Done(outcomes))) = parse_decided(&reply, &Terms::default(), items) {
        assert_eq!(outcomes.len(), items);
        for (outcome, part) in outcomes.iter().zip(&parts[3..]) {
            if let Outcome::Reserved { pool: Some(figures), .. } = outcome {
                let text = std::str::from_utf8(part).expect("parsed texts are UTF-8");
                let used = text.rsplit(',').next().expect("a last part");
                assert_eq!(used.parse(), Ok(figures.used.get()));
            }
        }
    }
    if let Ok((_, counters)) = parse_pools(&reply, parts.len().saturating_sub(2)) {
        assert_eq!(counters.len(), parts.len() - 2);
    }
    let texts = Value::Array(parts.iter().skip(1).map(|part| Value::BulkString(part.to_vec())).collect());
    let cursor = Value::BulkString(parts[0].to_vec());
    if let Ok((_, rows)) = parse_scan(&Value::Array(vec![cursor, texts])) {
        for (_, row) in rows {
            let sums = [row.free_tokens.get(), row.billed_tokens.get()];
            assert!(sums.iter().all(|sum| *sum < 1 << 53));
        }
    }
});
