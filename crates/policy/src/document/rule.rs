//! The rules: `grants`, and `acls` lowered to the same shape. Every one only adds.

use std::collections::BTreeSet;

use jsonc_parser::ast::{Object, Value};
use serde::Serialize;

use super::reader::{Fields, Keys, Reader, Spanned, not_enforced, span};
use super::selector::Side;
use super::{MAX_RULES, Names, NodeSelector, Ports, Selector, is_plain, ports};
use crate::diagnostic::{Diagnostic, nearest};
use crate::{GrantRef, Verb, VerbSet};

/// Everything of `src` may do everything of `ip` and `msg` to everything of `dst`.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub name: GrantRef,
    pub src: Vec<Selector>,
    pub dst: Vec<Selector>,
    pub ip: Vec<Ports>,
    pub msg: VerbSet,
    /// The selectors of `src`, then of `dst`, in the text.
    pub spans: Vec<std::ops::Range<usize>>,
}

/// What one rule says, in the words of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleSummary {
    /// Its `id`, or its place in the file.
    pub name: String,
    /// From whom.
    pub src: Vec<String>,
    /// To whom.
    pub dst: Vec<String>,
    /// The verbs that it allows.
    pub msg: Vec<String>,
    /// The ports that it opens.
    pub ip: Vec<String>,
}

impl RuleSummary {
    pub(super) fn new(rule: &Rule) -> Self {
        let words = |selectors: &[Selector]| selectors.iter().map(Selector::to_string).collect();
        Self {
            name: rule.name.to_string(),
            src: words(&rule.src),
            dst: words(&rule.dst),
            msg: rule.msg.iter().map(|verb| verb.to_string()).collect(),
            ip: rule.ip.iter().map(Ports::to_string).collect(),
        }
    }
}

const GRANT: Keys = Keys {
    of: "a grant",
    known: &["id", "src", "dst", "ip", "msg"],
    later: &["app", "via", "srcPosture", "http", "credential", "valid"],
    ignored: &[],
};

const ACL: Keys = Keys {
    of: "an ACL",
    known: &["action", "src", "users", "dst", "ports", "proto"],
    later: &["srcPosture"],
    ignored: &[],
};

/// Reads both sections.
pub(super) fn read(reader: &mut Reader, sections: &Fields<'_>, names: &Names) -> Vec<Rule> {
    let (mut rules, mut ids) = (Vec::new(), BTreeSet::new());
    for (section, key) in ["grants", "acls"]
        .into_iter()
        .filter_map(|key| sections.get(key).map(|section| (&section.value, key)))
    {
        let Some(array) = reader.array(key, section) else {
            continue;
        };
        for (index, value) in array.elements.iter().enumerate() {
            let place = format!("{key}[{index}]");
            let Some(object) = reader.object(&place, value) else {
                continue;
            };
            match key {
                "grants" => rules.extend(read_grant(reader, object, &place, names, &mut ids)),
                _ => read_acl(reader, object, &place, names, &mut rules),
            }
            if rules.len() > MAX_RULES {
                let message = format!("more than {MAX_RULES} rules");
                reader.error("E005", span(value), message);
                return rules;
            }
        }
    }
    rules
}

fn read_grant(
    reader: &mut Reader,
    object: &Object<'_>,
    place: &str,
    names: &Names,
    ids: &mut BTreeSet<String>,
) -> Option<Rule> {
    let fields = reader.fields(object, &GRANT);
    let name = match fields
        .get("id")
        .and_then(|id| reader.string("id", &id.value))
    {
        Some(id) => read_id(reader, id, ids)?,
        None => place.to_owned(),
    };
    let src = read_side(reader, &fields, object, Side::Source, names);
    let dst = read_side(reader, &fields, object, Side::Destination, names);
    let ip = fields.get("ip").map_or(Vec::new(), |field| {
        let mut ports = Vec::new();
        for text in reader.strings("ip", &field.value) {
            match Ports::parse(&text.value) {
                Ok(entry) => ports.push(entry),
                Err(message) => reader.say(port_error(message, &text)),
            }
        }
        ports
    });
    let msg = fields
        .get("msg")
        .map_or(VerbSet::default(), |field| read_verbs(reader, &field.value));
    let empty = |key: &str| {
        fields.get(key).is_none_or(|field| {
            field
                .value
                .as_array()
                .is_some_and(|array| array.elements.is_empty())
        })
    };
    if empty("ip") && empty("msg") {
        let message = "ip and app can not both be empty".to_owned();
        reader.say(
            Diagnostic::error("E040", span(object), message)
                .label("this grant permits nothing")
                .help("add \"msg\": [\"send\", \"request\"] for agents, or \"ip\": [\"tcp:443\"] for packets"),
        );
        return None;
    }
    check_pair(reader, object, &src, &dst, !ip.is_empty(), !msg.is_empty());
    let spans = src
        .iter()
        .chain(&dst)
        .map(|entry| entry.span.clone())
        .collect();
    let [src, dst] = [src, dst].map(|side| side.into_iter().map(|entry| entry.value).collect());
    Some(Rule {
        name: GrantRef(name.into()),
        src,
        dst,
        ip,
        msg,
        spans,
    })
}

