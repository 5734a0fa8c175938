//! `CREATE TABLE` in GreptimeDB's grammar, which `sqlparser` does not know: TIME INDEX, PARTITION ON COLUMNS.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{ColumnDef, ColumnOption, Expr, Value as Literal};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use greptime_types::{
    ColumnSchema, ColumnType, Error, Result, Semantic, TIME_WINDOW, TableOptions, TableSchema, time_window,
};

use super::names::fold;
use super::parser::syntax;
use super::partition::partition_rule;
use super::types::column_type;
use super::{CreateTable, TableName};

/// What the column list says, before it is known which columns are tags.
#[derive(Default)]
struct Definition {
    columns: Vec<ColumnSchema>,
    time_index: Vec<String>,
    primary_key: Option<Vec<String>>,
    /// Columns with an explicit `NULL` or `NOT NULL`.
    explicit_null: Vec<String>,
}

/// Parses from after `CREATE TABLE`.
pub fn parse_create_table(parser: &mut Parser) -> Result<CreateTable> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parser.parse_object_name(false).map_err(syntax)?;
    let table = TableName::try_from(&name)?;
    parser.expect_token(&Token::LParen).map_err(syntax)?;
    let mut definition = Definition::default();
    while !parser.consume_token(&Token::RParen) {
        definition.parse_item(parser)?;
        if !parser.consume_token(&Token::Comma) {
            parser.expect_token(&Token::RParen).map_err(syntax)?;
            break;
        }
    }
    let (mut partition, mut options) = (None, BTreeMap::new());
    loop {
        if parser.parse_keyword(Keyword::PARTITION) {
            partition = Some(parse_partition(parser)?);
        } else if parser.parse_keyword(Keyword::ENGINE) {
            parse_engine(parser)?;
        } else if parser.parse_keyword(Keyword::WITH) {
            options = parse_options(parser)?;
        } else {
            break;
        }
    }
    let schema = definition.into_schema()?;
    let partition = match partition {
        None => greptime_types::PartitionRule::single(),
        Some((columns, exprs)) => partition_rule(&schema, columns, &exprs)?,
    };
    Ok(CreateTable {
        table,
        if_not_exists,
        schema,
        partition,
        options: table_options(options)?,
    })
}

impl Definition {
    /// One column or one constraint.
    fn parse_item(&mut self, parser: &mut Parser) -> Result<()> {
        if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
            let columns = parse_names(parser)?;
            return self.set_primary_key(columns);
        }
        if parser.parse_keywords(&[Keyword::TIME, Keyword::INDEX]) {
            self.time_index.extend(parse_names(parser)?);
            return Ok(());
        }
        self.parse_column(parser)
    }

    fn set_primary_key(&mut self, columns: Vec<String>) -> Result<()> {
        if self.primary_key.replace(columns).is_some() {
            return Err(Error::invalid(
                "the table has two PRIMARY KEY clauses; name all tags in one",
            ));
        }
        Ok(())
    }

    fn parse_column(&mut self, parser: &mut Parser) -> Result<()> {
        let name = fold(&parser.parse_identifier().map_err(syntax)?);
        let data_type = parser.parse_data_type().map_err(syntax)?;
        let column_type = column_type(&data_type).map_err(|e| e.context(format_args!("column `{name}`")))?;
        let mut column = ColumnSchema::new(name.clone(), column_type, Semantic::Field);
        loop {
            if parser.parse_keywords(&[Keyword::TIME, Keyword::INDEX]) {
                self.time_index.push(name.clone());
            } else if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
                self.set_primary_key(vec![name.clone()])?;
            } else if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
                column.nullable = false;
                self.explicit_null.push(name.clone());
            } else if parser.parse_keyword(Keyword::NULL) {
                self.explicit_null.push(name.clone());
            } else if parser.parse_keyword(Keyword::DEFAULT) {
                column.default = default_text(&parser.parse_expr().map_err(syntax)?);
            } else if parser.parse_keyword(Keyword::COMMENT) {
                parser.parse_literal_string().map_err(syntax)?;
            } else {
                break;
            }
        }
        self.columns.push(column);
        Ok(())
    }

    fn into_schema(mut self) -> Result<TableSchema> {
        for name in &self.time_index {
            let column = self
                .columns
                .iter_mut()
                .find(|c| c.name == *name)
                .ok_or_else(|| Error::invalid(format!("time index column `{name}` is not defined")))?;
            if column.nullable && self.explicit_null.contains(name) {
                return Err(Error::invalid(format!("time index `{name}` cannot be NULL")));
            }
            column.nullable = false;
            column.semantic = Semantic::Timestamp;
        }
        let primary_key = self.primary_key.unwrap_or_default();
        for name in &primary_key {
            let column = self.columns.iter_mut().find(|c| c.name == *name);
            if let Some(column) = column.filter(|c| c.semantic == Semantic::Field) {
                column.semantic = Semantic::Tag;
            }
        }
        TableSchema::new(self.columns, primary_key)
    }
}

