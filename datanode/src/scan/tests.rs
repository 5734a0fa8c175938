//! Scans against a model that overwrites in a map and filters at the end.

mod top;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use datafusion::scalar::ScalarValue;
use greptime_query::RegionScanSpec;
use proptest::prelude::*;

use crate::testing::{Dice, Node, Row, row, rows_of};

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
    UsageBelow(u8),
    UsageIs(u8),
    UsageIsNot(u8),
    UsageIsNull,
    HostOrUsage(u8, u8),
}

fn host(n: u8) -> String {
    format!("host-{n}")
}

/// NaN is above all other numbers, or with its sign below them.
fn number(n: u8) -> f64 {
    match n {
        5 => f64::NAN,
        6 => -f64::NAN,
        7 => -0.0,
        n => f64::from(n),
    }
}

/// As conditions compare numbers, for which 0 and -0 are the same.
fn order(a: f64, b: f64) -> Ordering {
    let unsigned_zero = |n: f64| if n == 0.0 { 0.0 } else { n };
    unsigned_zero(a).total_cmp(&unsigned_zero(b))
}

/// A row that is the same as another only if its number has the same bits.
fn exact((host, ts, usage): &Row) -> (Option<String>, i64, Option<u64>) {
    (host.clone(), *ts, usage.map(f64::to_bits))
}

/// The rows that pass, sorted.
async fn found(node: &Node, filters: &[Filter]) -> Vec<(Option<String>, i64, Option<u64>)> {
    let spec = RegionScanSpec {
        filters: filters.iter().map(Filter::expr).collect(),
        ..node.spec()
    };
    let batches = node.scan(spec).await.unwrap();
    let mut rows: Vec<_> = batches.iter().flat_map(rows_of).map(|row| exact(&row)).collect();
    rows.sort();
    rows
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
            Self::UsageAbove(u) => col("usage").gt(lit(number(*u))),
            Self::UsageBelow(u) => col("usage").lt(lit(number(*u))),
            Self::UsageIs(u) => col("usage").eq(lit(number(*u))),
            Self::UsageIsNot(u) => col("usage").not_eq(lit(number(*u))),
            Self::UsageIsNull => col("usage").is_null(),
            Self::HostOrUsage(n, u) => col("host")
                .eq(lit(host(*n)))
                .or(col("usage").lt_eq(lit(number(*u)))),
        }
    }

    fn holds(&self, row: &Row) -> bool {
        match self {
            Self::HostIs(n) => row.0 == Some(host(*n)),
            Self::HostIsNull => row.0.is_none(),
            Self::HostBelow(n) => row.0.as_ref().is_some_and(|h| *h < host(*n)),
            Self::TimeFrom(t) => row.1 >= *t,
            Self::TimeBelow(t) => row.1 < *t,
            Self::UsageAbove(u) => row.2.is_some_and(|v| order(v, number(*u)).is_gt()),
            Self::UsageBelow(u) => row.2.is_some_and(|v| order(v, number(*u)).is_lt()),
            Self::UsageIs(u) => row.2.is_some_and(|v| order(v, number(*u)).is_eq()),
            Self::UsageIsNot(u) => row.2.is_some_and(|v| order(v, number(*u)).is_ne()),
            Self::UsageIsNull => row.2.is_none(),
            Self::HostOrUsage(n, u) => {
                row.0 == Some(host(*n)) || row.2.is_some_and(|v| order(v, number(*u)).is_le())
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cell = (
        proptest::option::weighted(0.8, 0..4u8),
        0..6i64,
        proptest::option::weighted(0.8, 0..8u8),
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
        (0..8u8).prop_map(Filter::UsageAbove),
        (0..8u8).prop_map(Filter::UsageBelow),
        (0..8u8).prop_map(Filter::UsageIs),
        (0..8u8).prop_map(Filter::UsageIsNot),
        Just(Filter::UsageIsNull),
        (0..4u8, 0..8u8).prop_map(|(h, u)| Filter::HostOrUsage(h, u)),
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
                    .map(|(h, t, u)| (h.map(host), *t, u.map(number)))
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
        let passing = rows.iter().filter(|r| query.iter().all(|f| f.holds(r)));
        let mut expected: Vec<_> = passing.map(exact).collect();
        expected.sort();
        assert_eq!(found(&node, &query).await, expected, "{query:?}");
    }
}

/// Series of several pages, of which some times are in a newer file too.
#[tokio::test]
async fn what_is_left_out_of_pages_and_row_groups_is_no_newest_row_that_passes() {
    const POINTS: i64 = 40_000;
    let node = Node::new().await;
    let scattered = |t: i64| (t * 7919 % POINTS) as f64;
    let old: Vec<Row> = (0..POINTS)
        .flat_map(|t| [row("host-0", t, t as f64), row("host-1", t, scattered(t))])
        .collect();
    node.write(&old).await.unwrap();
    node.flush().await.unwrap();
    let new: Vec<Row> = (20_000..20_500).map(|t| row("host-0", t, -1.0)).collect();
    node.write(&new).await.unwrap();
    node.flush().await.unwrap();
    let mut rows: BTreeMap<_, Row> = BTreeMap::new();
    rows.extend(old.into_iter().chain(new).map(|r| ((r.0.clone(), r.1), r)));
    let mut dice = Dice::new(11);
    for round in 0..60 {
        let from = dice.roll(POINTS as u64) as i64;
        let mut query = vec![
            Filter::TimeFrom(from),
            Filter::TimeBelow(from + dice.roll(3000) as i64),
        ];
        if dice.roll(3) == 0 {
            query.clear();
        }
        let usage = match round % 3 {
            // What was overwritten.
            0 => (20_000 + dice.roll(470)) as f64,
            _ => dice.roll(POINTS as u64) as f64,
        };
        let (above, below) = (col("usage").gt_eq(lit(usage)), col("usage").lt(lit(usage + 30.0)));
        if dice.roll(2) == 0 {
            query.push(Filter::HostIs(dice.roll(2) as u8));
        }
        let spec = RegionScanSpec {
            filters: query.iter().map(Filter::expr).chain([above, below]).collect(),
            ..node.spec()
        };
        let batches = node.scan(spec).await.unwrap();
        let mut found: Vec<Row> = batches.iter().flat_map(rows_of).collect();
        found.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let within = |u: f64| usage <= u && u < usage + 30.0;
        let passes = |r: &&Row| query.iter().all(|f| f.holds(r)) && r.2.is_some_and(within);
        let expected: Vec<Row> = rows.values().filter(passes).cloned().collect();
        assert_eq!(found, expected, "{query:?} {usage}");
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
