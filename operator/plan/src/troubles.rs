//! What pods complain about, in words that stay the same while nothing changes.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;

/// Conditions name this many pods; the others mostly say the same.
const NAMED: usize = 3;
/// The end of a log is enough to recognize a cause; the whole is in the log.
const MAX_MESSAGE: usize = 300;
/// A pod finds no place for a moment while its volume is made; after this, in seconds, it is a trouble.
const PLACELESS: i64 = 30;

/// Waiting for one of these does not end by waiting.
const HOPELESS: [&str; 8] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub pod: String,
    /// As Kubernetes calls it, for example ImagePullBackOff.
    pub reason: String,
    pub message: String,
}

/// Of all pods that will not become ready by waiting, by name. `now` is RFC 3339.
pub fn of_pods(pods: &[Pod], now: &str) -> Vec<Trouble> {
    let now: Option<Timestamp> = now.parse().ok();
    let staying = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let mut troubles: Vec<_> = staying.filter_map(|pod| of_pod(pod, now)).collect();
    troubles.sort_by(|a, b| a.pod.cmp(&b.pod));
    troubles
}

pub fn describe(troubles: &[Trouble]) -> String {
    let mut said: Vec<_> = troubles
        .iter()
        .take(NAMED)
        .map(|trouble| match trouble.message.as_str() {
            "" => format!("pod {}: {}", trouble.pod, trouble.reason),
            message => format!("pod {}: {}: {message}", trouble.pod, trouble.reason),
        })
        .collect();
    if troubles.len() > NAMED {
        said.push(format!("and {} more pods", troubles.len() - NAMED));
    }
    said.join("; ")
}

fn of_pod(pod: &Pod, now: Option<Timestamp>) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let unschedulable = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| is_placeless(condition, now));
    if let Some(condition) = unschedulable {
        let message = shorten(condition.message.as_deref().unwrap_or_default());
        return Some(Trouble {
            pod: name,
            reason: "Unschedulable".to_owned(),
            message,
        });
    }
    let (reason, message) = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(of_container)?;
    Some(Trouble {
        pod: name,
        reason,
        message,
    })
}

fn is_placeless(condition: &PodCondition, now: Option<Timestamp>) -> bool {
    let since = condition.last_transition_time.as_ref().map(|time| time.0);
    let long = match (now, since) {
        (Some(now), Some(since)) => now.as_second() - since.as_second() >= PLACELESS,
        _ => true,
    };
    condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable") && long
}

fn of_container(container: &ContainerStatus) -> Option<(String, String)> {
    if container.ready {
        return None;
    }
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let hopeless = waiting.filter(|w| {
        w.reason
            .as_deref()
            .is_some_and(|reason| HOPELESS.contains(&reason))
    });
    // The message of a crash loop counts seconds; what the program said last is more use, and stands still.
    let last_words = ended(container.state.as_ref()).or_else(|| ended(container.last_state.as_ref()));
    match (hopeless, last_words) {
        (Some(waiting), last_words) => {
            let reason = waiting.reason.clone().unwrap_or_default();
            let own = waiting
                .message
                .as_deref()
                .filter(|_| reason != "CrashLoopBackOff");
            let message = last_words.unwrap_or_else(|| shorten(own.unwrap_or_default()));
            Some((reason, message))
        }
        (None, Some(last_words)) => Some(("Crashed".to_owned(), last_words)),
        (None, None) => None,
    }
}

fn ended(state: Option<&ContainerState>) -> Option<String> {
    let ended = state?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    let said = shorten(ended.message.as_deref().unwrap_or_default());
    let how = match ended.reason.as_deref() {
        Some("OOMKilled") => "killed for its use of memory; raise the limit".to_owned(),
        _ => format!("exit code {}", ended.exit_code),
    };
    Some(if said.is_empty() {
        how
    } else {
        format!("{how}: {said}")
    })
}

/// The end of a message on one line.
fn shorten(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let characters = line.chars().count();
    if characters <= MAX_MESSAGE {
        return line;
    }
    let end: String = line.chars().skip(characters - MAX_MESSAGE).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{describe, of_pods};

    fn pod(name: &str, container: serde_json::Value) -> k8s_openapi::api::core::v1::Pod {
        let mut container = container;
        let fixed = json!({"name": "c", "ready": false, "image": "", "imageID": "", "restartCount": 1});
        container
            .as_object_mut()
            .unwrap()
            .extend(fixed.as_object().unwrap().clone());
        serde_json::from_value(
            json!({"metadata": {"name": name}, "status": {"containerStatuses": [container]}}),
        )
        .unwrap()
    }

    #[test]
    fn a_bad_image_and_a_crash_are_told_in_words_that_stand_still() {
        let crash = json!({
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}},
            "lastState": {"terminated": {"exitCode": 2, "message": "unknown setting `log.lvel`\n"}},
        });
        let image = json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}});
        let troubles = of_pods(&[pod("b", image), pod("a", crash)], "");
        assert_eq!(
            describe(&troubles),
            "pod a: CrashLoopBackOff: exit code 2: unknown setting `log.lvel`; pod b: ErrImagePull: not found"
        );
    }

    #[test]
    fn a_pod_that_only_starts_is_no_trouble() {
        let starting = json!({"state": {"waiting": {"reason": "ContainerCreating"}}});
        assert!(of_pods(&[pod("a", starting)], "").is_empty());
        let running = json!({"state": {"running": {}}});
        assert!(of_pods(&[pod("a", running)], "").is_empty());
    }

    #[test]
    fn a_pod_without_a_place_is_a_trouble_after_a_while() {
        let pod = serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}}));
        let pods = [pod.unwrap()];
        assert!(of_pods(&pods, "2026-01-01T00:00:10Z").is_empty());
        assert_eq!(
            describe(&of_pods(&pods, "2026-01-01T00:00:30Z")),
            "pod a: Unschedulable: 0/3 nodes fit"
        );
    }
}
