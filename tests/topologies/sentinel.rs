//! A master that sentinels watch. Replication is asynchronous, so a failover may lose writes. The service must count
//! nothing twice, and continue.

use tonic_health::pb::health_check_response::ServingStatus;

use super::{reserve_of, start, start_with, used, wait_for_log, wait_for_not_ready};
use crate::support::{
    sentinels::{NAME, Sentinels},
    tollgate::Tollgate,
};

async fn serving(url: &str, settings: &str) -> Tollgate {
    let tollgate = start(url, settings);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    tollgate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_that_keeps_its_connections_is_left_at_the_first_write_that_it_refuses() {
    let sentinels = Sentinels::start();
    let tollgate = serving(&sentinels.url(), "").await;
    let client = tollgate.client();
    reserve_of(&client, "org-0", "before").await.unwrap();
    // As sentinels demote it, but without cutting connections. The sentinels notice, and reverse it.
    let [first, second] = &sentinels.servers;
    let port = second.port.to_string();
    first.run(&["REPLICAOF", "127.0.0.1", &port]);
    reserve_of(&client, "org-0", "demoted").await.unwrap_err();
    // A replica is not used as the master, though the sentinels still name it.
    wait_for_log(&tollgate, &["the server is a replica"]).await;
    first.run(&["REPLICAOF", "NO", "ONE"]);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let answer = reserve_of(&client, "org-0", "demoted").await.unwrap();
    assert!(!answer.replayed);
}

/// The rights that docs/CONFIGURATION.md names for a master that sentinels watch, and no others.
const LEAST_RIGHTS: [&str; 12] = [
    "~tollgate:*",
    "+hello",
    "+evalsha",
    "+eval",
    "+time",
    "+get",
    "+set",
    "+hmget",
    "+hset",
    "+expireat",
    "+hscan",
    "+role",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_have_a_password_of_their_own_and_the_least_rights_suffice_for_the_master() {
    let sentinels = Sentinels::start_with("watch");
    for server in &sentinels.servers {
        let user = ["ACL", "SETUSER", "gate", "reset", "on", ">secret"];
        server.run(&[&user[..], &LEAST_RIGHTS].concat());
    }
    let url = sentinels.url_of("gate:secret@");
    let tollgate = serving(&url, "[redis]\nsentinel_password = \"watch\"").await;
    let client = tollgate.client();
    assert_eq!(reserve_of(&client, "org-0", "r").await.unwrap().used, 1);
    assert_eq!(used(&client, "org-0").await, 1);
    // The least rights of a user for the sentinels, and the variable with its password.
    let rights = ["+hello", "+sentinel|get-master-addr-by-name"];
    sentinels.set_user(&[&["asks", "reset", "on", ">only"], &rights[..]].concat());
    let as_user = start_with(&url, "[redis]\nsentinel_user = \"asks\"", |command| {
        command.env("TOLLGATE_REDIS_SENTINEL_PASSWORD", "only");
    });
    as_user.wait_for_readiness(ServingStatus::Serving).await;
    for (settings, why) in [
        ("", "NOAUTH"),
        ("[redis]\nsentinel_password = \"hunter3\"", "WRONGPASS"),
    ] {
        let refused = start(&url, settings);
        wait_for_log(&refused, &["NOT_SERVING", "sentinels", why]).await;
        let secrets = ["hunter3", "secret"];
        let lines = refused.log();
        let is_loss =
            |line: &serde_json::Value| secrets.iter().any(|it| line.to_string().contains(it));
        assert!(!lines.iter().any(is_loss), "{lines:?}");
    }
    let unknown = url.replace(&format!("/{NAME}"), "/other");
    let unknown = start(&unknown, "[redis]\nsentinel_password = \"watch\"");
    wait_for_log(
        &unknown,
        &["NOT_SERVING", "a sentinel knows no master", "other"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_the_user_lacks_behind_sentinels_is_named() {
    let sentinels = Sentinels::start();
    let change_rights = |rules: &[&str]| {
        for server in &sentinels.servers {
            server.run(&[&["ACL", "SETUSER", "gate"], rules].concat());
        }
    };
    change_rights(&["reset", "on", ">secret"]);
    change_rights(&LEAST_RIGHTS);
    let url = sentinels.url_of("gate:secret@");
    let tollgate = serving(&url, "").await;
    change_rights(&["-expireat"]);
    wait_for_not_ready(&tollgate, "lacks +expireat").await;
    let status = reserve_of(&tollgate.client(), "org-0", "r").await;
    let status = status.unwrap_err();
    assert!(status.message().contains("lacks +expireat"), "{status:?}");
    change_rights(&["+expireat"]);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    // Each new connection to a master checks its role.
    change_rights(&["-role"]);
    let new = start(&url, "");
    for tollgate in [&tollgate, &new] {
        wait_for_not_ready(tollgate, "lacks +role").await;
    }
    change_rights(&["+role"]);
    new.wait_for_readiness(ServingStatus::Serving).await;
    // While the master answers, refusing sentinels have no effect.
    sentinels.set_user(&["default", "-sentinel"]);
    wait_for_log(
        &new,
        &[
            "WARN",
            "a sentinel refuses to name the master",
            "lacks +sentinel",
        ],
    )
    .await;
}
