//! The callers file: `check-callers` describes it or lists every fault, and `new-token` makes a token.

use std::collections::HashSet;

use tollgate::auth::{Callers, TokenHash};

use super::{callers, tokens};
use crate::support::{
    calls::TextFile,
    tollgate::program,
    tools::{ProgramOutput, run},
};

fn check(text: &str) -> (String, ProgramOutput) {
    let file = TextFile::new(text);
    let ran = run(program().args(["check-callers", file.path()]));
    (file.path().to_owned(), ran)
}

/// A hash that each test may use once.
fn hash(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

/// A callers file with faults. The comment on a faulty line names the key and a word of the expected message.
fn invalid_callers_file() -> String {
    let (a, b, c) = (hash('a'), hash('b'), hash('c'));
    format!(
        r#"
caller = 1                                         # caller: "callers"
[callers.good]
certificates = ["spiffe://x/a", "a.internal"]
tokens = ["{a}", "{b}"]
roles = ["reserve", "read"]
organizations = ["*"]
[callers.first]
certificates = ["A.internal"]                      # callers.first.certificates: "good" already (line 4)
tokens = ["{a}"]                                   # callers.first.tokens: token 1 is of the caller "good"
roles = ["write"]                                  # callers.first.roles: "write" is no role
organizations = ["*", "acme"]                      # callers.first.organizations: stands alone
[callers.many]
certificates = [
  "*.internal",                                    # callers.many.certificates: no wildcard
  "a b",                                           # callers.many.certificates: blanks
  "1:x",                                           # callers.many.certificates: no URI
  "spiffe:",                                       # callers.many.certificates: no URI
  "a..b",                                          # callers.many.certificates: neither
  "",                                              # callers.many.certificates: neither
  "spiffe://x/a",                                  # callers.many.certificates: "good" already
  "twice.internal",
  "twice.internal",                                # callers.many.certificates: twice
]
tokens = ["{c}", "{c}", "x"]                       # callers.many.tokens: 3 tokens
roles = ["read", "read"]                           # callers.many.roles: twice
organizations = ["acme", "acme"]                   # callers.many.organizations: twice
[callers.unknown]                                  # callers.unknown: can't be known
roles = []                                         # callers.unknown.roles: no role
organizations = []                                 # callers.unknown.organizations: no organization
[callers.empty]                                    # callers.empty: can't be known
certificates = []
tokens = []
role = ["read"]                                    # callers.empty.role: "roles"
roles = ["read"]
organizations = [""]                               # callers.empty.organizations: must not be empty
[callers.kinds]
certificates = "x"                                 # callers.kinds.certificates: a list of strings
tokens = [1]                                       # callers.kinds.tokens: a string
roles = "read"                                     # callers.kinds.roles: a list of strings
organizations = "*"                                # callers.kinds.organizations: a list of strings
[callers.less]                                     # callers.less.roles: missing
tokens = ["sha256:abc"]                            # callers.less.tokens: 64 hex digits
organizations = ["acme"]
[callers."a\nb"]                                   # callers."a\nb": control characters
certificates = ["b.internal"]
roles = ["read"]
organizations = ["acme"]
"#
    )
}

#[test]
fn every_fault_of_a_callers_file_is_listed_with_its_line_and_key() {
    let text = invalid_callers_file();
    let (name, ran) = check(&text);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    let mut faults: Vec<&str> = ran.stderr.lines().collect();
    let head = faults.remove(0);
    assert_eq!(head, format!("tollgate: {} faults", faults.len()));
    let mut wanted = 0;
    for (line, text) in (1..).zip(text.lines()) {
        let Some((_, comment)) = text.split_once("  # ") else {
            continue;
        };
        let (key, word) = comment.split_once(": ").unwrap();
        wanted += 1;
        let start = format!("{name}:{line}: {key}: ");
        let is_listed = faults.iter().any(|faults| {
            faults
                .strip_prefix(&start)
                .is_some_and(|it| it.contains(word))
        });
        assert!(is_listed, "{start}{word} is not in {faults:#?}");
    }
    // One line has three faults: too many tokens, a duplicate, and an invalid hash.
    assert_eq!(faults.len(), wanted + 2, "{faults:#?}");
    for (place, what) in [(2, "is listed twice"), (3, "is not \"sha256:\"")] {
        let fault = format!("token {place} {what}");
        assert!(
            faults.iter().any(|faults| faults.contains(&fault)),
            "{fault}"
        );
    }
}

#[test]
fn a_token_that_stands_where_its_hash_should_is_not_printed() {
    let text =
        "[callers.a]\ntokens = [\"tg_secret\"]\nroles = [\"read\"]\norganizations = [\"*\"]\n";
    let (_, ran) = check(text);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("token 1"), "{ran:?}");
    assert!(!ran.stderr.contains("tg_secret"), "{ran:?}");
}

#[test]
fn a_file_without_any_caller_is_refused() {
    for text in ["", "# nobody\n", "[callers]\n"] {
        let (name, ran) = check(text);
        assert_eq!(ran.code, Some(1), "{text:?}");
        let received =
            ran.stderr.contains("callers: is missing") || ran.stderr.contains("no caller");
        assert!(received && ran.stderr.contains(&name), "{ran:?}");
    }
}

#[test]
fn a_valid_callers_file_is_described_without_its_hashes() {
    let (name, ran) = check(&callers());
    assert_eq!(ran.stderr, "");
    let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let stdout = ran.expect_success();
    let lines: Vec<String> = stdout.lines().map(narrow).collect();
    assert_eq!(lines[0], format!("{name} is valid"));
    for line in [
        "CALLER ROLES ORGANIZATIONS KNOWN BY",
        "admin reserve, read, admin all spiffe://example.org/admin, admin.internal",
        "by-dns reserve, read, admin 1 gateway.internal",
        "reader read 1 1 token",
        "rotating reserve, read, admin 1 2 tokens",
    ] {
        assert!(lines.contains(&line.to_owned()), "{line:?}: {lines:?}");
    }
    assert!(!stdout.contains("sha256"), "{stdout}");
}

#[test]
fn a_new_token_is_known_by_the_line_that_comes_with_it() {
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let stdout = run(program().arg("new-token")).expect_success();
        let lines: Vec<&str> = stdout.lines().collect();
        let [token, line] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        // 256 bits are 43 characters of base64.
        let secret = token.strip_prefix("tg_").unwrap();
        assert_eq!(secret.len(), 43, "{token}");
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        assert!(secret.bytes().all(letters), "{token}");
        assert_eq!(*line, tokens(&[token]));
        let file = format!("[callers.a]\n{line}\nroles = [\"read\"]\norganizations = [\"*\"]\n");
        assert!(
            Callers::parse("callers.toml", file.as_bytes())
                .unwrap()
                .has_tokens()
        );
        assert!(seen.insert((*token).to_owned()), "{token} came twice");
    }
}

#[test]
fn a_hash_is_the_sha256_of_the_tokens_bytes() {
    // Equal to the output of `printf %s abc | sha256sum`.
    let hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(TokenHash::of(b"abc").to_string(), hash);
    let file = |hash: &str| {
        let text = format!(
            "[callers.a]\ntokens = [\"{hash}\"]\nroles = [\"read\"]\norganizations = [\"*\"]\n"
        );
        Callers::parse("callers.toml", text.as_bytes())
    };
    assert!(file(&hash.to_uppercase().replace("SHA256", "sha256")).is_ok());
    for wrong in [&hash[7..], &hash[..70], "sha512:00", &format!("{hash}0")] {
        assert!(file(wrong).is_err(), "{wrong}");
    }
}
