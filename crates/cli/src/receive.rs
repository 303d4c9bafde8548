//! `crabmesh recv`: what waits for an agent, or also what comes.
//!
//! A follower reads one stream from the node, which holds what it showed for as long as the stream
//! is there. When the node restarts, the follower connects again; what it was shown before and
//! comes again is held again, and not printed again.

mod exec;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use api::{AckAnswer, AckRequest, Received, ReceivedList};

use self::exec::Worker;
use crate::client::{AsAgent, Client, Stream, failure_of};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Output, note};
use crate::terminal::printable;

/// Receive what waits for an agent now, or with --follow also what comes. What is not acked comes
/// again, with a higher attempt.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabmesh recv --as coder                         what waits now; held for 30 s
  crabmesh recv --as coder --follow --ack --json   one object a line, as they come
  crabmesh recv --as coder --follow --exec ./answer.sh --verbose

--exec runs CMD for each message, with the body on its stdin and in its environment CRABMESH_FROM
(the verified agent@gateway), CRABMESH_TO, CRABMESH_MESSAGE_ID, CRABMESH_KIND (message, reply or
failure), CRABMESH_REPLY_EXPECTED (1 or 0), CRABMESH_ATTEMPT, CRABMESH_IN_REPLY_TO,
CRABMESH_CONTENT_TYPE, CRABMESH_CONVERSATION and CRABMESH_STREAM (1 where the asker wants what CMD
prints line by line).
Exit 0 is the ack, and what CMD prints the answer where one is expected. Any other exit gives the
message back, to come again. A `crabmesh send` inside CMD says by itself what led to it. CMD is ended
where the sender takes the message back.")]
pub struct Args {
    #[command(flatten)]
    pub who: AsAgent,
    /// Stay, and receive what comes; outlives a restart of the node
    #[arg(long)]
    pub follow: bool,
    /// Ack what was printed
    #[arg(long, conflicts_with = "exec")]
    pub ack: bool,
    /// Run CMD for each message; must be the last option
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    pub exec: Option<Vec<String>>,
}

pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let client = Client::for_agent(context, &args.who)?;
    let work = match args.exec {
        Some(command) => Work::Exec(Worker::new(command)?),
        None => Work::Print { ack: args.ack },
    };
    let mut receiver = Receiver {
        client,
        output: context.output(),
        work,
        done: Done::default(),
        due: Vec::new(),
    };
    context.block_on(async move {
        match args.follow {
            true => receiver.follow().await,
            false => receiver.drain().await,
        }
    })
}

struct Receiver {
    client: Client,
    output: Output,
    work: Work,
    done: Done,
    /// Messages to be given back, and when: a command that failed is not run again at once.
    due: Vec<(tokio::time::Instant, String)>,
}

enum Work {
    Print { ack: bool },
    Exec(Worker),
}

/// What this run has printed, or answered: never again. Bounded, the oldest ids go first; an
/// inbox holds far fewer, and what was acked does not come again.
#[derive(Default)]
struct Done {
    ids: BTreeSet<String>,
    order: VecDeque<String>,
}

impl Receiver {
    /// What waits now.
    async fn drain(&mut self) -> Result<(), Failure> {
        loop {
            let list: ReceivedList = self.client.get("/v1/messages?max=100").await?;
            if list.messages.is_empty() {
                break;
            }
            self.handle(list.messages).await?;
        }
        for (_, id) in std::mem::take(&mut self.due) {
            self.give_back(&id).await?;
        }
        Ok(())
    }

