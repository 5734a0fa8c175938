//! The rows as plain Parquet: sorted by (hostname, time), zstd, the writer's defaults for the rest. DuckDB and chDB
//! read it where the files of the database do not hold all rows; its size is the mark of "just Parquet".

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::hosts::TAGS;
use super::{Data, FIELDS};
use crate::queries::TIME;

fn schema() -> SchemaRef {
    let tags = TAGS.iter().map(|t| Field::new(*t, DataType::Utf8, true));
    let time = Field::new(TIME, DataType::Timestamp(TimeUnit::Nanosecond, None), true);
    let fields = FIELDS.iter().map(|f| Field::new(*f, DataType::Int64, true));
    Arc::new(Schema::new(tags.chain([time]).chain(fields).collect::<Vec<_>>()))
}

/// Writes everything into one file.
pub fn write(data: &Data, path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .build();
    let mut writer = ArrowWriter::try_new(file, schema(), Some(properties))?;
    let mut hosts: Vec<usize> = (0..data.shape.hosts).collect();
    hosts.sort_by(|a, b| data.hosts[*a].tags.cmp(&data.hosts[*b].tags));
    for host in hosts {
        writer.write(&rows_of(data, host)?)?;
    }
    writer.close()?;
    Ok(())
}

fn rows_of(data: &Data, host: usize) -> anyhow::Result<RecordBatch> {
    let points = data.shape.points;
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(TAGS.len() + 1 + FIELDS.len());
    for tag in &data.hosts[host].tags {
        columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
            tag, points,
        ))));
    }
    let times = (0..points).map(|p| data.shape.time_ms(p) * 1_000_000);
    columns.push(Arc::new(TimestampNanosecondArray::from_iter_values(times)));
    for field in 0..FIELDS.len() {
        let values = data.series(field, host).iter().map(|v| i64::from(*v));
        columns.push(Arc::new(Int64Array::from_iter_values(values)));
    }
    Ok(RecordBatch::try_new(schema(), columns)?)
}

#[cfg(test)]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::Shape;
    use super::*;

    #[test]
    fn the_file_holds_every_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpu.parquet");
        let data = Data::generate(Shape {
            hosts: 12,
            points: 30,
            start_ms: 1_700_006_400_000,
            seed: 1,
        });
        write(&data, &path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 360);
    }
}
