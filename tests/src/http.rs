//! The little HTTP that the servers on loopback need: one request, one answer, one connection.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::error::FixtureError;

/// A server's answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code, e.g. 200.
    pub status: u16,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// [`request_with`], with a body that is JSON.
///
/// # Errors
/// As [`request_with`].
pub fn request(
    port: u16,
    method: &str,
    path: &str,
    body: &[u8],
    limit: Duration,
) -> Result<Answer, FixtureError> {
    request_with(port, method, path, &[("Content-Type", "application/json")], body, limit)
}

/// Sends one request to a port of 127.0.0.1 and reads the answer to its end.
///
/// Speaks HTTP/1.0 on purpose: the server then neither chunks its answer nor keeps the connection.
///
/// # Errors
/// [`FixtureError::Io`] if nobody listens, or if the server is silent for longer than `limit` at any point;
/// [`FixtureError::Answer`] if it does not speak HTTP.
pub fn request_with(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
) -> Result<Answer, FixtureError> {
    let what = format!("{method} http://127.0.0.1:{port}{path}");
    let exchange = || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let length = body.len();
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n{more}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(FixtureError::io(&*what))?;
    parse(&answer).ok_or_else(|| FixtureError::answer(what, String::from_utf8_lossy(&answer)))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: answer[end + 4..].to_vec() })
}
