//! Which aggregates are computed from stretches of series.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use greptime_types::{Semantic, TableSchema};

use super::exec::RegionAggregateExec;
use super::groups::GroupKey;
use crate::scan::ScanExec;
use crate::scan::filter::{Buckets, Filters};
use crate::scan::plan::filters_of;
use crate::scan::top::over;

/// One aggregate function.
#[derive(Clone, Debug)]
pub struct Function {
    pub expr: Arc<AggregateFunctionExpr>,
    /// Over [`Aggregation::values`].
    pub args: Vec<Arc<dyn PhysicalExpr>>,
    /// Of `FILTER (WHERE …)`, over [`Aggregation::values`].
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Function {
    /// Whether its states end with whether there was a row, if it takes the newest one.
    pub fn says_whether_set(&self) -> bool {
        self.expr.fun().name() != "max"
    }
}

/// Which rows can matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    /// The newest of each series: the functions take the value at the latest time.
    LastOfSeries,
    /// Those of the newest intervals, until there are so many groups.
    NewestBuckets(usize),
}

/// What is given out for each group.
#[derive(Clone, Debug)]
pub enum Gives {
    /// The states of the functions, which somebody merges.
    States,
    /// What the functions say of the whole region, if the scope is the newest row of each series.
    Values {
        /// What gives the same from states.
        otherwise: Arc<dyn ExecutionPlan>,
    },
}

/// What is computed beside a region: for each group the aggregates.
#[derive(Clone, Debug)]
pub struct Aggregation {
    pub scope: Scope,
    pub gives: Gives,
    pub keys: Vec<GroupKey>,
    pub functions: Vec<Function>,
    pub filters: Filters,
    /// Columns that arguments and filters on rows look at, as plans see them.
    pub values: SchemaRef,
    /// Groups, then states or values.
    pub output: SchemaRef,
}

/// The plan with its aggregates over a region computed from stretches of series, where that gives the same.
///
/// An aggregate qualifies if it groups by tags and at most one interval of time of fixed length. Everything else of the
/// plan stays as it is.
pub fn accelerate(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let accelerated = plan.transform_down(|node| {
        if let Some(newest) = newest_buckets(&node) {
            return Ok(Transformed::new(newest?, true, TreeNodeRecursion::Jump));
        }
        Ok(match replacement(&node, Scope::All)? {
            Some(replaced) => Transformed::new(replaced, true, TreeNodeRecursion::Jump),
            None => Transformed::no(node),
        })
    })?;
    Ok(accelerated.data)
}

/// The first n groups by their interval of time, latest first: only the newest intervals are looked at.
fn newest_buckets(node: &Arc<dyn ExecutionPlan>) -> Option<Result<Arc<dyn ExecutionPlan>>> {
    let sort = node.downcast_ref::<SortExec>()?;
    let order = sort.expr().iter().next()?;
    let descending = order.options.descending && sort.expr().len() == 1;
    let scope = Scope::NewestBuckets(sort.fetch().filter(|_| descending)?);
    // Between the two, columns are only chosen and named.
    let (projections, aggregate) = match sort.input().downcast_ref::<ProjectionExec>() {
        Some(projection) => (Some(projection), projection.input()),
        None => (None, sort.input()),
    };
    let mut column = order.expr.downcast_ref::<Column>()?.index();
    if let Some(projection) = projections {
        column = projection
            .expr()
            .get(column)?
            .expr
            .downcast_ref::<Column>()?
            .index();
    }
    let replaced = match replacement(aggregate, scope) {
        Ok(replaced) => replaced.filter(|_| column == 0)?,
        Err(error) => return Some(Err(error)),
    };
    let below = match projections {
        Some(_) => over(sort.input(), replaced),
        None => Ok(replaced),
    };
    Some(below.and_then(|below| over(node, below)))
}

