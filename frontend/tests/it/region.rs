//! A region in memory that really overwrites, and really runs the plans that it is sent.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{RecordBatch, StringArray, UInt64Array, new_null_array};
use datafusion::arrow::compute::{cast, concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use greptime_proto::v1::{QueryRequest, WriteOp, WriteRequest, WriteResponse};
use greptime_query::{
    PreparedPlan, RegionScanSpec, ResolveScan, decode_plan, decode_values, from_datafusion, plan_functions,
};
use greptime_rows::{Encoded, SeriesBatch};
use greptime_types::{Error, RegionId, RequestId, Result, TableInfo, TableSchema};
use parking_lot::Mutex;

#[derive(Debug)]
pub struct Region {
    pub table: TableInfo,
    pub epoch: u64,
    rows: Vec<(RecordBatch, WriteOp)>,
    applied: BTreeSet<RequestId>,
    pub duplicates: usize,
    /// Of the newest query.
    filters: Arc<Mutex<Vec<String>>>,
    prepared: Mutex<HashMap<Bytes, PreparedPlan>>,
}

impl Region {
    pub fn new(table: TableInfo) -> Self {
        Self {
            table,
            epoch: 1,
            rows: vec![],
            applied: BTreeSet::new(),
            duplicates: 0,
            filters: Arc::default(),
            prepared: Mutex::default(),
        }
    }

    pub fn write(&mut self, request: &WriteRequest) -> Result<WriteResponse> {
        if request.epoch != 0 && request.epoch < self.epoch {
            return Err(Error::conflict(format!(
                "epoch {} is older than {}",
                request.epoch, self.epoch
            )));
        }
        if request.schema_version > self.table.schema.version {
            return Err(Error::unavailable("the schema has not arrived yet"));
        }
        if request.schema_version < self.table.schema.writes_from {
            return Err(Error::conflict(
                "the rows were made for columns that have changed",
            ));
        }
        let id: RequestId = request.request_id.expect("every write has an id").into();
        assert!(
            request.lowest_unfinished <= id.number,
            "an unfinished write is below the mark"
        );
        let duplicate = !self.applied.insert(id);
        let mut affected_rows = 0;
        if duplicate {
            self.duplicates += 1;
        } else if request.op() == WriteOp::Truncate {
            self.rows.clear();
        } else {
            let encoded = Encoded {
                series: request.series.clone(),
                rows: request.rows.clone(),
            };
            let batch = SeriesBatch::decode(&encoded).unwrap();
            affected_rows = batch.num_rows() as u64;
            self.rows
                .push((batch.to_named(&self.table.schema).unwrap(), request.op()));
        }
        Ok(WriteResponse {
            affected_rows,
            epoch: self.epoch,
            sequence: self.applied.len() as u64,
            duplicate,
        })
    }

    /// The columns of the newest write.
    pub fn newest_columns(&self) -> Vec<String> {
        let (batch, _) = self.rows.last().unwrap();
        batch.schema().fields().iter().map(|f| f.name().clone()).collect()
    }

    /// The filters of the newest scan.
    pub fn newest_filters(&self) -> Vec<String> {
        self.filters.lock().clone()
    }

    /// The rows that are there keep their columns, by id, under the new names and types.
    pub fn alter(&mut self, table: TableInfo) {
        for (batch, _) in &mut self.rows {
            let (mut fields, mut columns) = (vec![], vec![]);
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                let id = self.table.schema.column(field.name()).unwrap().id;
                let Some(now) = table.schema.columns.iter().find(|c| c.id == id) else {
                    continue;
                };
                columns.push(cast(column, &now.column_type.to_arrow()).unwrap());
                fields.push(Field::new(&now.name, now.column_type.to_arrow(), true));
            }
            *batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        }
        self.table = table;
    }

    pub fn row_count(&self) -> usize {
        self.newest(&self.table.schema, self.table.options.append_mode)
            .num_rows()
    }

    /// What is stored, in the columns of a schema, with the newest row of each identity.
    fn newest(&self, schema: &TableSchema, append_mode: bool) -> RecordBatch {
        let target = schema.to_arrow();
        let batches: Vec<_> = self.rows.iter().map(|(batch, _)| widen(batch, schema)).collect();
        let all = concat_batches(&target, &batches).unwrap();
        if append_mode || all.num_rows() == 0 {
            return all;
        }
        let ops = self
            .rows
            .iter()
            .flat_map(|(batch, op)| std::iter::repeat_n(*op, batch.num_rows()));
        let names = schema.primary_key.iter().chain([&schema.time_index().name]);
        let keys: Vec<_> = names
            .map(|n| Arc::clone(all.column_by_name(n).unwrap()))
            .collect();
        let fields = keys
            .iter()
            .map(|k| SortField::new(k.data_type().clone()))
            .collect();
        let rows = RowConverter::new(fields).unwrap().convert_columns(&keys).unwrap();
        let mut newest: HashMap<_, (u64, WriteOp)> = HashMap::new();
        for (position, op) in ops.enumerate() {
            newest.insert(rows.row(position).owned(), (position as u64, op));
        }
        let mut kept: Vec<u64> = newest
            .into_values()
            .filter(|(_, op)| *op == WriteOp::Put)
            .map(|(position, _)| position)
            .collect();
        kept.sort_unstable();
        take_record_batch(&all, &UInt64Array::from(kept)).unwrap()
    }

    /// Decoded once, as at a datanode.
    fn prepared(&self, bytes: &Bytes, ctx: &TaskContext) -> datafusion::error::Result<PreparedPlan> {
        let mut kept = self.prepared.lock();
        if !kept.contains_key(bytes) {
            kept.insert(bytes.clone(), PreparedPlan::decode(bytes, ctx)?);
        }
        Ok(kept[bytes].clone())
    }

    /// Decodes the plan over the rows of now; executing it needs no lock.
    pub fn query(
        &self,
        request: &QueryRequest,
    ) -> Result<(Arc<dyn ExecutionPlan>, SendableRecordBatchStream)> {
        if request.epoch != 0 && request.epoch < self.epoch {
            return Err(Error::conflict("the epoch is old"));
        }
        let rows = |spec: &RegionScanSpec| self.newest(&spec.schema, spec.append_mode);
        let ctx = SessionContext::new();
        for function in plan_functions() {
            ctx.register_udf(function.as_ref().clone());
        }
        let ctx = ctx.task_ctx();
        // The plan names one schema and one region: look at it first, then give it its rows.
        let resolve = Resolve {
            of: Snapshot::new(self, &rows, request),
            filters: Arc::clone(&self.filters),
        };
        let plan = match &request.parameters {
            None => decode_plan(&request.plan, &ctx, Arc::new(resolve)),
            Some(parameters) => self.prepared(&request.plan, &ctx).and_then(|plan| {
                let values = decode_values(&parameters.values)?;
                plan.bind(RegionId::from_u64(request.region_id), &values, &resolve)
            }),
        };
        let plan = plan.map_err(|e| from_datafusion(&e))?;
        let rows = execute_stream(Arc::clone(&plan), ctx).map_err(|e| from_datafusion(&e))?;
        Ok((plan, rows))
    }
}

