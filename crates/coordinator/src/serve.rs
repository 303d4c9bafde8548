//! The shell: sessions in, documents to disk, updates out.
//!
//! ```text
//! relay ─MapSession─► one task each ─► Core (one mutex, never held across an await)
//!                                        │ take_commit
//!                                        ▼
//!                         writer thread (SQLite, fsync) ─► handle_stored ─► every session looks
//! ```
//! A session is owed a bounded number of answers: a client that does not read is soon not read
//! either, and one that takes longer than [`SLOW`] for one update is closed.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::{Claim, IdentityKey, NodeId, UnixTime};
use net::beacon::{MapSession, verify_claim_mac};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use wire::link::Transcript;
use wire::map::MapUpdate;
use zeroize::Zeroizing;

use crate::core::{Commit, Core, Now, Output};
use crate::files::{BeaconDir, FileError};
use crate::store::{Sqlite, Store, StoreError};

/// How long one update may wait for a client that does not read.
pub const SLOW: Duration = Duration::from_secs(30);

/// The coordinator of one beacon.
pub struct Coordinator {
    key: Arc<IdentityKey>,
    files: BeaconDir,
    core: Mutex<Core>,
    claim: Mutex<Option<Claim>>,
    store: Mutex<Option<Box<dyn Store>>>,
    /// Counts up whenever a session may have something new to send.
    news: watch::Sender<u64>,
    /// Work for the main loop: writes or cuts.
    work: Notify,
}

/// Closes every link of a node, at once: what the relay offers.
pub type Cut = Box<dyn Fn(NodeId) + Send + Sync>;

