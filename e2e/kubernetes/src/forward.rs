//! Ways from the machine into the laboratory.
//!
//! A forwarder listens where it is started, on the machine's own loopback, and
//! dials from a thread that has moved into the control plane's namespace. The
//! machine itself needs no address, route or rule for that.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::addresses::{API_PORT, HOST_IP, HOST_NETNS};
use crate::layout::Lab;
use crate::process::Daemon;
use crate::progress::wait_until;
use crate::{dns, node_init};

/// The name that all records of forwarders begin with.
pub const PREFIX: &str = "forward-";

/// Where to dial: an address, or a name that the cluster's DNS knows, which is
/// asked for every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
}

impl std::str::FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            _ => bail!("{text:?} is not HOST:PORT"),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Starts a forwarder in the background; `down` ends it.
pub fn start(lab: &Lab, listen: SocketAddr, to: &Target) -> Result<()> {
    let (processes, name) = (lab.processes(), format!("{PREFIX}{listen}"));
    let daemon = Daemon::new(&name, lab.program()).args([
        "forward-serve".to_owned(),
        format!("--listen={listen}"),
        format!("--to={to}"),
    ]);
    if let Some(old) = processes.find(&name) {
        let same = old.command.last() == daemon.args.last();
        if same && old.is_alive() {
            return Ok(());
        }
        processes.stop(&name, Duration::from_secs(1))?;
    }
    if TcpStream::connect(listen).is_ok() {
        bail!("something else listens on {listen} already");
    }
    processes.start(&daemon)?;
    let listens = || {
        processes.expect_alive(&name)?;
        Ok(TcpStream::connect(listen).is_ok())
    };
    let (limit, pause) = (Duration::from_secs(5), Duration::from_millis(10));
    wait_until(&name, limit, pause, listens, || processes.tail(&name))
}

/// The forwarder that the administrator's kubeconfig points to.
pub fn start_api(lab: &Lab) -> Result<()> {
    let to = Target {
        host: HOST_IP.to_string(),
        port: API_PORT,
    };
    start(lab, SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT)), &to)
}

pub fn stop(lab: &Lab, listen: SocketAddr) -> Result<()> {
    lab.processes()
        .stop(&format!("{PREFIX}{listen}"), Duration::from_secs(1))
}

/// The forwarders that run: where they listen and what they dial.
pub fn list(lab: &Lab) -> Vec<(String, String)> {
    let processes = lab.processes();
    let forwarders = processes.names().into_iter().filter_map(|name| {
        let process = processes.find(&name).filter(|p| p.is_alive())?;
        let to = process.command.last()?.strip_prefix("--to=")?.to_owned();
        Some((name.strip_prefix(PREFIX)?.to_owned(), to))
    });
    forwarders.collect()
}

/// Serves until it is killed.
pub fn serve(listen: SocketAddr, to: &Target) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listening on {listen}"))?;
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let to = to.clone();
        thread::spawn(move || {
            if let Err(e) = connect(client, &to) {
                eprintln!("{to}: {e:#}");
            }
        });
    }
    Ok(())
}

/// Runs on a thread of its own, since the namespace belongs to the thread; the
/// threads that it starts inherit it.
fn connect(client: TcpStream, to: &Target) -> Result<()> {
    node_init::enter_network(HOST_NETNS)?;
    let address = SocketAddr::from((dns::resolve(&to.host)?, to.port));
    let server = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reader, server_writer) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || copy(client_reader, server_writer));
    copy(server, client);
    let _ = up.join();
    Ok(())
}

/// Copies until the end, and passes the end on: the other direction may go on.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let result = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    if result.is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_or_a_name_with_a_port() {
        let target: Target = "web.shop.svc:4000".parse().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("web.shop.svc", 4000));
        assert_eq!(target.to_string(), "web.shop.svc:4000");
        assert!("web".parse::<Target>().is_err());
        assert!(":80".parse::<Target>().is_err());
        assert!("web:http".parse::<Target>().is_err());
    }
}
