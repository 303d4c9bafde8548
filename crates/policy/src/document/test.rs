//! The `tests` section: what the author expects, to be held against the rules before a push.

use std::ops::Range;

use identity::UnixTime;
use jsonc_parser::ast::{Object, Value};

use super::http::is_method;
use super::pattern::{Domain, Levels};
use super::posture::{Attribute, Attributes};
use super::reader::{Fields, Keys, Reader, Spanned, span};
use super::rule::unbracketed;
use super::selector::Side;
use super::window::read_time;
use super::{AgentPattern, Document, Names, NodeSelector, Selector, is_plain, ports};
use crate::diagnostic::{Diagnostic, Hints, nearest};
use crate::{Skill, Verb};

/// One line of a test: this source, that destination, and whether it must be allowed.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    pub src: Selector,
    pub src_text: String,
    pub target: Target,
    pub target_text: String,
    pub allowed: bool,
    /// What the source is like, for postures.
    pub attributes: Attributes,
    /// When; none: with every `valid` window open and every `deny` window closed.
    pub at: Option<UnixTime>,
    /// What decides, such as `blocks:quarantine-42`.
    pub why: Option<String>,
    /// Whether `accept` also needs every guard that asks more than the policy knows.
    pub strict: bool,
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
    /// A tool, a skill or a power of an agent.
    Skill {
        agent: AgentPattern,
        node: NodeSelector,
        skill: Skill,
    },
    /// A topic.
    Topic { topic: Box<str>, verb: Verb },
    /// A port of a place on the internet.
    Internet { host: Box<str>, port: u16 },
    /// A service.
    Service(Box<str>),
    /// A request to a port of a node.
    HttpNode {
        method: Box<str>,
        path: Box<str>,
        node: NodeSelector,
        port: u16,
    },
    /// A request to a place on the internet.
    HttpInternet {
        method: Box<str>,
        path: Box<str>,
        host: Box<str>,
        port: u16,
    },
}

impl Target {
    /// The nodes that are tried, where it is about nodes.
    pub fn node(&self) -> Option<&NodeSelector> {
        match self {
            Self::Packet { node, .. }
            | Self::Message { node, .. }
            | Self::Skill { node, .. }
            | Self::HttpNode { node, .. } => Some(node),
            Self::Topic { .. }
            | Self::Internet { .. }
            | Self::Service(_)
            | Self::HttpInternet { .. } => None,
        }
    }

    /// A request to the same port, where it is one.
    fn request(self, method: &str, path: &str) -> Option<Self> {
        let (method, path) = (method.into(), path.into());
        match self {
            Self::Packet { node, port, .. } => Some(Self::HttpNode {
                method,
                path,
                node,
                port,
            }),
            Self::Internet { host, port } => Some(Self::HttpInternet {
                method,
                path,
                host,
                port,
            }),
            _ => None,
        }
    }

    /// The agents that are tried, where it is about agents.
    pub fn agent(&self) -> Option<&AgentPattern> {
        match self {
            Self::Message { agent, .. } | Self::Skill { agent, .. } => Some(agent),
            _ => None,
        }
    }
}

const TEST: Keys = Keys {
    of: "a test",
    known: &[
        "src",
        "proto",
        "accept",
        "deny",
        "srcPostureAttrs",
        "at",
        "why",
        "strict",
    ],
    ignored: &[],
};

const REQUEST: Keys = Keys {
    of: "a request",
    known: &["http", "dst"],
    ignored: &[],
};

/// The most expectations of one file.
const MAX_EXPECTATIONS: usize = 10_000;

/// The headline that Tailscale gives to whatever is wrong with tests.
pub(crate) const FAILED: &str = "test(s) failed";

/// What the lines of one test share.
struct Context<'a> {
    names: &'a Names,
    hints: Hints,
    src: Selector,
    src_text: String,
    protocol: u8,
    attributes: Attributes,
    at: Option<UnixTime>,
    why: Option<String>,
    strict: bool,
}

pub(super) fn read(reader: &mut Reader, sections: &Fields<'_>, names: &Names) -> Vec<Expectation> {
    let mut expectations = Vec::new();
    let Some(section) = sections.get("tests") else {
        return expectations;
    };
    for (_, object) in reader.objects("tests", &section.value) {
        let fields = reader.fields(object, &TEST);
        read_test(reader, object, &fields, names, &mut expectations);
        if expectations.len() > MAX_EXPECTATIONS {
            let message = format!("more than {MAX_EXPECTATIONS} expectations");
            reader.error("E005", span(object), message);
            break;
        }
    }
    expectations
}

