//! Who may log in: a file of `name=password` lines, read again when it changes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use greptime_clock::SharedClock;
use greptime_types::{Error, Result};
use parking_lot::Mutex;

/// How often the file is looked at. A rotated secret takes effect within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Known {
    users: HashMap<String, String>,
    changed: Option<SystemTime>,
    /// On the clock's scale.
    looked: Option<Duration>,
}

/// Without a file everybody may do everything; with a file that cannot be read, nobody.
pub struct Users {
    file: Option<PathBuf>,
    clock: SharedClock,
    known: Mutex<Known>,
}

impl Users {
    pub fn new(file: Option<PathBuf>, clock: SharedClock) -> Self {
        Self {
            file,
            clock,
            known: Mutex::default(),
        }
    }

    pub fn required(&self) -> bool {
        self.file.is_some()
    }

    /// The password of a user, for protocols that never see what the client has.
    pub fn password(&self, user: &str) -> Option<String> {
        let file = self.file.as_ref()?;
        let mut known = self.known.lock();
        let now = self.clock.now();
        if known.looked.is_none_or(|at| now.saturating_sub(at) >= LOOK_EVERY) {
            known.looked = Some(now);
            refresh(&mut known, file);
        }
        known.users.get(user).cloned()
    }

    pub fn check(&self, user: &str, password: &str) -> Result<()> {
        if !self.required() {
            return Ok(());
        }
        let known = self.password(user);
        // An unknown user takes as long as a wrong password.
        let expected = known.as_deref().unwrap_or("");
        if same(expected.as_bytes(), password.as_bytes()) && known.is_some() {
            return Ok(());
        }
        Err(denied(user))
    }
}

pub fn denied(user: &str) -> Error {
    Error::unauthenticated(format!(
        "access denied for user `{user}`: wrong user name or password"
    ))
}

fn refresh(known: &mut Known, file: &PathBuf) {
    let changed = std::fs::metadata(file).and_then(|m| m.modified());
    let text = match changed {
        Ok(changed) if known.changed == Some(changed) => return,
        Ok(changed) => std::fs::read_to_string(file).map(|text| (changed, text)),
        Err(error) => Err(error),
    };
    match text {
        Ok((changed, text)) => {
            known.users = parse(&text);
            known.changed = Some(changed);
        }
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "users file cannot be read; the last known users stay");
        }
    }
}

/// One `name=password` a line; empty lines and lines that start with `#` are skipped.
fn parse(text: &str) -> HashMap<String, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, password)| (name.trim().to_string(), password.trim().to_string()))
        .collect()
}

/// Takes the same time wherever two texts of one length differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use greptime_clock::ManualClock;

    use super::*;

    #[test]
    fn without_a_file_everybody_is_let_in() {
        Users::new(None, ManualClock::shared())
            .check("anyone", "")
            .unwrap();
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let clock = ManualClock::shared();
        let users = Users::new(Some(path.clone()), clock.clone());
        users.check("a", "1").unwrap_err();
        std::fs::write(&path, "# people\na=1\n\nb = x=y\n").unwrap();
        clock.advance(LOOK_EVERY);
        users.check("a", "1").unwrap();
        users.check("b", "x=y").unwrap();
        users.check("a", "2").unwrap_err();
        users.check("nobody", "").unwrap_err();
        std::fs::write(&path, "a=2\n").unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH + Duration::from_secs(7))
            .unwrap();
        clock.advance(LOOK_EVERY);
        users.check("a", "2").unwrap();
        users.check("b", "x=y").unwrap_err();
    }
}
