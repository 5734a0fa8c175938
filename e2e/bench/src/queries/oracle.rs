//! The right answers, computed from the generated data by plain loops and by no database.

use super::{HIGH, Kind, LIMIT, Query};
use crate::answer::{Answer, Cell, TIME};
use crate::data::hosts::TAGS;
use crate::data::{Data, FIELDS, INTERVAL_MS};

/// What `query` must answer over `data`.
pub fn answer(data: &Data, query: &Query) -> Answer {
    match query.kind {
        Kind::SingleGroupBy { .. } | Kind::CpuMaxAll { .. } | Kind::GroupByOrderByLimit => {
            maxima(data, query)
        }
        Kind::DoubleGroupBy { .. } => means(data, query),
        Kind::HighCpu { .. } => {
            let points = point_range(data, query);
            let hosts = hosts(data, query);
            let all = hosts.flat_map(|host| points.clone().map(move |point| (host, point)));
            rows(
                data,
                all.filter(|(host, point)| data.value(0, *host, *point) > HIGH),
            )
        }
        Kind::LastPoint => rows(data, hosts(data, query).map(|host| (host, data.shape.points - 1))),
    }
}

fn hosts(data: &Data, query: &Query) -> impl Iterator<Item = usize> + use<> {
    let hosts = match query.hosts.is_empty() {
        true => (0..data.shape.hosts).collect(),
        false => query.hosts.clone(),
    };
    hosts.into_iter()
}

fn point_range(data: &Data, query: &Query) -> std::ops::Range<usize> {
    let point = |ms: i64| ((ms - data.shape.start_ms) / INTERVAL_MS) as usize;
    point(query.from_ms)..point(query.to_ms).min(data.shape.points)
}

/// Start of each bucket of the window, with its points.
fn buckets(data: &Data, query: &Query) -> Vec<(i64, std::ops::Range<usize>)> {
    let length = query.kind.bucket_ms().expect("the kind has buckets");
    let per_bucket = (length / INTERVAL_MS) as usize;
    let points = point_range(data, query);
    let starts = points.clone().step_by(per_bucket);
    starts
        .map(|first| {
            (
                data.shape.time_ms(first),
                first..(first + per_bucket).min(points.end),
            )
        })
        .collect()
}

fn maxima(data: &Data, query: &Query) -> Answer {
    let mut answer = Answer::new([TIME].iter().chain(query.fields()).copied());
    let mut buckets = buckets(data, query);
    if query.kind == Kind::GroupByOrderByLimit {
        buckets = buckets.split_off(buckets.len().saturating_sub(LIMIT));
    }
    for (time, points) in buckets {
        let mut row = vec![Cell::Number(time as f64)];
        for field in 0..query.kind.metrics() {
            let values = hosts(data, query).flat_map(|h| &data.series(field, h)[points.clone()]);
            row.push(Cell::Number(f64::from(
                *values.max().expect("no bucket is empty"),
            )));
        }
        answer.rows.push(row);
    }
    answer
}

fn means(data: &Data, query: &Query) -> Answer {
    let mut answer = Answer::new([TIME, "hostname"].iter().chain(query.fields()).copied());
    for (time, points) in buckets(data, query) {
        for host in hosts(data, query) {
            let mut row = vec![
                Cell::Number(time as f64),
                Cell::Text(data.hosts[host].tags[0].clone()),
            ];
            for field in 0..query.kind.metrics() {
                let values = &data.series(field, host)[points.clone()];
                let sum: u64 = values.iter().map(|v| u64::from(*v)).sum();
                row.push(Cell::Number(sum as f64 / values.len() as f64));
            }
            answer.rows.push(row);
        }
    }
    answer
}

/// Whole rows: time, tags, fields.
fn rows(data: &Data, which: impl Iterator<Item = (usize, usize)>) -> Answer {
    let mut answer = Answer::new([TIME].iter().chain(&TAGS).chain(&FIELDS).copied());
    for (host, point) in which {
        let time = Cell::Number(data.shape.time_ms(point) as f64);
        let tags = data.hosts[host].tags.iter().map(|t| Cell::Text(t.clone()));
        let fields = (0..FIELDS.len()).map(|f| Cell::Number(f64::from(data.value(f, host, point))));
        answer
            .rows
            .push([time].into_iter().chain(tags).chain(fields).collect());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::super::{ALL, HOUR_MS};
    use super::*;
    use crate::data::Shape;
    use crate::data::rng::Rng;

    fn day() -> Data {
        Data::generate(Shape {
            hosts: 9,
            points: 8640,
            start_ms: 1_700_006_400_000,
            seed: 1,
        })
    }

    #[test]
    fn answers_have_the_rows_and_columns_that_their_names_say() {
        let data = day();
        let size = |kind: Kind| {
            let query = Query::draw(kind, &data.shape, &mut Rng::new(3));
            let answer = answer(&data, &query);
            assert!(answer.rows.iter().all(|r| r.len() == answer.columns.len()));
            (answer.rows.len(), answer.columns.len())
        };
        assert_eq!(size(ALL[0]), (60, 2));
        assert_eq!(size(ALL[4]), (720, 6));
        assert_eq!(size(Kind::CpuMaxAll { hosts: 8 }), (8, 11));
        assert_eq!(size(Kind::DoubleGroupBy { metrics: 5 }), (12 * 9, 7));
        assert_eq!(size(Kind::LastPoint), (9, 21));
        assert_eq!(size(Kind::GroupByOrderByLimit), (5, 2));
    }

    #[test]
    fn a_maximum_is_the_largest_value_of_its_bucket() {
        let data = day();
        let from_ms = data.shape.start_ms + HOUR_MS;
        let query = Query {
            kind: Kind::SingleGroupBy {
                metrics: 1,
                hosts: 1,
                hours: 1,
            },
            hosts: vec![4],
            from_ms,
            to_ms: from_ms + HOUR_MS,
        };
        let got = answer(&data, &query);
        let second = data.series(0, 4)[366..372].iter().max().unwrap();
        assert_eq!(
            got.rows[1],
            [
                Cell::Number((from_ms + 60_000) as f64),
                Cell::Number(f64::from(*second))
            ]
        );
    }

    #[test]
    fn high_rows_are_high_and_none_is_left_out() {
        let data = day();
        let query = Query::draw(Kind::HighCpu { one_host: false }, &data.shape, &mut Rng::new(1));
        let got = answer(&data, &query);
        let mut expected = 0;
        for host in 0..9 {
            for point in 0..data.shape.points {
                let time = data.shape.time_ms(point);
                let inside = time >= query.from_ms && time < query.to_ms;
                expected += usize::from(inside && data.value(0, host, point) > 90);
            }
        }
        assert_eq!(got.rows.len(), expected);
        assert!(expected > 0, "the test looks at something");
    }
}
