//! When a rule holds: an interval of dates, and weekly hours in a time zone.
//!
//! Hours are local time of an IANA time zone, from the data that is built in: the verdict of a
//! file is the same on every machine. An hour that the clocks skip in spring is not in any window,
//! and one that comes twice in autumn is in its window both times.

use identity::UnixTime;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use jsonc_parser::ast::Value;

use super::reader::{Keys, Reader, Spanned, span};
use crate::diagnostic::{Diagnostic, nearest};

/// The days and the hours of every week in which something holds.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    days: Days,
    /// Minutes from local midnight; the end is exclusive, and past midnight where it is not after
    /// the start.
    start: u16,
    end: u16,
    zone: TimeZone,
    text: String,
}

/// The dates between which a rule holds, and the windows within.
#[derive(Clone, Debug, Default)]
pub(crate) struct Valid {
    pub not_before: Option<UnixTime>,
    pub not_after: Option<UnixTime>,
    /// None: at any hour.
    pub windows: Vec<Window>,
}

/// A set of weekdays, one bit each from Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days(u8);

impl Valid {
    /// Whether the moment is inside: from `not_before` on, and before `not_after`.
    pub fn holds(&self, at: UnixTime) -> bool {
        self.not_before.is_none_or(|start| start <= at)
            && self.not_after.is_none_or(|end| at < end)
            && (self.windows.is_empty() || self.windows.iter().any(|window| window.holds(at)))
    }

    /// The next moment after `at` at which the answer may be another one.
    pub fn next_change(&self, at: UnixTime) -> Option<UnixTime> {
        let dates = [self.not_before, self.not_after].into_iter().flatten();
        let windows = self
            .windows
            .iter()
            .filter_map(|window| window.next_change(at));
        dates.filter(|date| *date > at).chain(windows).min()
    }

    pub fn read(reader: &mut Reader, value: &Value<'_>) -> Self {
        let mut valid = Self::default();
        let Some(object) = reader.object("valid", value) else {
            return valid;
        };
        let fields = reader.fields(object, &VALID);
        for (key, date) in [
            ("notBefore", &mut valid.not_before),
            ("notAfter", &mut valid.not_after),
        ] {
            if let Some(text) = reader.text(&fields, key) {
                *date = read_time(reader, &text);
            }
        }
        if let (Some(start), Some(end)) = (valid.not_before, valid.not_after)
            && start >= end
        {
            let message = "notBefore is not before notAfter: this never holds";
            reader.error("E081", span(object), message);
        }
        if let Some(field) = fields.get("windows") {
            valid.windows = Window::read_all(reader, &field.value);
        }
        if fields.is_empty() {
            let empty = Diagnostic::error("E081", span(object), "\"valid\" is empty".into());
            reader.say(empty.help("give it notBefore, notAfter or windows, or leave it out"));
        }
        valid
    }
}

impl Window {
    /// Every moment, for whoever cannot tell which it is.
    pub fn always() -> Self {
        Self {
            days: Days(0b111_1111),
            start: 0,
            end: 24 * 60,
            zone: TimeZone::UTC,
            text: "hours that its clock cannot tell".to_owned(),
        }
    }

    /// Whether the moment is in the window.
    pub fn holds(&self, at: UnixTime) -> bool {
        let Some(local) = timestamp(at).map(|at| self.zone.to_datetime(at)) else {
            return false;
        };
        let minute = 60 * local.hour().unsigned_abs() as u16 + local.minute().unsigned_abs() as u16;
        let today = local.weekday();
        match self.start < self.end {
            true => self.days.has(today) && (self.start..self.end).contains(&minute),
            // Past midnight the hours belong to the day on which they began.
            false => {
                (self.days.has(today) && minute >= self.start)
                    || (self.days.has(today.previous()) && minute < self.end)
            }
        }
    }

    /// The next moment after `at` at which a window begins or ends, or clocks are set.
    pub fn next_change(&self, at: UnixTime) -> Option<UnixTime> {
        let today = self.zone.to_datetime(timestamp(at)?).date();
        let mut next = None;
        // Eight days hold every weekday's start and end once, whatever the clocks do.
        for day in -1i64..=8 {
            let date = today.checked_add(day.days()).ok()?;
            for minute in [self.start, self.end] {
                let midnight = date.at(0, 0, 0, 0);
                let local = midnight.checked_add(i64::from(minute).minutes()).ok()?;
                let moment = self.zone.to_timestamp(local).ok().and_then(unix_time);
                if let Some(moment) = moment.filter(|moment| *moment > at) {
                    next = Some(next.map_or(moment, |known: UnixTime| known.min(moment)));
                }
            }
        }
        let clocks = self.zone.following(timestamp(at)?).next();
        let clocks = clocks.and_then(|transition| unix_time(transition.timestamp()));
        next.into_iter().chain(clocks).min()
    }

