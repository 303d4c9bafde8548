//! A whole coordinator over in-process sessions: the gate judges real proofs, documents go to a
//! real database, and what clients are told comes out of their channels.

mod fixture;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use coordinator::Coordinator;
use fixture::{Member, Operator};
use identity::{Claim, Heads, IdentityKey, NodeId, Token, UnixTime};
use net::beacon::{Admission, Gatekeeper, MapSession, Who, claim_mac};
use tokio::sync::{mpsc, oneshot};
use wire::link::{Caller, Refusal, Transcript};
use wire::map::{Cursor, Document, MapRequest, MapUpdate, PublishError};

const POLICY: &str = r#"{ "grants": [ { "src": ["*"], "dst": ["*"], "msg": ["*"] } ] }"#;

/// A beacon's coordinator that runs.
struct Beacon {
    coordinator: Arc<Coordinator>,
    sessions: mpsc::Sender<MapSession>,
    cuts: Arc<Mutex<BTreeSet<NodeId>>>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

/// One client of it.
struct Client {
    requests: mpsc::Sender<MapRequest>,
    updates: mpsc::Receiver<MapUpdate>,
}

impl Beacon {
    fn start(state: &std::path::Path) -> Self {
        let coordinator = Arc::new(Coordinator::open(state).expect("opened"));
        let (sessions, inbox) = mpsc::channel(8);
        let (stop, stopped) = oneshot::channel::<()>();
        let cuts = Arc::new(Mutex::new(BTreeSet::new()));
        let cut = {
            let cuts = Arc::clone(&cuts);
            Box::new(move |node| {
                cuts.lock().expect("not poisoned").insert(node);
            })
        };
        let shutdown = async {
            let _ = stopped.await;
        };
        let running = Arc::clone(&coordinator).run(inbox, cut, shutdown);
        let task = tokio::spawn(async { running.await.expect("ran") });
        Self {
            coordinator,
            sessions,
            cuts,
            stop,
            task,
        }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.expect("joined");
    }

    fn is_cut(&self, node: NodeId) -> bool {
        self.cuts.lock().expect("not poisoned").contains(&node)
    }

    async fn until_cut(&self, node: NodeId) {
        while !self.is_cut(node) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn transcript(&self, key: &IdentityKey) -> Transcript {
        Transcript {
            beacon_nonce: [1; 32],
            client_nonce: [2; 32],
            beacon: self.coordinator.identity().public(),
            client: key.public(),
            exporter: [3; 32],
        }
    }

    /// Shows itself as `caller`, proved by `key`.
    fn knock(&self, caller: &Caller, key: &IdentityKey) -> Result<Admission, Refusal> {
        let transcript = self.transcript(key);
        let proof = key.sign(&transcript.client_bytes());
        self.coordinator.admit(caller, &transcript, &proof)
    }

    async fn enter(&self, caller: &Caller, key: &IdentityKey) -> Result<Client, Refusal> {
        let Admission { who, restricted } = self.knock(caller, key)?;
        let (requests, inbox) = mpsc::channel(8);
        let (outbox, updates) = mpsc::channel(8);
        let observed = "192.0.2.1:1".parse().expect("an address");
        let session = MapSession {
            who,
            restricted,
            observed,
            requests: inbox,
            updates: outbox,
        };
        self.sessions.send(session).await.expect("it runs");
        Ok(Client { requests, updates })
    }

    async fn member(&self, member: &Member) -> Client {
        self.enter(&papers(member), &member.key)
            .await
            .expect("admitted")
    }

    async fn operator(&self, operator: &Operator) -> Client {
        let key = operator.operator.key();
        self.enter(&Caller::Operator { key: key.public() }, key)
            .await
            .expect("admitted")
    }

    /// Claims it for this operator's mesh.
    async fn claim(&self, operator: &mut Operator, now: UnixTime) -> (Client, NodeId, Bytes) {
        let text = self.coordinator.claim_text().expect("unclaimed");
        let claim = Claim::parse(&text).expect("a claim");
        let key = operator.operator.key().clone();
        let mac = claim_mac(&claim.secret, &self.transcript(&key));
        let caller = Caller::Claimant {
            key: key.public(),
            mac,
        };
        let mut client = self.enter(&caller, &key).await.expect("knows the secret");
        assert_eq!(client.publish(operator.trust_log()).await, Ok(()));
        let identity = self.coordinator.identity();
        let (node, certificate) = operator.beacon(&identity, "beacon", now);
        let document = Document::Certificate(certificate.clone());
        assert_eq!(client.publish(document).await, Ok(()));
        (client, node, certificate)
    }
}

impl Client {
    async fn ask(&self, request: MapRequest) {
        self.requests.send(request).await.expect("it listens");
    }

