//! Prometheus' remote write 1.0: snappy, protobuf, into the physical table of metrics.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float64Array, StringArray, StringBuilder, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use greptime_proto::v1::WriteOp;
use greptime_rows::SeriesBatch;
use greptime_types::partition::Op;
use greptime_types::{
    ColumnSchema, ColumnType, Error, PartitionExpr, PartitionRule, Result, Semantic, TableInfo, TimeUnit,
    Value,
};
use prost::Message;
use read::{Point, RawSeries, read_request};
use xxhash_rust::xxh64::Xxh64;

use crate::frontend::Frontend;
use crate::ingest::auto::WantedTable;
use crate::query::metric::{METRIC_COLUMN, PHYSICAL_TABLE, SERIES_COLUMN, TIME_COLUMN, VALUE_COLUMN};

/// `prometheus.WriteRequest` as clients build it; here it is read in place ([`read`]).
#[derive(Clone, PartialEq, Message)]
pub struct PromWriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    #[prost(double, tag = "1")]
    pub value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

/// The label that holds the name of the metric.
const NAME_LABEL: &str = "__name__";

/// One series that can be stored.
struct Series<'a> {
    metric: &'a str,
    id: u64,
    /// Sorted by name, without empty ones, which are the same as none.
    labels: Vec<(&'a str, &'a str)>,
    points: &'a [Point],
}

pub async fn write_series(frontend: &Frontend, database: &str, body: &[u8]) -> Result<()> {
    let body = unpack(body, frontend.config.max_body)?;
    let request = read_request(&body)?;
    let (series, refused) = readable(&request);
    if !series.is_empty() {
        let deadline = frontend
            .executor
            .engine
            .router
            .deadline_in(frontend.config.write_timeout);
        let labels: BTreeSet<&str> = series
            .iter()
            .flat_map(|s| &s.labels)
            .map(|(name, _)| *name)
            .collect();
        let wanted = physical_table(&labels, frontend.config.metric_regions)?;
        let table = frontend.auto.ensure(database, &wanted, deadline).await?;
        let columns = Columns::of(&table, &labels)?;
        for part in parts(&series, labels.len()) {
            let batch = columns.batch(part)?;
            let ingestor = &frontend.executor.ingestor;
            let rows = ingestor
                .write_series(&table, batch, WriteOp::Put, deadline)
                .await?;
            frontend.metrics.ingested("prometheus", rows);
        }
        for (metric, labels) in labels_by_metric(&series) {
            frontend.executor.engine.metrics.note(database, metric, &labels);
        }
    }
    match refused {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

fn labels_by_metric<'a>(series: &[Series<'a>]) -> BTreeMap<&'a str, BTreeSet<String>> {
    let mut metrics: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for one in series {
        let labels = metrics.entry(one.metric).or_default();
        for (name, _) in &one.labels {
            if !labels.contains(*name) {
                labels.insert((*name).to_string());
            }
        }
    }
    metrics
}

fn unpack(body: &[u8], limit: u64) -> Result<Vec<u8>> {
    let damaged = |e: snap::Error| Error::invalid(format!("the snappy body is damaged or cut off: {e}"));
    let size = snap::raw::decompress_len(body).map_err(damaged)?;
    if size as u64 > limit {
        return Err(Error::invalid(format!(
            "the body unpacks to more than {limit} bytes (frontend.max_body)"
        )));
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(damaged)
}

/// The series that can be stored, and the first complaint about one that cannot.
fn readable<'a>(request: &'a [RawSeries<'a>]) -> (Vec<Series<'a>>, Option<Error>) {
    let (mut series, mut refused) = (Vec::with_capacity(request.len()), None);
    for one in request {
        let mut labels = sorted(&one.labels);
        let id = series_id(&labels);
        let metric = labels.iter().position(|(name, _)| *name == NAME_LABEL);
        let metric = metric.map(|at| labels.remove(at).1);
        let reserved = [METRIC_COLUMN, SERIES_COLUMN, TIME_COLUMN, VALUE_COLUMN];
        let reserved = labels
            .iter()
            .find(|(name, _)| reserved.contains(name) || name.is_empty());
        match (metric, reserved) {
            (None, _) => {
                refused.get_or_insert_with(|| {
                    Error::invalid("a series has no label `__name__`; the others are stored")
                });
            }
            (Some(metric), Some((name, _))) => {
                refused.get_or_insert_with(|| {
                    Error::invalid(format!(
                        "series of `{metric}`: label `{name}` is reserved; the others are stored"
                    ))
                });
            }
            (Some(metric), None) => series.push(Series {
                metric,
                id,
                labels,
                points: &one.points,
            }),
        }
    }
    (series, refused)
}

/// Labels in the order of their names; empty ones are left out, and of a name that is there twice the last counts.
fn sorted<'a>(labels: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut kept: Vec<_> = labels
        .iter()
        .copied()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    if !kept.is_sorted_by(|(a, _), (b, _)| a < b) {
        kept.reverse();
        kept.sort_by_key(|(name, _)| *name);
        kept.dedup_by_key(|(name, _)| *name);
    }
    kept
}

