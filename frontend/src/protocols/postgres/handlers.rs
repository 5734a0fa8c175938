//! One connection: statements in, rows out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::sql::sqlparser::ast::{self, SetExpr};
use futures::{Sink, Stream, StreamExt, TryStreamExt};
use greptime_query::from_datafusion;
use greptime_types::catalog::DEFAULT_DATABASE;
use greptime_types::{ColumnSchema, Error, Result};
use parking_lot::Mutex;
use pgwire::api::auth::StartupHandler;
use pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::PortalStore;
use pgwire::api::{
    ClientInfo, ClientPortalStore, ConnectionHandle, ConnectionManager, METADATA_DATABASE, METADATA_USER,
    PgWireServerHandlers, Type,
};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;

use super::startup::Startup;
use super::values::{fields_of, literal_of, rows_of, type_of, type_of_column};
use crate::frontend::Frontend;
use crate::protocols::gone::{self, Connected};
use crate::query::{Protocol, Session};
use crate::sql::{Lexer, Statement, params};
use crate::statement::Output;

/// Everything that one connection needs; it is made for it.
pub struct Connection {
    handler: Arc<Handler>,
    startup: Arc<Startup>,
    cancel: Arc<DefaultCancelHandler>,
}

impl Connection {
    /// A connection may ask for another one of `connections` to be cancelled.
    pub fn new(frontend: Arc<Frontend>, client: Connected, connections: Arc<ConnectionManager>) -> Self {
        let startup = Arc::new(Startup::new(&frontend, &connections));
        Self {
            cancel: Arc::new(DefaultCancelHandler::new(connections)),
            handler: Arc::new(Handler {
                frontend,
                client: Arc::new(client),
                database: Mutex::new(None),
            }),
            startup,
        }
    }
}

impl PgWireServerHandlers for Connection {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.handler)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.handler)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.startup)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::clone(&self.cancel)
    }
}

pub struct Handler {
    frontend: Arc<Frontend>,
    client: Arc<Connected>,
    /// What `USE` chose; else the one that the connection was opened with.
    database: Mutex<Option<String>>,
}

/// A statement with what its client must be told before it runs.
#[derive(Clone)]
pub struct Prepared {
    statement: Statement,
    parameters: Vec<Type>,
    columns: Option<SchemaRef>,
}

fn to_pgwire(error: &Error) -> PgWireError {
    let info = ErrorInfo::new(
        "ERROR".into(),
        error.kind.codes().sqlstate.into(),
        error.message.clone(),
    );
    PgWireError::UserError(Box::new(info))
}

impl Handler {
    fn session<C: ClientInfo>(&self, client: &C) -> Session {
        let metadata = client.metadata();
        let named = metadata.get(METADATA_DATABASE).cloned();
        let chosen = self.database.lock().clone().or(named);
        Session {
            database: chosen.unwrap_or_else(|| DEFAULT_DATABASE.to_string()),
            user: metadata.get(METADATA_USER).cloned().unwrap_or_default(),
            protocol: Protocol::Postgres,
        }
    }

    async fn run<C: ClientInfo>(
        &self,
        client: &C,
        statement: &Statement,
        format: &Format,
    ) -> PgWireResult<Response> {
        let session = &self.session(client);
        let start = self.frontend.clock.now();
        let output = gone::execute(&self.client, &self.frontend.executor, session, statement).await;
        let output = self.frontend.counted("postgres", output, start);
        let tag = Tag::new(statement.tag());
        Ok(match output.map_err(|e| to_pgwire(&e))? {
            Output::Rows(rows) => {
                let connection = client.session_extensions().get::<Arc<ConnectionHandle>>();
                let connection = connection.map(|connection| Arc::clone(connection.as_ref()));
                let mut response = stream(rows, format, connection).await?;
                response.set_command_tag(statement.tag());
                Response::Query(response)
            }
            Output::Affected(rows) => match statement {
                Statement::Insert(_) => Response::Execution(tag.with_oid(0).with_rows(rows as usize)),
                Statement::Delete(_) | Statement::Update(_) => {
                    Response::Execution(tag.with_rows(rows as usize))
                }
                Statement::Ignored("BEGIN") => Response::TransactionStart(tag),
                Statement::Ignored("COMMIT" | "ROLLBACK") => Response::TransactionEnd(tag),
                _ => Response::Execution(tag),
            },
            Output::Database(database) => {
                *self.database.lock() = Some(database);
                Response::Execution(tag)
            }
        })
    }

