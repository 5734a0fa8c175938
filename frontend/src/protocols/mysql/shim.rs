//! One connection.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::sql::sqlparser::ast::Value as Literal;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use greptime_query::from_datafusion;
use greptime_types::{Error, ErrorKind, Result};
use opensrv_mysql::{
    AsyncMysqlShim, Column, ColumnFlags, ColumnType, ErrorKind as MySqlError, InitWriter, OkResponse,
    ParamParser, QueryResultWriter, StatementMetaWriter,
};
use parking_lot::Mutex;
use sha1::{Digest, Sha1};
use tokio::io::AsyncWrite;

use super::refusal::Refusal;
use super::values::{columns_of, literal_of, write_batch};
use crate::auth::{denied, same};
use crate::frontend::Frontend;
use crate::protocols::gone::{self, Connected};
use crate::query::engine::expect_database;
use crate::query::functions::MYSQL_VERSION;
use crate::query::{Protocol, Session};
use crate::sql::{Lexer, Statement, params};
use crate::statement::Output;

const SALT_LENGTH: usize = 20;
/// More than this are forgotten by no sane client.
const MAX_PREPARED: usize = 10_000;

pub struct Connection {
    frontend: Arc<Frontend>,
    client: Arc<Connected>,
    /// The user is known only after the authentication, which has no `&mut self`.
    session: Mutex<Session>,
    prepared: HashMap<u32, Statement>,
    next_statement: u32,
    id: u32,
    salt: [u8; SALT_LENGTH],
    refusal: Refusal,
}

impl Connection {
    /// `refusal` is where the connection says that it refuses its login.
    pub fn new(frontend: Arc<Frontend>, client: Connected, refusal: Refusal) -> Self {
        let mut salt = [0; SALT_LENGTH];
        for chunk in salt.chunks_mut(8) {
            let random = frontend.ids.random_u64().to_le_bytes();
            // Printable, since the handshake ends it with a zero and some clients stop at `$`.
            chunk
                .iter_mut()
                .zip(random)
                .for_each(|(byte, r)| *byte = b'a' + r % 26);
        }
        let session = Session {
            database: greptime_types::catalog::DEFAULT_DATABASE.to_string(),
            user: String::new(),
            protocol: Protocol::MySql,
        };
        let id = frontend.ids.random_u64() as u32;
        Self {
            session: Mutex::new(session),
            prepared: HashMap::new(),
            next_statement: 1,
            id,
            salt,
            refusal,
            client: Arc::new(client),
            frontend,
        }
    }

    fn session(&self) -> Session {
        self.session.lock().clone()
    }

