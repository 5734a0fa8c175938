//! Prometheus' remote write 1.0: snappy, protobuf, into the physical table of metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray, UInt64Array,
};
use greptime_proto::v1::WriteOp;
use greptime_types::partition::Op;
use greptime_types::{
    ColumnType, Error, PartitionExpr, PartitionRule, Result, Semantic, TableInfo, TimeUnit, Value,
};
use prost::Message;
use xxhash_rust::xxh64::Xxh64;

use crate::frontend::Frontend;
use crate::ingest::auto::{WantedTable, wanted_column};
use crate::query::metric::{METRIC_COLUMN, PHYSICAL_TABLE, SERIES_COLUMN, TIME_COLUMN, VALUE_COLUMN};

/// `prometheus.WriteRequest`, without what is not stored (metadata, exemplars, histograms).
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
    labels: BTreeMap<&'a str, &'a str>,
    samples: &'a [Sample],
}

pub async fn write_series(frontend: &Frontend, database: &str, body: &[u8]) -> Result<()> {
    let request = decode(body, frontend.config.max_body)?;
    let (series, refused) = readable(&request);
    if !series.is_empty() {
        let deadline = frontend
            .executor
            .engine
            .router
            .deadline_in(frontend.config.write_timeout);
        let labels: BTreeSet<&str> = series.iter().flat_map(|s| s.labels.keys().copied()).collect();
        let wanted = physical_table(&labels, frontend.config.metric_regions)?;
        let table = frontend.auto.ensure(database, &wanted, deadline).await?;
        for part in parts(&series, labels.len()) {
            let batch = batch_of(&table, &labels, part)?;
            let ingestor = &frontend.executor.ingestor;
            let rows = ingestor.write(&table, &batch, WriteOp::Put, deadline).await?;
            frontend.metrics.ingested("prometheus", rows);
        }
        for one in &series {
            let labels = one.labels.keys().map(ToString::to_string).collect();
            frontend
                .executor
                .engine
                .metrics
                .note(database, one.metric, &labels);
        }
    }
    match refused {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

fn decode(body: &[u8], limit: u64) -> Result<PromWriteRequest> {
    let damaged = |e: snap::Error| Error::invalid(format!("the snappy body is damaged or cut off: {e}"));
    let size = snap::raw::decompress_len(body).map_err(damaged)?;
    if size as u64 > limit {
        return Err(Error::invalid(format!(
            "the body unpacks to more than {limit} bytes (frontend.max_body)"
        )));
    }
    let bytes = snap::raw::Decoder::new().decompress_vec(body).map_err(damaged)?;
    PromWriteRequest::decode(bytes.as_slice())
        .map_err(|e| Error::invalid(format!("the body is not a prometheus.WriteRequest: {e}")))
}

/// The series that can be stored, and the first complaint about one that cannot.
fn readable(request: &PromWriteRequest) -> (Vec<Series<'_>>, Option<Error>) {
    let (mut series, mut refused) = (Vec::new(), None);
    for one in &request.timeseries {
        let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
        for label in one.labels.iter().filter(|l| !l.value.is_empty()) {
            labels.insert(&label.name, &label.value);
        }
        let id = series_id(&labels);
        let metric = labels.remove(NAME_LABEL);
        let reserved = [METRIC_COLUMN, SERIES_COLUMN, TIME_COLUMN, VALUE_COLUMN];
        let reserved = labels
            .keys()
            .find(|name| reserved.contains(name) || name.is_empty());
        match (metric, reserved) {
            (None, _) => {
                refused.get_or_insert_with(|| {
                    Error::invalid("a series has no label `__name__`; the others are stored")
                });
            }
            (Some(metric), Some(name)) => {
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
                samples: &one.samples,
            }),
        }
    }
    (series, refused)
}

/// Hash of all labels, the name included, in order of their names.
fn series_id(labels: &BTreeMap<&str, &str>) -> u64 {
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
        wanted_column(METRIC_COLUMN, ColumnType::String, Semantic::Tag),
        wanted_column(SERIES_COLUMN, ColumnType::UInt64, Semantic::Tag),
        wanted_column(
            TIME_COLUMN,
            ColumnType::Timestamp(TimeUnit::Millisecond),
            Semantic::Timestamp,
        ),
        wanted_column(VALUE_COLUMN, ColumnType::Float64, Semantic::Field),
    ];
    columns.extend(
        labels
            .iter()
            .map(|l| wanted_column(*l, ColumnType::String, Semantic::Field)),
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
        if samples > 0 && samples + one.samples.len() > most {
            parts.push(&series[start..end]);
            (start, samples) = (end, 0);
        }
        samples += one.samples.len();
    }
    if samples > 0 {
        parts.push(&series[start..]);
    }
    parts
}

