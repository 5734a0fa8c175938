//! The faults: how each is done, and undone.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::cluster::Cluster;
use crate::network::Cut;
use crate::steps::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// SIGKILL of a datanode that leads regions; it starts again when the others have taken over.
    Kill,
    /// The same, and a bit of its log is another one when it starts again.
    #[value(alias = "damaged_log")]
    DamagedLog,
    /// SIGSTOP of a datanode that leads regions, for two seconds.
    Stop,
    /// A datanode that leads regions is killed and its address is silent: nobody is told that its connections are gone.
    #[value(alias = "node_crash")]
    NodeCrash,
    /// No packet reaches a datanode that leads regions or leaves it, for two seconds.
    Partition,
    /// The same in one direction: by turns, it does not hear the others, and they do not hear it.
    #[value(alias = "partition_one_way")]
    PartitionOneWay,
    /// No packet passes between any metasrv and a datanode that leads regions, for two seconds.
    #[value(alias = "partition_metasrv")]
    PartitionMetasrv,
    /// No packet passes between a datanode that leads regions and the other datanodes, for two seconds; metasrv and the
    /// frontend hear it as ever.
    #[value(alias = "partition_peers")]
    PartitionPeers,
    /// The disk of a datanode that leads regions hangs for three seconds.
    #[value(alias = "slow_disk")]
    SlowDisk,
    /// SIGKILL of the metasrv that leads; it starts again after a second.
    #[value(alias = "metasrv_kill")]
    MetasrvKill,
    /// A node that has both the metasrv that leads and a datanode that leads regions: by turns, both are killed, and both are
    /// killed while their addresses are silent.
    #[value(alias = "metasrv_node_crash")]
    MetasrvNodeCrash,
    /// SIGKILL of etcd; it starts again after two seconds.
    #[value(alias = "etcd_kill")]
    EtcdKill,
    /// A region moves while it is written to: by turns, to a datanode outside of its group and to one of its followers.
    Migrate,
    /// SIGTERM of each datanode in turn, which starts again when it has ended.
    #[value(alias = "rolling_restart")]
    RollingRestart,
    /// SIGKILL of a datanode that leads very many regions, in a cluster of its own; it starts again when each of them
    /// was written to.
    #[value(alias = "mass_kill")]
    MassKill,
    /// No fault: what it costs to keep the log on three datanodes, in clusters of its own.
    #[value(alias = "replication_cost", alias = "replication")]
    ReplicationCost,
}

/// However few kills there are, a kind happens so often, or as often as they do: fewer have no percentiles.
const FEWEST: usize = 20;

/// How a fault is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It hits one datanode, and the regions that this one leads.
    OneDatanode,
    /// It hits what nobody needs in order to write, and so all regions.
    Control,
    Move,
    EachDatanode,
    /// It hits regions of which there are too many to be written to by schedule, and so has a run of its own.
    ManyLeaders,
    /// It hits nothing.
    Cost,
}

/// Aims for the gap, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub max: f64,
}

