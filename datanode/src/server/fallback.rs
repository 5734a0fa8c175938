//! Without metasrv: leaders show that they are there, and where there is none, replicas elect one among themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use greptime_log::Input;

use super::Datanode;

/// How often time passes for the log while metasrv is silent. A replica asks for votes after four to eight of these
/// without a word of a leader.
const TICK: Duration = Duration::from_millis(500);
/// metasrv answers every beat; so long without an answer is silence.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// Replicas that have heard nothing for so long vote for each other. A metasrv that leads has ended every lease by then.
const ORPHANED_AFTER: Duration = Duration::from_secs(4);

/// When metasrv was heard last.
#[derive(Debug, Default)]
pub struct Heard {
    at_ms: AtomicU64,
    /// The log was told that time passes without it.
    is_missed: AtomicBool,
}

impl Heard {
    fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.at_ms.load(Ordering::SeqCst)))
    }
}

impl Datanode {
    /// metasrv has said something.
    pub(super) fn heard_metasrv(&self) {
        let now = self.clock.now().as_millis() as u64;
        self.heard.at_ms.store(now, Ordering::SeqCst);
        if self.heard.is_missed.swap(false, Ordering::SeqCst) {
            // If it is lost, the next silence ends it.
            let _ = self.words.try_send(vec![Input::MetasrvFound]);
        }
    }

    /// Lets time pass for the log while metasrv is silent.
    pub(super) async fn tick_without_metasrv(self: Arc<Self>) {
        self.heard_metasrv();
        loop {
            tokio::time::sleep(TICK).await;
            let silence = self.heard.silence(self.clock.now());
            if silence < SILENT_AFTER {
                continue;
            }
            self.heard.is_missed.store(true, Ordering::SeqCst);
            let orphaned = silence >= ORPHANED_AFTER;
            // The log ends with the node.
            let _ = self.words.send(vec![Input::Tick { orphaned }]).await;
        }
    }
}
