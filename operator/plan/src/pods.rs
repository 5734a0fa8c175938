//! From a pod to why it does not become ready.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::names::{LABEL_COMPONENT, Role};
use crate::observed::PodFacts;

/// Messages of containers are logs; the status of a cluster is not the place to read them at length.
const MESSAGE_LIMIT: usize = 300;

/// `None` for a pod that is of no role.
pub fn facts(pod: &Pod) -> Option<PodFacts> {
    let role = Role::parse(pod.metadata.labels.as_ref()?.get(LABEL_COMPONENT)?)?;
    let status = pod.status.as_ref();
    Some(PodFacts {
        name: pod.metadata.name.clone()?,
        role,
        ip: status.and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()),
        trouble: trouble(pod),
    })
}

fn trouble(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let unschedulable = conditions
        .filter(|c| c.type_ == "PodScheduled" && c.status == "False")
        .find(|c| c.reason.as_deref() == Some("Unschedulable"));
    if let Some(condition) = unschedulable {
        return Some(format!("no node takes it: {}", shortened(condition.message.as_deref().unwrap_or_default())));
    }
    status.container_statuses.iter().flatten().find_map(container_trouble)
}

/// The words stay the same while a container goes round its restarts, so that the status is not rewritten with each.
fn container_trouble(container: &ContainerStatus) -> Option<String> {
    if container.ready {
        return None;
    }
    let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    let now = container.state.as_ref().and_then(|s| s.terminated.as_ref());
    if let Some(end) = now.or(last).filter(|end| end.exit_code != 0) {
        let said = shortened(end.message.as_deref().unwrap_or_default());
        let reason = end.reason.as_deref().filter(|r| *r != "Error").map(|r| format!(" ({r})")).unwrap_or_default();
        return Some(match said.is_empty() {
            true => format!("exits with code {}{reason}", end.exit_code),
            false => format!("exits with code {}{reason}: {said}", end.exit_code),
        });
    }
    let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref())?;
    match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some(format!("its image {} cannot be pulled", container.image))
        }
        reason @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            Some(format!("{reason}: {}", shortened(waiting.message.as_deref().unwrap_or_default())))
        }
        _ => None,
    }
}

/// The last line, which is where a program says why it ends.
fn shortened(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    match line.char_indices().nth(MESSAGE_LIMIT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;