impl Fault {
    /// In reports.
    pub fn name(self) -> String {
        if self == Self::ReplicationCost {
            return "replication".to_owned();
        }
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().replace('-', "_"))
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::MetasrvKill | Self::EtcdKill => Kind::Control,
            Self::Migrate => Kind::Move,
            Self::RollingRestart => Kind::EachDatanode,
            Self::MassKill => Kind::ManyLeaders,
            Self::ReplicationCost => Kind::Cost,
            _ => Kind::OneDatanode,
        }
    }

    /// How often it happens in a run with so many kills: what is quick and has the tightest aims most often, what takes
    /// long and must not be felt at all least often.
    pub fn times(self, kills: usize) -> usize {
        let share = match self {
            Self::Kill | Self::Migrate | Self::MassKill | Self::ReplicationCost => 1,
            Self::MetasrvKill | Self::EtcdKill | Self::RollingRestart => 50,
            Self::PartitionMetasrv | Self::MetasrvNodeCrash | Self::DamagedLog => 50,
            _ => 5,
        };
        (kills / share).max(kills.min(FEWEST))
    }

    /// Whether it has a run of its own.
    pub fn is_alone(self) -> bool {
        matches!(self.kind(), Kind::ManyLeaders | Kind::Cost)
    }

    pub fn needs_network(self) -> bool {
        matches!(
            self,
            Self::NodeCrash
                | Self::MetasrvNodeCrash
                | Self::Partition
                | Self::PartitionOneWay
                | Self::PartitionMetasrv
                | Self::PartitionPeers
        )
    }

    pub fn needs_disks(self) -> bool {
        self == Self::SlowDisk
    }

    /// Whether a datanode's process is another one afterwards. What it said before may be believed for a while.
    pub fn ends_datanode(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::DamagedLog | Self::NodeCrash | Self::MetasrvNodeCrash | Self::MassKill
        )
    }

    /// For how long it lasts at the least, and at the most if the others do not take over.
    pub fn lasts(self) -> (Duration, Duration) {
        let (least, most) = match self {
            Self::Kill | Self::DamagedLog => (0, 10_000),
            Self::NodeCrash | Self::MetasrvKill => (1_000, 10_000),
            Self::MetasrvNodeCrash => (1_000, 20_000),
            // It is frozen for this time, and not until something happens.
            Self::SlowDisk => (3_000, 3_000),
            _ => (2_000, 10_000),
        };
        (Duration::from_millis(least), Duration::from_millis(most))
    }

    /// What sort of it comes in a turn, of faults that take turns.
    pub fn sort(self, turn: usize) -> Option<&'static str> {
        let (even, odd) = match self {
            Self::PartitionOneWay => ("does not hear", "is not heard"),
            Self::Migrate => ("to an outsider", "to a follower"),
            Self::MetasrvNodeCrash => ("it refuses", "it is silent"),
            _ => return None,
        };
        Some(if turn.is_multiple_of(2) { even } else { odd })
    }

    /// The width of the bins in which acknowledgements around it are shown: 75 of them come after it.
    pub fn bin(self) -> Duration {
        Duration::from_millis(match self {
            // Who takes metasrv's place does so after some seconds.
            Self::MetasrvKill | Self::EtcdKill | Self::MetasrvNodeCrash => 120,
            // Most of these are over soon, and the next one waits for the end of what is shown.
            Self::Kill | Self::DamagedLog | Self::Migrate => 10,
            // Three seconds after it: of a mass kill, twice the aim.
            Self::SlowDisk | Self::RollingRestart | Self::MassKill => 40,
            _ => 20,
        })
    }

    /// About how long a round takes, until some have been seen.
    pub fn usual_round(self) -> Duration {
        Duration::from_secs(match self {
            Self::Kill | Self::Migrate => 3,
            Self::MetasrvKill | Self::EtcdKill | Self::MetasrvNodeCrash => 16,
            Self::RollingRestart => 15,
            Self::MassKill => 120,
            Self::ReplicationCost => 40,
            _ => 6,
        })
    }

    pub fn aim(self) -> Option<Aim> {
        let (p50, p99, max) = match self {
            // The last region counts, since somebody waits for it.
            Self::MassKill => {
                return Some(Aim {
                    p50: None,
                    p99: None,
                    max: 1_500.0,
                });
            }
            Self::Kill | Self::DamagedLog => (60.0, 150.0, 300.0),
            Self::Stop
            | Self::NodeCrash
            | Self::Partition
            | Self::PartitionOneWay
            | Self::PartitionPeers
            | Self::SlowDisk => (400.0, 800.0, 1_000.0),
            Self::Migrate => (5.0, 20.0, 50.0),
            _ => return None,
        };
        Some(Aim {
            p50: Some(p50),
            p99: Some(p99),
            max,
        })
    }

    /// Whether no write may fail. Of a region whose only write has failed, nobody knows when it took one.
    pub fn allows_no_errors(self) -> bool {
        matches!(
            self,
            Self::MetasrvKill | Self::EtcdKill | Self::Migrate | Self::MassKill | Self::ReplicationCost
        )
    }
}

