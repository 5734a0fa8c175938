//! What was measured, as rows of one table: for people as text, for programs as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

/// One measurement of all databases.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub better: Better,
    /// None if it could not be measured.
    pub ours: Option<f64>,
    pub peers: BTreeMap<String, f64>,
    /// Whether our answers, or our number of rows, were right. What peers answered wrongly is not in `peers`.
    pub correct: bool,
}

impl Row {
    pub fn new(name: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self {
            name: name.into(),
            unit,
            better,
            ours: None,
            peers: BTreeMap::new(),
            correct: true,
        }
    }

    pub fn set(&mut self, database: &str, value: f64) {
        if database == OURS {
            self.ours = Some(value);
        } else {
            self.peers.insert(database.to_string(), value);
        }
    }

    /// The best of the peers.
    pub fn best_peer(&self) -> Option<(&str, f64)> {
        let peers = self.peers.iter().map(|(name, value)| (name.as_str(), *value));
        match self.better {
            Better::Lower => peers.min_by(|a, b| a.1.total_cmp(&b.1)),
            Better::Higher => peers.max_by(|a, b| a.1.total_cmp(&b.1)),
        }
    }

    /// How many times better than the best peer; below 1 the peer is ahead.
    pub fn lead(&self) -> Option<f64> {
        let (ours, (_, best)) = (self.ours?, self.best_peer()?);
        match self.better {
            Better::Lower => (ours > 0.0).then(|| best / ours),
            Better::Higher => (best > 0.0).then(|| ours / best),
        }
    }
}

pub const OURS: &str = "ours";

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub results: Vec<Row>,
    /// Database and why it has no value: `name: what: reason`.
    pub left_out: Vec<String>,
    /// Version of each database, and how it was started.
    pub databases: BTreeMap<String, Setup>,
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Setup {
    pub version: String,
    pub setup: String,
}

impl Report {
    /// The row of this name, made if there is none.
    pub fn row(&mut self, name: &str, unit: &'static str, better: Better) -> &mut Row {
        let found = self.results.iter().position(|r| r.name == name);
        let at = found.unwrap_or_else(|| {
            self.results.push(Row::new(name, unit, better));
            self.results.len() - 1
        });
        &mut self.results[at]
    }

    pub fn leave_out(&mut self, database: &str, what: &str, reason: &str) {
        let reason: String = reason.chars().take(240).collect();
        self.left_out.push(format!("{database}: {what}: {reason}"));
    }

    /// Everything as text.
    pub fn text(&self) -> String {
        let mut peers: Vec<&String> = self.results.iter().flat_map(|r| r.peers.keys()).collect();
        peers.sort();
        peers.dedup();
        let head = ["what", "unit", OURS].map(String::from);
        let last = ["lead", ""].map(String::from);
        let mut lines = vec![
            [
                &head[..],
                &peers.iter().map(|p| p.to_string()).collect::<Vec<_>>(),
                &last,
            ]
            .concat(),
        ];
        for row in &self.results {
            let mut line = vec![row.name.clone(), row.unit.to_string(), number(row.ours)];
            line.extend(peers.iter().map(|p| number(row.peers.get(*p).copied())));
            line.push(row.lead().map_or("–".into(), |l| format!("{l:.2}x")));
            line.push(if row.correct {
                String::new()
            } else {
                "WRONG".into()
            });
            lines.push(line);
        }
        let mut text = aligned(&lines);
        let section = |title: &str, items: &[String]| match items.is_empty() {
            true => String::new(),
            false => format!("\n{title}\n  {}\n", items.join("\n  ")),
        };
        let databases: Vec<String> = self
            .databases
            .iter()
            .map(|(name, s)| format!("{name} {}: {}", s.version, s.setup))
            .collect();
        text.push_str("\nlead: how many times better than the best peer; below 1 the peer is ahead.\n");
        text.push_str(&section("databases", &databases));
        text.push_str(&section("left out", &self.left_out));
        text.push_str(&section("notes", &self.notes));
        text
    }
}

/// About three digits that matter.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(v) if v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) if v.abs() >= 1.0 => format!("{v:.2}"),
        Some(v) => format!("{v:.3}"),
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        lines
            .iter()
            .filter_map(|l| l.get(c))
            .map(|s| s.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (number, cell) in line.iter().enumerate() {
            let pad = " ".repeat(widths[number] - cell.chars().count());
            // Names to the left, numbers to the right.
            match number < 2 {
                true => text.push_str(&format!("{cell}{pad}  ")),
                false => text.push_str(&format!("{pad}{cell}  ")),
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// The middle value; of an even number of values the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[half]),
        _ => Some(f64::midpoint(sorted[half - 1], sorted[half])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lead_is_over_the_best_peer_whichever_direction_is_better() {
        let mut fast = Row::new("q", "ms", Better::Lower);
        fast.set(OURS, 2.0);
        fast.set("a", 8.0);
        fast.set("b", 3.0);
        assert_eq!((fast.best_peer(), fast.lead()), (Some(("b", 3.0)), Some(1.5)));
        let mut many = Row::new("i", "rows/s", Better::Higher);
        many.set(OURS, 50.0);
        many.set("a", 100.0);
        assert_eq!(many.lead(), Some(0.5));
    }

    #[test]
    fn a_row_without_peers_or_without_a_value_of_ours_has_no_lead() {
        let mut row = Row::new("q", "ms", Better::Lower);
        assert_eq!(row.lead(), None);
        row.set("a", 1.0);
        assert_eq!(row.lead(), None);
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_text_names_wrong_rows_and_who_was_left_out() {
        let mut report = Report::default();
        report.row("lastpoint", "ms", Better::Lower).set(OURS, 1.0);
        report.row("lastpoint", "ms", Better::Lower).correct = false;
        report.leave_out("QuestDB", "lastpoint", "HTTP 400");
        let text = report.text();
        assert_eq!(report.results.len(), 1);
        assert!(
            text.contains("WRONG") && text.contains("QuestDB: lastpoint: HTTP 400"),
            "{text}"
        );
    }

    #[test]
    fn the_json_has_the_agreed_names() {
        let mut row = Row::new("q", "ms", Better::Lower);
        row.set("DuckDB", 2.0);
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(
            json,
            r#"{"name":"q","unit":"ms","better":"lower","ours":null,"peers":{"DuckDB":2.0},"correct":true}"#
        );
    }
}
