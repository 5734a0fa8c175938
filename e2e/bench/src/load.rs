//! Writes pre-encoded batches as fast as a server takes them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use greptime_clock::SharedClock;

use crate::http::Http;

/// Where a server takes batches.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: String,
    pub path: String,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, &'static str)>,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loaded {
    /// From the first byte to the last acknowledgement, in seconds.
    pub seconds: f64,
    /// Batches that were refused for a while and sent again.
    pub retries: usize,
}

const TIMEOUT: Duration = Duration::from_secs(60);
/// A server that pushes back is given so many chances for each batch.
const ATTEMPTS: usize = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// Sends all batches over `connections` connections; every batch is acknowledged once.
pub fn run(
    target: &Target,
    batches: &[Vec<u8>],
    connections: usize,
    clock: &SharedClock,
) -> anyhow::Result<Loaded> {
    let (next, retries, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let start = clock.now();
    let outcome = std::thread::scope(|scope| {
        let worker = || -> anyhow::Result<()> {
            let mut http = Http::new(&target.address, TIMEOUT);
            while !stop.load(Ordering::Relaxed) {
                let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                let result = send(&mut http, target, batch, &retries);
                if result.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                result?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(worker)).collect();
        let joined = workers
            .into_iter()
            .map(|w| w.join().map_err(|_| anyhow!("a writer panicked"))?);
        joined.collect::<anyhow::Result<Vec<()>>>()
    });
    outcome?;
    let seconds = (clock.now() - start).as_secs_f64();
    Ok(Loaded {
        seconds,
        retries: retries.load(Ordering::Relaxed),
    })
}

fn send(http: &mut Http, target: &Target, batch: &[u8], retries: &AtomicUsize) -> anyhow::Result<()> {
    for attempt in 1.. {
        let response = http.request("POST", &target.path, target.content_type, &target.headers, batch)?;
        // InfluxDB says `timeout` with status 500 when it is behind; the set's own loader sends again too.
        let is_late = response.status == 500 && response.text().contains("timeout");
        let again = (is_late || matches!(response.status, 429 | 503)) && attempt < ATTEMPTS;
        if !again {
            response.ok()?;
            return Ok(());
        }
        retries.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use greptime_clock::SystemClock;

    use super::*;

    /// Refuses every second request with `refusal`, and keeps the bodies of the others.
    fn server(refusal: u16) -> (Target, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (to, asked) = (Arc::clone(&taken), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (to, asked) = (Arc::clone(&to), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream, refusal, &to, &asked));
            }
        });
        let target = Target {
            address,
            path: "/write".into(),
            content_type: "text/plain",
            headers: Vec::new(),
        };
        (target, taken)
    }

    fn serve(mut stream: TcpStream, refusal: u16, taken: &Mutex<Vec<String>>, asked: &AtomicUsize) {
        let mut from = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if from.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            from.read_exact(&mut body).unwrap();
            let refused = asked.fetch_add(1, Ordering::SeqCst) % 2 == 1;
            if !refused {
                taken.lock().unwrap().push(String::from_utf8(body).unwrap());
            }
            let status = if refused { refusal } else { 204 };
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    }

    fn bodies(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|n| format!("batch {n:02}").into_bytes()).collect()
    }

    #[test]
    fn every_batch_is_taken_once_also_by_a_server_that_pushes_back() {
        let (target, taken) = server(503);
        let batches = bodies(6);
        let loaded = run(&target, &batches, 2, &SystemClock::shared()).unwrap();
        let mut taken = taken.lock().unwrap().clone();
        taken.sort();
        assert_eq!(taken.len(), 6);
        assert!(
            taken.iter().zip(&batches).all(|(t, b)| t.as_bytes() == b),
            "{taken:?}"
        );
        assert!(loaded.retries >= 5, "{loaded:?}");
    }

    #[test]
    fn an_error_of_the_server_ends_the_load() {
        let (target, _) = server(400);
        let error = run(&target, &bodies(4), 1, &SystemClock::shared()).unwrap_err();
        assert!(error.to_string().contains("HTTP 400"), "{error}");
    }
}
