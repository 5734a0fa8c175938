//! A store that is asked, and the place in it that one case has for itself.

use std::process::Command;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};
use greptime_object_store::{Bucket, Limits, ObjectStoreConfig, StoreKind};
use object_store::ObjectStore;
use object_store::path::Path;
use tempfile::TempDir;

use crate::proxy::Proxy;
use crate::{azure, gcs, s3};

/// One question to a store, with the name that its trial has.
pub struct Case {
    pub name: &'static str,
    pub play: fn(Scene) -> LocalBoxFuture<'static, ()>,
}

/// The cases of these names, which are `async fn(Scene)`.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::scene::Case {
            name: stringify!($name),
            play: |scene| Box::pin($name(scene)),
        }),*]
    };
}
pub(crate) use cases;

pub struct Kind {
    pub name: &'static str,
    /// Whether there is a network between the store and us.
    pub is_remote: bool,
    start: fn() -> BoxFuture<'static, Subject>,
    /// Those of this kind alone.
    pub cases: fn() -> Vec<Case>,
}

pub const KINDS: [Kind; 5] = [
    Kind {
        name: "s3",
        is_remote: true,
        start: || async { Subject::of(s3::start()) }.boxed(),
        cases: s3::cases,
    },
    Kind {
        name: "gcs",
        is_remote: true,
        start: || async { Subject::of(gcs::start().await) }.boxed(),
        cases: gcs::cases,
    },
    Kind {
        name: "azure",
        is_remote: true,
        start: || async { Subject::of(azure::start().await) }.boxed(),
        cases: azure::cases,
    },
    Kind {
        name: "local",
        is_remote: false,
        start: || async { Subject::of(local()) }.boxed(),
        cases: Vec::new,
    },
    Kind {
        name: "memory",
        is_remote: false,
        start: || async { Subject::of(memory()) }.boxed(),
        cases: Vec::new,
    },
];

impl Kind {
    pub fn start(&self) -> BoxFuture<'static, Subject> {
        (self.start)()
    }
}

fn local() -> (ObjectStoreConfig, TempDir) {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written to");
    let config = ObjectStoreConfig {
        kind: StoreKind::Local,
        dir: Some(dir.path().to_owned()),
        ..Default::default()
    };
    (config, dir)
}

fn memory() -> (ObjectStoreConfig, ()) {
    let config = ObjectStoreConfig {
        kind: StoreKind::Memory,
        ..Default::default()
    };
    (config, ())
}

/// A store with its server, if it has one.
pub struct Subject {
    settings: ObjectStoreConfig,
    store: Arc<dyn ObjectStore>,
    /// What the store lives in.
    _home: Box<dyn Send + Sync>,
}

impl Subject {
    fn of<H: Send + Sync + 'static>((settings, home): (ObjectStoreConfig, H)) -> Self {
        let store = settings.open().expect("the settings are right").store;
        Self {
            settings,
            store,
            _home: Box::new(home),
        }
    }
}

/// Plays a case in a process of its own, with more variables in its environment.
pub fn play_with(variables: &[(&str, &str)], case: &str) {
    let program = std::env::current_exe().expect("this program is a file");
    let mut command = Command::new(program);
    command.args(["--exact", case]).envs(variables.iter().copied());
    let played = command.output().expect("this program can be run");
    let said = String::from_utf8_lossy(&played.stdout);
    assert!(played.status.success() && said.contains("1 passed"), "{said}");
}

pub struct Scene {
    subject: Arc<Subject>,
    root: &'static str,
}

impl Scene {
    pub fn new(subject: Arc<Subject>, root: &'static str) -> Self {
        Self { subject, root }
    }

    pub fn kind(&self) -> StoreKind {
        self.subject.settings.kind
    }

    /// Settings that lead to [`Self::bucket`].
    pub fn settings(&self) -> ObjectStoreConfig {
        ObjectStoreConfig {
            root: self.root.into(),
            ..self.subject.settings.clone()
        }
    }

    /// What is below a root that no other case has.
    pub fn bucket(&self) -> Bucket {
        Bucket {
            store: Arc::clone(&self.subject.store),
            root: Path::from(self.root),
        }
    }

    /// The same bucket, every request to which goes through a proxy.
    pub async fn behind_proxy(&self) -> (Proxy, Bucket) {
        self.impatient(&Limits::default()).await
    }

    /// As [`Self::behind_proxy`], for a client with other limits.
    pub async fn impatient(&self, limits: &Limits) -> (Proxy, Bucket) {
        behind_proxy(self.settings(), limits).await
    }
}

/// The bucket of these settings, every request to which goes through a proxy.
pub async fn behind_proxy(mut settings: ObjectStoreConfig, limits: &Limits) -> (Proxy, Bucket) {
    let endpoint = settings.endpoint.expect("a store of the network has a URL");
    let server = server_of(&endpoint);
    let proxy = Proxy::to(server).await;
    settings.endpoint = Some(endpoint.replace(server, &proxy.address));
    let bucket = settings.open_within(limits).expect("the settings are right");
    (proxy, bucket)
}

/// `host:port` of a URL.
fn server_of(url: &str) -> &str {
    let rest = url.trim_start_matches("http://");
    rest.split('/').next().unwrap_or(rest)
}
