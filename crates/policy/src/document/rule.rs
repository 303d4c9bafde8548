//! The rules: `grants`, and `acls` lowered to the same shape. Every one only adds.

use std::collections::BTreeSet;
use std::ops::Range;

use identity::Tag;
use jsonc_parser::ast::{Object, Value};

use super::reader::{Fields, Keys, Reader, Spanned, span};
use super::selector::Side;
use super::window::Valid;
use super::{HttpRule, MAX_RULES, Names, NodeSelector, Ports, Selector, http, is_plain, ports};
use crate::diagnostic::{Diagnostic, nearest};
use crate::{GrantRef, ParseVerbError, Skill, Verb, VerbSet};

/// Everything of `src` may do everything that the rule names to everything of `dst`.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub name: GrantRef,
    /// The whole object in the text.
    pub span: Range<usize>,
    pub src: Vec<Spanned<Selector>>,
    pub dst: Vec<Spanned<Selector>>,
    pub ip: Vec<Ports>,
    pub msg: VerbSet,
    pub skills: Vec<Skill>,
    pub app: Vec<Capability>,
    /// Only over gateways with one of these tags, to what lies behind them.
    pub via: Vec<Tag>,
    /// The source meets one of these postures; none: any source.
    pub postures: Vec<Box<str>>,
    /// Only these requests, on the ports of `ip`. Packets cannot be told apart by request, so
    /// such a rule opens no port.
    pub http: Vec<HttpRule>,
    /// The secret that the way out adds to these requests.
    pub credential: Option<Box<str>>,
    pub valid: Option<Valid>,
}

/// What `app` grants: Tailscale's application capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    pub name: Box<str>,
    /// An array; where it is empty the capability is granted all the same.
    pub values: serde_json::Value,
}

/// Which of the two sections a rule stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Grants,
    Acls,
}

impl Rule {
    /// Its selectors, sources first.
    pub fn selectors(&self) -> impl Iterator<Item = &Spanned<Selector>> {
        self.src.iter().chain(&self.dst)
    }

    /// Whether it allows something between agents.
    pub fn is_for_messages(&self) -> bool {
        !self.msg.is_empty() || !self.skills.is_empty()
    }
}

const GRANT: Keys = Keys {
    of: "a grant",
    known: &[
        "id",
        "src",
        "dst",
        "ip",
        "app",
        "msg",
        "via",
        "srcPosture",
        "http",
        "credential",
        "valid",
    ],
    ignored: &[],
};

const ACL: Keys = Keys {
    of: "an ACL",
    known: &[
        "action",
        "src",
        "users",
        "dst",
        "ports",
        "proto",
        "srcPosture",
    ],
    ignored: &[],
};

