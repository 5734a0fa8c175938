//! frontend: protocols, SQL, routes.
mod metrics;
pub mod config;
pub mod route;
