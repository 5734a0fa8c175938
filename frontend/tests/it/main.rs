//! The frontend against a cluster that lives in memory: no network but the protocols' own sockets.

mod admin;
mod alter;
mod cluster;
mod explain;
mod fake;
mod gone;
mod hold;
mod http;
mod ingest;
mod memory;
mod mysql;
mod order;
mod plan_cache;
mod postgres;
mod pushdown;
mod region;
mod sql;
mod types;

#[test]
fn each_defence_is_missed_when_it_is_away() {
    greptime_defences::each_is_missed_in("it", greptime_frontend::PROOFS_ELSEWHERE);
}
