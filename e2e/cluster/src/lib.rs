//! What tests and demonstration on a real cluster share: installing, a writer with a memory of its own, and
//! checking what the cluster gives back.

#![allow(clippy::disallowed_methods)] // Real time of real processes; nothing here is simulated.

pub mod chaos;
pub mod database;
pub mod install;
pub mod regions;
pub mod scenarios;
pub mod sql;
pub mod verify;
pub mod writer;
