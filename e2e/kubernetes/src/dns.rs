//! Just enough of DNS to find a service of the cluster by its name, for
//! programs that are not in a pod and thus have no resolver for it.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::addresses::{CLUSTER_DOMAIN, DNS_IP};

const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const HEADER: usize = 12;

/// Completes `web.shop`, `web.shop.svc` to the full name of the service; other
/// names stay as they are.
pub fn full_name(name: &str) -> String {
    let labels: Vec<_> = name.trim_end_matches('.').split('.').collect();
    match labels.as_slice() {
        [service, namespace] if *namespace != "lab" => format!("{service}.{namespace}.svc.{CLUSTER_DOMAIN}"),
        [.., "svc"] => format!("{}.{CLUSTER_DOMAIN}", labels.join(".")),
        _ => labels.join("."),
    }
}

/// Asks the cluster's DNS. The calling thread must be in a network namespace
/// that reaches it.
pub fn resolve(name: &str) -> Result<Ipv4Addr> {
    if let Ok(address) = name.parse() {
        return Ok(address);
    }
    let name = full_name(name);
    let id = u16::try_from(std::process::id() % 0x1_0000)?;
    let question = question(id, &name)?;
    let mut reason = String::new();
    // Datagrams get lost, most of all while a node dies.
    for _ in 0..5 {
        match ask(&question) {
            Ok(answer) => return parse_answer(id, &answer).with_context(|| format!("name {name}")),
            Err(e) => reason = e.to_string(),
        }
    }
    bail!("the cluster's DNS at {DNS_IP} does not answer: {reason}")
}

fn ask(question: &[u8]) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect((DNS_IP, 53))?;
    socket.send(question)?;
    let mut answer = vec![0; 1500];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn question(id: u16, name: &str) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    // One question, recursion desired.
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        ensure!((1..64).contains(&label.len()), "{name:?} is not a name");
        message.push(u8::try_from(label.len())?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(TYPE_A.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    Ok(message)
}

fn parse_answer(id: u16, message: &[u8]) -> Result<Ipv4Addr> {
    ensure!(word(message, 0)? == id, "an answer to another question");
    match word(message, 2)? & 0xf {
        0 => {}
        3 => bail!("does not exist"),
        code => bail!("the server fails with code {code}"),
    }
    let mut at = HEADER;
    for _ in 0..word(message, 4)? {
        at = skip_name(message, at)? + 4;
    }
    for _ in 0..word(message, 6)? {
        at = skip_name(message, at)?;
        let (kind, length) = (word(message, at)?, usize::from(word(message, at + 8)?));
        let data = message
            .get(at + 10..at + 10 + length)
            .context("the answer is cut off")?;
        if let (TYPE_A, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            return Ok(octets.into());
        }
        at += 10 + length;
    }
    bail!("has no address yet")
}

/// A name ends with an empty label or with a pointer to another place.
fn skip_name(message: &[u8], mut at: usize) -> Result<usize> {
    loop {
        match *message.get(at).context("the answer is cut off")? {
            0 => return Ok(at + 1),
            length if length & 0xc0 == 0xc0 => return Ok(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

fn word(message: &[u8], at: usize) -> Result<u16> {
    let bytes = message.get(at..at + 2).context("the answer is cut off")?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_may_be_named_in_short() {
        assert_eq!(full_name("web.shop"), "web.shop.svc.cluster.local");
        assert_eq!(full_name("web.shop.svc"), "web.shop.svc.cluster.local");
        assert_eq!(full_name("s3.lab"), "s3.lab");
        assert_eq!(
            full_name("web-0.web.shop.svc.cluster.local."),
            "web-0.web.shop.svc.cluster.local"
        );
    }

    #[test]
    fn an_answer_gives_the_address() {
        let mut answer = question(7, "web.shop").unwrap();
        answer[2..8].copy_from_slice(&[0x85, 0x00, 0, 1, 0, 1]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 3, 4]);
        assert_eq!(parse_answer(7, &answer).unwrap(), Ipv4Addr::new(10, 96, 3, 4));
        assert!(parse_answer(8, &answer).is_err());
        assert!(parse_answer(7, &answer[..answer.len() - 1]).is_err());
        answer[3] = 3;
        assert!(
            parse_answer(7, &answer)
                .unwrap_err()
                .to_string()
                .contains("does not exist")
        );
    }
}
