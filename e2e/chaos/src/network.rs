//! A network of our own: a namespace for each process of the cluster, with a cable to the hub, where this program is.
//!
//! ```text
//!   hub          this program; passes packets on          10.215.0.1
//!    |dn0         |dn1         |meta0       |front ...
//!   dn0          dn1          meta0        front          eth0 10.215.0.10, .11, ...
//! ```
//!
//! The hub routes and does not bridge: all packets between two processes pass its FORWARD chain, by cables. What is cut
//! is dropped there, on its way, so that neither side notices anything but silence. The addresses exist in these
//! namespaces only, and two runs have namespaces of different names.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use greptime_lab::shell;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::owner;

const HUB_IP: &str = "10.215.0.1";
const FIRST_SITE: usize = 10;
const FIRST_PORT: u16 = 4000;

pub enum Network {
    /// All processes on this machine's loopback. Nothing can be cut.
    Loopback,
    Own(Namespaces),
}

/// The namespaces of this run. They are removed when this is dropped.
pub struct Namespaces {
    /// The hub, then one for each site.
    made: Mutex<Vec<String>>,
}

/// Where a process of the cluster lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its end of the cable in the hub, with its namespace; none on the loopback.
    cable: Option<(String, String)>,
    pub ip: String,
}

/// Which packets of a site are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    Everything,
    /// Those to it: the others hear it.
    Incoming,
    /// Those from it: it hears the others.
    Outgoing,
    /// Those between it and some others.
    From(&'a [&'a Site]),
}

impl Network {
    /// Makes the hub and moves the calling thread there. Threads that it starts later are there too; so this is called
    /// before there are others.
    pub fn own() -> Result<Self> {
        let hub = owner::name("hub");
        make_namespace(&hub)?;
        let namespaces = Namespaces {
            made: Mutex::new(vec![hub.clone()]),
        };
        let file = File::open(path(&hub))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("the namespace cannot be entered")?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("the hub cannot route")?;
        // A site has to be cut at once when a fault needs it.
        set_rules(&[]).context("iptables does not work")?;
        Ok(Self::Own(namespaces))
    }

    /// A place for a process, which is there for the next one when this one has ended. `name`: at most fifteen letters, as
    /// that of a network device.
    pub fn site(&self, name: &str) -> Result<Site> {
        match self {
            Self::Loopback => Ok(Site {
                cable: None,
                ip: "127.0.0.1".to_owned(),
            }),
            Self::Own(namespaces) => namespaces.site(name),
        }
    }

    /// Loses packets of a site, and no others any more.
    pub fn cut(&self, site: &Site, cut: Cut<'_>) -> Result<()> {
        set_rules(&rules(site, cut).context("on the loopback nothing can be cut")?)
    }

    /// No packet reaches any of the sites or leaves it.
    pub fn cut_off(&self, sites: &[&Site]) -> Result<()> {
        let cut: Option<Vec<_>> = sites.iter().map(|site| rules(site, Cut::Everything)).collect();
        set_rules(&cut.context("on the loopback nothing can be cut")?.concat())
    }

    pub fn heal(&self) -> Result<()> {
        match self {
            Self::Loopback => Ok(()),
            Self::Own(_) => set_rules(&[]),
        }
    }
}

impl Namespaces {
    fn made(&self) -> MutexGuard<'_, Vec<String>> {
        // Nobody panics while holding it.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn site(&self, name: &str) -> Result<Site> {
        let mut made = self.made();
        let (hub, netns) = (made[0].clone(), owner::name(name));
        let known = made.iter().position(|known| *known == netns);
        let ip = format!("10.215.0.{}", FIRST_SITE + known.unwrap_or(made.len()));
        let site = Site {
            cable: Some((name.to_owned(), netns.clone())),
            ip: ip.clone(),
        };
        if known.is_some() {
            return Ok(site);
        }
        make_namespace(&netns)?;
        for command in [
            format!("ip -n {hub} link add {name} type veth peer name eth0 netns {netns}"),
            format!("ip -n {hub} address add {HUB_IP}/32 dev {name}"),
            format!("ip -n {hub} link set {name} up"),
            format!("ip -n {hub} route add {ip}/32 dev {name}"),
            format!("ip -n {netns} address add {ip}/32 dev eth0"),
            format!("ip -n {netns} link set eth0 up"),
            format!("ip -n {netns} route add {HUB_IP}/32 dev eth0"),
            format!("ip -n {netns} route add default via {HUB_IP}"),
        ] {
            shell::line(&command)?;
        }
        made.push(netns);
        Ok(site)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for netns in self.made().iter().rev() {
            // The next run finds what stays.
            let _ = shell::line(&format!("ip netns delete {netns}"));
        }
    }
}

impl Site {
    /// Ports on which nothing listens.
    pub fn ports<const N: usize>(&self) -> Result<[u16; N]> {
        let mut ports = [0; N];
        if self.cable.is_some() {
            for (port, number) in ports.iter_mut().zip(FIRST_PORT..) {
                *port = number;
            }
            return Ok(ports);
        }
        // All are taken before one is given back, so that they differ.
        let listeners: Vec<TcpListener> = (0..N)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<std::io::Result<_>>()?;
        for (port, listener) in ports.iter_mut().zip(&listeners) {
            *port = listener.local_addr()?.port();
        }
        Ok(ports)
    }

