//! What running a plan beside a region has cost, as it travels to whoever asked.

use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::metrics::{Count, Gauge, MetricValue, PruningMetrics, Time};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use parking_lot::Mutex;
use prost::{Enumeration, Message};

/// Rows of a region, and if that was asked for, what they have cost.
pub struct RegionRows {
    pub rows: SendableRecordBatchStream,
    pub report: ReportSlot,
}

impl From<SendableRecordBatchStream> for RegionRows {
    /// Rows of which nothing is reported.
    fn from(rows: SendableRecordBatchStream) -> Self {
        let report = ReportSlot::default();
        Self { rows, report }
    }
}

/// The newest report that came with a stream of rows; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ReportSlot(Arc<Mutex<Option<RegionReport>>>);

impl ReportSlot {
    pub fn set(&self, report: RegionReport) {
        *self.0.lock() = Some(report);
    }

    /// `None` if nothing was asked for, or the datanode does not know how to report.
    pub fn get(&self) -> Option<RegionReport> {
        self.0.lock().clone()
    }
}

/// What one region's part of a query has cost so far.
#[derive(Clone, PartialEq, Message)]
pub struct RegionReport {
    /// The datanode that ran it.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// From the arrival of the query until this report, waits for the receiver included.
    #[prost(uint64, tag = "2")]
    pub nanos: u64,
    /// Whether there are no more rows.
    #[prost(bool, tag = "3")]
    pub is_complete: bool,
    /// What was executed: each operator before its inputs.
    #[prost(message, repeated, tag = "4")]
    pub operators: Vec<OperatorReport>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OperatorReport {
    /// 0 is the root.
    #[prost(uint32, tag = "1")]
    pub depth: u32,
    /// As plans show it.
    #[prost(string, tag = "2")]
    pub line: String,
    #[prost(message, repeated, tag = "3")]
    pub measures: Vec<Measure>,
}

/// A counter of an operator, summed up over its streams.
#[derive(Clone, PartialEq, Message)]
pub struct Measure {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(enumeration = "MeasureKind", tag = "2")]
    pub kind: i32,
    #[prost(uint64, tag = "3")]
    pub value: u64,
    /// Of [`MeasureKind::Pruned`]: how many were left.
    #[prost(uint64, tag = "4")]
    pub left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum MeasureKind {
    Count = 0,
    Bytes = 1,
    Nanos = 2,
    /// How many were not looked at.
    Pruned = 3,
}

/// What a plan has cost, operator by operator.
pub fn operators_of(plan: &dyn ExecutionPlan) -> Vec<OperatorReport> {
    let mut operators = Vec::new();
    report_below(plan, 0, &mut operators);
    operators
}

fn report_below(plan: &dyn ExecutionPlan, depth: u32, operators: &mut Vec<OperatorReport>) {
    operators.push(OperatorReport {
        depth,
        line: displayable(plan).one_line().to_string().trim_end().to_owned(),
        measures: measures_of(plan),
    });
    for child in plan.children() {
        report_below(child.as_ref(), depth + 1, operators);
    }
}

/// Without what says nothing: a leaf says also what it did not have to do.
fn measures_of(plan: &dyn ExecutionPlan) -> Vec<Measure> {
    let is_leaf = plan.children().is_empty();
    let metrics = plan.metrics().unwrap_or_default();
    let metrics = metrics
        .timestamps_removed()
        .aggregate_by_name()
        .sorted_for_display();
    let measures = metrics.iter().filter_map(|m| Measure::of(m.value()));
    let says = |m: &Measure| match m.kind() {
        _ if m.value > 0 || m.name == "output_rows" => true,
        MeasureKind::Nanos => false,
        MeasureKind::Pruned => m.left > 0,
        MeasureKind::Count | MeasureKind::Bytes => is_leaf,
    };
    measures.filter(says).collect()
}

impl OperatorReport {
    /// Whether both are the same place of the same plan.
    pub fn is_like(&self, other: &Self) -> bool {
        let name = |line: &str| line.split(':').next().map(str::to_owned);
        self.depth == other.depth && name(&self.line) == name(&other.line)
    }

    /// Adds the measures of the same operator of another region.
    pub fn add(&mut self, other: &Self) {
        for measure in &other.measures {
            match self.measures.iter_mut().find(|m| m.name == measure.name) {
                Some(known) if known.kind == measure.kind => {
                    known.value += measure.value;
                    known.left += measure.left;
                }
                Some(_) => {}
                None => self.measures.push(measure.clone()),
            }
        }
    }
}

impl Measure {
    pub fn pruned(name: &str, pruned: u64, left: u64) -> Self {
        let measure = Self::new(name, MeasureKind::Pruned, pruned);
        Self { left, ..measure }
    }

