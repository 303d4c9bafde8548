//! The words for a case that no grant allows: who wants what, the grant that its author may have
//! taken for it, and the grant that is missing.

use std::net::IpAddr;

use crate::decide::{Case, Fit, To};
use crate::document::{Ports, TCP, UDP, rfc3339};
use crate::resolve::{Place, Resolved, ResolvedRule};

impl Case<'_> {
    /// The source, as a selector that means it alone.
    pub(crate) fn from(&self) -> String {
        match self.agent {
            Some(agent) => format!("agent:{agent}@{}", self.src.facts.called()),
            None => self.src.facts.called().to_owned(),
        }
    }

    /// The destination, in the same way.
    pub(crate) fn onto(&self) -> String {
        match self.to {
            To::Message { dst, agent, .. } | To::Skill { dst, agent, .. } => {
                format!("agent:{agent}@{}", dst.facts.called())
            }
            To::Packet { dst, .. } | To::HttpNode { dst, .. } => dst.facts.called().to_owned(),
            To::Topic { topic, .. } => format!("topic:{topic}"),
            To::Internet { host, port } | To::HttpInternet { host, port, .. } => {
                format!("internet:{host}:{port}")
            }
            To::Service(name) => format!("svc:{name}"),
        }
    }

    /// Why no grant allows it, in one sentence.
    pub(crate) fn no_grant(&self, resolved: &Resolved) -> String {
        let (from, to) = (self.from(), self.onto());
        let wish = match self.to {
            To::Message { verb, .. } => format!("{verb} to {to}"),
            To::Skill { skill, .. } => format!("use {skill} of {to}"),
            To::Packet { protocol, port, .. } => format!("reach {} of {to}", ports(protocol, port)),
            To::HttpNode {
                port, method, path, ..
            } => format!("{method} {path} on port {port} of {to}"),
            To::Topic { verb, .. } => format!("{verb} {}", preposition(verb, &to)),
            To::Internet { .. } | To::Service(_) => format!("reach {to}"),
            To::HttpInternet { method, path, .. } => format!("{method} {path} of {to}"),
        };
        let mut reason = format!("no grant lets {from} {wish}");
        if let Some(near) = self.nearly(resolved) {
            reason.push_str("; ");
            reason.push_str(&near);
        }
        if resolved.rules().all().is_empty() {
            reason.push_str("; the policy has no grants at all");
        }
        reason
    }

    /// The grant that its author may have taken for this one, and what it lacks.
    fn nearly(&self, resolved: &Resolved) -> Option<String> {
        let lacks = |part: fn(Fit) -> bool| {
            move |rule: &&ResolvedRule| {
                let fit = self.fit(rule);
                fit.missing() == 1 && !part(fit)
            }
        };
        let near = |part: fn(Fit) -> bool| self.candidates(resolved).find(lacks(part));
        if let Some(rule) = near(|fit| fit.posture) {
            let names: Vec<&str> = rule.postures.iter().map(|posture| &*posture.name).collect();
            let name = rule.name.phrase("grant");
            return Some(format!(
                "{name} asks for {}, which {} does not meet",
                names.join(" or "),
                self.src.facts.called()
            ));
        }
        if let Some(rule) = near(|fit| fit.time) {
            let valid = rule.valid.as_ref().map(ToString::to_string);
            let (name, now) = (rule.name.phrase("grant"), rfc3339(self.when.now()));
            return Some(format!(
                "{name} holds {} only, and it is {now}",
                valid.unwrap_or_default()
            ));
        }
        if let Some(rule) = near(|fit| fit.operation) {
            let name = rule.name.phrase("grant");
            return Some(format!("{name} allows only {}", allowed(rule)));
        }
        if let Some(name) = self.other_way(resolved) {
            return Some(format!("{name} allows it the other way only"));
        }
        let (Some(_), Some(_)) = self.to.end() else {
            return None;
        };
        let between = |rule: &&ResolvedRule| {
            let fit = self.fit(rule);
            fit.operation && fit.posture && fit.time
        };
        let mut others = self.candidates(resolved).filter(between);
        others
            .find(|rule| {
                let (dst, _) = self.to.end();
                dst.is_some_and(|dst| rule.destinations(self.src, dst).next().is_some())
            })
            .map(|rule| {
                let name = rule.name.phrase("grant");
                format!("{name} allows it between other agents of them")
            })
    }

    /// The rule that allows the same in the opposite direction.
    fn other_way(&self, resolved: &Resolved) -> Option<String> {
        let To::Message { dst, agent, verb } = self.to else {
            return None;
        };
        let sender = self.agent?;
        let back = Case {
            src: dst,
            agent: Some(agent),
            to: To::Message {
                dst: self.src,
                agent: sender,
                verb,
            },
            ..self.clone()
        };
        resolved
            .message_rules(dst, self.src)
            .find(|rule| back.fit(rule).is_whole())
            .map(|rule| rule.name.phrase("grant"))
    }

    /// A grant that would allow exactly this.
    pub(crate) fn missing_grant(&self) -> Option<String> {
        let (from, to) = (self.from(), self.onto());
        let what = match self.to {
            To::Message { verb, .. } | To::Topic { verb, .. } => format!(r#", "msg": ["{verb}"]"#),
            To::Skill { skill, .. } => format!(r#", "msg": ["{skill}"]"#),
            To::Packet { protocol, port, .. } => {
                format!(r#", "ip": ["{}"]"#, entry(protocol, port))
            }
            To::HttpNode {
                port, method, path, ..
            } => format!(
                r#", "ip": ["tcp:{port}"], "http": [{{"methods": ["{method}"], "paths": ["{path}"]}}]"#
            ),
            To::HttpInternet { method, path, .. } => {
                format!(r#", "http": [{{"methods": ["{method}"], "paths": ["{path}"]}}]"#)
            }
            To::Internet { .. } | To::Service(_) => String::new(),
        };
        // An address that no node has is named itself.
        let to = match (&self.to, self.to_unknown_address()) {
            (To::Packet { .. }, Some(address)) => address.to_string(),
            _ => to,
        };
        Some(format!(r#"{{"src": ["{from}"], "dst": ["{to}"]{what}}}"#))
    }

    fn to_unknown_address(&self) -> Option<IpAddr> {
        match self.to {
            To::Packet { dst, ends, .. } if !has(dst, ends.1) => Some(ends.1),
            _ => None,
        }
    }
}

fn has(place: &Place, address: IpAddr) -> bool {
    place.facts.addresses.contains(&address)
}

/// What a rule allows, in words.
pub(crate) fn allowed(rule: &ResolvedRule) -> String {
    let verbs = rule.msg.iter().map(|verb| verb.to_string());
    let skills = rule.skills.iter().map(ToString::to_string);
    let ports = rule.ip.iter().map(Ports::to_string);
    let http = rule.http.iter().map(ToString::to_string);
    let words: Vec<String> = verbs.chain(skills).chain(ports).chain(http).collect();
    match words.is_empty() {
        true => "other things".to_owned(),
        false => words.join(", "),
    }
}

fn preposition(verb: crate::Verb, topic: &str) -> String {
    match verb {
        crate::Verb::Subscribe => format!("to {topic}"),
        _ => format!("in {topic}"),
    }
}

fn ports(protocol: u8, port: u16) -> String {
    match protocol {
        TCP => format!("port {port}"),
        UDP => format!("UDP port {port}"),
        _ => format!("protocol {protocol}"),
    }
}

/// As an entry of `ip`.
fn entry(protocol: u8, port: u16) -> String {
    match protocol {
        TCP => format!("tcp:{port}"),
        UDP => format!("udp:{port}"),
        _ => format!("{protocol}:*"),
    }
}
