//! What metasrv says of procedures (`GET /v1/procedures`).

use greptime_proto::transport::MetaLink;
use greptime_types::{Error, RegionId, Result};
use serde::Deserialize;
use serde_json::Value;

/// One procedure; what does not go for its kind is absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Procedure {
    pub id: String,
    pub state: String,
    pub phase: Option<String>,
    pub region: Option<RegionId>,
    pub table: Option<String>,
    pub from: Option<u64>,
    pub to: Option<u64>,
    pub waiting: Option<String>,
    pub reason: Option<String>,
    pub part_of: Option<String>,
    pub started_ms: i64,
    pub ended_ms: Option<i64>,
    /// Everything that was said.
    #[serde(skip)]
    pub all: Value,
}

#[derive(Deserialize)]
struct Procedures {
    procedures: Vec<Value>,
}

/// All that metasrv remembers, the newest first.
pub async fn procedures(link: &dyn MetaLink) -> Result<Vec<Procedure>> {
    let json = link.procedures().await?;
    let wrong =
        |e: serde_json::Error| Error::internal(format!("metasrv's list of procedures cannot be read: {e}"));
    let all: Procedures = serde_json::from_str(&json).map_err(wrong)?;
    let one = |all: Value| {
        let known: Procedure = serde_json::from_value(all.clone()).map_err(wrong)?;
        Ok(Procedure { all, ..known })
    };
    all.procedures.into_iter().map(one).collect()
}
