//! `send --ask --stream`: the parts of an answer as they come, over a restart of the node too.

use std::time::{Duration, Instant};

use api::{AskRequest, Body, Part, PartsLost, PartsRestart, SendAnswer};
use bytes::Bytes;
use hyper::Method;
use serde_json::json;

use super::show;
use crate::client::{Answer, Client, Event, Events};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Output, note};

/// What was shown of the answer.
struct Shown {
    output: Output,
    /// The id of the last part.
    at: Option<String>,
    /// The text of the parts, where all of them were simply more of the answer.
    text: Option<String>,
}

/// Asks, and prints what comes: for people the text of the parts, and the answer only where it is
/// not just that text; with `--json` each event as an object.
pub(super) async fn ask(
    client: &mut Client,
    ask: &AskRequest,
    timeout: Duration,
    context: &Context,
) -> Result<(), Failure> {
    let until = Instant::now() + timeout;
    let body = serde_json::to_vec(ask).map_err(|error| Failure::failed(error.to_string()))?;
    let id = ask.id.clone().unwrap_or_default();
    let asked = client
        .events(Method::POST, "/v1/ask", Some(Bytes::from(body)))
        .await?;
    let mut events = match asked {
        Ok(events) => events,
        Err(refused) => return refusal(refused, context),
    };
    let mut shown = Shown {
        output: context.output(),
        at: None,
        text: Some(String::new()),
    };
    loop {
        match events.next().await? {
            Some(event) if event.name == "answer" => return shown.answer(&event, context),
            Some(event) => shown.event(&event)?,
            None => {
                note("crabmesh: the local node is gone; waiting for it");
                events = match again(client, &id, &shown, until).await? {
                    Ok(events) => events,
                    Err(refused) => return refusal(refused, context),
                };
            }
        }
    }
}

/// Takes the parts up from where they were.
async fn again(
    client: &mut Client,
    id: &str,
    shown: &Shown,
    until: Instant,
) -> Result<Result<Events, Answer>, Failure> {
    loop {
        tokio::time::sleep(PAUSE).await;
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let after = shown.at.as_ref().map(|at| format!("&after={at}"));
        let path = format!(
            "/v1/messages/{id}/parts?timeout_ms={left}{}",
            after.unwrap_or_default()
        );
        match client.events(Method::GET, &path, None).await {
            Err(failure) if failure.exit() == Exit::NoNode && left > 0 => {}
            other => return other,
        }
    }
}

fn refusal(refused: Answer, context: &Context) -> Result<(), Failure> {
    match serde_json::from_slice::<SendAnswer>(&refused.body) {
        Ok(sent) => show(&sent, context),
        Err(_) => refused.done(),
    }
}

impl Shown {
    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        let value: serde_json::Value = event.read()?;
        match &*event.name {
            "part" => {
                let part: Part = event.read()?;
                self.part(&part)?;
                self.at = Some(event.id.clone());
            }
            "restart" => {
                let PartsRestart { attempt } = event.read()?;
                self.text = None;
                note(format!(
                    "crabmesh: the agent begins its answer anew, attempt {attempt}"
                ));
            }
            "lost" => {
                let PartsLost { next } = event.read()?;
                self.text = None;
                note(format!(
                    "crabmesh: the parts before {next} are lost; the answer comes whole"
                ));
            }
            _ => {}
        }
        if self.output.json() {
            self.output
                .object(&json!({ "event": event.name, "data": value }))?;
        }
        Ok(())
    }

    fn part(&mut self, part: &Part) -> Result<(), Failure> {
        match (&part.text, &part.kind) {
            (Some(text), None) => {
                if let Some(all) = &mut self.text {
                    all.push_str(text);
                }
                if !self.output.json() {
                    self.output.part(text)?;
                }
            }
            // What is no text, or another kind of it, is for programs.
            _ => self.text = None,
        }
        Ok(())
    }

    fn answer(self, event: &Event, context: &Context) -> Result<(), Failure> {
        let sent: SendAnswer = event.read()?;
        let body = sent.reply.as_ref().and_then(|reply| reply.body().ok());
        let printed = self.text.filter(|text| !text.is_empty());
        match (body, printed) {
            // The answer is what was shown, and perhaps more.
            (Some(Body::Text(body)), Some(text))
                if body.starts_with(&text) && !self.output.json() =>
            {
                self.output.part(&body[text.len()..])?;
                self.output.end_parts(&body)
            }
            (_, Some(text)) => {
                if !self.output.json() {
                    self.output.end_parts(&text)?;
                }
                show(&sent, context)
            }
            _ => show(&sent, context),
        }
    }
}

/// A node that restarts is back in a moment.
const PAUSE: Duration = Duration::from_millis(200);