fn replacement(node: &Arc<dyn ExecutionPlan>, scope: Scope) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(aggregate) = node.downcast_ref::<AggregateExec>() else {
        return Ok(None);
    };
    let Some(first) = first_of(aggregate) else {
        return Ok(None);
    };
    let Some(source) = flatten(first.input())? else {
        return Ok(None);
    };
    let Some(mut aggregation) = aggregation(first, &source)? else {
        return Ok(None);
    };
    match (scope, aggregation.keys.as_slice()) {
        (Scope::All, _) | (Scope::NewestBuckets(_), [GroupKey::Bucket(_)]) => {}
        _ => return Ok(None),
    }
    if scope != Scope::All {
        aggregation.scope = scope;
    }
    let in_region = |aggregation: Aggregation| -> Arc<dyn ExecutionPlan> {
        let reader = source.scan.reader();
        Arc::new(RegionAggregateExec::new(reader, Arc::new(aggregation)))
    };
    let states = Arc::new(CoalescePartitionsExec::new(in_region(aggregation.clone())));
    if *aggregate.mode() == AggregateMode::Partial {
        return Ok(Some(states));
    }
    let merged = merged(first, states)?;
    if aggregation.scope != Scope::LastOfSeries {
        return Ok(Some(merged));
    }
    let values = aggregation.into_values(aggregate.schema(), &source.scan.schema(), merged)?;
    Ok(Some(in_region(values)))
}

/// The aggregate that sees the rows: the same, or a partial one whose states it merges.
fn first_of(aggregate: &AggregateExec) -> Option<&AggregateExec> {
    match aggregate.mode() {
        AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned => {
            return Some(aggregate);
        }
        AggregateMode::Final | AggregateMode::FinalPartitioned => {}
        AggregateMode::PartialReduce => return None,
    }
    let mut below = aggregate.input();
    while let Some(streams) = below.downcast_ref::<CoalescePartitionsExec>() {
        below = Some(streams.input()).filter(|_| streams.fetch().is_none())?;
    }
    let partial = below.downcast_ref::<AggregateExec>()?;
    let merges = *partial.mode() == AggregateMode::Partial
        && aggregate.limit_options().is_none()
        && aggregate.group_expr().input_exprs() == partial.group_expr().output_exprs()
        && aggregate.aggr_expr() == partial.aggr_expr();
    merges.then_some(partial)
}

/// DataFusion's merging of the states of an aggregate.
fn merged(first: &AggregateExec, states: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let functions = first.aggr_expr().to_vec();
    let filters = vec![None; functions.len()];
    let last = AggregateExec::try_new(
        AggregateMode::Final,
        first.group_expr().as_final(),
        functions,
        filters,
        states,
        first.input_schema(),
    )?;
    Ok(Arc::new(last))
}

/// A chain of filters and projections over the scan of a region, seen as expressions over the scan.
struct Source<'a> {
    scan: &'a ScanExec,
    columns: Vec<Arc<dyn PhysicalExpr>>,
    conjuncts: Vec<Arc<dyn PhysicalExpr>>,
}

fn flatten(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Source<'_>>> {
    if let Some(scan) = plan.downcast_ref::<ScanExec>() {
        let fields = scan.schema();
        let column =
            |(i, f): (usize, &Arc<Field>)| Arc::new(Column::new(f.name(), i)) as Arc<dyn PhysicalExpr>;
        let columns = fields.fields().iter().enumerate().map(column).collect();
        // A limit would have to be kept.
        let limited = scan.limit().is_some();
        return Ok((!limited).then_some(Source {
            scan,
            columns,
            conjuncts: vec![],
        }));
    }
    if let Some(streams) = plan.downcast_ref::<CoalescePartitionsExec>() {
        return match streams.fetch() {
            None => flatten(streams.input()),
            Some(_) => Ok(None),
        };
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let Some(mut source) = flatten(projection.input())? else {
            return Ok(None);
        };
        let exprs = projection
            .expr()
            .iter()
            .map(|e| substitute(&e.expr, &source.columns));
        source.columns = exprs.collect::<Result<_>>()?;
        return Ok(Some(source));
    }
    let Some(filter) = plan.downcast_ref::<FilterExec>().filter(|f| f.fetch().is_none()) else {
        return Ok(None);
    };
    let Some(mut source) = flatten(filter.input())? else {
        return Ok(None);
    };
    let predicate = substitute(filter.predicate(), &source.columns)?;
    source
        .conjuncts
        .extend(split_conjunction(&predicate).into_iter().cloned());
    if let Some(projection) = filter.projection() {
        source.columns = projection
            .iter()
            .map(|i| Arc::clone(&source.columns[*i]))
            .collect();
    }
    Ok(Some(source))
}

