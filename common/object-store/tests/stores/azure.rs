//! Azurite, Microsoft's emulator of Azure's storage, with its blobs in memory.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{TimeDelta, Utc};
use greptime_object_store::{Limits, ObjectStoreConfig, StoreKind, claim, read_marker, store_error};
use greptime_types::ErrorKind;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

use crate::calm::{create, marker};
use crate::scene::{Case, Scene, behind_proxy, cases, play_with};
use crate::server::Server;

const CONTAINER: &str = "data";

/// Account and key that Azurite has when nothing else is said; Microsoft publishes them.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const VERSION: &str = "2021-12-02";

pub async fn start() -> (ObjectStoreConfig, Server) {
    let program = program();
    let server = Server::start(|address, _| {
        let (host, port) = address.split_once(':').expect("an address has a port");
        let mut command = Command::new("node");
        command
            .arg(program.trim())
            .args(["--blobHost", host, "--blobPort", port, "--inMemoryPersistence"])
            // Versions of the protocol come out before Azurite knows them.
            .args(["--skipApiVersionCheck", "--disableTelemetry", "--silent"]);
        command
    });
    let endpoint = format!("http://{}/{ACCOUNT}", server.address);
    make_container(&endpoint).await;
    let config = ObjectStoreConfig {
        kind: StoreKind::Azure,
        bucket: CONTAINER.into(),
        endpoint: Some(endpoint),
        account_name: Some(ACCOUNT.into()),
        account_key: Some(KEY.into()),
        ..Default::default()
    };
    (config, server)
}

fn program() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/azurite");
    let output = Command::new(&script).output().expect("scripts can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", script.display());
    String::from_utf8(output.stdout).expect("a path is text")
}

/// <https://learn.microsoft.com/rest/api/storageservices/create-container>
async fn make_container(endpoint: &str) {
    let date = Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    // <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>: the verb, eleven headers that are
    // not there, those of Microsoft, and what is asked for. The account is in it twice, as it is in the URL.
    let signed = format!(
        "PUT{}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container",
        "\n".repeat(12)
    );
    let made = reqwest::Client::new()
        .put(format!("{endpoint}/{CONTAINER}?restype=container"))
        .header("x-ms-date", date)
        .header("x-ms-version", VERSION)
        .header(
            "authorization",
            format!("SharedKey {ACCOUNT}:{}", signature(&signed)),
        )
        .send()
        .await
        .expect("Azurite answers");
    let status = made.status();
    let said = made.text().await.unwrap_or_default();
    assert!(status.is_success(), "{status}: {said}");
}

fn signature(signed: &str) -> String {
    let key = BASE64_STANDARD.decode(KEY).expect("the key is base64");
    BASE64_STANDARD.encode(hmac_sha256(&key, signed.as_bytes()))
}

/// RFC 2104, with a key that is no longer than a block of the hash.
fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let padded = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(text)
        .finalize();
    Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

pub fn cases() -> Vec<Case> {
    cases![
        a_shared_access_signature_opens_what_it_is_for,
        a_shared_access_signature_is_not_told,
        keys_of_the_settings_win_over_the_environment
    ]
}

fn with_signature(scene: &Scene, permissions: &str) -> ObjectStoreConfig {
    ObjectStoreConfig {
        account_key: None,
        sas_token: Some(signature_for(permissions)),
        ..scene.settings()
    }
}

async fn a_shared_access_signature_opens_what_it_is_for(scene: Scene) {
    let all = with_signature(&scene, "rwdl").open().unwrap();
    claim(&all, &marker("one")).await.unwrap();
    let reading = with_signature(&scene, "rl").open().unwrap();
    assert_eq!(read_marker(&reading).await.unwrap(), Some(marker("one")));
    let error = create(&reading, &reading.key("file"), "x").await.unwrap_err();
    let error = store_error("writing", &error);
    assert_eq!(error.kind, ErrorKind::PermissionDenied, "{error}");
    assert_eq!(all.destroy().await.unwrap(), 1);
}

async fn a_shared_access_signature_is_not_told(scene: Scene) {
    let (proxy, bucket) = behind_proxy(with_signature(&scene, "rwdl"), &Limits::default()).await;
    claim(&bucket, &marker("one")).await.unwrap();
    proxy.set_busy(true);
    let key = bucket.key("file");
    let errors = [
        bucket.store.get(&key).await.map(drop),
        bucket.store.put(&key, "x".into()).await.map(drop),
        bucket.store.delete(&key).await,
    ];
    for error in errors {
        let error = store_error("asking", &error.unwrap_err());
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        let told = error.message.replace("sig=…", "");
        assert!(!told.contains("sig"), "{error}");
    }
}

async fn keys_of_the_settings_win_over_the_environment(_: Scene) {
    let variables = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "another"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "YW5vdGhlcg=="),
        ("AZURE_STORAGE_TOKEN", "of another"),
        ("AZURE_STORAGE_USE_EMULATOR", "true"),
    ];
    for case in [
        "an_object_is_created_once",
        "a_shared_access_signature_opens_what_it_is_for",
    ] {
        play_with(&variables, &format!("azure::{case}"));
    }
}

/// <https://learn.microsoft.com/rest/api/storageservices/create-service-sas>: for the container and what is in it.
fn signature_for(permissions: &str) -> String {
    let until = (Utc::now() + TimeDelta::hours(1))
        .format("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let place = format!("/blob/{ACCOUNT}/{CONTAINER}");
    let mut signed = vec![permissions, "", &until, &place, "", "", "", VERSION, "c"];
    // Neither a snapshot, nor a scope of encryption, nor headers that an answer would have instead of its own.
    signed.extend([""; 7]);
    let signature = signature(&signed.join("\n"));
    let signature = signature
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let until = until.replace(':', "%3A");
    format!("?sv={VERSION}&sr=c&sp={permissions}&se={until}&sig={signature}")
}
