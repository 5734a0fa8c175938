//! `/v1/sql`: statements in, JSON, CSV or a drawn table out.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt};
use greptime_query::from_datafusion;
use greptime_types::{Error, Result};
use serde::Deserialize;

use super::auth::User;
use super::body::read_body;
use super::{Failure, json};
use crate::frontend::Frontend;
use crate::query::memory::AnswerSpace;
use crate::query::{Protocol, Session};
use crate::sql::{Lexer, Statement};
use crate::statement::Output;

#[derive(Clone, Debug, Default, Deserialize)]
pub struct SqlParams {
    sql: Option<String>,
    db: Option<String>,
    format: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv { names: bool },
    Table,
}

impl SqlParams {
    fn or(self, other: Self) -> Self {
        Self {
            sql: self.sql.or(other.sql),
            db: self.db.or(other.db),
            format: self.format.or(other.format),
        }
    }

    fn format(&self) -> Result<Format> {
        match self
            .format
            .as_deref()
            .unwrap_or("greptimedb_v1")
            .to_lowercase()
            .as_str()
        {
            "greptimedb_v1" | "json" => Ok(Format::Json),
            "csv" => Ok(Format::Csv { names: false }),
            "csvwithnames" => Ok(Format::Csv { names: true }),
            "table" => Ok(Format::Table),
            other => Err(Error::invalid(format!(
                "format `{other}` does not exist; there are greptimedb_v1, json, csv, csvWithNames and table"
            ))),
        }
    }
}

pub async fn get(
    State(frontend): State<Arc<Frontend>>,
    Query(params): Query<SqlParams>,
    Extension(user): Extension<User>,
    headers: HeaderMap,
) -> Response {
    answer(&frontend, params, user, &headers).await
}

pub async fn post(
    State(frontend): State<Arc<Frontend>>,
    Query(query): Query<SqlParams>,
    Extension(user): Extension<User>,
    request: Request,
) -> Response {
    let (headers, body) = match read_body(&frontend, request).await {
        Ok(read) => read,
        Err(failure) => return failure.into_response(),
    };
    match form(&headers, &body) {
        Ok(form) => answer(&frontend, query.or(form), user, &headers).await,
        Err(error) => Failure::from(error).into_response(),
    }
}

fn form(headers: &HeaderMap, body: &Bytes) -> Result<SqlParams> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if body.is_empty() {
        return Ok(SqlParams::default());
    }
    if content_type.starts_with("application/x-www-form-urlencoded") {
        return serde_urlencoded::from_bytes(body).map_err(|e| Error::invalid(format!("the form: {e}")));
    }
    let text = std::str::from_utf8(body).map_err(|_| Error::invalid("the body is not UTF-8"))?;
    Ok(SqlParams {
        sql: Some(text.to_string()),
        ..SqlParams::default()
    })
}

pub fn session(headers: &HeaderMap, db: Option<&str>, user: &User) -> Session {
    let named = headers.get("x-greptime-db-name").and_then(|v| v.to_str().ok());
    let database = db.or(named).unwrap_or(greptime_types::catalog::DEFAULT_DATABASE);
    // GreptimeDB's clients may write `catalog-database`.
    let database = database.strip_prefix("greptime-").unwrap_or(database);
    Session {
        database: database.to_string(),
        user: user.0.clone(),
        protocol: Protocol::Http,
    }
}

async fn answer(frontend: &Arc<Frontend>, params: SqlParams, user: User, headers: &HeaderMap) -> Response {
    let start = frontend.clock.now();
    let session = session(headers, params.db.as_deref(), &user);
    let result = run(frontend, &params, session).await;
    let took = frontend.clock.now().saturating_sub(start);
    frontend.metrics.request("http", &result, took);
    match result {
        Ok(body) => body.into_response(took.as_millis()),
        Err(error) => Failure {
            took_ms: took.as_millis(),
            ..Failure::from(error)
        }
        .into_response(),
    }
}

