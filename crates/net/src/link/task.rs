//! The task of one link: dial, serve, and when it breaks, wait and dial again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::{ConnectionError, VarInt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, sleep_until, timeout};
use tracing::{debug, info, trace};
use wire::link::{
    BeaconFrame, ClientFrame, MAX_RELAYED, PRE_AUTHENTICATION_TIME, Refusal, RelayDatagram,
};

use super::backoff::Backoff;
use super::call::CallAs;
use super::carrier::{FrameReader, FrameWriter, ReadError};
use super::dial::{Dialer, Rivals, Session, Target, race, upgrade};
use super::handshake::random;
use super::heartbeat::{Beat, Heartbeat};
use super::outbox::{DatagramQueue, Outbox, Route, Way};
use super::{Command, LinkConfig, LinkEvent, LinkFault, LinkState, count};

pub(super) struct Task {
    config: LinkConfig,
    dialer: Dialer,
    outbox: Arc<Outbox>,
    state: watch::Sender<LinkState>,
    commands: mpsc::Receiver<Command>,
    backoff: Backoff,
}

/// How one connection ended.
enum Ended {
    /// QUIC takes over.
    Upgraded(Box<Session>),
    /// It broke, or the beacon let go of it.
    Fault(LinkFault),
    /// Nobody here wants it any more.
    Closed,
}

/// What the loop over one connection wakes for.
enum Wake {
    Command(Option<Command>),
    Frame(Result<Option<BeaconFrame>, ReadError>),
    Datagram(Result<Bytes, ConnectionError>),
    Beat,
    Upgrade,
    Rival(Option<Box<Session>>),
    WriterEnded,
    Leave,
}

impl Task {
    pub(super) fn new(
        config: LinkConfig,
        dialer: Dialer,
        outbox: Arc<Outbox>,
        state: watch::Sender<LinkState>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            config,
            dialer,
            outbox,
            state,
            commands,
            backoff: Backoff::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut taken_over = None;
        loop {
            let session = match taken_over.take() {
                Some(session) => session,
                None => match self.dial().await {
                    Some(session) => session,
                    None => break,
                },
            };
            match self.serve(session).await {
                Ended::Upgraded(session) => taken_over = Some(*session),
                Ended::Fault(why) => {
                    self.outbox.set_route(None);
                    info!(beacon = %self.config.node, %why, "link down");
                    self.state
                        .send_replace(LinkState::Down { why: why.clone() });
                    if self.tell(LinkEvent::Down { why }).await.is_err() {
                        break;
                    }
                    let wait = self.backoff.next(u64::from_le_bytes(random()));
                    if self.rest(wait).await.is_none() {
                        break;
                    }
                }
                Ended::Closed => break,
            }
        }
        self.outbox.set_route(None);
        self.state.send_replace(LinkState::Down {
            why: LinkFault::Closed,
        });
        self.dialer.rest().await;
    }

    /// Dials until it is up; `None` where nobody wants it any more.
    async fn dial(&mut self) -> Option<Session> {
        loop {
            let papers = loop {
                let papers = self.config.papers.borrow_and_update().clone();
                if let Some(papers) = papers {
                    break papers;
                }
                tokio::select! {
                    changed = self.config.papers.changed() => changed.ok()?,
                    command = self.commands.recv() => match command? {
                        Command::RetryNow => {}
                        Command::Close => return None,
                    },
                }
            };
            let target = self.target(CallAs::Member(papers));
            let dialer = self.dialer.clone();
            let racing = race(&target, &dialer);
            tokio::pin!(racing);
            let result = loop {
                tokio::select! {
                    result = &mut racing => break result,
                    command = self.commands.recv() => match command? {
                        Command::RetryNow => {}
                        Command::Close => return None,
                    },
                }
            };
            let why = match result {
                Ok(session) => return Some(session),
                Err(why) => why,
            };
            debug!(beacon = %self.config.node, %why, "beacon not reached");
            let lasting = match &why {
                LinkFault::Refused(refusal) => {
                    !matches!(refusal, Refusal::Unclaimed | Refusal::Busy)
                }
                why => matches!(why, LinkFault::WrongKey | LinkFault::Tls(_)),
            };
            if lasting {
                self.backoff.settle();
            }
            self.state.send_replace(LinkState::Down { why });
            let wait = self.backoff.next(u64::from_le_bytes(random()));
            self.rest(wait).await?;
        }
    }

