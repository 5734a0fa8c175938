//! The regions: in many tables, a key for each.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};

use crate::cluster::{Cluster, RegionReport};
use crate::load::Damage;

/// Regions of one table. With each region a datanode is told of its whole table, rule and all, so that twice the
/// regions in one table are four times as much to tell.
const IN_ONE_TABLE: usize = 50;
const PREFIX: &str = "mass_";

/// A region, by its table and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub table: usize,
    pub number: usize,
}

/// Its time is its own among those of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub place: Place,
    pub time: i64,
}

/// How many regions each table has.
#[derive(Debug, PartialEq, Eq)]
pub struct Tables(Vec<usize>);

impl Place {
    /// `None`: a region of another table.
    pub fn of(region: &RegionReport) -> Option<Self> {
        let table = region.table.as_deref()?.strip_prefix("public.")?;
        Some(Self {
            table: table.strip_prefix(PREFIX)?.parse().ok()?,
            number: region.number()?,
        })
    }

    /// A row of it in line protocol.
    pub fn line(self, time: i64) -> String {
        let (table, host) = (name(self.table), host(self.number));
        format!("{table},host={host} value=1 {time}")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {} of {}", self.number, name(self.table))
    }
}

impl Tables {
    /// So many regions in tables of about the same size.
    pub fn of(regions: usize) -> Self {
        let tables = regions.div_ceil(IN_ONE_TABLE);
        let size = |table| regions / tables + usize::from(table < regions % tables);
        Self((0..tables).map(size).collect())
    }

    pub fn names(&self) -> impl Iterator<Item = String> {
        (0..self.0.len()).map(name)
    }

    pub async fn create(&self, cluster: &Cluster) -> Result<()> {
        for (table, regions) in self.0.iter().enumerate() {
            cluster.sql(&statement(table, *regions)).await?;
        }
        Ok(())
    }

    /// Reads everything back.
    pub async fn verify(&self, cluster: &Cluster, acknowledged: &[Row]) -> Result<Damage> {
        let mut found = Vec::new();
        for (table, name) in self.names().enumerate() {
            let text = cluster
                .sql(&format!("SELECT host, CAST(ts AS BIGINT) FROM {name}"))
                .await
                .with_context(|| format!("table {name} cannot be read"))?;
            found.extend(rows(table, &text));
        }
        Ok(damage(acknowledged, &found))
    }
}

fn name(table: usize) -> String {
    format!("{PREFIX}{table}")
}

/// The key of a region's rows. Keys are in the order of their numbers.
fn host(number: usize) -> String {
    format!("r{number:03}")
}

/// Every row that is applied stays, so that one that is applied twice shows.
fn statement(table: usize, regions: usize) -> String {
    let rules: Vec<String> = (0..regions).map(|number| rule(number, regions)).collect();
    format!(
        "CREATE TABLE {} (host STRING, ts TIMESTAMP(3) TIME INDEX, value DOUBLE, PRIMARY KEY (host)) PARTITION ON \
         COLUMNS (host) ({}) WITH (append_mode = 'true')",
        name(table),
        rules.join(", ")
    )
}

fn rule(number: usize, regions: usize) -> String {
    let from = format!("host >= '{}'", host(number));
    let to = format!("host < '{}'", host(number + 1));
    match number {
        0 => to,
        _ if number + 1 == regions => from,
        _ => format!("{from} AND {to}"),
    }
}

fn rows(table: usize, csv: &str) -> impl Iterator<Item = Row> {
    csv.lines().filter_map(move |line| {
        let (host, time) = line.trim().split_once(',')?;
        let number = host.strip_prefix('r')?.parse().ok()?;
        Some(Row {
            place: Place { table, number },
            time: time.parse().ok()?,
        })
    })
}

fn damage(acknowledged: &[Row], found: &[Row]) -> Damage {
    let once: BTreeSet<&Row> = found.iter().collect();
    Damage {
        lost: acknowledged.iter().filter(|row| !once.contains(row)).count(),
        doubled: found.len() - once.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_about_as_large_and_have_all_regions() {
        assert_eq!(Tables::of(1_000), Tables(vec![50; 20]));
        assert_eq!(Tables::of(103), Tables(vec![35, 34, 34]));
        for regions in 2..300 {
            let Tables(sizes) = Tables::of(regions);
            assert_eq!(sizes.iter().sum::<usize>(), regions);
            // One region alone has no rule.
            assert!(
                sizes.iter().all(|size| (2..=IN_ONE_TABLE).contains(size)),
                "{sizes:?}"
            );
        }
    }

    #[test]
    fn the_rules_of_a_table_leave_nothing_out() {
        let rules: Vec<String> = (0..3).map(|number| rule(number, 3)).collect();
        let wanted = [
            "host < 'r001'",
            "host >= 'r001' AND host < 'r002'",
            "host >= 'r002'",
        ];
        assert_eq!(rules, wanted);
        assert!(statement(7, 2).contains("TABLE mass_7 ("));
        assert!(statement(7, 2).contains("COLUMNS (host) (host < 'r001', host >= 'r001') WITH"));
    }

    #[test]
    fn a_region_is_known_by_its_table_and_its_number() {
        let region = |table: Option<&str>| RegionReport {
            region: "1030:49".to_owned(),
            table: table.map(str::to_owned),
            leader: None,
            voters: vec![],
            hot: vec![],
        };
        let place = Place { table: 6, number: 49 };
        assert_eq!(Place::of(&region(Some("public.mass_6"))), Some(place));
        assert_eq!(Place::of(&region(Some("public.chaos"))), None);
        assert_eq!(Place::of(&region(None)), None);
        assert_eq!(place.line(17), "mass_6,host=r049 value=1 17");
    }

    #[test]
    fn rows_that_are_missing_or_there_twice_are_damage() {
        let found: Vec<Row> = rows(2, "host,CAST(ts)\nr001,17\r\nr002,17\nr002,17\nr002,18\n").collect();
        assert_eq!(found.len(), 4);
        let row = |number, time| Row {
            place: Place { table: 2, number },
            time,
        };
        let whole = [row(1, 17), row(2, 17)];
        assert_eq!(damage(&whole, &found), Damage { lost: 0, doubled: 1 });
        let acknowledged = [row(1, 17), row(1, 18), row(3, 17)];
        assert_eq!(damage(&acknowledged, &found[..2]), Damage { lost: 2, doubled: 0 });
    }
}