    async fn prepare(
        &self,
        session: &Session,
        sql: &str,
        given: &[Option<Type>],
    ) -> Result<Option<Prepared>> {
        let mut parsed = self.frontend.parse(sql, Lexer::Standard)?;
        let Some(mut statement) = parsed.statements.pop() else {
            return Ok(None);
        };
        if !parsed.statements.is_empty() {
            return Err(Error::invalid("prepare one statement at a time"));
        }
        let count = params::number(&mut statement);
        let mut parameters = vec![Type::UNKNOWN; count];
        let mut columns = None;
        match &statement {
            Statement::Query(_) => match self.frontend.executor.plan(session, &statement).await {
                Ok(planned) => {
                    columns = Some(planned.columns());
                    let types = planned.parameter_types()?;
                    for (i, parameter) in parameters.iter_mut().enumerate() {
                        if let Some(Some(found)) = types.get(&format!("${}", i + 1)) {
                            *parameter = type_of(found);
                        }
                    }
                }
                Err(error) => return Err(error),
            },
            Statement::Insert(insert) => self.insert_types(session, insert, &mut parameters)?,
            Statement::Update(update) => self.update_types(session, update, &mut parameters)?,
            other => columns = self.frontend.executor.columns_of(session, other).await?,
        }
        for (parameter, given) in parameters.iter_mut().zip(given) {
            if let Some(given) = given.as_ref().filter(|t| **t != Type::UNKNOWN) {
                *parameter = given.clone();
            }
        }
        Ok(Some(Prepared {
            statement,
            parameters,
            columns,
        }))
    }

    /// A parameter in VALUES has the type of its column.
    fn insert_types(&self, session: &Session, insert: &ast::Insert, types: &mut [Type]) -> Result<()> {
        let table = self.frontend.executor.insert_target(session, insert)?;
        let names = crate::statement::insert_columns(&table, insert)?;
        let Some(SetExpr::Values(values)) = insert.source.as_ref().map(|s| s.body.as_ref()) else {
            return Ok(());
        };
        for row in &values.rows {
            for (expr, name) in row.iter().zip(&names) {
                set_type(types, expr, table.schema.column(name));
            }
        }
        Ok(())
    }

    /// A parameter that is set has the type of its column.
    fn update_types(&self, session: &Session, update: &ast::Update, types: &mut [Type]) -> Result<()> {
        let table = self.frontend.executor.update_target(session, update)?;
        for assignment in &update.assignments {
            let ast::AssignmentTarget::ColumnName(name) = &assignment.target else {
                continue;
            };
            let name = name
                .0
                .last()
                .and_then(|part| part.as_ident())
                .map(crate::sql::fold);
            let column = name.and_then(|name| table.schema.column(&name));
            set_type(types, &assignment.value, column);
        }
        Ok(())
    }
}

/// If the expression is a parameter, it has the type of the column.
fn set_type(types: &mut [Type], expr: &ast::Expr, column: Option<&ColumnSchema>) {
    let ast::Expr::Value(value) = expr else { return };
    let ast::Value::Placeholder(placeholder) = &value.value else {
        return;
    };
    let position = placeholder.trim_start_matches('$').parse::<usize>().ok();
    let slot = position.and_then(|p| types.get_mut(p.checked_sub(1)?));
    if let (Some(slot), Some(column)) = (slot, column) {
        *slot = type_of_column(column.column_type);
    }
}

/// The rows as they come. The first batch is awaited, so that most failures come instead of a result. Until then the
/// library looks whether the query is cancelled, from then on the stream does.
async fn stream(
    mut rows: SendableRecordBatchStream,
    format: &Format,
    connection: Option<Arc<ConnectionHandle>>,
) -> PgWireResult<QueryResponse> {
    let fields = Arc::new(fields_of(&rows.schema(), format));
    let first = next_batch(&mut rows).await?;
    let rest = match connection {
        Some(connection) => until_cancelled(rows, connection).boxed(),
        None => rows.map_err(|e| to_pgwire(&from_datafusion(&e))).boxed(),
    };
    let all = futures::stream::iter(first.map(Ok)).chain(rest);
    let encoded_fields = Arc::clone(&fields);
    let encoded = all.map(move |batch| {
        let rows = rows_of(&batch?, &encoded_fields).map_err(|e| to_pgwire(&e))?;
        Ok::<_, PgWireError>(futures::stream::iter(rows.into_iter().map(Ok)))
    });
    Ok(QueryResponse::new(fields, encoded.try_flatten()))
}

