//! Our policy file, for Tailscale.

use std::collections::BTreeMap;

use identity::UnixTime;

use super::lower::{self, Group, Lowered, Side, Unsaid, agents, array, capability, strings};
use super::overlap::Taken;
use super::{Translated, trials};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, NodeSelector, Rule, Selector, Spanned, hujson};
use crate::text::{Comment, Item, List, Node, Text};
use crate::{GrantRef, Policy};

/// Writes a policy file that Tailscale accepts and that permits nothing which ours does not. What
/// only we can say becomes application capabilities of `crabmesh.dev`; what cannot be said even so
/// is left out. `now` decides which blocks are over.
pub fn export_to_tailscale(
    name: &str,
    text: &str,
    now: UnixTime,
) -> Result<Translated, Vec<Diagnostic>> {
    let (document, _) = Document::parse(name, text)?;
    let mut tree = Text::parse(&hujson::source(name, text)?)?;
    let mut export = Export {
        text: document.source.inner(),
        taken: Taken::new(&document, now),
        document: &document,
        now,
        notes: Vec::new(),
    };
    if let Some(sections) = tree.sections() {
        export.leave_out(sections);
        export.approvers(sections);
        export.acls(sections);
        export.grants(sections);
        export.tests(sections)?;
    }
    let title = "Written by `crabmesh policy export --tailscale`: change the original instead.";
    tree.root.before.insert(0, Comment::line(title));
    let text = tree.print()?;
    // Agents of both sides multiply: what came out may have more rules than a file may.
    Document::parse("the exported policy", &text)?;
    Ok(Translated {
        text,
        notes: export.notes,
    })
}

struct Export<'a> {
    document: &'a Document,
    /// What the spans of the document point into.
    text: &'a str,
    taken: Taken<'a>,
    now: UnixTime,
    notes: Vec<String>,
}

