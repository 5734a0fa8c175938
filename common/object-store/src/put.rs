//! Put-if-absent, whose outcome may be unknown.

use bytes::Bytes;
use greptime_types::{Error, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::store_error;

/// What is known after a put-if-absent.
#[derive(Debug)]
pub enum PutOutcome {
    /// The object is there and is ours.
    Created,
    /// The object is there and somebody else's.
    Exists(Bytes),
}

/// Creates `key` unless it exists.
///
/// A put that answered an error, or "exists" after a lost answer and a retry, may have happened. Therefore the
/// object is read back whenever the answer is not a plain success, and the bytes decide. An error means that
/// even this could not be done: the outcome is unknown, and the same key must be read before anything is
/// concluded.
pub async fn put_if_absent(store: &dyn ObjectStore, key: &Path, bytes: Bytes) -> Result<PutOutcome> {
    let options = PutOptions {
        mode: PutMode::Create,
        ..Default::default()
    };
    let put = store.put_opts(key, bytes.clone().into(), options).await;
    let Err(error) = put else {
        return Ok(PutOutcome::Created);
    };
    match read(store, key).await? {
        Some(found) if found == bytes => Ok(PutOutcome::Created),
        Some(found) => Ok(PutOutcome::Exists(found)),
        None => Err(unknown(key, &error)),
    }
}

async fn read(store: &dyn ObjectStore, key: &Path) -> Result<Option<Bytes>> {
    match store.get(key).await {
        Ok(found) => {
            let bytes = found
                .bytes()
                .await
                .map_err(|e| store_error(&format!("reading {key}"), &e))?;
            Ok(Some(bytes))
        }
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(store_error(&format!("reading {key}"), &error)),
    }
}

fn unknown(key: &Path, error: &object_store::Error) -> Error {
    Error::unavailable(format!(
        "putting {key}: {error}; it is not there, but may still arrive"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn the_first_put_wins_and_the_second_sees_it() {
        let store = InMemory::new();
        let key = Path::from("a/b");
        let put = async |text: &'static str| put_if_absent(&store, &key, Bytes::from(text)).await.unwrap();
        assert!(matches!(put("one").await, PutOutcome::Created));
        assert!(matches!(put("two").await, PutOutcome::Exists(found) if found == "one"));
        assert!(
            matches!(put("one").await, PutOutcome::Created),
            "an own earlier put counts as success"
        );
    }
}
