//! Scans against a model that overwrites in a map and filters at the end.

use std::collections::BTreeMap;

use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use datafusion::scalar::ScalarValue;
use proptest::prelude::*;

use crate::testing::{Node, Row};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Option<u8>, i64, Option<u8>)>),
    Flush,
    Crash,
}

#[derive(Clone, Debug)]
enum Filter {
    HostIs(u8),
    HostIsNull,
    HostBelow(u8),
    TimeFrom(i64),
    TimeBelow(i64),
    UsageAbove(u8),
    UsageIsNull,
    HostOrUsage(u8, u8),
}

fn host(n: u8) -> String {
    format!("host-{n}")
}

fn time(ms: i64) -> Expr {
    lit(ScalarValue::TimestampMillisecond(Some(ms), None))
}

impl Filter {
    fn expr(&self) -> Expr {
        match self {
            Self::HostIs(n) => col("host").eq(lit(host(*n))),
            Self::HostIsNull => col("host").is_null(),
            Self::HostBelow(n) => col("host").lt(lit(host(*n))),
            Self::TimeFrom(t) => col("ts").gt_eq(time(*t)),
            Self::TimeBelow(t) => col("ts").lt(time(*t)),
            Self::UsageAbove(u) => col("usage").gt(lit(f64::from(*u))),
            Self::UsageIsNull => col("usage").is_null(),
            Self::HostOrUsage(n, u) => col("host")
                .eq(lit(host(*n)))
                .or(col("usage").lt_eq(lit(f64::from(*u)))),
        }
    }

    fn holds(&self, row: &Row) -> bool {
        match self {
            Self::HostIs(n) => row.0 == Some(host(*n)),
            Self::HostIsNull => row.0.is_none(),
            Self::HostBelow(n) => row.0.as_ref().is_some_and(|h| *h < host(*n)),
            Self::TimeFrom(t) => row.1 >= *t,
            Self::TimeBelow(t) => row.1 < *t,
            Self::UsageAbove(u) => row.2.is_some_and(|v| v > f64::from(*u)),
            Self::UsageIsNull => row.2.is_none(),
            Self::HostOrUsage(n, u) => row.0 == Some(host(*n)) || row.2.is_some_and(|v| v <= f64::from(*u)),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cell = (
        proptest::option::weighted(0.8, 0..4u8),
        0..6i64,
        proptest::option::weighted(0.8, 0..5u8),
    );
    let step = prop_oneof![
        6 => prop::collection::vec(cell, 1..8).prop_map(Step::Write),
        2 => Just(Step::Flush),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..12)
}

fn filters() -> impl Strategy<Value = Vec<Filter>> {
    let filter = prop_oneof![
        (0..4u8).prop_map(Filter::HostIs),
        Just(Filter::HostIsNull),
        (0..4u8).prop_map(Filter::HostBelow),
        (0..6i64).prop_map(Filter::TimeFrom),
        (0..6i64).prop_map(Filter::TimeBelow),
        (0..5u8).prop_map(Filter::UsageAbove),
        Just(Filter::UsageIsNull),
        (0..4u8, 0..5u8).prop_map(|(h, u)| Filter::HostOrUsage(h, u)),
    ];
    prop::collection::vec(filter, 0..3)
}

async fn check(append_mode: bool, steps: Vec<Step>, queries: Vec<Vec<Filter>>) {
    let mut node = if append_mode {
        Node::appending().await
    } else {
        Node::new().await
    };
    let (mut latest, mut all) = (BTreeMap::new(), Vec::new());
    for step in steps {
        match step {
            Step::Write(cells) => {
                let rows: Vec<Row> = cells
                    .iter()
                    .map(|(h, t, u)| (h.map(host), *t, u.map(f64::from)))
                    .collect();
                node.write(&rows).await.unwrap();
                latest.extend(rows.iter().map(|r| ((r.0.clone(), r.1), r.2)));
                all.extend(rows);
            }
            Step::Flush => drop(node.flush().await.unwrap()),
            Step::Crash => {
                node = node.crash().await;
                node.wait_until_readable().await;
            }
        }
    }
    let newest: Vec<Row> = latest.into_iter().map(|((h, t), u)| (h, t, u)).collect();
    let rows = if append_mode { all } else { newest };
    for query in queries {
        let mut expected: Vec<Row> = rows
            .iter()
            .filter(|r| query.iter().all(|f| f.holds(r)))
            .cloned()
            .collect();
        expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let found = node
            .read_where(query.iter().map(Filter::expr).collect())
            .await
            .unwrap();
        assert_eq!(found, expected, "{query:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 5, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pushed_filters_find_what_filtering_at_the_end_finds(
        append_mode in prop::bool::weighted(0.3),
        steps in steps(),
        queries in prop::collection::vec(filters(), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(append_mode, steps, queries));
    }
}
