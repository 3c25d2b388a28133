//! The key encoder is injective: two different names, or pairs of names, never share a key or a field.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::{
    domain::{ModelName, OrgId, ProjectId, UtcDay},
    store::redis::script::keys::{OrgKeys, decode, encode, parse_row_field, row_field},
};

fuzz_target!(|names: (&str, &str, &str, &str)| {
    let (a, b, c, d) = names;
    let (one, other) = (encode(a), encode(b));
    assert_eq!(one == other, a == b);
    assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
    assert_eq!(decode(&one).as_deref(), Some(a));
    // What was never encoded is refused, or encodes to itself.
    if let Some(name) = decode(a) {
        assert_eq!(encode(&name), a);
    }

    let pair = |project: &str, model: &str| {
        Some((ProjectId::parse(project).ok()?, ModelName::parse(model).ok()?))
    };
    if let (Some((p, m)), Some((q, n))) = (pair(a, b), pair(c, d)) {
        let (one, other) = (row_field(&p, &m), row_field(&q, &n));
        assert_eq!(one == other, (&p, &m) == (&q, &n));
        assert_eq!(parse_row_field(&one), Some((p, m)));
    }
    if let (Ok(one), Ok(other)) = (OrgId::parse(a), OrgId::parse(b)) {
        let day = UtcDay::parse("2026-11-22").expect("a day");
        let key = |org| OrgKeys::new("tollgate:", org, day).usage();
        assert_eq!(key(&one) == key(&other), one == other);
        // The hash tag is between the first `{` and the first `}` after it.
        let (_, tagged) = key(&one).split_once('{').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a tag");
        let (tag, rest) = tagged.split_once('}').expect("a tag's end");
        assert_eq!((decode(tag).as_deref(), rest), (Some(a), ":usage:2026-11-22"));
    }
});
