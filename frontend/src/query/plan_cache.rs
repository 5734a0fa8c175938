//! Plans of queries that differ in their constants only.
//!
//! Planning takes longer than many queries. The constants that WHERE compares columns with are taken out of a
//! statement; what remains is planned and optimised once, and each statement of this form puts its own constants in.
//! Mostly they are put into the physical plan ([`Preparation`]). Where that cannot be, they are put into the logical one,
//! and another pass of the optimizer follows; it finds little to do. Only constants of whole numbers and texts are taken
//! out, where the plan says that their type is that of the column: everything else stays part of the form.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::MemoryCatalogProviderList;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{self, SetExpr, Value};
use foyer::{Cache, CacheBuilder};

use super::engine::{Protocol, Session};
use super::prepared::Preparation;
use super::provider::RegionTable;

/// A form of statements: everything but the constants that were taken out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    statement: ast::Statement,
    kinds: Vec<Kind>,
    database: String,
    user: String,
    protocol: Protocol,
    /// Of the catalog that it was planned over.
    revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Integer,
    Text,
}

/// A statement without its constants.
pub struct Template {
    form: Arc<Form>,
    values: Vec<Value>,
}

/// A form, planned.
pub struct Entry {
    /// Everything that planning has set up, but for the catalog.
    state: Arc<SessionState>,
    /// Optimised, with placeholders for the constants; `None` if statements of this form must be planned one by one.
    plan: Option<Arc<LogicalPlan>>,
    types: Vec<DataType>,
    preparation: Option<Preparation>,
}

/// A statement of a form: what is kept of the form, and the constants.
pub struct Bound {
    entry: Arc<Entry>,
    plan: Arc<LogicalPlan>,
    constants: Vec<ScalarValue>,
}

/// Bounded by the number of forms.
pub struct PlanCache {
    entries: Cache<Arc<Form>, Arc<Entry>>,
}

/// Of the names of constants that were taken out.
const PREFIX: &str = "$constant_";
/// Of the optimizer, once the constants are known.
const PASSES: usize = 1;
/// Forms that are kept; a dashboard has dozens.
const FORMS: usize = 512;

impl Default for PlanCache {
    fn default() -> Self {
        let entries = CacheBuilder::new(FORMS).with_name("query plans").build();
        Self { entries }
    }
}

impl PlanCache {
    pub fn get(&self, template: &Template) -> Option<Arc<Entry>> {
        let entry = self.entries.get(&template.form)?;
        Some(Arc::clone(entry.value()))
    }

    pub fn insert(&self, template: &Template, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        self.entries
            .insert(Arc::clone(&template.form), Arc::clone(&entry));
        entry
    }
}

impl Template {
    /// `None` if the statement is not one whose plan is worth keeping.
    pub fn of(statement: &ast::Statement, session: &Session, revision: u64) -> Option<Self> {
        let ast::Statement::Query(query) = statement else {
            return None;
        };
        let mut query = query.clone();
        let mut taken = Taken::default();
        if let SetExpr::Select(select) = query.body.as_mut()
            && let Some(condition) = &mut select.selection
        {
            taken.from(condition);
        }
        let form = Form {
            statement: ast::Statement::Query(query),
            kinds: taken.kinds,
            database: session.database.clone(),
            user: session.user.clone(),
            protocol: session.protocol,
            revision,
        };
        Some(Self {
            form: Arc::new(form),
            values: taken.values,
        })
    }

    /// With placeholders in the place of the constants.
    pub fn statement(&self) -> &ast::Statement {
        &self.form.statement
    }
}

/// Constants that were taken out of a condition, in order.
#[derive(Default)]
struct Taken {
    values: Vec<Value>,
    kinds: Vec<Kind>,
}

impl Taken {
    fn from(&mut self, condition: &mut ast::Expr) {
        use ast::BinaryOperator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq, Or};
        match condition {
            ast::Expr::Nested(inner) => self.from(inner),
            ast::Expr::BinaryOp { left, op, right } => match op {
                And | Or => {
                    self.from(left);
                    self.from(right);
                }
                Eq | NotEq | Lt | LtEq | Gt | GtEq => {
                    if is_column(left) {
                        self.take(right);
                    } else if is_column(right) {
                        self.take(left);
                    }
                }
                _ => {}
            },
            ast::Expr::Between { expr, low, high, .. } if is_column(expr) => {
                self.take(low);
                self.take(high);
            }
            ast::Expr::InList { expr, list, .. } if is_column(expr) => {
                list.iter_mut().for_each(|e| self.take(e))
            }
            _ => {}
        }
    }

    fn take(&mut self, expr: &mut ast::Expr) {
        let ast::Expr::Value(constant) = expr else { return };
        let kind = match &constant.value {
            Value::Number(digits, _) if digits.bytes().all(|b| b.is_ascii_digit()) => Kind::Integer,
            Value::SingleQuotedString(_) => Kind::Text,
            _ => return,
        };
        let name = Value::Placeholder(format!("{PREFIX}{}", self.kinds.len()));
        self.kinds.push(kind);
        self.values.push(std::mem::replace(&mut constant.value, name));
    }
}

