//! The main results as an SVG picture: bars of how many times better or worse each database is than ours.

use crate::report::{Better, OURS, Report, Row, number};

const WIDTH: f64 = 860.0;
const LABEL: f64 = 270.0;
const BAR: f64 = 11.0;
const GAP: f64 = 12.0;
const TOP: f64 = 66.0;
/// Pixels for each factor of ten.
const DECADE: f64 = 120.0;
const DECADES: f64 = 4.0;
/// A colour for each database, in the order of their names; ours comes first.
const COLOURS: [&str; 6] = ["#1f6feb", "#e5a50a", "#8e44ad", "#c0392b", "#16a085", "#7f8c8d"];

/// Each row becomes a group of bars, on a logarithmic scale from the best value; shorter is better.
pub fn draw(report: &Report) -> String {
    let rows: Vec<&Row> = report
        .results
        .iter()
        .filter(|r| r.ours.is_some() && !r.peers.is_empty())
        .collect();
    let mut names: Vec<String> = rows.iter().flat_map(|r| r.peers.keys().cloned()).collect();
    names.sort();
    names.dedup();
    names.insert(0, OURS.to_string());
    let mut body = legend(&names);
    let mut y = TOP;
    for row in rows {
        let best = row.lead().map_or(1.0, |lead| lead);
        body.push_str(&text(
            8.0,
            y + BAR,
            &format!("{} ({})", row.name, row.unit),
            "start",
        ));
        if best < 1.0 {
            body.push_str(&text(
                8.0,
                y + 2.4 * BAR,
                &format!("the best peer is {:.1}x ahead", 1.0 / best),
                "start",
            ));
        }
        let top = y;
        for (name, value) in values(row) {
            let colour = COLOURS[names.iter().position(|n| n == name).unwrap_or(0) % COLOURS.len()];
            let length = 4.0 + DECADE * worse(row, value).log10().clamp(0.0, DECADES);
            body.push_str(&format!(
                "<rect x=\"{LABEL}\" y=\"{y:.0}\" width=\"{length:.0}\" height=\"{BAR}\" fill=\"{colour}\"/>\n"
            ));
            body.push_str(&text(
                LABEL + length + 5.0,
                y + BAR - 1.5,
                &number(Some(value)),
                "start",
            ));
            y += BAR + 1.0;
        }
        y = y.max(top + 2.0 * BAR) + GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" font-family=\"sans-serif\" \
         font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn values(row: &Row) -> impl Iterator<Item = (&str, f64)> {
    let ours = row.ours.iter().map(|v| (OURS, *v));
    ours.chain(row.peers.iter().map(|(name, value)| (name.as_str(), *value)))
}

/// How many times worse than the best value of the row.
fn worse(row: &Row, value: f64) -> f64 {
    let all = values(row).map(|(_, v)| v);
    let factor = match row.better {
        Better::Lower => value / all.fold(f64::INFINITY, f64::min),
        Better::Higher => all.fold(0.0, f64::max) / value,
    };
    if factor.is_finite() { factor } else { 1.0 }
}

fn legend(names: &[String]) -> String {
    let title = "Times worse than the best of each row, on a logarithmic scale: shorter is better";
    let mut out = text(8.0, 20.0, title, "start");
    for (number, name) in names.iter().enumerate() {
        let x = 8.0 + 130.0 * number as f64;
        let colour = COLOURS[number % COLOURS.len()];
        out.push_str(&format!(
            "<rect x=\"{x}\" y=\"32\" width=\"{BAR}\" height=\"{BAR}\" fill=\"{colour}\"/>\n"
        ));
        out.push_str(&text(x + 16.0, 41.0, name, "start"));
    }
    out
}

fn text(x: f64, y: f64, content: &str, anchor: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.0}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_times_worse_is_one_decade_longer_in_both_directions() {
        let mut lower = Row::new("q", "ms", Better::Lower);
        lower.set(OURS, 1.0);
        lower.set("a", 10.0);
        assert_eq!((worse(&lower, 1.0), worse(&lower, 10.0)), (1.0, 10.0));
        let mut higher = Row::new("i", "rows/s", Better::Higher);
        higher.set(OURS, 10.0);
        higher.set("a", 1.0);
        assert_eq!((worse(&higher, 10.0), worse(&higher, 1.0)), (1.0, 10.0));
    }

    #[test]
    fn a_row_where_a_peer_is_ahead_says_so() {
        let mut report = Report::default();
        report.row("lastpoint", "ms", Better::Lower).set(OURS, 8.0);
        report.row("lastpoint", "ms", Better::Lower).set("QuestDB", 2.0);
        let svg = draw(&report);
        assert!(svg.contains("the best peer is 4.0x ahead"), "{svg}");
        assert_eq!(
            svg.matches("height=\"11\"").count(),
            4,
            "two bars and two of the legend"
        );
    }
}