impl Document {
    /// One question, in the words of a test: who, to what, and what.
    pub(crate) fn question(
        &self,
        src: &str,
        dst: &str,
        operation: &str,
    ) -> Result<Expectation, Diagnostic> {
        let asked = |text: String| Spanned {
            value: text,
            span: 0..0,
        };
        let names = &self.names;
        let read = || {
            let hints = Hints::default();
            let (source, _) =
                Selector::parse(&asked(src.to_owned()), Side::Source, (names, &hints))?;
            let mut context = Context {
                names,
                hints,
                src: source,
                src_text: src.to_owned(),
                protocol: ports::TCP,
                attributes: Attributes::new(),
                at: None,
                why: None,
                strict: true,
            };
            let of_verb = operation.parse::<Verb>().is_ok() || operation.parse::<Skill>().is_ok();
            let target = match (operation.split_once(' '), operation.split_once(':')) {
                (Some((method, path)), _) => {
                    let target = read_target(&asked(dst.to_owned()), &context)?;
                    let wrong = || broken(0..0, format!("{operation:?} is no request"));
                    let request = is_method(method) && path.starts_with('/');
                    request
                        .then(|| target.request(method, path))
                        .flatten()
                        .ok_or_else(wrong)?
                }
                (_, Some((protocol, port))) if !of_verb => {
                    let number = ports::parse_protocol(protocol);
                    context.protocol = number.map_err(|why| broken(0..0, why))?;
                    read_target(&asked(format!("{dst}:{port}")), &context)?
                }
                _ if names_all(dst, operation) => read_target(&asked(dst.to_owned()), &context)?,
                _ => read_target(&asked(format!("{dst}:{operation}")), &context)?,
            };
            if matches!(target, Target::Packet { .. }) && context.src.agent().is_some() {
                let wrong = "an agent sends messages, and never matches a packet";
                return Err(broken(0..0, wrong).help("ask with the gateway as source"));
            }
            Ok(Expectation {
                src: context.src,
                src_text: context.src_text,
                target,
                target_text: format!("{dst} {operation}"),
                allowed: true,
                attributes: context.attributes,
                at: None,
                why: None,
                strict: true,
                span: 0..0,
            })
        };
        // In a question, what is wrong is the headline itself.
        read().map_err(|error: Diagnostic| match error.label_text() {
            Some(why) if error.message() == FAILED => {
                let wrong = Diagnostic::error("E071", 0..0, why.to_owned());
                match error.hint() {
                    Some(help) => wrong.help(help),
                    None => wrong,
                }
            }
            _ => error,
        })
    }
}

/// Whether the destination needs no operation: `svc:db connect`, `internet:x.org:443 connect`.
fn names_all(dst: &str, operation: &str) -> bool {
    operation == "connect" && (dst.starts_with("svc:") || dst.starts_with("internet:"))
}

fn read_test(
    reader: &mut Reader,
    object: &Object<'_>,
    fields: &Fields<'_>,
    names: &Names,
    expectations: &mut Vec<Expectation>,
) {
    let Some(field) = fields.get("src") else {
        return reader.say(broken(span(object), "\"src\" is missing"));
    };
    let Some(src_text) = reader.string("src", &field.value) else {
        return;
    };
    let src = match Selector::parse(&src_text, Side::Source, (names, &reader.hints())) {
        Ok((src, _)) => src,
        Err(error) => return reader.say(failed(error)),
    };
    let mut context = Context {
        names,
        hints: reader.hints(),
        src,
        src_text: src_text.value,
        protocol: ports::TCP,
        attributes: Attributes::new(),
        at: None,
        why: None,
        strict: false,
    };
    // An empty one is none, as at Tailscale.
    if let Some(text) = reader
        .text(fields, "proto")
        .filter(|text| !text.value.is_empty())
    {
        match ports::parse_protocol(&text.value) {
            Ok(number) => context.protocol = number,
            Err(message) => return reader.say(broken(text.span, message)),
        }
    }
    if let Some(field) = fields.get("srcPostureAttrs") {
        context.attributes = read_attributes(reader, &field.value);
    }
    if let Some(text) = reader.text(fields, "at") {
        context.at = read_time(reader, &text);
    }
    if let Some(text) = reader.text(fields, "why") {
        context.why = read_why(reader, text);
    }
    if let Some(field) = fields.get("strict") {
        context.strict = reader.boolean("strict", &field.value).unwrap_or_default();
    }
    let mut lines = 0;
    for (key, allowed) in [("accept", true), ("deny", false)] {
        let Some(field) = fields.get(key) else {
            continue;
        };
        let Some(array) = reader.array(key, &field.value) else {
            return;
        };
        lines += array.elements.len();
        for element in &array.elements {
            expectations.extend(read_line(reader, &context, key, element, allowed));
        }
    }
    if lines == 0 {
        reader.say(broken(span(object), "a test needs \"accept\" or \"deny\""));
    }
}

