//! Queries: DataFusion over the regions.
//!
//! A table is a [`provider`] whose scan is one [`exec::RegionQueryExec`] over the regions that can have rows
//! ([`pruning`]). The last rule of the optimizer ([`pushdown`]) moves whatever stands above it and can run beside
//! a region into it; what is left runs here, within the memory pool ([`memory`], [`bounds`]). EXPLAIN ANALYZE asks the
//! regions what they did ([`analyze`]).

mod analyze;
pub mod bounds;
mod cast_names;
pub mod catalog;
pub mod engine;
pub mod exec;
pub mod functions;
pub mod information_schema;
pub mod memory;
pub mod metric;
mod plan_cache;
mod prepared;
mod procedures;
pub mod provider;
pub mod pruning;
pub mod pushdown;
pub mod time_literals;
mod yielding;

pub use engine::{Engine, Protocol, Session};
pub use procedures::procedures;
