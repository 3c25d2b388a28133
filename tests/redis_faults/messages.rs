//! The server's own words of a refusal are shown, and secrets are not.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Instant,
};

use super::{WAIT_TIMEOUT, logged, not_ready_body, refused, start_without_waiting};
use crate::server::http_get;
use crate::support::{redis::RedisServer, tollgate::Tollgate};

/// Waits until readiness, an answer, the page and the log all have these words.
async fn wait_for_report(tollgate: &Tollgate, words: &str) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let status = refused(&tollgate.client(), 1, "r").await;
        let (_, page) = http_get(&tollgate.http_addr, "/api/quota?org=acme");
        let (head, body) = http_get(&tollgate.http_addr, "/readyz");
        let texts = [status.message(), &page, &body];
        let is_shown = texts.iter().all(|text| text.contains(words));
        if is_shown && logged(tollgate, &["NOT_SERVING", words]) {
            assert!(head.starts_with("HTTP/1.1 503"), "{head}");
            for text in texts {
                assert!(!text.contains("127.0.0.1"), "{text}");
            }
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{words:?}: {texts:?} {:?}",
            tollgate.log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// A server that gives these replies to commands, and a valid one to HELLO unless it is listed.
fn answers(answers: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move |mut caller: TcpStream| {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = caller.read(&mut bytes) {
            let request = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let known = answers
                .iter()
                .find(|(command, _)| request.contains(command));
            let answer = match known {
                Some((_, answer)) => answer,
                None if request.contains("HELLO") => "%1\r\n+proto\r\n:3\r\n",
                None => "-ERR unknown\r\n",
            };
            if caller.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    };
    thread::spawn(move || {
        for caller in listener.incoming() {
            thread::spawn(move || serve(caller.unwrap()));
        }
    });
    address.to_string()
}

#[tokio::test]
async fn a_missing_database_is_reported_in_the_servers_own_words() {
    let redis = RedisServer::start();
    let tollgate = start_without_waiting(&format!("{}/99", redis.url()), "");
    wait_for_report(&tollgate, "ERR DB index is out of range").await;
}

#[tokio::test]
async fn any_other_refusal_is_reported_in_the_servers_own_words_at_any_time() {
    for refuses in [
        &[("HELLO", "-FROZEN until noon\r\n")][..],
        &[
            ("INFO", "-FROZEN until noon\r\n"),
            // Reading works all the same.
            ("EVALSHA", "-FROZEN until noon\r\n"),
        ],
        &[("INFO", "$-1\r\n"), ("EVALSHA", "-FROZEN until noon\r\n")],
    ] {
        let tollgate = start_without_waiting(&format!("redis://{}", answers(refuses)), "");
        wait_for_report(&tollgate, "FROZEN until noon").await;
    }
}

#[tokio::test]
async fn a_login_that_a_server_repeats_is_shown_nowhere() {
    let echo =
        "-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'gate' 'hunter2' \r\n";
    let answers: &'static [(&str, &str)] = Vec::leak(vec![("HELLO", echo)]);
    let server = self::answers(answers);
    let url = format!("redis://gate:hunter2@{server}");
    let tollgate = start_without_waiting(&url, "log = \"trace\"");
    wait_for_report(&tollgate, "ERR unknown command 'HELLO'").await;
    assert!(!not_ready_body(&tollgate).contains("hunter2"));
    assert!(!logged(&tollgate, &["hunter2"]));
}

#[tokio::test]
async fn an_unreachable_server_is_reported_with_the_network_error() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = hangs.local_addr().unwrap();
    let closes = TcpListener::bind("127.0.0.1:0").unwrap();
    let closing = closes.local_addr().unwrap();
    thread::spawn(move || closes.incoming().for_each(drop));
    for (host, words) in [
        (
            "nowhere.invalid".to_owned(),
            "can't be reached: no such host",
        ),
        (silent.to_string(), "can't be reached: timed out"),
        (closing.to_string(), "can't be reached: connection reset"),
    ] {
        let tollgate = start_without_waiting(&format!("redis://{host}"), "");
        wait_for_report(&tollgate, words).await;
        // The log names the server.
        assert!(logged(&tollgate, &["NOT_SERVING", words, &host]));
    }
}
