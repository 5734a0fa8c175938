//! One input of a merge: a file as a stream of rows of the engine.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{Field, SchemaRef};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use greptime_object_store::Bucket;
use greptime_types::schema::{OP_COLUMN, SEQUENCE_COLUMN};
use greptime_types::{Error, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::manifest::FileMeta;
use crate::schema::FIELD_ID;
use crate::sst::key_of;

/// The last bytes of a file, in which its footer probably is.
const FOOTER: usize = 64 << 10;

/// The rows of a file in its own order, with exactly the columns of `schema`: found by id, and by name in a file
/// without ids; those that it lacks are NULL, those of another type are cast.
pub async fn read_file(
    bucket: &Bucket,
    file: &FileMeta,
    schema: &SchemaRef,
    batch_rows: usize,
) -> Result<SendableRecordBatchStream> {
    let key = key_of(bucket, file.home, &file.name);
    let failed = |e: ParquetError| Error::unavailable(format!("reading {key}: {e}"));
    let reader = Object {
        store: Arc::clone(&bucket.store),
        key: key.clone(),
        bytes: file.bytes,
    };
    let builder = ParquetRecordBatchStreamBuilder::new(reader)
        .await
        .map_err(failed)?;
    let found = columns_of(builder.schema(), schema);
    let mask = ProjectionMask::roots(builder.parquet_schema(), found.iter().flatten().copied());
    let rows = builder
        .with_projection(mask)
        .with_batch_size(batch_rows)
        .build()
        .map_err(failed)?;
    // The reader gives what was projected in the order of the file.
    let kept: BTreeMap<usize, usize> = {
        let mut sorted: Vec<usize> = found.iter().flatten().copied().collect();
        sorted.sort_unstable();
        sorted.into_iter().enumerate().map(|(at, i)| (i, at)).collect()
    };
    let places: Vec<Option<usize>> = found
        .into_iter()
        .map(|i| i.and_then(|i| kept.get(&i).copied()))
        .collect();
    let (target, place) = (Arc::clone(schema), key.to_string());
    let rows = rows
        .map_err(move |e| DataFusionError::External(format!("reading {place}: {e}").into()))
        .map(move |batch| batch.and_then(|batch| conform(&batch, &target, &places)));
    Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows)))
}

/// A file in the bucket, as the Parquet reader asks for it.
struct Object {
    store: Arc<dyn ObjectStore>,
    key: Path,
    bytes: u64,
}

fn outside(error: object_store::Error) -> ParquetError {
    ParquetError::External(error.into())
}

impl AsyncFileReader for Object {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { self.store.get_range(&self.key, range).await.map_err(outside) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.key, &ranges).await.map_err(outside) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER));
            let bytes = self.bytes;
            reader.load_and_finish(self, bytes).await.map(Arc::new)
        }
        .boxed()
    }
}

/// Where each column of `wanted` is in a file.
fn columns_of(file: &SchemaRef, wanted: &SchemaRef) -> Vec<Option<usize>> {
    let id = |field: &Field| field.metadata().get(FIELD_ID).cloned();
    let has_ids = file.fields().iter().any(|f| id(f).is_some());
    let find = |field: &Arc<Field>| {
        let internal = [SEQUENCE_COLUMN, OP_COLUMN].contains(&field.name().as_str());
        let same = |other: &Arc<Field>| {
            if has_ids && !internal {
                id(other).is_some() && id(other) == id(field)
            } else {
                other.name() == field.name()
            }
        };
        file.fields().iter().position(same)
    };
    wanted.fields().iter().map(find).collect()
}

fn conform(
    batch: &RecordBatch,
    schema: &SchemaRef,
    places: &[Option<usize>],
) -> datafusion::error::Result<RecordBatch> {
    let column = |(field, place): (&Arc<Field>, &Option<usize>)| -> datafusion::error::Result<ArrayRef> {
        match place.map(|at| batch.column(at)) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(found) if found.data_type() == field.data_type() => Ok(Arc::clone(found)),
            Some(found) => Ok(cast(found, field.data_type())?),
        }
    };
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .zip(places)
        .map(column)
        .collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}
