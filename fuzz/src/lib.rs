//! One function for each decoder that takes bytes from afar. The fuzzer calls it with what it
//! invents (`fuzz_targets/`), CI with what is committed in `corpus/` (`tests/replay.rs`).
//!
//! ```text
//! cargo test --manifest-path fuzz/Cargo.toml                                     replay, stable Rust
//! cargo +nightly fuzz run --features libfuzzer -s none TARGET -- -max_total_time=60      explore
//! cargo run --manifest-path fuzz/Cargo.toml --example seeds                  rewrite the hand-made seeds
//! ```
//! A function returns whatever the bytes are; it panics where a promise is broken: what decodes
//! must encode to itself, and what nobody signed must not be believed.
#![forbid(unsafe_code)]

pub mod local;
pub mod members;
pub mod replies;
pub mod rules;
pub mod signed;
pub mod words;
pub mod world;

/// A name, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target: its name, which is that of its corpus and its binary, and its function.
pub const TARGETS: [Target; 25] = [
    ("a2a", local::a2a),
    ("api", local::api),
    ("certificate", signed::certificate),
    ("claim", signed::claim),
    ("kill_file", signed::kill_file),
    ("link_frame", words::link_frame),
    ("map_frame", words::map_frame),
    ("message_frame", words::message_frame),
    ("names", local::names),
    ("parts_frame", words::parts_frame),
    ("peer_frame", words::peer_frame),
    ("policy", rules::policy),
    ("policy_bundle", signed::policy_bundle),
    ("policy_text", rules::policy_text),
    ("probe", words::probe),
    ("record", signed::record),
    ("recovery", signed::recovery),
    ("relay_datagram", words::relay_datagram),
    ("request", signed::request),
    ("revocations", signed::revocations),
    ("snapshot", signed::snapshot),
    ("stream", words::stream),
    ("token", signed::token),
    ("trust_log", signed::trust_log),
    ("tunnel", members::tunnel),
];
