//! Policy files from Tailscale and for it: nothing passes there that does not pass here.

use std::net::{IpAddr, Ipv6Addr};

use identity::{AgentName, NodeId, UnixTime};
use policy::{
    AddressSet, Document, InnerPacket, MessageRequest, Network, Node, Policy, Prefix, Verb,
    export_to_tailscale, format, import_from_tailscale,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::Value;

const NOW: UnixTime = UnixTime(1_800_000_000);

fn imported(text: &str) -> (String, Vec<String>) {
    let translated =
        import_from_tailscale("acl.hujson", text).unwrap_or_else(|said| panic!("{said:?}"));
    (translated.text, translated.notes)
}

fn exported(text: &str) -> (String, Vec<String>) {
    let translated = export_to_tailscale("policy.hujson", text, NOW)
        .unwrap_or_else(|said| panic!("{text}\n{said:?}"));
    (translated.text, translated.notes)
}

#[test]
fn what_only_tailscale_needs_is_left_out_with_a_word() {
    let (text, notes) = imported(
        r#"// Ours since 2021.
{
  // who is who
  "groups": {"group:ops": ["ana@example.com"]},
  // How we log in.
  "ssh": [{"action": "accept", "src": ["group:ops"], "dst": ["autogroup:self"], "users": ["root"]}],
  "acls": [{"action": "accept", "src": ["group:ops"], "dst": ["*:22"]}], // all of it
  "autoApprovers": {"services": {"svc:db": ["group:ops"]}, "exitNode": []},
  "nodeAttrs": [],
}"#,
    );

    assert_eq!(
        text,
        r#"// Ours since 2021.
{
  // who is who
  "groups": {"group:ops": ["ana@example.com"]},
  // How we log in.
  // "ssh" was here: it only means something to Tailscale.
  "acls": [
    {"action": "accept", "src": ["group:ops"], "dst": ["*:22"]},
  ], // all of it
  "autoApprovers": {
    // "services" was here: it only means something to Tailscale.
    "exitNode": [],
  },
  // "nodeAttrs" was here: it only means something to Tailscale.
}
"#
    );
    assert_eq!(
        notes,
        [
            "\"ssh\" is left out: it only means something to Tailscale",
            "\"nodeAttrs\" is left out: it only means something to Tailscale",
            "autoApprovers: \"services\" is left out: it only means something to Tailscale",
        ]
    );
    let (document, _) = Document::parse("imported", &text).expect("it loads");
    assert_eq!(document.rule_count(), 1);
}

#[test]
fn a_file_that_relied_on_the_default_is_told_that_ours_is_another() {
    let (text, notes) = imported(r#"{"groups": {}}"#);

    assert!(
        text.contains("\"grants\": []") && text.contains("and crabmesh nothing"),
        "{text}"
    );
    assert_eq!(notes.len(), 1, "{notes:?}");
    let (none, notes) = imported(r#"{"grants": []}"#);
    assert!(!none.contains("//") && notes.is_empty(), "{none}");
}

#[test]
fn a_file_that_does_not_load_is_not_imported() {
    let said = import_from_tailscale("p", r#"{"grants": [{"src": ["tag:x"]}]}"#);

    assert!(
        said.expect_err("refused")
            .iter()
            .any(|d| d.code() == "E021")
    );
}

#[test]
fn agents_and_verbs_become_capabilities_between_their_nodes() {
    let (text, notes) = exported(
        r#"{
  "tagOwners": {"tag:a": [], "tag:b": []},
  "grants": [
    // Plans are asked for.
    {"id": "plan", "src": ["agent:planner@tag:a", "tag:b"], "dst": ["agent:coder@tag:b"], "msg": ["request"]},
    {"id": "ssh", "src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:22"]}, // stays
  ],
}"#,
    );

    assert_eq!(
        text,
        r#"// Written by `crabmesh policy export --tailscale`: change the original instead.
{
  "tagOwners": {
    "tag:a": [],
    "tag:b": [],
  },
  "grants": [
    // Plans are asked for.
    // plan
    {
      "src": ["tag:a"],
      "dst": ["tag:b"],
      "app": {
        "crabmesh.dev/cap/msg": [
          {"id": "plan", "src": ["planner"], "dst": ["coder"], "msg": ["request"]},
        ],
      },
    },
    {
      "src": ["tag:b"],
      "dst": ["tag:b"],
      "app": {"crabmesh.dev/cap/msg": [{"id": "plan", "dst": ["coder"], "msg": ["request"]}]},
    },
    // ssh
    {"src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:22"]}, // stays
  ],
}
"#
    );
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn what_cannot_be_said_is_left_out_and_named() {
    for (grant, left, note) in [
        (
            r#"{"src": ["gw-a", "tag:a"], "dst": ["tag:b"], "ip": ["22"]}"#,
            r#"{"src": ["tag:a"], "dst": ["tag:b"], "ip": ["22"]}"#,
            "grants[0]: left out in part or whole: Tailscale has no gw-a",
        ),
        (
            r#"{"src": ["autogroup:admin"], "dst": ["tag:b"], "ip": ["22"]}"#,
            "\"grants\": [],",
            "grants[0]: left out in part or whole: Tailscale has no autogroup:admin",
        ),
        (
            r#"{"src": ["tag:a"], "dst": ["tag:b"], "ip": ["22"], "valid": {"notAfter": "2026-12-31T00:00:00Z"}}"#,
            "crabmesh.dev/cap/ip",
            "grants[0]: Tailscale knows no dates and hours: its ports open only where a gateway reads crabmesh.dev/cap/ip",
        ),
        (
            r#"{"src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:80"], "http": [{"methods": ["GET"]}]}"#,
            r#""crabmesh.dev/cap/http": [{"ip": ["tcp:80"], "http": [{"methods": ["GET"]}]}]"#,
            "",
        ),
        (
            r#"{"src": ["agent:x@tag:a"], "dst": ["internet:api.example.com:443"], "http": [{"paths": ["/v1/**"]}], "credential": "secret:key"}"#,
            r#"crabmesh.dev/cap/internet"#,
            "",
        ),
    ] {
        let file = format!(r#"{{"tagOwners": {{"tag:a": [], "tag:b": []}}, "grants": [{grant}]}}"#);
        let (text, notes) = exported(&file);

        assert!(text.contains(left), "{text}");
        assert!(note.is_empty() == notes.is_empty(), "{grant}: {notes:?}");
        assert!(
            notes.iter().all(|said| note.is_empty()
                || said.starts_with(note)
                || said.ends_with("can be said")),
            "{notes:?}"
        );
        if note.contains("hours") {
            assert!(!text.contains(r#""dst": ["tag:b"], "ip""#), "{text}");
        }
    }
}

#[test]
fn a_file_without_grants_still_denies_everything_at_tailscale() {
    let (text, notes) = exported(r#"{"groups": {}, "ssh": [], "blocks": []}"#);

    assert!(text.contains("\"grants\": []"), "{text}");
    assert!(
        !text.contains("\"ssh\":") && notes.len() == 1,
        "{text} {notes:?}"
    );
}

#[test]
fn tests_that_tailscale_can_run_are_kept_where_they_still_hold() {
    let (text, notes) = exported(
        r#"{
  "groups": {"group:ops": ["ana@example.com"]},
  "tagOwners": {"tag:a": []},
  "grants": [
    {"src": ["group:ops"], "dst": ["tag:a"], "ip": ["22"]},
    {"src": ["group:ops"], "dst": ["tag:a"], "ip": ["80"], "valid": {"notAfter": "2036-12-31T00:00:00Z"}},
  ],
  "tests": [
    {"src": "ana@example.com", "deny": ["tag:a:23"], "accept": ["tag:a:22", "tag:a:80", {"http": "GET /", "dst": "tag:a:22"}]},
    {"src": "agent:x@tag:a", "deny": ["agent:y@tag:a:send"]},
    {"src": "ana@example.com", "at": "2026-11-23T09:00:00Z", "accept": ["tag:a:22"]},
  ],
}"#,
    );

    assert!(
        text.contains(
            r#"    {"src": "ana@example.com", "deny": ["tag:a:23"], "accept": ["tag:a:22"]},
  ],"#
        ),
        "{text}"
    );
    assert!(
        notes
            .iter()
            .any(|note| note.starts_with("tests: 4 of 6 lines")),
        "{notes:?}"
    );
}

#[test]
fn an_imported_file_goes_back_as_it_came() {
    let theirs = r#"// ours
{
  "groups": {"group:ops": ["ana@example.com"]},
  "hosts": {"nas": "192.168.1.10"},
  "tagOwners": {"tag:a": ["group:ops"]},
  "grants": [
    {"src": ["group:ops"], "dst": ["nas"], "ip": ["tcp:445"], "via": ["tag:a"]}, // files
    {"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]},
    {"src": ["tag:a"], "dst": ["tag:a"], "app": {"example.com/cap/x": [{"a": [1]}]}},
    {"src": ["*"], "dst": ["svc:db"], "ip": ["tcp:5432"]},
  ],
  "acls": [
    {"action": "accept", "users": ["group:ops"], "ports": ["nas:80,443", "*:22"]},
  ],
  "tests": [
    {"src": "ana@example.com", "accept": ["tag:a:22"], "deny": ["tag:a:23"]},
  ],
}
"#;
    let (ours, notes) = imported(theirs);
    assert_eq!((ours.as_str(), notes.len()), (theirs, 0));

    let (back, notes) = exported(&ours);

    let (title, rest) = back.split_once('\n').expect("lines");
    assert!(title.contains("export --tailscale"));
    assert_eq!((rest, notes.len()), (theirs, 0));
}

#[test]
fn every_recipe_is_exported_with_keys_that_tailscale_knows() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/policies");
    for entry in std::fs::read_dir(folder).expect("the recipes are in the tree") {
        let path = entry.expect("a readable folder").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let (text, _) = exported(&text);
        only_known_keys(&text);
    }
}

/// What Tailscale's documentation names, and nothing else.
fn only_known_keys(text: &str) {
    let parsed = jsonc_parser::parse_to_ast(text, &Default::default(), &Default::default());
    let value: Value = parsed.expect(text).value.expect("a policy").into();
    let keys = |value: &Value, known: &[&str]| {
        for key in value.as_object().expect("an object").keys() {
            assert!(known.contains(&key.as_str()), "{key}\n{text}");
        }
    };
    keys(
        &value,
        &[
            "groups",
            "hosts",
            "ipsets",
            "tagOwners",
            "postures",
            "autoApprovers",
            "grants",
            "acls",
            "tests",
            "derpMap",
            "disableIPv4",
            "randomizeClientPort",
            "OneCGNATRoute",
        ],
    );
    let each = |section: &str, known: &[&str]| {
        let entries = value[section].as_array();
        entries
            .into_iter()
            .flatten()
            .for_each(|entry| keys(entry, known));
    };
    each("grants", &["src", "dst", "ip", "app", "via", "srcPosture"]);
    each(
        "acls",
        &[
            "action",
            "src",
            "dst",
            "proto",
            "users",
            "ports",
            "srcPosture",
        ],
    );
    each(
        "tests",
        &["src", "proto", "accept", "deny", "srcPostureAttrs"],
    );
    let rules = value["acls"]
        .as_array()
        .is_some_and(|acls| !acls.is_empty());
    assert!(
        rules || value["grants"].is_array(),
        "without either everything would be permitted\n{text}"
    );
}

const AGENTS: [&str; 2] = ["planner", "coder"];
const USERS: [&str; 2] = ["ana@x.org", "bo@x.org"];
const TAGS: [&str; 2] = ["tag:a", "tag:b"];

fn node_selector() -> impl Strategy<Value = String> {
    let fixed = [
        "*",
        "autogroup:member",
        "autogroup:tagged",
        "autogroup:admin",
        "gw-0",
        "group:g",
        "user:*@x.org",
        "ana@x.org",
        "bo@x.org",
        "tag:a",
        "tag:b",
    ];
    select(fixed.map(str::to_owned).to_vec())
}

fn selector() -> impl Strategy<Value = String> {
    let name = select(vec!["*", "planner", "coder"]);
    prop_oneof![
        2 => node_selector(),
        1 => (name, node_selector()).prop_map(|(name, node)| format!("agent:{name}@{node}")),
    ]
}

fn host() -> impl Strategy<Value = String> {
    let hosts = select(vec![
        "fd00::2".to_owned(),
        "lab".to_owned(),
        "ipset:s".to_owned(),
    ]);
    prop_oneof![3 => node_selector(), 1 => hosts]
}

fn list(items: &[String]) -> String {
    format!("{items:?}")
}

fn valid() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "",
        "",
        r#", "valid": {"notAfter": "2020-01-01T00:00:00Z"}"#,
        r#", "valid": {"notAfter": "2040-01-01T00:00:00Z"}"#,
    ])
}

fn grant() -> impl Strategy<Value = String> {
    let verbs = || subsequence(vec!["send", "request", "stream"], 1..=2);
    let ports = || subsequence(vec!["*", "22", "tcp:443", "udp:1-60000"], 1..=2);
    prop_oneof![
        3 => (vec(selector(), 0..3), vec(selector(), 1..3), verbs(), valid()).prop_map(|(src, dst, msg, valid)| {
            format!(r#"{{"src": {}, "dst": {}, "msg": {msg:?}{valid}}}"#, list(&src), list(&dst))
        }),
        4 => (vec(prop_oneof![selector(), host()], 1..3), vec(host(), 1..3), ports(), verbs(), 0..6, valid()).prop_map(|(src, dst, ip, msg, kind, valid)| {
            let more = match kind {
                0 => r#", "http": [{"methods": ["GET"]}]"#.to_owned(),
                1 => format!(r#", "msg": {msg:?}"#),
                2 => r#", "app": {"example.com/cap/x": [{"a": 1}]}"#.to_owned(),
                _ => String::new(),
            };
            format!(r#"{{"src": {}, "dst": {}, "ip": {ip:?}{more}{valid}}}"#, list(&src), list(&dst))
        }),
        1 => (verbs(), ports()).prop_map(|(msg, ip)| {
            format!(r#"{{"src": ["group:g"], "dst": ["autogroup:self"], "ip": {ip:?}, "msg": {msg:?}}}"#)
        }),
    ]
}

fn acl() -> impl Strategy<Value = String> {
    (
        vec(prop_oneof![selector(), host()], 1..3),
        vec(host(), 1..3),
    )
        .prop_map(|(src, dst)| {
            let dst: Vec<String> = dst
                .into_iter()
                .map(|host| format!("{host}:22,443"))
                .collect();
            format!(
                r#"{{"action": "accept", "src": {}, "dst": {}}}"#,
                list(&src),
                list(&dst)
            )
        })
}

fn guard() -> impl Strategy<Value = String> {
    let demand = select(vec![
        r#""deny": {"windows": [{"days": "*", "hours": "00:00-24:00"}]}"#,
        r#""approve": {"by": ["group:g"]}"#,
        r#""maxBytes": "1MiB""#,
    ]);
    let msg = select(vec!["", r#""msg": ["send"], "#]);
    (vec(selector(), 1..3), vec(selector(), 1..3), msg, demand).prop_map(
        |(src, dst, msg, demand)| {
            format!(
                r#"{{"src": {}, "dst": {}, {msg}{demand}}}"#,
                list(&src),
                list(&dst)
            )
        },
    )
}

fn block() -> impl Strategy<Value = String> {
    let until = select(vec!["", r#", "until": "2020-01-01T00:00:00Z""#]);
    (vec(selector(), 1..2), until)
        .prop_map(|(matches, until)| format!(r#"{{"match": {}{until}}}"#, list(&matches)))
}

fn file() -> impl Strategy<Value = String> {
    (
        vec(grant(), 0..5),
        vec(acl(), 0..2),
        vec(guard(), 0..2),
        vec(block(), 0..2),
    )
        .prop_map(|(grants, acls, guards, blocks)| {
            format!(
                r#"{{"groups": {{"group:g": ["ana@x.org"]}}, "hosts": {{"lab": "fd00::/127"}},
                "ipsets": {{"ipset:s": ["add fd00::1", "add fd00::3"]}},
                "tagOwners": {{"tag:a": [], "tag:b": []}},
                "grants": [{}], "acls": [{}], "guards": [{}], "blocks": [{}]}}"#,
                grants.join(","),
                acls.join(","),
                guards.join(","),
                blocks.join(",")
            )
        })
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let machine = (
        proptest::option::of(select(USERS.to_vec())),
        subsequence(TAGS.to_vec(), 0..=2),
    );
    vec(machine, 2..5).prop_map(|machines| {
        let node = |(n, (user, tags)): (usize, (Option<&str>, Vec<&str>))| Node {
            user: user.map(|user| user.parse().expect("a user")),
            tags: tags.iter().map(|tag| tag.parse().expect("a tag")).collect(),
            addresses: vec![address(n)],
            ..Node::new(id(n), format!("gw-{n}").parse().expect("a name"))
        };
        machines.into_iter().enumerate().map(node).collect()
    })
}

fn id(n: usize) -> NodeId {
    NodeId([u8::try_from(n).expect("few"); 16])
}

fn address(n: usize) -> IpAddr {
    Ipv6Addr::from_bits(0xfd00 << 112 | n as u128).into()
}

fn mesh() -> AddressSet {
    ["fd00::/64".parse::<Prefix>().expect("a block")]
        .into_iter()
        .collect()
}

/// What a gateway would read from its node agent: the values of each capability that one node has
/// at another.
fn capabilities(network: &Network<'_>, src: &Node, dst: &Node) -> Vec<(String, Value)> {
    let rules = network.rules_for(dst).into_iter();
    let of_pair = rules.filter(|rule| {
        rule.sources.contains(src.addresses[0]) && rule.on.contains(dst.addresses[0])
    });
    of_pair
        .flat_map(|rule| rule.capabilities)
        .flat_map(|(name, values)| {
            let values = values.as_array().cloned().unwrap_or_default();
            values.into_iter().map(move |value| (name.clone(), value))
        })
        .collect()
}

/// The naive reading of them.
fn may(capabilities: &[(String, Value)], src: &str, dst: &str, verb: &str) -> bool {
    let named = |value: &Value, key: &str, name: &str| {
        value[key]
            .as_array()
            .is_none_or(|all| all.iter().any(|it| it == name))
    };
    let of = |name: &str| {
        let name = format!("crabmesh.dev/cap/{name}");
        capabilities
            .iter()
            .filter(move |(known, _)| *known == name)
            .map(|(_, value)| value)
    };
    let between = |value: &&Value| {
        value.get("to").is_none()
            && named(value, "src", src)
            && named(value, "dst", dst)
            && named(value, "msg", verb)
    };
    let in_time = |value: &&Value| value["valid"]["notAfter"] != "2020-01-01T00:00:00Z";
    let blocked = of("block").any(|value| {
        named(
            value,
            "agents",
            if value["of"] == "src" { src } else { dst },
        )
    });
    let denied = of("guard")
        .filter(between)
        .any(|value| value.get("maxBytes").is_none());
    !blocked && !denied && of("msg").filter(between).any(|value| in_time(&value))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_exported_is_never_wider(text in file(), nodes in nodes()) {
        let (document, _) = Document::parse("random", &text).unwrap_or_else(|said| panic!("{text} {said:?}"));
        let (theirs, _) = exported(&text);
        only_known_keys(&theirs);
        let (exported, _) = Document::parse("exported", &theirs).unwrap_or_else(|said| panic!("{theirs} {said:?}"));
        prop_assert_eq!(format("exported", &theirs).expect("HuJSON"), theirs.clone());
        let (here, there) = (Policy::compile(&document, &nodes), Policy::compile(&exported, &nodes));
        let mesh = mesh();
        let (ours, network) = (Network::new(&document, &nodes, &mesh), Network::new(&exported, &nodes, &mesh));
        let agents: Vec<AgentName> = AGENTS.iter().map(|name| name.parse().expect("a name")).collect();

        for dst in &nodes {
            let filters = (here.packet_filter(&dst.id, 4747, NOW), there.packet_filter(&dst.id, 4747, NOW));
            for src in nodes.iter().filter(|src| src.id != dst.id) {
                for (protocol, port) in [(6, 22), (6, 443), (17, 53), (17, 61_000), (58, 0), (47, 0)] {
                    let packet = InnerPacket { src: src.addresses[0], dst: dst.addresses[0], protocol, src_port: 40_000, dst_port: port };
                    prop_assert!(
                        !filters.1.allows(&src.id, &packet) || filters.0.allows(&src.id, &packet),
                        "{} -> {} {packet:?}\n{text}\n{theirs}", src.name, dst.name
                    );
                    let lets = |network: &Network<'_>| network.rules_for(dst).iter().any(|rule| {
                        let protocols = match &rule.protocols[..] { [] => &[6, 17, 1, 58], some => some };
                        rule.sources.contains(packet.src) && protocols.contains(&protocol)
                            && rule.destinations.iter().any(|(set, (first, last))| set.contains(packet.dst) && (*first..=*last).contains(&port))
                    });
                    prop_assert!(!lets(&network) || lets(&ours), "{text}\n{theirs}");
                }
                let given = capabilities(&network, src, dst);
                for (from, to) in agents.iter().flat_map(|from| agents.iter().map(move |to| (from, to))) {
                    for verb in [Verb::Send, Verb::Request, Verb::Stream] {
                        let request = MessageRequest { src: (src.id, from), dst: (dst.id, to), verb, at: NOW, bytes: None };
                        let (original, lowered) = (here.allows(&request), may(&given, from.as_str(), to.as_str(), verb.as_str()));
                        let exact = !text.contains("gw-0");
                        prop_assert!(
                            if exact { lowered == original } else { !lowered || original },
                            "{lowered} {request:?}\n{text}\n{theirs}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn agents_that_multiply_past_what_a_file_may_hold_are_refused() {
    let agents = |side: &str| -> String {
        let names = (0..20_000).map(|n| format!("\"agent:{side}{n}@*\""));
        names.collect::<Vec<_>>().join(",")
    };
    let text = format!(
        r#"{{"grants": [{{"src": [{}], "dst": [{}], "msg": ["send"]}}]}}"#,
        agents("a"),
        agents("b")
    );

    let said = export_to_tailscale("policy.hujson", &text, NOW).expect_err("too many");

    assert_eq!(said[0].code(), "E001", "{said:?}");
}
