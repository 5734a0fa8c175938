//! The program as a person starts it who just wants the database.
#![allow(clippy::disallowed_methods)] // Real processes.

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{PROGRAM, Standalone};

const CPU: &str = "CREATE TABLE cpu (hostname STRING, ts TIMESTAMP(3) TIME INDEX, usage DOUBLE, \
    PRIMARY KEY (hostname)) PARTITION ON COLUMNS (hostname) (hostname < 'm', hostname >= 'm')";

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let node = Standalone::start(dir.path(), &[], &[]).await;
    node.run(CPU).await;
    let mut acknowledged = 0;
    for round in 0..20 {
        let lines: Vec<String> = (0..10)
            .map(|i| format!("cpu,hostname={}{i} usage={round} {round}", ["a", "z"][i % 2]))
            .collect();
        let (status, body) = node.lines(&lines.join("\n")).await;
        assert!((200..300).contains(&status), "{body}");
        acknowledged += 10;
    }
    node.run("INSERT INTO cpu VALUES ('a0', 0, 99.5)").await;
    node.kill();
    let node = Standalone::start(dir.path(), &[], &[]).await;
    assert_eq!(
        node.rows("SELECT count(*) FROM cpu").await,
        json!([[acknowledged]])
    );
    let newest = node
        .rows("SELECT usage FROM cpu WHERE hostname = 'a0' AND ts = '1970-01-01 00:00:00'")
        .await;
    assert_eq!(newest, json!([[99.5]]), "the same tags and time overwrite");
    let sums = node
        .rows("SELECT hostname, count(*) FROM cpu GROUP BY hostname ORDER BY hostname LIMIT 1")
        .await;
    assert_eq!(sums, json!([["a0", 20]]));
}

/// So many starts, each ended at another moment; a tenth of `GREPTIME_TEST_SEEDS`.
fn kills() -> u64 {
    let seeds = std::env::var("GREPTIME_TEST_SEEDS").ok();
    seeds.and_then(|seeds| seeds.parse::<u64>().ok()).unwrap_or(80) / 10
}

/// Rows to a request.
const BATCH: u64 = 50;

/// Request after request until it is dropped, counting those that were acknowledged. Each row has a time of its own.
async fn write_until_killed(node: &Standalone, acknowledged: &AtomicU64) {
    loop {
        let batch = acknowledged.load(Ordering::SeqCst);
        let line = |row: u64| {
            format!(
                "many,host={}{} n={row}i {row}",
                ["a", "z"][row as usize % 2],
                row % 7
            )
        };
        let lines: Vec<String> = (batch * BATCH..(batch + 1) * BATCH).map(line).collect();
        let (status, body) = node.lines(&lines.join("\n")).await;
        assert!((200..300).contains(&status), "{body}");
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

/// While rows are written, flushed, merged, and the log is trimmed and cleaned.
#[tokio::test]
async fn whenever_the_process_is_killed_every_acknowledged_row_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [
        "datanode.flush_size=64KiB",
        "datanode.flush_age=200ms",
        "datanode.log_file_size=1MiB",
        "datanode.log_purge_threshold=1MiB",
        "datanode.compaction_active_runs=2",
        "datanode.file_grace=1s",
    ];
    let flags: Vec<&str> = flags.into_iter().flat_map(|flag| ["--set", flag]).collect();
    let acknowledged = AtomicU64::new(0);
    let mut node = Standalone::start(dir.path(), &[], &flags).await;
    node.run(
        "CREATE TABLE many (host STRING, ts TIMESTAMP(3) TIME INDEX, n BIGINT, PRIMARY KEY (host)) \
         PARTITION ON COLUMNS (host) (host < 'm', host >= 'm') WITH (append_mode = 'true')",
    )
    .await;
    for kill in 0..kills() {
        let before = acknowledged.load(Ordering::SeqCst);
        // Steps by the golden ratio: however many there are, they are spread over the whole stretch.
        let moment = Duration::from_micros(20_000 + kill * 556_231 % 900_000);
        let killed = tokio::time::timeout(moment, write_until_killed(&node, &acknowledged)).await;
        assert!(killed.is_err());
        node.kill();
        node = Standalone::start(dir.path(), &[], &flags).await;
        // The batch that was under way may be there, or a part of it, or not; it is not sent again.
        let written = acknowledged.fetch_add(1, Ordering::SeqCst) * BATCH;
        let began = before * BATCH;
        let rows = node
            .rows(&format!(
                "SELECT count(*), count(DISTINCT n) FROM many WHERE n >= {began} AND n < {written}"
            ))
            .await;
        let all = written - began;
        assert_eq!(rows, json!([[all, all]]), "kill {kill} after {moment:?}");
    }
    let twice = "SELECT n FROM many GROUP BY n HAVING count(*) > 1";
    assert_eq!(node.rows(twice).await, json!([]), "rows that are there twice");
}

/// An acknowledgement means that the rows are on disk: between two answers to writes lies a finished fdatasync.
#[tokio::test]
async fn every_acknowledgement_follows_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let wrapper = [
        "strace",
        "-f",
        "-s",
        "16",
        "-e",
        "trace=fdatasync,fsync,write,writev,sendto,sendmsg",
        "-o",
    ];
    let wrapper: Vec<&str> = wrapper.into_iter().chain([trace.to_str().unwrap()]).collect();
    let node = Standalone::start(dir.path(), &wrapper, &[]).await;
    node.run(CPU).await;
    let before = std::fs::read_to_string(&trace).unwrap().len();
    const WRITES: usize = 20;
    for i in 0..WRITES {
        let (status, body) = node.lines(&format!("cpu,hostname=a usage=1 {i}")).await;
        assert_eq!(status, 204, "{body}");
    }
    node.kill();
    let text = std::fs::read_to_string(&trace).unwrap();
    let (mut synced, mut answers) = (false, 0);
    for line in text[before..].lines() {
        let is_sync = line.contains("fdatasync") || line.contains("fsync");
        if is_sync && line.trim_end().ends_with("= 0") {
            synced = true;
        } else if line.contains("HTTP/1.1 204") {
            assert!(synced, "answer {answers} was sent without a sync before it");
            (synced, answers) = (false, answers + 1);
        }
    }
    assert_eq!(answers, WRITES, "the trace must show every answer");
}

