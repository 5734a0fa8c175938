//! The report as an SVG picture: for each kind of fault, its outages as a distribution, and acknowledged writes over
//! time around it.

use crate::faults::{Fault, Kind};
use crate::report::{BINS_AFTER, BINS_BEFORE, Entry};
use clap::ValueEnum;

const WIDTH: f64 = 1_100.0;
const TOP: f64 = 64.0;
const ROW: f64 = 92.0;
/// The height of what is drawn in a row.
const PLOT: f64 = 62.0;
const LABEL: f64 = 12.0;
/// From one millisecond to thirty seconds, on a logarithmic scale.
const LEFT: f64 = 216.0;
const DECADE: f64 = 95.0;
const DECADES: f64 = 4.5;
const TIMES: f64 = 704.0;
const TIMES_WIDTH: f64 = 380.0;
/// More would hide each other.
const MOST_DOTS: usize = 300;

const FAULT: &str = "#1f6feb";
const ORDINARY: &str = "#a0a7af";
const FLOOR: &str = "#16a085";
const AIM: &str = "#c0392b";
/// That of the fault.
const MOMENT: &str = "#24292f";
const LINE: &str = "#e3e6ea";

/// `rate`: writes each second to each region, as they were offered.
pub fn draw(entries: &[Entry], rate: f64) -> String {
    let height = TOP + ROW * entries.len() as f64 + 14.0;
    let mut body = legend();
    if entries
        .iter()
        .any(|entry| kind_of(entry) == Some(Kind::ManyLeaders))
    {
        let words = "mass_kill: the share of the regions that have taken a row since";
        body.push_str(&text(TIMES, 52.0, "start", words));
    }
    for (number, entry) in entries.iter().enumerate() {
        let top = TOP + ROW * number as f64;
        body.push_str(&labels(entry, top));
        body.push_str(&scale(top));
        body.push_str(&dots(&entry.samples.ordinary, top + 0.72 * PLOT, ORDINARY));
        body.push_str(&dots(&entry.samples.gaps, top + 0.26 * PLOT, FAULT));
        body.push_str(&marks(entry, top));
        body.push_str(&timeline(entry, top, rate));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn legend() -> String {
    let mut out = text(
        LEFT,
        20.0,
        "start",
        "Longest time without an acknowledged write, of each region (ms)",
    );
    out += &text(
        TIMES,
        20.0,
        "start",
        "Acknowledged writes each second, of a region that was hit",
    );
    out += &text(
        TIMES,
        36.0,
        "start",
        "mean of all faults; seconds since the fault; dashed: as offered",
    );
    let words = [
        (FAULT, "around a fault"),
        (ORDINARY, "ordinary"),
        (FLOOR, "floor"),
        (AIM, "aims: p50, p99, max"),
    ];
    for (number, (colour, word)) in words.into_iter().enumerate() {
        let x = LEFT + 105.0 * number as f64;
        out += &format!("<rect x=\"{x}\" y=\"28\" width=\"9\" height=\"9\" fill=\"{colour}\"/>\n");
        out += &text(x + 14.0, 36.5, "start", word);
    }
    out
}

fn labels(entry: &Entry, top: f64) -> String {
    let gap = entry.gap_ms;
    let lines = [
        format!("{}, {} times", entry.fault, entry.count),
        format!("p50 {:.0}  p99 {:.0}  max {:.0} ms", gap.p50, gap.p99, gap.max),
        format!("lost {}, errors {}", entry.rows_lost, entry.client_errors),
    ];
    let lines = lines.iter().enumerate();
    lines
        .map(|(number, line)| text(LABEL, top + 17.0 + 15.0 * number as f64, "start", line))
        .collect()
}

/// Where a time is on the logarithmic scale.
fn place(ms: f64) -> f64 {
    LEFT + DECADE * ms.max(1.0).log10().min(DECADES)
}

fn scale(top: f64) -> String {
    let mut out = String::new();
    for (ms, word) in [
        (1.0, "1"),
        (10.0, "10"),
        (100.0, "100"),
        (1_000.0, "1 s"),
        (10_000.0, "10 s"),
    ] {
        out += &line(place(ms), top, place(ms), top + PLOT, LINE, "");
        out += &text(place(ms), top + PLOT + 12.0, "middle", word);
    }
    out
}

/// Times around a height, beside each other as far as they are equal.
fn dots(times: &[f64], middle: f64, colour: &str) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    // The longest stays.
    let every = sorted.len().div_ceil(MOST_DOTS).max(1);
    let shown = sorted.iter().rev().step_by(every).enumerate();
    shown
        .map(|(number, ms)| {
            let aside = (number * 37 % 23) as f64 - 11.0;
            format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.2\" fill=\"{colour}\" fill-opacity=\"0.55\"/>\n",
                place(*ms),
                middle + aside
            )
        })
        .collect()
}

fn marks(entry: &Entry, top: f64) -> String {
    let fault = Fault::from_str(&entry.fault, false).ok();
    let mut out = String::new();
    if let Some(aim) = fault.and_then(Fault::aim) {
        for ms in [aim.p50, aim.p99, Some(aim.max)].into_iter().flatten() {
            out += &line(place(ms), top, place(ms), top + 0.5 * PLOT, AIM, "");
        }
    }
    if let Some(floor) = entry.floor_ms {
        out += &line(
            place(floor),
            top,
            place(floor),
            top + PLOT,
            FLOOR,
            " stroke-dasharray=\"4 3\"",
        );
    }
    out
}

