//! Parameters of prepared statements: `?` and `$1`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Value, ValueWithSpan, VisitMut, VisitorMut};
use greptime_types::{Error, Result};

use super::Statement;

/// Gives unnamed parameters (`?`) numbers, so that all look like `$n`; returns how many there are.
pub fn number(statement: &mut Statement) -> usize {
    let mut numbering = Numbering {
        unnamed: 0,
        highest: 0,
    };
    let _ = visit(statement, &mut numbering);
    numbering.highest
}

/// The statement with the values in the place of its parameters.
pub fn bind(statement: &Statement, values: &[Value]) -> Result<Statement> {
    let mut bound = statement.clone();
    let mut binding = Binding { values };
    match visit(&mut bound, &mut binding) {
        ControlFlow::Continue(()) => Ok(bound),
        ControlFlow::Break(missing) => Err(Error::invalid(format!("parameter {missing} has no value"))),
    }
}

fn visit<V: VisitorMut>(statement: &mut Statement, visitor: &mut V) -> ControlFlow<V::Break> {
    match statement {
        Statement::Query(query) => query.visit(visitor),
        Statement::Insert(insert) => insert.visit(visitor),
        Statement::Delete(delete) => delete.visit(visitor),
        Statement::Update(update) => update.visit(visitor),
        _ => ControlFlow::Continue(()),
    }
}

struct Numbering {
    unnamed: usize,
    highest: usize,
}

impl VisitorMut for Numbering {
    type Break = ();

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        if let Value::Placeholder(name) = &mut value.value {
            if name == "?" {
                self.unnamed += 1;
                *name = format!("${}", self.unnamed);
            }
            self.highest = self.highest.max(position(name).unwrap_or(0));
        }
        ControlFlow::Continue(())
    }
}

struct Binding<'a> {
    values: &'a [Value],
}

impl VisitorMut for Binding<'_> {
    type Break = String;

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<String> {
        if let Value::Placeholder(name) = &mut value.value {
            match position(name).and_then(|n| self.values.get(n.checked_sub(1)?)) {
                Some(bound) => value.value = bound.clone(),
                None => return ControlFlow::Break(name.clone()),
            }
        }
        ControlFlow::Continue(())
    }
}

/// 1 for `$1`.
fn position(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse().ok()
}
