//! The recipes of `configs/policies` load without a word, their own tests hold, and each says whom
//! it is for.

use std::path::Path;

use identity::UnixTime;
use policy::{Document, Policy};

#[test]
fn every_recipe_loads_without_a_warning_and_passes_its_tests() {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../configs/policies"
    ));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the recipes are in the tree") {
        let path = entry.expect("a readable folder").path();
        if path
            .extension()
            .is_none_or(|extension| extension != "hujson")
        {
            continue;
        }
        let name = path.display().to_string();
        let bytes = std::fs::read(&path).expect("a readable file");

        let (document, warnings) = Document::parse_bytes(&name, &bytes).expect("it loads");
        let report = Policy::run_tests(&document, &[], UnixTime(1_800_000_000));

        assert!(warnings.is_empty(), "{name}: {warnings:?}");
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(
            text.starts_with("// For "),
            "{name} does not say whom it is for"
        );
        assert_eq!(
            policy::format(&name, &text).expect("HuJSON"),
            text,
            "{name}"
        );
        for expected in ["accept", "deny"] {
            let mut outcomes = report.outcomes.iter();
            assert!(
                outcomes.any(|it| it.expected == expected),
                "{name}: no {expected}"
            );
        }
        let failed: Vec<_> = report
            .outcomes
            .iter()
            .filter(|outcome| !outcome.passed)
            .collect();
        assert!(
            failed.is_empty() && !report.outcomes.is_empty(),
            "{name}: {failed:?}"
        );
        seen += 1;
    }
    assert!(seen >= 10, "recipes are gone");
}
