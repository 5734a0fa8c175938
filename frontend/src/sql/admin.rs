//! `ADMIN flush_table('t')` and its kin: work that a person asks a table's or a region's datanode for.

use datafusion::sql::sqlparser::ast::{self, ObjectName};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use greptime_types::{Error, RegionId, Result};

use super::TableName;
use super::names::fold;
use super::parser::syntax;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminJob {
    /// Rows from memory into files.
    Flush,
    /// Files merged.
    Compact,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminTarget {
    Table(TableName),
    Region(RegionId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub job: AdminJob,
    pub target: AdminTarget,
}

/// Parses from after `ADMIN`.
pub fn parse_admin(parser: &mut Parser) -> Result<Admin> {
    let name = fold(&parser.parse_identifier().map_err(syntax)?);
    parser.expect_token(&Token::LParen).map_err(syntax)?;
    let argument = parser.parse_value().map_err(syntax)?.value;
    // GreptimeDB's compact_table takes the kind of compaction and its options; there is one kind here.
    while parser.consume_token(&Token::Comma) {
        parser.parse_value().map_err(syntax)?;
    }
    parser.expect_token(&Token::RParen).map_err(syntax)?;
    let (job, by_table) = match name.as_str() {
        "flush_table" => (AdminJob::Flush, true),
        "flush_region" => (AdminJob::Flush, false),
        "compact_table" => (AdminJob::Compact, true),
        "compact_region" => (AdminJob::Compact, false),
        _ => {
            return Err(Error::invalid(format!(
                "ADMIN {name} does not exist; there are flush_table, flush_region, compact_table and compact_region"
            )));
        }
    };
    let target = match by_table {
        true => AdminTarget::Table(table_of(&argument)?),
        false => AdminTarget::Region(region_of(&argument)?),
    };
    Ok(Admin { job, target })
}

fn table_of(argument: &ast::Value) -> Result<TableName> {
    let text = argument
        .clone()
        .into_string()
        .ok_or_else(|| Error::invalid(format!("{argument} is not the name of a table in quotes")))?;
    let parse = || -> std::result::Result<ObjectName, _> {
        Parser::new(&GenericDialect {})
            .try_with_sql(&text)?
            .parse_object_name(false)
    };
    TableName::try_from(&parse().map_err(syntax)?)
}

/// As `table_id:number`, or the number that both are together.
fn region_of(argument: &ast::Value) -> Result<RegionId> {
    let wrong = || Error::invalid(format!("{argument} is not a region id; write e.g. '1024:0'"));
    match argument {
        ast::Value::Number(digits, _) => digits.parse().map(RegionId::from_u64).map_err(|_| wrong()),
        other => {
            let text = other.clone().into_string().ok_or_else(wrong)?;
            text.parse()
                .or_else(|_| text.parse().map(RegionId::from_u64).map_err(|_| wrong()))
        }
    }
}