    /// Runs the statements one after the other and answers each; the first failure ends it. Boxed and recursive,
    /// since the columns of one result are borrowed until the last answer is written.
    fn run<'a, W: AsyncWrite + Send + Unpin>(
        &'a self,
        statements: &'a [Statement],
        results: QueryResultWriter<'a, W>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let Some((statement, rest)) = statements.split_first() else {
                return results.no_more_results().await;
            };
            let start = self.frontend.clock.now();
            let session = self.session();
            let output = gone::execute(&self.client, &self.frontend.executor, &session, statement).await;
            match self.frontend.counted("mysql", output, start) {
                Err(error) => write_error(results, &error).await,
                Ok(Output::Affected(rows)) => {
                    let ok = OkResponse {
                        affected_rows: rows,
                        ..OkResponse::default()
                    };
                    self.run(rest, results.complete_one(ok).await?).await
                }
                Ok(Output::Database(database)) => {
                    self.session.lock().database = database;
                    self.run(rest, results.complete_one(OkResponse::default()).await?)
                        .await
                }
                Ok(Output::Rows(mut rows)) => {
                    // The first batch before the header, so that most failures come instead of a result.
                    let mut next = match rows.try_next().await {
                        Ok(first) => first,
                        Err(error) => return write_error(results, &from_datafusion(&error)).await,
                    };
                    let columns = columns_of(&rows.schema());
                    let mut writer = results.start(&columns).await?;
                    while let Some(batch) = next {
                        write_batch(&mut writer, &batch).await?;
                        next = match rows.try_next().await {
                            Ok(next) => next,
                            Err(error) => {
                                let error = from_datafusion(&error);
                                return writer
                                    .finish_error(code_of(error.kind), &error.message.into_bytes())
                                    .await;
                            }
                        };
                    }
                    self.run(rest, writer.finish_one().await?).await
                }
            }
        })
    }

    /// Parameters and result columns of a statement that a client prepares.
    async fn prepare(&self, sql: &str) -> Result<(Statement, usize, Vec<Column>)> {
        let mut parsed = self.frontend.parse(sql, Lexer::MySql)?;
        let (Some(mut statement), true) = (parsed.statements.pop(), parsed.statements.is_empty()) else {
            return Err(Error::invalid("prepare one statement at a time"));
        };
        let count = params::number(&mut statement);
        // What cannot be planned without its parameters says its columns when it is executed.
        let columns = self
            .frontend
            .executor
            .columns_of(&self.session(), &statement)
            .await;
        let columns = match columns {
            Ok(Some(schema)) => columns_of(&schema),
            Err(error) if count == 0 => return Err(error),
            Ok(None) | Err(_) => vec![],
        };
        Ok((statement, count, columns))
    }
}

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> AsyncMysqlShim<W> for Connection {
    type Error = io::Error;

    fn version(&self) -> String {
        format!("{MYSQL_VERSION}-GreptimeCluster")
    }

    fn connect_id(&self) -> u32 {
        self.id
    }

    fn salt(&self) -> [u8; SALT_LENGTH] {
        self.salt
    }

    async fn authenticate(&self, _: &str, user: &[u8], salt: &[u8], given: &[u8]) -> bool {
        let user = String::from_utf8_lossy(user).into_owned();
        let users = &self.frontend.users;
        let admitted = !users.required()
            || users
                .password(&user)
                .is_some_and(|password| native_password(&password, salt, given));
        if admitted {
            self.session.lock().user = user;
        } else {
            self.refusal.get_or_init(|| denied(&user));
        }
        admitted
    }

    async fn on_prepare<'a>(&'a mut self, sql: &'a str, info: StatementMetaWriter<'a, W>) -> io::Result<()> {
        if self.prepared.len() >= MAX_PREPARED {
            let message = format!("{MAX_PREPARED} statements are prepared already; close some");
            return info
                .error(code_of(ErrorKind::ResourceExhausted), message.as_bytes())
                .await;
        }
        match self.prepare(sql).await {
            Err(error) => info.error(code_of(error.kind), error.message.as_bytes()).await,
            Ok((statement, count, columns)) => {
                let id = self.next_statement;
                self.next_statement = self.next_statement.wrapping_add(1);
                self.prepared.insert(id, statement);
                let parameter = Column {
                    table: String::new(),
                    column: "?".into(),
                    coltype: ColumnType::MYSQL_TYPE_VAR_STRING,
                    colflags: ColumnFlags::empty(),
                };
                info.reply(id, &vec![parameter; count], &columns).await
            }
        }
    }

    async fn on_execute<'a>(
        &'a mut self,
        id: u32,
        params: ParamParser<'a>,
        results: QueryResultWriter<'a, W>,
    ) -> io::Result<()> {
        let values: Result<Vec<Literal>> = params.into_iter().map(|p| literal_of(p.value)).collect();
        let bound = match self.prepared.get(&id) {
            None => Err(Error::not_found(format!(
                "prepared statement {id} does not exist"
            ))),
            Some(statement) => values.and_then(|values| params::bind(statement, &values)),
        };
        match bound {
            Ok(statement) => self.run(std::slice::from_ref(&statement), results).await,
            Err(error) => write_error(results, &error).await,
        }
    }

    async fn on_close<'a>(&'a mut self, id: u32)
    where
        W: 'async_trait,
    {
        self.prepared.remove(&id);
    }

    async fn on_query<'a>(&'a mut self, sql: &'a str, results: QueryResultWriter<'a, W>) -> io::Result<()> {
        let parsed = self.frontend.parse(sql, Lexer::MySql);
        match &parsed {
            // Comments only, as dumps and drivers send them.
            Ok(parsed) if parsed.statements.is_empty() => results.completed(OkResponse::default()).await,
            Ok(parsed) => self.run(&parsed.statements, results).await,
            Err(error) => {
                self.frontend.metrics.request("mysql", &parsed, Duration::ZERO);
                write_error(results, error).await
            }
        }
    }

    async fn on_init<'a>(&'a mut self, database: &'a str, writer: InitWriter<'a, W>) -> io::Result<()> {
        let catalog = self.frontend.executor.engine.router.view.catalog();
        match expect_database(&catalog, database) {
            Ok(()) => {
                self.session.lock().database = database.to_string();
                writer.ok().await
            }
            Err(error) => {
                writer
                    .error(MySqlError::ER_BAD_DB_ERROR, error.message.as_bytes())
                    .await
            }
        }
    }
}

async fn write_error<W: AsyncWrite + Send + Unpin>(
    results: QueryResultWriter<'_, W>,
    error: &Error,
) -> io::Result<()> {
    results.error(code_of(error.kind), error.message.as_bytes()).await
}

/// The number of the table of codes, as far as the library knows it: it has MariaDB's, which end below 3000.
fn code_of(kind: ErrorKind) -> MySqlError {
    match kind {
        ErrorKind::DeadlineExceeded => MySqlError::ER_QUERY_INTERRUPTED,
        other => MySqlError::from(other.codes().mysql),
    }
}

/// `mysql_native_password`: the client sends SHA1(p) xor SHA1(salt, SHA1(SHA1(p))), nothing for an empty one.
fn native_password(password: &str, salt: &[u8], given: &[u8]) -> bool {
    if password.is_empty() {
        return given.is_empty();
    }
    let once = Sha1::digest(password.as_bytes());
    let twice = Sha1::digest(once);
    let mask = Sha1::new().chain_update(salt).chain_update(twice).finalize();
    let expected: Vec<u8> = once.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    same(&expected, given)
}
