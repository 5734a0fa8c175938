//! What can go wrong in a reconcile, as far as the answer to it differs.

use kube::core::Status;

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

    /// Whether it goes away by looking again, so that nobody needs to be told.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Conflict { .. } | Error::Leaving { .. } | Error::NamespaceGoing { .. }
        )
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
