#![allow(clippy::unwrap_used)]

use super::*;

fn display(text: &str) -> String {
    RedisUrl::parse(text).unwrap().to_string()
}

#[test]
fn a_url_is_shown_without_user_and_password() {
    for (text, wanted) in [
        ("redis://u:p%40@h:7000/3", "redis://h:7000/3"),
        ("rediss://:p@h", "rediss://h:6379/0"),
        (
            "redis+sentinel://u:p@a:1,b/main/2",
            "redis+sentinel://a:1,b:26379/main/2",
        ),
        ("rediss+sentinel://a:1/main", "rediss+sentinel://a:1/main/0"),
        (
            "redis+cluster://u:p@a:1,[::1]:2",
            "redis+cluster://a:1,[::1]:2",
        ),
        ("rediss+cluster://a:1/0", "rediss+cluster://a:1"),
        (
            "redis+unix:///run/a b@c.sock",
            "redis+unix:///run/a b@c.sock",
        ),
    ] {
        assert_eq!(display(text), wanted);
    }
}

#[test]
fn user_password_and_database_are_those_of_every_host() {
    let url = RedisUrl::parse("redis+sentinel://u:p%40@a:1,b:2/main/5").unwrap();
    let login = Login {
        username: Some("u".to_owned()),
        password: Some(Password::Text("p@".to_owned())),
        database: Some(5),
    };
    assert_eq!(url.login, login);
    assert_eq!(url.hosts, [Host::new("a", 1), Host::new("b", 2)]);
    assert_eq!(url.topology, Topology::Sentinel("main".to_owned()));
}

#[test]
fn an_invalid_url_is_refused_without_repeating_it() {
    for (text, why) in [
        ("redis+sentinel://u:secret@a:1", "names no master"),
        ("redis+sentinel://u:secret@a:1/main/x", "database"),
        ("redis+cluster://u:secret@a:1/2", "no databases"),
        ("redis+cluster://u:secret@a:1,", "no Redis URL"),
        ("redis+other://u:secret@a:1", "is none of"),
        ("redis://u:secret@a:1,b:2", "several hosts"),
        ("rediss://u:secret@a:1/#insecure", "#insecure"),
        ("redis://u:secret@a:x", "no Redis URL"),
        ("redis://u:secret@a:65536", "between 1 and 65535"),
        ("redis://u:secret@[::1]:0/3", "between 1 and 65535"),
        (
            "redis+sentinel://u:secret@a:1,b:70000/main",
            "between 1 and 65535",
        ),
        (
            "rediss+cluster://u:secret@a:1,b:99999999999",
            "between 1 and 65535",
        ),
    ] {
        let fault = RedisUrl::parse(text).unwrap_err();
        assert!(fault.contains(why), "{text}: {fault}");
        assert!(!fault.contains("secret"), "{fault}");
    }
}

#[test]
fn an_unencoded_special_character_in_a_password_gets_a_hint() {
    for scheme in ["redis", "rediss", "redis+sentinel", "redis+cluster"] {
        for special in ["/", "#", "?", "%", "%zz", "/3?x=", "1/2"] {
            let path = if scheme == "redis+sentinel" {
                "/main"
            } else {
                ""
            };
            let text = format!("{scheme}://user:12{special}secret@host:1{path}");
            let fault = RedisUrl::parse(&text).unwrap_err();
            assert!(fault.contains("percent-encode"), "{text}: {fault}");
            assert!(fault.contains("redis.password"), "{text}: {fault}");
            assert!(!fault.contains("secret"), "{fault}");
        }
    }
}

#[test]
fn a_query_or_a_fragment_is_refused_by_its_name_and_not_its_value() {
    for (text, why) in [
        ("redis://h/?db=3value", "db (say /3"),
        ("redis://h?db=3value", "redis.database"),
        ("redis://h/0?timeout=value&db=value", "timeout, db (say"),
        ("redis://h/?password=value", "redis.password"),
        ("redis+sentinel://h/main?db=3value", "redis.database"),
        ("redis+cluster://h:1?user=value", "redis.username"),
        ("redis+unix:///run/redis.sock?db=3value", "redis.database"),
        ("redis+unix:///run/redis.sock#value", "fragment"),
        ("redis://h/#value", "fragment"),
        ("redis://h#value", "fragment"),
        ("redis://h/?%76alue", "query"),
    ] {
        let fault = RedisUrl::parse(text).unwrap_err();
        assert!(fault.contains(why), "{text}: {fault}");
        assert!(!fault.contains("value"), "{text}: {fault}");
    }
}

#[test]
fn a_socket_is_named_by_its_absolute_path() {
    let url = RedisUrl::parse("redis+unix:///run/redis.sock").unwrap();
    assert_eq!(
        url.hosts[0].address(),
        ConnectionAddr::Unix("/run/redis.sock".into())
    );
    for text in [
        "redis+unix://run/redis.sock",
        "redis+unix://u:secret@/run/redis.sock",
        "redis+unix://",
        "redis+unix:///",
    ] {
        let fault = RedisUrl::parse(text).unwrap_err();
        assert!(fault.contains("absolute path"), "{text}: {fault}");
        assert!(!fault.contains("secret"), "{fault}");
    }
    let fault = RedisUrl::parse("rediss+unix:///run/redis.sock").unwrap_err();
    assert!(fault.contains("no TLS"), "{fault}");
}

#[test]
fn a_redirection_without_a_name_is_to_the_host_that_redirected() {
    let from = Host::new("here", 1);
    assert_eq!(
        Host::of_redirection(":7", &from),
        Some(Host::new("here", 7))
    );
    assert_eq!(
        Host::of_redirection("::1:7", &from),
        Some(Host::new("::1", 7))
    );
    assert_eq!(
        Host::of_redirection("there:7", &from),
        Some(Host::new("there", 7))
    );
    assert_eq!(Host::of_redirection("there", &from), None);
}

#[test]
fn characters_that_only_a_password_can_have_need_no_encoding() {
    let url = RedisUrl::parse("redis://u:p@:s@host").unwrap();
    let password = url.login().password.clone();
    assert_eq!(password, Some(Password::Text("p@:s".to_owned())));
}
