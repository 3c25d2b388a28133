//! Redis with a password, a database, or a unix socket.

use std::fs;

use tempfile::{NamedTempFile, TempDir};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{reserve_of, start, start_with, wait_for_log, wait_for_not_ready};
use crate::support::{free_port, redis::RedisServer};

/// Has all characters that a URL needs encoded.
const PASSWORD: &str = "p/a#s?s%w@o:r&d%41";
const ENCODED: &str = "p%2Fa%23s%3Fs%25w%40o%3Ar%26d%2541";

fn set_password(control: &mut redis::Connection, password: &str) {
    let mut command = redis::cmd("ACL");
    command.arg(&["SETUSER", "default", "resetpass", &format!(">{password}")]);
    command.query::<()>(control).unwrap();
}

#[tokio::test]
async fn a_password_with_special_characters_works_encoded_in_the_url_and_plain_in_a_setting() {
    let redis = RedisServer::start();
    set_password(&mut redis.connection(), PASSWORD);
    let encoded = format!("redis://:{ENCODED}@127.0.0.1:{}", redis.port);
    let setting = format!("[redis]\npassword = \"{PASSWORD}\"\n");
    for (url, settings, variable) in [
        (encoded.as_str(), "", ""),
        (&redis.url(), &setting, ""),
        (&redis.url(), "", PASSWORD),
        (&redis.url(), "[redis]\nusername = \"default\"\n", PASSWORD),
    ] {
        let tollgate = start_with(url, settings, |command| {
            command.env("TOLLGATE_REDIS_PASSWORD", variable);
        });
        tollgate.wait_for_readiness(ServingStatus::Serving).await;
        reserve_of(&tollgate.client(), "org-0", "").await.unwrap();
        assert!(!format!("{:?}", tollgate.log()).contains(PASSWORD));
    }
}

#[tokio::test]
async fn a_rotated_password_in_a_file_works_without_a_restart_and_a_missing_file_is_reported() {
    let redis = RedisServer::start();
    let control = &mut redis.connection();
    set_password(control, "first");
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), "first\n").unwrap();
    let settings = format!("[redis]\npassword_file = \"{}\"\n", file.path().display());
    let tollgate = start(&redis.url(), &settings);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let cut = |control: &mut redis::Connection| {
        let mut command = redis::cmd("CLIENT");
        command.arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
        command.query::<()>(control).unwrap();
    };
    set_password(control, "second");
    fs::write(file.path(), "second\n").unwrap();
    cut(control);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    reserve_of(&tollgate.client(), "org-0", "a").await.unwrap();
    fs::remove_file(file.path()).unwrap();
    cut(control);
    wait_for_not_ready(&tollgate, "redis.password_file").await;
    fs::write(file.path(), "second").unwrap();
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    assert!(!format!("{:?}", tollgate.log()).contains("second"));
}

#[tokio::test]
async fn the_database_is_the_one_of_the_setting() {
    let redis = RedisServer::start();
    let tollgate = start(&redis.url(), "[redis]\ndatabase = 3\n");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    reserve_of(&tollgate.client(), "org-0", "").await.unwrap();
    let keyspace = redis.info("keyspace");
    assert!(
        keyspace.contains("db3:") && !keyspace.contains("db0:"),
        "{keyspace}"
    );
}

#[tokio::test]
async fn redis_is_reached_at_a_unix_socket_and_a_missing_socket_is_reported() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("redis.sock");
    let url = format!("redis+unix://{}", path.display());
    let tollgate = start(
        &url,
        "[redis]\ndatabase = 2\nusername = \"default\"\npassword = \"p@\"\n",
    );
    wait_for_not_ready(&tollgate, "there is no such unix socket").await;
    wait_for_log(&tollgate, &["no such unix socket", path.to_str().unwrap()]).await;
    let options = ["--unixsocket", path.to_str().unwrap()];
    let redis = RedisServer::start_on(free_port(), None, &options);
    set_password(&mut redis.connection(), "p@");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    reserve_of(&tollgate.client(), "org-0", "").await.unwrap();
}
