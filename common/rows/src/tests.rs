use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::filter_record_batch;
use greptime_types::{ColumnSchema, ColumnType, Semantic, TableSchema, TimeUnit};
use proptest::prelude::*;

use super::*;

/// Ids: host 0, n 1, ts 2, usage 3.
fn schema() -> TableSchema {
    let time = ColumnType::Timestamp(TimeUnit::Millisecond);
    let columns = vec![
        ColumnSchema::new("host", ColumnType::String, Semantic::Tag),
        ColumnSchema::new("n", ColumnType::Int64, Semantic::Tag),
        ColumnSchema::new("ts", time, Semantic::Timestamp),
        ColumnSchema::new("usage", ColumnType::Float64, Semantic::Field),
    ];
    TableSchema::new(columns, vec!["host".into(), "n".into()]).unwrap()
}

type Row = (Option<String>, Option<i64>, i64, Option<f64>);

fn named(rows: &[Row]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 4] = [
        (
            "host",
            Arc::new(rows.iter().map(|r| r.0.clone()).collect::<StringArray>()),
        ),
        ("n", Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>())),
        (
            "ts",
            Arc::new(
                rows.iter()
                    .map(|r| Some(r.2))
                    .collect::<TimestampMillisecondArray>(),
            ),
        ),
        (
            "usage",
            Arc::new(rows.iter().map(|r| r.3).collect::<Float64Array>()),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let host = proptest::option::of("[ab]{0,2}");
    let row = (
        host,
        proptest::option::of(0..3_i64),
        0..9_i64,
        proptest::option::of(0.0..1.0),
    );
    proptest::collection::vec(row, 0..40)
}

proptest! {
    #[test]
    fn rows_are_the_same_after_their_tags_were_numbered(rows in rows()) {
        let batch = named(&rows);
        let made = SeriesBatch::from_named(&batch, &schema()).unwrap();
        let mut tags: Vec<_> = rows.iter().map(|r| (&r.0, r.1)).collect();
        tags.sort();
        tags.dedup();
        prop_assert_eq!(made.series().num_rows(), tags.len(), "each set of tags is there once");
        prop_assert_eq!(made.to_named(&schema()).unwrap(), batch);
    }

    #[test]
    fn what_is_encoded_is_decoded(rows in rows()) {
        let made = SeriesBatch::from_named(&named(&rows), &schema()).unwrap();
        prop_assert_eq!(SeriesBatch::decode(&made.encode().unwrap()).unwrap(), made);
    }

    #[test]
    fn parts_have_their_rows_and_no_other_series(rows in rows(), seed in any::<u64>()) {
        let batch = named(&rows);
        let made = SeriesBatch::from_named(&batch, &schema()).unwrap();
        let start = seed as usize % (rows.len() + 1);
        let part = made.slice(start, rows.len() - start).unwrap();
        prop_assert_eq!(part.to_named(&schema()).unwrap(), batch.slice(start, rows.len() - start));
        let mask: BooleanArray = (0..rows.len()).map(|i| Some(seed >> (i % 64) & 1 == 1)).collect();
        let part = made.filter(&mask).unwrap();
        prop_assert_eq!(part.to_named(&schema()).unwrap(), filter_record_batch(&batch, &mask).unwrap());
        let mut used: Vec<u32> = part.keys().to_vec();
        used.sort_unstable();
        used.dedup();
        prop_assert_eq!(used.len(), part.series().num_rows());
    }
}

#[test]
fn a_table_without_tags_has_one_series() {
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1, 2]));
    let batch = RecordBatch::try_from_iter([("ts", times)]).unwrap();
    let made = SeriesBatch::from_named(&batch, &schema()).unwrap();
    assert_eq!((made.series().num_rows(), made.series().num_columns()), (1, 0));
    let encoded = made.encode().unwrap();
    assert!(!encoded.series.is_empty());
    assert_eq!(SeriesBatch::decode(&encoded).unwrap(), made);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let host: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let usage: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let of = |keys: Vec<u32>, id: u32| {
        let keys = UInt32Array::from(keys);
        SeriesBatch::of_columns(
            1,
            vec![(0, Arc::clone(&host))],
            keys,
            vec![(id, Arc::clone(&usage))],
        )
    };
    assert!(of(vec![0], 3).is_ok());
    assert!(of(vec![1], 3).unwrap_err().message.contains("does not describe"));
    assert!(of(vec![0], 0).unwrap_err().message.contains("twice"));
    let made = of(vec![0], 3).unwrap();
    let swapped = SeriesBatch::try_new(made.rows().clone(), made.series().clone());
    assert!(swapped.unwrap_err().message.contains("__series"));
}

#[test]
fn a_single_row_is_small() {
    let made = SeriesBatch::from_named(&named(&[(Some("a".into()), None, 1, None)]), &schema()).unwrap();
    let encoded = made.encode().unwrap();
    let bytes = encoded.series.len() + encoded.rows.len();
    assert!(bytes < 1600, "{bytes} bytes");
    let back = SeriesBatch::decode(&encoded).unwrap();
    assert_eq!(back.column(0).unwrap().array.as_string::<i32>().value(0), "a");
    assert!(back.column(1).unwrap().array.is_null(0));
}
