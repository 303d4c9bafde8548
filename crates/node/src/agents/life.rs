//! What a registered agent does: when it was seen, whether it follows its inbox, what it may call.
//!
//! It lives as long as the agent does, whatever becomes of its token and its profile.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;
use wire::peer::Presence;

use super::{ONLINE_FOR, lock};

/// See the module.
#[derive(Debug)]
pub(crate) struct Life {
    /// Milliseconds of the registry's own clock, plus one; 0 before the first call.
    seen: AtomicU64,
    /// Streams of its inbox that are open.
    following: AtomicUsize,
    /// It says so.
    away: AtomicBool,
    /// Calls that are being answered.
    pub(crate) in_flight: AtomicUsize,
    bucket: Mutex<Bucket>,
    news: Arc<Notify>,
}

/// An agent that follows its inbox, until dropped.
#[derive(Debug)]
pub struct Following {
    life: Arc<Life>,
    started: Instant,
}

/// What an agent may still call at this moment.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl Life {
    /// `news` is notified when its presence may be another.
    pub(super) fn new(news: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            seen: AtomicU64::new(0),
            following: AtomicUsize::new(0),
            away: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            bucket: Mutex::new(Bucket {
                tokens: 0.0,
                filled: None,
            }),
            news,
        })
    }

    pub(super) fn saw(&self, now_ms: u64) {
        let before = self.presence(now_ms);
        self.seen.store(now_ms + 1, Ordering::Relaxed);
        self.tell(before, now_ms);
    }

    pub(super) fn set_away(&self, away: bool, now_ms: u64) {
        let before = self.presence(now_ms);
        self.away.store(away, Ordering::Relaxed);
        self.tell(before, now_ms);
    }

    pub(super) fn presence(&self, now_ms: u64) -> Presence {
        let called = || self.idle_ms(now_ms).is_some_and(|ms| ms < ONLINE_MS);
        let busy = || self.in_flight.load(Ordering::Relaxed) > 0;
        match !self.away.load(Ordering::Relaxed) && (called() || busy()) {
            true => Presence::Online,
            false => Presence::Away,
        }
    }

    /// Whoever follows its inbox is seen all the time.
    pub(super) fn idle_ms(&self, now_ms: u64) -> Option<u64> {
        if self.following.load(Ordering::Relaxed) > 0 {
            return Some(0);
        }
        let seen = self.seen.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now_ms.saturating_sub(seen))
    }

    /// Takes one call from the agent's allowance.
    pub(super) fn take(&self, per_second: f64, burst: f64, now: Instant) -> bool {
        lock(&self.bucket).take(per_second, burst, now)
    }

    /// That it goes away by itself is seen by whoever looks now and then.
    fn tell(&self, before: Presence, now_ms: u64) {
        if self.presence(now_ms) != before {
            self.news.notify_one();
        }
    }
}

impl Following {
    pub(super) fn new(life: Arc<Life>, started: Instant) -> Self {
        let following = Self { life, started };
        let (life, now_ms) = (&following.life, following.now_ms());
        let before = life.presence(now_ms);
        life.following.fetch_add(1, Ordering::Relaxed);
        life.tell(before, now_ms);
        following
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Drop for Following {
    /// It was there until now; whether it comes back, the next minute shows.
    fn drop(&mut self) {
        self.life.saw(self.now_ms());
        self.life.following.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bucket {
    fn take(&mut self, per_second: f64, burst: f64, now: Instant) -> bool {
        let since = self
            .filled
            .map(|filled| now.saturating_duration_since(filled));
        self.tokens = match since {
            Some(since) => since
                .as_secs_f64()
                .mul_add(per_second, self.tokens)
                .min(burst),
            None => burst,
        };
        self.filled = Some(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// [`ONLINE_FOR`] in milliseconds.
const ONLINE_MS: u64 = ONLINE_FOR.as_secs() * 1000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_agent_is_online_for_a_minute_after_each_call() {
        let life = Life::new(Arc::default());

        assert_eq!(life.presence(0), Presence::Away);
        life.saw(5_000);
        assert_eq!(life.presence(5_000 + ONLINE_MS - 1), Presence::Online);
        assert_eq!(life.presence(5_000 + ONLINE_MS), Presence::Away);
        assert_eq!(life.idle_ms(5_000 + ONLINE_MS), Some(ONLINE_MS));
    }

    #[test]
    fn whoever_follows_its_inbox_is_online_until_a_minute_after_it_ended() {
        let (life, start) = (Life::new(Arc::default()), Instant::now());
        let later = 10 * ONLINE_MS;

        let following = Following::new(life.clone(), start);
        assert_eq!(
            (life.presence(later), life.idle_ms(later)),
            (Presence::Online, Some(0))
        );
        drop(following);
        assert_eq!(life.presence(later), Presence::Away);
        assert_eq!(life.presence(0), Presence::Online);
    }

    #[test]
    fn away_holds_whatever_the_agent_calls_until_it_says_online() {
        let life = Life::new(Arc::default());
        life.saw(1);

        life.set_away(true, 2);
        life.saw(3);
        assert_eq!(life.presence(3), Presence::Away);
        life.set_away(false, 4);
        assert_eq!(life.presence(4), Presence::Online);
    }

    #[tokio::test]
    async fn only_another_presence_is_news() {
        let news = Arc::new(Notify::new());
        let life = Life::new(news.clone());

        life.saw(1);
        news.notified().await;
        life.saw(2);
        life.set_away(false, 3);
        let silent = tokio::time::timeout(Duration::from_millis(20), news.notified()).await;
        assert!(silent.is_err(), "two calls are one presence");
        life.set_away(true, 4);
        news.notified().await;
    }

    #[test]
    fn an_allowance_refills_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket {
            tokens: 0.0,
            filled: None,
        };

        let at_once = (0..5).filter(|_| bucket.take(1.0, 3.0, start)).count();
        let later = (0..5)
            .filter(|_| bucket.take(1.0, 3.0, start + Duration::from_secs(2)))
            .count();

        assert_eq!((at_once, later), (3, 2));
    }
}
