//! The laboratory's S3 server, over a directory.

use std::process::Command;

use greptime_object_store::{ObjectStoreConfig, StoreKind};

use crate::scene::{Case, Scene, cases, play_with};
use crate::server::{Server, tool};

const BUCKET: &str = "data";

const ID: &str = "tester";
const SECRET: &str = "the-secret-of-the-tester";

pub fn start() -> (ObjectStoreConfig, Server) {
    let server = Server::start(|address, dir| {
        // A directory of the server's is a bucket.
        let buckets = dir.join("buckets");
        std::fs::create_dir_all(buckets.join(BUCKET)).expect("its directory can be written to");
        let mut command = Command::new(tool("versitygw"));
        command
            .env("ROOT_ACCESS_KEY_ID", ID)
            .env("ROOT_SECRET_ACCESS_KEY", SECRET)
            .args(["--port", address, "--quiet", "--keep-alive", "posix"])
            .arg(buckets);
        command
    });
    let config = ObjectStoreConfig {
        kind: StoreKind::S3,
        bucket: BUCKET.into(),
        endpoint: Some(format!("http://{}", server.address)),
        path_style: true,
        access_key_id: Some(ID.into()),
        secret_access_key: Some(SECRET.into()),
        ..Default::default()
    };
    (config, server)
}

pub fn cases() -> Vec<Case> {
    cases![keys_of_the_settings_win_over_the_environment]
}

async fn keys_of_the_settings_win_over_the_environment(_: Scene) {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "another"),
        ("AWS_SECRET_ACCESS_KEY", "another"),
        ("AWS_SESSION_TOKEN", "of another"),
    ];
    play_with(&variables, "s3::an_object_is_created_once");
}
