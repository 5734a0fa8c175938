//! Forms of requests and answers, limits, passwords.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine;
use serde_json::json;

use crate::cluster::{Cluster, message_of};

#[tokio::test]
async fn the_answer_has_greptimedbs_shape() {
    let cluster = Cluster::with_cpu().await;
    let (status, answer) = cluster
        .answer("SELECT host, ts, usage, n FROM cpu WHERE n = 3; INSERT INTO cpu VALUES ('x', 1, 1, 1)")
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["code"], 0);
    assert!(answer["execution_time_ms"].is_u64());
    assert_eq!(
        answer["output"],
        json!([
            {"records": {
                "schema": {"column_schemas": [
                    {"name": "host", "data_type": "String"},
                    {"name": "ts", "data_type": "TimestampMillisecond"},
                    {"name": "usage", "data_type": "Float64"},
                    {"name": "n", "data_type": "Int64"},
                ]},
                "rows": [["host_3", 0, 1.5, 3]],
                "total_rows": 1,
            }},
            {"affectedrows": 1},
        ])
    );
}

#[tokio::test]
async fn statements_come_as_a_form_in_the_query_or_as_the_body() {
    let cluster = Cluster::start().await;
    let get = Request::get("/v1/sql?sql=SELECT%201&db=public")
        .body(Body::empty())
        .unwrap();
    assert_eq!(cluster.request(get).await.0, StatusCode::OK);
    let form = Request::post("/v1/sql?db=public")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("sql=SELECT+1+%2B+1".into())
        .unwrap();
    let (status, body) = cluster.request(form).await;
    assert_eq!(status, StatusCode::OK);
    assert!(String::from_utf8(body).unwrap().contains("[[2]]"));
    let (status, text) = cluster.post("/v1/sql?db=nosuch", "SELECT 1").await;
    assert_eq!((status.as_u16(), text.contains("nosuch")), (404, true), "{text}");
    let (status, text) = cluster.post("/v1/sql", "").await;
    assert_eq!((status.as_u16(), text.contains("`sql`")), (400, true), "{text}");
}

#[tokio::test]
async fn rows_come_as_csv_and_as_a_drawing() {
    let cluster = Cluster::with_cpu().await;
    let sql = "SELECT host, n FROM cpu WHERE n < 2 ORDER BY n";
    let (_, text) = cluster.post("/v1/sql?format=csv", sql).await;
    assert_eq!(text, "host_0,0\nhost_1,1\n");
    let (_, text) = cluster.post("/v1/sql?format=csvWithNames", sql).await;
    assert_eq!(text, "host,n\nhost_0,0\nhost_1,1\n");
    let (_, text) = cluster.post("/v1/sql?format=table", sql).await;
    assert!(text.contains("| host_0 | 0 |"), "{text}");
    let (status, text) = cluster.post("/v1/sql?format=csv", "SELECT nosuch FROM cpu").await;
    assert_eq!((status.as_u16(), text.contains("nosuch")), (400, true), "{text}");
    let (status, _) = cluster.post("/v1/sql?format=xml", sql).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_oversized_body_is_a_413() {
    let cluster = Cluster::with(|c| c.max_body = 100, None).await;
    for uri in ["/v1/sql", "/v1/influxdb/write", "/v1/prometheus/write"] {
        // Without a declared length the limit is met while reading.
        let chunks = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>("0123456789")));
        for body in [Body::from("x".repeat(101)), Body::from_stream(chunks)] {
            let (status, text) = cluster.post(uri, body).await;
            assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{uri}: {text}");
            assert_eq!(
                message_of(&text),
                "the body is larger than 100 bytes (frontend.max_body); send smaller batches",
                "{uri}"
            );
        }
    }
}

#[tokio::test]
async fn an_oversized_answer_is_refused_and_streams_as_csv() {
    let cluster = Cluster::with(|c| c.max_result = 1000, None).await;
    cluster.fill_cpu().await;
    let message = "the answer is larger than 1000 bytes (frontend.max_result); use LIMIT, or format=csv, MySQL's or \
                   PostgreSQL's protocol, which stream";
    let expected = (429, message.to_string());
    assert_eq!(cluster.error("SELECT * FROM cpu").await, expected);
    // All answers of a request are held together.
    let some = "SELECT * FROM cpu LIMIT 10; ".repeat(5);
    assert_eq!(cluster.error(&some).await, expected);
    let (status, text) = cluster.post("/v1/sql?format=table", "SELECT * FROM cpu").await;
    assert_eq!((status.as_u16(), text.contains(message)), (429, true), "{text}");
    let (_, text) = cluster.post("/v1/sql?format=csv", "SELECT * FROM cpu").await;
    assert_eq!(text.lines().count(), 90);
}

#[tokio::test]
async fn a_wrong_password_is_a_401() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, "greta=secret\n").unwrap();
    let cluster = Cluster::with(|_| {}, Some(users)).await;
    let answer = async |uri: &str, authorization: Option<String>| {
        let mut request = Request::post(uri);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let (status, body) = cluster.request(request.body("SELECT 1".into()).unwrap()).await;
        (status.as_u16(), String::from_utf8(body).unwrap())
    };
    let basic = |text: &str| {
        Some(format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(text)
        ))
    };
    for (authorization, expected) in [
        (None, "this server asks for a user name and a password"),
        (
            basic("greta:wrong"),
            "access denied for user `greta`: wrong user name or password",
        ),
        (
            basic("nobody:secret"),
            "access denied for user `nobody`: wrong user name or password",
        ),
    ] {
        let (status, text) = answer("/v1/sql", authorization).await;
        assert_eq!((status, message_of(&text).as_str()), (401, expected));
    }
    assert_eq!(answer("/v1/sql", Some("Basic !".into())).await.0, 401);
    assert_eq!(answer("/v1/sql", basic("greta:secret")).await.0, 200);
    assert_eq!(answer("/v1/influxdb/write?u=greta&p=wrong", None).await.0, 401);
    assert_eq!(
        answer("/v1/influxdb/write?u=greta&p=secret", None).await.0,
        400,
        "let in, but no line"
    );
    assert_eq!(
        answer("/v1/influxdb/write", Some("Token greta:secret".into()))
            .await
            .0,
        400
    );
    assert_eq!(answer("/v1/prometheus/write", basic("greta:wrong")).await.0, 401);
    let ready = Request::get("/ready").body(Body::empty()).unwrap();
    assert_eq!(cluster.request(ready).await.0, StatusCode::OK);
    let ping = Request::get("/v1/influxdb/ping").body(Body::empty()).unwrap();
    assert_eq!(cluster.request(ping).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn requests_are_counted_by_result() {
    let cluster = Cluster::with_cpu().await;
    cluster.error("SELECT * FROM nosuch").await;
    let text = cluster.metrics.text();
    assert!(
        text.contains(r#"greptime_frontend_requests_total{protocol="http",code="NotFound"} 1"#),
        "{text}"
    );
    assert!(
        text.contains(r#"greptime_frontend_rows_ingested_total{protocol="http"} 90"#),
        "{text}"
    );
    assert!(
        text.contains("greptime_frontend_request_seconds_bucket"),
        "{text}"
    );
}