/// Hash of all labels, the name included, in order of their names.
fn series_id(labels: &[(&str, &str)]) -> u64 {
    let mut hash = Xxh64::new(0);
    for (name, value) in labels {
        hash.update(name.as_bytes());
        // A byte that UTF-8 does not have, so that no two sets of labels read alike.
        hash.update(&[0xff]);
        hash.update(value.as_bytes());
        hash.update(&[0xff]);
    }
    hash.digest()
}

fn physical_table(labels: &BTreeSet<&str>, regions: u32) -> Result<WantedTable> {
    let mut columns = vec![
        ColumnSchema::new(METRIC_COLUMN, ColumnType::String, Semantic::Tag),
        ColumnSchema::new(SERIES_COLUMN, ColumnType::UInt64, Semantic::Tag),
        ColumnSchema::new(
            TIME_COLUMN,
            ColumnType::Timestamp(TimeUnit::Millisecond),
            Semantic::Timestamp,
        ),
        ColumnSchema::new(VALUE_COLUMN, ColumnType::Float64, Semantic::Field),
    ];
    columns.extend(
        labels
            .iter()
            .map(|l| ColumnSchema::new(*l, ColumnType::String, Semantic::Field)),
    );
    Ok(WantedTable {
        name: PHYSICAL_TABLE.to_string(),
        columns,
        partition: even_ranges(regions)?,
    })
}

/// Cuts the range of series ids into equal parts.
fn even_ranges(parts: u32) -> Result<PartitionRule> {
    let parts = u64::from(parts.max(1));
    let bound = |i: u64| Value::UInt(u64::MAX / parts * i);
    let compare = |op, value| PartitionExpr::compare(SERIES_COLUMN, op, value);
    let exprs = (0..parts).map(|i| {
        let low = (i > 0).then(|| compare(Op::GtEq, bound(i)));
        let high = (i + 1 < parts).then(|| compare(Op::Lt, bound(i + 1)));
        match (low, high) {
            (Some(low), Some(high)) => Some(PartitionExpr::And(Box::new(low), Box::new(high))),
            (one, other) => one.or(other),
        }
    });
    PartitionRule::new(vec![SERIES_COLUMN.to_string()], exprs.flatten().collect())
}

/// Cells of one batch: samples times labels.
const MOST_CELLS: usize = 4 << 20;

/// The series in parts that take no more memory than each other, however many labels there are in all; none of
/// them is without samples.
fn parts<'a, 's>(series: &'a [Series<'s>], labels: usize) -> Vec<&'a [Series<'s>]> {
    let most = (MOST_CELLS / labels.max(1)).max(1);
    let (mut parts, mut start, mut samples) = (Vec::new(), 0, 0);
    for (end, one) in series.iter().enumerate() {
        if samples > 0 && samples + one.points.len() > most {
            parts.push(&series[start..end]);
            (start, samples) = (end, 0);
        }
        samples += one.points.len();
    }
    if samples > 0 {
        parts.push(&series[start..]);
    }
    parts
}

/// The columns of the physical table that a request fills.
struct Columns<'a> {
    metric: u32,
    series: u32,
    time: u32,
    value: u32,
    /// In the order of their names.
    labels: Vec<(&'a str, u32)>,
}

