//! EXPLAIN ANALYZE: what regions report of their part of a plan, shown below the operator that asked them.
//!
//! Without VERBOSE the reports are added up, with it they are shown region by region. A region of which nothing is known
//! (its datanode is of an earlier version) shows as such.

use std::fmt;
use std::iter::Peekable;
use std::slice::Iter;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{Metric, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use greptime_query::{Measure, MeasureKind, OperatorReport, RegionReport, ReportSlot};
use greptime_types::RegionId;
use parking_lot::Mutex;

use super::exec::RegionQueryExec;

/// The plan; of an EXPLAIN ANALYZE with regions that are asked to report.
pub fn with_reports(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(by_region) = plan.downcast_ref::<AnalyzeExec>().map(AnalyzeExec::verbose) else {
        return Ok(plan);
    };
    let asking = plan.transform_up(|node| match node.downcast_ref::<RegionQueryExec>() {
        Some(regions) => Ok(Transformed::yes(Arc::new(regions.reported(by_region)?))),
        None => Ok(Transformed::no(node)),
    })?;
    Ok(asking.data)
}

/// What the regions of one operator have reported.
#[derive(Debug)]
pub struct Reports {
    by_region: bool,
    /// In the order of the operator's partitions.
    regions: Mutex<Vec<Region>>,
    /// Made when somebody looks at what has run.
    shown: OnceLock<Vec<Arc<dyn ExecutionPlan>>>,
}

/// One region, as the frontend saw it.
#[derive(Debug)]
struct Region {
    id: RegionId,
    report: Option<ReportSlot>,
    rows: usize,
    /// Since the region was asked.
    first_rows: Duration,
    /// The same; `None` if nobody wanted to see the end.
    end: Option<Duration>,
}

impl Reports {
    pub fn new(regions: &[RegionId], by_region: bool) -> Self {
        let unasked = |id: &RegionId| Region {
            id: *id,
            report: None,
            rows: 0,
            first_rows: Duration::ZERO,
            end: None,
        };
        Self {
            by_region,
            regions: Mutex::new(regions.iter().map(unasked).collect()),
            shown: OnceLock::new(),
        }
    }

    /// The first rows of a region are there, with a place for its reports.
    pub fn answered(&self, partition: usize, report: ReportSlot, after: Duration) {
        let region = &mut self.regions.lock()[partition];
        (region.report, region.first_rows) = (Some(report), after);
    }

    pub fn received(&self, partition: usize, rows: usize) {
        self.regions.lock()[partition].rows += rows;
    }

    /// There are no more rows.
    pub fn ended(&self, partition: usize, after: Duration) {
        self.regions.lock()[partition].end = Some(after);
    }

    /// What the regions ran; `None` as long as there is no report.
    pub fn shown(&self) -> Option<&Vec<Arc<dyn ExecutionPlan>>> {
        if let Some(shown) = self.shown.get() {
            return Some(shown);
        }
        let regions = self.regions.lock();
        let reports: Vec<_> = regions.iter().map(Region::newest).collect();
        if reports.iter().all(Option::is_none) {
            return None;
        }
        let by_region = || {
            regions
                .iter()
                .zip(&reports)
                .map(|(r, report)| r.show(report.as_ref()))
        };
        let shown = match self.by_region {
            true => by_region().collect(),
            // Regions that ran different plans cannot be added up.
            false => sum(reports.iter().flatten()).map_or_else(|| by_region().collect(), |sum| tree(&sum)),
        };
        Some(self.shown.get_or_init(|| shown))
    }

    /// What to know of several regions: the one that took the longest, and whether the numbers are of all of them.
    pub fn summary(&self) -> String {
        let regions = self.regions.lock();
        let mut summary = String::new();
        let slowest = regions.iter().max_by_key(|r| r.end).filter(|_| regions.len() > 1);
        if let Some((slowest, took)) = slowest.and_then(|r| Some((r, r.end?))) {
            let node = slowest.newest().map(|r| format!(" on node {}", r.node));
            let node = node.unwrap_or_default();
            summary += &format!(", slowest={} ({took:.1?}{node})", slowest.id);
        }
        let reports: Vec<_> = regions.iter().filter_map(Region::newest).collect();
        if reports.len() < regions.len() {
            summary += &format!(", reported={} of {}", reports.len(), regions.len());
        }
        match reports.iter().filter(|r| !r.is_complete).count() {
            0 => summary,
            early => summary + &format!(", not_read_to_the_end={early}"),
        }
    }
}

impl Region {
    fn newest(&self) -> Option<RegionReport> {
        self.report.as_ref()?.get()
    }

    fn show(&self, report: Option<&RegionReport>) -> Arc<dyn ExecutionPlan> {
        let mut measures = vec![Measure::new("output_rows", MeasureKind::Count, self.rows as u64)];
        let mut took = |name: &str, nanos: u64| measures.push(Measure::new(name, MeasureKind::Nanos, nanos));
        if self.report.is_some() {
            took("first_rows_after", self.first_rows.as_nanos() as u64);
        }
        if let Some(end) = self.end {
            took("time", end.as_nanos() as u64);
        }
        if let Some(report) = report {
            took("time_on_datanode", report.nanos);
        }
        let what = match (report, &self.report) {
            (Some(report), _) if report.is_complete => format!("node={}", report.node),
            (Some(report), _) => format!("node={}, not read to the end", report.node),
            (None, Some(_)) => "its datanode reports nothing".to_owned(),
            (None, None) => "not asked".to_owned(),
        };
        Arc::new(Shown::new(
            format!("Region {}: {what}", self.id),
            &measures,
            report.map_or_else(Vec::new, |r| tree(&r.operators)),
        ))
    }
}

/// The operators with the measures of all regions; `None` if the regions did not run the same.
fn sum<'a>(reports: impl Iterator<Item = &'a RegionReport>) -> Option<Vec<OperatorReport>> {
    let mut sum: Option<Vec<OperatorReport>> = None;
    for RegionReport { operators, .. } in reports {
        let Some(known) = &mut sum else {
            sum = Some(operators.clone());
            continue;
        };
        let are_alike = known.iter().zip(operators).all(|(a, b)| a.is_like(b));
        if known.len() != operators.len() || !are_alike {
            return None;
        }
        for (known, other) in known.iter_mut().zip(operators) {
            known.add(other);
        }
    }
    sum
}

