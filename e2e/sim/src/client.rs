//! Numbers of a node's session with metasrv, as `session` of the protocol has them.

use std::time::Duration;

pub const INTERVAL: Duration = Duration::from_millis(100);
pub const HURRIED: Duration = Duration::from_millis(25);
/// An append that has waited for so long may hang.
pub const HANGS_MS: u64 = 50;
pub const FIRST_RETRY: Duration = Duration::from_millis(50);
pub const LAST_RETRY: Duration = Duration::from_millis(500);
pub const SILENCE: Duration = Duration::from_secs(5);
