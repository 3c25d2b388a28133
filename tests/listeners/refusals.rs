//! Refused certificates show until they are fixed, and no longer.

use std::fs;

use super::tls::{https_get, read, section};
use crate::{
    metrics::refusals::shows_until_fixed,
    support::{
        calls::TextFile,
        certificates::{Authority, Files},
        tollgate::Tollgate,
    },
};

#[tokio::test]
async fn refused_certificates_of_either_port_show_until_they_are_fixed() {
    let authority = Authority::new();
    let sign = |name| authority.sign(name, &["tollgate.test"]);
    let (grpc, http, other) = (sign("grpc"), sign("http"), sign("other"));
    let settings = section("tls", &grpc, "") + &section("http_tls", &http, "");
    let settings = TextFile::new(&settings);
    let tollgate = Tollgate::start(&["--config", settings.path(), "--store", "memory:"]);
    let get = async |path: &'static str| https_get(&tollgate, &authority, path).await;
    for (of, Files { cert, key }) in [("tls", &grpc), ("http_tls", &http)] {
        let good = read(key);
        let foreign = || fs::write(key, read(&other.key)).unwrap();
        let back = || fs::write(key, &good).unwrap();
        shows_until_fixed(&tollgate, get, of, foreign, back).await;
        let follows = || fs::write(cert, read(&other.cert)).unwrap();
        shows_until_fixed(&tollgate, get, of, foreign, follows).await;
    }
}