    pub fn address(&self, port: u16) -> String {
        format!("{}:{port}", self.ip)
    }

    /// Bytes that came from it, with their headers; nothing on the loopback, where they are not told apart.
    pub fn sent(&self) -> Result<Option<u64>> {
        let Some((cable, _)) = &self.cable else {
            return Ok(None);
        };
        let counters = fs::read_to_string("/proc/thread-self/net/dev")?;
        Ok(received(&counters, cable))
    }

    /// What runs a program there. It becomes that program, so that its number is that of the program.
    pub fn command(&self, program: &Path) -> Command {
        let Some((_, netns)) = &self.cable else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", path(netns).display()))
            .arg(program);
        command
    }
}

/// What a network device has received, in bytes.
fn received(counters: &str, device: &str) -> Option<u64> {
    let devices = counters.lines().filter_map(|line| line.trim().split_once(':'));
    let (_, numbers) = devices.into_iter().find(|(name, _)| *name == device)?;
    numbers.split_whitespace().next()?.parse().ok()
}

fn path(netns: &str) -> PathBuf {
    Path::new("/run/netns").join(netns)
}

fn make_namespace(netns: &str) -> Result<()> {
    shell::line(&format!("ip netns add {netns}"))?;
    shell::line(&format!("ip -n {netns} link set lo up")).map(drop)
}

/// The rules of a cut: which packets are dropped in the hub; none if there is no hub.
fn rules(site: &Site, cut: Cut<'_>) -> Option<Vec<String>> {
    let cable = |site: &Site| site.cable.as_ref().map(|(cable, _)| cable.clone());
    let own = cable(site)?;
    let said = [format!("FORWARD -i {own}"), format!("INPUT -i {own}")];
    let heard = [format!("FORWARD -o {own}"), format!("OUTPUT -o {own}")];
    let between = |other: String| {
        [
            format!("FORWARD -i {own} -o {other}"),
            format!("FORWARD -i {other} -o {own}"),
        ]
    };
    Some(match cut {
        Cut::Everything => [said, heard].concat(),
        Cut::Incoming => heard.to_vec(),
        Cut::Outgoing => said.to_vec(),
        Cut::From(others) => {
            let pairs = others.iter().map(|other| cable(other).map(between));
            pairs.collect::<Option<Vec<_>>>()?.concat()
        }
    })
}

/// In the place of all rules of the hub, at once.
fn set_rules(rules: &[String]) -> Result<()> {
    let lines: String = rules.iter().map(|rule| format!("-A {rule} -j DROP\n")).collect();
    let mut restore = Command::new("iptables-restore");
    shell::feed(restore.arg("-w"), &format!("*filter\n{lines}COMMIT\n")).map(drop)
}

/// Removes the namespaces of runs that were killed, with the processes in them.
pub fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for netns in names.filter(|name| owner::is_left_behind(name)) {
        println!("removing {netns}, which a killed run has left behind");
        let pids = shell::line(&format!("ip netns pids {netns}")).unwrap_or_default();
        let pids = pids.lines().filter_map(|pid| pid.trim().parse().ok());
        for pid in pids.filter_map(Pid::from_raw) {
            // It may end by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        // A name without a namespace behind it is tried again by the next run.
        let _ = shell::line(&format!("ip netns delete {netns}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> Site {
        Site {
            cable: Some((name.to_owned(), format!("ns-{name}"))),
            ip: "10.215.0.11".to_owned(),
        }
    }

    #[test]
    fn a_site_that_is_cut_off_neither_says_nor_hears() {
        let rules = rules(&site("dn0"), Cut::Everything).unwrap();
        let wanted = [
            "FORWARD -i dn0",
            "INPUT -i dn0",
            "FORWARD -o dn0",
            "OUTPUT -o dn0",
        ];
        assert_eq!(rules, wanted);
    }

    #[test]
    fn one_direction_and_one_pair_leave_the_rest_alone() {
        let (dn0, meta) = (site("dn0"), site("meta"));
        let outgoing = ["FORWARD -i dn0", "INPUT -i dn0"];
        assert_eq!(rules(&dn0, Cut::Outgoing).unwrap(), outgoing);
        let pair = ["FORWARD -i dn0 -o meta", "FORWARD -i meta -o dn0"];
        assert_eq!(rules(&dn0, Cut::From(&[&meta])).unwrap(), pair);
        let two = rules(&dn0, Cut::From(&[&site("dn1"), &meta])).unwrap();
        assert_eq!((two.len(), &two[2..]), (4, &pair.map(str::to_owned)[..]));
    }

    #[test]
    fn a_cable_is_found_by_its_whole_name() {
        let counters = "Inter-|   Receive  |  Transmit\n face |bytes    packets |bytes\n  dn0: 17 2 0 0\n dn01:  9 1 0 0\n";
        assert_eq!(received(counters, "dn0"), Some(17));
        assert_eq!(received(counters, "dn01"), Some(9));
        assert_eq!(received(counters, "front"), None);
    }

    #[test]
    fn on_the_loopback_nothing_is_cut() {
        let site = Network::Loopback.site("dn0").unwrap();
        assert!(Network::Loopback.cut(&site, Cut::Everything).is_err());
    }
}
