//! docs/CONTRACT.md, "The program": how a real process starts, tells its health, and stops.

mod settings;
mod starting;
mod stopping;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// The status of a GET over HTTP.
fn http_status(addr: &str, path: &str) -> u16 {
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
    let status = answer.split(' ').nth(1).unwrap();
    status.parse().unwrap()
}
