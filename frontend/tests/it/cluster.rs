//! A frontend over the fake, and short ways to ask it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use greptime_clock::{SystemClock, SystemIds};
use greptime_frontend::{Frontend, FrontendConfig, FrontendParts};
use greptime_telemetry::{Metrics, Readiness};
use serde_json::Value;
use tower::ServiceExt;

use crate::fake::Fake;

pub struct Cluster {
    pub fake: Arc<Fake>,
    pub frontend: Arc<Frontend>,
    pub metrics: Metrics,
}

/// Three regions; hosts 0..3 in the first, 3..6 in the second, 6..9 in the third.
pub const CREATE_CPU: &str = "CREATE TABLE cpu (host STRING, ts TIMESTAMP(3) TIME INDEX, usage DOUBLE, n BIGINT, \
     PRIMARY KEY (host)) PARTITION ON COLUMNS (host) (host < 'host_3', host >= 'host_3' AND host < 'host_6', \
     host >= 'host_6')";

/// What an error of HTTP says.
pub fn message_of(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
    answer["error"].as_str().unwrap().to_string()
}

impl Cluster {
    pub async fn start() -> Self {
        Self::with(|_| {}, None).await
    }

    pub async fn with(change: impl FnOnce(&mut FrontendConfig), users_file: Option<PathBuf>) -> Self {
        Self::over(Fake::new(), change, users_file).await
    }

    pub async fn over(
        fake: Arc<Fake>,
        change: impl FnOnce(&mut FrontendConfig),
        users_file: Option<PathBuf>,
    ) -> Self {
        let mut config = FrontendConfig {
            query_parallelism: 4,
            ..FrontendConfig::default()
        };
        change(&mut config);
        let metrics = Metrics::default();
        let parts = FrontendParts {
            config,
            users_file,
            node_id: 0,
            advertise_address: "127.0.0.1:4000".into(),
            link: fake.clone(),
            regions: fake.clone(),
            clock: SystemClock::shared(),
            ids: SystemIds::shared(),
            metrics: metrics.clone(),
            readiness: Readiness::default(),
        };
        let frontend = Frontend::start(parts).unwrap();
        for _ in 0..200 {
            if frontend.is_ready() {
                return Self {
                    fake,
                    frontend,
                    metrics,
                };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the frontend did not become ready");
    }

    /// With ten rows in each of nine hosts; `n` counts from 0, `usage` is half of it.
    pub async fn with_cpu() -> Self {
        let cluster = Self::start().await;
        cluster.fill_cpu().await;
        cluster
    }

    pub async fn fill_cpu(&self) {
        self.sql(CREATE_CPU).await;
        let rows: Vec<String> = (0..90)
            .map(|n| {
                format!(
                    "('host_{}', {}, {}, {n})",
                    n % 9,
                    1000 * (n / 9),
                    f64::from(n) / 2.0
                )
            })
            .collect();
        self.sql(&format!("INSERT INTO cpu VALUES {}", rows.join(", ")))
            .await;
    }

    pub async fn request(&self, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let response = self.frontend.http_router().oneshot(request).await.unwrap();
        let status = response.status();
        (
            status,
            to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec(),
        )
    }

    pub async fn post(&self, uri: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let (status, body) = self.request(Request::post(uri).body(body.into()).unwrap()).await;
        (status, String::from_utf8(body).unwrap())
    }

    /// The whole answer of `/v1/sql`.
    pub async fn answer(&self, sql: &str) -> (StatusCode, Value) {
        let (status, body) = self.post("/v1/sql", sql.to_string()).await;
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}")),
        )
    }

    /// The rows of the last statement, or how many it affected.
    pub async fn sql(&self, sql: &str) -> Value {
        let (status, answer) = self.answer(sql).await;
        assert_eq!(status, StatusCode::OK, "{sql}: {answer}");
        let last = answer["output"].as_array().unwrap().last().unwrap().clone();
        match last.get("records") {
            Some(records) => records["rows"].clone(),
            None => last["affectedrows"].clone(),
        }
    }

    /// Status and message of a statement that must fail.
    pub async fn error(&self, sql: &str) -> (u16, String) {
        let (status, answer) = self.answer(sql).await;
        assert_ne!(status, StatusCode::OK, "{sql}: {answer}");
        assert!(answer["code"].as_u64().unwrap() > 0);
        (status.as_u16(), answer["error"].as_str().unwrap().to_string())
    }

    /// A plan as text.
    pub async fn explain(&self, sql: &str) -> String {
        let rows = self.sql(&format!("EXPLAIN {sql}")).await;
        let physical = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r[0] == "physical_plan")
            .unwrap();
        physical[1].as_str().unwrap().to_string()
    }
}
