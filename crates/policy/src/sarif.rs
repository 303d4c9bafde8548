//! Diagnostics as SARIF 2.1.0 (OASIS), for the services that annotate changes in review.
//!
//! Written by hand, as the few members that such services read: the crate `serde-sarif` generates
//! its types from the whole schema at build time, with a second parser and compiler of Rust.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, Severity};

/// One run over one file: what it found, and the rules by which.
pub fn sarif(file: &str, said: &[Diagnostic]) -> Value {
    let mut rules: BTreeMap<&'static str, Severity> = BTreeMap::new();
    for diagnostic in said {
        rules.insert(diagnostic.code(), diagnostic.severity());
    }
    let index: BTreeMap<&'static str, usize> = rules
        .keys()
        .enumerate()
        .map(|(index, code)| (*code, index))
        .collect();
    let uri = uri(file);
    let results: Vec<Value> = said
        .iter()
        .map(|diagnostic| result(diagnostic, &uri, index[diagnostic.code()]))
        .collect();
    let rules: Vec<Value> = rules
        .iter()
        .map(|(code, severity)| {
            json!({
                "id": code,
                "shortDescription": {"text": about(code)},
                "defaultConfiguration": {"level": level(*severity)},
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "crabmesh policy check",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            // Columns count characters.
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(diagnostic: &Diagnostic, uri: &str, rule: usize) -> Value {
    let mut text = diagnostic.message().to_owned();
    if let Some(label) = diagnostic.label_text() {
        let _ = write!(text, " ({label})");
    }
    if let Some(hint) = diagnostic.hint() {
        let _ = write!(text, "\n{hint}");
    }
    let (line, column) = diagnostic.position();
    let (end_line, end_column) = diagnostic.end_position();
    json!({
        "ruleId": diagnostic.code(),
        "ruleIndex": rule,
        "level": level(diagnostic.severity()),
        "message": {"text": text},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": uri},
            "region": {
                "startLine": line, "startColumn": column,
                "endLine": end_line, "endColumn": end_column,
            },
        }}],
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// A path as the reference that SARIF asks for (RFC 3986).
fn uri(path: &str) -> String {
    let mut uri = String::new();
    if path.starts_with('/') {
        uri.push_str("file://");
    }
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri
}

/// What a code is about.
fn about(code: &str) -> &'static str {
    match code {
        "E001" | "E002" | "E005" | "E007" => "The file cannot be read as a policy.",
        "E003" | "E004" | "E006" | "E010" => "A section or field is missing, double or not known.",
        "E050" | "E051" => "Ports and protocols.",
        "E070" | "E071" => "A test does not hold, or tries nothing definite.",
        "E080" => "A posture makes no sense.",
        "E081" | "E082" => "A time or window makes no sense.",
        "E083" | "E084" | "E085" | "E086" => "A guard makes no sense.",
        "E087" => "A block makes no sense.",
        "W101" => "It only means something to Tailscale.",
        "W102" | "W103" => "The file has no grants or no tests.",
        "W107" => "A selector matches no gateway.",
        "W109" => "Another grant allows all of it.",
        "W110" => "A guard is about nothing that is granted.",
        "W111" => "Each of several destinations is opened on each of several ports.",
        "W112" => "A person is meant whose gateways all have tags.",
        "W113" => "A posture asks for what no gateway tells.",
        "W114" => "Nothing in this version asks for what is granted.",
        "W115" => "Somebody loses the last grant.",
        "W116" => "The file permits what the policy in force does not.",
        _ if code.starts_with('W') => "This may not mean what was meant.",
        _ => "A rule makes no sense.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_reference() {
        assert_eq!(uri("a b/ä.hujson"), "a%20b/%C3%A4.hujson");
        assert_eq!(uri("/etc/p.hujson"), "file:///etc/p.hujson");
    }
}