/// Reads both sections.
pub(super) fn read(reader: &mut Reader, sections: &Fields<'_>, names: &Names) -> Vec<Rule> {
    let (mut rules, mut ids) = (Vec::new(), BTreeSet::new());
    for (section, key) in [(Section::Grants, "grants"), (Section::Acls, "acls")] {
        let Some(field) = sections.get(key) else {
            continue;
        };
        for (place, object) in reader.objects(key, &field.value) {
            match section {
                Section::Grants => {
                    rules.extend(read_grant(reader, object, &place, names, &mut ids));
                }
                Section::Acls => read_acl(reader, object, &place, names, &mut rules),
            }
            if rules.len() > MAX_RULES {
                let message = format!("more than {MAX_RULES} rules");
                reader.error("E005", span(object), message);
                return rules;
            }
            if reader.is_lost() {
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
    let name = match reader.text(&fields, "id") {
        Some(id) => read_id(reader, id, "grants", ids)?,
        None => place.to_owned(),
    };
    let mut rule = Rule {
        name: GrantRef(name.into()),
        span: span(object),
        src: read_side(reader, &fields, object, Side::Source, names),
        dst: read_side(reader, &fields, object, Side::Destination, names),
        ip: Vec::new(),
        msg: VerbSet::default(),
        skills: Vec::new(),
        app: Vec::new(),
        via: Vec::new(),
        postures: read_postures(reader, &fields, names),
        http: Vec::new(),
        credential: None,
        valid: None,
    };
    if let Some(field) = fields.get("ip") {
        for text in reader.strings("ip", &field.value) {
            match Ports::parse(&text.value) {
                Ok(entry) => rule.ip.push(entry),
                Err(message) => reader.say(port_error(message, &text)),
            }
        }
    }
    if let Some(field) = fields.get("app") {
        rule.app = read_app(reader, &field.value);
    }
    if let Some(field) = fields.get("msg") {
        (rule.msg, rule.skills) = read_verbs(reader, &field.value);
    }
    if let Some(field) = fields.get("via") {
        rule.via = read_via(reader, &field.value, names);
    }
    if let Some(field) = fields.get("http") {
        rule.http = http::read(reader, &field.value);
    }
    if let Some(text) = reader.text(&fields, "credential") {
        rule.credential = read_credential(reader, &text);
    }
    if let Some(field) = fields.get("valid") {
        rule.valid = Some(Valid::read(reader, &field.value));
    }
    let empty = |key: &str| {
        fields.get(key).is_none_or(|field| match &field.value {
            Value::Array(array) => array.elements.is_empty(),
            Value::Object(object) => object.properties.is_empty(),
            _ => false,
        })
    };
    // A name of the internet or a service says by itself what is opened.
    let is_resource = |entry: &Spanned<Selector>| {
        matches!(entry.value, Selector::Internet(_) | Selector::Service(_))
    };
    let names_resource = !rule.dst.is_empty() && rule.dst.iter().all(is_resource);
    if !names_resource && empty("ip") && empty("app") && empty("msg") {
        reader.say(
            Diagnostic::error("E040", span(object), "ip and app can not both be empty".into())
                .label("this grant permits nothing")
                .help("add \"msg\": [\"send\", \"request\"] for agents, or \"ip\": [\"tcp:443\"] for packets"),
        );
        return None;
    }
    check(reader, object, &rule, Section::Grants);
    Some(rule)
}

/// An id, unique among its kind.
pub(super) fn read_id(
    reader: &mut Reader,
    id: Spanned<String>,
    kind: &str,
    ids: &mut BTreeSet<String>,
) -> Option<String> {
    if !is_plain(&id.value) {
        let wrong = Diagnostic::error("E064", id.span, format!("{:?} is not an id", id.value));
        reader.say(wrong.help("an id is 1 to 63 letters, digits, . _ or -"));
        return None;
    }
    if !ids.insert(id.value.clone()) {
        let message = format!("two {kind} have the id {:?}", id.value);
        reader.error("E064", id.span, message);
        return None;
    }
    Some(id.value)
}

/// The selectors of `src` or `dst`.
pub(super) fn read_side(
    reader: &mut Reader,
    fields: &Fields<'_>,
    object: &Object<'_>,
    side: Side,
    names: &Names,
) -> Vec<Spanned<Selector>> {
    let key = match side {
        Side::Source => "src",
        Side::Destination | Side::Guarded => "dst",
        Side::Either => "match",
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
        let message = format!("{key:?} is empty: this matches nothing");
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
    match Selector::parse(&text, side, (names, &reader.hints())) {
        Ok((value, warning)) => {
            warning.into_iter().for_each(|warning| reader.say(warning));
            let span = text.span;
            Some(Spanned { value, span })
        }
        Err(error) => {
            reader.say(error);
            None
        }
    }
}

fn read_postures(reader: &mut Reader, fields: &Fields<'_>, names: &Names) -> Vec<Box<str>> {
    let Some(field) = fields.get("srcPosture") else {
        return Vec::new();
    };
    let mut postures = Vec::new();
    for text in reader.strings("srcPosture", &field.value) {
        if names.postures.contains_key(&*text.value) {
            postures.push(text.value.into());
            continue;
        }
        let message = format!("srcPosture=posture not found: {:?}", text.value);
        let unknown = Diagnostic::error("E021", text.span, message);
        let known = names.postures.keys().map(|name| &**name);
        let meant = reader.hints().nearest(&text.value, known);
        reader.say(match meant {
            Some(meant) => unknown.help(format!("did you mean {meant:?}?")),
            None => unknown.help(format!(
                "define it: \"postures\": {{{:?}: [\"node:os == 'linux'\"]}}",
                text.value
            )),
        });
    }
    postures
}

fn read_app(reader: &mut Reader, value: &Value<'_>) -> Vec<Capability> {
    let mut app = Vec::new();
    for (name, values) in reader.members("app", value) {
        let refused = |message: &str| Diagnostic::error("E042", name.span.clone(), message.into());
        let named = name.value.split_once('/').is_some_and(|(domain, path)| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            domain.contains('.') && domain.bytes().all(plain) && !path.is_empty()
        });
        if !named {
            let wrong = refused("capability name must have the form {domain}/{path}");
            reader.say(wrong.help("for example \"example.com/cap/deploy\", without https://"));
            continue;
        }
        if name.value.starts_with("tailscale.com/") && !TAILSCALE_APPS.contains(&&*name.value) {
            let wrong = refused("capability name must not be in the tailscale.com domain");
            reader.say(wrong.help("use a domain of your own"));
            continue;
        }
        if reader
            .array(&format!("app[{:?}]", name.value), values)
            .is_some()
        {
            app.push(Capability {
                name: name.value.into(),
                values: serde_json::Value::from(values.clone()),
            });
        }
    }
    app
}

fn read_via(reader: &mut Reader, value: &Value<'_>, names: &Names) -> Vec<Tag> {
    let mut via = Vec::new();
    for text in reader.strings("via", value) {
        match text.value.parse::<Tag>() {
            Ok(tag) if names.tags.contains_key(&tag) => via.push(tag),
            Ok(_) => {
                let message = format!("via=tag not found: {:?}", text.value);
                reader.error("E021", text.span, message);
            }
            Err(_) => reader.error("E041", text.span, "via can only be a tag"),
        }
    }
    via
}

fn read_credential(reader: &mut Reader, text: &Spanned<String>) -> Option<Box<str>> {
    let name = text
        .value
        .strip_prefix("secret:")
        .filter(|name| is_plain(name));
    if name.is_none() {
        let message = "a credential is named, never written: \"secret:NAME\"";
        reader.error("E065", text.span.clone(), message);
    }
    name.map(Into::into)
}

/// What only shows when a whole rule is known.
fn check(reader: &mut Reader, object: &Object<'_>, rule: &Rule, section: Section) {
    check_self(reader, object, rule, section);
    let find = |side: &'_ [Spanned<Selector>], meant: fn(&Selector) -> bool| {
        side.iter()
            .find(|entry| meant(&entry.value))
            .map(|entry| entry.span.clone())
    };
    let packets = !rule.ip.is_empty() && rule.http.is_empty();
    let is_agent: fn(&Selector) -> bool = |selector| selector.agent().is_some();
    let agent_src = find(&rule.src, is_agent);
    if !rule.ip.is_empty()
        && let Some(at) = find(&rule.dst, is_agent)
    {
        let wrong = Diagnostic::error("E045", at, "an agent has no ports of its own".into());
        reader
            .say(wrong.help("use \"msg\" for agents, or name the gateway in a grant with \"ip\""));
    }
    if packets
        && !rule.is_for_messages()
        && rule.dst.iter().all(|entry| entry.value.node().is_some())
        && let Some(at) = agent_src
    {
        let message = "an agent source never matches a packet: nothing is permitted".to_owned();
        reader.say(
            Diagnostic::warning("W104", at, message)
                .help("packets cannot be told apart by agent; use \"msg\", or name the gateway"),
        );
    }
    if !rule.app.is_empty()
        && let Some(at) = find(&rule.dst, |s| s.node() == Some(&NodeSelector::Internet))
    {
        let message = "cannot use app grants with autogroup:internet";
        reader.error("E047", at, message);
    }
    let topics: fn(&Selector) -> bool = |selector| matches!(selector, Selector::Topic(_));
    if let Some(at) = find(&rule.dst, topics) {
        let other = rule
            .msg
            .iter()
            .find(|verb| !matches!(verb, Verb::Publish | Verb::Subscribe));
        if other.is_some() || !rule.ip.is_empty() || !rule.skills.is_empty() {
            let wrong =
                Diagnostic::error("E046", at, "a topic has publish and subscribe only".into());
            reader.say(wrong.help("move what is for agents or ports to a grant of its own"));
        }
    }
    let resources: fn(&Selector) -> bool =
        |selector| matches!(selector, Selector::Internet(_) | Selector::Service(_));
    if rule.is_for_messages()
        && let Some(at) = find(&rule.dst, resources)
    {
        let wrong = Diagnostic::error("E046", at, "\"msg\" is for agents and topics".into());
        reader.say(wrong.help("leave \"msg\" out, or move it to a grant of its own"));
    }
    let is_internet = |entry: &Spanned<Selector>| matches!(entry.value, Selector::Internet(_));
    if !rule.http.is_empty() && rule.ip.is_empty() && !rule.dst.iter().all(is_internet) {
        let wrong = Diagnostic::error("E048", span(object), "\"http\" needs its ports".into());
        reader.say(wrong.help("add \"ip\": [\"tcp:8080\"]"));
    }
}

/// `autogroup:self` is the source's own user: a source without one has none.
fn check_self(reader: &mut Reader, object: &Object<'_>, rule: &Rule, section: Section) {
    let to_self =
        |entry: &Spanned<Selector>| entry.value.node() == Some(&NodeSelector::OfSourceUser);
    let of_user = |entry: &Spanned<Selector>| {
        let node = entry.value.node();
        // In the older section everybody may be the source: who has no user matches nothing.
        let everybody = section == Section::Acls && node == Some(&NodeSelector::Every);
        everybody || node.is_some_and(NodeSelector::is_of_users)
    };
    if rule.dst.iter().any(to_self) && !rule.src.iter().all(of_user) {
        let message = "autogroup:self can only be used with users, groups, or supported autogroups";
        reader.say(
            Diagnostic::error("E034", span(object), message.to_owned()).help(
                "in a rule to autogroup:self every src must be a user, a group or autogroup:member",
            ),
        );
    }
}

/// The verbs and skills of `msg`.
pub(super) fn read_verbs(reader: &mut Reader, value: &Value<'_>) -> (VerbSet, Vec<Skill>) {
    let (mut verbs, mut skills) = (VerbSet::default(), Vec::new());
    for text in reader.strings("msg", value) {
        match (text.value.parse::<Verb>(), text.value.parse::<Skill>()) {
            (Ok(verb), _) => drop(verbs.insert(verb)),
            (_, Ok(skill)) => skills.push(skill),
            (Err(error), _) if reader.is_full() => {
                reader.error("E062", text.span, error.to_string());
            }
            (Err(error), _) => reader.say(verb_error(&text, error)),
        }
    }
    (verbs, skills)
}

fn verb_error(text: &Spanned<String>, error: ParseVerbError) -> Diagnostic {
    let message = format!("{:?}: {error}", text.value);
    let wrong = Diagnostic::error("E062", text.span.clone(), message);
    match nearest(&text.value, Verb::ALL.map(Verb::as_str)) {
        Some(meant) => wrong.help(format!("did you mean {meant:?}?")),
        None => wrong.help("write them out: there is no word for all verbs"),
    }
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
    match reader.text(&fields, "action") {
        Some(action) if action.value == "accept" => {}
        Some(action) => {
            let message = format!("action={:?} is not supported", action.value);
            let wrong = Diagnostic::error("E061", action.span, message);
            reader.say(wrong.help(
                "rules only add: leave out what you do not want, or use \"guards\" and \"blocks\"",
            ));
        }
        None if fields.contains_key("action") => {}
        None => reader.error("E006", span(object), "\"action\" is missing"),
    }
    let protocol = reader.text(&fields, "proto").and_then(|text| {
        ports::parse_protocol(&text.value)
            .map_err(|message| reader.error("E051", text.span, message))
            .ok()
    });
    let src = read_side(reader, &fields, object, Side::Source, names);
    let postures = read_postures(reader, &fields, names);
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
        let rule = Rule {
            name: GrantRef(place.into()),
            span: span(object),
            src: src.clone(),
            dst: dst.into_iter().collect(),
            ip,
            msg: VerbSet::default(),
            skills: Vec::new(),
            app: Vec::new(),
            via: Vec::new(),
            postures: postures.clone(),
            http: Vec::new(),
            credential: None,
            valid: None,
        };
        check(reader, object, &rule, Section::Acls);
        rules.push(rule);
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

/// The capabilities of `tailscale.com` that a file may grant (its documentation of grants).
const TAILSCALE_APPS: [&str; 8] = [
    "tailscale.com/cap/drive",
    "tailscale.com/cap/golink",
    "tailscale.com/cap/kubernetes",
    "tailscale.com/cap/relay",
    "tailscale.com/cap/secrets",
    "tailscale.com/cap/tsidp",
    "tailscale.com/cap/webui",
    "tailscale.com/cap/aperture",
];
