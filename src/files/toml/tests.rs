use super::{faults::MAX_SHOWN, *};

fn faults(text: &str, walk: impl FnOnce(&Section<'_>)) -> String {
    read("x.toml", text.as_bytes(), |root| {
        walk(root);
        Some(())
    })
    .expect_err("faults")
    .to_string()
}

#[test]
fn a_number_out_of_bounds_is_named_even_past_64_bits() {
    let message = faults("a = 99999999999999999999999\n", |root| {
        let _ = root.get("a", |a| a.number::<u64>(0, 5));
    });
    assert_eq!(
        message,
        "x.toml:1: a: is 99999999999999999999999, allowed are 0 to 5"
    );
}

#[test]
fn a_share_is_a_number_from_0_to_1() {
    for (text, share) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)] {
        let read = read("x.toml", format!("a = {text}").as_bytes(), |root| {
            root.get("a", Entry::share)
        });
        assert_eq!(read.expect("good"), share, "{text}");
    }
    for (text, message) in [
        ("1.01", "is 1.01, allowed are 0 to 1"),
        ("-0.5", "is -0.5, allowed are 0 to 1"),
        ("nan", "is nan, allowed are 0 to 1"),
        ("'1'", "must be a number from 0 to 1, and is a string"),
    ] {
        let faults = faults(&format!("a = {text}"), |root| {
            let _ = root.get("a", Entry::share);
        });
        assert_eq!(faults, format!("x.toml:1: a: {message}"));
    }
}

#[test]
fn broken_syntax_is_reported_with_its_line_and_without_further_faults() {
    let message = faults("a = 1\nb = \n", |root| root.finish());
    assert!(message.starts_with("x.toml:2: "), "{message}");
    assert!(!message.contains("unknown key"), "{message}");
}

#[test]
fn a_summary_has_the_first_faults_and_the_number_of_the_others() {
    let text: String = (0..1_000).map(|at| format!("key{at} = 1\n")).collect();
    let faults = read("p.toml", text.as_bytes(), |root| {
        root.finish();
        Some(())
    });
    let summary = faults.expect_err("refused").summary();
    assert_eq!(summary.lines().count(), MAX_SHOWN + 1);
    assert!(summary.ends_with("\nand 900 more"), "{summary}");
}
