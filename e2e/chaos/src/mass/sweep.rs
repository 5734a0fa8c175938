//! One row for each of many regions, all at once.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::tables::Place;
use crate::load;
use crate::numbers::rounded;
use crate::steps::Moment;

/// Requests under way, each by a connection of its own, so that a thousand regions do not wait for each other. Of more
/// regions, those beyond have to wait, and that counts.
const UNDER_WAY: usize = 1_024;

/// What became of the rows.
pub struct Sweep {
    /// When each region acknowledged its row, in the order of the answers.
    pub acknowledged: Vec<(Place, Instant)>,
    /// Why others did not.
    pub errors: Vec<String>,
}

impl Sweep {
    /// Milliseconds from a moment to each acknowledgement.
    pub fn times(&self, began: Moment) -> Vec<f64> {
        let times = self.acknowledged.iter().map(|(_, at)| began.until(*at));
        times.map(rounded).collect()
    }
}

/// Writes a row of this time to each region, once, and waits for all answers.
pub async fn sweep(
    client: &reqwest::Client,
    url: &str,
    places: impl Iterator<Item = Place>,
    time: i64,
) -> Result<Sweep> {
    let permits = Arc::new(Semaphore::new(UNDER_WAY));
    let mut writes = JoinSet::new();
    for place in places {
        let request = client.post(url).body(place.line(time));
        let permits = Arc::clone(&permits);
        writes.spawn(async move {
            let _permit = permits.acquire().await;
            let outcome = load::send(request).await;
            (place, outcome, Instant::now())
        });
    }
    let mut sweep = Sweep {
        acknowledged: Vec::new(),
        errors: Vec::new(),
    };
    while let Some(write) = writes.join_next().await {
        let (place, outcome, at) = write.context("a writer has failed")?;
        match outcome {
            Ok(()) => sweep.acknowledged.push((place, at)),
            Err(error) => sweep.errors.push(format!("{place}: {error:#}")),
        }
    }
    Ok(sweep)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Refuses every second request, and says which lines it was sent.
    fn serve(listener: &TcpListener, requests: usize) -> Vec<String> {
        let answer = |number: usize| match number % 2 {
            0 => "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
            _ => "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 4\r\n\r\nheld",
        };
        let lines = (0..requests).map(|number| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            let mut part = [0; 4096];
            while !text.contains("value=1 ") {
                let length = stream.read(&mut part).unwrap();
                text.push_str(std::str::from_utf8(&part[..length]).unwrap());
            }
            stream.write_all(answer(number).as_bytes()).unwrap();
            text.lines().last().unwrap_or_default().to_owned()
        });
        lines.collect()
    }

    #[tokio::test]
    async fn a_write_that_fails_is_an_error_and_is_not_repeated() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/write", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || serve(&listener, 4));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let places = (0..4).map(|number| Place { table: 0, number });
        let swept = sweep(&client, &url, places, 17).await.unwrap();
        let mut lines = server.join().unwrap();
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 4, "each region was written to: {lines:?}");
        assert_eq!((swept.acknowledged.len(), swept.errors.len()), (2, 2));
        assert!(
            swept.errors[0].ends_with("503 Service Unavailable: held"),
            "{:?}",
            swept.errors
        );
    }
}
