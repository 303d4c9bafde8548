//! What the plane does with letters that are on disk alone.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn an_inbox_that_is_on_disk_is_not_an_empty_one() {
    let pair = pair().await;
    let sent: Vec<_> = (0..30).map(|n| message(&n.to_string())).collect();
    for draft in sent {
        pair.a.sent(draft).await;
    }
    pair.b.until_waiting(30).await;

    // Twice: at first some of it is still in memory.
    let first = pair.b.look(10).await;
    let second = pair.b.look(100).await;

    let bodies = first.iter().chain(&second).map(|it| it.body.to_vec());
    let wanted = (0..30).map(|n| n.to_string().into_bytes());
    assert!(bodies.eq(wanted));
    assert_eq!(first.len(), 10);
    assert!(pair.b.messages.stats().await.expect("running").spool.reads >= 28);
    pair.end().await;
}

#[tokio::test]
async fn a_follower_gets_in_order_what_is_on_disk_and_what_comes_meanwhile() {
    let pair = pair().await;
    for n in 0..100 {
        pair.a.sent(message(&n.to_string())).await;
    }
    pair.b.until_waiting(100).await;
    let mut follower = pair.b.messages.follow(&pair.b.agent).await.expect("there");

    for n in 0..120 {
        if n < 20 {
            pair.a.sent(message(&(100 + n).to_string())).await;
        }
        let Some(Followed::Delivery(shown)) = follower.next().await else {
            panic!("ended at {n}");
        };
        assert_eq!(&*shown.body, n.to_string().as_bytes());
        let acked = pair.b.messages.ack(&pair.b.agent, vec![shown.id]).await;
        assert_eq!(acked.expect("stored"), [Ok(())]);
    }
    pair.end().await;
}

#[tokio::test]
async fn after_a_restart_an_agent_settles_what_it_was_shown_before() {
    let pair = pair().await;
    for n in 0..8 {
        let draft = if n < 4 { message("do") } else { request("?") };
        pair.a.sent(draft).await;
    }
    let mut shown = Vec::new();
    while shown.len() < 8 {
        shown.extend(pair.b.receive(8).await.iter().map(|it| it.id));
    }
    let pair = pair.restart().await;
    let (b, agent) = (&pair.b.messages, &pair.b.agent);

    let beat = b.heartbeat(agent, vec![shown[7]], None).await;
    assert_eq!(
        beat.expect("running"),
        [Err(Refusal::NotFound)],
        "it is held no longer"
    );
    let led = Draft {
        origin: Origin::Message(shown[3]),
        to: "planner@gw-a".parse().expect("an address"),
        ..message("led")
    };
    let (led, replied, rejected, acked) = tokio::join!(
        b.send(agent, led),
        b.reply(agent, shown[7], answer("4")),
        b.reject(agent, shown[6], None),
        b.ack(
            agent,
            vec![shown[5], shown[2], shown[0], handle::fresh_id()]
        ),
    );
    led.expect("its cause is known");
    replied.expect("open");
    rejected.expect("stored");
    let unknown = Err(Refusal::NotFound);
    assert_eq!(acked.expect("stored"), [Ok(()), Ok(()), Ok(()), unknown]);

    let left = pair.b.look(100).await;
    let left: Vec<_> = left.iter().map(|it| it.id).collect();
    assert_eq!(left, [shown[1], shown[3], shown[4]]);
    pair.end().await;
}

#[tokio::test]
async fn many_calls_about_what_is_on_disk_are_all_answered() {
    let pair = pair().await;
    for _ in 0..240 {
        pair.a.sent(message("do")).await;
    }
    let mut shown = Vec::new();
    while shown.len() < 240 {
        shown.extend(pair.b.receive(240).await.iter().map(|it| it.id));
    }
    let pair = pair.restart().await;

    let (b, agent) = (&pair.b.messages, &pair.b.agent);
    let twice = shown.iter().chain(&shown);
    let acks = join_all(twice.map(|id| b.ack(agent, vec![*id]))).await;

    assert!(acks.into_iter().all(|it| it == Ok(vec![Ok(())])));
    assert!(pair.b.look(100).await.is_empty());
    pair.end().await;
}

impl Gateway {
    async fn sent(&self, draft: Draft) {
        let sent = self.messages.send(&self.agent, draft).await;
        sent.expect("accepted");
    }

    /// What is there now.
    async fn look(&self, max: usize) -> Vec<Delivery> {
        let options = ReceiveOptions {
            wait: Duration::ZERO,
            max,
            hold: None,
        };
        let seen = self.messages.receive(&self.agent, options).await;
        seen.expect("running")
    }

    async fn until_waiting(&self, rows: usize) {
        while self
            .messages
            .stats()
            .await
            .expect("running")
            .router
            .inbox_rows
            < rows
        {
            tokio::task::yield_now().await;
        }
    }
}
