//! The one layout of policy files: what it looks like, and that nothing is lost on the way.

use policy::{Document, format};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn formatted(text: &str) -> String {
    format("policy.hujson", text).unwrap_or_else(|said| panic!("{text}\n{said:?}"))
}

#[test]
fn a_grant_has_a_line_and_one_that_does_not_fit_a_line_for_each_of_its_fields() {
    let text = r#"{"groups":{"group:ops":["ana@example.com"]},
    "tagOwners":{"tag:a":["group:ops"],"tag:b":[]},"grants":[
      {"src":["tag:a"],
       "dst":["tag:b"],"msg":["send"]},{"id":"a-grant-that-is-long","src":["agent:planner@tag:a"],"dst":["agent:coder@tag:b"],"msg":["send","request"]}],
    "guards":[],"tests":[{"src":"tag:a","accept":["tag:b:send"]}]}"#;

    assert_eq!(
        formatted(text),
        r#"{
  "groups": {"group:ops": ["ana@example.com"]},
  "tagOwners": {
    "tag:a": ["group:ops"],
    "tag:b": [],
  },
  "grants": [
    {"src": ["tag:a"], "dst": ["tag:b"], "msg": ["send"]},
    {
      "id": "a-grant-that-is-long",
      "src": ["agent:planner@tag:a"],
      "dst": ["agent:coder@tag:b"],
      "msg": ["send", "request"],
    },
  ],
  "guards": [],
  "tests": [
    {"src": "tag:a", "accept": ["tag:b:send"]},
  ],
}
"#
    );
}

#[test]
fn comments_stay_with_what_they_are_about() {
    let text = "// head\n\n\n\n// of the file\n{ // opens\n\"hosts\": {}, // none yet\n\n\n/* two\nlines */ \"grants\" /* inside */ : [\n// only\n],\n\"tests\": [ /* empty */ ], \"groups\": {\"group:a\": [\"a@x.org\" /* Ana */, /* Bo */ \"b@x.org\"]\n// last of groups\n}\n// last\n} // end\n// after\n";

    assert_eq!(
        formatted(text),
        r#"// head

// of the file
{
  // opens
  "hosts": {}, // none yet

  /* two
lines */
  /* inside */ "grants": [
    // only
  ],
  "tests": [/* empty */],
  "groups": {
    "group:a": ["a@x.org" /* Ana */, /* Bo */ "b@x.org"],
    // last of groups
  },
  // last
} // end
// after
"#
    );
}

#[test]
fn a_file_with_mistakes_of_meaning_is_formatted_all_the_same() {
    let text = r#"{"grnats":[{"src":"nobody"}],"grnats":1e3}"#;

    assert!(Document::parse("p", text).is_err());
    assert_eq!(
        formatted(text),
        "{\n  \"grnats\": [\n    {\"src\": \"nobody\"},\n  ],\n  \"grnats\": 1e3,\n}\n"
    );
}

#[test]
fn what_is_no_hujson_is_refused_as_the_parser_refuses_it() {
    for (text, code) in [
        ("", "E005"),
        ("// nothing", "E005"),
        ("{'a': 1}", "E002"),
        ("{\"a\": 1", "E002"),
        ("[1 2]", "E002"),
        ("{} /* open", "E002"),
        ("{\"a\u{202e}\": 1}", "E007"),
    ] {
        let said = format("p", text).expect_err(text);
        assert_eq!(said[0].code(), code, "{text}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(format("p", &deep).expect_err("deep")[0].code(), "E002");
    assert_eq!(
        format("p", &" ".repeat(policy::MAX_TEXT + 1)).expect_err("long")[0].code(),
        "E001"
    );
}

#[test]
fn a_text_that_would_grow_past_what_a_policy_may_have_is_refused() {
    // Five hundred lists in each other, and a thousand numbers in the innermost, each with its line.
    let (open, close) = ("[".repeat(500), "]".repeat(500));
    let wide = format!("{open}{}{close}", "1,".repeat(100_000));

    let said = format("p", &wide).expect_err("it would have 100 MB");

    assert_eq!(said[0].code(), "E001");
    let small = format!("{open}{}{close}", "1,".repeat(10));
    assert_eq!(formatted(&formatted(&small)), formatted(&small));
}

/// What stands between two tokens, as people and programs write it.
fn gap() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "",
        "",
        "",
        " ",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "\t",
        "\u{a0}",
        "//\n",
        "// a \"quote\"\n",
        "// b {[,:]} /* \r\n",
        "/**/",
        "/* c */",
        "/* d // \" */",
        "/* e\n   f */",
        "/* g\r\n\r */",
        "// h\n\n\n/* i */",
        "/* j *//* k */ // l\n",
    ]);
    vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn scalar() -> impl Strategy<Value = String> {
    let fixed = [
        "1",
        "-0",
        "1.50",
        "1e9",
        "true",
        "false",
        "null",
        "\"\"",
        "\"a\"",
        "\"\\\"\"",
        "\"\\\\\"",
        "\"// no comment\"",
        "\"/* no */\"",
        "\"\\u00e4\\n\"",
        "\"ä 世界\"",
        "\"{[,:]}\"",
        "\"a string that is so long that two of them do not fit on one line of the file\"",
    ];
    select(fixed.map(str::to_owned).to_vec())
}

