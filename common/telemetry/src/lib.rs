//! What every program has: logs, metrics, `/livez`, `/readyz` and `/metrics`.

pub mod http;
pub mod logs;
pub mod metrics;

pub use http::{Readiness, probe_router, serve};
pub use logs::{LogConfig, LogFormat, init_logs};
pub use metrics::Metrics;
