//! Patterns of names with levels (topics, HTTP paths) and of domain names. All are matched in one
//! walk without backtracking: no pattern can be slow.

use std::fmt;

/// `builds/*`, `/api/v1/**`: levels between slashes, `*` for one, `**` at the end for all that
/// follow, at least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Levels {
    levels: Vec<Level>,
    text: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Literal(Box<str>),
    One,
    Rest,
}

impl Levels {
    /// The topic pattern `builds/*`.
    pub fn topic(text: &str) -> Result<Self, String> {
        let levels = text
            .split('/')
            .map(|level| Level::parse(level, |b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
        Self::new(text, levels)
    }

    /// The path pattern `/api/v1/**`, of an absolute path without query.
    pub fn path(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a path begins with \"/\"".to_owned());
        };
        if rest.is_empty() {
            return Ok(Self {
                levels: vec![Level::Literal("".into())],
                text: text.into(),
            });
        }
        // RFC 3986 §3.3 pchar, without the percent sign: what is escaped matches no literal.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@".contains(&b);
        Self::new(
            text,
            rest.split('/').map(|level| Level::parse(level, plain)),
        )
    }

    fn new(
        text: &str,
        levels: impl Iterator<Item = Result<Level, String>>,
    ) -> Result<Self, String> {
        let levels: Vec<Level> = levels.collect::<Result<_, _>>()?;
        if levels.len() > MAX_LEVELS {
            return Err(format!("more than {MAX_LEVELS} levels"));
        }
        match levels
            .iter()
            .rev()
            .skip(1)
            .any(|level| *level == Level::Rest)
        {
            true => Err("\"**\" stands for all that follows: it comes last".to_owned()),
            false => Ok(Self {
                levels,
                text: text.into(),
            }),
        }
    }

    /// Whether a topic is meant.
    pub fn matches_topic(&self, topic: &str) -> bool {
        self.matches(topic.split('/'))
    }

    /// Whether the path of a request is meant. A path that servers read in different ways (with
    /// an escape, an empty or a dotted level) never is: what cannot be judged is not allowed.
    pub fn matches_path(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else {
            return false;
        };
        let mut levels = rest.split('/').peekable();
        let mut clear = true;
        while let Some(level) = levels.next() {
            let last = levels.peek().is_none();
            clear &= !matches!(level, "." | "..") && (last || !level.is_empty());
            clear &= !level.contains(['%', '\\', '?', '#', ';']);
        }
        clear && self.matches(rest.split('/'))
    }