    async fn hear(&mut self) -> Option<MapUpdate> {
        let heard = tokio::time::timeout(Duration::from_secs(10), self.updates.recv()).await;
        heard.expect("it answers")
    }

    async fn publish(&mut self, document: Document) -> Result<(), PublishError> {
        self.ask(MapRequest::Publish {
            request: 7,
            document,
        })
        .await;
        loop {
            if let Some(MapUpdate::Answer { request: 7, result }) = self.hear().await {
                return result;
            }
        }
    }

    async fn watch(&mut self, cursor: Option<Cursor>) -> (Vec<MapUpdate>, Cursor, bool) {
        self.ask(MapRequest::Watch {
            cursor,
            heads: Heads::default(),
        })
        .await;
        let mut heard = Vec::new();
        loop {
            match self.hear().await.expect("open") {
                MapUpdate::CaughtUp {
                    cursor, complete, ..
                } => return (heard, cursor, complete),
                update => heard.push(update),
            }
        }
    }

    async fn until(&mut self, wanted: impl Fn(&MapUpdate) -> bool) -> MapUpdate {
        loop {
            let update = self.hear().await.expect("open");
            if wanted(&update) {
                return update;
            }
        }
    }
}

fn papers(member: &Member) -> Caller {
    Caller::Member {
        certificate: member.certificate.clone(),
        record: member.record.clone(),
    }
}

fn now() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs(),
    )
}

fn documents(heard: &[MapUpdate]) -> Vec<&Document> {
    let mut documents = Vec::new();
    for update in heard {
        if let MapUpdate::Document(document) = update {
            documents.push(document);
        }
    }
    documents
}

#[tokio::test]
async fn a_beacon_is_claimed_once_by_who_knows_the_secret_and_serves_after_a_restart() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("beacon");
    let mut operator = Operator::found(1, now());
    let thief = Operator::found(50, now());
    let beacon = Beacon::start(&state);

    let key = thief.operator.key();
    let guess = claim_mac(&[0; 32], &beacon.transcript(key));
    let guessed = Caller::Claimant {
        key: key.public(),
        mac: guess,
    };
    assert_eq!(beacon.knock(&guessed, key), Err(Refusal::Unproven));
    let member = operator.gateway("gw-a", now());
    assert_eq!(
        beacon.knock(&papers(&member), &member.key),
        Err(Refusal::Unclaimed)
    );

    let secret = Claim::parse(&beacon.coordinator.claim_text().expect("a claim")).expect("text");
    let (mut claimant, ..) = beacon.claim(&mut operator, now()).await;
    assert_eq!(
        claimant
            .publish(Document::Policy(operator.policy(POLICY, now())))
            .await,
        Ok(())
    );

    assert!(beacon.coordinator.claim_text().is_none());
    assert!(
        !state.join("claim.secret").exists(),
        "the secret is removed"
    );
    let replay = claim_mac(&secret.secret, &beacon.transcript(key));
    let again = Caller::Claimant {
        key: key.public(),
        mac: replay,
    };
    assert_eq!(beacon.knock(&again, key), Err(Refusal::AlreadyClaimed));
    let foreign = Caller::Operator { key: key.public() };
    assert_eq!(beacon.knock(&foreign, key), Err(Refusal::Unproven));

    drop(claimant);
    beacon.stop().await;
    let beacon = Beacon::start(&state);
    assert!(beacon.coordinator.claim_text().is_none());
    let mut client = beacon.member(&member).await;
    let (heard, _, complete) = client.watch(None).await;
    assert!(complete);
    let heard = documents(&heard);
    assert!(
        matches!(heard[0], Document::TrustLog(_)),
        "what all else is judged by comes first"
    );
    assert!(
        heard
            .iter()
            .any(|document| matches!(document, Document::Policy(_)))
    );
    beacon.stop().await;
}

