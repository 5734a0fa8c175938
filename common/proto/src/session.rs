//! A node's session with metasrv: register, beat, be told, and again when the stream breaks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use greptime_clock::{SharedIds, jittered};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::transport::MetaLink;
use crate::v1::{self, beat, push};

/// Used until metasrv says otherwise.
const DEFAULT_INTERVAL: Duration = Duration::from_millis(100);
/// From a beat that has not been answered to the next: one that is lost must not look like a death.
const HURRIED: Duration = Duration::from_millis(25);
/// An append that has waited for its disk for so long may hang, and soon is to be known to.
const HANGS_MS: u64 = 50;
/// From one beat to the next, however many news there are.
const NEWS: Duration = Duration::from_millis(3);
/// Between attempts to register; doubled up to the maximum, with jitter, so that a cluster does not come in waves. A new
/// metasrv takes those for dead who let it wait for longer than a few of them.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(500);
/// A node that was refused has to be mended first.
const REFUSED_RETRY: Duration = Duration::from_secs(2);
/// Attempts that fail are told again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// A session in which metasrv has said nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(5);
/// Beats that may wait for a slow stream; more means that the stream is stuck and it is given up.
const QUEUE: usize = 16;

/// What a node has to say and to hear. None of it may block.
pub trait SessionHandler: Send + Sync + 'static {
    fn register(&self) -> v1::Register;
    /// `answered`: the newest tick of this session whose answer has come, or 0.
    fn tick(&self, number: u64, answered: u64) -> v1::Tick;
    /// Told when something has changed that metasrv should hear at once, and not with the next beat.
    fn news(&self) -> Arc<Notify> {
        Arc::default()
    }
    /// Everything but session keeping (`Welcome` is passed on too).
    fn told(&self, push: push::Body);
    /// metasrv has answered a tick of this session, as the first answer to it or a later one.
    fn answered(&self, tock: &v1::Tock) {
        let _ = tock;
    }
    /// The session ended, or could not be opened; the reason is for the log. Of attempts only some are told.
    fn disconnected(&self, reason: &str);
}

/// Why a session ended, and whether the next attempt should wait long.
enum End {
    Broken(String),
    Refused(String),
    Shutdown,
}

/// Keeps one session after the other until `shutdown`.
pub async fn run_session(
    link: Arc<dyn MetaLink>,
    handler: Arc<dyn SessionHandler>,
    ids: SharedIds,
    shutdown: CancellationToken,
) {
    let mut retry = FIRST_RETRY;
    let mut epoch = 0;
    let mut quiet_until = Instant::now();
    while !shutdown.is_cancelled() {
        let mut welcomed = Welcomed { epoch, is_in: false };
        let end = one_session(link.as_ref(), handler.as_ref(), &shutdown, &mut welcomed).await;
        epoch = welcomed.epoch;
        if welcomed.is_in {
            retry = FIRST_RETRY;
        }
        match end {
            End::Shutdown => return,
            // While nobody leads, attempts fail several times a second.
            End::Broken(_) if !welcomed.is_in && Instant::now() < quiet_until => {}
            End::Broken(reason) => {
                quiet_until = Instant::now() + TELL_AGAIN;
                handler.disconnected(&reason);
            }
            End::Refused(reason) => {
                retry = REFUSED_RETRY;
                handler.disconnected(&format!("metasrv refuses this node: {reason}"));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(retry, ids.random_u64())) => {}
            () = shutdown.cancelled() => return,
        }
        retry = (retry * 2).min(LAST_RETRY);
    }
}

/// What the welcomes of metasrv have said.
#[derive(Debug)]
struct Welcomed {
    /// The highest that a metasrv has led in.
    epoch: u64,
    /// Whether this session is taken in.
    is_in: bool,
}

impl Welcomed {
    /// A metasrv that has been followed by another may not know it yet. What it orders would be taken for the word of the
    /// newest, so it is not listened to; a process that starts again knows no epoch.
    fn by(&mut self, welcome: &v1::Welcome) -> Result<(), End> {
        if welcome.metasrv_epoch < self.epoch {
            return Err(End::Broken(format!(
                "that metasrv led in epoch {}, and another leads in epoch {}",
                welcome.metasrv_epoch, self.epoch
            )));
        }
        self.epoch = welcome.metasrv_epoch;
        self.is_in = true;
        Ok(())
    }
}