/// The expression over what the columns stand for.
fn substitute(
    expr: &Arc<dyn PhysicalExpr>,
    columns: &[Arc<dyn PhysicalExpr>],
) -> Result<Arc<dyn PhysicalExpr>> {
    let replaced = Arc::clone(expr).transform_down(|expr| {
        Ok(
            match expr.downcast_ref::<Column>().and_then(|c| columns.get(c.index())) {
                // What stands there names columns of the scan already.
                Some(column) => Transformed::new(Arc::clone(column), true, TreeNodeRecursion::Jump),
                None => Transformed::no(expr),
            },
        )
    })?;
    Ok(replaced.data)
}

fn aggregation(aggregate: &AggregateExec, source: &Source<'_>) -> Result<Option<Aggregation>> {
    let table = source.scan.table();
    let group_by = aggregate.group_expr();
    if group_by.has_grouping_set() || group_by.groups().len() > 1 {
        return Ok(None);
    }
    let mut keys = Vec::new();
    for (expr, _) in group_by.expr() {
        match key_of(&substitute(expr, &source.columns)?, table) {
            Some(key) => keys.push(key),
            None => return Ok(None),
        }
    }
    let buckets = keys
        .iter()
        .filter(|key| matches!(key, GroupKey::Bucket(_)))
        .count();
    let filters = filters_of(&source.conjuncts, table);
    let by_tags = buckets == 0 && !keys.is_empty();
    let scope = match by_tags && filters.rows.is_none() && takes_last(aggregate, source) {
        true => Scope::LastOfSeries,
        false => Scope::All,
    };
    // A row is taken whatever its types.
    let computed = |f: &Arc<AggregateFunctionExpr>| {
        let accumulated = scope == Scope::LastOfSeries || f.groups_accumulator_supported();
        !f.order_sensitivity().hard_requires() && accumulated
    };
    let all_computed = aggregate.aggr_expr().iter().all(computed);
    if buckets > 1 || !all_computed || aggregate.limit_options().is_some() {
        return Ok(None);
    }
    let mut functions = Vec::new();
    for (expr, filter) in aggregate.aggr_expr().iter().zip(aggregate.filter_expr()) {
        // A function that depends on an order compares what it is ordered by itself.
        let mut args = expr.expressions();
        args.extend(expr.order_bys().iter().map(|order| Arc::clone(&order.expr)));
        functions.push(Function {
            expr: Arc::clone(expr),
            args: args
                .iter()
                .map(|arg| substitute(arg, &source.columns))
                .collect::<Result<_>>()?,
            filter: filter
                .as_ref()
                .map(|f| substitute(f, &source.columns))
                .transpose()?,
        });
    }
    let mut aggregation = Aggregation {
        scope,
        gives: Gives::States,
        keys,
        functions,
        filters,
        values: Arc::new(Schema::empty()),
        output: states_schema(aggregate)?,
    };
    aggregation.bind(&source.scan.schema())?;
    Ok(Some(aggregation))
}

