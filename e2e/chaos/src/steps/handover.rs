//! The steps of a handover, from what the processes have logged about it.
//!
//! ```text
//! order ──yield──▶ the old leader leads no more ──elect──▶ another leads ──commit──▶ it serves
//!       ──route──▶ the frontend knows ──resend──▶ first acknowledgement
//! ```
//!
//! The order is a line of metasrv's log, and who leads is one of the datanodes'. That the new leader serves, with the first
//! entry of its term committed, and that the frontend knows of it are lines that older programs do not have: a step is left
//! out if its beginning or its end was not told.

use std::time::Duration;

use tokio::time::Instant;

use super::{Line, Moment, Steps, TAKE_OVER, between};

/// In their order.
const STEPS: [&str; 5] = ["yield", "elect", "commit", "route", "resend"];

/// Of metasrv.
const ORDER: &str = "telling a leader to hand over";
/// Of a datanode, with `leads` and `term`: it has come to lead, or leads no more.
const LEADERSHIP: &str = "leadership of a region has changed";
/// Of a datanode, with `term`: it has applied the first entry of its own term.
const SERVES: &str = "a region is served in a new term";
/// Of the frontend, with `epoch`: the term of the leader that it knows now, 0 for none.
const ROUTE: &str = "a route has changed";

/// Times are milliseconds since it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    began: Moment,
    order: f64,
    yielded: Option<f64>,
    elected: f64,
    committed: Option<f64>,
    routed: Option<f64>,
    /// Orders until another one led.
    pub orders: usize,
}

impl Handover {
    /// The first one of a region since then; nothing if none was ordered, or nobody was seen to lead after it.
    pub fn of(lines: &[Line], region: &str, began: Moment) -> Option<Self> {
        let of_region = lines.iter().filter(|line| line.region.as_deref() == Some(region));
        let timed = of_region.filter_map(|line| Some((line.since(began)?, line)));
        let all: Vec<(f64, &Line)> = timed.filter(|(at, _)| *at >= 0.0).collect();
        let first = all.iter().position(|(_, line)| line.message == ORDER)?;
        let since = &all[first..];
        let place = since.iter().position(|(_, line)| line.tells_that(true))?;
        let (before, after) = since.split_at(place);
        let (elected, leader) = *after.first()?;
        let term = leader.term?;
        let orders = before.iter().filter(|(_, line)| line.message == ORDER);
        let orders: Vec<f64> = orders.map(|(at, _)| *at).collect();
        // Those before were in vain.
        let order = *orders.last()?;
        let first = |is_it: &dyn Fn(&Line) -> bool| {
            let found = since.iter().find(|(at, line)| *at >= order && is_it(line));
            found.map(|(at, _)| *at)
        };
        Some(Self {
            began,
            order,
            // Whoever leads no more in a later term is not the old leader.
            yielded: first(&|line| line.tells_that(false) && line.term.is_some_and(|of| of <= term)),
            elected,
            committed: first(&|line| line.message == SERVES && line.term == Some(term)),
            routed: first(&|line| line.message == ROUTE && line.epoch.is_some_and(|of| of >= term)),
            orders: orders.len(),
        })
    }

    /// Whatever is acknowledged from then on was taken by the new leader, as far as was told.
    pub fn taken_since(&self) -> Instant {
        let known = [Some(self.elected), self.committed, self.routed];
        let latest = known.into_iter().flatten().fold(0.0, f64::max);
        self.began.at + Duration::from_secs_f64(latest / 1000.0)
    }

    /// `acknowledged`: what the new leader has taken first.
    pub fn steps(&self, acknowledged: Option<Instant>) -> Steps {
        let acknowledged = acknowledged.map(|at| self.began.until(at));
        let mut moments = [
            Some(self.order),
            self.yielded,
            Some(self.elected),
            self.committed,
            self.routed,
            acknowledged,
        ];
        // What was told later than something that followed from it was not later.
        let mut latest = f64::INFINITY;
        for moment in moments.iter_mut().rev().flatten() {
            latest = latest.min(*moment);
            *moment = latest;
        }
        let mut steps = between(&STEPS, &moments);
        if let Some(at) = acknowledged {
            steps.insert(TAKE_OVER.to_owned(), (at - self.order).max(0.0));
        }
        steps
    }

    /// From the order until the first entry of the new term is committed; nothing if nobody has told.
    pub fn until_committed(&self) -> Option<f64> {
        self.committed.map(|at| at - self.order)
    }
}

