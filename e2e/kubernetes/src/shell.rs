//! Running other programs to their end.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program and returns what it printed; a failure carries its stderr.
pub fn output<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Result<String> {
    finish(Command::new(program.as_ref()).args(args).stdin(Stdio::null()))
}

pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Result<()> {
    output(program, args).map(drop)
}

/// Runs a line whose words hold no blanks, which is how `ip` and `mount` are
/// easiest to read.
pub fn line(command: &str) -> Result<String> {
    let mut words = command.split_whitespace();
    let program = words.next().context("an empty command")?;
    output(program, &words.collect::<Vec<_>>())
}

pub fn finish(command: &mut Command) -> Result<String> {
    let out = command.output();
    printed(command, out)
}

/// As `finish`, with a text that the program reads.
pub fn feed(command: &mut Command, input: &str) -> Result<String> {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let out = piped.spawn().and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not want to read all of it says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    });
    printed(command, out)
}

/// What a program has printed; an error if it failed.
fn printed(command: &Command, out: std::io::Result<Output>) -> Result<String> {
    let out = out.with_context(|| format!("{} does not start", describe(command)))?;
    if !out.status.success() {
        let mut said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        if said.is_empty() {
            said = tail_of(&String::from_utf8_lossy(&out.stdout), 20);
        }
        bail!("{} failed ({}): {said}", describe(command), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let text = words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
    if text.chars().count() > 200 {
        text.chars().take(200).chain("...".chars()).collect()
    } else {
        text
    }
}

/// The last lines of a log, for a message about its writer's failure.
pub fn tail(log: &Path, lines: usize) -> String {
    match std::fs::read(log) {
        Ok(bytes) => tail_of(&String::from_utf8_lossy(&bytes), lines),
        Err(e) => format!("(no log at {}: {e})", log.display()),
    }
}

fn tail_of(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_the_program_said() {
        let e = run("sh", &["-c", "echo no such thing >&2; exit 3"])
            .unwrap_err()
            .to_string();
        assert!(e.contains("no such thing") && e.contains('3'), "{e}");
    }

    #[test]
    fn a_program_reads_what_it_is_given() {
        assert_eq!(
            feed(&mut Command::new("cat"), "one\ntwo\n").unwrap(),
            "one\ntwo\n"
        );
        let e = feed(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), "unread").unwrap_err();
        assert!(e.to_string().contains("no"), "{e}");
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        assert_eq!(tail_of("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail_of("a", 5), "a");
    }
}
