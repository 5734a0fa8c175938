//! The datanode as frontends and metasrv see it, over a log and a bucket that fail.

mod alter;
mod bucket;
mod durability;
mod retries;
mod rows;
mod session;
mod truncate;
mod wire;
