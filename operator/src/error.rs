//! What can go wrong in a reconcile, as far as the answer to it differs.

use std::time::Duration;

use kube::core::Status;

/// After a conflict: the watch has told by then what was written.
const AFTER_CONFLICT: Duration = Duration::from_millis(200);
/// What is being deleted may be held for minutes, by a load balancer for example. Its end is mostly seen by a watch.
const WHILE_LEAVING: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody wrote the object after we read it. Nothing is wrong: look again.
    #[error("{doing}: somebody else wrote in between")]
    Conflict { doing: String },
    /// An object must be gone before it can be made again, and it is going.
    #[error("{doing}: the old one is still being deleted")]
    Leaving { doing: String },
    /// The namespace is going, so nothing can be created in it.
    #[error("{doing}: the namespace is being deleted")]
    NamespaceGoing { doing: String },
    /// An object of somebody else has the name.
    #[error(
        "{doing}: there is one already that this operator did not make; delete it, or name the cluster otherwise"
    )]
    Taken { doing: String },
    /// The API server refuses the object as it is; trying the same again cannot help.
    #[error("{doing}: refused: {message}")]
    Refused { doing: String, message: String },
    #[error("{doing}: {source}")]
    Api { doing: String, source: Box<kube::Error> },
    #[error("an object cannot be converted from or to JSON: {0}")]
    Encode(#[source] serde_json::Error),
}

impl Error {
    fn from_api(doing: String, source: kube::Error) -> Self {
        let kube::Error::Api(status) = &source else {
            return Error::Api {
                doing,
                source: Box::new(source),
            };
        };
        match status.code {
            409 if status.reason != "AlreadyExists" => Error::Conflict { doing },
            403 if namespace_terminating(status) => Error::NamespaceGoing { doing },
            400 | 422 => Error::Refused {
                doing,
                message: status.message.clone(),
            },
            _ => Error::Api {
                doing,
                source: Box::new(source),
            },
        }
    }

    /// When to look again, for what goes away by that.
    pub fn passes_in(&self) -> Option<Duration> {
        match self {
            Error::Conflict { .. } => Some(AFTER_CONFLICT),
            Error::Leaving { .. } | Error::NamespaceGoing { .. } => Some(WHILE_LEAVING),
            Error::Taken { .. } | Error::Refused { .. } | Error::Api { .. } | Error::Encode(_) => None,
        }
    }

    /// Whether it goes away by looking again, so that nobody needs to be told.
    pub fn is_transient(&self) -> bool {
        self.passes_in().is_some()
    }
}

fn namespace_terminating(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|d| &d.causes);
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

/// Says what was being done when a request failed.
pub trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::from_api(what(), source))
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn what_is_still_leaving_is_asked_for_less_often_than_after_a_conflict() {
        let doing = || "apply Service demo-frontend".to_owned();
        let conflict = Error::Conflict { doing: doing() };
        let leaving = Error::Leaving { doing: doing() };
        assert!(conflict.is_transient() && leaving.is_transient());
        assert!(conflict.passes_in() < leaving.passes_in());
        let taken = Error::Taken { doing: doing() };
        assert!(!taken.is_transient());
    }
}