/// The answer to all statements of a request.
enum Answer {
    Json(Held),
    Whole(Held),
    Stream { content_type: &'static str, body: Body },
}

/// Bytes that count as memory of queries until they have been sent.
struct Held {
    text: Vec<u8>,
    _space: AnswerSpace,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl From<Held> for Body {
    fn from(held: Held) -> Self {
        Self::from(Bytes::from_owner(held))
    }
}

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

impl Answer {
    fn into_response(self, took_ms: u128) -> Response {
        match self {
            Self::Json(mut held) => {
                held.text
                    .extend(format!("],\"execution_time_ms\":{took_ms}}}").bytes());
                let took = header::HeaderValue::from(u64::try_from(took_ms).unwrap_or(u64::MAX));
                let content_type = [(header::CONTENT_TYPE, "application/json")];
                let mut response = (content_type, Body::from(held)).into_response();
                response.headers_mut().insert("x-greptime-execution-time", took);
                response
            }
            Self::Whole(held) => ([(header::CONTENT_TYPE, PLAIN_TEXT)], Body::from(held)).into_response(),
            Self::Stream { content_type, body } => {
                ([(header::CONTENT_TYPE, content_type)], body).into_response()
            }
        }
    }
}

async fn run(frontend: &Arc<Frontend>, params: &SqlParams, mut session: Session) -> Result<Answer> {
    let format = params.format()?;
    let sql = params
        .sql
        .as_deref()
        .ok_or_else(|| Error::invalid("parameter `sql` is missing"))?;
    let parsed = frontend.parse(sql, Lexer::Standard)?;
    let statements = &parsed.statements;
    if statements.is_empty() {
        return Err(Error::invalid("there is no statement in `sql`"));
    }
    match format {
        Format::Json => {
            let space = frontend.answer_space();
            let mut text = b"{\"code\":0,\"output\":[".to_vec();
            for (number, statement) in statements.iter().enumerate() {
                if number > 0 {
                    text.push(b',');
                }
                match execute(frontend, &mut session, statement).await? {
                    Output::Rows(rows) => json::write_records(&mut text, rows, &space).await?,
                    Output::Affected(rows) => text.extend(format!("{{\"affectedrows\":{rows}}}").bytes()),
                    Output::Database(_) => text.extend(b"{\"affectedrows\":0}"),
                }
            }
            Ok(Answer::Json(Held { text, _space: space }))
        }
        Format::Csv { .. } | Format::Table => {
            let mut last = Output::Affected(0);
            for statement in statements {
                last = execute(frontend, &mut session, statement).await?;
            }
            match (last, format) {
                (Output::Rows(rows), Format::Csv { names }) => csv(rows, names).await,
                (Output::Rows(rows), _) => drawn(rows, frontend.answer_space()).await,
                (Output::Affected(rows), _) => Ok(plain(format!("{rows}\n"))),
                (Output::Database(_), _) => Ok(plain(String::new())),
            }
        }
    }
}

async fn execute(frontend: &Frontend, session: &mut Session, statement: &Statement) -> Result<Output> {
    let output = frontend.executor.execute(session, statement).await?;
    if let Output::Database(database) = &output {
        session.database.clone_from(database);
    }
    Ok(output)
}

fn plain(text: String) -> Answer {
    Answer::Stream {
        content_type: PLAIN_TEXT,
        body: Body::from(text),
    }
}

/// Streams. The first rows are awaited, so that a query that fails early is answered with its error; one that
/// fails later breaks the connection, since the status has been sent.
async fn csv(mut rows: SendableRecordBatchStream, names: bool) -> Result<Answer> {
    let schema = rows.schema();
    let first = rows.try_next().await.map_err(|e| from_datafusion(&e))?;
    let header = if names {
        csv_text(&RecordBatch::new_empty(schema), true)?
    } else {
        Bytes::new()
    };
    let batches = futures::stream::iter(first.map(Ok)).chain(rows);
    let text = batches.map(|batch| csv_text(&batch.map_err(|e| from_datafusion(&e))?, false));
    let all = futures::stream::iter([Ok(header)]).chain(text);
    Ok(Answer::Stream {
        content_type: "text/csv; charset=utf-8",
        body: Body::from_stream(all),
    })
}

fn csv_text(batch: &RecordBatch, header: bool) -> Result<Bytes> {
    let mut text = Vec::new();
    let mut writer = arrow::csv::WriterBuilder::new()
        .with_header(header)
        .build(&mut text);
    writer
        .write(batch)
        .map_err(|e| Error::internal(format!("rows cannot be written as CSV: {e}")))?;
    drop(writer);
    Ok(text.into())
}

async fn drawn(rows: SendableRecordBatchStream, space: AnswerSpace) -> Result<Answer> {
    let schema = rows.schema();
    let mut batches = json::collect(rows, &space).await?;
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    let text = pretty_format_batches(&batches).map_err(|e| Error::internal(e.to_string()))?;
    Ok(Answer::Whole(Held {
        text: format!("{text}\n").into_bytes(),
        _space: space,
    }))
}
