//! The query set of the cpu-only use case, and what each of its queries asks for.

pub mod influxql;
pub mod metricsql;
pub mod oracle;
pub mod sql;

use crate::data::rng::Rng;
use crate::data::{FIELDS, Shape};

pub const MINUTE_MS: i64 = 60_000;
pub const HOUR_MS: i64 = 3_600_000;
/// The time index of a table that line protocol made.
pub const TIME: &str = "greptime_timestamp";
/// `high-cpu-*` asks for rows whose `usage_user` is above this.
pub const HIGH: u8 = 90;
/// Rows that `groupby-orderby-limit` wants.
pub const LIMIT: usize = 5;

/// One query of the set, without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Maximum of the first `metrics` fields per minute, over `hosts` hosts and `hours` hours.
    SingleGroupBy {
        metrics: usize,
        hosts: usize,
        hours: i64,
    },
    /// Maximum of every field per hour, over `hosts` hosts and 8 hours.
    CpuMaxAll { hosts: usize },
    /// Mean of the first `metrics` fields per hour and host, over 12 hours.
    DoubleGroupBy { metrics: usize },
    /// All rows of 12 hours with a high `usage_user`, of all hosts or one.
    HighCpu { one_host: bool },
    /// The newest row of every host.
    LastPoint,
    /// Maximum of `usage_user` in each of the last five minutes before some instant.
    GroupByOrderByLimit,
}

/// In the order of the report.
pub const ALL: [Kind; 15] = [
    Kind::SingleGroupBy {
        metrics: 1,
        hosts: 1,
        hours: 1,
    },
    Kind::SingleGroupBy {
        metrics: 1,
        hosts: 1,
        hours: 12,
    },
    Kind::SingleGroupBy {
        metrics: 1,
        hosts: 8,
        hours: 1,
    },
    Kind::SingleGroupBy {
        metrics: 5,
        hosts: 1,
        hours: 1,
    },
    Kind::SingleGroupBy {
        metrics: 5,
        hosts: 1,
        hours: 12,
    },
    Kind::SingleGroupBy {
        metrics: 5,
        hosts: 8,
        hours: 1,
    },
    Kind::CpuMaxAll { hosts: 1 },
    Kind::CpuMaxAll { hosts: 8 },
    Kind::DoubleGroupBy { metrics: 1 },
    Kind::DoubleGroupBy { metrics: 5 },
    Kind::DoubleGroupBy {
        metrics: FIELDS.len(),
    },
    Kind::HighCpu { one_host: false },
    Kind::HighCpu { one_host: true },
    Kind::LastPoint,
    Kind::GroupByOrderByLimit,
];

impl Kind {
    /// Whether a query touches the data of few hosts and of a part of the day: a point query.
    pub fn is_of_few_hosts(self) -> bool {
        match self {
            Self::SingleGroupBy { .. } => true,
            Self::CpuMaxAll { hosts } => hosts == 1,
            Self::HighCpu { one_host } => one_host,
            Self::DoubleGroupBy { .. } | Self::LastPoint | Self::GroupByOrderByLimit => false,
        }
    }

    pub fn name(self) -> String {
        match self {
            Self::SingleGroupBy {
                metrics,
                hosts,
                hours,
            } => format!("single-groupby-{metrics}-{hosts}-{hours}"),
            Self::CpuMaxAll { hosts } => format!("cpu-max-all-{hosts}"),
            Self::DoubleGroupBy { metrics } if metrics == FIELDS.len() => "double-groupby-all".into(),
            Self::DoubleGroupBy { metrics } => format!("double-groupby-{metrics}"),
            Self::HighCpu { one_host: false } => "high-cpu-all".into(),
            Self::HighCpu { one_host: true } => "high-cpu-1".into(),
            Self::LastPoint => "lastpoint".into(),
            Self::GroupByOrderByLimit => "groupby-orderby-limit".into(),
        }
    }

    /// How many fields an answer has.
    pub fn metrics(self) -> usize {
        match self {
            Self::SingleGroupBy { metrics, .. } | Self::DoubleGroupBy { metrics } => metrics,
            Self::CpuMaxAll { .. } | Self::HighCpu { .. } | Self::LastPoint => FIELDS.len(),
            Self::GroupByOrderByLimit => 1,
        }
    }