    /// Waits, unless it is told to try now; `None` where nobody wants the link any more.
    async fn rest(&mut self, wait: Duration) -> Option<()> {
        tokio::select! {
            () = sleep(wait) => Some(()),
            command = self.commands.recv() => match command? {
                Command::RetryNow => Some(()),
                Command::Close => None,
            },
        }
    }

    async fn serve(&mut self, session: Session) -> Ended {
        let Session {
            carrier,
            welcome,
            mut rivals,
            allowed: _allowed,
        } = session;
        let quic = carrier.quic;
        let mut reader = carrier.reader;
        let (frames, outgoing) = mpsc::channel(FRAMES);
        let (way, queue) = match &quic {
            Some(connection) => (Way::Quic(connection.clone(), BytesMut::new()), None),
            None => {
                let queue = Arc::new(DatagramQueue::default());
                (Way::Tls(Arc::clone(&queue)), Some(queue))
            }
        };
        let mut writing = tokio::spawn(write(carrier.writer, outgoing, queue));
        let relays = welcome.restricted.is_none();
        self.outbox
            .set_route(Some(Route::new(way, frames.clone(), relays)));
        let up_at = Instant::now();
        count(&self.outbox.counters.connections);
        info!(beacon = %self.config.node, quic = quic.is_some(), "link up");
        self.state.send_replace(match &quic {
            Some(connection) => LinkState::Quic {
                rtt: connection.rtt(),
            },
            None => LinkState::Tls { rtt: None },
        });
        let up = LinkEvent::Up {
            observed: welcome.observed,
            udp: quic.is_some(),
            restricted: welcome.restricted,
        };
        let ended = match self.tell(up).await {
            Ok(()) => {
                self.listen(&mut reader, &quic, &frames, &mut rivals, &mut writing)
                    .await
            }
            Err(()) => Ended::Closed,
        };
        let ended = match ended {
            Ended::Fault(LinkFault::Lost) => take_over(&mut rivals).await.unwrap_or(ended),
            other => other,
        };
        if up_at.elapsed() >= USEFUL {
            self.backoff.reset();
        }
        if !matches!(ended, Ended::Upgraded(_)) {
            rivals.shutdown().await;
        }
        self.outbox.set_route(None);
        part(ended, frames, quic, writing).await
    }