async fn one_session(
    link: &dyn MetaLink,
    handler: &dyn SessionHandler,
    shutdown: &CancellationToken,
    welcomed: &mut Welcomed,
) -> End {
    let (beats, outgoing) = mpsc::channel(QUEUE);
    let register = v1::Beat {
        body: Some(beat::Body::Register(handler.register())),
    };
    if beats.try_send(register).is_err() {
        return End::Broken("the beat queue is closed".into());
    }
    let opened = tokio::select! {
        opened = tokio::time::timeout(SILENCE, link.heartbeat(ReceiverStream::new(outgoing).boxed())) => opened,
        () = shutdown.cancelled() => return End::Shutdown,
    };
    let mut pushes = match opened {
        Ok(Ok(pushes)) => pushes,
        Ok(Err(error)) => return End::Broken(error.message),
        Err(_) => return End::Broken("metasrv does not answer".into()),
    };
    let mut interval = DEFAULT_INTERVAL;
    let mut ticks = Ticks::default();
    let mut heard = Instant::now();
    let mut next_beat = NextBeat::first(heard);
    let mut hangs = false;
    let news = handler.news();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return End::Shutdown,
            push = pushes.next() => {
                heard = Instant::now();
                match push.map(|p| p.map(|p| p.body)) {
                    None => return End::Broken("metasrv closed the stream".into()),
                    Some(Err(error)) => return End::Broken(error.message),
                    Some(Ok(None)) => {}
                    Some(Ok(Some(push::Body::Refused(refused)))) => return End::Refused(refused.reason),
                    Some(Ok(Some(push::Body::NotLeader(to)))) => {
                        return End::Broken(format!("that metasrv does not lead, the leader is `{}`", to.leader));
                    }
                    Some(Ok(Some(body))) => {
                        if let push::Body::Tock(tock) = &body
                            && let Some(sent) = ticks.answered(tock.number)
                        {
                            if tock.number == ticks.number && !hangs {
                                next_beat.answered(sent + interval);
                            }
                            handler.answered(tock);
                        }
                        if let push::Body::Welcome(welcome) = &body {
                            if let Err(end) = welcomed.by(welcome) {
                                return end;
                            }
                            interval = Duration::from_millis(welcome.heartbeat_interval_ms.max(10));
                        }
                        handler.told(body);
                    }
                }
            }
            () = tokio::time::sleep_until(next_beat.at), if welcomed.is_in => {
                // Taken before it is sent: what is promised in the answer counts from no later moment.
                let sent = Instant::now();
                let number = ticks.begin(sent);
                let tick = handler.tick(number, ticks.answered);
                hangs = tick.oldest_append_ms >= HANGS_MS;
                if beats.try_send(v1::Beat { body: Some(beat::Body::Tick(tick)) }).is_err() {
                    return End::Broken("metasrv does not take beats".into());
                }
                next_beat.sent(sent, interval);
            }
            () = news.notified(), if welcomed.is_in => next_beat.has_news(Instant::now()),
            () = tokio::time::sleep_until(heard + SILENCE) => {
                return End::Broken("metasrv is silent".into());
            }
        }
    }
}

/// When the next beat is due.
#[derive(Clone, Copy, Debug)]
struct NextBeat {
    at: Instant,
    sent_last: Instant,
    has_news: bool,
}

impl NextBeat {
    fn first(at: Instant) -> Self {
        Self {
            at,
            sent_last: at,
            has_news: false,
        }
    }

    fn sent(&mut self, at: Instant, interval: Duration) {
        *self = Self {
            at: at + (interval / 4).min(HURRIED),
            sent_last: at,
            has_news: false,
        };
    }

    fn has_news(&mut self, now: Instant) {
        self.at = now.max(self.sent_last + NEWS);
        self.has_news = true;
    }

    /// The last one was answered, so that there is no hurry; but what has happened since it was sent is not in it.
    fn answered(&mut self, then: Instant) {
        if !self.has_news {
            self.at = then;
        }
    }
}

/// The ticks of a session and when they were sent.
#[derive(Debug, Default)]
struct Ticks {
    /// Of the newest; they count from 1.
    number: u64,
    /// The newest that was answered.
    answered: u64,
    /// Those after it, oldest first.
    open: VecDeque<(u64, Instant)>,
}

impl Ticks {
    fn begin(&mut self, sent: Instant) -> u64 {
        self.number += 1;
        self.open.push_back((self.number, sent));
        // An older one would promise nothing any more.
        if self.open.len() > QUEUE {
            self.open.pop_front();
        }
        self.number
    }

    /// When the tick was sent; `None` if it, or a later one, was answered before.
    fn answered(&mut self, number: u64) -> Option<Instant> {
        let place = self.open.iter().position(|(open, _)| *open == number)?;
        let (_, sent) = self.open.drain(..=place).next_back()?;
        self.answered = number;
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metasrv_that_was_followed_by_another_is_not_listened_to() {
        let mut welcomed = Welcomed {
            epoch: 0,
            is_in: false,
        };
        let welcome = |metasrv_epoch| v1::Welcome {
            metasrv_epoch,
            ..Default::default()
        };
        assert!(welcomed.by(&welcome(5)).is_ok() && welcomed.by(&welcome(6)).is_ok());
        let Err(End::Broken(why)) = welcomed.by(&welcome(5)) else {
            panic!("the leader of an earlier epoch was believed");
        };
        assert_eq!(why, "that metasrv led in epoch 5, and another leads in epoch 6");
        assert!(welcomed.by(&welcome(6)).is_ok());
    }

    #[test]
    fn news_do_not_wait_because_the_beat_before_them_is_answered() {
        let now = Instant::now();
        let later = now + DEFAULT_INTERVAL;
        let mut next = NextBeat::first(now);
        next.sent(now, DEFAULT_INTERVAL);
        assert_eq!(next.at, now + HURRIED);
        next.answered(later);
        assert_eq!(next.at, later);
        let at = now + NEWS * 2;
        next.has_news(at);
        next.answered(later);
        assert_eq!(next.at, at);
        // They are bounded all the same.
        next.sent(at, DEFAULT_INTERVAL);
        next.has_news(at);
        assert_eq!(next.at, at + NEWS);
    }

    #[test]
    fn an_answer_belongs_to_the_moment_at_which_its_tick_was_sent() {
        let mut ticks = Ticks::default();
        let first = Instant::now();
        let later = first + HURRIED;
        assert_eq!(
            (ticks.begin(first), ticks.begin(later), ticks.begin(later)),
            (1, 2, 3)
        );
        assert_eq!(ticks.answered(2), Some(later));
        assert_eq!(ticks.answered(1), None, "a late answer of an older tick");
        assert_eq!(ticks.answered(2), None);
        assert_eq!(ticks.answered(7), None);
        assert_eq!((ticks.answered, ticks.number), (2, 3));
        for _ in 0..100 {
            ticks.begin(later);
        }
        assert!(ticks.open.len() <= QUEUE);
        assert_eq!(ticks.answered(3), None, "too old to promise anything");
    }
}
