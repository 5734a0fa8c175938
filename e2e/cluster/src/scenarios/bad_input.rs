//! What people get wrong, and what they read then.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{READY, Suite};
use crate::database::{Database, S3_SECRET, apply};
use crate::sql::Http;

const SOON: Duration = Duration::from_secs(60);
const AUTH_PORT: u16 = 14200;

fn must_fail(what: &str, outcome: Result<()>, text: &str) -> Result<()> {
    let error = outcome.err().with_context(|| format!("{what} was accepted"))?;
    ensure!(
        format!("{error:#}").contains(text),
        "{what}: the error does not say `{text}`: {error:#}"
    );
    Ok(())
}

/// Unknown fields, values that cannot work, a secret that is missing and comes later.
pub fn custom_resources(suite: &Suite) -> Result<()> {
    let database = Database::new(&suite.cluster, "e2e-bad", "bad");
    database.prepare()?;
    let mut manifest = database.manifest();
    manifest["spec"]["datanodes"] = json!({"replicas": 3});
    must_fail("an unknown field", database.apply(&manifest), "datanodes")?;
    let mut manifest = database.manifest();
    manifest["spec"]["objectStorage"]["s3"]["bucket"] = json!("");
    must_fail("an empty bucket", database.apply(&manifest), "bucket")?;
    let mut manifest = database.manifest();
    manifest["spec"]["datanode"]["replicas"] = json!(1);
    manifest["spec"]["objectStorage"]["s3"]["credentialsSecretName"] = json!("later");
    database.apply(&manifest)?;
    database.wait_condition("Ready", "False", "later", SOON)?;
    let s3 = &suite.cluster.s3;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later", "namespace": database.namespace},
        "stringData": {"access-key-id": s3.access_key_id, "secret-access-key": s3.secret_access_key},
    });
    database.apply(&secret)?;
    database.wait_ready(READY)?;
    database.discard()
}

/// A cluster whose root in the bucket belongs to another one says so and touches nothing.
pub fn foreign_bucket(suite: &Suite) -> Result<()> {
    let main = suite.main()?;
    let thief = Database::new(&suite.cluster, "e2e-thief", "thief");
    thief.prepare()?;
    let mut manifest = thief.manifest();
    manifest["spec"]["datanode"]["replicas"] = json!(1);
    manifest["spec"]["objectStorage"]["s3"]["root"] =
        main.manifest()["spec"]["objectStorage"]["s3"]["root"].clone();
    thief.apply(&manifest)?;
    thief.wait_condition("DependenciesReachable", "False", "belongs to cluster", SOON)?;
    let ready = thief.condition("Ready")?.context("no condition Ready")?;
    ensure!(
        ready["status"] == "False",
        "a cluster on a foreign bucket is ready: {ready}"
    );
    thief.discard()
}

/// Without the right password nobody gets in, by whatever protocol.
pub fn wrong_password(suite: &Suite) -> Result<()> {
    let database = Database::new(&suite.cluster, "e2e-auth", "auth");
    database.prepare()?;
    apply(
        &suite.cluster,
        &json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "users", "namespace": database.namespace},
            "stringData": {"users": "alice=correct horse\n"},
        }),
    )?;
    let mut manifest = database.manifest();
    manifest["spec"]["datanode"]["replicas"] = json!(1);
    manifest["spec"]["auth"] = json!({"secretName": "users"});
    manifest["spec"]["objectStorage"]["s3"]["credentialsSecretName"] = json!(S3_SECRET);
    database.apply(&manifest)?;
    database.wait_ready(READY)?;
    let listen = database.forward(AUTH_PORT, 4000)?;
    let status = |user: &str| -> Result<u16> {
        let http = Http::new(&format!("http://{user}{listen}"))?;
        Ok(suite.runtime.block_on(http.sql_text("SELECT 1", "json"))?.0)
    };
    let (none, wrong, right) = (
        status("")?,
        status("alice:battery@")?,
        status("alice:correct%20horse@")?,
    );
    ensure!(
        (none, wrong, right) == (401, 401, 200),
        "HTTP: none {none}, wrong {wrong}, right {right}"
    );
    let psql = database.forward(AUTH_PORT + 3, 4003)?;
    let connect = |password: &str| {
        let mut command = std::process::Command::new("psql");
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &psql.port().to_string(),
            "-U",
            "alice",
            "-d",
            "public",
        ]);
        greptime_lab::shell::finish(
            command
                .args(["-At", "-c", "SELECT 1"])
                .env("PGPASSWORD", password),
        )
        .map(drop)
    };
    must_fail("a wrong password in psql", connect("battery"), "password")?;
    connect("correct horse")?;
    let mysql = database.forward(AUTH_PORT + 2, 4002)?;
    let connect = |password: &str| {
        let mut command = std::process::Command::new("mysql");
        command.args([
            "-h",
            "127.0.0.1",
            "-P",
            &mysql.port().to_string(),
            "-u",
            "alice",
            "--skip-ssl",
        ]);
        let command = command
            .arg(format!("-p{password}"))
            .args(["-N", "-B", "-e", "SELECT 1"]);
        greptime_lab::shell::finish(command).map(drop)
    };
    must_fail("a wrong password in mysql", connect("battery"), "denied")?;
    connect("correct horse")?;
    database.discard()
}