async fn next_batch(rows: &mut SendableRecordBatchStream) -> PgWireResult<Option<RecordBatch>> {
    rows.try_next().await.map_err(|e| to_pgwire(&from_datafusion(&e)))
}

/// The rows until another connection cancels what this one runs.
fn until_cancelled(
    rows: SendableRecordBatchStream,
    connection: Arc<ConnectionHandle>,
) -> impl Stream<Item = PgWireResult<RecordBatch>> + Send {
    futures::stream::try_unfold((rows, None), move |(mut rows, cancelled)| {
        let connection = Arc::clone(&connection);
        async move {
            let mut cancelled = match cancelled {
                Some(cancelled) => cancelled,
                None => connection.start_query().await,
            };
            loop {
                tokio::select! {
                    batch = next_batch(&mut rows) => {
                        return Ok(batch?.map(|batch| (batch, (rows, Some(cancelled)))));
                    }
                    cancel = &mut cancelled => match cancel {
                        Ok(()) => return Err(PgWireError::QueryCanceled),
                        // Another query of this connection ran while this one was suspended.
                        Err(_) => cancelled = connection.start_query().await,
                    }
                }
            }
        }
    })
}

#[async_trait]
impl SimpleQueryHandler for Handler {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let parsed = self.frontend.parse(query, Lexer::Standard);
        if parsed.is_err() {
            self.frontend.metrics.request("postgres", &parsed, Duration::ZERO);
        }
        let parsed = parsed.map_err(|e| to_pgwire(&e))?;
        if parsed.statements.is_empty() {
            return Ok(vec![Response::EmptyQuery]);
        }
        let mut responses = Vec::new();
        for statement in &parsed.statements {
            match self.run(client, statement, &Format::UnifiedText).await {
                Ok(response) => responses.push(response),
                Err(PgWireError::UserError(info)) => {
                    // What came before it has been done and is answered; what comes after is not done.
                    responses.push(Response::Error(info));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(responses)
    }
}

/// A view of the handler at the time of the request.
pub struct Parser {
    frontend: Arc<Frontend>,
    client: Arc<Connected>,
    database: Option<String>,
}

#[async_trait]
impl QueryParser for Parser {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let database = Mutex::new(self.database.clone());
        let handler = Handler {
            frontend: Arc::clone(&self.frontend),
            client: Arc::clone(&self.client),
            database,
        };
        let session = handler.session(client);
        handler
            .prepare(&session, sql, types)
            .await
            .map_err(|e| to_pgwire(&e))
    }

    fn get_parameter_types(&self, prepared: &Prepared) -> PgWireResult<Vec<Type>> {
        Ok(prepared.parameters.clone())
    }

    fn get_result_schema(
        &self,
        prepared: &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        let text = Format::UnifiedText;
        let columns = prepared.columns.as_ref();
        Ok(columns
            .map(|c| fields_of(c, format.unwrap_or(&text)))
            .unwrap_or_default())
    }
}

#[async_trait]
impl ExtendedQueryHandler for Handler {
    type Statement = Prepared;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        Arc::new(Parser {
            frontend: Arc::clone(&self.frontend),
            client: Arc::clone(&self.client),
            database: self.database.lock().clone(),
        })
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let prepared = &portal.statement.statement;
        let literals = prepared
            .parameters
            .iter()
            .enumerate()
            .map(|(i, kind)| literal_of(portal, i, kind));
        let bound = literals
            .collect::<Result<Vec<_>>>()
            .and_then(|values| params::bind(&prepared.statement, &values));
        let bound = bound.map_err(|e| to_pgwire(&e))?;
        self.run(client, &bound, &portal.result_column_format).await
    }
}
