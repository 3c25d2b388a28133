//! Words that the sources don't use, because their meaning here would be private.

use super::files;

/// Private words, and the field's words.
const UNUSED_WORDS: &[(&str, &str)] = &[
    ("book", "records, state"),
    ("breath", "delay"),
    ("crowd", "connections, limiter"),
    ("dice", "random numbers"),
    ("farewell", "GOAWAY"),
    ("goodbye", "GOAWAY"),
    ("hear", "receive"),
    ("heard", "received"),
    ("hindered", "refused"),
    ("hindrance", "reason of a refusal"),
    ("hindrances", "reasons of a refusal"),
    ("lane", "queue"),
    ("manner", "kind, mode"),
    ("mend", "fix"),
    ("nudge", "signal"),
    ("nuisance", "disturbance"),
    ("nuisances", "disturbances"),
    ("patience", "timeout"),
    ("patient", "with a long timeout"),
    ("pour", "send, flood"),
    ("spoil", "damage"),
    ("tally", "statistics"),
    ("tell", "log, report, say"),
    ("telling", "logging, reporting"),
    ("tells", "logs, reports, says"),
    ("told", "logged, reported"),
    ("torn", "partial write"),
    ("unrest", "instability"),
    ("wiring", "configuration"),
];

/// The words of a text in lower case: `HeldFile`, `held_file` and `held file` are two words each.
fn words(text: &str) -> impl Iterator<Item = (usize, String)> {
    text.lines().enumerate().flat_map(|(line, text)| {
        let mut words = vec![String::new()];
        let mut before = ' ';
        for c in text.chars() {
            let begins = !c.is_alphabetic() || (c.is_uppercase() && before.is_lowercase());
            if begins {
                words.push(String::new());
            }
            if c.is_alphabetic() {
                words.last_mut().unwrap().extend(c.to_lowercase());
            }
            before = c;
        }
        words.into_iter().map(move |word| (line + 1, word))
    })
}

#[test]
fn sources_tests_and_benches_have_no_private_words() {
    let sources = ["src", "tests", "benches"].into_iter().flat_map(files);
    let mut found = Vec::new();
    for (file, text) in sources {
        let is_source = [".rs", ".lua", ".py", ".c"]
            .iter()
            .any(|it| file.ends_with(it));
        if !is_source || file == "tests/tidy/words.rs" {
            continue;
        }
        for (line, word) in words(&file).map(|(_, word)| (0, word)).chain(words(&text)) {
            if let Some((word, instead)) = UNUSED_WORDS.iter().find(|(it, _)| *it == word) {
                found.push(format!("{file}:{line}: {word} (instead: {instead})"));
            }
        }
    }
    assert!(found.is_empty(), "{} places: {found:#?}", found.len());
}