/// HuJSON with comments wherever they may be.
fn hujson() -> impl Strategy<Value = String> {
    let value = scalar().prop_recursive(5, 60, 6, |inner| {
        let element = (gap(), inner.clone(), gap());
        let member = (gap(), scalar(), gap(), gap(), inner, gap());
        prop_oneof![
            (vec(element, 0..6), gap(), any::<bool>()).prop_map(|(elements, end, comma)| {
                let all = elements.into_iter().map(|(a, value, b)| a + &value + &b);
                bracketed("[", all.collect(), &end, comma, "]")
            }),
            (vec(member, 0..6), gap(), any::<bool>()).prop_map(|(members, end, comma)| {
                let all = members
                    .into_iter()
                    .enumerate()
                    .map(|(n, (a, key, b, c, value, d))| {
                        // Each name once, so that values can be compared.
                        let key = match key.strip_suffix('"') {
                            Some(key) => format!("{key}{n}\""),
                            None => format!("\"{n}\""),
                        };
                        [a, key, b, ":".into(), c, value, d].concat()
                    });
                bracketed("{", all.collect(), &end, comma, "}")
            }),
        ]
    });
    (gap(), value, gap()).prop_map(|(a, value, b)| a + &value + &b)
}

fn bracketed(open: &str, all: Vec<String>, end: &str, comma: bool, close: &str) -> String {
    let comma = if comma && !all.is_empty() { "," } else { "" };
    [open, &all.join(","), comma, end, close].concat()
}

/// The comments, and the scalars as written, in order.
fn parts(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut comments, mut scalars) = (Vec::new(), Vec::new());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find(['\n', '\r']).unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").expect("it ends") + 2
        } else if first == '"' {
            let escaped =
                |at: usize| rest[1..at].chars().rev().take_while(|c| *c == '\\').count() % 2;
            let ends = |at: &usize| escaped(*at) == 0;
            let mut quotes = rest.match_indices('"').map(|(at, _)| at).skip(1);
            quotes.find(ends).expect("it ends") + 1
        } else if first.is_whitespace() || "{}[],:".contains(first) {
            rest = &rest[first.len_utf8()..];
            continue;
        } else {
            let ends = |c: char| c.is_whitespace() || "{}[],:/".contains(c);
            rest.find(ends).unwrap_or(rest.len())
        };
        let (part, after) = rest.split_at(length);
        if first == '/' {
            let lines = part.replace("\r\n", "\n").replace('\r', "\n");
            comments.push(lines.trim_end().to_owned());
        } else {
            scalars.push(part.to_owned());
        }
        rest = after;
    }
    (comments, scalars)
}

fn value(text: &str) -> serde_json::Value {
    let parsed = jsonc_parser::parse_to_ast(text, &Default::default(), &Default::default());
    parsed.expect(text).value.expect("a value").into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn formatting_changes_the_layout_and_nothing_else(text in hujson()) {
        let once = formatted(&text);

        prop_assert_eq!(value(&once), value(&text), "{}", text);
        prop_assert_eq!(parts(&once), parts(&text), "{}\n{}", text, once);
        prop_assert_eq!(formatted(&once), once.clone(), "{}", text);
        prop_assert!(once.ends_with('\n') && !once.contains('\r') && !once.contains("\n\n\n\n"));
    }

    #[test]
    fn no_text_ends_the_formatter(text in "\\PC{0,100}", structural in "[\\[\\]{}\",:/*0a\\\\ \n\r\u{a0}]{0,60}") {
        for text in [text, structural] {
            if let Ok(once) = format("noise", &text) {
                prop_assert_eq!(formatted(&once), once.clone());
            }
        }
    }
}
