//! What clients speak.

mod gone;
pub mod http;
pub mod line_protocol;
pub mod mysql;
pub mod postgres;
pub mod remote_write;
