//! What the tools do: the verbs of the API, in words for a model.

use std::time::Duration;

use api::{AskRequest, SendRequest};
use identity::AgentAddress;
use rmcp::RoleServer;
use rmcp::service::RequestContext;
use router::Cursor;
use wire::MessageId;

use super::answers::{
    AckedAnswer, AgentLine, AgentsAnswer, Answer, AskedAnswer, ForeignText, InboxAnswer,
    InboxMessage, SentAnswer, Unsettled,
};
use super::arguments::{
    AckArguments, AgentsArguments, AskArguments, InboxArguments, ReplyArguments, SendArguments,
};
use super::desk::Caller;
use super::problem::Problem;
use super::progress::Progress;
use crate::api::extract::message_id;
use crate::api::messages::{
    ACK_MAX, RECEIVE_MAX, RECEIVE_WAIT_MAX_S, draft, outcome_answer, state,
};
use crate::api::refused::Refused;
use crate::foreign;
use crate::messages::{Delivery, Draft, ReceiveOptions, ReplyDraft, WaitFor, fresh_id, within};

impl Caller {
    pub(super) async fn agents(&self, AgentsArguments {}: AgentsArguments) -> AgentsAnswer {
        let mut agents = self.shared.view.directory(Some(&self.agent.name)).await;
        agents.sort_by(|a, b| {
            (&a.address.node, &a.address.agent).cmp(&(&b.address.node, &b.address.agent))
        });
        let agents = agents.into_iter().map(|entry| AgentLine {
            address: entry.address.to_string(),
            online: entry.online,
            presence: entry.presence.as_str().to_owned(),
            last_seen_s: entry.last_seen_s,
            streams: entry.streams,
            description: entry
                .description
                .map(|text| foreign::line(&text, DESCRIPTION_ROOM)),
            skills: entry.skills.into_iter().map(|skill| skill.id).collect(),
        });
        AgentsAnswer {
            agents: agents.collect(),
            error: None,
        }
    }

    pub(super) async fn send(&self, arguments: SendArguments) -> SentAnswer {
        let SendArguments {
            to,
            text,
            reply_expected,
            ttl_s,
            in_answer_to,
            conversation,
        } = arguments;
        let sending = async {
            let request = SendRequest {
                to: address(&to)?,
                body: Some(text),
                body_base64: None,
                content_type: None,
                ttl_s,
                id: None,
                reply_expected,
                cause: in_answer_to,
                conversation,
            };
            let (_, draft) = draft(request)?;
            Ok::<_, Refused>(self.shared.messages.send(&self.agent, draft).await?)
        };
        match sending.await {
            Ok(sent) => SentAnswer {
                id: Some(sent.id.to_string()),
                state: Some(state(sent.state).into()),
                error: sent
                    .error
                    .map(|error| Problem::of(crate::api::messages::failure(error)).about(&to)),
            },
            Err(refused) => SentAnswer::refused(Problem::from(refused).about(&to)),
        }
    }