fn read_id(reader: &mut Reader, id: Spanned<String>, ids: &mut BTreeSet<String>) -> Option<String> {
    if !is_plain(&id.value) {
        let wrong = Diagnostic::error("E064", id.span, format!("{:?} is not an id", id.value));
        reader.say(wrong.help("an id is 1 to 63 letters, digits, . _ or -"));
        return None;
    }
    if !ids.insert(id.value.clone()) {
        reader.error(
            "E064",
            id.span,
            format!("two grants have the id {:?}", id.value),
        );
        return None;
    }
    Some(id.value)
}

fn read_side(
    reader: &mut Reader,
    fields: &Fields<'_>,
    object: &Object<'_>,
    side: Side,
    names: &Names,
) -> Vec<Spanned<Selector>> {
    let key = match side {
        Side::Source => "src",
        Side::Destination => "dst",
    };
    let Some(field) = fields.get(key) else {
        let missing = Diagnostic::error("E006", span(object), format!("{key:?} is missing"));
        reader.say(missing.help("write [\"*\"] where every gateway is meant"));
        return Vec::new();
    };
    let texts = reader.strings(key, &field.value);
    if texts.is_empty()
        && field
            .value
            .as_array()
            .is_some_and(|array| array.elements.is_empty())
    {
        let message = format!("{key:?} is empty: this rule permits nothing");
        reader.say(Diagnostic::warning("W106", span(&field.value), message));
    }
    texts
        .into_iter()
        .filter_map(|text| read_selector(reader, text, side, names))
        .collect()
}

fn read_selector(
    reader: &mut Reader,
    text: Spanned<String>,
    side: Side,
    names: &Names,
) -> Option<Spanned<Selector>> {
    match Selector::parse(&text, side, names) {
        Ok((value, warning)) => {
            if let Some(warning) = warning {
                reader.say(warning);
            }
            Some(Spanned {
                value,
                span: text.span,
            })
        }
        Err(error) => {
            reader.say(error);
            None
        }
    }
}

/// What only shows when both sides of a rule are known.
fn check_pair(
    reader: &mut Reader,
    object: &Object<'_>,
    src: &[Spanned<Selector>],
    dst: &[Spanned<Selector>],
    ip: bool,
    msg: bool,
) {
    let to_self = dst
        .iter()
        .find(|entry| entry.value.node == NodeSelector::OfSourceUser);
    if to_self.is_some() && !src.iter().all(|entry| entry.value.node.is_of_users()) {
        let message = "autogroup:self can only be used with users, groups, or supported autogroups";
        reader.say(
            Diagnostic::error("E034", span(object), message.to_owned()).help(
                "in a rule to autogroup:self every src must be a user, a group or autogroup:member",
            ),
        );
    }
    if ip && let Some(agent) = dst.iter().find(|entry| entry.value.agent.is_some()) {
        let message = "an agent has no ports of its own".to_owned();
        reader.say(
            Diagnostic::error("E045", agent.span.clone(), message)
                .help("use \"msg\" for agents, or name the gateway in a grant with \"ip\""),
        );
    }
    if ip
        && !msg
        && let Some(agent) = src.iter().find(|entry| entry.value.agent.is_some())
    {
        let message = "an agent source never matches a packet: nothing is permitted".to_owned();
        reader.say(
            Diagnostic::warning("W104", agent.span.clone(), message)
                .help("packets cannot be told apart by agent; use \"msg\", or name the gateway"),
        );
    }
}

