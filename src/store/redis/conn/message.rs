//! The messages of errors of Redis, and of connections to it.
//!
//! They are one line of bounded length, without arguments that Redis repeats: these may hold a password, or the
//! names of other organizations. Hosts and keys stand in square brackets, which callers do not get
//! ([`StoreError::public_message`](crate::store::StoreError::public_message)).

use std::{error::Error as _, io, net::IpAddr};

use redis::{ErrorKind, RedisError};

pub(crate) const CONNECTION_RESET: &str = "connection reset";
pub(crate) const NO_SUCH_FILE: &str = "no such file";
const MAX_MESSAGE_BYTES: usize = 300;

/// Whether a server replied with this error.
pub(crate) fn is_server_error(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(_)
            | ErrorKind::Extension
            | ErrorKind::AuthenticationFailed
            | ErrorKind::RESP3NotSupported
    )
}

/// The message of an error. A server's error keeps the server's words.
pub(crate) fn message(error: &RedisError) -> String {
    if let Some(error) = io_error(error) {
        return io_message(error);
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => sanitize(&format!("{code} {detail}")),
        // Our own message.
        (_, Some(detail)) if matches!(error.kind(), ErrorKind::Client | ErrorKind::Io) => {
            detail.to_owned()
        }
        (_, Some(detail)) => sanitize(detail),
        _ => sanitize(&error.to_string()),
    }
}

/// The I/O error that caused this one.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    let source = error.source()?;
    if let Some(error) = source.downcast_ref::<io::Error>() {
        return Some(error);
    }
    let shared: &std::sync::Arc<dyn std::error::Error + Send + Sync> = source.downcast_ref()?;
    shared.downcast_ref()
}

fn io_message(error: &io::Error) -> String {
    use io::ErrorKind as K;
    let known = match error.kind() {
        K::ConnectionRefused => "connection refused",
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof => {
            CONNECTION_RESET
        }
        K::TimedOut => "timed out",
        K::HostUnreachable => "no route to host",
        K::NetworkUnreachable => "network unreachable",
        K::NotFound => NO_SUCH_FILE,
        K::PermissionDenied => "permission denied",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    let text = error.to_string();
    match text.split_once("failed to lookup address information: ") {
        Some((_, why)) => format!("no such host ({})", sanitize(why)),
        None => sanitize(&text),
    }
}

/// One bounded line, without arguments that Redis repeats and positions in our scripts; hosts and keys in
/// brackets.
pub(crate) fn sanitize(text: &str) -> String {
    let text = before(text, ", with args beginning with");
    let text = without_position(text);
    let mut cleaned = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        let word = word.replace('[', "(").replace(']', ")");
        let is_cut = cleaned.len() + word.len() > MAX_MESSAGE_BYTES;
        if !cleaned.is_empty() {
            cleaned.push(' ');
        }
        if is_cut {
            cleaned.push('…');
            break;
        } else if is_internal(&word) {
            cleaned.push_str(&format!("[{word}]"));
        } else {
            cleaned.push_str(&word);
        }
    }
    cleaned
}

/// Without the position in our script: ` script: <hash>, on @user_script:<line>.`
fn without_position(text: &str) -> &str {
    let position = text.rfind("user_script").map(|at| &text[..at]);
    let start = position.and_then(|before| before.rfind(" script: "));
    start.map_or(text, |start| &text[..start])
}

fn before<'a>(text: &'a str, sign: &str) -> &'a str {
    text.split_once(sign).map_or(text, |(before, _)| before)
}

/// Whether it is a key, which has a hash tag, or a server's address.
fn is_internal(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && !"[]{}".contains(c));
    if word.contains('{') || bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let port = bare.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;
    use crate::store::StoreError;

    fn message_of(text: &str) -> String {
        let value = parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("a reply");
        message(&value.extract_error().expect_err("an error"))
    }

    #[test]
    fn a_refusal_has_the_servers_own_words() {
        for text in [
            "ERR DB index is out of range",
            "NOAUTH Authentication required.",
            "FROZEN by the operator, until noon",
        ] {
            assert_eq!(message_of(text), text);
        }
    }

    #[test]
    fn arguments_that_a_server_repeats_are_left_out() {
        for quote in ['\'', '`'] {
            let text = format!(
                "ERR unknown command {quote}HELLOO{quote}, with args beginning with: {quote}3{quote} {quote}AUTH{quote} \
                 {quote}user{quote} {quote}hunter2{quote}"
            );
            assert_eq!(
                message_of(&text),
                format!("ERR unknown command {quote}HELLOO{quote}")
            );
        }
    }

    #[test]
    fn the_position_in_our_script_is_left_out() {
        let text = "ERR ACL failure in script: User a has no permissions to run the 'time' command";
        let place = "script: 5e61e08d2d04ae89ac12f0f98816b8b8d0e98021, on @user_script:2.";
        assert_eq!(message_of(&format!("{text} {place}")), text);
    }

    #[test]
    fn keys_and_hosts_stand_in_brackets() {
        assert_eq!(
            message_of("ERR no tollgate:{acme}:usage here, ask 10.0.0.7:6379 or [::1]:6380"),
            "ERR no [tollgate:{acme}:usage] here, ask [10.0.0.7:6379] or [(::1):6380]"
        );
    }

    #[test]
    fn callers_get_neither_keys_nor_hosts() {
        for (reason, public) in [
            ("connection refused [10.0.0.7:6379]", "connection refused"),
            ("timed out [[::1]:6379]", "timed out"),
            ("no [tollgate:{acme}:usage] here", "no here"),
        ] {
            let reason = reason.to_owned();
            let short = StoreError::Unreachable { reason }.public_message();
            assert_eq!(short, format!("it can't be reached: {public}"));
        }
    }

    #[test]
    fn a_message_is_one_bounded_line_without_control_characters() {
        let long = sanitize(&format!("ERR a\u{1b}[31m\u{7}b {}", "x ".repeat(1_000)));
        assert!(long.len() <= MAX_MESSAGE_BYTES + 8, "{long}");
        assert!(
            long.starts_with("ERR a (31m b x") && long.ends_with('…'),
            "{long}"
        );
        assert!(!long.chars().any(char::is_control));
        let one_word = sanitize(&"y".repeat(1_000));
        assert_eq!(one_word, "…");
    }

    #[test]
    fn a_connection_that_fails_has_the_operators_words() {
        for (kind, expected) in [
            (io::ErrorKind::ConnectionRefused, "connection refused"),
            (io::ErrorKind::ConnectionReset, "connection reset"),
            (io::ErrorKind::TimedOut, "timed out"),
        ] {
            let error = RedisError::from(io::Error::from(kind));
            assert_eq!(message(&error), expected);
        }
        let unknown = "failed to lookup address information: Name or service not known";
        let error = RedisError::from(io::Error::other(unknown));
        assert_eq!(message(&error), "no such host (Name or service not known)");
    }
}