/// `NULL` as a default is none.
fn default_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) if value.value == Literal::Null => None,
        other => Some(other.to_string()),
    }
}

fn parse_names(parser: &mut Parser) -> Result<Vec<String>> {
    parser.expect_token(&Token::LParen).map_err(syntax)?;
    let names = parser
        .parse_comma_separated(Parser::parse_identifier)
        .map_err(syntax)?;
    parser.expect_token(&Token::RParen).map_err(syntax)?;
    Ok(names.iter().map(fold).collect())
}

/// From after `PARTITION`.
fn parse_partition(parser: &mut Parser) -> Result<(Vec<String>, Vec<Expr>)> {
    parser
        .expect_keywords(&[Keyword::ON, Keyword::COLUMNS])
        .map_err(syntax)?;
    let columns = parse_names(parser)?;
    parser.expect_token(&Token::LParen).map_err(syntax)?;
    let exprs = parser
        .parse_comma_separated0(Parser::parse_expr, Token::RParen)
        .map_err(syntax)?;
    parser.expect_token(&Token::RParen).map_err(syntax)?;
    Ok((columns, exprs))
}

/// From after `ENGINE`. There is one engine; the names of GreptimeDB's are accepted for its users' scripts.
fn parse_engine(parser: &mut Parser) -> Result<()> {
    let _ = parser.consume_token(&Token::Eq);
    let name = fold(&parser.parse_identifier().map_err(syntax)?);
    match name.as_str() {
        "mito" => Ok(()),
        _ => Err(Error::unsupported(format!(
            "engine `{name}` does not exist; leave ENGINE out or write mito"
        ))),
    }
}

/// From after `WITH`: `('key' = 'value', key = value)`.
pub fn parse_options(parser: &mut Parser) -> Result<BTreeMap<String, String>> {
    parser.expect_token(&Token::LParen).map_err(syntax)?;
    let mut options = BTreeMap::new();
    while !parser.consume_token(&Token::RParen) {
        let key = word(parser)?;
        parser.expect_token(&Token::Eq).map_err(syntax)?;
        let value = word(parser)?;
        options.insert(key.to_lowercase(), value);
        if !parser.consume_token(&Token::Comma) {
            parser.expect_token(&Token::RParen).map_err(syntax)?;
            break;
        }
    }
    Ok(options)
}

pub fn word(parser: &mut Parser) -> Result<String> {
    let found = parser.next_token();
    match found.token {
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) | Token::Number(text, _) => {
            Ok(text)
        }
        Token::Word(word) => Ok(word.value),
        _ => parser.expected("an option", found).map_err(syntax),
    }
}

fn table_options(options: BTreeMap<String, String>) -> Result<TableOptions> {
    let mut known = TableOptions::default();
    for (key, value) in options {
        match key.as_str() {
            "append_mode" => {
                known.append_mode = value.to_lowercase().parse().map_err(|_| {
                    Error::invalid(format!("append_mode = '{value}': write 'true' or 'false'"))
                })?;
            }
            "ttl" => known.ttl = Some(value.parse()?),
            "merge_mode" => known.merge_mode = value.to_lowercase().parse()?,
            "comment" => {
                known.extra.insert(key, value);
            }
            TIME_WINDOW => {
                known.extra.insert(key, time_window(&value)?);
            }
            _ => {
                return Err(Error::invalid(format!(
                    "table option `{key}` does not exist; there are append_mode, merge_mode, ttl, {TIME_WINDOW} and \
                     comment"
                )));
            }
        }
    }
    known.validate()?;
    Ok(known)
}

/// The column of `ALTER TABLE … ADD COLUMN`: a nullable field, or a tag with `PRIMARY KEY`.
pub fn added_column(definition: &ColumnDef) -> Result<ColumnSchema> {
    let name = fold(&definition.name);
    let column_type =
        column_type(&definition.data_type).map_err(|e| e.context(format_args!("column `{name}`")))?;
    let mut column = ColumnSchema::new(name, column_type, Semantic::Field);
    for option in &definition.options {
        match &option.option {
            ColumnOption::Null | ColumnOption::Comment(_) => {}
            ColumnOption::NotNull => column.nullable = false,
            ColumnOption::Default(expr) => column.default = default_text(expr),
            ColumnOption::PrimaryKey(_) => column.semantic = Semantic::Tag,
            other => return Err(Error::unsupported(format!("column `{}`: {other}", column.name))),
        }
    }
    if column.semantic == Semantic::Tag && column.column_type != ColumnType::String {
        return Err(Error::unsupported(format!(
            "column `{}`: an added tag must be a STRING",
            column.name
        )));
    }
    Ok(column)
}
