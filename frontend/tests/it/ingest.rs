//! Line protocol and remote write.

use std::io::Write;
use std::sync::atomic::Ordering;

use axum::http::Request;
use greptime_frontend::protocols::remote_write::{Label, PromWriteRequest, Sample, TimeSeries};
use prost::Message;
use serde_json::json;

use crate::cluster::{Cluster, message_of};

#[tokio::test]
async fn lines_make_tables_and_columns() {
    let cluster = Cluster::start().await;
    let body = "cpu,host=a,dc=x usage=0.5,n=1i 1700000000000000000\n\
                cpu,host=b usage=1.5,up=true 1700000001000000000\nmem,host=a free=7u 1700000000000000000";
    let (status, text) = cluster.post("/v1/influxdb/write?db=public", body).await;
    assert_eq!(status, 204, "{text}");
    assert_eq!(
        cluster
            .sql("SELECT host, dc, greptime_timestamp, usage, n, up FROM cpu ORDER BY host")
            .await,
        json!([
            ["a", "x", 1_700_000_000_000_000_000_i64, 0.5, 1, null],
            ["b", null, 1_700_000_001_000_000_000_i64, 1.5, null, true]
        ])
    );
    assert_eq!(cluster.sql("SELECT free FROM mem").await, json!([[7]]));
    assert_eq!(cluster.fake.table("cpu").schema.primary_key, ["host", "dc"]);
    let (status, text) = cluster
        .post(
            "/v1/influxdb/api/v2/write?bucket=public&precision=s",
            "cpu,host=c,rack=9 usage=2,temp=3 1700000002",
        )
        .await;
    assert_eq!(status, 204, "{text}");
    assert_eq!(
        cluster
            .sql("SELECT rack, temp, greptime_timestamp FROM cpu WHERE host = 'c'")
            .await,
        json!([["9", 3.0, 1_700_000_002_000_000_000_i64]])
    );
}

#[tokio::test]
async fn lines_go_into_a_table_that_sql_made_in_its_own_unit() {
    let cluster = Cluster::with_cpu().await;
    let (status, text) = cluster
        .post(
            "/v1/influxdb/write?precision=ms",
            "cpu,host=host_7 usage=3,n=4i 77",
        )
        .await;
    assert_eq!(status, 204, "{text}");
    assert_eq!(
        cluster.sql("SELECT ts, usage, n FROM cpu WHERE ts = 77").await,
        json!([[77, 3.0, 4]])
    );
    let (_, text) = cluster
        .post("/v1/influxdb/write", "cpu,host=host_7 usage=3 5000000")
        .await;
    assert_eq!(text, "");
    assert_eq!(cluster.sql("SELECT ts FROM cpu WHERE ts = 5").await, json!([[5]]));
}

#[tokio::test]
async fn a_bad_line_is_named_and_the_good_ones_are_written() {
    let cluster = Cluster::start().await;
    let (status, text) = cluster
        .post("/v1/influxdb/write", "m v=1 1\nm v= 2\nm v=3 3\nm v=\"text\" 4\n")
        .await;
    assert_eq!(
        (status.as_u16(), message_of(&text).as_str()),
        (
            400,
            "partial write (2 lines stored): line 2, column 5: expected the value of a field; line 4: column `v`: \
             'text' is not DOUBLE"
        )
    );
    assert_eq!(
        cluster.sql("SELECT v FROM m ORDER BY 1").await,
        json!([[1.0], [3.0]])
    );
    let (status, text) = cluster
        .post("/v1/influxdb/write", "m v=1 1\nm,host v=5 5\n")
        .await;
    assert_eq!(
        (status.as_u16(), message_of(&text).as_str()),
        (
            400,
            "partial write (1 lines stored): line 2, column 7: expected `=` after the name of a tag"
        )
    );
    let (status, text) = cluster.post("/v1/influxdb/write?db=nosuch", "m v=1 1").await;
    assert_eq!((status.as_u16(), text.contains("nosuch")), (404, true));
    let (status, text) = cluster.post("/v1/influxdb/write?precision=min", "m v=1 1").await;
    assert_eq!((status.as_u16(), text.contains("`min`")), (400, true));
}