/// Does it to a datanode, to a metasrv, or to what the fault is about; when it began. `turn`: for faults that take turns.
pub fn inflict(fault: Fault, cluster: &mut Cluster, victim: usize, turn: usize) -> Result<Moment> {
    let asked = Moment::now();
    match fault {
        Fault::Kill | Fault::DamagedLog | Fault::MassKill => cluster.kill_datanode(victim)?,
        Fault::Stop => cluster.freeze_datanode(victim, true)?,
        Fault::SlowDisk => return cluster.freeze_disk(victim),
        Fault::MetasrvKill => cluster.kill_metasrv(victim)?,
        Fault::EtcdKill => cluster.kill_etcd()?,
        Fault::Migrate | Fault::RollingRestart | Fault::ReplicationCost => {}
        Fault::MetasrvNodeCrash => return crash_both(cluster, victim, turn),
        Fault::NodeCrash
        | Fault::Partition
        | Fault::PartitionOneWay
        | Fault::PartitionMetasrv
        | Fault::PartitionPeers => {
            cut(fault, cluster, victim, turn)?;
            // The command that cuts takes a while, and has done it at its end.
            let began = Moment::now();
            if fault == Fault::NodeCrash {
                cluster.kill_datanode(victim)?;
            }
            return Ok(began);
        }
    }
    Ok(asked)
}

/// The datanode and the metasrv that leads, as on a node that has both.
fn crash_both(cluster: &mut Cluster, victim: usize, turn: usize) -> Result<Moment> {
    let metasrv = cluster.known_to_lead();
    let is_silent = !turn.is_multiple_of(2);
    if is_silent {
        cluster.cut_both(victim, metasrv)?;
    }
    let began = Moment::now();
    cluster.kill_datanode(victim)?;
    cluster.kill_metasrv(metasrv)?;
    Ok(began)
}

fn cut(fault: Fault, cluster: &Cluster, victim: usize, turn: usize) -> Result<()> {
    let cut = match fault {
        Fault::PartitionMetasrv => return cluster.cut_datanode_from_metasrv(victim),
        Fault::PartitionPeers => return cluster.cut_datanode_from_others(victim),
        Fault::PartitionOneWay if turn.is_multiple_of(2) => Cut::Incoming,
        Fault::PartitionOneWay => Cut::Outgoing,
        _ => Cut::Everything,
    };
    cluster.cut_datanode(victim, cut)
}

pub fn undo(fault: Fault, cluster: &mut Cluster, victim: usize) -> Result<()> {
    match fault {
        Fault::Kill | Fault::MassKill => cluster.start_datanode(victim),
        Fault::DamagedLog => {
            cluster.damage_log(victim)?;
            cluster.start_datanode(victim)
        }
        Fault::Stop => cluster.freeze_datanode(victim, false),
        Fault::NodeCrash => {
            cluster.heal_network()?;
            cluster.start_datanode(victim)
        }
        Fault::MetasrvNodeCrash => {
            cluster.heal_network()?;
            cluster.start_missing()
        }
        Fault::Partition | Fault::PartitionOneWay | Fault::PartitionMetasrv | Fault::PartitionPeers => {
            cluster.heal_network()
        }
        Fault::SlowDisk => cluster.thaw_disk(victim),
        Fault::MetasrvKill => cluster.start_metasrv(victim),
        Fault::EtcdKill => cluster.start_etcd(),
        Fault::Migrate | Fault::RollingRestart | Fault::ReplicationCost => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_faults_are_rarer_but_never_too_few() {
        let times = |kills| [Fault::Kill, Fault::Stop, Fault::EtcdKill].map(|fault| fault.times(kills));
        assert_eq!(times(1_000), [1_000, 200, 20]);
        assert_eq!(times(5_000), [5_000, 1_000, 100]);
        assert_eq!(times(60), [60, 20, 20]);
        assert_eq!(times(3), [3, 3, 3]);
    }

    #[test]
    fn reports_name_faults_with_underscores_and_the_command_line_takes_both() {
        for fault in Fault::value_variants() {
            let name = fault.name();
            assert!(!name.is_empty() && !name.contains('-'));
            assert_eq!(Fault::from_str(&name, false).as_ref(), Ok(fault), "{name}");
        }
    }
}
