//! Rows of a row group into column chunks. Nothing here waits for anything.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, Int32Type, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::Result;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, TypePtr};

use super::encoding::{Choice, Trial, candidates, choose, samples};
use super::series::{self, Series};
use crate::defences::Defence;

/// Rows of a page: what a point query decodes at least. With a quarter of them files are an eighth larger, and no query of
/// the benchmark is faster.
const PAGE_ROWS: usize = 16 * 1024;
const PAGE_BYTES: usize = 1 << 20;
/// The values of a tag stay in one dictionary up to so many bytes.
const DICTIONARY_BYTES: usize = 4 << 20;
/// One in so many lookups of a value that is not there reads the row group in vain.
const BLOOM_MISS: f64 = 0.01;
/// With fewer distinct values nearly every row group has all of them.
const BLOOM_DISTINCT: usize = 64;

/// How much is spent on making a file small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    pub zstd_level: i32,
    /// Of the samples: which encoding is the smallest hardly depends on it.
    pub trial_level: i32,
    /// Parts of a row group that are tried, and their rows.
    pub samples: (usize, usize),
    /// Whether all floating-point numbers are tried: they take most of a file of metrics, and what suits them differs
    /// from series to series.
    pub all_floats: bool,
}

impl Effort {
    /// A flushed file is soon merged; a merged one is kept for long.
    pub fn of_level(level: u32) -> Self {
        if level == 0 {
            Self {
                zstd_level: 1,
                trial_level: 1,
                samples: (2, 4096),
                all_floats: false,
            }
        } else {
            Self {
                zstd_level: 9,
                trial_level: 3,
                samples: (4, 4096),
                all_floats: true,
            }
        }
    }
}

/// Encodes row groups of one file.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    pub arrow: SchemaRef,
    pub parquet: TypePtr,
    pub effort: Effort,
    /// The first tag in the order of rows: its minima and maxima are exact enough.
    pub leading: Option<String>,
    /// Positions of the tags.
    pub tags: Vec<usize>,
}

impl Encoder {
    /// The columns of one row group, each in the encoding that suits it, and its series if they are to be listed.
    pub fn encode(&self, batches: &[RecordBatch]) -> Result<(Vec<ArrowColumnChunk>, Option<Series>)> {
        let mut builder = base_properties(self.effort.zstd_level);
        for (i, field) in self.arrow.fields().iter().enumerate() {
            let parts: Vec<&ArrayRef> = batches.iter().map(|b| b.column(i)).collect();
            let path = ColumnPath::new(vec![field.name().clone()]);
            let choice = self.choose(field, &parts)?;
            builder = with_choice(builder, path.clone(), choice);
            if parts.iter().any(|part| has_nan(part)) && Defence::NanHasNoMinima.holds() {
                builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
            }
            if let Some(distinct) = self.bloom_size(field, &parts) {
                builder = builder
                    .set_column_bloom_filter_enabled(path.clone(), true)
                    .set_column_bloom_filter_fpp(path.clone(), BLOOM_MISS)
                    .set_column_bloom_filter_max_ndv(path, distinct as u64);
            }
        }
        let mut writers = self.factory(builder)?.create_column_writers(0)?;
        for batch in batches {
            for ((field, column), writer) in self.arrow.fields().iter().zip(batch.columns()).zip(&mut writers)
            {
                for leaf in compute_leaves(field, column)? {
                    writer.write(&leaf)?;
                }
            }
        }
        let chunks: Result<_> = writers.into_iter().map(|writer| writer.close()).collect();
        Ok((chunks?, series::listed(batches, &self.tags)?))
    }

    fn choose(&self, field: &FieldRef, parts: &[&ArrayRef]) -> Result<Choice> {
        let samples = match self.effort.all_floats && field.data_type().is_floating() {
            true => (1, parts.iter().map(|p| p.len()).sum()),
            false => self.effort.samples,
        };
        let sample = sample(parts, samples)?;
        let mut trials = Vec::new();
        for &choice in candidates(field.data_type()) {
            let bytes = self.measure(field, &sample, choice)?;
            trials.push(Trial { choice, bytes });
        }
        Ok(choose(field.data_type(), &trials).unwrap_or(Choice::Dictionary))
    }

    /// Bytes of the sample when written so.
    fn measure(&self, field: &FieldRef, sample: &[ArrayRef], choice: Choice) -> Result<usize> {
        let position = self.arrow.index_of(field.name())?;
        let column = Arc::clone(&self.parquet.get_fields()[position]);
        let root = parquet::schema::types::Type::group_type_builder("sample")
            .with_fields(vec![column])
            .build()?;
        let path = ColumnPath::new(vec![field.name().clone()]);
        let builder = base_properties(self.effort.trial_level);
        let one = Self {
            arrow: Arc::new(arrow::datatypes::Schema::new(vec![Arc::clone(field)])),
            parquet: Arc::new(root),
            ..self.clone()
        };
        let mut bytes = 0;
        let factory = one.factory(with_choice(builder, path, choice))?;
        let Some(mut writer) = factory.create_column_writers(0)?.pop() else {
            return Ok(0);
        };
        for part in sample {
            for leaf in compute_leaves(field, part)? {
                writer.write(&leaf)?;
            }
        }
        bytes += writer.close()?.close().bytes_written as usize;
        Ok(bytes)
    }