    /// The windows of an array, at least one.
    pub fn read_all(reader: &mut Reader, value: &Value<'_>) -> Vec<Self> {
        let objects = reader.objects("windows", value);
        if objects.is_empty() {
            let empty = Diagnostic::error("E081", span(value), "no windows".into());
            reader.say(empty.help(EXAMPLE));
        }
        if objects.len() > MAX_WINDOWS {
            let message = format!("more than {MAX_WINDOWS} windows in one rule");
            reader.error("E005", span(value), message);
            return Vec::new();
        }
        let mut windows = Vec::new();
        for (_, object) in objects {
            let fields = reader.fields(object, &WINDOW);
            let days = reader.text(&fields, "days");
            let hours = reader.text(&fields, "hours");
            let zone = reader.text(&fields, "tz");
            let days = days.map_or(Some(Days::ALL), |text| Days::read(reader, &text));
            let hours = hours.map_or(Some((0, DAY)), |text| read_hours(reader, &text));
            let name = zone
                .as_ref()
                .map_or("UTC", |zone| zone.value.as_str())
                .to_owned();
            let zone = match &zone {
                Some(text) => read_zone(reader, text),
                None => Some(TimeZone::UTC),
            };
            if fields.is_empty() {
                let empty = Diagnostic::error("E081", span(object), "an empty window".into());
                reader.say(empty.help(EXAMPLE));
            }
            if let (Some(days), Some((start, end)), Some(zone)) = (days, hours, zone) {
                let text = format!("{days} {}-{} {name}", clock(start), clock(end));
                windows.push(Self {
                    days,
                    start,
                    end,
                    zone,
                    text,
                });
            }
        }
        windows
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::fmt::Display for Valid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        for (word, date) in [("from", self.not_before), ("until", self.not_after)] {
            parts.extend(date.map(|date| format!("{word} {}", rfc3339(date))));
        }
        parts.extend(self.windows.iter().map(|window| window.text.clone()));
        f.write_str(&parts.join(", "))
    }
}

/// Two windows are equal where they are written equally.
impl PartialEq for Window {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Window {}

impl PartialEq for Valid {
    fn eq(&self, other: &Self) -> bool {
        (self.not_before, self.not_after, &self.windows)
            == (other.not_before, other.not_after, &other.windows)
    }
}

impl Eq for Valid {}

impl Days {
    const ALL: Self = Self(0x7f);

    fn has(self, day: Weekday) -> bool {
        self.0 & 1 << day.to_monday_zero_offset() != 0
    }

    /// `mon`, `mon-fri`, `sat,sun`, `*`.
    fn read(reader: &mut Reader, text: &Spanned<String>) -> Option<Self> {
        let mut days = Self(0);
        for part in text.value.split(',').map(str::trim) {
            if part == "*" {
                days = Self::ALL;
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Some(first), Some(last)) = (day(first), day(last)) else {
                let message = format!("{part:?} is no day of the week");
                let wrong = Diagnostic::error("E081", text.span.clone(), message);
                reader.say(match nearest(part, NAMES) {
                    Some(meant) => wrong.help(format!("did you mean {meant:?}?")),
                    None => wrong.help("days are \"mon-fri\", \"sat,sun\" or \"*\""),
                });
                return None;
            };
            // `fri-mon` goes past the end of the week.
            let length = (last + 7 - first) % 7;
            (0..=length).for_each(|step| days.0 |= 1 << ((first + step) % 7));
        }
        Some(days)
    }
}

impl std::fmt::Display for Days {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::ALL {
            return f.write_str("*");
        }
        let named = (0..7).filter(|day| self.0 & 1 << day != 0);
        let names: Vec<&str> = named.map(|day| NAMES[day]).collect();
        f.write_str(&names.join(","))
    }
}

fn day(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

/// `08:00-20:00`, `00:00-24:00`, `22:00-06:00`.
fn read_hours(reader: &mut Reader, text: &Spanned<String>) -> Option<(u16, u16)> {
    let ends = text.value.split_once('-');
    let hours = ends.and_then(|(start, end)| Some((minute(start)?, minute(end)?)));
    let hours = hours.filter(|(start, end)| start != end && *start < DAY);
    if hours.is_none() {
        let message = format!("{:?} are no hours", text.value);
        let wrong = Diagnostic::error("E081", text.span.clone(), message);
        reader.say(wrong.help("hours are \"08:00-20:00\"; the whole day is \"00:00-24:00\""));
    }
    hours
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let number = |text: &str| -> Option<u16> {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let minutes = 60 * hour + minute;
    (minute < 60 && minutes <= DAY).then_some(minutes)
}

fn clock(minutes: u16) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

fn read_zone(reader: &mut Reader, text: &Spanned<String>) -> Option<TimeZone> {
    let zone = TimeZone::get(&text.value).ok();
    if zone.is_none() {
        let message = format!("{:?} is no IANA time zone", text.value);
        let wrong = Diagnostic::error("E082", text.span.clone(), message);
        reader.say(wrong.help("write a name such as \"Europe/Prague\", or \"UTC\""));
    }
    zone
}

/// An RFC 3339 date and time.
pub(super) fn read_time(reader: &mut Reader, text: &Spanned<String>) -> Option<UnixTime> {
    let time = parse_time(&text.value);
    if time.is_none() {
        let message = format!("{:?} is no date and time", text.value);
        let wrong = Diagnostic::error("E081", text.span.clone(), message);
        reader.say(wrong.help("write it with its offset: \"2026-12-31T00:00:00Z\" (RFC 3339)"));
    }
    time
}

/// A date and time with its offset, as RFC 3339 writes it; none before 1970.
pub fn parse_time(text: &str) -> Option<UnixTime> {
    text.parse::<Timestamp>().ok().and_then(unix_time)
}

/// A time as RFC 3339 writes it.
pub(crate) fn rfc3339(time: UnixTime) -> String {
    timestamp(time).map_or_else(|| time.0.to_string(), |time| time.to_string())
}

fn timestamp(time: UnixTime) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(time.0).ok()?).ok()
}