    /// The question lives on where only the waiting ends.
    pub(super) async fn ask(
        &self,
        arguments: AskArguments,
        context: &RequestContext<RoleServer>,
    ) -> AskedAnswer {
        let AskArguments {
            to,
            text,
            timeout_s,
            ttl_s,
            in_answer_to,
            conversation,
            stream,
            max_bytes,
        } = arguments;
        let timeout = timeout_s.map_or(ASK, Duration::from_secs).min(ASK_MAX);
        let asking = async {
            let request = AskRequest {
                to: address(&to)?,
                body: Some(text),
                body_base64: None,
                content_type: None,
                ttl_s,
                id: None,
                timeout_ms: None,
                cause: in_answer_to,
                conversation,
                stream,
            };
            let (request, _, stream) = request.into_parts();
            let (id, draft) = draft(request)?;
            let draft = Draft { stream, ..draft };
            let until = within(timeout);
            let messages = &self.shared.messages;
            let asking = async {
                let (_, asked) = messages.ask(&self.agent, draft, WaitFor::Reply).await?;
                let parts = match stream {
                    true => Some(
                        messages
                            .subscribe(&self.agent, id, Cursor::default())
                            .await?,
                    ),
                    false => None,
                };
                let progress = Progress::of(context);
                let telling = progress.follow(messages, &self.agent, id, &to, parts, until);
                tokio::select! {
                    biased;
                    outcome = asked.outcome(until) => outcome,
                    never = telling => match never {},
                }
            };
            let asked = self.until_ended(asking, context).await?;
            let Some(asked) = asked else {
                // The far agent may be at work on it. What is settled by now stays as it is.
                let _ = messages.cancel(&self.agent, id).await;
                return Err(taken_back());
            };
            Ok::<_, Refused>(outcome_answer(id, asked?, timeout))
        };
        match asking.await {
            Ok(answer) => AskedAnswer {
                id: Some(answer.id),
                state: Some(answer.state.into()),
                reply: answer.reply.map(|reply| {
                    let body = reply.body().unwrap_or(api::Body::Binary(Vec::new()));
                    let (from, content) = (&reply.from, &reply.content_type);
                    foreign_text(reply.id, from, content, body, room(max_bytes))
                }),
                error: answer.error.map(|error| Problem::of(error).about(&to)),
            },
            Err(refused) => AskedAnswer::refused(Problem::from(refused).about(&to)),
        }
    }

    pub(super) async fn inbox(
        &self,
        arguments: InboxArguments,
        context: &RequestContext<RoleServer>,
    ) -> InboxAnswer {
        let options = ReceiveOptions {
            wait: Duration::from_secs(arguments.wait_s.unwrap_or(0).min(RECEIVE_WAIT_MAX_S)),
            max: arguments.max.unwrap_or(INBOX).clamp(1, RECEIVE_MAX),
            hold: Some(arguments.hold_s.map_or(HOLD, Duration::from_secs)),
        };
        let receiving = self.shared.messages.receive(&self.agent, options);
        let received = match self.until_ended(receiving, context).await {
            Ok(Some(Ok(deliveries))) => deliveries,
            Ok(None) => return InboxAnswer::refused(taken_back().into()),
            Ok(Some(Err(error))) => {
                return InboxAnswer::refused(Problem::from(Refused::from(error)));
            }
            Err(refused) => return InboxAnswer::refused(refused.into()),
        };
        let mut room = room(arguments.max_bytes);
        let mut messages: Vec<InboxMessage> = Vec::new();
        let mut deliveries = received.into_iter();
        let mut back: Vec<MessageId> = Vec::new();
        for delivery in deliveries.by_ref() {
            let id = delivery.id;
            let message = self.inbox_message(delivery, room);
            // The first is shown whatever its length, or it would never be.
            if message.message.cut && !messages.is_empty() {
                back.push(id);
                break;
            }
            room = room.saturating_sub(message.message.text.len());
            messages.push(message);
        }
        // What has no room here comes with the next call.
        back.extend(deliveries.map(|delivery| delivery.id));
        let more = !back.is_empty();
        if more {
            self.shared.messages.release(&self.agent, back).await;
        }
        InboxAnswer {
            messages,
            more,
            error: None,
        }
    }

    pub(super) async fn reply(&self, arguments: ReplyArguments) -> SentAnswer {
        let replying = async {
            let to = message_id(&arguments.id)?;
            let draft = ReplyDraft {
                id: Some(fresh_id()),
                content_type: api::Body::Text(String::new()).content_type().to_owned(),
                body: arguments.text.into(),
            };
            Ok::<_, Refused>(self.shared.messages.reply(&self.agent, to, draft).await?)
        };
        match replying.await {
            Ok(sent) => SentAnswer {
                id: Some(sent.id.to_string()),
                state: Some(state(sent.state).into()),
                error: sent
                    .error
                    .map(|error| Problem::of(crate::api::messages::failure(error))),
            },
            Err(refused) => SentAnswer::refused(refused.into()),
        }
    }

