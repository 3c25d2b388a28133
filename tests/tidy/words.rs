//! Words that the sources don't use, since a stranger would have to learn what they mean here.

use super::files;

/// Private words, and what the field calls it.
const UNUSED_WORDS: &[(&str, &str)] = &[
    ("book", "records, state"),
    ("breath", "delay"),
    ("crowd", "connections, limiter"),
    ("farewell", "GOAWAY"),
    ("heard", "received"),
    ("hindrance", "reason of a refusal"),
    ("lane", "queue"),
    ("nudge", "signal"),
    ("patience", "timeout"),
    ("stats", "statistics"),
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
fn the_sources_have_no_private_words() {
    let mut found = Vec::new();
    for (file, text) in files("src") {
        if !(file.ends_with(".rs") || file.ends_with(".lua")) {
            continue;
        }
        let named = [(0, file.as_str()), (1, text.as_str())];
        for (_, text) in named {
            for (line, word) in words(text) {
                if let Some((word, instead)) = UNUSED_WORDS.iter().find(|(it, _)| *it == word) {
                    found.push(format!("{file}:{line}: {word} (instead: {instead})"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} places: {found:#?}", found.len());
}