#[tokio::test]
async fn gzip_is_unpacked_up_to_the_limit() {
    let cluster = Cluster::with(|c| c.max_body = 1000, None).await;
    let pack = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let send = async |body: Vec<u8>| {
        let request = Request::post("/v1/influxdb/write").header("content-encoding", "gzip");
        cluster.request(request.body(body.into()).unwrap()).await
    };
    assert_eq!(send(pack("m v=1 1")).await.0, 204);
    let (status, body) = send(pack(&"m v=1 1\n".repeat(1000))).await;
    assert_eq!(
        (
            status.as_u16(),
            String::from_utf8_lossy(&body).contains("max_body")
        ),
        (400, true)
    );
    assert_eq!(send(b"nonsense".to_vec()).await.0, 400);
}

#[tokio::test]
async fn writers_that_race_for_a_new_table_all_succeed() {
    let cluster = Cluster::start().await;
    let bodies: Vec<_> = (0..20).map(|n| format!("race,host=h{n} f{n}=1 {n}")).collect();
    let writes = bodies
        .iter()
        .map(|body| cluster.post("/v1/influxdb/write", body.clone()));
    for (status, text) in futures::future::join_all(writes).await {
        assert_eq!(status, 204, "{text}");
    }
    assert_eq!(cluster.sql("SELECT count(*) FROM race").await, json!([[20]]));
}

#[tokio::test]
async fn wide_lines_large_values_and_odd_lines_are_all_stored() {
    let cluster = Cluster::start().await;
    let fields: Vec<String> = (0..500).map(|n| format!("f{n}={n}i")).collect();
    let text = "x".repeat(1 << 20);
    let body = format!(
        "wide,h=a {} 1\nwide,h=b f499=7i,s=\"{text}\" 2\nwide,h=c f0=1i 3\n",
        fields.join(",")
    );
    let (status, answer) = cluster.post("/v1/influxdb/write", body).await;
    assert_eq!(status, 204, "{answer}");
    assert_eq!(
        cluster
            .sql("SELECT h, f0, f499, length(s) FROM wide ORDER BY h")
            .await,
        json!([["a", 0, 499, null], ["b", null, 7, 1 << 20], ["c", 1, null, null]])
    );
    // A value of another kind than the column's, and a name that is tag and field.
    let body = "odd,h=a v=1.5,w=1i 1\nodd,h=b v=2i,w=2i 2\nodd,h=c v=t,w=3i 3\nodd,h=d h=\"e\",v=4 4";
    let (status, answer) = cluster.post("/v1/influxdb/write", body).await;
    assert_eq!(
        (status.as_u16(), message_of(&answer).as_str()),
        (
            400,
            "partial write (3 lines stored): line 3: column `v`: true is not DOUBLE"
        )
    );
    assert_eq!(
        cluster.sql("SELECT h, v, w FROM odd ORDER BY 1").await,
        json!([["a", 1.5, 1], ["b", 2.0, 2], ["d", 4.0, null]])
    );
}

fn series(labels: &[(&str, &str)], samples: &[(f64, i64)]) -> TimeSeries {
    TimeSeries {
        labels: labels
            .iter()
            .map(|(n, v)| Label {
                name: (*n).into(),
                value: (*v).into(),
            })
            .collect(),
        samples: samples
            .iter()
            .map(|(value, timestamp)| Sample {
                value: *value,
                timestamp: *timestamp,
            })
            .collect(),
    }
}

fn packed(timeseries: Vec<TimeSeries>) -> Vec<u8> {
    let bytes = PromWriteRequest { timeseries }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&bytes).unwrap()
}

