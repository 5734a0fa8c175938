//! Events: a line in `kubectl describe` at every change of state.

use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use k8s_openapi::api::core::v1::ObjectReference;

/// Longest note that the API takes.
const NOTE_BYTES: usize = 1000;

pub struct Announcer {
    recorder: Recorder,
}

/// Something worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub warning: bool,
    /// One word, such as `Ready`.
    pub reason: String,
    pub note: String,
}

impl Announcement {
    pub fn warning(reason: &str, note: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.to_owned(), note: note.into() }
    }

    pub fn normal(reason: &str, note: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.to_owned(), note: note.into() }
    }
}

impl Announcer {
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: "greptime-operator".into(), instance: Some(instance.to_owned()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// An event that cannot be written is logged and no failure: it tells of the work, it is not the work.
    pub async fn announce(&self, about: &ObjectReference, what: Announcement) {
        let type_ = if what.warning { EventType::Warning } else { EventType::Normal };
        let event = Event {
            type_,
            action: "Reconcile".into(),
            note: Some(cut(what.note)),
            reason: what.reason,
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(%error, reason = event.reason, "cannot write an event");
        }
    }
}

fn cut(mut note: String) -> String {
    if note.len() > NOTE_BYTES {
        let end = (0..=NOTE_BYTES).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
        note.truncate(end);
    }
    note
}
