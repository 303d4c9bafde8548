//! The documents of `docs/policy` are true: each example loads without a warning and passes its own
//! tests, each command does what the text beside it says, and each code of the source is in the
//! table of codes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const NOW: identity::UnixTime = identity::UnixTime(1_800_000_000);

#[test]
fn every_example_loads_and_passes_its_tests() {
    let mut seen = 0;
    for (name, text) in documents() {
        for block in blocks(&text).filter(|block| block.language == "jsonc") {
            let place = format!("{name}:{}", block.line);
            let (document, warnings) = policy::Document::parse(&place, &block.text)
                .unwrap_or_else(|said| panic!("{place}: {said:?}"));
            assert!(warnings.is_empty(), "{place}: {warnings:?}");
            let report = policy::Policy::run_tests(&document, &[], NOW);
            assert!(
                report.passed() && !report.outcomes.is_empty(),
                "{place}: {:?}",
                report.outcomes
            );
            seen += 1;
        }
    }
    assert!(seen >= 20, "examples are gone: {seen}");
}

#[test]
fn every_construct_of_the_language_has_an_example() {
    let reference = document("reference.md");
    let examples: String = blocks(&reference)
        .filter(|block| block.language == "jsonc")
        .map(|block| block.text)
        .collect();
    for construct in CONSTRUCTS {
        assert!(examples.contains(construct), "no example has {construct}");
    }
    // Whoever adds a key adds its example: a mistyped key is answered with those that are known.
    for list in [
        r#"{"?": 1}"#,
        r#"{"grants": [{"?": 1}]}"#,
        r#"{"guards": [{"?": 1}]}"#,
        r#"{"blocks": [{"?": 1}]}"#,
        r#"{"tests": [{"?": 1}]}"#,
    ] {
        let said = policy::Document::parse("keys", list).expect_err("no such key");
        let hint = said
            .iter()
            .find_map(|it| it.hint()?.strip_prefix("known here: "));
        for key in hint.expect("it lists them").split(", ") {
            assert!(
                examples.contains(&format!("\"{key}\":")),
                "no example has {key:?}"
            );
        }
    }
}

#[test]
fn what_a_file_of_tailscales_becomes_is_what_the_page_shows() {
    let page = document("coming-from-tailscale.md");
    let of = |language: &str| {
        let mut found = blocks(&page).filter(|block| block.language == language);
        found
            .next()
            .map(|block| block.text + "\n")
            .expect("a block")
    };

    let imported = policy::import_from_tailscale("acl.hujson", &of("json5")).expect("it loads");

    assert_eq!(imported.text, of("jsonc"));
}

#[test]
fn every_command_does_what_the_text_beside_it_says() {
    let mut seen = 0;
    for (name, text) in documents() {
        let stage = Stage::new();
        let mut printed = None;
        for block in blocks(&text) {
            let place = format!("{name}:{}", block.line);
            match block.language.as_str() {
                "sh" => {
                    for line in block.text.lines() {
                        printed = Some(stage.run(&place, line));
                        seen += 1;
                    }
                }
                "text" => assert_eq!(printed.take().expect("a command"), block.text, "{place}"),
                "jsonc" | "json5" => {}
                other => panic!("{place}: nothing tests {other:?}"),
            }
        }
    }
    assert!(seen >= 15, "commands are gone: {seen}");
}

#[test]
fn every_code_of_the_source_is_in_the_table_and_no_other() {
    let mut used = BTreeSet::new();
    for file in files(&Path::new(ROOT).join("crates/policy/src")) {
        let source = fs::read_to_string(&file).expect("text");
        // Tests may say what they like.
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        let strings = source.split('"').filter(|part| is_code(part));
        used.extend(strings.map(str::to_owned));
    }
    let reference = document("reference.md");
    let rows: Vec<&str> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(code, _)| code)
        .filter(|code| is_code(code))
        .collect();
    let table: BTreeSet<String> = rows.iter().map(|code| (*code).to_owned()).collect();

    assert!(used.len() >= 40, "the codes were not found: {used:?}");
    assert_eq!(used, table, "the table of reference.md");
    assert!(
        rows.is_sorted() && rows.len() == table.len(),
        "each once, in order"
    );
}

#[test]
fn what_the_pages_link_to_is_there_and_every_recipe_has_its_line() {
    let folder = Path::new(ROOT).join("docs/policy");
    for (name, text) in documents() {
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            assert!(folder.join(target).exists(), "{name}: {target}");
        }
    }
    let index = document("recipes.md");
    for file in files(&Path::new(ROOT).join("configs/policies")) {
        let name = file.file_name().expect("a name").to_string_lossy();
        assert!(
            index.contains(&format!("policies/{name})")),
            "{name} is not in recipes.md"
        );
    }
}

