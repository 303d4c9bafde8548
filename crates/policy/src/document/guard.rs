//! The guards: what takes away from the grants. Every guard that is about a case must pass.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use jsonc_parser::ast::Object;

use super::reader::{Keys, Reader, Spanned, span};
use super::rule::{read_id, read_side, read_verbs};
use super::selector::Side;
use super::window::Window;
use super::{Fields, Names, NodeSelector, Selector};
use crate::diagnostic::Diagnostic;
use crate::{Feature, GrantRef, VerbSet};

/// One guard: whom it is about, and what it demands of them.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub name: GrantRef,
    pub span: Range<usize>,
    pub src: Vec<Spanned<Selector>>,
    pub dst: Vec<Spanned<Selector>>,
    /// Only messages with these verbs; none: everything.
    pub msg: VerbSet,
    pub rate: Option<Rate>,
    /// The longest body of a message.
    pub max_bytes: Option<u64>,
    pub approve: Option<Approve>,
    pub spend: Option<Spend>,
    /// In these hours nothing passes.
    pub deny: Vec<Window>,
}

/// So many messages in so long a time, with a burst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub limit: u32,
    pub per: Duration,
    pub burst: u32,
    pub key: RateKey,
}

/// What has a bucket of its own: each combination of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RateKey {
    /// The sending agent.
    pub src: bool,
    /// The receiving agent.
    pub dst: bool,
    /// The user of the sending gateway, or the gateway itself where it has none.
    pub user: bool,
}

/// A person says yes before the first message passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Approve {
    pub by: Vec<NodeSelector>,
    pub ttl: Duration,
}

/// What a source may spend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spend {
    /// In cents of a US dollar.
    pub cents: u64,
    pub per: Duration,
    /// By source, or by user.
    pub key: RateKey,
    /// In per mille of the cap.
    pub alert_at: Vec<u16>,
}

impl Guard {
    pub fn selectors(&self) -> impl Iterator<Item = &Spanned<Selector>> {
        self.src.iter().chain(&self.dst)
    }

    /// What it demands, in words.
    pub fn demands(&self) -> Vec<String> {
        let rate = self.rate.as_ref().map(Rate::to_string);
        let bytes = self.max_bytes.map(|bytes| format!("at most {bytes} bytes"));
        let approve = self.approve.as_ref().map(|approve| {
            let by: Vec<_> = approve.by.iter().map(ToString::to_string).collect();
            format!("first contact approved by {}", by.join(", "))
        });
        let spend = self.spend.as_ref().map(|spend| {
            let (dollars, cents) = (spend.cents / 100, spend.cents % 100);
            format!("at most ${dollars}.{cents:02}/{}", unit(spend.per))
        });
        let deny = self.deny.iter().map(|window| format!("not in {window}"));
        let others = [rate, bytes, approve, spend];
        others.into_iter().flatten().chain(deny).collect()
    }

    /// What a gateway must be able to do to hold it.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        let of = |is: bool, feature| is.then_some(feature);
        [
            of(self.rate.is_some(), Feature::Rate),
            of(self.max_bytes.is_some(), Feature::MaxBytes),
            of(self.approve.is_some(), Feature::Approve),
            of(self.spend.is_some(), Feature::Spend),
            of(!self.deny.is_empty(), Feature::DenyWindows),
        ]
        .into_iter()
        .flatten()
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at most {}/{}", self.limit, unit(self.per))?;
        if self.burst != self.limit {
            write!(f, " with bursts of {}", self.burst)?;
        }
        Ok(())
    }
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader, sections: &Fields<'_>, names: &Names) -> Vec<Guard> {
    let (mut guards, mut ids) = (Vec::new(), BTreeSet::new());
    let Some(section) = sections.get("guards") else {
        return guards;
    };
    for (place, object) in reader.objects("guards", &section.value) {
        guards.extend(read_guard(reader, object, &place, names, &mut ids));
        if guards.len() > MAX_GUARDS {
            let message = format!("more than {MAX_GUARDS} guards");
            reader.error("E005", span(object), message);
            break;
        }
    }
    guards
}

