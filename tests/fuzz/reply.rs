//! The parsers of the scripts' replies take what the scripts can say, and refuse the rest; they never
//! panic, and never make up an amount.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis::Value;
use tollgate::{
    domain::Terms,
    store::{
        Outcome,
        redis::reply::{Reply, parse_decided, parse_pools, parse_row, parse_time},
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
    for text in parts.iter().filter_map(|part| std::str::from_utf8(part).ok()) {
        if let Ok(row) = parse_row(text) {
            let sums = [row.free_tokens.get(), row.billed_tokens.get()];
            assert!(sums.iter().all(|sum| *sum < 1 << 53), "{text:?}");
        }
        let _ = parse_time(text, text);
    }
});
