//! Now and then somebody changes a table, as `alter` of metasrv does it.

use std::rc::Rc;
use std::time::Duration;

use greptime_types::{Change, ColumnSchema, ColumnType, Semantic, TableId, TableState};

use super::Metasrv;
use crate::catalog::{Catalog, Edit};
use crate::sim::SECOND;
use crate::tables::{APPENDED, OVERWRITTEN};
use crate::trace::Branch;

/// The column that comes and goes.
const COLUMN: &str = "extra";

impl Metasrv {
    pub(super) async fn alter_now_and_then(self: Rc<Self>) {
        loop {
            let pause = self.sim.dice.borrow_mut().between(SECOND, 12 * SECOND);
            self.sim.sleep(Duration::from_micros(pause)).await;
            if !self.is_leading() {
                continue;
            }
            let id = match self.sim.dice.borrow_mut().per_mille(500) {
                true => APPENDED,
                false => OVERWRITTEN,
            };
            // Nobody waits for it: what fails is not asked for again.
            let _ = self
                .change(|catalog| Ok(self.altered(catalog, id).into_iter().collect()))
                .await;
        }
    }

    /// With the column if it was without, and without if it was with: rows of before mean another one then.
    fn altered(&self, catalog: &Catalog, id: TableId) -> Option<Edit> {
        let table = catalog.tables.get(&id).filter(|t| t.state == TableState::Ready)?;
        let change = match table.schema.column(COLUMN) {
            None => Change::AddColumn {
                column: ColumnSchema::new(COLUMN, ColumnType::Float64, Semantic::Field),
                if_not_exists: false,
            },
            Some(_) => Change::DropColumn {
                name: COLUMN.into(),
                if_exists: false,
            },
        };
        let next = table.altered(&[change]).ok()??;
        self.sim.hit(Branch::TableIsAltered);
        self.sim
            .note(|| format!("{} alters table {id} to version {}", self.me, next.schema.version));
        Some(Edit::PutTable(next))
    }
}