impl Export<'_> {
    /// Sections that permit something at Tailscale and nothing here.
    fn leave_out(&mut self, sections: &mut List) {
        for key in ["ssh", "sshTests", "nodeAttrs"] {
            let place = sections.items.iter().position(|item| item.is(key));
            if let Some(index) = place {
                let why = "crabmesh permits nothing by it";
                let remark = Comment::line(&format!("{key:?} was here: {why}."));
                sections.remove(index, vec![remark]);
                self.notes.push(format!("{key:?} is left out: {why}"));
            }
        }
    }

    /// Nobody has a role here, and so approves nothing by it.
    fn approvers(&mut self, sections: &mut List) {
        let Some(approvers) = list_of(sections, "autoApprovers") else {
            return;
        };
        if let Some(index) = approvers.items.iter().position(|item| item.is("services")) {
            approvers.remove(index, Vec::new());
            self.notes
                .push("autoApprovers: \"services\" is left out".to_owned());
        }
        let routes = list_of(approvers, "routes").into_iter();
        for route in routes.flat_map(|list| &mut list.items) {
            self.without_roles(route);
        }
        if let Some(exit_node) = approvers.member("exitNode") {
            self.without_roles(exit_node);
        }
    }

    fn without_roles(&mut self, item: &mut Item) {
        let Some(list) = item.value.list() else {
            return;
        };
        list.items.retain(|owner| {
            let name = owner.value.text().unwrap_or_default();
            let role = name.starts_with("autogroup:") && name != "autogroup:member";
            if role {
                let note = format!("autoApprovers: {name:?} is left out: it is nobody here");
                self.notes.push(note);
            }
            !role
        });
    }

    fn acls(&mut self, sections: &mut List) {
        let mut rules: BTreeMap<&GrantRef, Vec<&Rule>> = BTreeMap::new();
        for rule in &self.document.rules {
            rules.entry(&rule.name).or_default().push(rule);
        }
        let Some(section) = list_of(sections, "acls") else {
            return;
        };
        let mut places = 0..;
        section.items.retain_mut(|item| {
            let place = GrantRef(format!("acls[{}]", places.next().unwrap_or(0)).into());
            let rules = rules.get(&place).map_or(&[][..], Vec::as_slice);
            self.acl(item, rules, &place).unwrap_or(false)
        });
    }

    /// Takes out what Tailscale cannot say; whether anything is left.
    fn acl(&mut self, item: &mut Item, rules: &[&Rule], place: &GrantRef) -> Option<bool> {
        let fields = item.value.list()?;
        let src = rules.first().map_or(&[][..], |rule| &rule.src);
        let key = if fields.member("src").is_some() {
            "src"
        } else {
            "users"
        };
        let mut entries = src.iter();
        let sources = list_of(fields, key)?;
        let was_empty = sources.items.is_empty();
        sources.items.retain(|_| {
            let entry = entries.next();
            entry.is_some_and(|entry| self.is_kept(entry, place))
        });
        let some_src = was_empty || !sources.items.is_empty();
        let key = if fields.member("dst").is_some() {
            "dst"
        } else {
            "ports"
        };
        let mut rules = rules.iter();
        let destinations = list_of(fields, key)?;
        destinations.items.retain(|_| {
            let Some(rule) = rules.next() else {
                return false;
            };
            match self.taken.from(&nodes(&rule.src), &nodes(&rule.dst)) {
                Some(by) => {
                    self.left_out(place, &format!("{by} may take from it"));
                    false
                }
                None => rule.dst.iter().all(|entry| self.is_kept(entry, place)),
            }
        });
        Some(some_src && !destinations.items.is_empty())
    }

    fn is_kept(&mut self, entry: &Spanned<Selector>, place: &GrantRef) -> bool {
        let said = is_native(entry);
        if !said {
            let why = format!("Tailscale has no {}", lower::written(self.text, entry));
            self.left_out(place, &why);
        }
        said
    }

    fn grants(&mut self, sections: &mut List) {
        let before = list_of(sections, "grants").map(|list| std::mem::take(&mut list.items));
        let mut items = Lowered::default();
        let stopped = self.stopped();
        for (item, rule) in before.into_iter().flatten().zip(&self.document.rules) {
            match &stopped {
                Some(by) => self.left_out(&rule.name, &format!("{by} may take from it")),
                None => self.grant(item, rule, &mut items),
            }
        }
        self.guards(sections, &mut items);
        self.blocks(&mut items);
        for kind in ["guards", "blocks"] {
            let place = sections.items.iter().position(|item| item.is(kind));
            if let Some(index) = place {
                let remark = "are capabilities in \"grants\" now, for gateways to read.";
                sections.remove(index, vec![Comment::line(&format!("{kind:?} {remark}"))]);
            }
        }
        // Without a rule in either section, Tailscale would permit everything.
        let acls = list_of(sections, "acls").is_some_and(|list| !list.items.is_empty());
        match list_of(sections, "grants") {
            Some(list) => list.items = items.items,
            None if acls && items.items.is_empty() => {}
            None => {
                let section = Item::new(Some("grants"), array(items.items));
                sections.items.push(section);
            }
        }
    }

    /// The block that stops a gateway by its name: Tailscale cannot say whom it is about, so that
    /// nothing can be exported from which it might take.
    fn stopped(&self) -> Option<String> {
        let mut blocks = self.document.blocks.iter();
        let block = blocks
            .find(|block| block.holds(self.now) && block.matches.iter().any(is_named_gateway));
        block.map(|block| block.name.phrase("block"))
    }

    fn grant(&mut self, mut item: Item, rule: &Rule, items: &mut Lowered) {
        let taken = self.taken.from(&nodes(&rule.src), &nodes(&rule.dst));
        let limited = taken.is_some() || rule.valid.is_some();
        let ours = rule.is_for_messages() || !rule.http.is_empty() || rule.credential.is_some();
        let native = rule.src.iter().chain(&rule.dst).all(is_native);
        let theirs = !rule.ip.is_empty() || !rule.app.is_empty();
        if native && theirs && !ours && !limited {
            if let Some(fields) = item.value.list()
                && let Some(index) = fields.items.iter().position(|field| field.is("id"))
            {
                fields.items.remove(index);
                item.remark(rule.name.as_str());
            }
            items.push(item);
            return;
        }
        let src = Side::new(self.text, &rule.src, Unsaid::LeaveOut);
        let dst = Side::new(self.text, &rule.dst, Unsaid::LeaveOut);
        for selector in src.unsaid.iter().chain(&dst.unsaid) {
            self.left_out(&rule.name, &format!("Tailscale has no {selector}"));
        }
        let first = items.items.len();
        let mut fields = Fields(&mut item);
        self.plain(&mut fields, rule, taken.as_deref(), items);
        for group in &src.groups {
            self.to_nodes(&mut fields, rule, limited, (group, &dst.groups), items);
            self.to_resources(&mut fields, (rule, limited), (group, &dst.resources), items);
        }
        match items.items.get_mut(first) {
            Some(lowered) => {
                lowered.before.splice(0..0, item.before);
                lowered.blank = item.blank;
                // A place in the file says nothing in another one.
                if !rule.name.as_str().contains('[') {
                    lowered.remark(rule.name.as_str());
                }
            }
            None => self.left_out(&rule.name, "nothing of it can be said"),
        }
    }

    /// What Tailscale itself enforces: ports and capabilities between whole nodes, at any hour.
    fn plain(
        &mut self,
        fields: &mut Fields<'_>,
        rule: &Rule,
        taken: Option<&str>,
        items: &mut Lowered,
    ) {
        let ip = !rule.ip.is_empty() && rule.http.is_empty();
        if !ip && rule.app.is_empty() {
            return;
        }
        let limit = match (taken, &rule.valid) {
            (Some(by), _) => Some(format!("{by} may take from it")),
            (None, Some(_)) => Some("Tailscale knows no dates and hours".to_owned()),
            (None, None) => None,
        };
        if let Some(why) = limit {
            let what = match ip && rule.via.is_empty() {
                true => "its ports open only where a gateway reads crabmesh.dev/cap/ip",
                false => "nothing of it is enforced by Tailscale",
            };
            self.notes
                .push(format!("{}: {why}: {what}", rule.name.phrase("grant")));
            return;
        }
        let of = |side: &[Spanned<Selector>]| -> Vec<String> {
            let native = side.iter().filter(|entry| is_native(entry));
            native
                .map(|entry| lower::written(self.text, entry))
                .collect()
        };
        let (src, dst) = (of(&rule.src), of(&rule.dst));
        if src.is_empty() || dst.is_empty() {
            return;
        }
        let mut grant = vec![
            Item::new(Some("src"), strings(&src)),
            Item::new(Some("dst"), strings(&dst)),
        ];
        if ip {
            grant.extend(fields.copy(&["ip"]));
        }
        grant.extend(fields.copy(&["app", "via", "srcPosture"]));
        items.push(Item::new(None, lower::object(grant)));
    }

    fn to_nodes(
        &self,
        fields: &mut Fields<'_>,
        rule: &Rule,
        limited: bool,
        (src, dst): (&Group, &[Group]),
        items: &mut Lowered,
    ) {
        let posture = fields.member("srcPosture");
        for group in dst {
            if items.is_full() {
                return;
            }
            let sides = |fields: &mut Fields<'_>| {
                let mut value: Vec<Item> = fields.copy(&["id"]);
                value.extend(agents("src", src.agent.as_ref()));
                value.extend(agents("dst", group.agent.as_ref()));
                value
            };
            let mut push = |name: &str, keys: &[&str], fields: &mut Fields<'_>| {
                let mut value = sides(fields);
                value.extend(fields.copy(keys));
                let nodes = (&src.nodes[..], &group.nodes[..]);
                items.push(capability(name, nodes.0, nodes.1, posture.as_ref(), value));
            };
            if rule.is_for_messages() {
                push("msg", &["msg", "valid"], fields);
            }
            // Of what lies behind a gateway nobody asks for capabilities.
            if rule.ip.is_empty() || !rule.via.is_empty() || group.agent.is_some() {
                continue;
            }
            if !rule.http.is_empty() {
                push("http", &["ip", "http", "credential", "valid"], fields);
            } else if limited && src.agent.is_none() {
                push("ip", &["ip", "valid"], fields);
            }
        }
    }

    /// To topics, the internet and services: every gateway may be the one that serves them.
    fn to_resources(
        &self,
        fields: &mut Fields<'_>,
        (rule, limited): (&Rule, bool),
        (src, resources): (&Group, &[String]),
        items: &mut Lowered,
    ) {
        let posture = fields.member("srcPosture");
        for (name, prefix, keys) in RESOURCES {
            let of_kind = resources.iter().filter(|text| text.starts_with(prefix));
            let to: Vec<String> = of_kind.cloned().collect();
            let ports = !rule.ip.is_empty() && rule.http.is_empty() && !limited;
            let native = prefix == "svc:" && ports && src.agent.is_none();
            if to.is_empty() || native {
                continue;
            }
            let mut value = fields.copy(&["id"]);
            value.extend(agents("src", src.agent.as_ref()));
            value.push(Item::new(Some("to"), strings(&to)));
            value.extend(fields.copy(keys));
            items.push(capability(
                name,
                &src.nodes,
                &everybody(),
                posture.as_ref(),
                value,
            ));
        }
    }

    fn guards(&mut self, sections: &mut List, items: &mut Lowered) {
        let before = list_of(sections, "guards").map_or(Vec::new(), |list| list.items.clone());
        for (mut item, guard) in before.into_iter().zip(&self.document.guards) {
            let src = Side::new(self.text, &guard.src, Unsaid::Widen);
            let mut dst = Side::new(self.text, &guard.dst, Unsaid::Widen);
            for selector in src.unsaid.iter().chain(&dst.unsaid) {
                let guard = guard.name.phrase("guard");
                let note =
                    format!("{guard}: Tailscale has no {selector}: it is about all gateways");
                self.notes.push(note);
            }
            if !dst.resources.is_empty() {
                dst.groups.push(Group {
                    agent: None,
                    nodes: everybody(),
                });
            }
            let last = dst.groups.len();
            let mut fields = Fields(&mut item);
            let pairs = src
                .groups
                .iter()
                .flat_map(|a| dst.groups.iter().zip(1..).map(move |b| (a, b)));
            for (from, (onto, place)) in pairs {
                if items.is_full() {
                    return;
                }
                let mut value = fields.copy(&["id"]);
                value.extend(agents("src", from.agent.as_ref()));
                value.extend(agents("dst", onto.agent.as_ref()));
                if place == last && !dst.resources.is_empty() {
                    value.push(Item::new(Some("to"), strings(&dst.resources)));
                }
                value.extend(fields.copy(DEMANDS));
                items.push(capability("guard", &from.nodes, &onto.nodes, None, value));
            }
        }
    }

    /// In both directions: whom it is about reaches nobody, and nobody reaches them.
    fn blocks(&mut self, items: &mut Lowered) {
        for block in self
            .document
            .blocks
            .iter()
            .filter(|block| block.holds(self.now))
        {
            // For the sake of the others nothing is exported: see `stopped`.
            let matches = block
                .matches
                .iter()
                .filter(|entry| !is_named_gateway(entry));
            let matches: Vec<_> = matches.cloned().collect();
            let side = Side::new(self.text, &matches, Unsaid::Widen);
            for selector in &side.unsaid {
                let block = block.name.phrase("block");
                let note =
                    format!("{block}: Tailscale has no {selector}: it is about all gateways");
                self.notes.push(note);
            }
            for group in &side.groups {
                for (from, onto, key) in [
                    (&group.nodes, &everybody(), "src"),
                    (&everybody(), &group.nodes, "dst"),
                ] {
                    let mut value = vec![text_item("id", block.name.as_str())];
                    value.push(text_item("of", key));
                    value.extend(agents("agents", group.agent.as_ref()));
                    value.extend(block.reason.as_ref().map(|text| text_item("reason", text)));
                    let until = block.until.map(crate::document::rfc3339);
                    value.extend(until.map(|until| text_item("until", &until)));
                    items.push(capability("block", from, onto, None, value));
                }
            }
        }
    }

    /// Those lines that Tailscale can run, and that hold after what was left out.
    fn tests(&mut self, sections: &mut List) -> Result<(), Vec<Diagnostic>> {
        let Some(before) = sections.member("tests").map(|item| item.value.clone()) else {
            return Ok(());
        };
        let mut lines = trials::understood(self.document);
        let all = self.document.expectations.len();
        // Twice: what does not hold is known after the first time.
        for _ in 0..2 {
            let mut after = before.clone();
            if let Some(section) = after.list() {
                trials::keep(section, &lines);
            }
            if let Some(item) = sections.member("tests") {
                item.value = after;
            }
            let root = Node::List(sections.clone());
            let file = Text {
                root: Item::new(None, root),
                end: Vec::new(),
            };
            let (exported, _) = Document::parse("the exported policy", &file.print()?)?;
            let report = Policy::run_tests(&exported, &[], self.now);
            let held = lines.iter().zip(&report.outcomes);
            lines = held
                .filter(|(_, outcome)| outcome.passed)
                .map(|(line, _)| *line)
                .collect();
        }
        if lines.len() < all {
            let left = all - lines.len();
            let note = format!(
                "tests: {left} of {all} lines are left out: Tailscale tests packets of users, \
                 groups, tags and hosts"
            );
            self.notes.push(note);
        }
        Ok(())
    }

    fn left_out(&mut self, rule: &GrantRef, why: &str) {
        let note = format!("{}: left out in part or whole: {why}", rule.phrase("grant"));
        self.notes.push(note);
    }
}

