//! Packets, one at a time.
//!
//! The library reads as much as there is. When the beginning of a packet comes together with the one before it, it frees
//! the first while it still reads from it (opensrv-mysql 0.7, its issue 66). A client that sends its next command before
//! the answer to the last would have its statements mixed up, with those of others too. So no read gives bytes of two
//! packets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, BufReader, ReadBuf};

use crate::defences::Defence;

/// Length, in three bytes, and a number.
const HEADER: usize = 4;

/// The way from the client.
pub struct OneByOne<R> {
    inner: BufReader<R>,
    /// Of the packet under way, as far as it was given.
    header: Vec<u8>,
    /// Bytes of its body that are yet to be given.
    left: usize,
}

impl<R: AsyncRead> OneByOne<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner: BufReader::new(inner),
            header: Vec::with_capacity(HEADER),
            left: 0,
        }
    }
}

/// How many of these bytes belong to the packet under way, or to the next one if none is.
fn of_one(bytes: &[u8], header: &mut Vec<u8>, left: &mut usize) -> usize {
    if !Defence::OnePacketAtATime.holds() {
        return bytes.len();
    }
    let mut taken = 0;
    if *left == 0 {
        taken = bytes.len().min(HEADER - header.len());
        header.extend_from_slice(&bytes[..taken]);
        let [a, b, c, _] = header[..] else {
            return taken;
        };
        header.clear();
        *left = u32::from_le_bytes([a, b, c, 0]) as usize;
    }
    let body = (bytes.len() - taken).min(*left);
    *left -= body;
    taken + body
}

impl<R: AsyncRead + Unpin> AsyncRead for OneByOne<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left > 0 && this.inner.buffer().is_empty() {
            // A long body goes past our buffer.
            let most = this.left.min(out.remaining());
            let mut body = ReadBuf::new(out.initialize_unfilled_to(most));
            ready!(Pin::new(this.inner.get_mut()).poll_read(cx, &mut body))?;
            let read = body.filled().len();
            out.advance(read);
            this.left -= read;
            return Poll::Ready(Ok(()));
        }
        let Self { inner, header, left } = this;
        let mut inner = Pin::new(inner);
        let there = ready!(inner.as_mut().poll_fill_buf(cx))?;
        let room = there.len().min(out.remaining());
        let given = of_one(&there[..room], header, left);
        out.put_slice(&there[..given]);
        inner.consume(given);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn packet(length: usize) -> Vec<u8> {
        let mut packet = (length as u32).to_le_bytes();
        packet[3] = 9;
        [&packet[..], &vec![7; length][..]].concat()
    }

    #[tokio::test]
    async fn no_read_gives_bytes_of_two_packets() {
        const LENGTHS: [usize; 6] = [5, 0, 0, 100_000, 1, 3];
        // So many bytes come together.
        for come in [1, 3, 4, 64, 1 << 20] {
            let (mut client, server) = tokio::io::duplex(come);
            tokio::spawn(async move { client.write_all(&LENGTHS.map(packet).concat()).await });
            let mut packets = OneByOne::new(server);
            for length in LENGTHS {
                let mut given = Vec::new();
                while given.len() < HEADER + length {
                    let read = packets.read_buf(&mut given).await.unwrap();
                    assert!(read > 0, "the end comes too early");
                }
                assert!(
                    given == packet(length),
                    "{length} bytes, of which {come} come together"
                );
            }
            assert_eq!(packets.read(&mut [0; 10]).await.unwrap(), 0);
        }
    }
}
