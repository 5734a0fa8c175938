//! Writes the report to where it belongs.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::json;

use crate::picture;
use crate::suite::Suite;
use crate::timestamp;

const SAVED: &str = "docs/benchmarks";

/// The table to standard output and `to` with another extension, the list of results to `to`.
pub fn write(suite: &Suite, to: &Path) -> anyhow::Result<()> {
    let text = suite.report.text();
    if let Some(dir) = to.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    let json = serde_json::to_string_pretty(&suite.report.results)?;
    std::fs::write(to, json + "\n").with_context(|| to.display().to_string())?;
    std::fs::write(to.with_extension("txt"), &text)?;
    std::fs::write(to.with_extension("svg"), picture::draw(&suite.report))?;
    // Files first: whoever reads the table may have gone, as `head` does.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

/// Results with machine, versions and date, to be kept in the repository; run from its root.
pub fn save(suite: &Suite) -> anyhow::Result<()> {
    let report = &suite.report;
    let saved = json!({
        "date": timestamp::rfc3339(suite.place.clock.wall_ms()),
        "commit": output_of("git", &["rev-parse", "HEAD"]),
        "uncommitted_changes": !output_of("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        "command": command(),
        "machine": machine(),
        "databases": report.databases,
        "results": report.results,
        "left_out": report.left_out,
        "notes": report.notes,
    });
    let dir = Path::new(SAVED);
    anyhow::ensure!(
        dir.is_dir(),
        "there is no {SAVED} here; run this in the root of the repository"
    );
    std::fs::write(
        dir.join("engine.json"),
        serde_json::to_string_pretty(&saved)? + "\n",
    )?;
    std::fs::write(dir.join("engine.svg"), picture::draw(report))?;
    Ok(())
}

/// How this program was called, without the name of anybody's home.
fn command() -> String {
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    match std::env::var("HOME") {
        Ok(home) if home.len() > 1 => command.replace(&home, "~"),
        _ => command,
    }
}

fn machine() -> serde_json::Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .map(str::trim)
        .unwrap_or_default();
    json!({
        "cpu": model.map(|(_, m)| m.trim()),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": memory,
        "kernel": output_of("uname", &["-sr"]),
    })
}

fn output_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string())
        .unwrap_or_default()
}