/// The fields of a rule as written.
struct Fields<'a>(&'a mut Item);

impl Fields<'_> {
    fn member(&mut self, key: &str) -> Option<Item> {
        self.0.value.list()?.member(key).cloned()
    }

    fn copy(&mut self, keys: &[&str]) -> Vec<Item> {
        let found = keys.iter().filter_map(|key| self.member(key));
        found
            .map(|field| Item {
                before: Vec::new(),
                blank: false,
                after: Vec::new(),
                ..field
            })
            .collect()
    }
}

fn list_of<'a>(list: &'a mut List, key: &str) -> Option<&'a mut List> {
    list.member(key)?.value.list()
}

fn text_item(key: &str, text: &str) -> Item {
    Item::new(Some(key), Node::from_json(&text.into()))
}

fn everybody() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Whether Tailscale enforces what is between these.
fn is_native(entry: &Spanned<Selector>) -> bool {
    match &entry.value {
        Selector::Node(node) => lower::is_said(node),
        Selector::Service(_) => true,
        Selector::Agent(..) | Selector::Topic(_) | Selector::Internet(_) => false,
    }
}

/// Whether it is a whole gateway, by its name.
fn is_named_gateway(entry: &Spanned<Selector>) -> bool {
    matches!(entry.value, Selector::Node(NodeSelector::Named(_)))
}

fn nodes(side: &[Spanned<Selector>]) -> Vec<&NodeSelector> {
    side.iter().filter_map(|entry| entry.value.node()).collect()
}

/// What resources of each kind are granted, and how their selectors begin.
const RESOURCES: [(&str, &str, &[&str]); 3] = [
    ("msg", "topic:", &["msg", "valid"]),
    (
        "internet",
        "internet:",
        &["ip", "http", "credential", "valid"],
    ),
    ("service", "svc:", &["ip", "http", "credential", "valid"]),
];

/// What a guard may demand, and of which verbs.
const DEMANDS: &[&str] = &["msg", "rate", "maxBytes", "approve", "spend", "deny"];