impl Line {
    /// A datanode has come to lead, or leads no more.
    fn tells_that(&self, leads: bool) -> bool {
        self.message == LEADERSHIP && self.leads == Some(leads)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    fn began() -> Moment {
        let wall = DateTime::parse_from_rfc3339("2026-01-01T00:00:01Z").unwrap();
        Moment {
            at: Instant::now(),
            wall: wall.with_timezone(&Utc),
        }
    }

    /// Lines of region 1024:1; the time of each is in milliseconds after the first second.
    fn lines(told: &[(&str, &str, &str)]) -> Vec<Line> {
        let line = |(ms, message, fields): &(&str, &str, &str)| {
            let text = format!(
                "{{\"timestamp\":\"2026-01-01T00:00:01.{ms}Z\",\"message\":\"{message}\",\"region\":\"1024:1\"{fields}}}"
            );
            serde_json::from_str(&text).unwrap()
        };
        told.iter().map(line).collect()
    }

    const TOLD: [(&str, &str, &str); 8] = [
        ("000000", ORDER, ",\"from\":0,\"to\":2"),
        ("004000", LEADERSHIP, ",\"leads\":false,\"term\":8"),
        ("005500", ROUTE, ",\"epoch\":0"),
        ("006000", LEADERSHIP, ",\"leads\":true,\"term\":8"),
        ("008000", SERVES, ",\"term\":8"),
        ("008500", ROUTE, ",\"epoch\":8,\"node\":2"),
        ("090000", ROUTE, ",\"epoch\":8,\"node\":2"),
        // Of the next one.
        ("100000", LEADERSHIP, ",\"leads\":false,\"term\":9"),
    ];

    fn told(steps: &Steps) -> Vec<(&str, f64)> {
        steps.iter().map(|(name, ms)| (name.as_str(), *ms)).collect()
    }

    #[test]
    fn a_handover_is_told_from_the_order_to_the_first_acknowledgement() {
        let began = began();
        let handover = Handover::of(&lines(&TOLD), "1024:1", began).unwrap();
        assert_eq!(handover.taken_since(), began.at + Duration::from_micros(8_500));
        let steps = handover.steps(Some(began.at + Duration::from_millis(10)));
        let wanted = [
            ("commit", 2.0),
            ("elect", 2.0),
            ("resend", 1.5),
            ("route", 0.5),
            (TAKE_OVER, 10.0),
            ("yield", 4.0),
        ];
        assert_eq!(told(&steps), wanted);
        assert_eq!((handover.until_committed(), handover.orders), (Some(8.0), 1));
        // Nobody writes.
        let steps = handover.steps(None);
        let names: Vec<&str> = steps.keys().map(String::as_str).collect();
        assert_eq!(names, ["commit", "elect", "route", "yield"]);
    }

    #[test]
    fn what_an_older_program_does_not_tell_is_left_out() {
        let began = began();
        let older = [TOLD[0], TOLD[1], TOLD[3]];
        let handover = Handover::of(&lines(&older), "1024:1", began).unwrap();
        assert_eq!(handover.taken_since(), began.at + Duration::from_millis(6));
        let steps = handover.steps(Some(began.at + Duration::from_millis(10)));
        assert_eq!(told(&steps), [("elect", 2.0), (TAKE_OVER, 10.0), ("yield", 4.0)]);
        assert_eq!(handover.until_committed(), None);
        // The old leader has said nothing either.
        let least = Handover::of(&lines(&[TOLD[0], TOLD[3], TOLD[7]]), "1024:1", began).unwrap();
        assert!(least.steps(None).is_empty());
    }

    #[test]
    fn orders_that_were_in_vain_count_and_take_no_part() {
        let again = [
            ("000000", ORDER, ""),
            ("200000", ORDER, ""),
            ("206000", LEADERSHIP, ",\"leads\":true,\"term\":8"),
            // It was asked for its vote, but another vote was faster.
            ("207000", LEADERSHIP, ",\"leads\":false,\"term\":8"),
            ("209000", SERVES, ",\"term\":8"),
        ];
        let handover = Handover::of(&lines(&again), "1024:1", began()).unwrap();
        assert_eq!((handover.orders, handover.until_committed()), (2, Some(9.0)));
        let steps = handover.steps(None);
        assert_eq!(told(&steps), [("commit", 3.0), ("elect", 0.0), ("yield", 6.0)]);
    }

    #[test]
    fn without_an_order_or_a_new_leader_there_is_no_handover() {
        let began = began();
        assert!(Handover::of(&lines(&TOLD), "1024:2", began).is_none());
        assert!(Handover::of(&lines(&TOLD[1..]), "1024:1", began).is_none());
        assert!(Handover::of(&lines(&TOLD[..3]), "1024:1", began).is_none());
    }
}
