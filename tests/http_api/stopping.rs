//! The end of the service while a call over HTTP is open.

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Service, new_reserve, post};
use crate::support::redis::RedisServer;

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn an_open_call_is_answered_before_the_service_ends() {
    let redis = RedisServer::start();
    let settings = "drain_delay = \"0s\"\ngrace_period = \"60s\"\ncall_timeout = \"60s\"\n\
                    [redis]\nresponse_timeout = \"60s\"\n";
    let mut service = Service::start_with(settings, &["--store", &redis.url()]);
    let tollgate = &mut service.tollgate;
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let addr = tollgate.http_addr.clone();
    let call = {
        let addr = addr.clone();
        let body = new_reserve(10, "open").to_string();
        thread::spawn(move || post(&addr, "Reserve", &body, &[]))
    };
    wait_until("the call does not reach Redis", || {
        redis.info("clients").contains("blocked_clients:1")
    });
    tollgate.signal(Signal::SIGTERM);
    wait_until("the port is still open", || {
        TcpStream::connect(&addr).is_err()
    });
    assert!(!tollgate.has_ended());
    redis.run(&["CLIENT", "UNPAUSE"]);
    assert_eq!(call.join().unwrap().expect_ok()["used"], 10);
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
}