fn batch_of(table: &TableInfo, labels: &BTreeSet<&str>, series: &[Series]) -> Result<RecordBatch> {
    for label in labels {
        let column = table.schema.column(label);
        if column.is_none_or(|c| c.column_type != ColumnType::String) {
            return Err(Error::invalid(format!(
                "label `{label}` is a column of another type in {PHYSICAL_TABLE}"
            )));
        }
    }
    let rows: usize = series.iter().map(|s| s.samples.len()).sum();
    let mut builders: HashMap<&str, StringBuilder> = labels
        .iter()
        .map(|l| (*l, StringBuilder::with_capacity(rows, 0)))
        .collect();
    let mut metrics = StringBuilder::with_capacity(rows, rows * 16);
    let (mut ids, mut times, mut values) = (vec![], vec![], vec![]);
    for one in series {
        for sample in one.samples {
            metrics.append_value(one.metric);
            ids.push(one.id);
            times.push(sample.timestamp);
            values.push(sample.value);
            for (name, builder) in &mut builders {
                builder.append_option(one.labels.get(name));
            }
        }
    }
    let fixed: [(&str, ArrayRef, bool); 4] = [
        (METRIC_COLUMN, Arc::new(metrics.finish()), true),
        (SERIES_COLUMN, Arc::new(UInt64Array::from(ids)), true),
        (
            TIME_COLUMN,
            Arc::new(TimestampMillisecondArray::from(times)),
            false,
        ),
        (VALUE_COLUMN, Arc::new(Float64Array::from(values)), true),
    ];
    let labels = labels.iter().filter_map(|label| {
        let array: StringArray = builders.get_mut(label)?.finish();
        Some((*label, Arc::new(array) as ArrayRef, true))
    });
    RecordBatch::try_from_iter_with_nullable(fixed.into_iter().chain(labels))
        .map_err(|e| Error::internal(format!("samples do not make a batch: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_labels_does_not_matter_and_their_borders_do() {
        let id = |labels: &[(&'static str, &'static str)]| series_id(&labels.iter().copied().collect());
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
        let samples = vec![Sample::default(); 10];
        let one = || Series {
            metric: "m",
            id: 1,
            labels: BTreeMap::new(),
            samples: &samples,
        };
        let series: Vec<Series> = (0..10).map(|_| one()).collect();
        let sizes = |labels| parts(&series, labels).iter().map(|p| p.len()).collect::<Vec<_>>();
        assert_eq!(sizes(1), [10]);
        assert_eq!(sizes(MOST_CELLS / 35), [3, 3, 3, 1]);
        assert_eq!(sizes(MOST_CELLS), [1; 10]);
        assert!(
            parts(
                &[Series {
                    samples: &[],
                    ..one()
                }],
                1
            )
            .is_empty()
        );
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let body = snap::raw::Encoder::new().compress_vec(&vec![0; 1 << 20]).unwrap();
        assert!(decode(&body, 1 << 10).unwrap_err().message.contains("max_body"));
    }
}
