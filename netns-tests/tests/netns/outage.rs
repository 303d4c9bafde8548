//! Without a beacon, those who know each other go on.

use std::time::{Duration, Instant};

use netns_tests::{Lab, Mesh, Nat, OPEN_POLICY};

use crate::Test;

pub const TESTS: &[Test] = &[(
    "with_the_beacon_dead_two_cones_go_on_and_after_both_restarted_and_after_two_idle_minutes",
    with_the_beacon_dead_two_cones_go_on,
)];

fn with_the_beacon_dead_two_cones_go_on() {
    let mut lab = Lab::new();
    let mut mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (home_a, home_b) = (lab.home(Nat::Cone), lab.home(Nat::Cone));
    for home in [&home_a, &home_b] {
        lab.set_udp_timeout(home, 20);
    }
    let (mut a, mut b) = (
        mesh.gateway("gw-a", &home_a.host),
        mesh.gateway("gw-b", &home_b.host),
    );
    a.agent("asker");
    let _echo = b.echo_agent("echo");
    a.wait_to_know("gw-b");
    b.wait_to_know("gw-a");
    assert_eq!(a.ask("asker", "echo@gw-b", "hello"), "HELLO");
    a.wait_for_path("gw-b", "direct", Duration::from_secs(10));
    b.wait_for_path("gw-a", "direct", Duration::from_secs(10));

    mesh.kill_beacon();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        assert_eq!(a.ask("asker", "echo@gw-b", "still there?"), "STILL THERE?");
    }

    a.kill();
    b.kill();
    a.start();
    b.start();
    let start = Instant::now();
    assert_eq!(a.ask("asker", "echo@gw-b", "and now?"), "AND NOW?");
    eprintln!(
        "both restarted without a beacon: an answer after {:?}",
        start.elapsed()
    );
    assert_eq!(a.path_to("gw-b"), "direct");

    std::thread::sleep(Duration::from_secs(120));
    let start = Instant::now();
    assert_eq!(a.ask("asker", "echo@gw-b", "after a nap"), "AFTER A NAP");
    eprintln!(
        "after two idle minutes: an answer after {:?}",
        start.elapsed()
    );
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
}

/// A path that was kept answers in milliseconds; one that must be found anew needs longer. The
/// rest is a process in a debug build on a busy machine.
const PROMPT: Duration = Duration::from_secs(3);
