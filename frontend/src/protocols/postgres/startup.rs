//! Who is let in.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::Sink;
use pgwire::api::auth::noop::NoopStartupHandler;
use pgwire::api::auth::sasl::SASLAuthStartupHandler;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramAuth, gen_salted_password};
use pgwire::api::auth::{AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler};
use pgwire::api::{ClientInfo, ConnectionManager, METADATA_USER};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};

use crate::frontend::Frontend;
use crate::query::functions::POSTGRES_VERSION;

/// With a users file SCRAM-SHA-256, without one nothing.
pub enum Startup {
    Open(Open),
    Password(SASLAuthStartupHandler<DefaultServerParameterProvider>),
}

impl Startup {
    /// Who is let in can be found in `connections` by those who want to cancel its queries.
    pub fn new(frontend: &Arc<Frontend>, connections: &Arc<ConnectionManager>) -> Self {
        let connections = Arc::clone(connections);
        if !frontend.users.required() {
            return Self::Open(Open { connections });
        }
        let mut parameters = DefaultServerParameterProvider::default();
        parameters.server_version = POSTGRES_VERSION.to_string();
        let scram = ScramAuth::new(Arc::new(UsersFile(Arc::clone(frontend))));
        let handler = SASLAuthStartupHandler::new(Arc::new(parameters)).with_scram(scram);
        Self::Password(handler.with_connection_manager(connections))
    }
}

pub struct Open {
    connections: Arc<ConnectionManager>,
}

impl NoopStartupHandler for Open {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(Arc::clone(&self.connections))
    }
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match self {
            Self::Open(open) => open.on_startup(client, message).await,
            Self::Password(password) => match password.on_startup(client, message).await {
                // In PostgreSQL's words; the library names the user of the SASL messages, which clients leave empty.
                Err(PgWireError::InvalidPassword(_)) => {
                    let user = client.metadata().get(METADATA_USER).map_or("", String::as_str);
                    let message = format!("password authentication failed for user \"{user}\"");
                    let error = ErrorInfo::new("FATAL".to_owned(), "28P01".to_owned(), message);
                    Err(PgWireError::UserError(Box::new(error)))
                }
                other => other,
            },
        }
    }
}

struct UsersFile(Arc<Frontend>);

impl fmt::Debug for UsersFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UsersFile")
    }
}

#[async_trait]
impl AuthSource for UsersFile {
    /// An unknown user gets a random password, so that the answer does not tell which names exist.
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        let random = || self.0.ids.random_u64().to_le_bytes();
        let known = login.user().and_then(|user| self.0.users.password(user));
        let password = known.unwrap_or_else(|| self.0.ids.uuid());
        let salt = [random(), random()].concat();
        let hashed = gen_salted_password(&password, &salt, SCRAM_ITERATIONS);
        Ok(Password::new(Some(salt), hashed))
    }
}
