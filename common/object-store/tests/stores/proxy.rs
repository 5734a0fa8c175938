//! What can go wrong between a client and a server of HTTP, on demand.
//!
//! Requests and answers pass as they are, byte by byte, so that signatures hold; but for a header that ends the connection
//! after each answer.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

/// Of a request's first line and its headers; none of ours has more.
const MAX_HEAD: usize = 64 << 10;

#[derive(Debug)]
pub enum Fault {
    /// "503" without asking the server.
    Busy,
    /// The server does it, the client reads "503".
    BusyAfterwards,
    /// The server does it; then the connection ends without an answer.
    AnswerLost,
    /// The same, with a reset of the connection.
    Reset,
    /// The server does it; the answer comes so much later.
    AnswerAfter(Duration),
    /// The answer ends in the middle.
    AnswerCut,
    /// The server gets it when it is let go, and nobody gets the answer.
    Held(Gate),
}

/// Both ends of what [`Held`] waits with.
#[derive(Debug)]
pub struct Gate {
    opened: oneshot::Receiver<()>,
    answered: oneshot::Sender<u16>,
}

/// A request on its way.
pub struct Held {
    open: oneshot::Sender<()>,
    answer: oneshot::Receiver<u16>,
}

impl Held {
    /// Lets it go, and returns the status of what the server answers.
    pub async fn arrives(self) -> u16 {
        self.open
            .send(())
            .expect("the request was sent before it arrives");
        self.answer.await.expect("the server answers")
    }
}

/// A fault that waits for its request.
struct Planned {
    /// Any if empty.
    method: &'static str,
    fault: Fault,
}

#[derive(Default)]
struct Plan {
    next: VecDeque<Planned>,
    /// Answer everything with "503".
    is_busy: bool,
    /// Methods of the requests so far.
    seen: Vec<String>,
}

impl Plan {
    fn fault_of(&mut self, method: &str) -> Option<Fault> {
        self.seen.push(method.to_owned());
        let is_meant = |planned: &Planned| planned.method.is_empty() || planned.method == method;
        let at = self.next.iter().position(is_meant);
        at.and_then(|at| self.next.remove(at))
            .map(|planned| planned.fault)
            .or(self.is_busy.then_some(Fault::Busy))
    }
}

pub struct Proxy {
    pub address: String,
    plan: Arc<Mutex<Plan>>,
    accepting: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let plan = Arc::<Mutex<Plan>>::default();
        let (server, planned) = (server.to_owned(), Arc::clone(&plan));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, plan) = (server.clone(), Arc::clone(&planned));
                // One that fails is a client that has given up.
                connections.spawn(async move { serve(client, &server, &plan).await });
            }
        });
        Self {
            address,
            plan,
            accepting: accepting.abort_handle(),
        }
    }

    /// What happens to the next request that nothing else is planned for.
    pub fn next(&self, fault: Fault) {
        self.next_of("", fault);
    }

    /// What happens to the next request with this method.
    pub fn next_of(&self, method: &'static str, fault: Fault) {
        self.plan().next.push_back(Planned { method, fault });
    }

    /// The next request with this method does not arrive before it is let go.
    pub fn hold_next(&self, method: &'static str) -> Held {
        let (open, opened) = oneshot::channel();
        let (answered, answer) = oneshot::channel();
        self.next_of(method, Fault::Held(Gate { opened, answered }));
        Held { open, answer }
    }

    /// Whether every request that has no other fault is answered with "503" from now on.
    pub fn set_busy(&self, is_busy: bool) {
        self.plan().is_busy = is_busy;
    }

    /// Requests with this method so far.
    pub fn seen(&self, method: &str) -> usize {
        self.plan().seen.iter().filter(|seen| *seen == method).count()
    }

    /// Faults that are still to come.
    pub fn planned(&self) -> usize {
        self.plan().next.len()
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().expect("nobody panics with the plan")
    }
}

async fn serve(mut client: TcpStream, server: &str, plan: &Mutex<Plan>) -> io::Result<()> {
    let request = read_request(&mut client).await?;
    let method = request.split(|b| *b == b' ').next().unwrap_or_default();
    let method = String::from_utf8_lossy(method);
    let fault = plan
        .lock()
        .expect("nobody panics with the plan")
        .fault_of(&method);
    match fault {
        Some(Fault::Busy) => client.write_all(BUSY).await,
        Some(Fault::Held(gate)) => {
            // Without anybody who can let it go it never arrives.
            if gate.opened.await.is_ok() {
                let answer = ask(server, &request).await?;
                let _ = gate.answered.send(status_of(&answer));
            }
            Ok(())
        }
        fault => {
            let answer = ask(server, &request).await?;
            deliver(client, &answer, fault).await
        }
    }
}

const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

async fn deliver(mut client: TcpStream, answer: &[u8], fault: Option<Fault>) -> io::Result<()> {
    match fault {
        Some(Fault::AnswerLost) => Ok(()),
        Some(Fault::Reset) => client.set_zero_linger(),
        Some(Fault::BusyAfterwards) => client.write_all(BUSY).await,
        Some(Fault::AnswerCut) => client.write_all(&answer[..middle_of(answer)]).await,
        Some(Fault::AnswerAfter(pause)) => {
            tokio::time::sleep(pause).await;
            client.write_all(answer).await
        }
        _ => client.write_all(answer).await,
    }
}

/// Half of the body has been sent by then.
fn middle_of(answer: &[u8]) -> usize {
    let body = end_of_head(answer).unwrap_or(0);
    body + (answer.len() - body) / 2
}

/// One whole request, as it came but for the header that ends the connection.
async fn read_request(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let head = loop {
        if let Some(end) = end_of_head(&request) {
            break end;
        }
        if client.read_buf(&mut request).await? == 0 || request.len() > MAX_HEAD + (16 << 20) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let length = content_length(&request[..head]);
    while request.len() < head + length {
        if client.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let end_of_headers = head - b"\r\n".len();
    request.splice(end_of_headers..end_of_headers, *b"connection: close\r\n");
    Ok(request)
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

/// Clients of stores say how long a body is; none sends one in chunks.
fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    assert!(
        !head.contains("\r\ntransfer-encoding:"),
        "a request in chunks: {head}"
    );
    head.lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0)
}

async fn ask(server: &str, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(server).await?;
    server.write_all(request).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn status_of(answer: &[u8]) -> u16 {
    let line = String::from_utf8_lossy(answer.get(..64).unwrap_or(answer)).into_owned();
    let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("not an answer: {line}"))
}