    /// Length of a bucket, of queries that have some.
    pub fn bucket_ms(self) -> Option<i64> {
        match self {
            Self::SingleGroupBy { .. } | Self::GroupByOrderByLimit => Some(MINUTE_MS),
            Self::CpuMaxAll { .. } | Self::DoubleGroupBy { .. } => Some(HOUR_MS),
            Self::HighCpu { .. } | Self::LastPoint => None,
        }
    }

    fn hosts(self) -> usize {
        match self {
            Self::SingleGroupBy { hosts, .. } | Self::CpuMaxAll { hosts } => hosts,
            Self::HighCpu { one_host: true } => 1,
            _ => 0,
        }
    }

    fn window_ms(self) -> Option<i64> {
        match self {
            Self::SingleGroupBy { hours, .. } => Some(hours * HOUR_MS),
            Self::CpuMaxAll { .. } => Some(8 * HOUR_MS),
            Self::DoubleGroupBy { .. } | Self::HighCpu { .. } => Some(12 * HOUR_MS),
            Self::LastPoint | Self::GroupByOrderByLimit => None,
        }
    }
}

/// A query with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub kind: Kind,
    /// Numbers of the hosts that are asked for; empty if all are.
    pub hosts: Vec<usize>,
    /// From here, in milliseconds. A whole bucket, so that peers which cannot cut one answer the same.
    pub from_ms: i64,
    /// To just before here.
    pub to_ms: i64,
}

impl Query {
    /// Draws parameters. Windows lie within the data.
    pub fn draw(kind: Kind, shape: &Shape, rng: &mut Rng) -> Self {
        let hosts = rng.distinct(kind.hosts(), shape.hosts);
        let unit = kind.bucket_ms().unwrap_or(MINUTE_MS);
        let window = match (kind, kind.window_ms()) {
            (_, Some(window)) => window,
            (Kind::GroupByOrderByLimit, None) => {
                let shortest = LIMIT as i64 * MINUTE_MS;
                let steps = (shape.end_ms() - shape.start_ms - shortest) / unit;
                let to_ms = shape.start_ms + shortest + rng.below(steps.max(0) as usize + 1) as i64 * unit;
                return Self {
                    kind,
                    hosts,
                    from_ms: shape.start_ms,
                    to_ms,
                };
            }
            (_, None) => shape.end_ms() - shape.start_ms,
        };
        let steps = ((shape.end_ms() - window - shape.start_ms) / unit).max(0);
        let from_ms = shape.start_ms + rng.below(steps as usize + 1) as i64 * unit;
        Self {
            kind,
            hosts,
            from_ms,
            to_ms: from_ms + window,
        }
    }

    pub fn fields(&self) -> &'static [&'static str] {
        &FIELDS[..self.kind.metrics()]
    }

    pub fn host_names(&self) -> Vec<String> {
        self.hosts.iter().map(|h| crate::data::hosts::name(*h)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_set() {
        let names: Vec<String> = ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names[0], "single-groupby-1-1-1");
        assert_eq!(names[7], "cpu-max-all-8");
        assert_eq!(
            names[8..11],
            ["double-groupby-1", "double-groupby-5", "double-groupby-all"]
        );
    }

    #[test]
    fn windows_lie_within_the_data_and_begin_with_a_bucket() {
        let shape = Shape {
            hosts: 10,
            points: 5000,
            start_ms: 1_700_006_400_000,
            seed: 1,
        };
        let mut rng = Rng::new(5);
        for kind in ALL {
            for _ in 0..200 {
                let query = Query::draw(kind, &shape, &mut rng);
                assert!(
                    query.from_ms >= shape.start_ms && query.to_ms <= shape.end_ms(),
                    "{query:?}"
                );
                assert!(query.from_ms < query.to_ms, "{query:?}");
                let unit = kind.bucket_ms().unwrap_or(1);
                assert_eq!(query.from_ms % unit, 0, "{query:?}");
                assert!(query.hosts.iter().all(|h| *h < 10));
            }
        }
    }
}