    /// The loop over one connection.
    async fn listen(
        &mut self,
        reader: &mut FrameReader,
        quic: &Option<quinn::Connection>,
        frames: &mpsc::Sender<ClientFrame>,
        rivals: &mut Rivals,
        writing: &mut JoinHandle<()>,
    ) -> Ended {
        let node = self.config.node;
        let events = self.config.events.clone();
        let mut heartbeat = Heartbeat::new();
        let mut beats = interval(Heartbeat::EVERY);
        let mut leave: Option<tokio::time::Instant> = None;
        let mut permit = None;
        let far = || tokio::time::Instant::now() + FAR;
        let upgrade_at = sleep_until(if quic.is_none() {
            jittered(UPGRADE)
        } else {
            far()
        });
        tokio::pin!(upgrade_at);
        loop {
            if permit.is_none() {
                permit = events.try_reserve().ok();
            }
            let wake = tokio::select! {
                command = self.commands.recv() => Wake::Command(command),
                frame = reader.next(), if permit.is_some() => Wake::Frame(frame),
                datagram = datagram(quic), if permit.is_some() => Wake::Datagram(datagram),
                reserved = events.reserve(), if permit.is_none() => match reserved {
                    Ok(reserved) => {
                        permit = Some(reserved);
                        continue;
                    }
                    Err(_) => return Ended::Closed,
                },
                _ = beats.tick() => Wake::Beat,
                () = &mut upgrade_at, if quic.is_none() => Wake::Upgrade,
                Some(done) = rivals.join_next(), if !rivals.is_empty() => {
                    Wake::Rival(done.ok().and_then(Result::ok).map(Box::new))
                }
                _ = &mut *writing => Wake::WriterEnded,
                () = sleep_until(leave.unwrap_or_else(far)), if leave.is_some() => Wake::Leave,
            };
            let event = match wake {
                Wake::Command(Some(Command::RetryNow)) => {
                    // Whatever comes back shows our new address, or that there is no way.
                    let _ = frames.try_send(ClientFrame::Ping(u64::MAX));
                    if quic.is_none() && rivals.is_empty() {
                        upgrade_at.as_mut().reset(tokio::time::Instant::now());
                    }
                    continue;
                }
                Wake::Command(_) => return Ended::Closed,
                Wake::Frame(Ok(Some(frame))) => {
                    heartbeat.handle_heard();
                    match self.event_of(frame, &mut heartbeat, &mut leave) {
                        Some(event) => event,
                        None => continue,
                    }
                }
                Wake::Frame(_) if leave.is_some() => return Ended::Fault(LinkFault::Drained),
                Wake::Frame(Err(ReadError::TooLong | ReadError::Malformed(_))) => {
                    return Ended::Fault(LinkFault::Protocol);
                }
                Wake::Frame(_) | Wake::WriterEnded | Wake::Datagram(Err(_)) => {
                    return Ended::Fault(LinkFault::Lost);
                }
                Wake::Datagram(Ok(bytes)) => match RelayDatagram::decode(bytes) {
                    Some(RelayDatagram { peer, payload }) => {
                        count(&self.outbox.counters.received);
                        LinkEvent::Datagram {
                            from: peer,
                            payload,
                        }
                    }
                    None => continue,
                },
                Wake::Beat => {
                    match quic {
                        Some(connection) => {
                            self.state.send_replace(LinkState::Quic {
                                rtt: connection.rtt(),
                            });
                        }
                        None => match heartbeat.beat(Instant::now()) {
                            // Without room frames are under way: that is a heartbeat too.
                            Beat::Ping(token) => drop(frames.try_send(ClientFrame::Ping(token))),
                            Beat::Dead => return Ended::Fault(LinkFault::Lost),
                        },
                    }
                    continue;
                }
                Wake::Upgrade => {
                    upgrade_at.as_mut().reset(jittered(UPGRADE));
                    if let (true, Some(papers)) = (rivals.is_empty(), self.papers()) {
                        let target = self.target(CallAs::Member(papers));
                        *rivals = upgrade(&target, &self.dialer).await;
                    }
                    continue;
                }
                Wake::Rival(Some(session)) => return Ended::Upgraded(session),
                Wake::Rival(None) => continue,
                Wake::Leave => return Ended::Fault(LinkFault::Drained),
            };
            if let Some(permit) = permit.take() {
                permit.send((node, event));
            }
        }
    }

    fn event_of(
        &self,
        frame: BeaconFrame,
        heartbeat: &mut Heartbeat,
        leave: &mut Option<tokio::time::Instant>,
    ) -> Option<LinkEvent> {
        Some(match frame {
            BeaconFrame::Relay(RelayDatagram { peer, payload }) => {
                if payload.len() > MAX_RELAYED {
                    return None;
                }
                count(&self.outbox.counters.received);
                LinkEvent::Datagram {
                    from: peer,
                    payload,
                }
            }
            BeaconFrame::Introduced {
                from,
                certificate,
                record,
            } => LinkEvent::Introduced {
                from,
                certificate,
                record,
            },
            BeaconFrame::Gone { node, reason } => LinkEvent::Gone { node, reason },
            BeaconFrame::Map(update) => LinkEvent::Map(update),
            BeaconFrame::Observed(addr) => LinkEvent::Observed(addr),
            BeaconFrame::Drain { reconnect_in_ms } => {
                let within = Duration::from_millis(reconnect_in_ms.into()).min(LONGEST_DRAIN);
                *leave = Some(jittered(within));
                LinkEvent::Drain { within }
            }
            BeaconFrame::Pong(token) => {
                let rtt = heartbeat.handle_pong(token, Instant::now());
                if rtt.is_some() && matches!(*self.state.borrow(), LinkState::Tls { .. }) {
                    self.state.send_replace(LinkState::Tls { rtt });
                }
                return None;
            }
            BeaconFrame::Challenge { .. }
            | BeaconFrame::Welcome { .. }
            | BeaconFrame::Refused(_) => {
                trace!("handshake frame on an open link");
                return None;
            }
        })
    }

