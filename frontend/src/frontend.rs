//! The frontend of one process: its parts put together, started and stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use greptime_clock::{SharedClock, SharedIds};
use greptime_proto::run_session;
use greptime_proto::transport::MetaLink;
use greptime_query::from_datafusion;
use greptime_telemetry::{Metrics, Readiness};
use greptime_types::{NodeId, Result};
use tokio_util::sync::CancellationToken;

use crate::auth::Users;
use crate::config::FrontendConfig;
use crate::ingest::Ingestor;
use crate::ingest::auto::AutoSchema;
use crate::metrics::{Count, FrontendMetrics};
use crate::query::Engine;
use crate::query::memory::AnswerSpace;
use crate::route::hold::HoldPolicy;
use crate::route::ids::RequestIds;
use crate::route::session::{FrontendSession, Identity};
use crate::route::{Ddl, Regions, Router, View};
use crate::sql::{Lexer, Statement, parse_statements};
use crate::statement::{Executor, Output};

/// Statements, with the memory that they take until they have run.
pub(crate) struct Parsed {
    pub statements: Vec<Statement>,
    _space: MemoryReservation,
}

/// Everything that a frontend needs from outside.
pub struct FrontendParts {
    pub config: FrontendConfig,
    /// `[auth] users_file`; without it there is no authentication.
    pub users_file: Option<PathBuf>,
    pub node_id: NodeId,
    /// host:port under which others reach this frontend; only shown.
    pub advertise_address: String,
    pub link: Arc<dyn MetaLink>,
    /// `GrpcRegions`, or calls into a datanode of the same process.
    pub regions: Arc<dyn Regions>,
    pub clock: SharedClock,
    pub ids: SharedIds,
    pub metrics: Metrics,
    /// Set by the frontend once it has the catalog and the routes.
    pub readiness: Readiness,
}

pub struct Frontend {
    pub config: FrontendConfig,
    pub executor: Arc<Executor>,
    pub auto: AutoSchema,
    pub users: Users,
    pub metrics: FrontendMetrics,
    pub clock: SharedClock,
    pub ids: SharedIds,
    readiness: Readiness,
    stop: CancellationToken,
}

impl Frontend {
    /// Starts the session with metasrv; serving is up to the caller (`http_router`, `serve_mysql`,
    /// `serve_postgres`). Must be called inside a tokio runtime.
    pub fn start(parts: FrontendParts) -> Result<Arc<Self>> {
        let FrontendParts {
            config,
            link,
            clock,
            ids,
            ..
        } = parts;
        let view = Arc::new(View::default());
        let metrics = FrontendMetrics::new(&parts.metrics);
        parts
            .metrics
            .register_memory_limits("greptime_frontend_memory_limit_bytes", config.memory_limits());
        let incarnation = ids.random_u64();
        let policy = HoldPolicy {
            first_pause: Duration::from_millis(10),
            last_pause: Duration::from_millis(250),
            max_held_bytes: config.hold_memory,
        };
        let router = Arc::new(Router::new(
            Arc::clone(&view),
            parts.regions,
            Arc::clone(&clock),
            RequestIds::new(incarnation),
            policy,
            metrics.clone(),
        ));
        let ddl = Ddl {
            link: Arc::clone(&link),
            view: Arc::clone(&view),
            clock: Arc::clone(&clock),
        };
        let ingestor = Arc::new(Ingestor::new(
            Arc::clone(&router),
            config.write_memory,
            config.write_part,
        ));
        let engine = Engine::new(&config, router, Arc::clone(&link), metrics.clone())?;
        let executor = Arc::new(Executor {
            engine,
            ingestor,
            ddl: ddl.clone(),
            config: config.clone(),
            metrics: metrics.clone(),
        });
        let identity = Identity {
            node_id: parts.node_id,
            address: parts.advertise_address,
            version: env!("CARGO_PKG_VERSION").to_string(),
            incarnation,
        };
        let session = Arc::new(FrontendSession::new(identity, view, parts.readiness.clone()));
        let stop = CancellationToken::new();
        tokio::spawn(run_session(link, session, Arc::clone(&ids), stop.clone()));
        Ok(Arc::new(Self {
            users: Users::new(parts.users_file, Arc::clone(&clock)),
            auto: AutoSchema::new(ddl),
            config,
            executor,
            metrics,
            clock,
            ids,
            readiness: parts.readiness,
            stop,
        }))
    }

    /// Whether the catalog and the routes have been received; stays so.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Room for an answer that is held in memory until it is complete.
    pub(crate) fn answer_space(&self) -> AnswerSpace {
        self.executor.engine.answer_space(self.config.max_result)
    }

    /// Parses what a client sent, once there is memory for it.
    pub(crate) fn parse(&self, sql: &str, lexer: Lexer) -> Result<Parsed> {
        let space = self.executor.engine.statement_space(sql.len())?;
        Ok(Parsed {
            statements: parse_statements(sql, lexer)?,
            _space: space,
        })
    }

    /// Counts a statement that began at `start`: at once if it gives no rows, else with the end of its rows.
    pub(crate) fn counted(
        &self,
        protocol: &'static str,
        output: Result<Output>,
        start: Duration,
    ) -> Result<Output> {
        let mut count = Count {
            metrics: self.metrics.clone(),
            clock: Arc::clone(&self.clock),
            protocol,
            start,
            outcome: Ok(()),
        };
        match output {
            Ok(Output::Rows(rows)) => {
                let schema = rows.schema();
                let rows = rows.inspect_err(move |error| count.failed(from_datafusion(error)));
                Ok(Output::Rows(Box::pin(RecordBatchStreamAdapter::new(
                    schema, rows,
                ))))
            }
            Err(error) => {
                count.failed(error.clone());
                Err(error)
            }
            done => done,
        }
    }

    /// Ends the session with metasrv. Servers are ended by their own shutdown futures.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}
