//! `SELECT CAST(ts AS BIGINT) FROM t ORDER BY ts`: a cast has the name of what is cast, as in PostgreSQL.
//!
//! DataFusion gives it none, and then finds two columns of one name when the query sorts by what was cast.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, Statement, VisitMut, VisitorMut,
};

/// Names the casts of columns in queries that sort.
pub fn name_casts(statement: &mut Statement) {
    let _: ControlFlow<()> = statement.visit(&mut Namer);
}

struct Namer;

impl VisitorMut for Namer {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_mut()
            && query.order_by.is_some()
        {
            name_in(select);
        }
        ControlFlow::Continue(())
    }
}

fn name_in(select: &mut Select) {
    let unknown = |item: &SelectItem| name_of(item).is_none();
    let all_known = !select.projection.iter().any(unknown);
    let mut taken: Vec<String> = select.projection.iter().filter_map(name_of).flatten().collect();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else {
            continue;
        };
        let Some(column) = cast_column(expr) else { continue };
        let name = match all_known && !taken.contains(&column) {
            true => column,
            false => expr.to_string(),
        };
        taken.push(name.clone());
        *item = SelectItem::ExprWithAlias {
            expr: expr.clone(),
            alias: Ident::with_quote('"', name),
        };
    }
}

/// The name that an item has by itself, `Some(None)` if it is none of a column, `None` if it stands for many.
fn name_of(item: &SelectItem) -> Option<Option<String>> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(column_of(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(Some(alias.value.clone())),
        _ => None,
    }
}

fn column_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(name.value.clone()),
        Expr::CompoundIdentifier(path) => path.last().map(|name| name.value.clone()),
        _ => None,
    }
}

/// The column that is cast, if the expression is nothing but casts of one.
fn cast_column(expr: &Expr) -> Option<String> {
    let Expr::Cast { expr: inner, .. } = expr else {
        return None;
    };
    cast_column(inner).or_else(|| column_of(inner))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn named(sql: &str) -> String {
        let mut parsed = Parser::parse_sql(&GenericDialect {}, sql).unwrap();
        name_casts(&mut parsed[0]);
        parsed[0].to_string()
    }

    #[test]
    fn a_cast_has_the_name_of_its_column() {
        assert_eq!(
            named("SELECT host, CAST(c.ts AS BIGINT) FROM c ORDER BY ts"),
            "SELECT host, CAST(c.ts AS BIGINT) AS \"ts\" FROM c ORDER BY ts"
        );
        assert_eq!(
            named("SELECT ts::BIGINT FROM c ORDER BY 1"),
            "SELECT ts::BIGINT AS \"ts\" FROM c ORDER BY 1"
        );
    }

    #[test]
    fn where_the_name_is_taken_it_has_its_text() {
        assert_eq!(
            named("SELECT ts, CAST(ts AS BIGINT) FROM c ORDER BY ts"),
            "SELECT ts, CAST(ts AS BIGINT) AS \"CAST(ts AS BIGINT)\" FROM c ORDER BY ts"
        );
        assert_eq!(
            named("SELECT *, CAST(ts AS BIGINT) FROM c ORDER BY ts"),
            "SELECT *, CAST(ts AS BIGINT) AS \"CAST(ts AS BIGINT)\" FROM c ORDER BY ts"
        );
    }

    #[test]
    fn all_else_stays() {
        for sql in [
            "SELECT CAST(ts AS BIGINT) FROM c",
            "SELECT CAST(a + b AS BIGINT), CAST(ts AS BIGINT) AS t FROM c ORDER BY a",
        ] {
            assert_eq!(named(sql), sql);
        }
    }
}