impl Coordinator {
    /// Opens the state of a beacon, making keys and, where nobody has claimed it, a claim.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let files = BeaconDir::open(directory)?;
        let key = IdentityKey::from_bytes(&*files.identity(&*random()?)?);
        let epoch = u64::from_le_bytes(*random()?.first_chunk().expect("8 of 32 bytes"));
        let mut store = Sqlite::open(&files.database(), epoch)?;
        let key = Arc::new(key);
        let core = Core::restore(Arc::clone(&key), &store.load()?);
        let claim = match core.is_claimed() {
            true => {
                // A crash may have come between the membership and this.
                files.remove_claim()?;
                None
            }
            false => {
                let secret = files.claim(&*random()?)?;
                Some(Claim {
                    identity: key.public(),
                    secret,
                })
            }
        };
        Ok(Self {
            key,
            files,
            core: Mutex::new(core),
            claim: Mutex::new(claim),
            store: Mutex::new(Some(Box::new(store))),
            news: watch::Sender::new(0),
            work: Notify::new(),
        })
    }

    /// What the operator needs to claim this beacon, `cmc1…`; `None` once it is claimed.
    pub fn claim_text(&self) -> Option<Zeroizing<String>> {
        lock(&self.claim).as_ref().map(Claim::to_text)
    }

    /// This beacon's identity key.
    pub fn identity(&self) -> Arc<IdentityKey> {
        Arc::clone(&self.key)
    }

    /// This beacon's node id, once it is claimed.
    pub fn node(&self) -> Option<NodeId> {
        self.core().node()
    }

    /// How many members have a link here.
    pub fn online(&self) -> usize {
        self.core().online()
    }

    /// Serves sessions until `shutdown`; what was accepted is on disk when it returns.
    pub async fn run(
        self: Arc<Self>,
        mut sessions: mpsc::Receiver<MapSession>,
        cut: Cut,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let store = lock(&self.store).take().ok_or(RunError::Running)?;
        let (commits, mut stored) = writer(store)?;
        let mut tasks = JoinSet::new();
        let mut writing = false;
        let mut retry_at: Option<tokio::time::Instant> = None;
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let deadline = self.turn(&cut, &mut writing, retry_at, &commits);
            let wake = [deadline, retry_at].into_iter().flatten().min();
            let sleep = tokio::time::sleep_until(wake.unwrap_or_else(far));
            tokio::select! {
                session = sessions.recv() => match session {
                    Some(session) => { tasks.spawn(Arc::clone(&self).serve(session)); }
                    None => break,
                },
                Some((commit, result)) = stored.recv() => {
                    writing = false;
                    retry_at = self.handle_written(commit, result);
                }
                () = self.work.notified() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                () = sleep => {
                    retry_at = None;
                    let now = self.now();
                    self.core().handle_timeout(now);
                    self.tell();
                }
                () = &mut shutdown => break,
            }
        }
        tasks.shutdown().await;
        if writing && let Some((commit, result)) = stored.recv().await {
            self.handle_written(commit, result);
        }
        writing = false;
        self.turn(&cut, &mut writing, None, &commits);
        drop(commits);
        while let Some((commit, result)) = stored.recv().await {
            self.handle_written(commit, result);
        }
        Ok(())
    }

    /// Does what the core decided, and says when it wants to be called again.
    fn turn(
        &self,
        cut: &Cut,
        writing: &mut bool,
        retry_at: Option<tokio::time::Instant>,
        commits: &mpsc::UnboundedSender<Commit>,
    ) -> Option<tokio::time::Instant> {
        let mut core = self.core();
        let mut cuts = Vec::new();
        while let Some(Output::Cut(node)) = core.poll_output() {
            cuts.push(node);
        }
        if !*writing
            && retry_at.is_none()
            && let Some(commit) = core.take_commit()
        {
            *writing = commits.send(commit).is_ok();
        }
        let deadline = core.deadline().map(tokio::time::Instant::from_std);
        drop(core);
        for node in cuts {
            cut(node);
        }
        deadline
    }

    fn handle_written(
        &self,
        commit: Commit,
        result: Result<(), StoreError>,
    ) -> Option<tokio::time::Instant> {
        let mut core = self.core();
        let retry_at = match result {
            Ok(()) => {
                core.handle_stored(&commit);
                if core.is_claimed() && lock(&self.claim).take().is_some() {
                    tracing::info!("this beacon is claimed");
                    if let Err(error) = self.files.remove_claim() {
                        tracing::error!(error = &error as &dyn std::error::Error, "void claim");
                    }
                }
                None
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "nothing is stored"
                );
                core.handle_store_failed(commit);
                Some(tokio::time::Instant::now() + RETRY)
            }
        };
        drop(core);
        self.tell();
        retry_at
    }

    async fn serve(self: Arc<Self>, mut session: MapSession) {
        let mut news = self.news.subscribe();
        let now = self.now();
        let id = self
            .core()
            .handle_opened(session.who, session.restricted, now);
        self.tell();
        let mut next: Option<(MapUpdate, tokio::time::Instant)> = None;
        loop {
            if next.is_none() {
                let update = self.next_update(id);
                next = update.map(|update| (update, tokio::time::Instant::now() + SLOW));
            }
            let slow_at = next.as_ref().map_or_else(far, |(_, slow_at)| *slow_at);
            tokio::select! {
                permit = session.updates.reserve(), if next.is_some() => match (permit, next.take()) {
                    (Ok(permit), Some((update, _))) => permit.send(update),
                    _ => return self.closed(id),
                },
                request = session.requests.recv(), if self.core().takes_requests(id) => match request {
                    Some(request) => {
                        let now = self.now();
                        self.core().handle_request(id, request, now);
                        self.wake();
                    }
                    None => return self.closed(id),
                },
                _ = news.changed(), if next.is_none() => {}
                () = tokio::time::sleep_until(slow_at), if next.is_some() => {
                    tracing::warn!("closed a client that does not read its updates");
                    return self.closed(id);
                }
            }
        }
    }

    fn next_update(&self, id: crate::session::SessionId) -> Option<MapUpdate> {
        let clock = self.now().clock;
        self.core().poll_update(id, clock)
    }

    fn closed(&self, id: crate::session::SessionId) {
        let now = self.now();
        self.core().handle_closed(id, now);
        self.wake();
    }

    /// The main loop has something to do.
    pub(crate) fn wake(&self) {
        self.work.notify_one();
        self.tell();
    }

    fn tell(&self) {
        self.news
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    pub(crate) fn claim_verifies(&self, transcript: &Transcript, mac: &[u8; 32]) -> bool {
        let claim = lock(&self.claim);
        claim
            .as_ref()
            .is_some_and(|claim| verify_claim_mac(&claim.secret, transcript, mac))
    }

    pub(crate) fn now(&self) -> Now {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            instant: Instant::now(),
            clock: UnixTime(since.as_secs()),
        }
    }
}

type Stored = mpsc::UnboundedReceiver<(Commit, Result<(), StoreError>)>;

/// The thread that fsyncs. One commit is on its way at a time, so neither channel grows.
fn writer(mut store: Box<dyn Store>) -> Result<(mpsc::UnboundedSender<Commit>, Stored), RunError> {
    let (commits, mut inbox) = mpsc::unbounded_channel::<Commit>();
    let (outbox, stored) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("beacon-store".into())
        .spawn(move || {
            while let Some(commit) = inbox.blocking_recv() {
                let result = store.commit(&commit.writes);
                if outbox.send((commit, result)).is_err() {
                    break;
                }
            }
        })
        .map_err(RunError::Thread)?;
    Ok((commits, stored))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(3600)
}

fn random() -> Result<Zeroizing<[u8; 32]>, OpenError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut bytes[..]).map_err(|_| OpenError::Random)?;
    Ok(bytes)
}

/// A disk that failed is tried again so often.
const RETRY: Duration = Duration::from_secs(1);

/// Why a beacon's state could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its files.
    #[error(transparent)]
    Files(#[from] FileError),
    /// Its database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no randomness to give.
    #[error("the system gives no randomness")]
    Random,
}

/// Why a coordinator does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It runs already.
    #[error("this coordinator runs already")]
    Running,
    /// No thread for the store.
    #[error("cannot start the thread of the store")]
    Thread(#[source] std::io::Error),
}
