//! `prometheus.WriteRequest`, read in place: names and values of labels stay in the body.
//!
//! What is not stored (metadata, exemplars, histograms) is skipped.

use greptime_types::{Error, Result};

/// A point of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Milliseconds since 1970.
    pub time: i64,
    pub value: f64,
}

/// One series of a request, as it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawSeries<'a> {
    /// Names and values.
    pub labels: Vec<(&'a str, &'a str)>,
    pub points: Vec<Point>,
}

/// What a field of a message holds.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message from its first byte to its last.
struct Message<'a>(&'a [u8]);

fn wrong(what: &str) -> Error {
    Error::invalid(format!("the body is not a prometheus.WriteRequest: {what}"))
}

impl<'a> Message<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(|| wrong("it ends in a number"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(wrong("a number is too long"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = taken.ok_or_else(|| wrong("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field with its number.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let fixed = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(fixed(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Number(fixed(self.take(4)?)),
            other => return Err(wrong(&format!("wire type {other}"))),
        };
        Ok(Some((tag >> 3, value)))
    }
}

/// All series of a request, in its order.
pub fn read_request(body: &[u8]) -> Result<Vec<RawSeries<'_>>> {
    let (mut message, mut series) = (Message(body), Vec::new());
    while let Some((number, value)) = message.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => series.push(read_series(bytes)?),
            (1, Value::Number(_)) => return Err(wrong("a series is a number")),
            _ => {}
        }
    }
    Ok(series)
}

fn read_series(bytes: &[u8]) -> Result<RawSeries<'_>> {
    let (mut message, mut series) = (Message(bytes), RawSeries::default());
    while let Some((number, value)) = message.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => series.labels.push(read_label(bytes)?),
            (2, Value::Bytes(bytes)) => series.points.push(read_point(bytes)?),
            (1 | 2, Value::Number(_)) => return Err(wrong("a label or sample is a number")),
            _ => {}
        }
    }
    Ok(series)
}

fn read_label(bytes: &[u8]) -> Result<(&str, &str)> {
    let (mut message, mut label) = (Message(bytes), ("", ""));
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| wrong("a label is not UTF-8"));
    while let Some((number, value)) = message.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => label.0 = text(bytes)?,
            (2, Value::Bytes(bytes)) => label.1 = text(bytes)?,
            (1 | 2, Value::Number(_)) => return Err(wrong("a label's text is a number")),
            _ => {}
        }
    }
    Ok(label)
}

fn read_point(bytes: &[u8]) -> Result<Point> {
    let (mut message, mut point) = (Message(bytes), Point::default());
    while let Some((number, value)) = message.next()? {
        match (number, value) {
            (1, Value::Number(bits)) => point.value = f64::from_bits(bits),
            (2, Value::Number(time)) => point.time = time as i64,
            (1 | 2, Value::Bytes(_)) => return Err(wrong("a sample's number is none")),
            _ => {}
        }
    }
    Ok(point)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::super::{Label, PromWriteRequest, Sample, TimeSeries};
    use super::*;

    fn request() -> impl Strategy<Value = PromWriteRequest> {
        let label = ("[a-zü_]{0,5}", "[a-zü]{0,5}").prop_map(|(name, value)| Label { name, value });
        let sample = (any::<i64>(), -1e9..1e9_f64).prop_map(|(timestamp, value)| Sample { value, timestamp });
        let labels = proptest::collection::vec(label, 0..4);
        let samples = proptest::collection::vec(sample, 0..4);
        let series = (labels, samples).prop_map(|(labels, samples)| TimeSeries { labels, samples });
        proptest::collection::vec(series, 0..4).prop_map(|timeseries| PromWriteRequest { timeseries })
    }

    fn raw(series: &TimeSeries) -> RawSeries<'_> {
        RawSeries {
            labels: series
                .labels
                .iter()
                .map(|l| (l.name.as_str(), l.value.as_str()))
                .collect(),
            points: series
                .samples
                .iter()
                .map(|s| Point {
                    time: s.timestamp,
                    value: s.value,
                })
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn what_a_library_writes_is_read(request in request()) {
            let bytes = request.encode_to_vec();
            let expected: Vec<RawSeries> = request.timeseries.iter().map(raw).collect();
            prop_assert_eq!(read_request(&bytes).unwrap(), expected);
        }

        #[test]
        fn damage_is_an_error_or_another_request_and_never_a_panic(request in request(), at in any::<u16>(), byte in any::<u8>()) {
            let mut bytes = request.encode_to_vec();
            if !bytes.is_empty() {
                let at = at as usize % bytes.len();
                bytes[at] = byte;
                let ours = read_request(&bytes).is_ok();
                bytes.truncate(at);
                let _ = (ours, read_request(&bytes));
            }
        }
    }

    #[test]
    fn fields_that_are_not_known_are_skipped() {
        // Field 3 of the request (metadata), a fixed number, and field 9 as a varint.
        let mut bytes = vec![0x1a, 2, 1, 2, 0x25, 1, 2, 3, 4, 0x48, 0x96, 0x01];
        bytes.extend(
            PromWriteRequest {
                timeseries: vec![TimeSeries::default()],
            }
            .encode_to_vec(),
        );
        assert_eq!(read_request(&bytes).unwrap(), [RawSeries::default()]);
    }
}
