//! From text to statements.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{self, FromTable, ObjectType, Statement as Ast};
use datafusion::sql::sqlparser::dialect::{GenericDialect, MySqlDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use greptime_types::{Error, Result};

use super::admin::parse_admin;
use super::alter::parse_alter;
use super::create::{parse_create_table, parse_options};
use super::names::single;
use super::show::{Show, lower_show};
use super::{Statement, TableName};

/// How literals and quotes are read. The grammar is the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lexer {
    /// `"` and `` ` `` quote names.
    Standard,
    /// `` ` `` quotes names, `"` quotes strings, and `\` escapes: what MySQL's drivers write.
    MySql,
}

pub fn syntax(error: ParserError) -> Error {
    match error {
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => Error::invalid(format!("SQL: {m}")),
        ParserError::RecursionLimitExceeded => Error::invalid("SQL: the statement nests too deep"),
    }
}

/// All statements of a text, separated by `;`.
pub fn parse_statements(sql: &str, lexer: Lexer) -> Result<Vec<Statement>> {
    let tokens = match lexer {
        Lexer::Standard => Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location(),
        Lexer::MySql => Tokenizer::new(&MySqlDialect {}, sql).tokenize_with_location(),
    };
    let tokens = plain_users(tokens.map_err(|e| Error::invalid(format!("SQL: {e}")))?);
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens);
    let mut statements = Vec::new();
    loop {
        while parser.consume_token(&Token::SemiColon) {}
        if parser.peek_token_ref().token == Token::EOF {
            return Ok(statements);
        }
        statements.push(parse_statement(&mut parser)?);
        let next = parser.peek_token();
        if next.token != Token::SemiColon && next.token != Token::EOF {
            return parser.expected("end of statement", next).map_err(syntax);
        }
    }
}

/// The grammar takes `user` and its kin for functions without parentheses. Here, as in MySQL, `current_user()` is
/// the function, and `user` alone the column of that name.
fn plain_users(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    const FUNCTIONS: [Keyword; 4] = [
        Keyword::USER,
        Keyword::CURRENT_USER,
        Keyword::SESSION_USER,
        Keyword::CURRENT_CATALOG,
    ];
    let mut plain: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut tokens = tokens.into_iter().peekable();
    while let Some(mut token) = tokens.next() {
        let called = tokens.peek().is_some_and(|next| next.token == Token::LParen);
        match &mut token.token {
            Token::Word(word) if called && FUNCTIONS.contains(&word.keyword) => {
                plain.push(token);
                let open = tokens.next();
                // With arguments it is something else, which the parser may judge.
                match tokens.next_if(|next| next.token == Token::RParen) {
                    Some(_) => {}
                    None => plain.extend(open),
                }
                continue;
            }
            Token::Word(word) if word.keyword == Keyword::USER => word.keyword = Keyword::NoKeyword,
            _ => {}
        }
        plain.push(token);
    }
    plain
}

fn parse_statement(parser: &mut Parser) -> Result<Statement> {
    if parser.parse_keywords(&[Keyword::CREATE, Keyword::TABLE]) {
        return Ok(Statement::CreateTable(Box::new(parse_create_table(parser)?)));
    }
    if parser.parse_keywords(&[Keyword::CREATE, Keyword::DATABASE])
        || parser.parse_keywords(&[Keyword::CREATE, Keyword::SCHEMA])
    {
        return parse_create_database(parser);
    }
    if matches!(parser.peek_token_ref().token, Token::Word(ref w) if w.keyword == Keyword::ALTER) {
        parser.advance_token();
        match parse_alter(parser)? {
            Some(statement) => return Ok(statement),
            None => parser.prev_token(),
        }
    }
    if let Some(statement) = parse_special(parser)? {
        return Ok(statement);
    }
    lower(parser.parse_statement().map_err(syntax)?)
}

fn parse_create_database(parser: &mut Parser) -> Result<Statement> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = single(&parser.parse_object_name(false).map_err(syntax)?)?;
    let options = if parser.parse_keyword(Keyword::WITH) {
        parse_options(parser)?
    } else {
        BTreeMap::new()
    };
    Ok(Statement::CreateDatabase {
        name,
        if_not_exists,
        options,
    })
}