impl<'a> Columns<'a> {
    fn of(table: &TableInfo, labels: &BTreeSet<&'a str>) -> Result<Self> {
        let id = |name: &str| {
            let column = table.schema.column(name).map(|c| c.id);
            column.ok_or_else(|| Error::internal(format!("{PHYSICAL_TABLE} has no column `{name}`")))
        };
        let mut columns = Vec::with_capacity(labels.len());
        for label in labels {
            let column = table.schema.column(label);
            let column = column
                .filter(|c| c.column_type == ColumnType::String)
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "label `{label}` is a column of another type in {PHYSICAL_TABLE}"
                    ))
                })?;
            columns.push((*label, column.id));
        }
        Ok(Self {
            metric: id(METRIC_COLUMN)?,
            series: id(SERIES_COLUMN)?,
            time: table.schema.time_index().id,
            value: id(VALUE_COLUMN)?,
            labels: columns,
        })
    }

    fn batch(&self, series: &[Series]) -> Result<SeriesBatch> {
        let rows: usize = series.iter().map(|s| s.points.len()).sum();
        let (mut keys, mut times, mut values) = (Vec::with_capacity(rows), vec![], vec![]);
        for (number, one) in series.iter().enumerate() {
            keys.resize(keys.len() + one.points.len(), number as u32);
            times.extend(one.points.iter().map(|p| p.time));
            values.extend(one.points.iter().map(|p| p.value));
        }
        let metrics: StringArray = series.iter().map(|s| Some(s.metric)).collect();
        let ids: UInt64Array = series.iter().map(|s| Some(s.id)).collect();
        let mut of_series: Vec<(u32, ArrayRef)> =
            vec![(self.metric, Arc::new(metrics)), (self.series, Arc::new(ids))];
        of_series.extend(self.label_arrays(series));
        let of_rows: Vec<(u32, ArrayRef)> = vec![
            (self.time, Arc::new(TimestampMillisecondArray::from(times))),
            (self.value, Arc::new(Float64Array::from(values))),
        ];
        SeriesBatch::of_columns(series.len(), of_series, UInt32Array::from(keys), of_rows)
    }

    /// Both the labels of a series and the columns are in the order of names.
    fn label_arrays(&self, series: &[Series]) -> Vec<(u32, ArrayRef)> {
        let mut builders: Vec<StringBuilder> = self.labels.iter().map(|_| StringBuilder::new()).collect();
        for one in series {
            let mut labels = one.labels.iter().peekable();
            for ((name, _), builder) in self.labels.iter().zip(&mut builders) {
                builder.append_option(
                    labels
                        .next_if(|(label, _)| label == name)
                        .map(|(_, value)| *value),
                );
            }
        }
        let columns = self.labels.iter().zip(&mut builders);
        columns
            .map(|((_, id), builder)| (*id, Arc::new(builder.finish()) as ArrayRef))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_labels_does_not_matter_and_their_borders_do() {
        let id = |labels: &[(&'static str, &'static str)]| series_id(&sorted(labels));
        assert_eq!(id(&[("a", "1"), ("b", "2")]), id(&[("b", "2"), ("a", "1")]));
        assert_ne!(id(&[("a", "1b")]), id(&[("a1", "b")]));
    }

    #[test]
    fn series_are_spread_over_the_whole_range() {
        let rule = even_ranges(3).unwrap();
        assert_eq!(rule.partitions.len(), 3);
        let region = |id: u64| rule.route(&|_| Value::UInt(id)).unwrap();
        assert_eq!([region(0), region(u64::MAX / 2), region(u64::MAX)], [0, 1, 2]);
        assert_eq!(even_ranges(1).unwrap().partitions.len(), 1);
    }

    #[test]
    fn many_labels_make_small_parts() {
        let points = vec![Point::default(); 10];
        let one = || Series {
            metric: "m",
            id: 1,
            labels: vec![],
            points: &points,
        };
        let series: Vec<Series> = (0..10).map(|_| one()).collect();
        let sizes = |labels| parts(&series, labels).iter().map(|p| p.len()).collect::<Vec<_>>();
        assert_eq!(sizes(1), [10]);
        assert_eq!(sizes(MOST_CELLS / 35), [3, 3, 3, 1]);
        assert_eq!(sizes(MOST_CELLS), [1; 10]);
        assert!(parts(&[Series { points: &[], ..one() }], 1).is_empty());
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let body = snap::raw::Encoder::new().compress_vec(&vec![0; 1 << 20]).unwrap();
        assert!(unpack(&body, 1 << 10).unwrap_err().message.contains("max_body"));
    }
}
