//! The queries in the language of VictoriaMetrics.

use super::{Kind, Query};
use crate::data::FIELDS;

/// A request of the Prometheus API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub expression: String,
    /// First evaluation, in milliseconds; of an instant query the only one.
    pub start_ms: i64,
    pub end_ms: i64,
    /// None for an instant query.
    pub step_ms: Option<i64>,
}

/// A window reaches back from its evaluation, which it includes. A bucket [b, b + step) of data in whole milliseconds
/// is hence evaluated at b + step - 1 ms.
pub const OFFSET_MS: i64 = 1;

/// None where the language cannot say it: samples of ten metrics cannot be filtered by the value of one.
pub fn request(query: &Query) -> Option<Request> {
    let selector = selector(query);
    let text = |function: &str, window: &str, by: &str| {
        format!("{function}({function}_over_time({selector}[{window}])) by ({by})")
    };
    let (expression, step) = match query.kind {
        Kind::SingleGroupBy { .. } | Kind::GroupByOrderByLimit => {
            (text("max", "1m", "__name__"), super::MINUTE_MS)
        }
        Kind::CpuMaxAll { .. } => (text("max", "1h", "__name__"), super::HOUR_MS),
        Kind::DoubleGroupBy { .. } => (text("avg", "1h", "__name__, hostname"), super::HOUR_MS),
        Kind::HighCpu { .. } => return None,
        Kind::LastPoint => {
            // However old the last sample of a host is, it is looked for.
            let window = (query.to_ms - query.from_ms) / 1000;
            let expression = format!("last_over_time({selector}[{window}s])");
            let (start_ms, end_ms) = (query.to_ms - OFFSET_MS, query.to_ms - OFFSET_MS);
            return Some(Request {
                expression,
                start_ms,
                end_ms,
                step_ms: None,
            });
        }
    };
    let from_ms = match query.kind {
        Kind::GroupByOrderByLimit => query.to_ms - super::LIMIT as i64 * step,
        _ => query.from_ms,
    };
    Some(Request {
        expression,
        start_ms: from_ms + step - OFFSET_MS,
        end_ms: query.to_ms - OFFSET_MS,
        step_ms: Some(step),
    })
}

fn selector(query: &Query) -> String {
    let fields = query.fields();
    let mut matchers = Vec::new();
    let metric = match fields {
        [one] => format!("cpu_{one}"),
        all if all.len() == FIELDS.len() => {
            matchers.push("__name__=~\"cpu_usage_.*\"".to_string());
            String::new()
        }
        some => {
            matchers.push(format!("__name__=~\"cpu_({})\"", some.join("|")));
            String::new()
        }
    };
    match query.host_names().as_slice() {
        [] => {}
        [one] => matchers.push(format!("hostname=\"{one}\"")),
        some => matchers.push(format!("hostname=~\"{}\"", some.join("|"))),
    }
    match matchers.is_empty() {
        true => metric,
        false => format!("{metric}{{{}}}", matchers.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(kind: Kind, hosts: &[usize]) -> Query {
        Query {
            kind,
            hosts: hosts.to_vec(),
            from_ms: 0,
            to_ms: 3_600_000,
        }
    }

    #[test]
    fn buckets_are_evaluated_at_their_last_millisecond() {
        let kind = Kind::SingleGroupBy {
            metrics: 1,
            hosts: 1,
            hours: 1,
        };
        let request = request(&query(kind, &[2])).unwrap();
        assert_eq!(
            request.expression,
            "max(max_over_time(cpu_usage_user{hostname=\"host_2\"}[1m])) by (__name__)"
        );
        assert_eq!(
            (request.start_ms, request.end_ms, request.step_ms),
            (59_999, 3_599_999, Some(60_000))
        );
    }

    #[test]
    fn several_metrics_and_hosts_are_expressions() {
        let kind = Kind::SingleGroupBy {
            metrics: 2,
            hosts: 2,
            hours: 1,
        };
        let text = request(&query(kind, &[2, 5])).unwrap().expression;
        let selector = "{__name__=~\"cpu_(usage_user|usage_system)\",hostname=~\"host_2|host_5\"}";
        assert_eq!(text, format!("max(max_over_time({selector}[1m])) by (__name__)"));
    }

    #[test]
    fn the_last_five_minutes_are_all_that_the_limit_needs() {
        let request = request(&query(Kind::GroupByOrderByLimit, &[])).unwrap();
        assert_eq!((request.start_ms, request.end_ms), (3_359_999, 3_599_999));
    }

    #[test]
    fn whole_rows_by_the_value_of_one_metric_cannot_be_said() {
        assert_eq!(request(&query(Kind::HighCpu { one_host: false }, &[])), None);
    }
}
