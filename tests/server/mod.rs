//! docs/CONTRACT.md, "The program": how a real process starts, reports health, and stops.

mod quotas;
mod settings;
mod sockets;
mod sources;
mod starting;
mod stopping;
mod stopping_streams;

pub use self::settings::settings_of;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// The status of a GET.
fn http_status(addr: &str, path: &str) -> u16 {
    let (head, _) = http_get(addr, path);
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The head and body of a GET.
pub fn http_get(addr: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