#[tokio::test]
async fn a_revocation_cuts_the_link_and_is_told_to_everybody() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut operator = Operator::found(1, now());
    let beacon = Beacon::start(&home.path().join("beacon"));
    let (claimant, ..) = beacon.claim(&mut operator, now()).await;
    drop(claimant);
    let (a, b) = (
        operator.gateway("gw-a", now()),
        operator.gateway("gw-b", now()),
    );
    let (mut first, mut second) = (beacon.member(&a).await, beacon.member(&b).await);
    first.watch(None).await;
    second.watch(None).await;

    let set = operator.revoke(a.node, now());
    let mut pushing = beacon.operator(&operator).await;
    let started = std::time::Instant::now();
    assert_eq!(
        pushing.publish(Document::Revocations(set.clone())).await,
        Ok(())
    );
    let told = Document::Revocations(set);
    second
        .until(|update| *update == MapUpdate::Document(told.clone()))
        .await;

    first
        .until(|update| *update == MapUpdate::Document(told.clone()))
        .await;
    let record = Document::Record(a.record.clone());
    let refused = first.publish(record).await;
    assert_eq!(
        refused,
        Err(PublishError::Refused(Refusal::Revoked)),
        "though its link is still there"
    );
    beacon.until_cut(a.node).await;

    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!beacon.is_cut(b.node));
    let admission = beacon
        .knock(&papers(&a), &a.key)
        .expect("let in for its cure");
    assert_eq!(admission.restricted, Some(Refusal::Revoked));
    let mut restricted = beacon.member(&a).await;
    let (heard, ..) = restricted.watch(None).await;
    for document in documents(&heard) {
        let cures = match document {
            Document::TrustLog(_) | Document::Revocations(_) => true,
            Document::Certificate(bytes) => *bytes != b.certificate,
            Document::Policy(_) | Document::Record(_) => false,
        };
        assert!(cures, "{document:?}");
    }
    assert!(
        !heard
            .iter()
            .any(|update| matches!(update, MapUpdate::Presence { .. }))
    );
    let refused = restricted.publish(Document::Record(a.record.clone())).await;
    assert_eq!(refused, Err(PublishError::Refused(Refusal::Revoked)));
    beacon.stop().await;
}

#[tokio::test]
async fn whoever_is_no_longer_revoked_is_in_the_map_again_and_comes_back_whole() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut operator = Operator::found(1, now());
    let beacon = Beacon::start(&home.path().join("beacon"));
    let (claimant, ..) = beacon.claim(&mut operator, now()).await;
    drop(claimant);
    let a = operator.gateway("gw-a", now());
    let _first = beacon.member(&a).await;
    let mut pushing = beacon.operator(&operator).await;
    let everyone = identity::Block::Everyone {
        except: Default::default(),
    };
    let killed = operator.kill(everyone, now());
    assert_eq!(pushing.publish(Document::Revocations(killed)).await, Ok(()));
    beacon.until_cut(a.node).await;
    let mut restricted = beacon.member(&a).await;
    let (_, cursor, _) = restricted.watch(None).await;
    beacon.cuts.lock().expect("not poisoned").clear();

    let lifted = operator.lift(now());
    assert_eq!(pushing.publish(operator.trust_log()).await, Ok(()));
    assert_eq!(pushing.publish(Document::Revocations(lifted)).await, Ok(()));
    beacon.until_cut(a.node).await;

    assert_eq!(
        beacon.knock(&papers(&a), &a.key).map(|it| it.restricted),
        Ok(None)
    );
    let b = operator.gateway("gw-b", now());
    let mut stranger = beacon.member(&b).await;
    let (heard, ..) = stranger.watch(None).await;
    let certificate = Document::Certificate(a.certificate.clone());
    assert!(documents(&heard).contains(&&certificate));
    let mut whole = beacon.member(&a).await;
    let (heard, ..) = whole.watch(Some(cursor)).await;
    assert!(documents(&heard).contains(&&certificate), "as a change too");
    beacon.stop().await;
}