fn kind_of(entry: &Entry) -> Option<Kind> {
    Fault::from_str(&entry.fault, false).ok().map(Fault::kind)
}

/// What is drawn over time.
struct Curve {
    values: Vec<f64>,
    /// The height of the dashed line, and its words.
    dashed: f64,
    word: String,
    most: f64,
}

impl Curve {
    /// The mean rate of the regions that were hit; `rate`: as offered.
    fn of_rates(entry: &Entry, bin: f64, rate: f64) -> Self {
        let regions = entry.samples.gaps.len().max(1) as f64;
        let per_second = |count: &u64| *count as f64 / regions / bin;
        Self {
            values: entry.samples.timeline.iter().map(per_second).collect(),
            dashed: rate,
            word: format!("{rate:.0}"),
            // The writes that waited come all at once: what is higher is cut off, so that the rest is seen.
            most: 2.5 * rate,
        }
    }

    /// The share of the regions that have acknowledged something by then.
    fn of_shares(entry: &Entry) -> Self {
        let regions = entry.regions_hit.max(1) as f64;
        let mut sum = 0;
        let reached = entry.samples.timeline.iter().map(|count| {
            sum += count;
            sum as f64 / regions
        });
        Self {
            values: reached.collect(),
            dashed: 1.0,
            word: "all".to_owned(),
            most: 1.15,
        }
    }
}

fn timeline(entry: &Entry, top: f64, rate: f64) -> String {
    let fault = Fault::from_str(&entry.fault, false).unwrap_or(Fault::Kill);
    let bin = fault.bin().as_secs_f64();
    let curve = match fault.kind() {
        Kind::ManyLeaders => Curve::of_shares(entry),
        _ => Curve::of_rates(entry, bin, rate),
    };
    let (width, bottom) = (TIMES_WIDTH / (BINS_BEFORE + BINS_AFTER) as f64, top + PLOT);
    let height = |value: f64| PLOT * (value / curve.most).min(1.0);
    let mut out = String::new();
    for (number, value) in curve.values.iter().enumerate() {
        out += &format!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{FAULT}\" fill-opacity=\"0.7\"/>\n",
            TIMES + width * number as f64,
            bottom - height(*value),
            width - 0.6,
            height(*value)
        );
    }
    let dashed = bottom - height(curve.dashed);
    out += &line(
        TIMES,
        dashed,
        TIMES + TIMES_WIDTH,
        dashed,
        ORDINARY,
        " stroke-dasharray=\"3 3\"",
    );
    out += &line(TIMES, bottom, TIMES + TIMES_WIDTH, bottom, ORDINARY, "");
    out += &text(TIMES - 4.0, dashed + 4.0, "end", &curve.word);
    for mark in 0..=4 {
        let bins = 25.0 * f64::from(mark);
        let (x, seconds) = (TIMES + width * bins, bin * (bins - BINS_BEFORE as f64));
        if mark == 1 {
            out += &line(x, top, x, bottom, MOMENT, "");
        }
        out += &text(x, bottom + 12.0, "middle", &format!("{seconds:.1}"));
    }
    out
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, colour: &str, more: &str) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"{more}/>\n")
}

fn text(x: f64, y: f64, anchor: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.0}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decade_is_as_wide_everywhere_and_the_scale_has_ends() {
        assert_eq!(place(100.0) - place(10.0), DECADE);
        assert_eq!(place(0.0), LEFT);
        assert_eq!(place(1e9), LEFT + DECADE * DECADES);
    }

    #[test]
    fn each_outage_is_a_dot_unless_there_are_too_many() {
        assert_eq!(dots(&[40.0, 50.0], 0.0, FAULT).matches("<circle").count(), 2);
        let many: Vec<f64> = (0..1_000).map(f64::from).collect();
        let drawn = dots(&many, 0.0, FAULT);
        assert!(drawn.matches("<circle").count() <= MOST_DOTS);
        assert!(
            drawn.contains(&format!("cx=\"{:.1}\"", place(999.0))),
            "the longest is there"
        );
    }

    #[test]
    fn a_picture_has_a_row_for_each_fault() {
        let mut entry = Entry::new("kill");
        entry.samples.timeline = vec![4; BINS_BEFORE + BINS_AFTER];
        entry.samples.gaps = vec![40.0];
        let svg = draw(&[entry.clone(), entry], 200.0);
        assert_eq!(svg.matches("kill, 0 times").count(), 2);
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn lost_leaders_are_shown_as_the_share_that_is_back() {
        let mut entry = Entry::new("mass_kill");
        entry.samples.timeline = vec![0, 1, 2, 0];
        entry.regions_hit = 4;
        assert_eq!(Curve::of_shares(&entry).values, [0.0, 0.25, 0.75, 0.75]);
        let svg = draw(&[entry], 200.0);
        assert!(svg.contains(">all</text>") && svg.contains("mass_kill: the share"));
        assert_eq!(svg.matches(AIM).count(), 2, "the legend, and one aim");
    }
}
