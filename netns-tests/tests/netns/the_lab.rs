//! The lab itself: its routers do what their names say, and nothing of it stays behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use netns_tests::lab::{PREFIX, sweep};
use netns_tests::process::run;
use netns_tests::{Host, Lab, Nat};

use crate::Test;

pub const TESTS: &[Test] = &[
    (
        "a_cone_keeps_its_port_towards_two_destinations_and_filters_strangers",
        a_cone_keeps_its_port_and_filters,
    ),
    (
        "a_symmetric_router_takes_another_port_for_each_destination",
        a_symmetric_router_takes_another_port,
    ),
    (
        "a_router_that_blocks_udp_passes_tcp",
        a_router_that_blocks_udp_passes_tcp,
    ),
    (
        "a_mapping_ends_after_the_time_that_the_router_was_given",
        a_mapping_ends,
    ),
    (
        "a_lab_leaves_nothing_behind_after_a_panic",
        a_lab_leaves_nothing_behind_after_a_panic,
    ),
    (
        "a_lab_sweeps_what_a_dead_process_left",
        a_lab_sweeps_what_a_dead_process_left,
    ),
];

fn a_cone_keeps_its_port_and_filters() {
    let mut lab = Lab::new();
    let (one, two, home) = (lab.public_host(), lab.public_host(), lab.home(Nat::Cone));
    let (inside, one, two) = (udp(&home.host), udp(&one), udp(&two));

    let seen_by_one = send(&inside, &one).expect("passes");
    let stranger = send_to(&two, seen_by_one, &inside);
    let seen_by_two = send(&inside, &two).expect("passes");

    assert_eq!(seen_by_one, seen_by_two);
    assert_eq!(seen_by_one.ip().to_string(), home.public);
    assert_eq!(stranger, None, "a stranger's datagram came in");
    assert!(
        send_to(&two, seen_by_two, &inside).is_some(),
        "an answer came in"
    );
}

fn a_symmetric_router_takes_another_port() {
    let mut lab = Lab::new();
    let (one, two, home) = (
        lab.public_host(),
        lab.public_host(),
        lab.home(Nat::Symmetric),
    );
    let (inside, one, two) = (udp(&home.host), udp(&one), udp(&two));

    let (seen_by_one, seen_by_two) = (
        send(&inside, &one).expect("passes"),
        send(&inside, &two).expect("passes"),
    );

    assert_ne!(seen_by_one.port(), seen_by_two.port());
    assert!(
        send_to(&one, seen_by_one, &inside).is_some(),
        "an answer comes in"
    );
}

fn a_router_that_blocks_udp_passes_tcp() {
    let mut lab = Lab::new();
    let (public, home) = (lab.public_host(), lab.home(Nat::UdpBlocked));
    let listener = public.inside(|| TcpListener::bind((&*public.address, 443)).expect("free"));
    let address = listener.local_addr().expect("bound");

    let mut inside = home
        .host
        .inside(|| TcpStream::connect_timeout(&address, WITHIN).expect("TCP passes"));
    let (mut outside, from) = listener.accept().expect("connected");
    inside.write_all(b"hello").expect("written");
    let mut heard = [0; 5];
    outside.read_exact(&mut heard).expect("arrived");

    assert_eq!((&heard, from.ip().to_string()), (b"hello", home.public));
    assert_eq!(send(&udp(&home.host), &udp(&public)), None, "UDP went out");
}

fn a_mapping_ends() {
    let mut lab = Lab::new();
    let (public, home) = (lab.public_host(), lab.home(Nat::Cone));
    lab.set_udp_timeout(&home, 1);
    let (inside, outside) = (udp(&home.host), udp(&public));
    let seen = send(&inside, &outside).expect("passes");
    assert!(
        send_to(&outside, seen, &inside).is_some(),
        "the mapping is there"
    );

    std::thread::sleep(Duration::from_millis(2500));

    assert_eq!(
        send_to(&outside, seen, &inside),
        None,
        "the mapping is gone"
    );
}

fn a_lab_leaves_nothing_behind_after_a_panic() {
    let mut name = String::new();
    let mut sleeper = 0;
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let mut lab = Lab::new();
        name = lab.name().to_owned();
        let home = lab.home(Nat::Cone);
        let running = home.host.start(&["sleep", "1000"]);
        sleeper = running.pid();
        assert!(namespaces().contains(&name) && alive(sleeper));
        // Not a failed assertion: this one is meant.
        std::panic::resume_unwind(Box::new("on purpose"));
    }));

    assert!(failed.is_err());
    assert!(!namespaces().contains(&name), "{}", namespaces());
    assert!(!alive(sleeper));
}

fn a_lab_sweeps_what_a_dead_process_left() {
    let dead = run(&["sh", "-c", "echo $$"]).expect_success().stdout;
    let name = format!("{PREFIX}{}-0-net", dead.trim());
    run(&["ip", "netns", "add", &name]).expect_success();
    let host = Host {
        namespace: name.clone(),
        address: String::new(),
    };
    let left = host.start(&["sleep", "1000"]);

    sweep();

    assert!(!namespaces().contains(&name));
    // Ours to reap, so what is left of it is a zombie.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", left.pid())).unwrap_or_default();
    assert!(!stat.contains(") S") && !stat.contains(") R"), "{stat}");
}

fn namespaces() -> String {
    run(&["ip", "netns", "list"]).stdout
}

fn alive(pid: u32) -> bool {
    std::path::Path::new("/proc").join(pid.to_string()).exists()
}

fn udp(host: &Host) -> UdpSocket {
    let socket = host.inside(|| UdpSocket::bind((&*host.address, 0)).expect("a port"));
    socket.set_read_timeout(Some(WITHIN)).expect("set");
    socket
}

/// One datagram; who it seems to come from, where it arrives.
fn send(from: &UdpSocket, to: &UdpSocket) -> Option<SocketAddr> {
    send_to(from, to.local_addr().expect("bound"), to)
}

/// One datagram to an address that may lead to this socket; who it seems to come from there.
fn send_to(from: &UdpSocket, address: SocketAddr, to: &UdpSocket) -> Option<SocketAddr> {
    from.send_to(b"hello", address).expect("sent");
    to.recv_from(&mut [0; 16]).ok().map(|(_, from)| from)
}

const WITHIN: Duration = Duration::from_millis(700);