    pub fn new(name: &str, kind: MeasureKind, value: u64) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.into(),
            value,
            left: 0,
        }
    }

    /// `None` for what cannot be added up, or says nothing of a region.
    fn of(value: &MetricValue) -> Option<Self> {
        let kind = match value {
            MetricValue::OutputRows(_)
            | MetricValue::SpillCount(_)
            | MetricValue::SpilledRows(_)
            | MetricValue::Count { .. }
            | MetricValue::Gauge { .. } => MeasureKind::Count,
            MetricValue::SpilledBytes(_)
            | MetricValue::CurrentMemoryUsage(_)
            | MetricValue::PeakMemoryUsage { .. } => MeasureKind::Bytes,
            MetricValue::ElapsedCompute(_) | MetricValue::Time { .. } => MeasureKind::Nanos,
            MetricValue::PruningMetrics { pruning_metrics, .. } => {
                let (pruned, left) = (pruning_metrics.pruned(), pruning_metrics.matched());
                return Some(Self::pruned(value.name(), pruned as u64, left as u64));
            }
            _ => return None,
        };
        Some(Self::new(value.name(), kind, value.as_usize() as u64))
    }

    /// As DataFusion shows it; `None` if the kind is of a later version. A time of zero was not taken.
    pub fn to_metric(&self) -> Option<MetricValue> {
        let (name, value) = (self.name.clone().into(), self.value as usize);
        let count = Count::new();
        let time = Time::new();
        Some(
            match (MeasureKind::try_from(self.kind).ok()?, self.name.as_str()) {
                (MeasureKind::Count, "output_rows") => {
                    count.add(value);
                    MetricValue::OutputRows(count)
                }
                (MeasureKind::Count, _) => {
                    count.add(value);
                    MetricValue::Count { name, count }
                }
                // Of those that are shown as sizes, the one that can have any name.
                (MeasureKind::Bytes, _) => {
                    let gauge = Gauge::new();
                    gauge.set(value);
                    MetricValue::PeakMemoryUsage { name, gauge }
                }
                (MeasureKind::Nanos, _) if self.value == 0 => return None,
                (MeasureKind::Nanos, "elapsed_compute") => {
                    time.add_duration(Duration::from_nanos(self.value));
                    MetricValue::ElapsedCompute(time)
                }
                (MeasureKind::Nanos, _) => {
                    time.add_duration(Duration::from_nanos(self.value));
                    MetricValue::Time { name, time }
                }
                (MeasureKind::Pruned, _) => {
                    let pruning_metrics = PruningMetrics::new();
                    pruning_metrics.add_pruned(value);
                    pruning_metrics.add_matched(self.left as usize);
                    MetricValue::PruningMetrics {
                        name,
                        pruning_metrics,
                    }
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(measures: Vec<Measure>) -> OperatorReport {
        OperatorReport {
            depth: 0,
            line: "FilterExec: a > 1".into(),
            measures,
        }
    }

    #[test]
    fn measures_of_the_same_name_and_kind_are_added_up() {
        let mut sum = operator(vec![
            Measure::pruned("files", 3, 1),
            Measure::new("n", MeasureKind::Count, 2),
        ]);
        let other = operator(vec![
            Measure::pruned("files", 1, 1),
            Measure::new("n", MeasureKind::Bytes, 5),
            Measure::new("m", MeasureKind::Count, 7),
        ]);
        assert!(sum.is_like(&other));
        sum.add(&other);
        let expected = operator(vec![
            Measure::pruned("files", 4, 2),
            Measure::new("n", MeasureKind::Count, 2),
            Measure::new("m", MeasureKind::Count, 7),
        ]);
        assert_eq!(sum, expected);
    }

    #[test]
    fn a_kind_of_a_later_version_is_not_shown() {
        let measure = Measure {
            kind: 99,
            ..Measure::new("n", MeasureKind::Count, 1)
        };
        let measure = Measure::decode(measure.encode_to_vec().as_slice()).unwrap();
        assert!(measure.to_metric().is_none());
        let shown = Measure::pruned("files", 3, 1).to_metric().unwrap();
        assert_eq!(shown.to_string(), "4 total → 1 matched");
    }
}