    /// What waits and what comes, until the process is ended.
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut stream = self.client.follow().await?;
        loop {
            match self.next_batch(&mut stream).await? {
                Some(batch) => self.handle_or_wait(batch).await?,
                None => stream = self.reconnect().await?,
            }
        }
    }

    /// Everything that has arrived, at least one message; `None` when the stream ended.
    async fn next_batch(&mut self, stream: &mut Stream) -> Result<Option<Vec<Received>>, Failure> {
        let first = loop {
            let wake = self.due.iter().map(|(when, _)| *when).min();
            tokio::select! {
                received = stream.next() => break received?,
                () = sleep_until(wake) => self.give_back_due().await?,
            }
        };
        let Some(first) = first else { return Ok(None) };
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match stream.buffered()? {
                Some(received) => batch.push(received),
                None => break,
            }
        }
        Ok(Some(batch))
    }

    /// As [`Self::handle`]; a node that goes away meanwhile shows what was not acked again.
    async fn handle_or_wait(&mut self, batch: Vec<Received>) -> Result<(), Failure> {
        match self.handle(batch).await {
            Err(failure) if failure.exit() == Exit::NoNode => Ok(()),
            other => other,
        }
    }

    async fn handle(&mut self, batch: Vec<Received>) -> Result<(), Failure> {
        match &self.work {
            Work::Print { ack } => {
                let ack = *ack;
                for received in batch
                    .iter()
                    .filter(|received| !self.done.contains(&received.id))
                {
                    show(self.output, received)?;
                }
                let ids: Vec<String> = batch.into_iter().map(|received| received.id).collect();
                ids.iter().for_each(|id| self.done.insert(id));
                if ack {
                    self.ack(ids).await?;
                }
                Ok(())
            }
            Work::Exec(_) => {
                for received in batch {
                    self.execute(received).await?;
                }
                Ok(())
            }
        }
    }

    async fn execute(&mut self, received: Received) -> Result<(), Failure> {
        let Work::Exec(worker) = &self.work else {
            return Ok(());
        };
        if self.done.contains(&received.id) {
            return Ok(());
        }
        match worker.run(&mut self.client, &received).await? {
            true => self.done.insert(&received.id),
            false => {
                let pause = RETRY_FIRST.saturating_mul(1 << received.attempt.min(4));
                self.due
                    .push((tokio::time::Instant::now() + pause, received.id));
            }
        }
        Ok(())
    }

    async fn ack(&mut self, ids: Vec<String>) -> Result<(), Failure> {
        let answer: AckAnswer = self
            .client
            .post("/v1/messages/ack", &AckRequest { ids })
            .await?;
        for acked in answer.results {
            // What is not found was acked before, or expired: it does not come again either way.
            if let Some(error) = acked.error.filter(|error| error.code != "not_found") {
                note(format!(
                    "crabmesh: {} is not acked: {}",
                    acked.id,
                    failure_of(&error)
                ));
            }
        }
        Ok(())
    }

    async fn give_back_due(&mut self) -> Result<(), Failure> {
        let now = tokio::time::Instant::now();
        let (due, later) = std::mem::take(&mut self.due)
            .into_iter()
            .partition(|(when, _)| *when <= now);
        self.due = later;
        let due: Vec<(tokio::time::Instant, String)> = due;
        for (_, id) in due {
            match self.give_back(&id).await {
                Err(failure) if failure.exit() == Exit::NoNode => {}
                other => other?,
            }
        }
        Ok(())
    }

    async fn give_back(&mut self, id: &str) -> Result<(), Failure> {
        let path = format!("/v1/messages/{id}/release");
        let _: api::Acked = self.client.post(&path, &serde_json::json!({})).await?;
        Ok(())
    }

    /// A node that restarts is back in a moment; one that does not is waited for.
    async fn reconnect(&mut self) -> Result<Stream, Failure> {
        note("crabmesh: the local node is gone; waiting for it");
        // What it held for us is shown again by its next start.
        self.due.clear();
        let mut pause = RECONNECT_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_MAX);
            match self.client.follow().await {
                Ok(stream) => return Ok(stream),
                Err(failure) if failure.exit() == Exit::NoNode => {}
                Err(failure) => return Err(failure),
            }
        }
    }
}

impl Done {
    fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    fn insert(&mut self, id: &str) {
        if self.ids.insert(id.to_owned()) {
            self.order.push_back(id.to_owned());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

fn show(output: Output, received: &Received) -> Result<(), Failure> {
    if output.json() {
        return output.object(received);
    }
    let mut head = format!(
        "{} {} from {}",
        received.id,
        received.kind.as_str(),
        received.from
    );
    if let Some(of) = &received.in_reply_to {
        head.push_str(&format!(" to {of}"));
    }
    if received.attempt > 1 {
        head.push_str(&format!(", attempt {}", received.attempt));
    }
    if received.reply_expected {
        head.push_str(", reply expected");
    }
    output.line(head)?;
    if let Some(error) = &received.error {
        output.line(format!(
            "  {}: {}",
            printable(&error.code),
            printable(&error.reason)
        ))?;
    }
    let body = received
        .body()
        .map_err(|error| Failure::failed(error.to_string()))?;
    let bytes = body.into_bytes();
    if bytes.is_empty() {
        Ok(())
    } else {
        output.body(&bytes)
    }
}

async fn sleep_until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

/// Printed and acked together; a follower's share of the node's look-ahead.
const BATCH: usize = 64;
/// Four times the longest that one agent's inbox can be, with room for what was acked.
const REMEMBERED: usize = 65_536;
/// Doubles with each attempt, up to 16 times.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_remembered_within_a_bound() {
        let mut done = Done::default();
        for id in 0..=REMEMBERED {
            done.insert(&id.to_string());
        }

        assert!(
            !done.contains("0") && done.contains("1") && done.contains(&REMEMBERED.to_string())
        );
        assert_eq!(done.ids.len(), done.order.len());
    }
}
