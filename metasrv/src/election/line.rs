//! A connection to the metasrv that leads, by which the end of its process is noticed at once.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::defences::Defence;

/// A machine that is gone does not refuse, it is silent.
const DIAL_WITHIN: Duration = Duration::from_millis(500);
const DIAL_AGAIN: Duration = Duration::from_millis(100);

/// To whoever holds a lease.
#[derive(Debug, Default)]
pub struct Line {
    /// The lease of the process that is at the other end.
    lease: i64,
    /// There was a connection to it.
    was_up: bool,
    stream: Option<TcpStream>,
}

impl Line {
    /// Returns when the process that holds `lease` is gone: there was a connection to its address, it broke, and the
    /// address refuses another one. Silence says nothing, nor does an address that was never reached. What is dropped
    /// before it returns goes on with the next call.
    pub async fn until_gone(&mut self, address: &str, lease: i64) {
        if self.lease != lease {
            *self = Self {
                lease,
                ..Self::default()
            };
        }
        loop {
            match &mut self.stream {
                Some(stream) => {
                    let mut said = [0; 256];
                    // Whatever it says, it is there.
                    if !matches!(stream.read(&mut said).await, Ok(count) if count > 0) {
                        self.stream = None;
                        if !Defence::OnlyTheGoneAreFollowed.holds() {
                            return;
                        }
                    }
                }
                None => match tokio::time::timeout(DIAL_WITHIN, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => {
                        self.was_up = true;
                        self.stream = Some(stream);
                    }
                    Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused && self.was_up => return,
                    _ => tokio::time::sleep(DIAL_AGAIN).await,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const A_WHILE: Duration = Duration::from_millis(300);

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[tokio::test]
    async fn who_breaks_the_line_and_refuses_another_is_gone() {
        let (listener, address) = listener().await;
        let mut line = Line::default();
        // Also if nobody waits all the time.
        assert!(timeout(A_WHILE, line.until_gone(&address, 1)).await.is_err());
        let (stream, _) = listener.accept().await.unwrap();
        drop((stream, listener));
        timeout(SOON, line.until_gone(&address, 1)).await.unwrap();
    }

    #[tokio::test]
    async fn who_takes_another_line_is_there() {
        let (listener, address) = listener().await;
        let mut line = Line::default();
        let accept_all = async {
            loop {
                drop(listener.accept().await.unwrap());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let gone = timeout(A_WHILE, line.until_gone(&address, 1));
        tokio::select! {
            gone = gone => assert!(gone.is_err()),
            () = accept_all => {}
        }
    }

    #[tokio::test]
    async fn an_address_that_was_never_reached_says_nothing() {
        let (listener, address) = listener().await;
        drop(listener);
        let mut line = Line::default();
        assert!(timeout(A_WHILE, line.until_gone(&address, 1)).await.is_err());
    }

    #[tokio::test]
    async fn the_line_to_one_holder_says_nothing_of_the_next() {
        let (listener, address) = listener().await;
        let mut line = Line::default();
        assert!(timeout(A_WHILE, line.until_gone(&address, 1)).await.is_err());
        drop(listener);
        assert!(timeout(A_WHILE, line.until_gone(&address, 2)).await.is_err());
    }
}
