//! Samples as Prometheus remote write: a snappy-compressed protobuf message.

use std::collections::BTreeMap;

use prost::Message;

/// What a sender says besides the content type.
pub const HEADERS: [(&str, &str); 2] = [
    ("Content-Encoding", "snappy"),
    ("X-Prometheus-Remote-Write-Version", "0.1.0"),
];

#[derive(Clone, PartialEq, Message)]
pub struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    #[prost(double, tag = "1")]
    pub value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

/// One sample of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// With `__name__`; sorted, as receivers expect.
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    pub time_ms: i64,
}

/// One request with all of `points`.
pub fn encode(points: &[Point]) -> anyhow::Result<Vec<u8>> {
    let label = |(name, value): (&String, &String)| Label {
        name: name.clone(),
        value: value.clone(),
    };
    let series = |point: &Point| TimeSeries {
        labels: point.labels.iter().map(label).collect(),
        samples: vec![Sample {
            value: point.value,
            timestamp: point.time_ms,
        }],
    };
    let message = WriteRequest {
        timeseries: points.iter().map(series).collect(),
    };
    Ok(snap::raw::Encoder::new().compress_vec(&message.encode_to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let labels = BTreeMap::from([("__name__".to_string(), "up".to_string())]);
        let body = encode(&[Point {
            labels,
            value: 1.5,
            time_ms: 7,
        }])
        .unwrap();
        let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        let request = WriteRequest::decode(&message[..]).unwrap();
        assert_eq!(request.timeseries[0].labels[0].name, "__name__");
        assert_eq!(
            request.timeseries[0].samples[0],
            Sample {
                value: 1.5,
                timestamp: 7
            }
        );
    }
}
