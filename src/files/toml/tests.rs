use super::*;

fn faults(text: &str, walk: impl FnOnce(&Section<'_>)) -> String {
    read("x.toml", text, |root| {
        walk(root);
        Some(())
    })
    .expect_err("faults")
    .to_string()
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let text = "[a]\nlisten = 1\nlisten_htpt = 2\n";
    let said = faults(text, |root| {
        if let Some(a) = root.section("a") {
            a.only(&["listen", "listen_http"]);
        }
    });
    assert_eq!(
        said,
        "x.toml:3: a.listen_htpt: unknown key; the nearest known one is \"listen_http\""
    );
}

#[test]
fn all_faults_are_listed_in_the_order_of_their_lines() {
    let said = faults("b = true\na = 'x'\na = 'y'\n", |root| {
        let _ = root.get("b").map(|b| b.text());
        let _ = root.get("a").map(|a| a.number(1, 5));
    });
    assert_eq!(
        said,
        "x.toml:1: b: must be a string, and is true or false\n\
         x.toml:2: a: must be a whole number, and is a string\n\
         x.toml:3: a: duplicate key"
    );
}

#[test]
fn a_number_out_of_bounds_is_named_even_past_64_bits() {
    let said = faults("a = 99999999999999999999999\n", |root| {
        let _ = root.get("a").map(|a| a.number(0, 5));
    });
    assert_eq!(
        said,
        "x.toml:1: a: is 99999999999999999999999, allowed are 0 to 5"
    );
}

#[test]
fn a_share_is_a_number_from_0_to_1() {
    for (text, share) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)] {
        let read = read("x.toml", &format!("a = {text}"), |root| {
            root.get("a")?.share()
        });
        assert_eq!(read.expect("good"), share, "{text}");
    }
    for (text, said) in [
        ("1.01", "is 1.01, allowed are 0 to 1"),
        ("-0.5", "is -0.5, allowed are 0 to 1"),
        ("nan", "is nan, allowed are 0 to 1"),
        ("'1'", "must be a number from 0 to 1, and is a string"),
    ] {
        let faults = faults(&format!("a = {text}"), |root| {
            let _ = root.get("a").map(|a| a.share());
        });
        assert_eq!(faults, format!("x.toml:1: a: {said}"));
    }
}

#[test]
fn broken_syntax_is_told_with_its_line_and_without_follow_up_noise() {
    let said = faults("a = 1\nb = \n", |root| root.only(&[]));
    assert!(said.starts_with("x.toml:2: "), "{said}");
    assert!(!said.contains("unknown key"), "{said}");
}