    fn factory(&self, builder: WriterPropertiesBuilder) -> Result<ArrowRowGroupWriterFactory> {
        // The library takes the properties of a row group from those of a file.
        let file = SerializedFileWriter::new(
            std::io::sink(),
            Arc::clone(&self.parquet),
            Arc::new(builder.build()),
        )?;
        Ok(ArrowRowGroupWriterFactory::new(&file, Arc::clone(&self.arrow)))
    }

    /// How many distinct values the bloom filter of a column is for; `None` if it would not help: only of a tag
    /// one asks for single values, and those of the leading one lie together.
    fn bloom_size(&self, field: &Field, parts: &[&ArrayRef]) -> Option<usize> {
        if self.leading.as_ref() == Some(field.name())
            || !matches!(field.data_type(), DataType::Dictionary(..))
        {
            return None;
        }
        let distinct = distinct_texts(parts);
        (distinct >= BLOOM_DISTINCT).then_some(distinct)
    }
}

/// Properties that all columns share.
pub(super) fn base_properties(zstd_level: i32) -> WriterPropertiesBuilder {
    let level = ZstdLevel::try_new(zstd_level).unwrap_or_default();
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
}

fn with_choice(
    builder: WriterPropertiesBuilder,
    path: ColumnPath,
    choice: Choice,
) -> WriterPropertiesBuilder {
    match choice {
        Choice::Dictionary => builder.set_column_dictionary_enabled(path, true),
        Choice::Plain(encoding) => builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, encoding),
    }
}

/// Whether minima and maxima would leave out a value: those of Parquet do not count NaN.
fn has_nan(column: &ArrayRef) -> bool {
    // The value of a NULL may be anything; to take it for a NaN does no harm.
    match column.data_type() {
        DataType::Float32 => column
            .as_primitive::<Float32Type>()
            .values()
            .iter()
            .any(|v| v.is_nan()),
        DataType::Float64 => column
            .as_primitive::<Float64Type>()
            .values()
            .iter()
            .any(|v| v.is_nan()),
        _ => false,
    }
}

/// Neighbouring rows from all over the row group.
fn sample(parts: &[&ArrayRef], (count, rows): (usize, usize)) -> Result<Vec<ArrayRef>> {
    let all = parts.iter().map(|p| p.len()).sum();
    let mut sampled = Vec::new();
    for (start, length) in samples(all, count, rows) {
        let mut pieces = Vec::new();
        let mut at = 0;
        for part in parts {
            let from = start.max(at);
            let to = (start + length).min(at + part.len());
            if from < to {
                pieces.push(part.slice(from - at, to - from));
            }
            at += part.len();
        }
        let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        match pieces[..] {
            [] => {}
            [one] => sampled.push(one.slice(0, one.len())),
            _ => sampled.push(concat(&pieces)?),
        }
    }
    Ok(sampled)
}

/// Distinct values of a dictionary column that rows have.
fn distinct_texts(parts: &[&ArrayRef]) -> usize {
    let mut texts: HashSet<&str> = HashSet::new();
    for part in parts {
        let Some(dictionary) = part.as_dictionary_opt::<Int32Type>() else {
            return 0;
        };
        let Some(values) = dictionary.values().as_string_opt::<i32>() else {
            return 0;
        };
        let mut last = None;
        for key in dictionary.keys().iter().flatten() {
            // Sorted rows have runs of the same key.
            if last != Some(key) {
                texts.insert(values.value(key as usize));
                last = Some(key);
            }
        }
    }
    texts.len()
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;
    use arrow::datatypes::Schema;
    use parquet::arrow::ArrowSchemaConverter;
    use parquet::basic::Encoding;

    use super::*;
    use crate::testing::Dice;

    /// Where samples are taken, numbers that differ in few bytes; elsewhere the same few numbers in any order.
    fn numbers(rows: usize, (parts, part_rows): (usize, usize)) -> ArrayRef {
        let sampled = samples(rows, parts, part_rows);
        let mut dice = Dice::new(7);
        let few: Vec<f64> = (0..60).map(|_| dice.roll(1 << 31) as f64 * 1.234_567).collect();
        let mut value = |row: usize| match sampled
            .iter()
            .any(|(start, rows)| (*start..start + rows).contains(&row))
        {
            true => 1e6 + dice.roll(1 << 31) as f64 / 4096.0,
            false => *dice.pick(&few).unwrap(),
        };
        Arc::new((0..rows).map(&mut value).collect::<Float64Array>())
    }

    #[test]
    fn floating_point_numbers_of_kept_files_are_tried_as_a_whole() {
        let field = Arc::new(Field::new("v", DataType::Float64, true));
        let arrow = Arc::new(Schema::new(vec![Arc::clone(&field)]));
        let parquet = ArrowSchemaConverter::new().convert(&arrow).unwrap();
        let effort = Effort::of_level(1);
        let column = numbers(100_000, effort.samples);
        let choice = |effort| {
            let encoder = Encoder {
                arrow: Arc::clone(&arrow),
                parquet: parquet.root_schema_ptr(),
                effort,
                leading: None,
                tags: vec![],
            };
            encoder.choose(&field, &[&column]).unwrap()
        };
        let by_samples = choice(Effort {
            all_floats: false,
            ..effort
        });
        assert_eq!(by_samples, Choice::Plain(Encoding::BYTE_STREAM_SPLIT));
        assert_ne!(choice(effort), by_samples);
    }
}
