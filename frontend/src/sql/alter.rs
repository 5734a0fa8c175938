//! `ALTER TABLE` and `ALTER DATABASE`: the standard's forms, and GreptimeDB's `SET`, `UNSET` and `RENAME name`.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{AlterColumnOperation, AlterTableOperation, RenameTableNameKind};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use greptime_types::{Change, Error, Result, TIME_WINDOW, time_window};

use super::create::{added_column, word};
use super::names::{fold, single};
use super::parser::syntax;
use super::types::column_type;
use super::{Statement, TableName};

/// From after `ALTER`; `None` if it is neither a table nor a database.
pub fn parse_alter(parser: &mut Parser) -> Result<Option<Statement>> {
    if parser.parse_keyword(Keyword::TABLE) {
        return parse_alter_table(parser).map(Some);
    }
    if parser.parse_keyword(Keyword::DATABASE) || parser.parse_keyword(Keyword::SCHEMA) {
        let name = single(&parser.parse_object_name(false).map_err(syntax)?)?;
        let mut options = BTreeMap::new();
        while let Some(more) = parse_options(parser)? {
            options.extend(more);
            let _ = parser.consume_token(&Token::Comma);
        }
        if options.is_empty() {
            return Err(Error::invalid(
                "ALTER DATABASE takes SET 'ttl' = '…' or UNSET 'ttl'",
            ));
        }
        return Ok(Some(Statement::AlterDatabase { name, options }));
    }
    Ok(None)
}

fn parse_alter_table(parser: &mut Parser) -> Result<Statement> {
    let name = parser.parse_object_name(false).map_err(syntax)?;
    let table = TableName::try_from(&name)?;
    let mut changes = Vec::new();
    loop {
        match parse_options(parser)? {
            Some(options) => {
                for (key, value) in options {
                    changes.push(option_change(&key, value)?);
                }
            }
            None => changes.extend(parse_change(parser)?),
        }
        if !parser.consume_token(&Token::Comma) {
            return Ok(Statement::AlterTable { table, changes });
        }
    }
}

/// `SET 'a' = 'b', 'c' = 'd'` or `UNSET 'a', 'c'`; `None` if neither comes.
fn parse_options(parser: &mut Parser) -> Result<Option<BTreeMap<String, Option<String>>>> {
    let set = parser.parse_keyword(Keyword::SET);
    if !set
        && !parser
            .peek_token_ref()
            .token
            .to_string()
            .eq_ignore_ascii_case("unset")
    {
        return Ok(None);
    }
    if !set {
        parser.advance_token();
    }
    let mut options = BTreeMap::new();
    loop {
        let key = word(parser)?.to_lowercase();
        let value = match set {
            true => {
                parser.expect_token(&Token::Eq).map_err(syntax)?;
                Some(word(parser)?)
            }
            false => None,
        };
        options.insert(key, value);
        if !parser.consume_token(&Token::Comma) {
            return Ok(Some(options));
        }
    }
}

fn option_change(key: &str, value: Option<String>) -> Result<Change> {
    match key {
        "ttl" => Ok(Change::SetTtl {
            ttl: value.map(|text| text.parse()).transpose()?,
        }),
        "comment" => Ok(Change::SetComment { comment: value }),
        TIME_WINDOW => Ok(Change::SetTimeWindow {
            length: value.as_deref().map(time_window).transpose()?,
        }),
        "append_mode" | "merge_mode" => Err(Error::unsupported(format!(
            "`{key}` is decided when a table is made and cannot be changed; make another table and INSERT … SELECT"
        ))),
        _ => Err(Error::invalid(format!(
            "table option `{key}` cannot be changed; there are ttl, {TIME_WINDOW} and comment"
        ))),
    }
}

fn parse_change(parser: &mut Parser) -> Result<Vec<Change>> {
    let next = |n| parser.peek_nth_token(n).token;
    let keyword = |token: &Token, keyword: Keyword| matches!(token, Token::Word(w) if w.keyword == keyword);
    // `RENAME name`, which would be read as the start of `RENAME column TO name`.
    if keyword(&next(0), Keyword::RENAME)
        && matches!(next(1), Token::Word(_))
        && matches!(next(2), Token::EOF | Token::SemiColon | Token::Comma)
    {
        parser.advance_token();
        let to = fold(&parser.parse_identifier().map_err(syntax)?);
        return Ok(vec![Change::RenameTable { to }]);
    }
    lower(parser.parse_alter_table_operation().map_err(syntax)?)
}

fn lower(operation: AlterTableOperation) -> Result<Vec<Change>> {
    use AlterTableOperation as Op;
    let change = match operation {
        Op::AddColumn {
            column_def,
            if_not_exists,
            column_position: None,
            ..
        } => Change::AddColumn {
            column: added_column(&column_def)?,
            if_not_exists,
        },
        Op::DropColumn {
            column_names,
            if_exists,
            ..
        } => {
            let drop = |name| Change::DropColumn {
                name: fold(&name),
                if_exists,
            };
            return Ok(column_names.into_iter().map(drop).collect());
        }
        Op::RenameColumn {
            old_column_name,
            new_column_name,
        } => Change::RenameColumn {
            from: fold(&old_column_name),
            to: fold(&new_column_name),
        },
        Op::RenameTable {
            table_name: RenameTableNameKind::To(name) | RenameTableNameKind::As(name),
        } => Change::RenameTable { to: single(&name)? },
        Op::ModifyColumn {
            col_name,
            data_type,
            options,
            column_position: None,
        } if options.is_empty() => Change::ModifyColumn {
            name: fold(&col_name),
            column_type: column_type(&data_type)?,
        },
        Op::AlterColumn {
            column_name,
            op:
                AlterColumnOperation::SetDataType {
                    data_type,
                    using: None,
                    ..
                },
        } => Change::ModifyColumn {
            name: fold(&column_name),
            column_type: column_type(&data_type)?,
        },
        other => {
            return Err(Error::unsupported(format!(
                "ALTER TABLE … {other} is not supported"
            )));
        }
    };
    Ok(vec![change])
}
