//! The policies that this machine signed, with their texts: what `policy history` lists, and what
//! `policy rollback` signs again. **Invariant:** a text is on disk before the list names it, and a
//! version is in the list before it leaves this machine.

use identity::{Order, PolicyBundle, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::OperatorFiles;
use crate::failure::Failure;

/// One policy that was signed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPolicy {
    /// Epoch and version.
    #[serde(flatten)]
    pub order: Order,
    /// When, in seconds since 1970.
    pub signed_at: UnixTime,
    /// SHA-256 of the text, in hex: what `sha256sum` says of the file.
    pub sha256: String,
    /// The length of the text.
    pub bytes: usize,
    /// The first line of the text that is a comment.
    pub title: Option<String>,
}

impl SignedPolicy {
    fn of(order: Order, signed_at: UnixTime, text: &str) -> Self {
        let hash = Sha256::digest(text.as_bytes());
        Self {
            order,
            signed_at,
            sha256: data_encoding::HEXLOWER.encode(&hash),
            bytes: text.len(),
            title: title(text),
        }
    }

    /// `EPOCH.VERSION`, as everywhere.
    pub fn version(&self) -> String {
        version(self.order)
    }
}

impl OperatorFiles {
    /// What was signed here, oldest first, and in any case what is in force.
    pub fn history(&self) -> Result<Vec<SignedPolicy>, Failure> {
        let mut known: Vec<SignedPolicy> = self.dir.read_json(HISTORY)?.unwrap_or_default();
        if let Some(held) = self.trust.policy()
            && !known.iter().any(|signed| signed.order == held.order)
        {
            known.push(SignedPolicy::of(held.order, held.signed_at, &held.text));
            known.sort_by_key(|signed| signed.order);
        }
        Ok(known)
    }

    /// Keeps the text of the policy that was just signed, and of the one before where it was signed
    /// by a version that kept none.
    pub fn keep_signed(&self, before: Option<&PolicyBundle>) -> Result<(), Failure> {
        let mut known: Vec<SignedPolicy> = self.dir.read_json(HISTORY)?.unwrap_or_default();
        for held in before.into_iter().chain(self.trust.policy()) {
            let signed = SignedPolicy::of(held.order, held.signed_at, &held.text);
            if known.contains(&signed) {
                continue;
            }
            self.dir.write(&file(held.order), held.text.as_bytes())?;
            // One that was signed and never left has its number again.
            known.retain(|other| other.order != held.order);
            known.push(signed);
        }
        known.sort_by_key(|signed| signed.order);
        let gone = known.len().saturating_sub(MOST);
        let gone: Vec<SignedPolicy> = known.drain(..gone).collect();
        self.dir.write_json(HISTORY, &known)?;
        gone.iter()
            .try_for_each(|signed| self.dir.remove(&file(signed.order)))?;
        Ok(())
    }

    /// The text of a policy that was signed here.
    pub fn signed_text(&self, order: Order) -> Result<String, Failure> {
        if let Some(held) = self.trust.policy().filter(|held| held.order == order) {
            return Ok(held.text.as_str().to_owned());
        }
        let (name, version) = (file(order), version(order));
        let bytes = self.dir.read(&name)?.ok_or_else(|| {
            let gone = format!("{} is gone", self.dir.file(&name).display());
            Failure::failed(format!("the text of policy {version} is not here: {gone}"))
        })?;
        let text = String::from_utf8(bytes).ok();
        let is_it = |text: &String| {
            let known = self.history().unwrap_or_default();
            let signed = known.into_iter().find(|signed| signed.order == order);
            signed.is_some_and(|it| it == SignedPolicy::of(order, it.signed_at, text))
        };
        text.filter(is_it).ok_or_else(|| {
            let place = self.dir.file(&name).display().to_string();
            Failure::failed(format!(
                "{place} is not what was signed as policy {version}"
            ))
        })
    }
}

/// `EPOCH.VERSION`.
pub fn version(order: Order) -> String {
    format!("{}.{}", order.epoch, order.version)
}

/// What the file says of itself first.
fn title(text: &str) -> Option<String> {
    let comment = text.lines().map(str::trim).find_map(|line| {
        let said = line.strip_prefix("//")?.trim_start_matches('/').trim();
        Some(said).filter(|said| !said.is_empty())
    })?;
    let mut title: String = comment.chars().take(TITLE).collect();
    if title.len() < comment.len() {
        title.push('…');
    }
    Some(title)
}

fn file(order: Order) -> String {
    format!("policy.{}.hujson", version(order))
}

const HISTORY: &str = "history.json";

/// Texts that are kept: at most 95 MB, and as a rule one.
const MOST: usize = 100;

/// Characters of a title: with the other columns it fits a terminal.
const TITLE: usize = 60;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use identity::{KeyRole, RecoveryCode, Root, Trust};

    use super::*;

    const NOW: UnixTime = UnixTime(1_750_000_000);

    fn found(path: &Path) -> OperatorFiles {
        let name = "home".parse().expect("a name");
        let seeds = [[2; 32], [3; 32], [4; 32], [5; 32]];
        let (root, roles, log) = Root::found(&name, [1; 32], seeds, NOW);
        let code = RecoveryCode::generate([6; 16]);
        let trust = Trust::new(log.bytes(), NOW).expect("its own log");
        OperatorFiles::create(path, &root, &code, [7; 16], &roles, trust).expect("made")
    }

    fn sign(files: &mut OperatorFiles, text: &str) {
        let key = files.role(KeyRole::Policy).expect("the key");
        let before = files.trust.policy().cloned();
        let bytes = key
            .sign_policy(text, before.as_ref(), &files.trust.mesh(), NOW)
            .expect("signed");
        let _ = files.trust.accept_policy(&bytes, NOW).expect("its own");
        files.keep_signed(before.as_ref()).expect("kept");
    }

    #[test]
    fn the_last_hundred_texts_are_kept_and_no_other_file() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("operator");
        let mut files = found(&path);
        for n in 1..=MOST + 3 {
            sign(&mut files, &format!("// number {n}\n{{}}"));
        }

        let known = files.history().expect("a list");

        assert_eq!(known.len(), MOST);
        assert_eq!(known[0].title.as_deref(), Some("number 4"));
        let text = files.signed_text(known[0].order).expect("its text");
        assert_eq!(text, "// number 4\n{}");
        let names = std::fs::read_dir(&path).expect("a directory");
        let texts = names.filter(|it| {
            let name = it.as_ref().expect("an entry").file_name();
            let name = name.to_string_lossy();
            name.starts_with("policy.1.") && name.ends_with(".hujson")
        });
        assert_eq!(texts.count(), MOST);
    }

    #[test]
    fn a_text_that_somebody_changed_is_not_what_was_signed() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("operator");
        let mut files = found(&path);
        sign(&mut files, "{}");
        sign(&mut files, "{\"grants\": []}");
        let first = files.history().expect("a list")[0].order;
        assert!(files.signed_text(first).is_ok());

        std::fs::write(path.join("policy.1.1.hujson"), "{ }").expect("written");
        assert!(files.signed_text(first).is_err());
        std::fs::remove_file(path.join("policy.1.1.hujson")).expect("removed");
        assert!(files.signed_text(first).is_err());
    }

    #[test]
    fn a_title_is_the_first_comment_that_says_something() {
        for (text, expected) in [
            ("{}", None),
            ("//\n///  Who may talk. \n{}", Some("Who may talk.")),
            ("{\n  // inside\n}", Some("inside")),
        ] {
            assert_eq!(title(text).as_deref(), expected, "{text}");
        }
    }
}