#[tokio::test]
async fn an_expired_member_is_let_in_for_its_renewal_and_comes_back_whole() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let past = UnixTime(now().0 - 10 * 86_400);
    let mut operator = Operator::found(1, past);
    let beacon = Beacon::start(&home.path().join("beacon"));
    let (mut claimant, ..) = beacon.claim(&mut operator, past).await;
    let expired = operator.gateway_for("gw-a", Duration::from_secs(86_400), past);

    let admission = beacon
        .knock(&papers(&expired), &expired.key)
        .expect("for its cure");
    assert_eq!(admission.restricted, Some(Refusal::Expired));
    let mut client = beacon.member(&expired).await;
    client.watch(None).await;
    let renewal = operator.renew(&expired, now());
    let renewal = Document::Certificate(renewal);
    assert_eq!(claimant.publish(renewal.clone()).await, Ok(()));

    client
        .until(|update| *update == MapUpdate::Document(renewal.clone()))
        .await;
    let admission = beacon
        .knock(&papers(&expired), &expired.key)
        .expect("admitted");
    assert_eq!(
        admission,
        Admission {
            who: Who::Member(expired.node),
            restricted: None
        }
    );
    beacon.stop().await;
}

#[tokio::test]
async fn a_token_is_redeemed_once_and_its_holder_may_ask_again() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("beacon");
    let mut operator = Operator::found(1, now());
    let beacon = Beacon::start(&state);
    let (_, node, _) = beacon.claim(&mut operator, now()).await;
    let invited = operator.token("gw-a", node, now());
    let mesh = operator.trust.mesh();
    let (owner, thief) = (
        IdentityKey::generate([91; 32]),
        IdentityKey::generate([92; 32]),
    );
    let shown: Bytes = invited.token.certify(&mesh, &owner).expect("bound").into();
    let stolen: Bytes = invited.token.certify(&mesh, &thief).expect("bound").into();

    let caller = Caller::Joiner {
        certificate: shown.clone(),
    };
    assert_eq!(
        beacon.knock(&caller, &thief),
        Err(Refusal::Unproven),
        "another key"
    );
    let mut joiner = beacon
        .enter(&caller, &owner)
        .await
        .expect("holds the token");
    let refused = joiner.publish(operator.trust_log()).await;
    assert_eq!(refused, Err(PublishError::Refused(Refusal::Forbidden)));
    let enroll = MapRequest::Enroll {
        request: 1,
        certificate: shown.clone(),
    };
    joiner.ask(enroll.clone()).await;
    let first = joiner
        .until(|update| matches!(update, MapUpdate::Receipt { .. }))
        .await;
    let MapUpdate::Receipt { receipt, .. } = &first else {
        unreachable!("just matched")
    };
    let complete = Token::complete(&shown, receipt, &mesh).expect("complete");
    let _ = operator
        .trust
        .accept_certificate(&complete, now())
        .expect("a good certificate");
    beacon.stop().await;

    let beacon = Beacon::start(&state);
    let mut joiner = beacon
        .enter(&caller, &owner)
        .await
        .expect("the same key may ask again");
    joiner.ask(enroll).await;
    let again = joiner
        .until(|update| matches!(update, MapUpdate::Receipt { .. }))
        .await;
    assert_eq!(again, first);
    let other = Caller::Joiner {
        certificate: stolen,
    };
    assert_eq!(beacon.knock(&other, &thief), Err(Refusal::TokenSpent));
    beacon.stop().await;
}