fn read_line(
    reader: &mut Reader,
    context: &Context<'_>,
    key: &str,
    element: &Value<'_>,
    allowed: bool,
) -> Option<Expectation> {
    let (target, text) = match element.as_object() {
        Some(object) => read_request(reader, context, object)?,
        None => {
            let text = reader.string(&format!("an entry of {key}"), element)?;
            match read_target(&text, context) {
                Ok(target) => (target, text),
                Err(error) => {
                    reader.say(failed(error));
                    return None;
                }
            }
        }
    };
    let is_packet = matches!(target, Target::Packet { .. });
    if is_packet && context.src.agent().is_some() {
        let wrong = broken(
            text.span,
            "an agent sends messages, and never matches a packet",
        );
        reader.say(wrong.help("test packets with the gateway as src"));
        return None;
    }
    Some(Expectation {
        src: context.src.clone(),
        src_text: context.src_text.clone(),
        target,
        target_text: text.value,
        allowed,
        attributes: context.attributes.clone(),
        at: context.at,
        why: context.why.clone(),
        strict: context.strict,
        span: text.span,
    })
}

/// `{"http": "POST /api/v1/jobs", "dst": "tag:prod:8080"}`.
fn read_request(
    reader: &mut Reader,
    context: &Context<'_>,
    object: &Object<'_>,
) -> Option<(Target, Spanned<String>)> {
    let fields = reader.fields(object, &REQUEST);
    let (http, dst) = (reader.text(&fields, "http"), reader.text(&fields, "dst"));
    let (Some(http), Some(dst)) = (http, dst) else {
        let wrong = broken(span(object), "a request needs \"http\" and \"dst\"");
        reader.say(wrong.help(r#"write {"http": "GET /status", "dst": "tag:prod:8080"}"#));
        return None;
    };
    let line = http.value.split_once(' ');
    let Some((method, path)) = line.filter(|(m, p)| is_method(m) && p.starts_with('/')) else {
        let wrong = broken(http.span, format!("{:?} is no request", http.value));
        reader.say(wrong.help("write the method and the path: \"GET /status\""));
        return None;
    };
    let target = match read_target(&dst, context) {
        Ok(target) => target.request(method, path),
        Err(error) => {
            reader.say(failed(error));
            return None;
        }
    };
    let Some(target) = target else {
        reader.say(broken(dst.span, "a request goes to a port"));
        return None;
    };
    let text = Spanned {
        value: format!("{} {}", dst.value, http.value),
        span: span(object),
    };
    Some((target, text))
}

fn read_target(text: &Spanned<String>, context: &Context<'_>) -> Result<Target, Diagnostic> {
    let refused = |message: String| broken(text.span.clone(), message);
    let whole = text.value.as_str();
    if let Some(name) = whole.strip_prefix("svc:") {
        return match is_plain(name) {
            true => Ok(Target::Service(name.into())),
            false => Err(refused(format!("{whole:?} is no service"))),
        };
    }
    // A skill has a colon of its own.
    let skill = ["call:", "admin:"].iter().find_map(|kind| {
        let at = whole.find(&format!(":{kind}"))?;
        Some((&whole[..at], &whole[at + 1..]))
    });
    let Some((host, last)) = skill.or_else(|| whole.rsplit_once(':')) else {
        let help =
            "write \"tag:prod:22\" for a packet, \"agent:coder@tag:ci:request\" for a message";
        return Err(refused(format!("{whole:?} has no port or verb")).help(help));
    };
    if let Some(topic) = host.strip_prefix("topic:") {
        let named = Levels::topic(topic).is_ok() && !topic.contains('*');
        let verb = last.parse::<Verb>().ok();
        let verb = verb.filter(|verb| matches!(verb, Verb::Publish | Verb::Subscribe));
        return match verb.filter(|_| named) {
            Some(verb) => Ok(Target::Topic {
                topic: topic.into(),
                verb,
            }),
            None => Err(refused(format!("{whole:?} tries nothing definite"))
                .help("a topic is tested as topic:builds/7:publish")),
        };
    }
    if let Some(host) = host.strip_prefix("internet:") {
        let named = Domain::parse(host).is_ok() && !host.contains(['*', ':']);
        return match port_of(last).filter(|_| named) {
            Some(port) => Ok(Target::Internet {
                host: host.into(),
                port,
            }),
            None => Err(refused(format!("{whole:?} tries nothing definite"))
                .help("the internet is tested as internet:api.example.com:443")),
        };
    }
    let is_agent = whole.starts_with("agent:");
    if is_agent || skill.is_some() || last.parse::<Verb>().is_ok() {
        return read_message(text, host, last, context);
    }
    let port = port_of(last).ok_or_else(|| {
        refused(format!("{last:?} is not one port")).help(
            "a test tries one port, 1 to 65535; for a protocol without ports any number will do",
        )
    })?;
    let host = Spanned {
        value: unbracketed(host).to_owned(),
        span: text.span.clone(),
    };
    let (selector, _) = Selector::parse(&host, Side::Destination, (context.names, &context.hints))?;
    match selector {
        Selector::Node(NodeSelector::Within(block)) if host.value.contains('/') => {
            Err(refused(format!("{block} is not one host")).help("test one address of it"))
        }
        Selector::Node(node) => Ok(Target::Packet {
            node,
            protocol: context.protocol,
            port,
        }),
        _ => Err(refused(format!("{:?} has no ports", host.value))),
    }
}

fn read_message(
    text: &Spanned<String>,
    host: &str,
    last: &str,
    context: &Context<'_>,
) -> Result<Target, Diagnostic> {
    let host = Spanned {
        value: host.to_owned(),
        span: text.span.clone(),
    };
    let (selector, _) = Selector::parse(&host, Side::Destination, (context.names, &context.hints))?;
    let (agent, node) = match selector {
        Selector::Node(node) => (AgentPattern::Every, node),
        Selector::Agent(agent, node) => (agent, node),
        _ => return Err(broken(text.span.clone(), "a message goes to an agent")),
    };
    match (last.parse::<Verb>(), last.parse::<Skill>()) {
        (Ok(verb), _) => Ok(Target::Message { agent, node, verb }),
        (_, Ok(skill)) if !skill.is_every() => Ok(Target::Skill { agent, node, skill }),
        (Err(error), _) => {
            let wrong = broken(text.span.clone(), format!("{last:?}: {error}"));
            Err(match nearest(last, Verb::ALL.map(Verb::as_str)) {
                Some(meant) => wrong.help(format!("did you mean {meant:?}?")),
                None => wrong.help("a message is tested as agent:NAME@GATEWAY:VERB"),
            })
        }
    }
}

fn port_of(text: &str) -> Option<u16> {
    ports::parse_port(text).filter(|port| *port != 0)
}

fn read_attributes(reader: &mut Reader, value: &Value<'_>) -> Attributes {
    let mut attributes = Attributes::new();
    for (name, value) in reader.members("srcPostureAttrs", value) {
        let attribute = match value {
            Value::StringLit(text) => Some(Attribute::Text((&*text.value).into())),
            Value::BooleanLit(literal) => Some(Attribute::Bool(literal.value)),
            Value::NumberLit(number) => number.value.parse().ok().map(Attribute::Number),
            _ => None,
        };
        match attribute {
            Some(attribute) => drop(attributes.insert(name.value.into(), attribute)),
            None => {
                let message = format!("{}: text, a number, true or false", name.value);
                reader.error("E004", span(value), message);
            }
        }
    }
    attributes
}

/// `grants:ID`, `guards:ID`, `blocks:ID` or `no-grant`.
fn read_why(reader: &mut Reader, text: Spanned<String>) -> Option<String> {
    let named = text
        .value
        .split_once(':')
        .is_some_and(|(kind, id)| matches!(kind, "grants" | "guards" | "blocks") && is_plain(id));
    if named || text.value == "no-grant" {
        return Some(text.value);
    }
    let wrong = broken(
        text.span,
        format!("why={:?}: nothing decides by that", text.value),
    );
    reader.say(wrong.help("write \"grants:ID\", \"guards:ID\", \"blocks:ID\" or \"no-grant\""));
    None
}

/// A test that cannot hold, whatever the rules say.
fn broken(span: Range<usize>, why: impl Into<String>) -> Diagnostic {
    Diagnostic::error("E070", span, FAILED.into()).label(why)
}

/// The same for a mistake of another kind, which becomes the label.
fn failed(error: Diagnostic) -> Diagnostic {
    if error.message() == FAILED {
        return error;
    }
    let broken = broken(error.span(), error.message());
    match error.hint() {
        Some(help) => broken.help(help),
        None => broken,
    }
}
