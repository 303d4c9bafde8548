//! One connection, whatever it runs on: the handshake, then frames and datagrams both ways until
//! either side has enough.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use identity::{IdentityPublic, NodeId};
use net::beacon::{Admission, MapSession};
use net::link::carrier::{Carrier, FrameReader, FrameWriter};
use net::tls;
use quinn::{SendDatagramError, VarInt};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, info};
use wire::link::{BeaconFrame, Caller, ClientFrame, Refusal, RelayDatagram, Transcript};
use wire::map::{MapRequest, MapUpdate};

use crate::hub::{Hub, Ticket};

/// A client that has proved itself, and the coordinator's ends of its session.
pub(crate) struct Client {
    carrier: Carrier,
    observed: SocketAddr,
    requests: mpsc::Sender<MapRequest>,
    updates: mpsc::Receiver<MapUpdate>,
}

/// The handshake. The caller bounds its time.
pub(crate) async fn greet(mut carrier: Carrier, ticket: &Ticket, hub: &Hub) -> Option<Client> {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).expect("the kernel has random bytes");
    let challenge = BeaconFrame::Challenge {
        nonce,
        key: hub.key.public(),
    };
    carrier.writer.send(&challenge).await.ok()?;
    let hello = carrier.reader.next().await.ok()??;
    let refusal = match judge(&carrier, nonce, hello, hub) {
        Ok((admission, transcript)) => match hub.sessions.try_reserve() {
            Ok(permit) => {
                let (requests, asked) = mpsc::channel(REQUESTS);
                let (told, updates) = mpsc::channel(UPDATES);
                let observed = carrier.remote;
                let welcome = BeaconFrame::Welcome {
                    proof: hub.key.sign(&transcript.beacon_bytes()).to_vec().into(),
                    observed,
                    restricted: admission.restricted,
                };
                hub.admit(ticket.id, &admission);
                let Admission { who, restricted } = admission;
                permit.send(MapSession {
                    who,
                    restricted,
                    observed,
                    requests: asked,
                    updates: told,
                });
                carrier.writer.send(&welcome).await.ok()?;
                carrier.reader.trust();
                if let Some(connection) = &carrier.quic {
                    connection.set_receive_window(VarInt::from_u32(TRUSTED_WINDOW));
                }
                info!(
                    ?who,
                    quic = carrier.quic.is_some(),
                    ?restricted,
                    "client is in"
                );
                return Some(Client {
                    carrier,
                    observed,
                    requests,
                    updates,
                });
            }
            Err(_) => Refusal::Busy,
        },
        Err(refusal) => refusal,
    };
    debug!(%refusal, "client refused");
    carrier
        .writer
        .send(&BeaconFrame::Refused(refusal))
        .await
        .ok()?;
    carrier.writer.finish().await;
    // Closing a QUIC connection discards what is under way: the client closes it, or time is up.
    let _ = carrier.reader.next::<ClientFrame>().await;
    None
}

fn judge(
    carrier: &Carrier,
    beacon_nonce: [u8; 32],
    hello: ClientFrame,
    hub: &Hub,
) -> Result<(Admission, Transcript), Refusal> {
    let ClientFrame::Hello {
        nonce,
        key,
        caller,
        proof,
    } = hello
    else {
        return Err(Refusal::Unproven);
    };
    let shown = carrier.quic.as_ref().map(tls::peer_key);
    if shown.is_some_and(|shown| shown != Some(key)) || role_key(&caller).is_some_and(|k| k != key)
    {
        return Err(Refusal::Unproven);
    }
    let transcript = Transcript {
        beacon_nonce,
        client_nonce: nonce,
        beacon: hub.key.public(),
        client: key,
        exporter: carrier.exporter(),
    };
    let admission = hub.gatekeeper.admit(&caller, &transcript, &proof)?;
    Ok((admission, transcript))
}

/// The key that a caller names beside its hello's.
fn role_key(caller: &Caller) -> Option<IdentityPublic> {
    match caller {
        Caller::Operator { key } | Caller::Claimant { key, .. } => Some(*key),
        Caller::Member { .. } | Caller::Joiner { .. } => None,
    }
}

impl Client {
    /// Serves until the client goes, the coordinator or the relay lets go of it, or it breaks the
    /// protocol.
    pub(crate) async fn serve(
        self,
        ticket: &Ticket,
        hub: &Arc<Hub>,
        draining: watch::Receiver<bool>,
    ) {
        let Self {
            carrier,
            observed,
            requests,
            updates,
        } = self;
        let Carrier {
            mut reader,
            mut writer,
            quic,
            ..
        } = carrier;
        let mut closing = ticket.door.closing.subscribe();
        let goodbye = tokio::select! {
            () = read_frames(&mut reader, ticket, hub, &requests, &quic, observed) => None,
            () = read_datagrams(&quic, ticket, hub, observed) => None,
            () = write_datagrams(&quic, ticket, hub) => None,
            () = write_frames(&mut writer, ticket, hub, updates, draining, quic.is_none()) => None,
            goodbye = closing.wait_for(Option::is_some) => goodbye.ok().and_then(|why| *why),
        };
        debug!(?goodbye, "client is out");
        if let Some(connection) = quic {
            connection.close(VarInt::from_u32(0), b"");
        }
    }
}

