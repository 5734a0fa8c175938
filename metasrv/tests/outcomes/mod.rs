//! Changes of the catalog whose answer is lost: what metasrv makes of them, whether they were made or not.

use async_trait::async_trait;
use greptime_metasrv::catalog::read_root;
use greptime_metasrv::store::{Change, Expect, Versioned};
use greptime_types::{Error, Result};

use super::*;

/// What becomes of a change without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was made.
    Made,
    /// It was made, and not even an error comes: who asked gives up.
    MadeInSilence,
    /// It never reached the store.
    NotMade,
    /// It reaches the store after the next change.
    Late,
}

/// A store in memory that loses one answer.
#[derive(Default)]
struct UnsureStore {
    memory: MemoryStore,
    /// The beginning of a key that a change puts, and what becomes of this change.
    next: Mutex<Option<(&'static str, Fate)>>,
    /// It has yet to arrive.
    late: Mutex<Option<(Expect, Vec<Change>)>>,
    /// Whether what arrived late was made.
    late_was_made: Mutex<Option<bool>>,
}

impl UnsureStore {
    fn lose(&self, puts: &'static str, fate: Fate) {
        *self.next.lock() = Some((puts, fate));
    }

    /// The fate of a change, if it has one.
    fn fate(&self, changes: &[Change]) -> Option<Fate> {
        let mut next = self.next.lock();
        let (puts, fate) = (*next)?;
        let is_it = |change: &Change| matches!(change, Change::Put(key, _) if key.starts_with(puts));
        changes.iter().any(is_it).then(|| {
            *next = None;
            fate
        })
    }

    /// What was late arrives.
    async fn arrive(&self) -> Result<()> {
        let late = self.late.lock().take();
        if let Some((expect, changes)) = late {
            let made = self.memory.commit(expect, changes).await?.is_some();
            *self.late_was_made.lock() = Some(made);
        }
        Ok(())
    }
}

#[async_trait]
impl Store for UnsureStore {
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Versioned>> {
        self.memory.list(prefix).await
    }

    async fn commit(&self, expect: Expect, changes: Vec<Change>) -> Result<Option<i64>> {
        match self.fate(&changes) {
            None => {
                let made = self.memory.commit(expect, changes).await?;
                self.arrive().await?;
                return Ok(made);
            }
            Some(Fate::Made) => {
                self.memory.commit(expect, changes).await?;
            }
            Some(Fate::MadeInSilence) => {
                self.memory.commit(expect, changes).await?;
                std::future::pending::<()>().await;
            }
            Some(Fate::NotMade) => {}
            Some(Fate::Late) => *self.late.lock() = Some((expect, changes)),
        }
        Err(Error::unavailable("no answer"))
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    async fn destroy(&self) -> Result<()> {
        self.memory.destroy().await
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

fn database(name: &str) -> ddl_request::Body {
    ddl_request::Body::CreateDatabase(v1::CreateDatabase {
        name: name.into(),
        ..Default::default()
    })
}

/// As often as it takes until the answer is one.
async fn answered(world: &World, body: ddl_request::Body) -> Result<v1::DdlResponse> {
    loop {
        match world.ddl(body.clone()).await {
            Err(error) if error.kind == ErrorKind::Unavailable => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            answer => return answer,
        }
    }
}

/// Nobody has said whether the database was made.
async fn ask_without_an_answer(world: &World, fate: Fate) {
    let patience = match fate {
        Fate::MadeInSilence => Duration::from_millis(200),
        Fate::Made | Fate::NotMade | Fate::Late => Duration::from_secs(20),
    };
    match tokio::time::timeout(patience, world.ddl(database("lost"))).await {
        Ok(answer) => {
            let error = answer.unwrap_err();
            assert!(
                error.message.contains("whether the change was made is unknown"),
                "{error}"
            );
        }
        Err(_) => assert_eq!(fate, Fate::MadeInSilence),
    }
}

#[tokio::test]
async fn a_change_without_an_answer_is_looked_for_before_the_next_one() {
    for (fate, is_there) in [
        (Fate::Made, true),
        (Fate::MadeInSilence, true),
        (Fate::NotMade, false),
        (Fate::Late, false),
    ] {
        let store = Arc::new(UnsureStore::default());
        let world = start(store.clone()).await;
        let frontend = FakeNode::new(v1::NodeRole::Frontend, 0, "", 3);
        world.join(&frontend);
        let is_told = |name: &str| {
            frontend.saw(
                |b| matches!(b, push::Body::Catalog(c) if c.databases_json.iter().any(|d| d.contains(name))),
            )
        };
        world.until(|| is_told("public")).await;
        let before = read_root(&*store).await.unwrap().unwrap().0;

        store.lose("database/lost", fate);
        ask_without_an_answer(&world, fate).await;
        // By itself, as soon as nobody knows.
        let taken_over = before.metasrv_epoch + 1;
        world
            .until(|| world.cluster()["metasrv_epoch"] == taken_over)
            .await;
        if is_there {
            world.until(|| is_told("lost")).await;
        } else {
            assert!(!is_told("lost"), "{fate:?}");
        }

        let again = answered(&world, database("lost")).await;
        match is_there {
            true => assert_eq!(again.unwrap_err().kind, ErrorKind::AlreadyExists, "{fate:?}"),
            false => assert!(again.unwrap().changed, "{fate:?}"),
        }
        assert!(answered(&world, database("next")).await.unwrap().changed);
        let kept: Vec<String> = store.list("database/").await.unwrap().into_keys().collect();
        assert_eq!(kept, ["database/lost", "database/next"], "{fate:?}");
        let (root, _) = read_root(&*store).await.unwrap().unwrap();
        assert_eq!(root.revision, before.revision + 2, "each was made once: {fate:?}");
        assert_eq!(root.metasrv_epoch, taken_over, "{fate:?}");
        let late_was_made = *store.late_was_made.lock();
        assert_eq!(late_was_made, (fate == Fate::Late).then_some(false), "{fate:?}");
    }
}

#[tokio::test]
async fn a_take_over_without_an_answer_is_done_once_more() {
    for (fate, epoch) in [(Fate::Made, 2), (Fate::NotMade, 1), (Fate::Late, 1)] {
        let store = Arc::new(UnsureStore::default());
        store.lose("root", fate);
        let world = start(store.clone()).await;
        let (root, _) = read_root(&*store).await.unwrap().unwrap();
        assert_eq!(root.metasrv_epoch, epoch, "{fate:?}");
        assert!(root.bucket_claimed);
        assert!(world.ddl(database("next")).await.unwrap().changed, "{fate:?}");
        let late_was_made = *store.late_was_made.lock();
        assert_eq!(late_was_made, (fate == Fate::Late).then_some(false), "{fate:?}");
    }
}