#[tokio::test]
async fn metrics_are_stored_together_and_read_by_name() {
    let cluster = Cluster::start().await;
    let all: Vec<_> = (0..30)
        .map(|n| {
            let instance = format!("node-{n}:9100");
            series(
                &[("__name__", "up"), ("instance", &instance), ("job", "node")],
                &[(1.0, 1000), (0.0, 2000)],
            )
        })
        .chain([series(
            &[("__name__", "cpu:rate5m"), ("mode", "idle"), ("empty", "")],
            &[(f64::NAN, 1000)],
        )])
        .collect();
    let (status, text) = cluster
        .post("/v1/prometheus/write?db=public", packed(all.clone()))
        .await;
    assert_eq!(status, 204, "{text}");
    let regions = cluster.fake.rows_by_region("greptime_physical_table");
    assert_eq!((regions.len(), regions.iter().sum::<usize>()), (3, 61));
    assert!(regions.iter().all(|rows| *rows > 0), "{regions:?}");
    assert_eq!(
        cluster
            .sql("SELECT * FROM up WHERE instance = 'node-7:9100' ORDER BY greptime_timestamp")
            .await,
        json!([
            [1000, 1.0, "node-7:9100", "node"],
            [2000, 0.0, "node-7:9100", "node"]
        ])
    );
    assert_eq!(
        cluster
            .sql("SELECT job, sum(greptime_value) FROM up GROUP BY job")
            .await,
        json!([["node", 30.0]])
    );
    assert_eq!(
        cluster
            .sql("SELECT mode, greptime_value FROM \"cpu:rate5m\"")
            .await,
        json!([["idle", null]])
    );
    assert_eq!(
        cluster.sql("SHOW TABLES").await,
        json!([["cpu:rate5m"], ["greptime_physical_table"], ["up"]])
    );
    assert_eq!(cluster.error("SELECT * FROM down").await.0, 404);
    let ddl = cluster.fake.ddl_requests.load(Ordering::SeqCst);
    let (status, _) = cluster.post("/v1/prometheus/write", packed(all)).await;
    assert_eq!(status, 204);
    assert_eq!(
        cluster.fake.ddl_requests.load(Ordering::SeqCst),
        ddl,
        "nothing new, nothing to change"
    );
    assert_eq!(cluster.sql("SELECT count(*) FROM up").await, json!([[60]]));
    let (status, _) = cluster
        .post(
            "/v1/prometheus/write",
            packed(vec![series(
                &[("__name__", "up"), ("zone", "z"), ("a", "1")],
                &[(5.0, 1)],
            )]),
        )
        .await;
    assert_eq!(status, 204);
    assert_eq!(
        cluster.fake.ddl_requests.load(Ordering::SeqCst),
        ddl + 1,
        "all new labels in one change"
    );
    assert_eq!(
        cluster.sql("SELECT zone FROM up WHERE zone = 'z'").await,
        json!([["z"]])
    );
    let described = cluster.sql("DESCRIBE up").await;
    assert_eq!(described[0][0], json!("greptime_timestamp"));
}

#[tokio::test]
async fn a_broken_remote_write_is_a_400_and_stores_nothing() {
    let cluster = Cluster::with(|c| c.max_body = 10_000, None).await;
    let good = packed(vec![series(
        &[("__name__", "up"), ("instance", "a")],
        &[(1.0, 1)],
    )]);
    for (body, part) in [
        (good[..good.len() - 3].to_vec(), "cut off"),
        (b"not snappy".to_vec(), "snappy"),
        (
            snap::raw::Encoder::new()
                .compress_vec(b"not protobuf at all")
                .unwrap(),
            "WriteRequest",
        ),
        (
            snap::raw::Encoder::new().compress_vec(&vec![0; 100_000]).unwrap(),
            "max_body",
        ),
        (vec![], "cut off"),
    ] {
        let (status, text) = cluster.post("/v1/prometheus/write", body).await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(part), "{text} should say {part}");
    }
    let cut = &good[..good.len() - 3];
    let reason = snap::raw::Decoder::new().decompress_vec(cut).unwrap_err();
    let (_, text) = cluster.post("/v1/prometheus/write", cut.to_vec()).await;
    assert_eq!(
        message_of(&text),
        format!("the snappy body is damaged or cut off: {reason}")
    );
    assert_eq!(cluster.fake.write_attempts.load(Ordering::SeqCst), 0);
    let nameless = packed(vec![
        series(&[("instance", "a")], &[(1.0, 1)]),
        series(&[("__name__", "up"), ("__tsid", "1")], &[(1.0, 1)]),
        series(&[("__name__", "up"), ("instance", "b")], &[(1.0, 1)]),
    ]);
    let (status, text) = cluster.post("/v1/prometheus/write", nameless).await;
    assert_eq!(
        (status.as_u16(), text.contains("__name__")),
        (400, true),
        "{text}"
    );
    assert_eq!(cluster.sql("SELECT instance FROM up").await, json!([["b"]]));
}