async fn read_frames(
    reader: &mut FrameReader,
    ticket: &Ticket,
    hub: &Hub,
    requests: &mpsc::Sender<MapRequest>,
    quic: &Option<quinn::Connection>,
    observed: SocketAddr,
) {
    let id = ticket.id;
    // QUIC knows by itself when nobody is there any more.
    let patience = if quic.is_some() {
        Duration::MAX
    } else {
        TCP_IDLE
    };
    let mut seen = Seen {
        addr: observed,
        at: Instant::now(),
    };
    while let Ok(Ok(Some(frame))) = timeout(patience, reader.next()).await {
        let pause = match frame {
            ClientFrame::Relay(datagram) => hub.relay(id, &datagram),
            ClientFrame::Introduce {
                to,
                certificate,
                record,
            } => hub.introduce(id, to, certificate, record),
            ClientFrame::Map(request) => match requests.send(request).await {
                Ok(()) => Duration::ZERO,
                Err(_) => return,
            },
            ClientFrame::Ping(token) => {
                hub.tell(id, BeaconFrame::Pong(token));
                Duration::ZERO
            }
            ClientFrame::Hello { .. } => return,
        };
        seen.look(quic, ticket, hub, Duration::ZERO);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

async fn read_datagrams(
    quic: &Option<quinn::Connection>,
    ticket: &Ticket,
    hub: &Hub,
    observed: SocketAddr,
) {
    let Some(connection) = quic else {
        return std::future::pending().await;
    };
    let mut seen = Seen {
        addr: observed,
        at: Instant::now(),
    };
    while let Ok(datagram) = connection.read_datagram().await {
        let pause = match RelayDatagram::decode(datagram) {
            Some(datagram) => hub.relay(ticket.id, &datagram),
            None => Duration::ZERO,
        };
        seen.look(quic, ticket, hub, LOOK_EVERY);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

async fn write_datagrams(quic: &Option<quinn::Connection>, ticket: &Ticket, hub: &Hub) {
    let Some(connection) = quic else {
        return std::future::pending().await;
    };
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        hub.take_datagrams(ticket.id, BATCH, &mut batch);
        if batch.is_empty() {
            ticket.door.datagrams.notified().await;
        }
        for datagram in batch.drain(..) {
            // Waiting here keeps the one queue that counts what it drops the one that fills.
            match connection.send_datagram_wait(datagram).await {
                Ok(()) => {}
                Err(SendDatagramError::TooLarge) => debug!("datagram exceeds the client's path"),
                Err(_) => return,
            }
        }
    }
}

async fn write_frames(
    writer: &mut FrameWriter,
    ticket: &Ticket,
    hub: &Hub,
    mut updates: mpsc::Receiver<MapUpdate>,
    mut draining: watch::Receiver<bool>,
    datagrams: bool,
) {
    let (mut frames, mut batch) = (Vec::new(), Vec::new());
    let mut drained = false;
    loop {
        if *draining.borrow_and_update() && !drained {
            drained = true;
            push(
                writer,
                &BeaconFrame::Drain {
                    reconnect_in_ms: DRAIN_MS,
                },
            );
        }
        let due = hub.take_frames(ticket.id, &mut frames);
        frames.drain(..).for_each(|frame| push(writer, &frame));
        while writer.waiting() < CHUNK {
            match updates.try_recv() {
                Ok(update) => push(writer, &BeaconFrame::Map(update)),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return,
            }
        }
        if datagrams {
            hub.take_datagrams(ticket.id, BATCH, &mut batch);
            batch
                .drain(..)
                .filter_map(framed)
                .for_each(|frame| push(writer, &frame));
        }
        if writer.waiting() > 0 {
            match writer.flush().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        tokio::select! {
            update = updates.recv() => match update {
                Some(update) => push(writer, &BeaconFrame::Map(update)),
                None => return,
            },
            () = ticket.door.frames.notified() => {}
            () = ticket.door.datagrams.notified(), if datagrams => {}
            // A relay that ends without a word is as good as one that drains.
            _ = draining.changed(), if !drained => {}
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
    }
}

fn push(writer: &mut FrameWriter, frame: &BeaconFrame) {
    if let Err(error) = writer.push(frame) {
        debug!(%error, "frame not sent");
    }
}

fn framed(mut datagram: Bytes) -> Option<BeaconFrame> {
    let peer = NodeId(*datagram.first_chunk()?);
    datagram.advance(RelayDatagram::OVERHEAD);
    Some(BeaconFrame::Relay(RelayDatagram {
        peer,
        payload: datagram,
    }))
}

/// The address that the client was told it has.
struct Seen {
    addr: SocketAddr,
    at: Instant,
}

impl Seen {
    /// Tells the client where its address changed; looks at most once in `every`.
    fn look(
        &mut self,
        quic: &Option<quinn::Connection>,
        ticket: &Ticket,
        hub: &Hub,
        every: Duration,
    ) {
        let Some(connection) = quic else {
            return;
        };
        if self.at.elapsed() < every {
            return;
        }
        self.at = Instant::now();
        let addr = net::udp::plain(connection.remote_address());
        if addr != self.addr {
            self.addr = addr;
            hub.tell(ticket.id, BeaconFrame::Observed(addr));
        }
    }
}

/// Requests of one client that wait for the coordinator; then the client waits.
const REQUESTS: usize = 64;

/// Updates that wait for one client; then the coordinator drops it.
const UPDATES: usize = 256;

/// A policy of the largest size may be on its way in one piece.
const TRUSTED_WINDOW: u32 = 1_250_000;

/// One write to the stream.
const CHUNK: usize = 64 << 10;

/// Datagrams taken from the core in one go: a GSO batch.
const BATCH: usize = 64;

/// How often the stream of datagrams is interrupted to look whether the client moved.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Four heartbeats of the client.
const TCP_IDLE: Duration = Duration::from_secs(60);

/// How soon a client is to leave a beacon that shuts down.
const DRAIN_MS: u32 = 300;
