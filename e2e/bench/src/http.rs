//! A client that does no more than a measurement needs: one connection that is kept, no copies, deadlines.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail};

/// Answers beyond this are an error, not a full memory.
const LARGEST: usize = 1 << 30;

#[derive(Debug)]
pub struct Http {
    address: String,
    timeout: Duration,
    connection: Option<BufReader<TcpStream>>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, if the status says that all is well.
    pub fn ok(self) -> anyhow::Result<Vec<u8>> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let text: String = self.text().chars().take(300).collect();
        bail!("HTTP {}: {text}", self.status)
    }
}

impl Http {
    /// `address` is host:port. `timeout` holds for each read and write.
    pub fn new(address: &str, timeout: Duration) -> Self {
        Self {
            address: address.to_string(),
            timeout,
            connection: None,
        }
    }

    pub fn get(&mut self, path: &str) -> anyhow::Result<Response> {
        self.request("GET", path, "text/plain", &[], b"")
    }

    pub fn post(&mut self, path: &str, content_type: &str, body: &[u8]) -> anyhow::Result<Response> {
        self.request("POST", path, content_type, &[], body)
    }

    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        head.push_str(&format!(
            "Content-Type: {content_type}\r\nContent-Length: {}\r\n",
            body.len()
        ));
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let reused = self.connection.is_some();
        match self.once(head.as_bytes(), body) {
            // A server may close a connection that was idle; it has not seen the request then.
            Err(error) if reused && is_closed(&error) => self.once(head.as_bytes(), body),
            other => other,
        }
    }

    fn once(&mut self, head: &[u8], body: &[u8]) -> anyhow::Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let stream = connection.get_mut();
        match body.len() < 16 * 1024 {
            // One packet instead of two.
            true => stream.write_all(&[head, body].concat())?,
            false => {
                stream.write_all(head)?;
                stream.write_all(body)?;
            }
        }
        let (response, keep) = read_response(&mut connection)?;
        if keep {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    fn connect(&self) -> anyhow::Result<BufReader<TcpStream>> {
        let address = self
            .address
            .to_socket_addrs()?
            .next()
            .context("the address is empty")?;
        let stream = TcpStream::connect_timeout(&address, self.timeout)
            .with_context(|| format!("nobody listens at {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(BufReader::with_capacity(256 * 1024, stream))
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(BrokenPipe | ConnectionReset | UnexpectedEof))
}

/// The response, and whether the connection can be used again.
fn read_response(from: &mut impl BufRead) -> anyhow::Result<(Response, bool)> {
    let first = line(from)?;
    let status: u16 = first
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .with_context(|| format!("`{first}` is not HTTP"))?;
    let (mut length, mut chunked, mut keep) = (None, false, true);
    loop {
        let header = line(from)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        match (name, value.trim()) {
            ("content-length", value) => length = Some(value.parse::<usize>()?),
            ("transfer-encoding", value) => chunked = value.contains("chunked"),
            ("connection", value) => keep = value != "close",
            _ => {}
        }
    }
    let mut body = Vec::new();
    match (length, chunked) {
        _ if status == 204 || status == 304 => {}
        (_, true) => read_chunks(from, &mut body)?,
        (Some(length), false) => read_exactly(from, length, &mut body)?,
        (None, false) => {
            keep = false;
            from.read_to_end(&mut body)?;
        }
    }
    Ok((Response { status, body }, keep))
}

fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> anyhow::Result<()> {
    loop {
        let head = line(from)?;
        let digits = head.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16).with_context(|| format!("`{head}` is no chunk"))?;
        if length == 0 {
            // Trailers, up to the empty line.
            while !line(from)?.is_empty() {}
            return Ok(());
        }
        read_exactly(from, length, body)?;
        line(from)?;
    }
}

fn read_exactly(from: &mut impl BufRead, length: usize, body: &mut Vec<u8>) -> anyhow::Result<()> {
    let start = body.len();
    if start + length > LARGEST {
        bail!("the answer is larger than {LARGEST} bytes");
    }
    body.resize(start + length, 0);
    from.read_exact(&mut body[start..])?;
    Ok(())
}

fn line(from: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

/// A value for a query string.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_with_a_length_and_a_body_in_chunks_are_read() {
        let mut plain = &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..];
        let (response, keep) = read_response(&mut plain).unwrap();
        assert_eq!(
            (response.status, response.text().as_str(), keep),
            (200, "hello", true)
        );
        let mut chunks =
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n"[..];
        assert_eq!(read_response(&mut chunks).unwrap().0.text(), "hello!");
        assert!(chunks.is_empty(), "the next response begins here");
    }

    #[test]
    fn an_answer_without_a_body_ends_with_its_head() {
        let mut empty = &b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1"[..];
        assert_eq!(read_response(&mut empty).unwrap().0.body, b"");
        assert_eq!(empty, b"HTTP/1.1");
    }

    #[test]
    fn a_query_string_is_escaped() {
        assert_eq!(escape("a b='x'"), "a%20b%3D%27x%27");
    }
}
