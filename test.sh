#!/usr/bin/env bash
# Everything that must be green, in the order in which it is likely to fail.
# Without root the netns-tests say so and are counted as ignored, by name.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"   # sim and fuzz share what they can

step() { printf '\n== %s\n' "$*"; }
# A tool that is missing is named, never passed over in silence; CI has them all.
optional() { if cargo "$1" --version >/dev/null 2>&1; then "${@:2}"; else echo "skipped: cargo $1 is not installed"; fi; }

step "format";       cargo fmt --all --check
                     cargo fmt --manifest-path sim/Cargo.toml --check
                     cargo fmt --manifest-path fuzz/Cargo.toml --check
step "dependencies"; optional deny cargo deny check bans licenses sources
                     optional machete cargo machete --skip-target-dir
step "clippy";       cargo clippy --workspace --all-targets -- -D warnings
                     cargo clippy --manifest-path sim/Cargo.toml --all-targets -- -D warnings
                     cargo clippy --manifest-path fuzz/Cargo.toml --all-targets -- -D warnings
step "docs";         RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet
step "build";        cargo build --workspace
step "simulator";    cargo test --manifest-path sim/Cargo.toml
                     cargo run --quiet --manifest-path sim/Cargo.toml -- --seeds 1000
step "fuzz corpora"; cargo test --manifest-path fuzz/Cargo.toml
step "tests";        cargo test --workspace
echo "everything is green"