    fn target(&self, caller: CallAs) -> Target {
        Target {
            beacon: self.config.beacon.clone(),
            key: self.config.key,
            identity: Arc::clone(&self.config.identity),
            caller,
        }
    }

    fn papers(&self) -> Option<super::Papers> {
        self.config.papers.borrow().clone()
    }

    async fn tell(&self, event: LinkEvent) -> Result<(), ()> {
        self.config
            .events
            .send((self.config.node, event))
            .await
            .map_err(|_| ())
    }
}

/// Writes frames first, then datagrams, as many as there are in one write.
async fn write(
    mut writer: FrameWriter,
    mut frames: mpsc::Receiver<ClientFrame>,
    queue: Option<Arc<DatagramQueue>>,
) {
    loop {
        tokio::select! {
            biased;
            frame = frames.recv() => match frame {
                Some(frame) => push(&mut writer, &frame),
                None => break,
            },
            () = filled(&queue) => {}
        }
        while writer.waiting() < CHUNK {
            match frames.try_recv() {
                Ok(frame) => push(&mut writer, &frame),
                Err(_) => break,
            }
        }
        while writer.waiting() < CHUNK {
            match queue.as_ref().and_then(|queue| queue.pop()) {
                Some(datagram) => push(&mut writer, &ClientFrame::Relay(datagram)),
                None => break,
            }
        }
        if writer.flush().await.is_err() {
            return;
        }
    }
    writer.finish().await;
}

fn push(writer: &mut FrameWriter, frame: &ClientFrame) {
    if let Err(error) = writer.push(frame) {
        debug!(%error, "frame not sent");
    }
}

async fn filled(queue: &Option<Arc<DatagramQueue>>) {
    match queue {
        Some(queue) => queue.filled().await,
        None => std::future::pending().await,
    }
}

async fn datagram(quic: &Option<quinn::Connection>) -> Result<Bytes, ConnectionError> {
    match quic {
        Some(connection) => connection.read_datagram().await,
        None => std::future::pending().await,
    }
}

/// The beacon closes TLS as soon as it lets QUIC in, perhaps before we hear that it did.
async fn take_over(rivals: &mut Rivals) -> Option<Ended> {
    let first = async {
        while let Some(done) = rivals.join_next().await {
            if let Ok(Ok(session)) = done {
                return Some(Ended::Upgraded(Box::new(session)));
            }
        }
        None
    };
    timeout(PRE_AUTHENTICATION_TIME, first).await.ok().flatten()
}

/// Lets what was written arrive, then closes.
async fn part(
    ended: Ended,
    frames: mpsc::Sender<ClientFrame>,
    quic: Option<quinn::Connection>,
    mut writing: JoinHandle<()>,
) -> Ended {
    drop(frames);
    if !writing.is_finished() && timeout(GOODBYE, &mut writing).await.is_err() {
        writing.abort();
    }
    if let Some(connection) = quic {
        connection.close(VarInt::from_u32(0), b"");
    }
    ended
}

/// Now and `around`, less up to a fifth, so that links do not move in step.
fn jittered(around: Duration) -> tokio::time::Instant {
    let share = u64::from_le_bytes(random()) as f64 / u64::MAX as f64;
    tokio::time::Instant::now() + around.mul_f64(1.0 - share / 5.0)
}

/// Frames that may wait for the connection: a first publication of some sixty documents fits.
const FRAMES: usize = 256;

/// One write to the stream: more would only wait in the kernel, where nothing can overtake it.
const CHUNK: usize = 64 << 10;

/// A connection that lived so long was no failure.
const USEFUL: Duration = Duration::from_secs(30);

/// How often TLS looks whether UDP works again.
const UPGRADE: Duration = Duration::from_secs(60);

/// A beacon may not ask us to hang on to it for longer.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);

/// What is on its way gets so long to leave.
const GOODBYE: Duration = Duration::from_secs(1);

/// A timer that is not needed.
const FAR: Duration = Duration::from_secs(86_400);
