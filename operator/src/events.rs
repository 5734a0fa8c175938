//! Events: a line in `kubectl describe` at every change of state.

use greptime_operator_plan::{EventType, PlannedEvent};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{self, Recorder, Reporter};

/// Longest note that the API takes.
const NOTE_BYTES: usize = 1000;

pub fn normal(action: &'static str, reason: &str, note: impl Into<String>) -> PlannedEvent {
    PlannedEvent {
        type_: EventType::Normal,
        reason: reason.to_owned(),
        note: note.into(),
        action,
    }
}

pub fn warning(action: &'static str, reason: &str, note: impl Into<String>) -> PlannedEvent {
    PlannedEvent {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: note.into(),
        action,
    }
}

pub struct Announcer {
    recorder: Recorder,
}

impl Announcer {
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: "greptime-operator".into(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// An event that cannot be written is logged and no failure: it tells of the work, it is not the work.
    pub async fn announce(&self, about: &ObjectReference, event: PlannedEvent) {
        let published = events::Event {
            type_: match event.type_ {
                EventType::Normal => events::EventType::Normal,
                EventType::Warning => events::EventType::Warning,
            },
            action: event.action.to_owned(),
            note: Some(cut(event.note)),
            reason: event.reason,
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&published, about).await {
            tracing::warn!(%error, reason = published.reason, note = published.note, "cannot write an event");
        }
    }
}

fn cut(mut note: String) -> String {
    if note.len() > NOTE_BYTES {
        let end = (0..=NOTE_BYTES)
            .rev()
            .find(|i| note.is_char_boundary(*i))
            .unwrap_or(0);
        note.truncate(end);
    }
    note
}