/// Whether every function takes the value at the latest time, so that older rows of a series cannot matter.
fn takes_last(aggregate: &AggregateExec, source: &Source<'_>) -> bool {
    let time = &source.scan.table().time_index().name;
    let is_time = |expr: &Arc<dyn PhysicalExpr>| {
        substitute(expr, &source.columns)
            .is_ok_and(|expr| expr.downcast_ref::<Column>().is_some_and(|c| c.name() == time))
    };
    // What is grouped by is the same for all rows that are compared.
    let is_grouped =
        |expr: &Arc<dyn PhysicalExpr>| aggregate.group_expr().expr().iter().any(|(key, _)| key == expr);
    let by_time = |f: &AggregateFunctionExpr, descending: bool| match f.order_bys() {
        [grouped @ .., order] => {
            grouped.iter().all(|order| is_grouped(&order.expr))
                && is_time(&order.expr)
                && order.options.descending == descending
        }
        [] => false,
    };
    let last =
        |f: &Arc<AggregateFunctionExpr>| match (f.fun().name(), f.order_bys(), f.expressions().as_slice()) {
            ("first_value", ..) => by_time(f, true),
            ("last_value", ..) => by_time(f, false),
            ("max", [], [of]) => is_time(of),
            _ => false,
        };
    let unfiltered = aggregate.filter_expr().iter().all(Option::is_none);
    unfiltered
        && aggregate
            .aggr_expr()
            .iter()
            .all(|f| !f.ignore_nulls() && !f.is_reversed() && last(f))
}

fn key_of(expr: &Arc<dyn PhysicalExpr>, table: &TableSchema) -> Option<GroupKey> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        let column = table.column(column.name())?;
        return (column.semantic == Semantic::Tag).then(|| GroupKey::Tag(column.name.clone()));
    }
    let (unit, time) = (table.time_unit().to_arrow(), &table.time_index().name);
    Buckets::of(expr, unit, time).map(GroupKey::Bucket)
}

/// The columns of a partial aggregate.
fn states_schema(aggregate: &AggregateExec) -> Result<SchemaRef> {
    if *aggregate.mode() == AggregateMode::Partial {
        return Ok(aggregate.schema());
    }
    let groups = aggregate.group_expr().expr().len();
    let mut fields: Vec<Arc<Field>> = aggregate.schema().fields()[..groups].to_vec();
    for function in aggregate.aggr_expr() {
        fields.extend(function.state_fields()?);
    }
    Ok(Arc::new(Schema::new(fields)))
}

impl Aggregation {
    /// The same with values, over the columns of `scan`: of what functions look at, only what they take is wanted.
    fn into_values(
        mut self,
        output: SchemaRef,
        scan: &SchemaRef,
        otherwise: Arc<dyn ExecutionPlan>,
    ) -> Result<Self> {
        for function in &mut self.functions {
            function.args.truncate(function.expr.expressions().len());
        }
        self.gives = Gives::Values { otherwise };
        self.output = output;
        self.bind(scan)?;
        Ok(self)
    }

    /// Chooses the columns that expressions look at, and lets them look there.
    fn bind(&mut self, scan: &SchemaRef) -> Result<()> {
        let exprs = self.functions.iter().flat_map(|f| f.args.iter().chain(&f.filter));
        let columns: BTreeSet<String> = exprs
            .chain(&self.filters.rows)
            .flat_map(collect_columns)
            .map(|c| c.name().to_owned())
            .collect();
        let fields = scan
            .fields()
            .iter()
            .filter(|f| columns.contains(f.name()))
            .cloned();
        self.values = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let bind = |expr: &mut Arc<dyn PhysicalExpr>| -> Result<()> {
            *expr = reassign_expr_columns(Arc::clone(expr), &self.values)?;
            Ok(())
        };
        self.filters.rows.iter_mut().try_for_each(bind)?;
        for function in &mut self.functions {
            function
                .args
                .iter_mut()
                .chain(&mut function.filter)
                .try_for_each(bind)?;
        }
        Ok(())
    }

    /// Columns of the region that are read.
    pub fn columns(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.values.fields().iter().map(|f| f.name().clone()).collect();
        let tags = self.filters.tags.iter().flat_map(collect_columns);
        names.extend(tags.map(|c| c.name().to_owned()));
        names.extend(self.keys.iter().filter_map(|key| match key {
            GroupKey::Tag(name) => Some(name.clone()),
            GroupKey::Bucket(_) => None,
        }));
        names
    }
}