fn read_verbs(reader: &mut Reader, value: &Value<'_>) -> VerbSet {
    let mut verbs = VerbSet::default();
    for text in reader.strings("msg", value) {
        match text.value.parse() {
            Ok(verb) => drop(verbs.insert(verb)),
            Err(_)
                if ["call:", "admin:"]
                    .iter()
                    .any(|kind| text.value.starts_with(kind)) =>
            {
                reader.say(not_enforced(&text.value, text.span));
            }
            Err(error) => {
                let wrong =
                    Diagnostic::error("E062", text.span, format!("{:?}: {error}", text.value));
                let known = Verb::ALL.map(Verb::as_str);
                reader.say(match nearest(&text.value, known) {
                    Some(meant) => wrong.help(format!("did you mean {meant:?}?")),
                    None => wrong.help("write them out: there is no word for all verbs"),
                });
            }
        }
    }
    verbs
}

/// One rule for each destination, because each has its own ports.
fn read_acl(
    reader: &mut Reader,
    object: &Object<'_>,
    place: &str,
    names: &Names,
    rules: &mut Vec<Rule>,
) {
    let fields = with_legacy_names(reader, object);
    match fields
        .get("action")
        .and_then(|field| reader.string("action", &field.value))
    {
        Some(action) if action.value == "accept" => {}
        Some(action) => {
            reader.error(
                "E061",
                action.span,
                format!("action={:?} is not supported", action.value),
            );
        }
        None if fields.contains_key("action") => {}
        None => reader.error("E006", span(object), "\"action\" is missing"),
    }
    let protocol = fields.get("proto").and_then(|field| {
        let text = reader.string("proto", &field.value)?;
        match ports::parse_protocol(&text.value) {
            Ok(number) => Some(number),
            Err(message) => {
                reader.error("E051", text.span, message);
                None
            }
        }
    });
    let src = read_side(reader, &fields, object, Side::Source, names);
    let Some(field) = fields.get("dst") else {
        reader.error("E006", span(object), "\"dst\" is missing");
        return;
    };
    for text in reader.strings("dst", &field.value) {
        let Some((host, list)) = text.value.rsplit_once(':') else {
            let wrong = format!("dst {:?} has no ports", text.value);
            let wrong = Diagnostic::error("E050", text.span, wrong);
            reader.say(wrong.help(format!("write \"{}:*\" for all of them", text.value)));
            continue;
        };
        let ip = match Ports::parse_list(list, protocol) {
            Ok(ip) => ip,
            Err(message) => {
                reader.say(port_error(message, &text));
                continue;
            }
        };
        let host = Spanned {
            value: unbracketed(host).to_owned(),
            span: text.span.clone(),
        };
        let dst = read_selector(reader, host, Side::Destination, names);
        let dst: Vec<_> = dst.into_iter().collect();
        check_pair(reader, object, &src, &dst, true, false);
        let spans = src
            .iter()
            .chain(&dst)
            .map(|entry| entry.span.clone())
            .collect();
        rules.push(Rule {
            name: GrantRef(place.into()),
            src: src.iter().map(|entry| entry.value.clone()).collect(),
            dst: dst.into_iter().map(|entry| entry.value).collect(),
            ip,
            msg: VerbSet::default(),
            spans,
        });
        if rules.len() > MAX_RULES {
            return;
        }
    }
}

/// The oldest Tailscale files say `users` and `ports` for `src` and `dst`.
fn with_legacy_names<'a>(reader: &mut Reader, object: &'a Object<'a>) -> Fields<'a> {
    let mut fields = reader.fields(object, &ACL);
    for (legacy, name) in [("users", "src"), ("ports", "dst")] {
        if let Some(field) = fields.remove(legacy) {
            if fields.contains_key(name) {
                let message = format!("{legacy:?} is an old name of {name:?}: write only one");
                reader.error("E003", span(&field.name), message);
            }
            fields.insert(name, field);
        }
    }
    fields
}

/// An IPv6 address before a port may stand in brackets.
pub(super) fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

pub(super) fn port_error(message: String, text: &Spanned<String>) -> Diagnostic {
    let protocol = ports::parse_protocol(&text.value).is_ok() && text.value.parse::<u32>().is_err();
    let wrong = Diagnostic::error("E050", text.span.clone(), message);
    match protocol {
        true => wrong.help(format!("write \"{}:*\" for the whole protocol", text.value)),
        false => wrong.help("ports are \"*\", \"22\", \"80-443\", \"tcp:443\" or \"icmp:*\""),
    }
}
