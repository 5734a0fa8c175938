//! Tells of procedures: `GET /v1/procedures`, and through it `ADMIN procedure_state` and
//! `information_schema.region_migrations`.

use greptime_types::Result;
use serde_json::{Value, json};

use super::{Procedure, Work};
use crate::catalog::Catalog;
use crate::server::{Metasrv, State};

impl Metasrv {
    /// The JSON of `GET /v1/procedures`: all that are remembered, the newest first. An error if this metasrv does not
    /// lead.
    pub fn procedures_json(&self) -> Result<String> {
        let state = self.state.lock();
        let catalog = state.catalog.as_ref().ok_or_else(|| self.not_leading())?;
        let mut procedures: Vec<&Procedure> = catalog.procedures.values().collect();
        procedures.sort_by_key(|p| (std::cmp::Reverse(p.started_ms), &p.id));
        let procedures: Vec<Value> = procedures
            .into_iter()
            .map(|p| shown(&state, catalog, p))
            .collect();
        Ok(serde_json::to_string_pretty(&json!({ "procedures": procedures })).unwrap_or_default())
    }
}

fn shown(state: &State, catalog: &Catalog, procedure: &Procedure) -> Value {
    let mut shown = json!({
        "id": procedure.id,
        "state": procedure.state(),
        "waiting": state.waits.get(&procedure.id).filter(|why| !why.is_empty()),
        "reason": procedure.reason,
        "started_ms": procedure.started_ms,
        "ended_ms": procedure.ended_ms,
    });
    let more = match &procedure.work {
        Work::MigrateRegion(work) => json!({
            "kind": "migrate_region",
            "region": work.migration.region,
            "table": catalog.tables.get(&work.migration.region.table()).map(|t| t.full_name()),
            "from": work.migration.from,
            "to": work.migration.to,
            "leadership_only": !work.migration.is_new,
            "phase": work.migration.phase.label(),
            "phases": work.history.iter().map(|e| json!({"phase": e.phase.label(), "at_ms": e.at_ms})).collect::<Vec<_>>(),
            "part_of": work.part_of,
            "deadline_ms": procedure.deadline_ms,
        }),
        Work::ForceRecoverRegion(work) => json!({
            "kind": "force_recover_region",
            "region": work.region,
            "node": work.node,
        }),
        Work::MigrateNode(work) => {
            let parts = || {
                let all = catalog.procedures.values();
                all.filter(|p| {
                    p.migrate_region()
                        .is_some_and(|w| w.part_of.as_ref() == Some(&procedure.id))
                })
            };
            let of_state = |state: &str| parts().filter(|p| p.state() == state).count() as u64;
            let (done, aborted) = match procedure.has_ended() {
                true => (work.done, work.aborted.len() as u64),
                false => (of_state("done"), of_state("aborted")),
            };
            json!({
                "kind": "migrate_node",
                "node": work.node,
                "done": done,
                "aborted": aborted,
                "running": of_state("running"),
                "left": catalog.regions_by_node().get(&work.node).map_or(0, Vec::len),
            })
        }
    };
    if let (Some(shown), Value::Object(more)) = (shown.as_object_mut(), more) {
        shown.extend(more);
    }
    shown
}
