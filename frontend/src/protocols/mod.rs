//! What clients speak.

pub mod http;
pub mod line_protocol;
pub mod mysql;
pub mod postgres;
pub mod remote_write;
