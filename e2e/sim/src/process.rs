//! Processes: where they are, whether they run, and what their clocks say.

use std::fmt;
use std::time::Duration;

use greptime_types::NodeId;

use crate::sim::Micros;

pub const METASRVS: u8 = 3;
pub const DATANODES: u8 = 5;
pub const FRONTENDS: u8 = 2;
/// All addresses: processes, etcd and the bucket.
pub const ADDRESSES: usize = (METASRVS + DATANODES + FRONTENDS + 2) as usize;

/// An address, at which at most one process is at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub u8);

pub const ETCD: Address = Address(METASRVS + DATANODES + FRONTENDS);
pub const BUCKET: Address = Address(ETCD.0 + 1);

impl Address {
    pub const fn metasrv(n: u8) -> Self {
        Self(n)
    }

    pub const fn datanode(node: NodeId) -> Self {
        Self(METASRVS + node as u8)
    }

    pub const fn frontend(n: u8) -> Self {
        Self(METASRVS + DATANODES + n)
    }

    pub fn metasrvs() -> impl Iterator<Item = Self> {
        (0..METASRVS).map(Self)
    }

    pub fn datanodes() -> impl Iterator<Item = Self> {
        (METASRVS..METASRVS + DATANODES).map(Self)
    }

    pub fn frontends() -> impl Iterator<Item = Self> {
        (METASRVS + DATANODES..ETCD.0).map(Self)
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub fn is_datanode(self) -> bool {
        (METASRVS..METASRVS + DATANODES).contains(&self.0)
    }

    /// The id of the datanode that is there.
    pub fn node(self) -> NodeId {
        NodeId::from(self.0.saturating_sub(METASRVS))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n < METASRVS => write!(f, "metasrv-{n}"),
            n if n < METASRVS + DATANODES => write!(f, "datanode-{}", n - METASRVS),
            n if n < ETCD.0 => write!(f, "frontend-{}", n - METASRVS - DATANODES),
            n if n == ETCD.0 => f.write_str("etcd"),
            _ => f.write_str("bucket"),
        }
    }
}

/// What is known of the process at an address.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Counts starts; what was meant for an earlier one is void.
    pub life: u64,
    pub is_up: bool,
    /// The machine answers for a process that is gone; not after a loss of power.
    pub host_refuses: bool,
    pub is_paused: bool,
    pub clock: Clock,
}

/// The clocks of one machine. The monotonic one drifts; the wall clock is off besides, and jumps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Parts per million by which it goes too fast, or too slow.
    pub drift: i64,
    /// Milliseconds.
    pub wall_offset: i64,
}

const MILLION: i64 = 1_000_000;

impl Clock {
    /// What the monotonic clock says.
    pub fn monotonic(self, now: Micros) -> Duration {
        let now = now as i64;
        Duration::from_micros(
            (now + now / MILLION * self.drift + now % MILLION * self.drift / MILLION) as u64,
        )
    }

    /// How long `local` of its time really takes.
    pub fn really(self, local: Duration) -> Micros {
        let local = local.as_micros() as i64;
        (local - local * self.drift / (MILLION + self.drift)) as u64
    }

    /// Milliseconds since 1970.
    pub fn wall_ms(self, now: Micros) -> i64 {
        1_700_000_000_000 + (now / 1000) as i64 + self.wall_offset
    }
}
