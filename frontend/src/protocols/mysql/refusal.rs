//! The answer to a login that is refused.
//!
//! The library answers it with a number and with words of its own (1698) and offers no choice. Clients and drivers
//! know a wrong password by 1045, so that from a refusal on our packet is sent in place of what the library writes.
//! It writes one packet then, and closes the connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use greptime_types::Error;
use tokio::io::AsyncWrite;

const SQLSTATE: &[u8] = b"#28000";

/// Set once, by the connection that refuses its login.
pub type Refusal = Arc<OnceLock<Error>>;

/// The way to the client.
pub struct Answers<W> {
    inner: W,
    refusal: Refusal,
    /// Our packet, and how much of it has been sent.
    packet: Option<(Vec<u8>, usize)>,
}

impl<W> Answers<W> {
    pub fn new(inner: W, refusal: Refusal) -> Self {
        Self {
            inner,
            refusal,
            packet: None,
        }
    }

    /// Whether the library's bytes are to be dropped. `header` is the first of them: length and number of a packet.
    fn is_refused(&mut self, header: &[u8]) -> bool {
        let Some(error) = self.refusal.get() else {
            return false;
        };
        if self.packet.is_none() {
            let sequence = header.get(3).copied().unwrap_or(2);
            self.packet = Some((error_packet(error, sequence), 0));
        }
        true
    }
}

fn error_packet(error: &Error, sequence: u8) -> Vec<u8> {
    let mut body = vec![0xff];
    body.extend(error.kind.codes().mysql.to_le_bytes());
    body.extend(SQLSTATE);
    body.extend(error.message.bytes());
    let mut packet = (body.len() as u32).to_le_bytes()[..3].to_vec();
    packet.push(sequence);
    packet.extend(body);
    packet
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Answers<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_refused(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let header = parts.first().map(|part| &part[..]).unwrap_or_default();
        if this.is_refused(header) {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        Pin::new(&mut this.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some((packet, sent)) = &mut this.packet {
            while *sent < packet.len() {
                let written = ready!(Pin::new(&mut this.inner).poll_write(cx, &packet[*sent..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                *sent += written;
            }
        }
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn bytes_pass_until_a_login_is_refused() {
        let refusal = Refusal::default();
        let mut sent = Vec::new();
        let mut answers = Answers::new(&mut sent, Arc::clone(&refusal));
        answers.write_all(b"hello").await.unwrap();
        refusal.set(Error::unauthenticated("no")).unwrap();
        let parts = [IoSlice::new(&[9, 0, 0, 2]), IoSlice::new(b"something")];
        assert_eq!(answers.write_vectored(&parts).await.unwrap(), 13);
        answers.flush().await.unwrap();
        answers.flush().await.unwrap();
        // 1045 is 0x0415.
        assert_eq!(sent, b"hello\x0b\0\0\x02\xff\x15\x04#28000no");
    }
}