#[tokio::test]
async fn wrong_input_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [
        "--set",
        "frontend.max_body=64KiB",
        "--set",
        "frontend.query_memory=4MiB",
    ];
    let node = Standalone::start(dir.path(), &[], &flags).await;
    node.run(CPU).await;
    let table =
        "CREATE TABLE t (h STRING, ts TIMESTAMP TIME INDEX, PRIMARY KEY (h)) PARTITION ON COLUMNS (h)";
    for (statement, status, text) in [
        (format!("{table} (h < 'a', h > 'a')"), 400, "gap"),
        (format!("{table} (h <= 'a', h >= 'a')"), 400, "overlap"),
        (CPU.to_string(), 409, "cpu"),
        ("SELECT nothing FROM cpu".to_string(), 400, "nothing"),
        ("SELECT * FROM nowhere".to_string(), 404, "nowhere"),
        (
            "INSERT INTO cpu VALUES ('a', 1, 'many')".to_string(),
            400,
            "usage",
        ),
        (
            "INSERT INTO cpu (hostname, ts, nothing) VALUES ('a', 1, 1)".to_string(),
            400,
            "nothing",
        ),
        ("SELEC 1".to_string(), 400, "SELEC"),
    ] {
        let (found, answer) = node.sql(&statement).await;
        assert!(
            found == status && answer.to_string().contains(text),
            "{statement}: {found} {answer}"
        );
    }
    let (status, body) = node
        .lines("cpu,hostname=good usage=1 1\ncpu,hostname=bad usage= 2\n")
        .await;
    assert!(status == 400 && body.contains("line 2"), "{status} {body}");
    let good = node
        .rows("SELECT count(*) FROM cpu WHERE hostname = 'good'")
        .await;
    assert_eq!(good, json!([[1]]), "the good lines of a batch are written");
    let (status, body) = node.post("/v1/influxdb/write", vec![b'x'; 100 << 10]).await;
    assert_eq!(status, 413, "{body}");
    let (status, body) = node.post("/v1/influxdb/write", vec![b'x'; 700 << 10]).await;
    assert_eq!(status, 413, "{body}");
    let (status, body) = node.post("/v1/prometheus/write", vec![0xff; 10]).await;
    assert_eq!(status, 400, "{body}");
}