fn read_guard(
    reader: &mut Reader,
    object: &Object<'_>,
    place: &str,
    names: &Names,
    ids: &mut BTreeSet<String>,
) -> Option<Guard> {
    let fields = reader.fields(object, &GUARD);
    let name = match reader.text(&fields, "id") {
        Some(id) => read_id(reader, id, "guards", ids)?,
        None => place.to_owned(),
    };
    let mut guard = Guard {
        name: GrantRef(name.into()),
        span: span(object),
        src: read_side(reader, &fields, object, Side::Source, names),
        dst: read_side(reader, &fields, object, Side::Guarded, names),
        msg: VerbSet::default(),
        rate: None,
        max_bytes: None,
        approve: None,
        spend: None,
        deny: Vec::new(),
    };
    if let Some(field) = fields.get("msg") {
        guard.msg = read_verbs(reader, &field.value).0;
    }
    if let Some(field) = fields.get("rate")
        && let Some(object) = reader.object("rate", &field.value)
    {
        guard.rate = read_rate(reader, object);
    }
    if let Some(text) = reader.text(&fields, "maxBytes") {
        guard.max_bytes = bytes(&text.value);
        if guard.max_bytes.is_none() {
            let message = format!("maxBytes={:?} is no size", text.value);
            let wrong = Diagnostic::error("E084", text.span, message);
            reader.say(wrong.help("write \"256KiB\", \"1MiB\" or \"4096B\""));
        }
    }
    if let Some(field) = fields.get("approve")
        && let Some(object) = reader.object("approve", &field.value)
    {
        guard.approve = read_approve(reader, object, names);
    }
    if let Some(field) = fields.get("spend")
        && let Some(object) = reader.object("spend", &field.value)
    {
        guard.spend = read_spend(reader, object);
    }
    if let Some(field) = fields.get("deny")
        && let Some(object) = reader.object("deny", &field.value)
    {
        let fields = reader.fields(object, &DENY);
        match fields.get("windows") {
            Some(field) => guard.deny = Window::read_all(reader, &field.value),
            None => reader.error("E083", span(object), "\"deny\" needs its \"windows\""),
        }
    }
    let demands = ["rate", "maxBytes", "approve", "spend", "deny"];
    if !demands.iter().any(|key| fields.contains_key(key)) {
        let wrong = Diagnostic::error("E083", span(object), "this guard demands nothing".into());
        reader.say(wrong.help(format!("give it one of {}", demands.join(", "))));
    }
    let to_self = guard
        .dst
        .iter()
        .find(|entry| entry.value.node() == Some(&NodeSelector::OfSourceUser));
    if let Some(entry) = to_self {
        let message = "autogroup:self is for grants: a guard names whom it is about";
        reader.error("E034", entry.span.clone(), message);
    }
    Some(guard)
}

/// `{"limit": "120/m", "burst": 20, "per": "src,dst"}`.
fn read_rate(reader: &mut Reader, object: &Object<'_>) -> Option<Rate> {
    let fields = reader.fields(object, &RATE);
    let Some(text) = reader.text(&fields, "limit") else {
        reader.error("E084", span(object), "\"rate\" needs its \"limit\"");
        return None;
    };
    let limit = text.value.split_once('/').and_then(|(count, unit)| {
        let count = whole(count).and_then(|count| u32::try_from(count).ok())?;
        Some((count, period(unit)?))
    });
    let Some((limit, per)) = limit.filter(|(limit, _)| *limit > 0) else {
        let message = format!("limit={:?} is no rate", text.value);
        let wrong = Diagnostic::error("E084", text.span, message);
        reader.say(wrong.help("write \"120/m\": per s, m, h or d"));
        return None;
    };
    let burst = match fields.get("burst") {
        None => limit,
        Some(field) => {
            let burst = reader.number("burst", &field.value)?;
            match u32::try_from(burst).ok().filter(|burst| *burst > 0) {
                Some(burst) => burst,
                None => {
                    reader.error("E084", span(&field.value), "a burst is 1 to 4294967295");
                    return None;
                }
            }
        }
    };
    let key = read_key(reader, &fields)?;
    Some(Rate {
        limit,
        per,
        burst,
        key,
    })
}

/// `"per": "src,dst"`; without it each source has its own.
fn read_key(reader: &mut Reader, fields: &Fields<'_>) -> Option<RateKey> {
    let Some(text) = reader.text(fields, "per") else {
        return Some(RateKey {
            src: true,
            ..RateKey::default()
        });
    };
    let mut key = RateKey::default();
    for part in text.value.split(',').map(str::trim) {
        match part {
            "src" => key.src = true,
            "dst" => key.dst = true,
            "user" => key.user = true,
            _ => {
                let message = format!("per={part:?}: nothing is counted by that");
                let wrong = Diagnostic::error("E084", text.span, message);
                reader.say(wrong.help("per is any of src, dst and user, with commas"));
                return None;
            }
        }
    }
    Some(key)
}

fn read_approve(reader: &mut Reader, object: &Object<'_>, names: &Names) -> Option<Approve> {
    let fields = reader.fields(object, &APPROVE);
    if let Some(mode) = reader.text(&fields, "mode")
        && mode.value != "first-contact"
    {
        let message = format!("mode={:?} is not known", mode.value);
        let wrong = Diagnostic::error("E085", mode.span, message);
        reader.say(wrong.help("the only mode is \"first-contact\""));
    }
    let mut by = Vec::new();
    if let Some(field) = fields.get("by") {
        for text in reader.strings("by", &field.value) {
            match NodeSelector::parse(&text.value, &text, Side::Source, (names, &reader.hints())) {
                Ok((person, _)) if person.is_of_users() => by.push(person),
                Ok(_) => {
                    let message = format!("by={:?}: only people approve", text.value);
                    reader.error("E085", text.span, message);
                }
                Err(error) => reader.say(error),
            }
        }
    }
    if by.is_empty() {
        let wrong = Diagnostic::error("E085", span(object), "nobody may approve".into());
        reader.say(wrong.help("name them: \"by\": [\"group:ops\"]"));
    }
    let ttl = read_ttl(reader, &fields)?;
    Some(Approve { by, ttl })
}

