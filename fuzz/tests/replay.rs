//! Replays every committed input through its target, on stable Rust without a fuzzer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[test]
fn every_committed_input_is_answered() {
    for (name, target) in fuzz::TARGETS {
        let inputs = inputs(&corpus().join(name));
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for path in inputs {
            let bytes = std::fs::read(&path).expect("a committed file");
            // The test names the input by its output, where the target panics.
            println!("{}", path.display());
            target(&bytes);
        }
    }
}

#[test]
fn every_input_is_answered_by_every_target() {
    // A decoder may be handed what was meant for another.
    let all: Vec<Vec<u8>> = fuzz::TARGETS
        .iter()
        .flat_map(|(name, _)| inputs(&corpus().join(name)).into_iter().take(40))
        .map(|path| std::fs::read(path).expect("a committed file"))
        .collect();
    for (name, target) in fuzz::TARGETS {
        println!("{name}");
        all.iter().for_each(|bytes| target(bytes));
    }
}

#[test]
fn bent_inputs_are_answered() {
    // More of them with `FUZZ_BENT=100000`, where there is no nightly toolchain for the fuzzer.
    let count = std::env::var("FUZZ_BENT")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(50);
    let only = std::env::var("FUZZ_TARGET").ok();
    let targets = fuzz::TARGETS
        .iter()
        .filter(|(name, _)| only.as_deref().is_none_or(|o| o == *name));
    for (name, target) in targets {
        let all: Vec<Vec<u8>> = inputs(&corpus().join(name))
            .into_iter()
            .map(|path| std::fs::read(path).expect("a committed file"))
            .collect();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 0..count {
            let mut bytes = random.pick(&all).clone();
            for _ in 0..=random.below(4) {
                bend(&mut bytes, random.pick(&all), &mut random);
            }
            // Shown where the target panics: the round finds the input again.
            println!("{name} {round} {} bytes", bytes.len());
            target(&bytes);
        }
    }
}

/// One small damage: a bit, a byte, a cut, a repetition, a piece of another input.
fn bend(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(0);
    }
    let at = random.below(bytes.len());
    let end = at + random.below(bytes.len() - at).min(64);
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        2 => bytes[at] = bytes[at].wrapping_add(1),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        _ => {
            let from = random.below(other.len().max(1)).min(other.len());
            let part = other[from..(from + 32).min(other.len())].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

/// Marsaglia's xorshift, so that each run bends alike.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let bound = u64::try_from(bound.max(1)).expect("64 bits");
        usize::try_from(self.0 % bound).expect("below a usize")
    }

    fn pick<'a>(&mut self, all: &'a [Vec<u8>]) -> &'a Vec<u8> {
        &all[self.below(all.len())]
    }
}

#[test]
fn every_corpus_has_a_target_and_every_target_a_binary() {
    let names: BTreeSet<String> = fuzz::TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let folders: BTreeSet<String> = listed(&corpus()).iter().map(|path| stem(path)).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binaries: BTreeSet<String> = listed(&root.join("fuzz_targets"))
        .iter()
        .map(|path| stem(path))
        .collect();

    assert_eq!(names.len(), fuzz::TARGETS.len(), "a name is there twice");
    assert_eq!(folders, names);
    assert_eq!(binaries, names);
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let mut paths = listed(folder);
    paths.sort();
    paths
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect()
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}
