//! How a batch crosses the wire and lies in the log: two Arrow IPC streams.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::ipc::MetadataVersion;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use greptime_types::{Error, Result, TableSchema};

use crate::batch::{SeriesBatch, bytes_of};

/// Values need no more than this; the default of 64 would make single rows ten times as large.
const ALIGNMENT: usize = 8;

/// A batch as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// [`SeriesBatch::series`]; never empty, not even without tags.
    pub series: Bytes,
    /// [`SeriesBatch::rows`].
    pub rows: Bytes,
}

impl SeriesBatch {
    pub fn encode(&self) -> Result<Encoded> {
        Ok(Encoded {
            series: encode(self.series())?,
            rows: encode(self.rows())?,
        })
    }

    /// As programs read it that know no series: all columns in the rows, by the names that `schema` gives them.
    pub fn encode_named(&self, schema: &TableSchema) -> Result<Encoded> {
        Ok(Encoded {
            series: Bytes::new(),
            rows: encode(&self.to_named(schema)?)?,
        })
    }

    /// Its buffers stay where they are, if they are aligned.
    pub fn decode(encoded: &Encoded) -> Result<Self> {
        Self::try_new(decode(&encoded.series)?, decode(&encoded.rows)?)
    }
}

fn encode(batch: &RecordBatch) -> Result<Bytes> {
    let size = bytes_of(batch);
    let write = || {
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
        let buffer = Vec::with_capacity(size + 256 * (2 + batch.num_columns()));
        let mut writer = StreamWriter::try_new_with_options(buffer, batch.schema_ref(), options)?;
        writer.write(batch)?;
        writer.into_inner()
    };
    write()
        .map(Bytes::from)
        .map_err(|e| Error::internal(format!("rows cannot be encoded: {e}")))
}

/// Reads one Arrow IPC stream as one batch.
pub fn decode(bytes: &Bytes) -> Result<RecordBatch> {
    let invalid =
        |e: &dyn std::fmt::Display| Error::invalid(format!("rows are not an Arrow IPC stream: {e}"));
    let mut buffer = Buffer::from(bytes.clone());
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !buffer.is_empty() {
        match decoder.decode(&mut buffer).map_err(|e| invalid(&e))? {
            Some(batch) => batches.push(batch),
            None => break,
        }
    }
    decoder.finish().map_err(|e| invalid(&e))?;
    let schema = decoder.schema().ok_or_else(|| invalid(&"it has no schema"))?;
    match batches.as_slice() {
        [one] => Ok(one.clone()),
        many => concat_batches(&schema, many).map_err(|e| invalid(&e)),
    }
}