fn unix_time(time: Timestamp) -> Option<UnixTime> {
    u64::try_from(time.as_second()).ok().map(UnixTime)
}

const VALID: Keys = Keys {
    of: "\"valid\"",
    known: &["notBefore", "notAfter", "windows"],
    ignored: &[],
};

const WINDOW: Keys = Keys {
    of: "a window",
    known: &["days", "hours", "tz"],
    ignored: &[],
};

const EXAMPLE: &str =
    r#"a window is {"days": "mon-fri", "hours": "08:00-20:00", "tz": "Europe/Prague"}"#;

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// Asked at each verdict: a rule with more is two rules.
const MAX_WINDOWS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(text: &str) -> Valid {
        let file = format!(
            r#"{{"grants": [{{"src": ["*"], "dst": ["*"], "msg": ["send"], "valid": {text}}}]}}"#
        );
        let (document, _) = crate::Document::parse("t", &file).expect("a policy");
        document.rules[0].valid.clone().expect("it is there")
    }

    fn at(text: &str) -> UnixTime {
        unix_time(text.parse().expect("a time")).expect("after 1970")
    }

    #[test]
    fn office_hours_are_those_of_the_place() {
        let office = valid(
            r#"{"windows": [{"days": "mon-fri", "hours": "08:00-20:00", "tz": "Europe/Prague"}]}"#,
        );

        assert!(office.holds(at("2026-11-23T09:00:00+01:00")), "a Monday");
        assert!(!office.holds(at("2026-11-22T09:00:00+01:00")), "a Sunday");
        assert!(
            office.holds(at("2026-11-23T07:00:00Z")) && office.holds(at("2026-07-06T06:00:00Z"))
        );
        assert!(
            !office.holds(at("2026-11-23T06:59:59Z")) && !office.holds(at("2026-07-06T18:00:00Z"))
        );
        assert_eq!(
            office.next_change(at("2026-11-23T09:00:00Z")),
            Some(at("2026-11-23T19:00:00Z"))
        );
    }

    #[test]
    fn hours_past_midnight_belong_to_the_day_on_which_they_began() {
        let night = valid(r#"{"windows": [{"days": "fri", "hours": "22:00-06:00"}]}"#);

        assert!(night.holds(at("2026-11-27T23:00:00Z")) && night.holds(at("2026-11-28T05:59:00Z")));
        assert!(
            !night.holds(at("2026-11-28T06:00:00Z")) && !night.holds(at("2026-11-27T05:00:00Z"))
        );
        let over = valid(r#"{"windows": [{"days": "sat-mon", "hours": "00:00-24:00"}]}"#);
        assert!(over.holds(at("2026-11-23T23:59:59Z")) && !over.holds(at("2026-11-24T00:00:00Z")));
    }

    #[test]
    fn dates_include_their_start_and_exclude_their_end() {
        let week =
            valid(r#"{"notBefore": "2026-11-23T00:00:00Z", "notAfter": "2026-11-30T00:00:00Z"}"#);

        assert!(week.holds(at("2026-11-23T00:00:00Z")) && !week.holds(at("2026-11-30T00:00:00Z")));
        assert!(!week.holds(at("2026-11-22T23:59:59Z")));
        assert_eq!(week.next_change(at("2026-11-25T00:00:00Z")), week.not_after);
        assert_eq!(week.next_change(at("2026-12-01T00:00:00Z")), None);
    }

    /// Found by trying every minute of two weeks, two changes of the clocks among them.
    #[test]
    fn nothing_changes_before_the_next_change() {
        let windows = valid(
            r#"{"windows": [{"days": "sun,wed", "hours": "02:30-03:10", "tz": "America/New_York"},
                {"days": "fri-sat", "hours": "22:15-01:45", "tz": "Europe/Prague"}]}"#,
        );
        for start in ["2026-03-01T00:00:00Z", "2026-10-20T00:00:00Z"] {
            let start = at(start).0;
            let (mut now, end) = (start, start + 14 * 86_400);
            while now < end {
                let next = windows.next_change(UnixTime(now)).expect("it never ends").0;
                let before = windows.holds(UnixTime(now));
                let same = (now..next)
                    .step_by(60)
                    .all(|t| windows.holds(UnixTime(t)) == before);
                assert!(same, "changed between {now} and {next}");
                now = next;
            }
        }
    }
}
