//! The queries in the dialects of SQL. Each is written as that database's documentation would have it.

use super::{HIGH, Kind, LIMIT, Query, TIME};
use crate::timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// This database.
    Ours,
    DuckDb,
    /// ClickHouse's SQL.
    ChDb,
    QuestDb,
}

impl Dialect {
    fn time(self) -> &'static str {
        match self {
            Self::QuestDb => "timestamp",
            _ => TIME,
        }
    }

    /// Start of the bucket of a row.
    fn bucket(self, unit: &str) -> String {
        match (self, unit) {
            (Self::QuestDb, "minute") => "timestamp_floor('m', timestamp)".into(),
            (Self::QuestDb, _) => "timestamp_floor('h', timestamp)".into(),
            (Self::ChDb, "minute") => format!("toStartOfMinute({TIME})"),
            (Self::ChDb, _) => format!("toStartOfHour({TIME})"),
            _ => format!("date_trunc('{unit}', {TIME})"),
        }
    }

    fn literal(self, ms: i64) -> String {
        let time = timestamp::rfc3339(ms);
        match self {
            Self::QuestDb => format!("'{}.000000Z'", time.trim_end_matches('Z')),
            _ => format!("'{}'", time.replace('T', " ").trim_end_matches('Z')),
        }
    }
}

/// The statement of `query`.
pub fn statement(query: &Query, dialect: Dialect) -> String {
    let unit = if query.kind.bucket_ms() == Some(super::MINUTE_MS) {
        "minute"
    } else {
        "hour"
    };
    let bucket = dialect.bucket(unit);
    let filter = conditions(query, dialect).join(" AND ");
    match query.kind {
        Kind::SingleGroupBy { .. } | Kind::CpuMaxAll { .. } => {
            let maxima = aggregates("max", query);
            format!(
                "SELECT {bucket} AS bucket, {maxima} FROM cpu WHERE {filter} GROUP BY bucket ORDER BY bucket"
            )
        }
        Kind::DoubleGroupBy { .. } => {
            let means = aggregates("avg", query);
            format!(
                "SELECT {bucket} AS bucket, hostname, {means} FROM cpu WHERE {filter} \
                 GROUP BY bucket, hostname ORDER BY bucket, hostname"
            )
        }
        Kind::HighCpu { .. } => format!("SELECT * FROM cpu WHERE {filter}"),
        Kind::LastPoint => last_point(dialect),
        Kind::GroupByOrderByLimit => {
            let maxima = aggregates("max", query);
            format!(
                "SELECT {bucket} AS bucket, {maxima} FROM cpu WHERE {filter} \
                 GROUP BY bucket ORDER BY bucket DESC LIMIT {LIMIT}"
            )
        }
    }
}

fn aggregates(function: &str, query: &Query) -> String {
    let each = query.fields().iter().map(|f| format!("{function}({f}) AS m_{f}"));
    each.collect::<Vec<_>>().join(", ")
}

fn conditions(query: &Query, dialect: Dialect) -> Vec<String> {
    let time = dialect.time();
    let mut all = Vec::new();
    if matches!(query.kind, Kind::HighCpu { .. }) {
        all.push(format!("usage_user > {HIGH}.0"));
    }
    if !query.hosts.is_empty() {
        let names: Vec<String> = query.host_names().iter().map(|h| format!("'{h}'")).collect();
        all.push(format!("hostname IN ({})", names.join(", ")));
    }
    // The set gives this query no beginning.
    if query.kind != Kind::GroupByOrderByLimit {
        all.push(format!("{time} >= {}", dialect.literal(query.from_ms)));
    }
    all.push(format!("{time} < {}", dialect.literal(query.to_ms)));
    all
}

/// For each peer the fastest of the ways that its documentation knows.
fn last_point(dialect: Dialect) -> String {
    let newest = format!("SELECT hostname, max({TIME}) AS newest FROM cpu GROUP BY hostname");
    match dialect {
        Dialect::QuestDb => "SELECT * FROM cpu LATEST ON timestamp PARTITION BY hostname".into(),
        Dialect::ChDb => format!("SELECT * FROM cpu WHERE (hostname, {TIME}) IN ({newest})"),
        Dialect::DuckDb => format!(
            "SELECT cpu.* FROM cpu JOIN ({newest}) AS last \
             ON cpu.hostname = last.hostname AND cpu.{TIME} = last.newest"
        ),
        Dialect::Ours => format!("SELECT DISTINCT ON (hostname) * FROM cpu ORDER BY hostname, {TIME} DESC"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(kind: Kind, hosts: &[usize]) -> Query {
        Query {
            kind,
            hosts: hosts.to_vec(),
            from_ms: 1_700_006_400_000,
            to_ms: 1_700_010_000_000,
        }
    }

    #[test]
    fn a_query_by_minute_in_our_dialect() {
        let kind = Kind::SingleGroupBy {
            metrics: 2,
            hosts: 2,
            hours: 1,
        };
        assert_eq!(
            statement(&query(kind, &[3, 1]), Dialect::Ours),
            "SELECT date_trunc('minute', greptime_timestamp) AS bucket, max(usage_user) AS m_usage_user, \
             max(usage_system) AS m_usage_system FROM cpu WHERE hostname IN ('host_3', 'host_1') \
             AND greptime_timestamp >= '2023-11-15 00:00:00' AND greptime_timestamp < '2023-11-15 01:00:00' \
             GROUP BY bucket ORDER BY bucket"
        );
    }

    #[test]
    fn a_query_by_hour_in_the_dialect_of_questdb() {
        assert_eq!(
            statement(&query(Kind::DoubleGroupBy { metrics: 1 }, &[]), Dialect::QuestDb),
            "SELECT timestamp_floor('h', timestamp) AS bucket, hostname, avg(usage_user) AS m_usage_user FROM cpu \
             WHERE timestamp >= '2023-11-15T00:00:00.000000Z' AND timestamp < '2023-11-15T01:00:00.000000Z' \
             GROUP BY bucket, hostname ORDER BY bucket, hostname"
        );
    }

    #[test]
    fn the_query_with_a_limit_has_an_end_and_no_beginning() {
        let text = statement(&query(Kind::GroupByOrderByLimit, &[]), Dialect::ChDb);
        assert!(
            text.starts_with("SELECT toStartOfMinute(greptime_timestamp) AS bucket"),
            "{text}"
        );
        assert!(!text.contains(">="), "{text}");
        assert!(text.ends_with("ORDER BY bucket DESC LIMIT 5"), "{text}");
    }

    #[test]
    fn high_cpu_asks_for_whole_rows_above_90() {
        let text = statement(&query(Kind::HighCpu { one_host: true }, &[7]), Dialect::DuckDb);
        assert!(
            text.starts_with("SELECT * FROM cpu WHERE usage_user > 90.0 AND hostname IN ('host_7')"),
            "{text}"
        );
    }
}
