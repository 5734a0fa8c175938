//! One error for everything that crosses a component, and one table that says what each protocol calls it.

use std::fmt;

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; callers branch on this, people read the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The request can never succeed as it is.
    InvalidArgument,
    NotFound,
    AlreadyExists,
    Unauthenticated,
    PermissionDenied,
    /// A limit was reached: memory, queue, size. Retrying later may help.
    ResourceExhausted,
    /// Not now: no leader, opening, connection refused. Nothing was decided unless the message says so.
    Unavailable,
    DeadlineExceeded,
    /// Somebody else changed it first, or the epoch is old.
    Conflict,
    Unsupported,
    /// Stored bytes are not what was written.
    Corruption,
    Internal,
}

/// How one kind is called by the protocols that carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// `google.rpc.Code`.
    pub grpc: i32,
    pub http: u16,
    pub mysql: u16,
    pub sqlstate: &'static str,
    pub retryable: bool,
}

impl ErrorKind {
    pub const ALL: [Self; 12] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Conflict,
        Self::Unsupported,
        Self::Corruption,
        Self::Internal,
    ];

    /// The table of codes; the only one.
    pub const fn codes(self) -> Codes {
        const fn row(grpc: i32, http: u16, mysql: u16, sqlstate: &'static str, retryable: bool) -> Codes {
            Codes {
                grpc,
                http,
                mysql,
                sqlstate,
                retryable,
            }
        }
        match self {
            Self::InvalidArgument => row(3, 400, 1064, "42601", false),
            Self::NotFound => row(5, 404, 1146, "42P01", false),
            Self::AlreadyExists => row(6, 409, 1050, "42P07", false),
            Self::Unauthenticated => row(16, 401, 1045, "28P01", false),
            Self::PermissionDenied => row(7, 403, 1044, "42501", false),
            Self::ResourceExhausted => row(8, 429, 1041, "53200", true),
            Self::Unavailable => row(14, 503, 1053, "57P03", true),
            Self::DeadlineExceeded => row(4, 504, 3024, "57014", true),
            Self::Conflict => row(10, 409, 1213, "40001", true),
            Self::Unsupported => row(12, 501, 1235, "0A000", false),
            Self::Corruption => row(15, 500, 1030, "XX001", false),
            Self::Internal => row(13, 500, 1105, "XX000", false),
        }
    }

    pub fn from_grpc(code: i32) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| kind.codes().grpc == code)
            .unwrap_or(Self::Internal)
    }
}

/// A failure with its kind and a message that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        impl Error {
            $(pub fn $name(message: impl Into<String>) -> Self {
                Self::new(ErrorKind::$kind, message)
            })*
        }
    };
}

constructors! {
    invalid => InvalidArgument,
    not_found => NotFound,
    already_exists => AlreadyExists,
    unauthenticated => Unauthenticated,
    permission_denied => PermissionDenied,
    exhausted => ResourceExhausted,
    unavailable => Unavailable,
    deadline => DeadlineExceeded,
    conflict => Conflict,
    unsupported => Unsupported,
    corruption => Corruption,
    internal => Internal,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Whether the same request may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        self.kind.codes().retryable
    }

    /// The same failure with what was being done in front.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_grpc_code_and_finds_back() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_grpc(kind.codes().grpc), kind);
        }
    }

    #[test]
    fn sqlstates_are_five_characters() {
        for kind in ErrorKind::ALL {
            assert_eq!(kind.codes().sqlstate.len(), 5, "{kind:?}");
        }
    }
}
