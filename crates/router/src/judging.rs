//! What the policy says of a message: when it is taken, when it is offered, and again whenever the
//! policy or the members change.

use identity::{AgentName, NodeId, UnixTime};
use policy::{MessageRequest, Verb, Verdict};
use wire::message::Kind;

use crate::outbox::{Outgoing, Place};
use crate::router::Router;
use crate::rows::RowId;
use crate::words::{CUT_OFF, Failure};

impl Router {
    /// The policy or the members changed: what is denied now, in flight or not, ends here and need
    /// not wait for the receiver to say so; and nobody waits for an answer that may not come.
    pub(crate) fn judge_outgoing_again(&mut self) {
        self.to_pump
            .extend(self.outbox.lanes.values().map(|lane| lane.key.node));
        let unsettled = |message: &Outgoing| match message.place {
            // Judged when its store is done.
            _ if message.storing.is_some() => false,
            Place::Waiting | Place::Lane(_) => true,
            Place::Settled => message.open,
        };
        let rows = self.outbox.messages.iter();
        let rows = rows.filter(|(_, message)| unsettled(message));
        for row in rows.map(|(row, _)| *row).collect::<Vec<_>>() {
            self.judge_row_again(row);
        }
    }

    pub(crate) fn judge_row_again(&mut self, row: RowId) {
        let Some(Verdict::Denied(denial)) = self.verdict_on(row) else {
            return;
        };
        let open = self.outbox.messages.get(&row).is_some_and(|it| it.open);
        let parked = match denial.code {
            // Who is no member now may be one again; its time to live decides.
            "unknown_node" => true,
            CUT_OFF => !open,
            _ => false,
        };
        if !parked {
            self.fail(row, Failure::denied(denial));
        }
    }

    /// The body counts until the receiver has it: then only the way back matters.
    pub(crate) fn verdict_on(&self, row: RowId) -> Option<Verdict> {
        let sent = &self.outbox.messages.get(&row)?.sent;
        let envelope = self.outbox.messages.get(&row)?.envelope.as_ref();
        let bytes = envelope.map(|it| it.body.len());
        let kind = envelope.map_or(
            match (sent.stream, sent.expects_reply) {
                (true, _) => Kind::Stream,
                (false, true) => Kind::Request,
                (false, false) => Kind::Message,
            },
            |it| it.kind,
        );
        let (src, dst) = ((self.node, &sent.from), (sent.node, &sent.to.agent));
        Some(self.judge(src, dst, &kind, bytes))
    }

    /// The policy's word. A reply rides the grant of its request, the same question the other way;
    /// its size is a question about its own way.
    pub(crate) fn judge(
        &self,
        src: (NodeId, &AgentName),
        dst: (NodeId, &AgentName),
        kind: &Kind,
        bytes: Option<usize>,
    ) -> Verdict {
        let request = |src, dst, verb| MessageRequest {
            src,
            dst,
            verb,
            at: UnixTime(self.unix_ms() / 1000),
            bytes: bytes.map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX)),
        };
        let authority = &self.authority;
        match kind {
            Kind::Message => authority.authorize(&request(src, dst, Verb::Send)),
            Kind::Request => authority.authorize(&request(src, dst, Verb::Request)),
            Kind::Stream => authority.authorize(&request(src, dst, Verb::Stream)),
            Kind::Reply { .. } => {
                let verdict = authority.authorize_reply(&request(dst, src, Verb::Request));
                if verdict.is_allowed() {
                    return verdict;
                }
                // It may answer a request that wanted its parts too.
                match authority.authorize_reply(&request(dst, src, Verb::Stream)) {
                    allowed @ Verdict::Allowed { .. } => allowed,
                    Verdict::Denied(_) => verdict,
                }
            }
        }
    }
}