/// Forms that the generic grammar does not have.
fn parse_special(parser: &mut Parser) -> Result<Option<Statement>> {
    let words: Vec<String> = (0..2)
        .map(|n| parser.peek_nth_token(n).token.to_string().to_lowercase())
        .collect();
    match [words[0].as_str(), words[1].as_str()] {
        // MySQL's SET has forms of its own (`SET NAMES`, `SET @@x = …, y = …`); none of them has an effect here.
        ["set", _] => {
            skip_statement(parser);
            Ok(Some(Statement::Ignored("SET")))
        }
        ["admin", _] => {
            parser.advance_token();
            parse_admin(parser).map(Statement::Admin).map(Some)
        }
        ["show", "index" | "indexes" | "keys" | "table"] => {
            parser.advance_token();
            let what = parser.next_token();
            if what.token.to_string().eq_ignore_ascii_case("table") {
                skip_statement(parser);
                let columns = &["Name", "Engine", "Version", "Row_format", "Rows", "Comment"];
                return Ok(Some(Statement::Show(Show::Empty(columns))));
            }
            parser
                .expect_one_of_keywords(&[Keyword::FROM, Keyword::IN])
                .map_err(syntax)?;
            let name = parser.parse_object_name(false).map_err(syntax)?;
            Ok(Some(Statement::Show(Show::Index(TableName::try_from(&name)?))))
        }
        _ => Ok(None),
    }
}

fn skip_statement(parser: &mut Parser) {
    while !matches!(parser.peek_token_ref().token, Token::SemiColon | Token::EOF) {
        parser.advance_token();
    }
}

fn lower(statement: Ast) -> Result<Statement> {
    if let Some(show) = lower_show(&statement) {
        return show.map(Statement::Show);
    }
    match statement {
        Ast::Query(_) | Ast::Explain { .. } => Ok(Statement::Query(Box::new(statement))),
        Ast::Insert(insert) => Ok(Statement::Insert(Box::new(insert))),
        Ast::Delete(delete) => check_delete(delete),
        Ast::ExplainTable { table_name, .. } => Ok(Statement::Describe(TableName::try_from(&table_name)?)),
        Ast::Drop {
            object_type,
            if_exists,
            names,
            ..
        } => lower_drop(object_type, if_exists, &names),
        Ast::Update(update) => check_update(update),
        Ast::Truncate(truncate) => {
            let names = truncate.table_names.iter().map(|t| TableName::try_from(&t.name));
            Ok(Statement::Truncate(names.collect::<Result<_>>()?))
        }
        Ast::Use(ast::Use::Object(name) | ast::Use::Database(name) | ast::Use::Schema(name)) => {
            Ok(Statement::Use(single(&name)?))
        }
        Ast::Use(ast::Use::Default) => Ok(Statement::Use(greptime_types::catalog::DEFAULT_DATABASE.into())),
        Ast::Set(_) => Ok(Statement::Ignored("SET")),
        Ast::StartTransaction { .. } => Ok(Statement::Ignored("BEGIN")),
        Ast::Commit { .. } => Ok(Statement::Ignored("COMMIT")),
        Ast::Rollback { .. } => Ok(Statement::Ignored("ROLLBACK")),
        Ast::Discard { .. } => Ok(Statement::Ignored("DISCARD ALL")),
        Ast::Deallocate { .. } => Ok(Statement::Ignored("DEALLOCATE")),
        Ast::LockTables { .. } | Ast::UnlockTables | Ast::Flush { .. } => Ok(Statement::Ignored("OK")),
        other => {
            let text = other.to_string();
            let start: String = text.chars().take(40).collect();
            Err(Error::unsupported(format!(
                "this statement is not supported: {start}"
            )))
        }
    }
}

fn check_delete(delete: ast::Delete) -> Result<Statement> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let plain = from.len() == 1
        && from[0].joins.is_empty()
        && delete.using.is_none()
        && delete.returning.is_none()
        && delete.order_by.is_empty()
        && delete.limit.is_none();
    if !plain {
        return Err(Error::unsupported("DELETE takes one table and a WHERE clause"));
    }
    Ok(Statement::Delete(Box::new(delete)))
}

fn check_update(update: ast::Update) -> Result<Statement> {
    let plain = update.table.joins.is_empty()
        && update.from.is_none()
        && update.returning.is_none()
        && update.or.is_none()
        && update.order_by.is_empty()
        && update.limit.is_none();
    if !plain {
        return Err(Error::unsupported(
            "UPDATE takes one table, SET and a WHERE clause; other tables go into a subquery",
        ));
    }
    Ok(Statement::Update(Box::new(update)))
}

fn lower_drop(kind: ObjectType, if_exists: bool, names: &[ast::ObjectName]) -> Result<Statement> {
    match (kind, names) {
        (ObjectType::Table, _) => {
            let tables = names.iter().map(TableName::try_from).collect::<Result<_>>()?;
            Ok(Statement::DropTable { tables, if_exists })
        }
        (ObjectType::Database | ObjectType::Schema, [name]) => Ok(Statement::DropDatabase {
            name: single(name)?,
            if_exists,
        }),
        (kind, _) => Err(Error::unsupported(format!("DROP {kind} is not supported"))),
    }
}
