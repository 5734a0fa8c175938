//! A plain client of the HTTP API, without retries.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Longer than the database holds a request, so that its own answer is seen.
const TIMEOUT: Duration = Duration::from_secs(40);

/// The HTTP API of one cluster.
#[derive(Clone, Debug)]
pub struct Http {
    pub base: String,
    client: reqwest::Client,
}

impl Http {
    /// `base`, e.g. `http://127.0.0.1:4000`.
    pub fn new(base: &str) -> Result<Self> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self {
            base: base.to_string(),
            client,
        })
    }

    /// Runs a statement; the answer's JSON, or an error with status and message.
    pub async fn sql(&self, statement: &str) -> Result<Value> {
        let (status, text) = self.sql_text(statement, "greptimedb_v1").await?;
        if status != 200 {
            bail!("{statement}: HTTP {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("{statement}: not JSON: {text}"))
    }

    /// Rows of the first result, cells as JSON.
    pub async fn rows(&self, statement: &str) -> Result<Vec<Vec<Value>>> {
        let answer = self.sql(statement).await?;
        let rows = answer["output"][0]["records"]["rows"].as_array().cloned();
        let rows = rows.with_context(|| format!("{statement}: no rows in {answer}"))?;
        Ok(rows
            .into_iter()
            .map(|row| row.as_array().cloned().unwrap_or_default())
            .collect())
    }

    /// Status and body of a statement in a format of `/v1/sql`.
    pub async fn sql_text(&self, statement: &str, format: &str) -> Result<(u16, String)> {
        let url = format!("{}/v1/sql?format={format}&sql={}", self.base, encode(statement));
        self.text(self.client.post(url)).await
    }

    pub async fn csv(&self, statement: &str) -> Result<String> {
        match self.sql_text(statement, "csv").await? {
            (200, text) => Ok(text),
            (status, text) => bail!("{statement}: HTTP {status}: {text}"),
        }
    }

    /// Line protocol, as Telegraf sends it; timestamps in milliseconds.
    pub async fn write_lines(&self, lines: String) -> Result<(u16, String)> {
        let url = format!("{}/v1/influxdb/write?db=public&precision=ms", self.base);
        self.text(self.client.post(url).body(lines)).await
    }

    async fn text(&self, request: reqwest::RequestBuilder) -> Result<(u16, String)> {
        let response = request.send().await.context("HTTP")?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.context("HTTP body")?))
    }
}

/// Percent-encodes a query parameter.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn a_statement_survives_as_a_parameter() {
        assert_eq!(encode("SELECT 'a&b' + 1"), "SELECT%20%27a%26b%27%20%2B%201");
    }
}
