//! The `tests` section: what the author expects, to be held against the rules before a push.

use std::ops::Range;

use jsonc_parser::ast::Value;

use super::reader::{Fields, Keys, Reader, Spanned, not_enforced};
use super::rule::unbracketed;
use super::selector::Side;
use super::{AgentPattern, Names, NodeSelector, Selector, ports};
use crate::Verb;
use crate::diagnostic::{Diagnostic, nearest};

/// One line of a test: this source, that destination, and whether it must be allowed.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    pub src: Selector,
    pub src_text: String,
    pub target: Target,
    pub target_text: String,
    pub allowed: bool,
    pub span: Range<usize>,
}

/// What is tried.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A packet to a port of a node.
    Packet {
        node: NodeSelector,
        protocol: u8,
        port: u16,
    },
    /// A message to an agent.
    Message {
        agent: AgentPattern,
        node: NodeSelector,
        verb: Verb,
    },
}

const TEST: Keys = Keys {
    of: "a test",
    known: &["src", "proto", "accept", "deny"],
    later: &["srcPostureAttrs", "at", "why", "strict"],
    ignored: &[],
};

/// The most expectations of one file.
const MAX_EXPECTATIONS: usize = 10_000;

pub(super) fn read(reader: &mut Reader, sections: &Fields<'_>, names: &Names) -> Vec<Expectation> {
    let mut expectations = Vec::new();
    let Some(section) = sections.get("tests") else {
        return expectations;
    };
    let Some(array) = reader.array("tests", &section.value) else {
        return expectations;
    };
    for (index, value) in array.elements.iter().enumerate() {
        let Some(object) = reader.object(&format!("tests[{index}]"), value) else {
            continue;
        };
        let fields = reader.fields(object, &TEST);
        let before = expectations.len();
        read_test(
            reader,
            &fields,
            names,
            super::span(object),
            &mut expectations,
        );
        let lines = ["accept", "deny"].iter().filter_map(|key| fields.get(key));
        let empty = lines
            .filter_map(|field| field.value.as_array())
            .all(|array| array.elements.is_empty());
        if empty && expectations.len() == before {
            let message = "a test needs \"accept\" or \"deny\"";
            reader.error("E071", super::span(object), message);
        }
        if expectations.len() > MAX_EXPECTATIONS {
            let message = format!("more than {MAX_EXPECTATIONS} expectations");
            reader.error("E005", super::span(value), message);
            break;
        }
    }
    expectations
}

fn read_test(
    reader: &mut Reader,
    fields: &Fields<'_>,
    names: &Names,
    object: Range<usize>,
    expectations: &mut Vec<Expectation>,
) {
    let Some(field) = fields.get("src") else {
        reader.error("E006", object, "\"src\" is missing");
        return;
    };
    let Some(src_text) = reader.string("src", &field.value) else {
        return;
    };
    let src = match Selector::parse(&src_text, Side::Source, names) {
        Ok((src, _)) => src,
        Err(error) => return reader.say(error),
    };
    let mut protocol = ports::TCP;
    if let Some(text) = fields
        .get("proto")
        .and_then(|f| reader.string("proto", &f.value))
    {
        match ports::parse_protocol(&text.value) {
            Ok(number) => protocol = number,
            Err(message) => return reader.error("E051", text.span, message),
        }
    }
    for (key, allowed) in [("accept", true), ("deny", false)] {
        let Some(field) = fields.get(key) else {
            continue;
        };
        for text in read_lines(reader, key, &field.value) {
            match read_target(&text, &src, protocol, names) {
                Ok(target) => expectations.push(Expectation {
                    src: src.clone(),
                    src_text: src_text.value.clone(),
                    target,
                    target_text: text.value,
                    allowed,
                    span: text.span,
                }),
                Err(error) => reader.say(error),
            }
        }
    }
}

/// The lines as text; the objects of the full language (`{"http": .., "dst": ..}`) are refused.
fn read_lines(reader: &mut Reader, key: &str, value: &Value<'_>) -> Vec<Spanned<String>> {
    let Some(array) = reader.array(key, value) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for element in &array.elements {
        match element.as_object() {
            Some(object) => reader.say(not_enforced("http", super::span(object))),
            None => lines.extend(reader.string(&format!("an entry of {key}"), element)),
        }
    }
    lines
}

fn read_target(
    text: &Spanned<String>,
    src: &Selector,
    protocol: u8,
    names: &Names,
) -> Result<Target, Diagnostic> {
    let refused = |message: String| Diagnostic::error("E071", text.span.clone(), message);
    let whole = |value: &str| Spanned {
        value: value.to_owned(),
        span: text.span.clone(),
    };
    for kind in ["topic:", "internet:", "svc:"] {
        if text.value.starts_with(kind) {
            return Err(not_enforced(kind, text.span.clone()));
        }
    }
    let Some((host, last)) = text.value.rsplit_once(':') else {
        let help =
            "write \"tag:prod:22\" for a packet, \"agent:coder@tag:ci:request\" for a message";
        return Err(refused(format!("{:?} has no port or verb", text.value)).help(help));
    };
    let is_agent = text.value.starts_with("agent:");
    if is_agent || last.parse::<Verb>().is_ok() {
        let verb = last.parse::<Verb>().map_err(|error| {
            let wrong = refused(format!("{last:?}: {error}"));
            match nearest(last, Verb::ALL.map(Verb::as_str)) {
                Some(meant) => wrong.help(format!("did you mean {meant:?}?")),
                None => wrong.help("a message is tested as agent:NAME@GATEWAY:VERB"),
            }
        })?;
        let (selector, _) = Selector::parse(&whole(host), Side::Destination, names)?;
        let agent = selector.agent.unwrap_or(AgentPattern::Every);
        return Ok(Target::Message {
            agent,
            node: selector.node,
            verb,
        });
    }
    if src.agent.is_some() {
        let wrong = refused("an agent sends messages, and never matches a packet".to_owned());
        return Err(wrong.help("test packets with the gateway as src"));
    }
    let port = match (ports::has_ports(protocol), last) {
        (false, "*") => 0,
        (false, _) => {
            return Err(refused(format!(
                "protocol {protocol} has no ports: write {host}:*"
            )));
        }
        (true, last) => ports::parse_port(last)
            .filter(|port| *port != 0)
            .ok_or_else(|| {
                refused(format!("{last:?} is not one port"))
                    .help("a test tries one port, 1 to 65535")
            })?,
    };
    let (selector, _) = Selector::parse(&whole(unbracketed(host)), Side::Destination, names)?;
    Ok(Target::Packet {
        node: selector.node,
        protocol,
        port,
    })
}