fn read_ttl(reader: &mut Reader, fields: &Fields<'_>) -> Option<Duration> {
    let Some(text) = reader.text(fields, "ttl") else {
        return Some(30 * DAY);
    };
    let digits = text
        .value
        .trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text.value[digits.len()..];
    let ttl = whole(digits)
        .and_then(|count| u32::try_from(count).ok())
        .zip(period(unit))
        .and_then(|(count, unit)| unit.checked_mul(count));
    if ttl.is_none() {
        let message = format!("ttl={:?} is no duration", text.value);
        let wrong = Diagnostic::error("E085", text.span, message);
        reader.say(wrong.help("write \"30d\" or \"12h\""));
    }
    ttl
}

/// `{"cap": "$20/day", "per": "src", "alertAt": [0.8], "onExceed": "reject"}`.
fn read_spend(reader: &mut Reader, object: &Object<'_>) -> Option<Spend> {
    let fields = reader.fields(object, &SPEND);
    let Some(text) = reader.text(&fields, "cap") else {
        reader.error("E086", span(object), "\"spend\" needs its \"cap\"");
        return None;
    };
    let cap = text.value.strip_prefix('$').and_then(|rest| {
        let (amount, unit) = rest.split_once('/')?;
        Some((cents(amount)?, period(unit)?))
    });
    let Some((cents, per)) = cap else {
        let message = format!("cap={:?} is no amount", text.value);
        let wrong = Diagnostic::error("E086", text.span, message);
        reader.say(wrong.help("write \"$20/day\" or \"$0.50/h\""));
        return None;
    };
    if let Some(action) = reader.text(&fields, "onExceed")
        && action.value != "reject"
    {
        let message = format!("onExceed={:?} is not known", action.value);
        let wrong = Diagnostic::error("E086", action.span, message);
        reader.say(wrong.help("the only action is \"reject\""));
    }
    let mut alert_at = Vec::new();
    if let Some(field) = fields.get("alertAt")
        && let Some(array) = reader.array("alertAt", &field.value)
    {
        for element in &array.elements {
            let share = element
                .as_number_lit()
                .and_then(|number| number.value.parse::<f64>().ok())
                .filter(|share| (0.0..=1.0).contains(share));
            match share {
                // At most 1000: fits.
                Some(share) => alert_at.push((share * 1000.0).round() as u16),
                None => reader.error("E086", span(element), "a share is from 0.0 to 1.0"),
            }
        }
    }
    let key = read_key(reader, &fields)?;
    Some(Spend {
        cents,
        per,
        key,
        alert_at,
    })
}

/// `20`, `0.50`: dollars as cents.
fn cents(text: &str) -> Option<u64> {
    let (dollars, rest) = text.split_once('.').unwrap_or((text, "00"));
    let (dollars, rest) = (whole(dollars)?, whole(rest).filter(|_| rest.len() == 2)?);
    dollars.checked_mul(100)?.checked_add(rest)
}

/// `256KiB`, `1MiB`, `4096B`, `4096`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "KB" => 1_000,
        "MB" => 1_000_000,
        _ => return None,
    };
    whole(digits)?.checked_mul(unit)
}

fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn period(unit: &str) -> Option<Duration> {
    let seconds = match unit {
        "s" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hour" => 3_600,
        "d" | "day" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// A period in the words of the file.
fn unit(period: Duration) -> String {
    match period.as_secs() {
        1 => "s".into(),
        60 => "m".into(),
        3_600 => "h".into(),
        86_400 => "d".into(),
        seconds => format!("{seconds}s"),
    }
}

const GUARD: Keys = Keys {
    of: "a guard",
    known: &[
        "id", "src", "dst", "msg", "rate", "maxBytes", "approve", "spend", "deny",
    ],
    ignored: &[],
};

const RATE: Keys = Keys {
    of: "\"rate\"",
    known: &["limit", "burst", "per"],
    ignored: &[],
};

const APPROVE: Keys = Keys {
    of: "\"approve\"",
    known: &["mode", "by", "ttl"],
    ignored: &[],
};

const SPEND: Keys = Keys {
    of: "\"spend\"",
    known: &["cap", "per", "alertAt", "onExceed"],
    ignored: &[],
};

const DENY: Keys = Keys {
    of: "\"deny\"",
    known: &["windows"],
    ignored: &[],
};

/// Each is asked at every verdict that it is about.
const MAX_GUARDS: usize = 1_000;

const DAY: Duration = Duration::from_secs(86_400);