/// Of a placeholder's name, which is not one that clients give.
pub fn number_of(name: &str) -> Option<usize> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

fn is_column(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_))
}

impl Entry {
    /// Keeps an analysed plan of a template, if all statements of its form may share it.
    pub fn new(template: &Template, mut state: SessionState, analysed: Option<LogicalPlan>) -> Result<Self> {
        let shared = analysed.filter(is_shareable);
        let types = shared
            .as_ref()
            .and_then(|plan| types_of(plan, &template.form.kinds));
        let (plan, types) = match (shared, types) {
            (Some(plan), Some(types)) => (Some(Arc::new(state.optimize(&plan)?)), types),
            _ => (None, vec![]),
        };
        state.config_mut().options_mut().optimizer.max_passes = PASSES;
        // It would keep the whole engine alive.
        state.register_catalog_list(Arc::new(MemoryCatalogProviderList::new()));
        // What cannot be prepared is planned.
        let preparation = plan
            .as_ref()
            .and_then(|plan| Preparation::new(plan, &types).ok()?);
        Ok(Self {
            state: Arc::new(state),
            plan,
            types,
            preparation,
        })
    }

    pub fn state(&self) -> &Arc<SessionState> {
        &self.state
    }

    /// One statement; `None` if it must be planned on its own.
    pub fn bind(self: &Arc<Self>, template: &Template) -> Option<Bound> {
        let plan = Arc::clone(self.plan.as_ref()?);
        let constants = template.values.iter().zip(&self.types).map(|(value, kind)| {
            let constant = match value {
                Value::Number(digits, _) => ScalarValue::Int64(Some(digits.parse().ok()?)),
                Value::SingleQuotedString(text) => ScalarValue::Utf8(Some(text.clone())),
                _ => return None,
            };
            // What does not fit gets its error, or its meaning, from planning it.
            constant.cast_to(kind).ok().filter(|constant| !constant.is_null())
        });
        Some(Bound {
            plan,
            constants: constants.collect::<Option<_>>()?,
            entry: Arc::clone(self),
        })
    }
}

impl Bound {
    /// The plan of all statements of the form.
    pub fn logical(&self) -> &Arc<LogicalPlan> {
        &self.plan
    }

    /// The plan to be run; not a prepared one unless all datanodes know these.
    pub async fn physical(self, may_be_prepared: bool) -> Result<Arc<dyn ExecutionPlan>> {
        let Self {
            entry,
            plan,
            constants,
        } = self;
        if may_be_prepared
            && let Some(preparation) = &entry.preparation
            && let Some(prepared) = preparation.plan(&entry.state, &constants).await?
        {
            return Ok(prepared);
        }
        let named = constants.into_iter().enumerate();
        let named = named.map(|(n, constant)| (format!("{}{n}", &PREFIX[1..]), constant.into()));
        let plan =
            Arc::unwrap_or_clone(plan).replace_params_with_values(&ParamValues::Map(named.collect()))?;
        entry.state.create_physical_plan(&plan).await
    }
}

/// The type of each constant, if a constant of its kind means the same in every statement.
fn types_of(plan: &LogicalPlan, kinds: &[Kind]) -> Option<Vec<DataType>> {
    let known = plan.get_parameter_types().ok()?;
    let of = |(i, kind): (usize, &Kind)| {
        let found = known.get(&format!("{PREFIX}{i}"))?.clone()?;
        let same = match kind {
            Kind::Integer => found.is_integer() || matches!(found, DataType::Timestamp(_, None)),
            Kind::Text => matches!(found, DataType::Utf8 | DataType::Timestamp(_, None)),
        };
        same.then_some(found)
    };
    kinds.iter().enumerate().map(of).collect()
}

/// Whether the plan depends on nothing but its tables: no time of planning, no tables that are made while planning.
fn is_shareable(plan: &LogicalPlan) -> bool {
    let mut shareable = true;
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            shareable &= source_as_provider(&scan.source).is_ok_and(|table| table.is::<RegionTable>());
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                shareable &= !matches!(expr, Expr::ScalarVariable(..));
                if let Expr::ScalarFunction(function) = expr {
                    shareable &= function.func.signature().volatility == Volatility::Immutable;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    shareable
}