    fn matches<'a>(&self, mut parts: impl Iterator<Item = &'a str>) -> bool {
        for level in &self.levels {
            let Some(part) = parts.next() else {
                return false;
            };
            match level {
                Level::Rest => return !part.is_empty(),
                Level::One if part.is_empty() => return false,
                Level::One => {}
                Level::Literal(literal) if **literal != *part => return false,
                Level::Literal(_) => {}
            }
        }
        parts.next().is_none()
    }

    /// Whether everything that the other pattern means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let mut theirs = other.levels.iter();
        for level in &self.levels {
            match (level, theirs.next()) {
                // The root alone has an empty level, and no star stands for it.
                (Level::Rest | Level::One, Some(Level::Literal(b))) if b.is_empty() => {
                    return false;
                }
                (Level::Rest, Some(_)) => return true,
                (Level::One, Some(Level::One | Level::Literal(_))) => {}
                (Level::Literal(a), Some(Level::Literal(b))) if a == b => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// What both patterns mean.
    pub fn meet(&self, other: &Self) -> Option<Self> {
        let (mut mine, mut theirs) = (self.levels.iter(), other.levels.iter());
        let mut levels: Vec<Level> = Vec::new();
        loop {
            let (level, rest) = match (mine.next(), theirs.next()) {
                (None, None) => break,
                (Some(Level::Rest), Some(level)) => (level, Some(theirs.as_slice())),
                (Some(level), Some(Level::Rest)) => (level, Some(mine.as_slice())),
                (Some(Level::One), Some(level)) | (Some(level), Some(Level::One)) => (level, None),
                (Some(level), Some(same)) if level == same => (level, None),
                _ => return None,
            };
            let literal = matches!(level, Level::Literal(text) if text.is_empty());
            if literal && self.levels != other.levels {
                return None;
            }
            levels.push(level.clone());
            if let Some(rest) = rest {
                levels.extend_from_slice(rest);
                break;
            }
        }
        let words: Vec<&str> = levels.iter().map(Level::as_str).collect();
        let root = if self.text.starts_with('/') { "/" } else { "" };
        let text = format!("{root}{}", words.join("/")).into();
        Some(Self { levels, text })
    }
}

impl Level {
    fn as_str(&self) -> &str {
        match self {
            Self::Literal(text) => text,
            Self::One => "*",
            Self::Rest => "**",
        }
    }

    fn parse(level: &str, plain: impl Fn(u8) -> bool) -> Result<Self, String> {
        match level {
            "*" => Ok(Self::One),
            "**" => Ok(Self::Rest),
            "" => Err("an empty level".to_owned()),
            "." | ".." => Err(format!("{level:?} is no name")),
            _ if level.bytes().all(plain) => Ok(Self::Literal(level.into())),
            _ => Err(format!(
                "{level:?}: a level is plain text, or \"*\", or \"**\" at the end"
            )),
        }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `api.openai.com:443`, `*.githubusercontent.com`, `*`: a name of the internet, never an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Domain {
    /// Without the `*.`; empty for every name.
    name: Box<str>,
    wildcard: bool,
    /// None: every port.
    port: Option<u16>,
}

impl Domain {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((name, "*")) => (name, None),
            Some((name, port)) => {
                let port = super::ports::parse_port(port).filter(|port| *port != 0);
                (name, Some(port.ok_or("a port is 1 to 65535, or *")?))
            }
        };
        if name == "*" {
            return Ok(Self {
                name: "".into(),
                wildcard: true,
                port,
            });
        }
        let (wildcard, rest) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let rest = rest.to_ascii_lowercase();
        if rest.parse::<std::net::IpAddr>().is_ok() || rest.starts_with('[') {
            return Err("an address is no name: the internet is granted by name".to_owned());
        }
        // RFC 1123 §2.1 with the length of RFC 1035 §2.3.4; international names in their ASCII form.
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let named = rest.len() <= 253 && rest.contains('.') && rest.split('.').all(label);
        let last_is_number = rest
            .rsplit('.')
            .next()
            .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
        match named && !last_is_number {
            true => Ok(Self {
                name: rest.into(),
                wildcard,
                port,
            }),
            false => Err(format!("{name:?} is no full domain name")),
        }
    }

    /// Whether this host and port are meant. `*.` stands for one label or more, never for none.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let named = match (self.wildcard, self.name.is_empty()) {
            (true, true) => true,
            (false, _) => host.eq_ignore_ascii_case(&self.name),
            (true, false) => {
                let cut = host.len().checked_sub(self.name.len());
                cut.and_then(|cut| Some((host.get(..cut)?, host.get(cut..)?)))
                    .is_some_and(|(head, tail)| {
                        head.len() > 1
                            && head.ends_with('.')
                            && tail.eq_ignore_ascii_case(&self.name)
                    })
            }
        };
        named && self.port.is_none_or(|only| only == port)
    }

    /// Whether it stands for every name.
    pub fn is_every(&self) -> bool {
        self.wildcard && self.name.is_empty()
    }

    /// The only port, where it has one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The same names on every port.
    pub fn on_every_port(&self) -> Self {
        Self {
            port: None,
            ..self.clone()
        }
    }

    /// What both mean.
    pub fn meet(&self, other: &Self) -> Option<Self> {
        let port = match (self.port, other.port) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let (mine, theirs) = (self.on_every_port(), other.on_every_port());
        let narrower = match (mine.covers(&theirs), theirs.covers(&mine)) {
            (true, _) => theirs,
            (_, true) => mine,
            (false, false) => return None,
        };
        Some(Self { port, ..narrower })
    }

    /// Whether everything that the other means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let ports = self.port.is_none() || self.port == other.port;
        let names = match (self.is_every(), self.wildcard) {
            (true, _) => true,
            (_, false) => !other.wildcard && self.name == other.name,
            (_, true) if other.wildcard => {
                *self.name == *other.name || other.name.ends_with(&format!(".{}", self.name))
            }
            (_, true) => other.name.ends_with(&format!(".{}", self.name)),
        };
        ports && names
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("internet:")?;
        match (self.wildcard, self.name.is_empty()) {
            (true, true) => f.write_str("*")?,
            (true, false) => write!(f, "*.{}", self.name)?,
            (false, _) => f.write_str(&self.name)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Deeper than any real path; the walk is linear in it.
const MAX_LEVELS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_level_and_two_are_the_rest() {
        let one = Levels::topic("builds/*").expect("a topic");
        let rest = Levels::topic("builds/**").expect("a topic");

        assert!(one.matches_topic("builds/7") && rest.matches_topic("builds/7/log"));
        assert!(!one.matches_topic("builds/7/log") && !one.matches_topic("builds"));
        assert!(!rest.matches_topic("builds") && !rest.matches_topic("builds/"));
        assert!(rest.covers(&one) && !one.covers(&rest) && one.covers(&one));
        for wrong in ["", "a//b", "**/a", "a/b*", "a/../b"] {
            assert!(Levels::topic(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_two_patterns_both_mean_is_a_pattern() {
        let meet = |a: &str, b: &str| {
            let (a, b) = (Levels::topic(a).expect("a"), Levels::topic(b).expect("b"));
            let both = a.meet(&b).map(|both| both.to_string());
            assert_eq!(both, b.meet(&a).map(|both| both.to_string()));
            both
        };
        assert_eq!(meet("a/*/c", "a/b/**").as_deref(), Some("a/b/c"));
        assert_eq!(meet("a/**", "*/b").as_deref(), Some("a/b"));
        assert_eq!(meet("**", "a/**").as_deref(), Some("a/**"));
        assert_eq!(meet("a/*", "a"), None);
        assert_eq!(meet("a/*", "b/*"), None);
        let (root, all) = (
            Levels::path("/").expect("/"),
            Levels::path("/**").expect("all"),
        );
        assert!(!all.covers(&root) && all.meet(&root).is_none() && root.meet(&root).is_some());
        let domain = |text| Domain::parse(text).expect(text);
        let both = domain("*.x.org").meet(&domain("a.x.org:443"));
        assert_eq!(both, Some(domain("a.x.org:443")));
        assert_eq!(domain("x.org:80").meet(&domain("x.org:443")), None);
        assert_eq!(domain("*.x.org").meet(&domain("x.org")), None);
    }

    #[test]
    fn a_path_that_two_servers_may_read_differently_is_never_meant() {
        let api = Levels::path("/api/v1/**").expect("a path");

        assert!(api.matches_path("/api/v1/jobs/7") && api.matches_path("/api/v1/jobs/"));
        for path in [
            "/api/v1",
            "/api/v1/",
            "/api/v1/../admin",
            "/api/v1/%2e%2e/admin",
            "/api//v1/x",
            "/api/v1/a?b",
            "/api/v1/a;b",
            "api/v1/x",
            "/api/v1/\\..\\x",
            "//api/v1/x",
        ] {
            assert!(!api.matches_path(path), "{path}");
        }
        assert!(Levels::path("/").expect("the root").matches_path("/"));
        assert!(Levels::path("/**").expect("all").matches_path("/x/y"));
        assert!(Levels::path("api").is_err() && Levels::path("/%41").is_err());
    }

    #[test]
    fn a_wildcard_stands_for_labels_and_never_for_the_apex() {
        let any = Domain::parse("*.githubusercontent.com:443").expect("a name");

        assert!(any.matches("raw.githubusercontent.com", 443));
        assert!(any.matches("a.b.GitHubUserContent.com.", 443));
        for (host, port) in [
            ("githubusercontent.com", 443),
            ("raw.githubusercontent.com", 80),
            ("evilgithubusercontent.com", 443),
            (".githubusercontent.com", 443),
            ("", 443),
        ] {
            assert!(!any.matches(host, port), "{host}");
        }
        let one = Domain::parse("GitHub.com").expect("a name");
        assert!(one.matches("github.com", 22) && !one.matches("api.github.com", 22));
        assert!(
            Domain::parse("*").expect("all").covers(&any) && any.covers(&any) && !any.covers(&one)
        );
        for wrong in [
            "10.0.0.1",
            "[::1]:443",
            "localhost",
            "a..b",
            "-a.com",
            "a.com:0",
            "x.*.com",
            "1.2.3",
            "пример.рф",
        ] {
            assert!(Domain::parse(wrong).is_err(), "{wrong}");
        }
    }
}