/// A folder with the samples of this project, `policy.hujson` and `acl.hujson`.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let root = home.path();
        fs::create_dir(root.join("bin")).expect("made");
        symlink(env!("CARGO_BIN_EXE_crabmesh"), root.join("bin/crabmesh")).expect("linked");
        let configs = Path::new(ROOT).join("configs");
        symlink(configs, root.join("configs")).expect("linked");
        let recipe = root.join("configs/policies/on-call-hours.hujson");
        fs::copy(recipe, root.join("policy.hujson")).expect("copied");
        let page = document("coming-from-tailscale.md");
        let mut theirs = blocks(&page).filter(|block| block.language == "json5");
        let theirs = theirs.next().expect("a file of Tailscale's");
        fs::write(root.join("acl.hujson"), theirs.text).expect("written");
        Self(home)
    }

    /// Runs a line; what it printed, results first. It must end as `# exit N` says, or well.
    fn run(&self, place: &str, line: &str) -> String {
        let (command, exit) = match line.split_once(" # exit ") {
            Some((command, exit)) => (command, exit.parse().expect("an exit code")),
            None => (line, 0),
        };
        // Without a mesh, a command that needs one is only held against its options.
        let command = match command.starts_with("crabmesh policy push") {
            true => format!("{command} --help"),
            false => command.to_owned(),
        };
        let path = std::env::var("PATH").expect("a path");
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new("sh")
            .args(["-c", &command])
            .current_dir(self.0.path())
            .env(
                "PATH",
                format!("{}:{path}", self.0.path().join("bin").display()),
            )
            .env("CRABMESH_STATE_DIR", self.0.path().join("state"))
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let (out, err) = (text(stdout), text(stderr));
        assert_eq!(status.code(), Some(exit), "{place}: {command}\n{out}{err}");
        format!("{out}{err}").trim_end().to_owned()
    }
}

struct Block {
    language: String,
    /// Of its fence, from 1.
    line: usize,
    text: String,
}

/// The code blocks of a page.
fn blocks(text: &str) -> impl Iterator<Item = Block> {
    let mut lines = text.lines().zip(1..);
    std::iter::from_fn(move || {
        let (fence, line) = lines.by_ref().find(|(line, _)| line.starts_with("```"))?;
        let inside = lines
            .by_ref()
            .map(|(line, _)| line)
            .take_while(|line| *line != "```");
        let text = inside.collect::<Vec<_>>().join("\n");
        let language = fence.trim_start_matches('`').to_owned();
        Some(Block {
            language,
            line,
            text,
        })
    })
}

fn documents() -> Vec<(String, String)> {
    let mut pages = files(&Path::new(ROOT).join("docs/policy"));
    pages.sort();
    assert!(pages.len() >= 4, "pages are gone: {pages:?}");
    let named = |page: PathBuf| {
        let text = fs::read_to_string(&page).expect("text");
        (
            page.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned(),
            text,
        )
    };
    pages.into_iter().map(named).collect()
}

fn document(name: &str) -> String {
    let path = Path::new(ROOT).join("docs/policy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// `E021`, `W101`.
fn is_code(text: &str) -> bool {
    let digits = text.strip_prefix(['E', 'W']).unwrap_or_default();
    digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// What is no key of a section, and what is inside of keys.
const CONSTRUCTS: &[&str] = &[
    "\"*\"",
    "\"tag:",
    "\"group:",
    "\"user:*@",
    "\"autogroup:member\"",
    "\"autogroup:tagged\"",
    "\"autogroup:self",
    "\"autogroup:internet\"",
    "\"autogroup:danger-all\"",
    "\"ipset:",
    "\"posture:",
    "\"agent:*@",
    "\"topic:",
    "\"internet:*.",
    "\"svc:",
    "\"send\"",
    "\"request\"",
    "\"publish\"",
    "\"subscribe\"",
    "call:",
    "\"secret:",
    "\"notBefore\"",
    "\"notAfter\"",
    "\"windows\"",
    "\"days\"",
    "\"hours\"",
    "\"tz\"",
    "\"methods\"",
    "\"paths\"",
    "\"limit\"",
    "\"burst\"",
    "\"per\"",
    "\"mode\"",
    "\"by\"",
    "\"ttl\"",
    "\"cap\"",
    "\"alertAt\"",
    "\"onExceed\"",
    "\"routes\"",
    "\"exitNode\"",
    "\"proto\"",
    "\"http\": \"POST",
    "\"why\": \"no-grant\"",
];
