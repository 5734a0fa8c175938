//! Rows as InfluxDB's line protocol, made before the clock starts.

use std::io::Write;

use super::hosts::TAGS;
use super::{Data, FIELDS};

/// Bytes of one line, about; only a first guess for the buffer.
const LINE: usize = 330;

/// Bodies of requests, `rows` lines each, in the order of time: all hosts of an instant, then those of the next.
pub fn batches(data: &Data, rows: usize) -> Vec<Vec<u8>> {
    let heads: Vec<Vec<u8>> = (0..data.shape.hosts).map(|host| head(data, host)).collect();
    let total = data.shape.rows();
    let starts = (0..total).step_by(rows);
    starts
        .map(|start| {
            let mut body = Vec::with_capacity(rows * LINE);
            for row in start..(start + rows).min(total) {
                line(&mut body, data, &heads, row);
            }
            body
        })
        .collect()
}

/// Measurement and tags, which do not change from row to row.
fn head(data: &Data, host: usize) -> Vec<u8> {
    let mut out = b"cpu".to_vec();
    for (tag, value) in TAGS.iter().zip(&data.hosts[host].tags) {
        out.extend(format!(",{tag}={value}").bytes());
    }
    out.push(b' ');
    out
}

fn line(out: &mut Vec<u8>, data: &Data, heads: &[Vec<u8>], row: usize) {
    let (point, host) = (row / data.shape.hosts, row % data.shape.hosts);
    out.extend(&heads[host]);
    for (field, name) in FIELDS.iter().enumerate() {
        if field > 0 {
            out.push(b',');
        }
        out.extend(name.as_bytes());
        out.push(b'=');
        decimal(out, data.value(field, host, point));
        out.push(b'i');
    }
    // Writing into memory cannot fail.
    let _ = writeln!(out, " {}000000", data.shape.time_ms(point));
}

/// Numbers up to 255; formatting machinery would take most of the time of a line.
fn decimal(out: &mut Vec<u8>, number: u8) {
    if number >= 100 {
        out.push(b'0' + number / 100);
    }
    if number >= 10 {
        out.push(b'0' + number / 10 % 10);
    }
    out.push(b'0' + number % 10);
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::*;

    #[test]
    fn every_row_is_one_line_and_the_first_reads_as_expected() {
        let data = Data::generate(Shape {
            hosts: 3,
            points: 4,
            start_ms: 1_700_006_400_000,
            seed: 1,
        });
        let bodies = batches(&data, 5);
        let text: Vec<&str> = bodies.iter().map(|b| std::str::from_utf8(b).unwrap()).collect();
        let lines: Vec<usize> = text.iter().map(|t| t.lines().count()).collect();
        assert_eq!(lines, [5, 5, 2]);
        let first = text[0].lines().next().unwrap();
        assert!(first.starts_with("cpu,hostname=host_0,region="), "{first}");
        let user = data.value(0, 0, 0);
        assert!(
            first.contains(&format!(" usage_user={user}i,usage_system=")),
            "{first}"
        );
        assert!(first.ends_with("i 1700006400000000000"), "{first}");
        let last = text[2].lines().last().unwrap();
        assert!(
            last.contains("hostname=host_2,") && last.ends_with(" 1700006430000000000"),
            "{last}"
        );
    }

    #[test]
    fn decimals_are_those_of_the_standard_library() {
        for number in 0..=u8::MAX {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
