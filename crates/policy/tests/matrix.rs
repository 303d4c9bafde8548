//! The table of a policy, and its picture.

use std::path::Path;

use identity::{NodeId, UnixTime};
use policy::{Document, Matrix, Node};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn document(text: &str) -> Document {
    match Document::parse("policy.hujson", text) {
        Ok((document, _)) => document,
        Err(said) => panic!("{said:?}"),
    }
}

fn gateway(n: u8, name: &str, tag: &str) -> Node {
    let mut node = Node::new(NodeId([n; 16]), name.parse().expect("a name"));
    node.tags = vec![tag.parse().expect("a tag")];
    node
}

/// Row, column, what passes.
fn cells(matrix: &Matrix) -> Vec<(&str, &str, Vec<&str>)> {
    let cells = matrix.cells.iter();
    cells
        .map(|cell| {
            let says = cell.messages.iter().chain(&cell.others);
            let (row, column) = (&matrix.rows[cell.row], &matrix.columns[cell.column]);
            (
                row.name.as_str(),
                column.name.as_str(),
                says.map(String::as_str).collect(),
            )
        })
        .collect()
}

const POLICY: &str = r#"{
    "tagOwners": {"tag:a": [], "tag:b": []},
    "grants": [
        {"src": ["agent:x@tag:a"], "dst": ["agent:y@tag:b"], "msg": ["send", "request"]},
        {"src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:22"]},
        {"src": ["tag:b"], "dst": ["topic:t/*"], "msg": ["publish"]},
        {"src": ["tag:b"], "dst": ["tag:a"], "msg": ["send"], "valid": {"notAfter": "2020-01-01T00:00:00Z"}},
    ],
}"#;

#[test]
fn a_cell_says_what_may_pass_and_when() {
    let nodes = [
        gateway(1, "gw-1", "tag:a"),
        gateway(2, "gw-2", "tag:a"),
        gateway(3, "gw-3", "tag:b"),
    ];

    let matrix = Matrix::new(&document(POLICY), &nodes, NOW);

    assert!(matrix.complete);
    let sizes: Vec<_> = matrix
        .rows
        .iter()
        .map(|row| (row.name.as_str(), row.gateways))
        .collect();
    assert_eq!(sizes, [("tag:a", Some(2)), ("tag:b", Some(1))]);
    assert_eq!(
        cells(&matrix),
        [
            ("tag:a", "tag:b", vec!["x → y: send, request", "tcp:22"]),
            ("tag:b", "tag:a", vec!["send (until 2020-01-01T00:00:00Z)"]),
            ("tag:b", "topic:t/*", vec!["publish"]),
        ]
    );
}

#[test]
fn before_the_first_gateway_has_joined_the_selectors_are_the_rows() {
    let matrix = Matrix::new(&document(POLICY), &[], NOW);

    assert_eq!(cells(&matrix).len(), 3);
    assert!(matrix.rows.iter().all(|row| row.gateways == Some(0)));
}

#[test]
fn an_empty_policy_has_no_cells_and_a_picture_all_the_same() {
    let matrix = Matrix::new(&document(r#"{"grants": []}"#), &[], NOW);

    assert!(matrix.cells.is_empty());
    well_formed(&matrix.to_svg("nothing"));
}

#[test]
fn the_picture_is_well_formed_says_what_it_is_and_runs_nothing() {
    let hostile = POLICY.replace(
        r#""ip": ["tcp:22"]"#,
        r#""ip": ["tcp:22"], "app": {"x.org/<script>alert(1)</script>&\"'": [{"a": "]]>"}]}"#,
    );
    for text in [POLICY.to_owned(), hostile] {
        let svg = Matrix::new(&document(&text), &[], NOW).to_svg("<b>&\"policy\"</b>");

        well_formed(&svg);
        assert!(
            svg.contains("<title id=\"title\">&lt;b&gt;&amp;&quot;policy&quot;&lt;/b&gt;</title>")
        );
        assert!(
            svg.contains("role=\"img\" aria-labelledby=\"title desc\"")
                && svg.contains("<desc id=")
        );
        assert!(svg.contains("prefers-color-scheme:dark"));
        for forbidden in ["<script", "href", "url(", "@import", " on", "javascript:"] {
            let found = svg
                .match_indices(forbidden)
                .find(|(at, _)| !is_text(&svg, *at));
            assert!(found.is_none(), "{forbidden} in {svg}");
        }
    }
}

#[test]
fn every_recipe_has_a_picture() {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../configs/policies"
    ));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the recipes are in the tree") {
        let path = entry.expect("a readable folder").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "hujson")
        {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let matrix = Matrix::new(&document(&text), &[], NOW);
            assert!(
                matrix.complete && !matrix.cells.is_empty(),
                "{}",
                path.display()
            );
            well_formed(&matrix.to_svg("recipe"));
            seen += 1;
        }
    }
    assert!(seen >= 3);
}

/// Whether a place is between tags, where nothing is obeyed.
fn is_text(svg: &str, at: usize) -> bool {
    let before = &svg[..at];
    before.rfind('>') > before.rfind('<')
}

/// Every tag is closed in its order, and no sign of markup is left in text.
fn well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(
            !rest[..start].contains('>'),
            "a stray > in {:?}",
            &rest[..start]
        );
        let end = rest[start..].find('>').expect("a tag ends") + start;
        let tag = &rest[start + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().expect("a name")),
        }
        rest = &rest[end + 1..];
    }
    assert!(
        open.is_empty() && rest.trim().is_empty(),
        "{open:?} {rest:?}"
    );
}