/// Two regions with three files each, of which a query by time needs one.
#[tokio::test]
async fn explain_analyze_says_what_each_region_left_out_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let node = Standalone::start(dir.path(), &[], &[]).await;
    node.run(CPU).await;
    for file in 0..3 {
        let rows: Vec<String> = (0..20)
            .map(|i| format!("('{}', {}, 1.0)", ["a", "z"][i % 2], file * 1000 + i))
            .collect();
        node.run(&format!("INSERT INTO cpu VALUES {}", rows.join(", ")))
            .await;
        node.run("ADMIN flush_table('cpu')").await;
    }
    let sql = "SELECT * FROM cpu WHERE ts >= '1970-01-01 00:00:01' AND ts < '1970-01-01 00:00:02'";
    let plan = node.rows(&format!("EXPLAIN ANALYZE {sql}")).await;
    let plan = plan[0][1].as_str().unwrap();
    let leaf = plan.lines().find(|l| l.contains("RegionScanExec: ")).unwrap();
    for part in [
        "output_rows=20,",
        "files_pruned_by_time=6 total → 2 matched",
        "files_opened=2",
        "row_groups_read=2",
        "rows_read=20",
        "rows_selected=20",
        "bytes_from_store=",
    ] {
        assert!(leaf.contains(part), "{part}: {plan}");
    }
    let verbose = node.rows(&format!("EXPLAIN ANALYZE VERBOSE {sql}")).await;
    let verbose = verbose[0][1].as_str().unwrap();
    let leaves: Vec<_> = verbose
        .lines()
        .filter(|l| l.contains("RegionScanExec: "))
        .collect();
    assert_eq!(leaves.len(), 2, "{verbose}");
    for leaf in leaves {
        assert!(
            leaf.contains("files_pruned_by_time=3 total → 1 matched") && leaf.contains("output_rows=10,"),
            "{verbose}"
        );
    }
    assert_eq!(verbose.matches("Region 10").count(), 2, "{verbose}");
    let grouped = "SELECT hostname, max(usage) FROM cpu GROUP BY hostname";
    let plan = node.rows(&format!("EXPLAIN ANALYZE {grouped}")).await;
    let plan = plan[0][1].as_str().unwrap();
    assert!(
        plan.contains("RegionAggregateExec") && plan.contains("rows_selected=60"),
        "{plan}"
    );
}

/// Hundredths of a second of a processor that a process has had.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    // User and system time, 14 and 15 when counted from one.
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn a_query_whose_client_has_gone_stops_within_a_hundred_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let node = Standalone::start(dir.path(), &[], &[]).await;
    let lines: Vec<String> = (0..100_000)
        .map(|n| format!("t,host=h{} v={n} {n}", n % 100))
        .collect();
    let (status, body) = node.lines(&lines.join("\n")).await;
    assert!((200..300).contains(&status), "{body}");
    node.run("ADMIN flush_table('t')").await;
    // Ten thousand million pairs, compared or sorted.
    for sql in [
        "SELECT count(*) FROM t a JOIN t b ON a.v <> b.v",
        "SELECT a.v FROM t a, t b ORDER BY a.v + b.v LIMIT 10",
        "SELECT a.host, max(b.v), count(DISTINCT a.v + b.v) FROM t a, t b GROUP BY a.host",
    ] {
        let asked = tokio::time::timeout(Duration::from_millis(1500), node.sql(sql)).await;
        assert!(asked.is_err(), "{sql}: {asked:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let then = processor_time(node.pid());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let used = processor_time(node.pid()) - then;
        assert!(
            used < 10,
            "{sql}: {used} hundredths of a second were used after the end"
        );
    }
}

#[test]
fn the_command_line_explains_itself() {
    let run = |args: &[&str]| {
        let output = Command::new(PROGRAM).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, help, _) = run(&["--help"]);
    assert!(
        code == 0 && help.contains("standalone") && help.contains("GREPTIME__"),
        "{help}"
    );
    let (code, printed, _) = run(&["standalone", "--print-config", "--http-addr", "127.0.0.1:1"]);
    assert!(
        code == 0 && printed.contains("address = \"127.0.0.1:1\""),
        "{printed}"
    );
    let (code, _, error) = run(&["standalone", "--set", "datanode.flsh_size=1MiB"]);
    assert!(
        code == 2 && error.contains("flsh_size") && error.contains("did you mean"),
        "{error}"
    );
    let (code, _, error) = run(&["standalone", "--config-file", "/nowhere.toml"]);
    assert!(code == 2 && error.contains("/nowhere.toml"), "{error}");
}