#[tokio::test]
async fn a_client_resumes_at_its_cursor_and_hears_only_what_changed() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut operator = Operator::found(1, now());
    let beacon = Beacon::start(&home.path().join("beacon"));
    let (claimant, ..) = beacon.claim(&mut operator, now()).await;
    drop(claimant);
    let (a, b) = (
        operator.gateway("gw-a", now()),
        operator.gateway("gw-b", now()),
    );
    // An answer says that all before it is on disk, the papers that were shown among it.
    let mut first = beacon.member(&a).await;
    assert_eq!(
        first.publish(Document::Record(a.record.clone())).await,
        Ok(())
    );
    let (_, cursor, _) = first.watch(None).await;
    drop(first);

    let mut second = beacon.member(&b).await;
    assert_eq!(
        second.publish(Document::Record(b.record.clone())).await,
        Ok(())
    );
    let mut first = beacon.member(&a).await;
    let (heard, _, complete) = first.watch(Some(cursor)).await;

    assert!(!complete, "changes only");
    let news = [
        Document::Certificate(b.certificate.clone()),
        Document::Record(b.record.clone()),
    ];
    let mut heard = documents(&heard);
    heard.retain(|document| !matches!(document, Document::TrustLog(_)));
    assert_eq!(heard, news.iter().collect::<Vec<_>>());
    beacon.stop().await;
}

#[tokio::test]
async fn a_member_cannot_speak_for_another_nor_sign_for_the_mesh() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut operator = Operator::found(1, now());
    let mut foreign = Operator::found(50, now());
    let beacon = Beacon::start(&home.path().join("beacon"));
    let (claimant, ..) = beacon.claim(&mut operator, now()).await;
    drop(claimant);
    let (a, b) = (
        operator.gateway("gw-a", now()),
        operator.gateway("gw-b", now()),
    );
    let mut client = beacon.member(&a).await;

    assert_eq!(beacon.knock(&papers(&b), &a.key), Err(Refusal::Unproven));
    let forged = operator.record(b.node, &a.key, &a.wireguard, 99, now());
    let unverified = Err(PublishError::Unverified);
    assert_eq!(client.publish(Document::Record(forged)).await, unverified);
    let policy = foreign.policy(POLICY, now());
    assert_eq!(client.publish(Document::Policy(policy)).await, unverified);
    let set = foreign.revoke(b.node, now());
    assert_eq!(client.publish(Document::Revocations(set)).await, unverified);
    assert_eq!(client.publish(foreign.trust_log()).await, unverified);
    let mut cut = a.certificate.to_vec();
    cut.truncate(cut.len() - 1);
    assert_eq!(
        client.publish(Document::Certificate(cut.into())).await,
        unverified
    );
    beacon.stop().await;
}

#[tokio::test]
async fn a_member_that_publishes_all_day_is_slowed_down() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut operator = Operator::found(1, now());
    let beacon = Beacon::start(&home.path().join("beacon"));
    let (claimant, ..) = beacon.claim(&mut operator, now()).await;
    drop(claimant);
    let a = operator.gateway("gw-a", now());
    let mut client = beacon.member(&a).await;

    let mut refused = 0;
    for _ in 0..80 {
        let result = client.publish(Document::Record(a.record.clone())).await;
        refused += u32::from(result == Err(PublishError::Refused(Refusal::Busy)));
    }

    assert!((10..=16).contains(&refused), "{refused}");
    beacon.stop().await;
}
