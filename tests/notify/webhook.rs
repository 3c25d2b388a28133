//! One POST to a receiver.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tollgate::notify::{Webhook, WebhookError, WebhookUrl};

use super::{
    notice_of,
    receiver::{Answer, Receiver},
};
use crate::support::free_port;

async fn post_to(url: &str) -> Result<(), WebhookError> {
    let webhook = Webhook::new(&WebhookUrl::parse(url).unwrap(), Duration::from_secs(1)).unwrap();
    webhook.post(&notice_of("org-acme", 95)).await
}

async fn answered(answer: Answer) -> Result<(), WebhookError> {
    post_to(&Receiver::start(&[answer]).await.url()).await
}

#[tokio::test]
async fn a_notice_is_one_post_of_json_with_its_id() {
    let receiver = Receiver::start(&[Answer::Status(200)]).await;
    post_to(&receiver.url()).await.unwrap();
    let [received] = &receiver.received()[..] else {
        panic!("one POST");
    };
    let mut head = received.head.lines();
    assert_eq!(head.next(), Some("POST /hooks/s3cret?key=s3cret HTTP/1.1"));
    let headers: Vec<String> = head.map(str::to_lowercase).collect();
    for header in [
        &format!("host: {}", receiver.addr),
        "content-type: application/json",
        "idempotency-key: org-acme/large/2026-11-30/95",
    ] {
        assert!(
            headers.iter().any(|it| it == header),
            "{header}: {headers:?}"
        );
    }
    let body = json!({
        "id": "org-acme/large/2026-11-30/95", "org": "org-acme", "pool": "large", "day": "2026-11-30",
        "threshold": 95, "used": 951_000, "external": 2_000, "allowance": 1_000_000,
        "noticed_at": "2026-11-30T14:03:07.500Z",
    });
    assert_eq!(received.body, body);
}

#[tokio::test]
async fn any_legal_name_has_an_id_of_its_own_in_ascii() {
    let receiver = Receiver::start(&[Answer::Status(200)]).await;
    let url = WebhookUrl::parse(&receiver.url()).unwrap();
    let webhook = Webhook::new(&url, Duration::from_secs(1)).unwrap();
    for (org, id) in [
        ("a/b", "a%2Fb/large/2026-11-30/80"),
        ("a%2Fb", "a%252Fb/large/2026-11-30/80"),
        ("Ä \"x\"", "%C3%84%20%22x%22/large/2026-11-30/80"),
    ] {
        webhook.post(&notice_of(org, 80)).await.unwrap();
        let received = receiver.received().pop().unwrap();
        assert!(
            received.head.contains(&format!(": {id}\r\n")),
            "{received:?}"
        );
        assert_eq!(
            (received.body["id"].as_str(), received.body["org"].as_str()),
            (Some(id), Some(org))
        );
    }
}

#[tokio::test]
async fn only_2xx_is_delivered_and_anything_else_is_said_in_words() {
    for code in [200, 201, 202, 204] {
        answered(Answer::Status(code)).await.unwrap();
    }
    for (answer, error) in [
        (Answer::Status(400), "the receiver answers 400 Bad Request"),
        (Answer::Status(410), "the receiver answers 410 Gone"),
        (
            Answer::Status(500),
            "the receiver answers 500 Internal Server Error",
        ),
        (
            Answer::RetryAfter("3"),
            "the receiver answers 503 Service Unavailable",
        ),
        (
            Answer::Redirect(302),
            "the receiver redirects (302), and redirects are not followed",
        ),
        (
            Answer::Redirect(308),
            "the receiver redirects (308), and redirects are not followed",
        ),
        (Answer::Hang, "the receiver does not answer within 1s"),
        (
            Answer::Slow(Duration::from_secs(5)),
            "the receiver does not answer within 1s",
        ),
        (
            Answer::Close,
            "no answer from the receiver: connection closed before message completed",
        ),
        (
            Answer::EndlessHead,
            "no answer from the receiver: message head is too large",
        ),
    ] {
        let receiver = Receiver::start(&[answer]).await;
        let refused = post_to(&receiver.url()).await.unwrap_err().to_string();
        assert_eq!(refused, error);
        assert_eq!(receiver.received().len(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_and_a_body_without_end_is_not_read() {
    answered(Answer::Slow(Duration::from_millis(300)))
        .await
        .unwrap();
    let receiver = Receiver::start(&[Answer::EndlessBody]).await;
    let began = Instant::now();
    post_to(&receiver.url()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let written = receiver.written();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(receiver.written(), written, "the connection is closed");
    assert!(written < 32 << 20, "{written}");
}

#[tokio::test]
async fn a_receiver_that_is_not_there_or_speaks_no_tls_is_said_in_words() {
    let url = format!("127.0.0.1:{}/s3cret", free_port());
    for scheme in ["http", "https"] {
        let error = post_to(&format!("{scheme}://{url}")).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains("Connection refused"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/s3cret", listener.local_addr().unwrap());
    let plaintext = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream
    };
    let (posted, _stream) = tokio::join!(post_to(&url), plaintext);
    let error = "no answer from the receiver: the port does not speak TLS: use http://";
    assert_eq!(posted.unwrap_err().to_string(), error);
}