    pub(super) async fn ack(&self, AckArguments { ids }: AckArguments) -> AckedAnswer {
        if ids.is_empty() || ids.len() > ACK_MAX {
            return AckedAnswer::refused(Problem::schema(format!("give 1 to {ACK_MAX} ids")));
        }
        let parsed: Result<Vec<_>, _> = ids.iter().map(|id| message_id(id)).collect();
        let acking =
            async { Ok::<_, Refused>(self.shared.messages.ack(&self.agent, parsed?).await?) };
        let results = match acking.await {
            Ok(results) => results,
            Err(refused) => return AckedAnswer::refused(refused.into()),
        };
        let mut answer = AckedAnswer {
            settled: Vec::new(),
            unsettled: Vec::new(),
            error: None,
        };
        for (id, result) in ids.into_iter().zip(results) {
            match result {
                Ok(()) => answer.settled.push(id),
                Err(refusal) => answer.unsettled.push(Unsettled {
                    id,
                    error: Refused::from(refusal).into(),
                }),
            }
        }
        answer
    }

    /// What waits for others ends when the API stops, and, with nothing, when the client takes its
    /// call back.
    async fn until_ended<T>(
        &self,
        waiting: impl Future<Output = T>,
        context: &RequestContext<RoleServer>,
    ) -> Result<Option<T>, Refused> {
        tokio::select! {
            // A stop also ends the sessions, which takes no call back.
            biased;
            done = self.shared.until_stopped(waiting) => done.map(Some),
            () = context.ct.cancelled() => Ok(None),
        }
    }

    fn inbox_message(&self, delivery: Delivery, room: usize) -> InboxMessage {
        let received = self.shared.received(delivery);
        let body = received.body().unwrap_or(api::Body::Binary(Vec::new()));
        let mut message = foreign_text(
            received.id,
            &received.from,
            &received.content_type,
            body,
            room,
        );
        if received.kind == api::Kind::Failure {
            // Nobody wrote it: what there is to say is in the error.
            (message.text, message.cut) = (String::new(), false);
        }
        InboxMessage {
            kind: received.kind.into(),
            message,
            reply_expected: received.reply_expected,
            in_reply_to: received.in_reply_to,
            conversation: received.conversation,
            attempt: received.attempt,
            error: received
                .error
                .map(|error| Problem::of(error).about(&received.from.to_string())),
        }
    }
}

fn foreign_text(
    id: String,
    from: &AgentAddress,
    content_type: &str,
    body: api::Body,
    room: usize,
) -> ForeignText {
    let foreign::Framed { text, cut } = foreign::frame(from, body, room);
    ForeignText {
        id,
        from: from.to_string(),
        content_type: foreign::line(content_type, CONTENT_TYPE_MAX),
        text,
        cut,
    }
}

fn taken_back() -> Refused {
    Refused::from_failure(api::Failure::new("cancelled", "the call was taken back"))
}

fn address(text: &str) -> Result<AgentAddress, Refused> {
    text.parse().map_err(|error: identity::ParseNameError| {
        Refused::schema(format!("`to` is no agent@gateway: {error}"))
    })
}

fn room(max_bytes: Option<usize>) -> usize {
    max_bytes.unwrap_or(SHOWN).min(SHOWN_MAX)
}

/// Below the 60 s after which clients give up a call by default.
const ASK: Duration = Duration::from_secs(50);

/// A model's turn is no longer, in all likelihood; a later answer is in the inbox.
pub(super) const ASK_MAX: Duration = Duration::from_secs(900);

const INBOX: usize = 10;

/// A model thinks for longer than a program: its message is not to come again meanwhile.
const HOLD: Duration = Duration::from_secs(300);

/// About 8,000 tokens: clients warn of results beyond 10,000.
const SHOWN: usize = 32 << 10;

/// An answer has it twice, for the model and for programs, escaped once more in JSON: below the
/// 1 MiB beyond which clients refuse an event.
const SHOWN_MAX: usize = 128 << 10;

const CONTENT_TYPE_MAX: usize = 256;

/// What a list shows of an agent's description, in bytes: a list of 256 stays readable.
const DESCRIPTION_ROOM: usize = 256;
