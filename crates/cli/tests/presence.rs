//! Who is there, with real processes on loopback: what an agent on one gateway says and does is seen
//! on another as it happens.

#[path = "operator/mesh.rs"]
mod mesh;
#[path = "operator/stage.rs"]
mod stage;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use mesh::{Mesh, json, until};
use serde_json::Value;
use stage::{crabmesh, fails, ok};

#[test]
fn what_an_agent_says_and_does_is_seen_on_another_gateway_within_a_moment() {
    let mesh = Mesh::found("ana@example.com");
    for gateway in ["gw-a", "gw-b"] {
        mesh.join(gateway, &["--tag", "tag:gateway"]);
    }
    let (_a, node_b) = (mesh.up("gw-a"), mesh.up("gw-b"));
    let (a, b) = (mesh.at("gw-a"), mesh.at("gw-b"));
    ok(&a, &["agent", "add", "planner"], "");
    let add = [
        "agent",
        "add",
        "coder",
        "--describe",
        "Writes Rust.",
        "--skill",
        "review=Reads a patch",
        "--skill",
        "test",
    ];
    ok(&b, &add, "");
    let said = fails(&b, 2, &["agent", "describe", "coder", "--skill", "a b"], "");
    assert!(said.contains("a skill's id"), "{said}");

    let listed = || ok(&a, &["--json", "agents", "--as", "planner"], "");
    until("gw-a lists coder", || listed().contains("coder"));
    let entry = json(&listed());
    assert_eq!(entry["presence"], "away", "nobody has called for it yet");
    assert_eq!(entry["description"], "Writes Rust.");
    assert_eq!(entry["skills"][0]["id"], "review");
    assert_eq!(entry["streams"], true, "as the first policy says");
    let table = ok(&a, &["agents", "--as", "planner"], "");
    assert!(
        table.contains("review,test") && table.contains("Writes Rust."),
        "{table}"
    );

    let watch = Watch::begin(&a);
    assert_eq!(watch.next("the list")["presence"], "away");
    let follower = follow(&b);
    watch.sees("presence", "online");
    ok(
        &b,
        &["agent", "describe", "coder", "--describe", "Writes\nGo."],
        "",
    );
    watch.sees("description", "Writes Go.");
    ok(
        &b,
        &["agent", "describe", "coder", "--presence", "away"],
        "",
    );
    watch.sees("presence", "away");
    ok(
        &b,
        &["agent", "describe", "coder", "--presence", "online"],
        "",
    );
    watch.sees("presence", "online");
    watch.is_silent(Duration::from_secs(3));

    // A gateway that is gone is told of by the beacon, and what it told stays.
    drop(node_b);
    drop(follower);
    let gone = watch.sees_within("presence", "offline", Duration::from_secs(40));
    assert_eq!(gone["description"], "Writes Go.");
    assert!(
        gone["last_seen_s"].as_u64().is_some_and(|s| s < 60),
        "{gone}"
    );

    let _b = mesh.up("gw-b");
    let back = watch.sees_within("presence", "away", Duration::from_secs(20));
    assert_eq!(
        back["description"], "Writes Go.",
        "it outlived its gateway's end"
    );
    ok(&b, &["agent", "remove", "coder"], "");
    let begun = Instant::now();
    while !watch.next_list("none").is_empty() {
        assert!(begun.elapsed() < SOON);
    }
}

/// `crabmesh agents --watch`, ended with the test.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn begin(gateway: &Path) -> Self {
        let mut child = crabmesh(gateway)
            .args(["--json", "agents", "--watch", "--as", "planner"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            lines
                .map(|line| sender.send(line))
                .take_while(Result::is_ok)
                .count()
        });
        Self { child, lines }
    }

    fn next_list(&self, what: &str) -> Vec<Value> {
        let line = self.lines.recv_timeout(Duration::from_secs(40));
        let line = line.unwrap_or_else(|error| panic!("{what}: {error}"));
        json(&line)["agents"].as_array().cloned().expect("a list")
    }

    /// The one agent of the next list.
    fn next(&self, what: &str) -> Value {
        let list = self.next_list(what);
        assert_eq!(list.len(), 1, "{what}: {list:?}");
        list[0].clone()
    }

    fn sees(&self, field: &str, value: &str) {
        self.sees_within(field, value, SOON);
    }

    fn sees_within(&self, field: &str, value: &str, time: Duration) -> Value {
        let begun = Instant::now();
        loop {
            let seen = self.next(value);
            if seen[field] == value {
                let took = begun.elapsed();
                assert!(took < time, "{field} {value} after {took:?}");
                return seen;
            }
        }
    }

    fn is_silent(&self, time: Duration) {
        let line = self.lines.recv_timeout(time);
        assert_eq!(line, Err(RecvTimeoutError::Timeout));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// coder follows its inbox, ended when dropped.
struct Follower(Child);

fn follow(gateway: &Path) -> Follower {
    let child = crabmesh(gateway)
        .args(["recv", "--follow", "--as", "coder"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Follower(child.expect("the binary"))
}

impl Drop for Follower {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A second to look, one to settle what was shown before, and a slow machine.
const SOON: Duration = Duration::from_secs(6);