fn tree(operators: &[OperatorReport]) -> Vec<Arc<dyn ExecutionPlan>> {
    level(&mut operators.iter().peekable(), 0)
}

/// The operators from `depth` on, until one that is above.
fn level(operators: &mut Peekable<Iter<'_, OperatorReport>>, depth: u32) -> Vec<Arc<dyn ExecutionPlan>> {
    let mut nodes: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    while let Some(operator) = operators.next_if(|o| o.depth >= depth) {
        let below = level(operators, operator.depth + 1);
        nodes.push(Arc::new(Shown::new(
            operator.line.clone(),
            &operator.measures,
            below,
        )));
    }
    nodes
}

/// Something that ran elsewhere, and is only shown.
#[derive(Debug)]
struct Shown {
    line: String,
    metrics: MetricsSet,
    below: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl Shown {
    fn new(line: String, measures: &[Measure], below: Vec<Arc<dyn ExecutionPlan>>) -> Self {
        let mut metrics = MetricsSet::new();
        // That nothing was left out is not worth a word; what was read is counted besides.
        let says = |m: &&Measure| m.kind() != MeasureKind::Pruned || m.value > 0;
        for value in measures.iter().filter(says).filter_map(Measure::to_metric) {
            metrics.push(Arc::new(Metric::new(value, None)));
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(Schema::empty())),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            line,
            metrics,
            below,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for Shown {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl ExecutionPlan for Shown {
    fn name(&self) -> &str {
        self.line.split(':').next().unwrap_or_default()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.below.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("{} ran beside a region, and is only shown here", self.name())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone())
    }
}
