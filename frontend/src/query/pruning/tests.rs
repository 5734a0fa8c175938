use datafusion::logical_expr::{col, lit};
use greptime_types::{ColumnSchema, Semantic, TimeUnit};

use super::*;

fn schema() -> TableSchema {
    TableSchema::new(
        vec![
            ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
            ColumnSchema::new("n", ColumnType::Int64, Semantic::Tag),
            ColumnSchema::new(
                "ts",
                ColumnType::Timestamp(TimeUnit::Millisecond),
                Semantic::Timestamp,
            ),
            ColumnSchema::new("v", ColumnType::Float64, Semantic::Field),
        ],
        vec!["host".into(), "n".into()],
    )
    .unwrap()
}

fn compare(column: &str, op: Op, value: Value) -> PartitionExpr {
    PartitionExpr::compare(column, op, value)
}

fn and(a: PartitionExpr, b: PartitionExpr) -> PartitionExpr {
    PartitionExpr::And(Box::new(a), Box::new(b))
}

/// host < 'f'; 'f' <= host < 'p'; 'p' <= host.
fn by_host() -> PartitionRule {
    let text = |v: &str| Value::String(v.into());
    PartitionRule::new(
        vec!["host".into()],
        vec![
            compare("host", Op::Lt, text("f")),
            and(
                compare("host", Op::GtEq, text("f")),
                compare("host", Op::Lt, text("p")),
            ),
            compare("host", Op::GtEq, text("p")),
        ],
    )
    .unwrap()
}

/// Quadrants around ('m', 0).
fn quadrants() -> PartitionRule {
    let text = || Value::String("m".into());
    let side = |a, b| and(compare("host", a, text()), compare("n", b, Value::Int(0)));
    let exprs = vec![
        side(Op::Lt, Op::Lt),
        side(Op::Lt, Op::GtEq),
        side(Op::GtEq, Op::Lt),
        side(Op::GtEq, Op::GtEq),
    ];
    PartitionRule::new(vec!["host".into(), "n".into()], exprs).unwrap()
}

fn pruned(rule: &PartitionRule, filters: &[Expr]) -> Vec<u32> {
    partitions_for(&schema(), rule, filters)
}

#[test]
fn each_kind_of_filter_is_understood() {
    let host = || col("host");
    for (filter, expected) in [
        (host().eq(lit("a")), &[0][..]),
        (lit("a").eq(host()), &[0]),
        (host().not_eq(lit("a")), &[0, 1, 2]),
        (host().gt(lit("f")), &[1, 2]),
        (host().gt_eq(lit("p")), &[2]),
        (lit("p").lt_eq(host()), &[2]),
        (host().lt(lit("f")), &[0]),
        (host().lt_eq(lit("f")), &[0, 1]),
        (host().between(lit("g"), lit("o")), &[1]),
        (host().in_list(vec![lit("a"), lit("z")], false), &[0, 2]),
        (host().in_list(vec![lit("a")], true), &[0, 1, 2]),
        (host().is_null(), &[0]),
        (host().is_not_null(), &[0, 1, 2]),
        (host().eq(lit("a")).or(host().eq(lit("z"))), &[0, 2]),
        (host().eq(lit("a")).and(host().eq(lit("z"))), &[]),
        (host().eq(lit("a")).or(col("v").gt(lit(1.0))), &[0, 1, 2]),
        (host().eq(lit("a")).and(col("v").gt(lit(1.0))), &[0]),
        (host().like(lit("a%")), &[0, 1, 2]),
        (host().eq(col("v")), &[0, 1, 2]),
        (lit(false), &[]),
        (host().eq(lit(ScalarValue::Utf8(None))), &[0, 1, 2]),
    ] {
        assert_eq!(
            pruned(&by_host(), std::slice::from_ref(&filter)),
            expected,
            "{filter}"
        );
    }
}

#[test]
fn filters_on_two_columns_and_in_several_terms_count_together() {
    let rule = quadrants();
    assert_eq!(pruned(&rule, &[col("n").lt(lit(0_i64))]), [0, 2]);
    assert_eq!(
        pruned(&rule, &[col("n").gt(lit(5_i64)), col("host").eq(lit("z"))]),
        [3]
    );
    let corners = col("host").eq(lit("a")).and(col("n").eq(lit(-1_i64)));
    let corners = corners.or(col("host").eq(lit("z")).and(col("n").eq(lit(1_i64))));
    assert_eq!(pruned(&rule, &[corners]), [0, 3]);
    assert_eq!(pruned(&rule, &[col("n").is_null()]), [0, 2]);
}

#[test]
fn without_filters_or_with_one_partition_nothing_is_pruned() {
    assert_eq!(pruned(&by_host(), &[]), [0, 1, 2]);
    assert_eq!(pruned(&PartitionRule::single(), &[lit(false)]), [0]);
}

/// What is left out has no row that passes: every combination of some values is checked against the rule.
#[test]
fn a_row_that_passes_is_never_in_a_pruned_partition() {
    let rule = quadrants();
    let hosts = ["", "a", "l", "m", "n", "z"];
    let numbers = [-2_i64, -1, 0, 1, 2];
    for host in hosts {
        for number in numbers {
            let found = pruned(&rule, &[col("host").eq(lit(host)), col("n").eq(lit(number))]);
            let home = rule.route(&|c| {
                if c == "host" {
                    Value::String(host.into())
                } else {
                    Value::Int(number)
                }
            });
            assert_eq!(found, [home.unwrap()], "{host} {number}");
        }
    }
}

#[test]
fn too_many_combinations_prune_nothing() {
    let filter = (0..200).map(|i| col("n").eq(lit(i))).reduce(Expr::or).unwrap();
    let hosts = (0..200)
        .map(|i| col("host").eq(lit(format!("h{i}"))))
        .reduce(Expr::or)
        .unwrap();
    assert_eq!(pruned(&quadrants(), &[filter, hosts]), [0, 1, 2, 3]);
}
