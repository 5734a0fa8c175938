//! `ADMIN flush_table('t')` and its kin: work that a person asks the datanodes of regions for, or metasrv.

use std::time::Duration;

use datafusion::sql::sqlparser::ast::{self, ObjectName};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use greptime_types::{Error, NodeId, RegionId, Result};

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
pub enum Admin {
    /// Asked of each region's datanode.
    Regions { job: AdminJob, target: AdminTarget },
    /// Asked of metasrv, which begins a procedure.
    Procedure(ProcedureRequest),
    /// How a procedure is getting on.
    ProcedureState { id: String },
}

/// What goes on after it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcedureRequest {
    MigrateRegion {
        region: RegionId,
        from: NodeId,
        to: NodeId,
        timeout: Option<Duration>,
    },
    MigrateNode {
        from: NodeId,
        timeout: Option<Duration>,
    },
    Abort {
        id: String,
    },
    ForceRecoverRegion {
        region: RegionId,
        survivor: NodeId,
    },
}

const FUNCTIONS: &str = "flush_table, flush_region, compact_table, compact_region, migrate_region, migrate_node, \
                         procedure_state, abort_procedure and force_recover_region";

/// Parses from after `ADMIN`.
pub fn parse_admin(parser: &mut Parser) -> Result<Admin> {
    let name = fold(&parser.parse_identifier().map_err(syntax)?);
    let arguments = arguments(parser)?;
    let call = Call {
        name: &name,
        arguments: &arguments,
    };
    let regions = |job, target| Ok(Admin::Regions { job, target });
    let procedure = |request| Ok(Admin::Procedure(request));
    match name.as_str() {
        "flush_table" => regions(AdminJob::Flush, AdminTarget::Table(call.table()?)),
        "flush_region" => regions(AdminJob::Flush, AdminTarget::Region(call.region(0)?)),
        // GreptimeDB's compact_table takes the kind of compaction and its options; there is one kind here.
        "compact_table" => regions(AdminJob::Compact, AdminTarget::Table(call.table()?)),
        "compact_region" => regions(AdminJob::Compact, AdminTarget::Region(call.region(0)?)),
        "migrate_region" => {
            call.takes(3..=4, "migrate_region('1024:0', from, to[, timeout in seconds])")?;
            procedure(ProcedureRequest::MigrateRegion {
                region: call.region(0)?,
                from: call.number(1, "a datanode")?,
                to: call.number(2, "a datanode")?,
                timeout: call.seconds(3)?,
            })
        }
        "migrate_node" => {
            call.takes(1..=2, "migrate_node(from[, timeout of each region in seconds])")?;
            procedure(ProcedureRequest::MigrateNode {
                from: call.number(0, "a datanode")?,
                timeout: call.seconds(1)?,
            })
        }
        "procedure_state" => {
            call.takes(1..=1, "procedure_state('id')")?;
            Ok(Admin::ProcedureState { id: call.text(0)? })
        }
        "abort_procedure" => {
            call.takes(1..=1, "abort_procedure('id')")?;
            procedure(ProcedureRequest::Abort { id: call.text(0)? })
        }
        "force_recover_region" => {
            call.takes(2..=2, "force_recover_region('1024:0', datanode that survives)")?;
            procedure(ProcedureRequest::ForceRecoverRegion {
                region: call.region(0)?,
                survivor: call.number(1, "a datanode")?,
            })
        }
        _ => Err(Error::invalid(format!(
            "ADMIN {name} does not exist; there are {FUNCTIONS}"
        ))),
    }
}

fn arguments(parser: &mut Parser) -> Result<Vec<ast::Value>> {
    parser.expect_token(&Token::LParen).map_err(syntax)?;
    let mut arguments = vec![parser.parse_value().map_err(syntax)?.value];
    while parser.consume_token(&Token::Comma) {
        arguments.push(parser.parse_value().map_err(syntax)?.value);
    }
    parser.expect_token(&Token::RParen).map_err(syntax)?;
    Ok(arguments)
}

/// One call, its arguments as they were written.
struct Call<'a> {
    name: &'a str,
    arguments: &'a [ast::Value],
}

impl Call<'_> {
    fn takes(&self, count: std::ops::RangeInclusive<usize>, form: &str) -> Result<()> {
        if count.contains(&self.arguments.len()) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{} does not take {} arguments; write ADMIN {form}",
            self.name,
            self.arguments.len()
        )))
    }

    fn table(&self) -> Result<TableName> {
        table_of(&self.arguments[0])
    }

    fn region(&self, place: usize) -> Result<RegionId> {
        region_of(&self.arguments[place])
    }

    /// Also in quotes, as clients write it that know strings only.
    fn number(&self, place: usize, what: &str) -> Result<u64> {
        let argument = &self.arguments[place];
        let digits = match argument {
            ast::Value::Number(digits, _) => Some(digits.clone()),
            other => other.clone().into_string(),
        };
        let number = digits.and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| Error::invalid(format!("{argument} is not the number of {what}")))
    }

    fn seconds(&self, place: usize) -> Result<Option<Duration>> {
        match place < self.arguments.len() {
            true => Ok(Some(Duration::from_secs(self.number(place, "seconds")?))),
            false => Ok(None),
        }
    }

    fn text(&self, place: usize) -> Result<String> {
        let argument = &self.arguments[place];
        let text = argument.clone().into_string();
        text.ok_or_else(|| Error::invalid(format!("{argument} is not text in quotes")))
    }
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
