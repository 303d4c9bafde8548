//! Who must hear of what this node holds: peers on their control streams, beacons on their links.

use bytes::Bytes;
use identity::{NodeId, Role};
use wire::map::{Document, MapRequest};
use wire::peer::PeerFrame;

use super::{Output, Source, State, kind_of};
use crate::control::gossip::Kind;

impl State {
    /// What a peer is shown beside the hello: what it needs to judge us, and its own certificate,
    /// in case that is a renewal which no beacon lets through.
    pub(super) fn greeting(&self, peer: &NodeId) -> Vec<Document> {
        let mut documents = self.beacon_certificates(peer);
        for node in [&self.me.node, peer] {
            if let Some(bytes) = self.trust.certificate(node) {
                documents.push(Document::Certificate(Bytes::copy_from_slice(bytes)));
            }
        }
        if let Some((_, bytes)) = self.trust.record(&self.me.node) {
            documents.push(Document::Record(Bytes::copy_from_slice(bytes)));
        }
        documents
    }

    pub(super) fn beacon_certificates(&self, but: &NodeId) -> Vec<Document> {
        self.trust
            .members()
            .filter(|member| member.role == Role::Beacon && member.node != *but)
            .filter_map(|member| self.trust.certificate(&member.node))
            .map(|bytes| Document::Certificate(Bytes::copy_from_slice(bytes)))
            .collect()
    }

    pub(super) fn head_document(&self, kind: Kind) -> Option<Document> {
        match kind {
            Kind::TrustLog => Some(Document::TrustLog(Bytes::copy_from_slice(
                self.trust.trust_log(),
            ))),
            Kind::Revocations => {
                let set = self.trust.revocations()?;
                Some(Document::Revocations(Bytes::copy_from_slice(&set.bytes)))
            }
            Kind::Policy => {
                let bundle = self.trust.policy()?;
                Some(Document::Policy(Bytes::copy_from_slice(&bundle.bytes)))
            }
        }
    }

    /// What decides who may do what goes to everybody at once, and not only the word that there is
    /// something to pull: whoever is cut off by it may have no time to ask. The heads follow, for
    /// whoever cannot take it alone, and for what is too large to be sent along every edge.
    pub(super) fn tell_news(&mut self, source: Source, document: &Document) {
        let Some(kind) = kind_of(document) else {
            return;
        };
        let small = size(document) <= PUSHED_MOST;
        if small {
            self.send_peers_but(source, &PeerFrame::Document(document.clone()));
        }
        self.send_peers_but(source, &PeerFrame::Heads(self.trust.heads()));
        self.publish_but(source, document);
        self.farewell.handle_news(kind, small);
    }

    pub(super) fn publish_own(&mut self, beacon: NodeId) {
        if let Some(bytes) = self.trust.certificate(&self.me.node) {
            let document = Document::Certificate(Bytes::copy_from_slice(bytes));
            self.publish(beacon, document);
        }
        if let Some((_, bytes)) = self.trust.record(&self.me.node) {
            let document = Document::Record(Bytes::copy_from_slice(bytes));
            self.publish(beacon, document);
        }
    }

    /// Records that come in by an introduction are not ours to publish.
    pub(super) fn publish_own_record(&mut self, document: &Document) {
        let own = self.trust.record(&self.me.node).map(|(_, bytes)| bytes);
        if matches!((document, own), (Document::Record(bytes), Some(own)) if bytes[..] == *own) {
            self.publish_but(Source::Here, document);
        }
    }

    pub(super) fn publish_but(&mut self, source: Source, document: &Document) {
        let beacons: Vec<NodeId> = self
            .links
            .iter()
            .filter(|(node, link)| {
                link.up && link.restricted.is_none() && source != Source::Beacon(**node)
            })
            .map(|(node, _)| *node)
            .collect();
        for beacon in beacons {
            self.publish(beacon, document.clone());
        }
    }

    pub(super) fn publish(&mut self, beacon: NodeId, document: Document) {
        if let Some(link) = self.links.get_mut(&beacon) {
            link.requests = link.requests.wrapping_add(1);
            let request = MapRequest::Publish {
                request: link.requests,
                document,
            };
            self.outputs.push_back(Output::ToBeacon(beacon, request));
        }
    }

    pub(super) fn send_peers_but(&mut self, source: Source, frame: &PeerFrame) {
        let peers: Vec<NodeId> = self
            .gossip
            .peers()
            .filter(|peer| source != Source::Peer(*peer))
            .collect();
        for peer in peers {
            self.send_peer(peer, frame.clone());
        }
    }

    pub(super) fn send_peer(&mut self, peer: NodeId, frame: PeerFrame) {
        self.outputs.push_back(Output::ToPeer(peer, frame));
    }
}

fn size(document: &Document) -> usize {
    match document {
        Document::TrustLog(bytes)
        | Document::Policy(bytes)
        | Document::Revocations(bytes)
        | Document::Certificate(bytes)
        | Document::Record(bytes) => bytes.len(),
    }
}

/// Every neighbour sends every neighbour what is news: with 50 of them in a full mesh this is 800 KB
/// for each, as often as an operator pushes. A kill has a few hundred bytes.
const PUSHED_MOST: usize = 16 << 10;
