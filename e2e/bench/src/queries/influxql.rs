//! The queries in InfluxQL.

use super::{HIGH, Kind, LIMIT, Query};
use crate::timestamp;

/// The statement of `query`.
pub fn statement(query: &Query) -> String {
    let filter = conditions(query).join(" AND ");
    match query.kind {
        Kind::SingleGroupBy { .. } => {
            format!(
                "SELECT {} FROM cpu WHERE {filter} GROUP BY time(1m)",
                aggregates("max", query)
            )
        }
        Kind::CpuMaxAll { .. } => {
            format!(
                "SELECT {} FROM cpu WHERE {filter} GROUP BY time(1h)",
                aggregates("max", query)
            )
        }
        Kind::DoubleGroupBy { .. } => {
            format!(
                "SELECT {} FROM cpu WHERE {filter} GROUP BY time(1h), hostname",
                aggregates("mean", query)
            )
        }
        Kind::HighCpu { .. } => format!("SELECT * FROM cpu WHERE {filter}"),
        Kind::LastPoint => "SELECT * FROM cpu GROUP BY hostname ORDER BY time DESC LIMIT 1".into(),
        Kind::GroupByOrderByLimit => {
            let maxima = aggregates("max", query);
            format!(
                "SELECT {maxima} FROM cpu WHERE {filter} GROUP BY time(1m) fill(none) ORDER BY time DESC LIMIT {LIMIT}"
            )
        }
    }
}

fn aggregates(function: &str, query: &Query) -> String {
    let each = query.fields().iter().map(|f| format!("{function}({f}) AS m_{f}"));
    each.collect::<Vec<_>>().join(", ")
}

fn conditions(query: &Query) -> Vec<String> {
    let mut all = Vec::new();
    if matches!(query.kind, Kind::HighCpu { .. }) {
        all.push(format!("usage_user > {HIGH}.0"));
    }
    let hosts: Vec<String> = query
        .host_names()
        .iter()
        .map(|h| format!("hostname = '{h}'"))
        .collect();
    if !hosts.is_empty() {
        all.push(format!("({})", hosts.join(" OR ")));
    }
    if query.kind != Kind::GroupByOrderByLimit {
        all.push(format!("time >= '{}'", timestamp::rfc3339(query.from_ms)));
    }
    all.push(format!("time < '{}'", timestamp::rfc3339(query.to_ms)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_alternatives_and_buckets_are_of_time() {
        let query = Query {
            kind: Kind::SingleGroupBy {
                metrics: 1,
                hosts: 2,
                hours: 1,
            },
            hosts: vec![0, 9],
            from_ms: 1_700_006_400_000,
            to_ms: 1_700_010_000_000,
        };
        assert_eq!(
            statement(&query),
            "SELECT max(usage_user) AS m_usage_user FROM cpu WHERE (hostname = 'host_0' OR hostname = 'host_9') \
             AND time >= '2023-11-15T00:00:00Z' AND time < '2023-11-15T01:00:00Z' GROUP BY time(1m)"
        );
    }
}
