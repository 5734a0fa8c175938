use axum::Router;
use axum::extract::Path;
use axum::routing::get;

use super::*;

/// Answers as three instances of which the second leads, at `/<pod>`.
async fn server() -> std::net::SocketAddr {
    let answer = |Path(pod): Path<String>| async move {
        match pod.as_str() {
            "a" => Ok(r#"{"leader": false, "from": "a"}"#),
            "b" => Ok(r#"{"leader": true, "from": "b"}"#),
            "text" => Ok("hello"),
            _ => Err(axum::http::StatusCode::SERVICE_UNAVAILABLE),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/{pod}", get(answer))).await });
    address
}

async fn ask(pods: &[&str]) -> Result<Value, String> {
    let address = server().await;
    let client = MetasrvClient::new(&format!("http://{{ip}}:{}/{{pod}}", address.port()));
    let instances: Vec<_> = pods
        .iter()
        .map(|pod| Instance {
            pod: pod.to_string(),
            ip: address.ip().to_string(),
        })
        .collect();
    client.ask("ns", "demo", &instances).await
}

#[tokio::test]
async fn the_leader_is_believed_first_and_a_follower_when_there_is_no_leader() {
    assert_eq!(ask(&["a", "b"]).await.unwrap()["from"], "b");
    assert_eq!(ask(&["a", "x"]).await.unwrap()["from"], "a");
}

#[tokio::test]
async fn every_instance_that_did_not_answer_is_named_with_why() {
    let why = ask(&["x", "text"]).await.unwrap_err();
    assert!(why.contains("x: http://") && why.contains("503"), "{why}");
    assert!(why.contains("text: http://") && why.contains("not JSON"), "{why}");
    assert!(ask(&[]).await.unwrap_err().contains("no metasrv pod"));
}
