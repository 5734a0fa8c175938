//! Keeps a stream to one peer: dial, hello, welcome, loss, wait, and again.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use greptime_clock::jittered;
use greptime_proto::v1::{self, peer_answer};
use greptime_types::{Error, ErrorKind, Result, format};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::lane::Ticket;
use crate::peer::Peer;
use crate::peers::Shared;

/// How an attempt ended.
enum End {
    /// No stream came about.
    Failed(String),
    /// The peer does not want this node, or does not know what it wants.
    Refused(String),
    /// A stream was there.
    Lost { why: String, lived: Duration },
    /// The peer, or this node, is gone.
    Gone,
}

pub async fn keep_stream(shared: Arc<Shared>, peer: Arc<Peer>) {
    tokio::select! {
        biased;
        () = peer.stop.cancelled() => {}
        () = one_after_the_other(&shared, &peer) => {}
    }
    peer.abandon();
}

async fn one_after_the_other(shared: &Shared, peer: &Peer) {
    let mut backoff = Backoff::new(shared.config.first_retry, shared.config.last_retry);
    let mut refusals = 0;
    loop {
        let end = one_stream(shared, peer).await;
        refusals = match &end {
            End::Refused(reason) => {
                tell_refusal(peer, refusals, reason);
                refusals + 1
            }
            End::Failed(_) => refusals,
            End::Lost { .. } | End::Gone => 0,
        };
        let wait = match end {
            End::Gone => return,
            End::Failed(why) => {
                peer.down(&why);
                backoff.failed()
            }
            End::Refused(reason) => {
                peer.down(&format!("it refuses this node: {reason}"));
                backoff.refused()
            }
            End::Lost { why, lived } => {
                peer.down(&why);
                backoff.lost(lived)
            }
        };
        tokio::time::sleep(jittered(wait, shared.ids.random_u64())).await;
    }
}

/// A peer that was started anew refuses until metasrv has said so, which is a matter of milliseconds.
fn tell_refusal(peer: &Peer, before: u32, reason: &str) {
    let (node, address) = (peer.address.node, &peer.address.address);
    match before {
        0 => tracing::info!(peer = node, address, reason, "a datanode refuses this one"),
        1 => tracing::warn!(
            peer = node,
            address,
            reason,
            "a datanode goes on refusing this one"
        ),
        _ => {}
    }
}

async fn one_stream(shared: &Shared, peer: &Peer) -> End {
    let Some(hello) = hello(shared, peer) else {
        return End::Gone;
    };
    let (ticket, frames) = peer.lane.begin(hello);
    let within = shared.config.welcome_within;
    let welcome = async {
        let mut answers = shared.link.exchange(&peer.address.address, frames).await?;
        let first = answers.next().await;
        Ok((first, answers))
    };
    let (first, answers) = match tokio::time::timeout(within, welcome).await {
        Ok(Ok(welcomed)) => welcomed,
        Ok(Err(error)) => return refused_or_failed(error),
        Err(_) => return End::Failed(format!("it did not answer the hello within {within:?}")),
    };
    match first.map(|first| first.map(|answer| answer.body)) {
        None => return End::Failed("it closed the stream without an answer".into()),
        Some(Err(error)) => return refused_or_failed(error),
        Some(Ok(Some(peer_answer::Body::Refused(refused)))) => return End::Refused(refused.reason),
        Some(Ok(Some(peer_answer::Body::Welcome(welcome)))) => {
            let meant = peer.address.incarnation;
            if meant != 0 && welcome.incarnation != meant {
                return End::Refused(format!(
                    "start {meant:016x} was meant, {:016x} answers",
                    welcome.incarnation
                ));
            }
        }
        Some(Ok(_)) => return End::Failed("its first answer is neither a welcome nor a refusal".into()),
    }
    welcomed(shared, peer, ticket, answers).await
}

fn refused_or_failed(error: Error) -> End {
    use ErrorKind::{InvalidArgument, PermissionDenied, Unauthenticated, Unsupported};
    match error.kind {
        // An older node does not have the service.
        InvalidArgument | PermissionDenied | Unauthenticated | Unsupported => End::Refused(error.message),
        _ => End::Failed(error.message),
    }
}

fn hello(shared: &Shared, peer: &Peer) -> Option<v1::PeerHello> {
    Some(v1::PeerHello {
        from: Some(shared.handler.upgrade()?.me()),
        to_node: peer.address.node,
        to_incarnation: peer.address.incarnation,
        min_format: format::OLDEST_CLUSTER_FORMAT,
        max_format: format::NEWEST_CLUSTER_FORMAT,
    })
}

/// As long as the stream lives.
async fn welcomed(shared: &Shared, peer: &Peer, ticket: Ticket, answers: Answers) -> End {
    let since = Instant::now();
    if !peer.up(ticket) {
        return End::Gone;
    }
    match listen(shared, peer, answers).await {
        End::Failed(why) => End::Lost {
            why,
            lived: since.elapsed(),
        },
        other => other,
    }
}

type Answers = BoxStream<'static, Result<v1::PeerAnswer>>;

async fn listen(shared: &Shared, peer: &Peer, mut answers: Answers) -> End {
    let mut looked = shared.looked.subscribe();
    loop {
        let answer = tokio::select! {
            // What has been answered is heard before the silence is judged.
            biased;
            answer = answers.next() => answer,
            _ = looked.changed() => {
                if peer.is_unreachable() {
                    let after = shared.config.unreachable_after;
                    return End::Failed(format!("it has not answered for {after:?}"));
                }
                continue;
            }
        };
        match answer.map(|answer| answer.map(|answer| answer.body)) {
            None => return End::Failed("it closed the stream".into()),
            Some(Err(error)) => return End::Failed(error.message),
            Some(Ok(Some(peer_answer::Body::Refused(refused)))) => return End::Refused(refused.reason),
            Some(Ok(Some(peer_answer::Body::Pong(pong)))) => peer.heard(Some(pong.number)),
            Some(Ok(_)) => peer.heard(None),
        }
    }
}
