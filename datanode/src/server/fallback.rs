//! Without metasrv: leaders show that they are there, and where there is none, replicas elect one among themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use greptime_log::Input;
use parking_lot::Mutex;

use super::Datanode;

/// How often time passes for the log while metasrv is silent. A replica asks for votes after four to eight of these
/// without a word of a leader.
const TICK: Duration = Duration::from_millis(500);
/// metasrv answers every beat; so long without an answer is silence.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// Replicas that have heard nothing for so long vote for each other. A metasrv that leads has ended every lease by then.
const ORPHANED_AFTER: Duration = Duration::from_secs(4);

/// When metasrv was heard last, and whether the log knows of it.
///
/// Sessions hear metasrv, but it is the log that votes, and it may hang: until it has taken that metasrv is there again,
/// it gives its vote to others that are without metasrv, or to whom an earlier metasrv has sent. So a beat says only then
/// that metasrv was heard.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    at: Duration,
    /// The log has to be told that metasrv is there, or that it is another one.
    is_news: bool,
    /// How often it was told, and has not taken it yet.
    untaken: usize,
}

impl Heard {
    /// The log has to be told of the metasrv that is heard next.
    pub(super) fn is_news(&self) {
        self.0.lock().is_news = true;
    }

    /// The log has taken what it was told.
    pub(super) fn was_taken(&self) {
        let mut known = self.0.lock();
        known.untaken = known.untaken.saturating_sub(1);
    }

    /// Whether the log knows as much of metasrv as the session.
    pub(super) fn is_taken(&self) -> bool {
        let known = self.0.lock();
        !known.is_news && known.untaken == 0
    }
}

impl Datanode {
    /// metasrv has said something.
    pub(super) fn heard_metasrv(&self) {
        let mut known = self.heard.0.lock();
        known.at = self.clock.now();
        if known.is_news {
            let epoch = self.metasrv_epoch.load(Ordering::SeqCst);
            let found = vec![Input::MetasrvEpoch(epoch), Input::MetasrvFound];
            // If there is no room, the next word tries again.
            if self.words.try_send(found).is_ok() {
                known.is_news = false;
                known.untaken += 1;
            }
        }
    }

    /// Lets time pass for the log while metasrv is silent.
    pub(super) async fn tick_without_metasrv(self: Arc<Self>) {
        self.heard_metasrv();
        loop {
            tokio::time::sleep(TICK).await;
            // The log ends with the node.
            let Ok(word) = self.words.reserve().await else {
                return;
            };
            // Under the lock, so that the log hears of silence and of its end in their order.
            let mut known = self.heard.0.lock();
            let silence = self.clock.now().saturating_sub(known.at);
            if silence >= SILENT_AFTER {
                known.is_news = true;
                let orphaned = silence >= ORPHANED_AFTER;
                word.send(vec![Input::Tick { orphaned }]);
            }
        }
    }
}