/// All rows of a region, to be cut to what a scan asks for.
#[derive(Debug)]
struct Snapshot {
    region: u64,
    all: RecordBatch,
}

impl Snapshot {
    fn new(region: &Region, rows: &dyn Fn(&RegionScanSpec) -> RecordBatch, request: &QueryRequest) -> Self {
        let spec = RegionScanSpec {
            region_id: RegionId::from_u64(request.region_id),
            schema: Arc::new(region.table.schema.clone()),
            append_mode: region.table.options.append_mode,
            projection: None,
            filters: vec![],
            limit: None,
        };
        Self {
            region: request.region_id,
            all: rows(&spec),
        }
    }
}

#[derive(Debug)]
struct Resolve {
    of: Snapshot,
    filters: Arc<Mutex<Vec<String>>>,
}

impl ResolveScan for Resolve {
    /// Filters are left to the plan, which has them again; that they may be ignored is part of the contract.
    fn resolve(&self, spec: RegionScanSpec) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        assert_eq!(
            spec.region_id.as_u64(),
            self.of.region,
            "the plan is for another region"
        );
        *self.filters.lock() = spec.filters.iter().map(ToString::to_string).collect();
        let all = widen(&self.of.all, &spec.schema);
        let batch = match &spec.projection {
            Some(columns) => all.project(columns)?,
            None => all,
        };
        Ok(MemorySourceConfig::try_new_exec(
            &[vec![batch]],
            spec.output_schema()?,
            None,
        )?)
    }
}

/// The batch with the columns of a schema; absent ones have what the schema says, or NULL.
fn widen(batch: &RecordBatch, schema: &TableSchema) -> RecordBatch {
    let target = schema.to_arrow();
    let columns = schema.columns.iter().map(|column| {
        let data_type = column.column_type.to_arrow();
        match (batch.column_by_name(&column.name), &column.absent) {
            (Some(array), _) => Arc::clone(array),
            (None, None) => new_null_array(&data_type, batch.num_rows()),
            (None, Some(text)) => {
                let texts = StringArray::from(vec![text.as_str(); batch.num_rows()]);
                cast(&texts, &data_type).unwrap()
            }
        }
    });
    RecordBatch::try_new(target, columns.collect()).unwrap()
}
