//! What strangers get: no answer from a gateway's ports, no word from the wire.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netns_tests::capture::contains;
use netns_tests::{Capture, Gateway, Host, Lab, Mesh, Nat, OPEN_POLICY};

use crate::Test;

pub const TESTS: &[Test] = &[
    (
        "a_port_scan_finds_nothing_that_answers_on_a_gateway_in_public",
        a_scan_finds_nothing_in_public,
    ),
    (
        "a_port_scan_finds_nothing_that_answers_on_a_gateway_behind_nat",
        a_scan_finds_nothing_behind_nat,
    ),
    (
        "a_capture_holds_no_message_no_agent_and_no_gateway",
        a_capture_holds_nothing,
    ),
];

fn a_scan_finds_nothing_in_public() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (host, stranger) = (lab.public_host(), lab.public_host());
    let gateway = mesh.gateway("gw-a", &host);
    let own = own_ports(&gateway);

    // The scanner is no good unless it finds what does answer.
    let beacon = &mesh.beacon_host.address;
    assert_eq!(scan_tcp(&stranger, beacon, &[4747]), [4747]);
    let echo = mesh
        .beacon_host
        .inside(|| UdpSocket::bind((&**beacon, 4800)).expect("free"));
    let echoing = std::thread::spawn(move || {
        let (length, from) = echo.recv_from(&mut [0; 2048]).expect("heard");
        echo.send_to(&vec![1; length], from).expect("answered");
    });
    assert_eq!(scan_udp(&stranger, beacon, &[4800]), BTreeSet::from([4800]));
    echoing.join().expect("it heard one");

    // The kernel refuses at once where nothing listens: every port can be tried.
    let every: Vec<u16> = (1..=u16::MAX).collect();
    assert_eq!(
        scan_tcp(&stranger, &host.address, &every),
        Vec::<u16>::new(),
        "own ports: {own:?}"
    );
    assert_eq!(
        scan_udp(&stranger, &host.address, &every),
        BTreeSet::new(),
        "own ports: {own:?}"
    );
    // Once more, slowly: a burst may have been dropped.
    assert_eq!(
        scan_udp(&stranger, &host.address, &own),
        BTreeSet::new(),
        "own ports: {own:?}"
    );
    gateway.json(&["status", "--json"]);
}

fn a_scan_finds_nothing_behind_nat() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (home, stranger) = (lab.home(Nat::Cone), lab.public_host());
    let gateway = mesh.gateway("gw-a", &home.host);
    gateway.crabmesh(&["status"], "").expect_success();
    let own = own_ports(&gateway);

    let likely = [22, 80, 443, 3478, 4747, 4748, 4749, 8080, 41641, 51820];
    let ports: Vec<u16> = own.iter().copied().chain(likely).collect();
    assert_eq!(
        scan_tcp(&stranger, &home.public, &ports),
        Vec::<u16>::new(),
        "own ports: {own:?}"
    );
    assert_eq!(
        scan_udp(&stranger, &home.public, &ports),
        BTreeSet::new(),
        "own ports: {own:?}"
    );
}

fn a_capture_holds_nothing() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), &OPEN_POLICY.replace("tag:lab", TAG));
    let homes = [
        lab.home(Nat::Cone),
        lab.home(Nat::Cone),
        lab.home(Nat::Symmetric),
    ];
    let captures = [
        Capture::start(&lab.internet()),
        Capture::start(&mesh.beacon_host),
    ];
    let start = |name, number: usize| {
        let mut gateway = mesh.tagged(name, &homes[number].host, TAG);
        gateway.start();
        gateway
    };
    let (cone, other, symmetric) = (
        start(GATEWAYS[0], 0),
        start(GATEWAYS[1], 1),
        start(GATEWAYS[2], 2),
    );
    cone.agent(AGENTS[0]);
    let _echoes = [other.echo_agent(AGENTS[1]), symmetric.echo_agent(AGENTS[1])];
    for peer in [&other, &symmetric] {
        cone.wait_to_know(&peer.name);
        let to = format!("{}@{}", AGENTS[1], peer.name);
        assert_eq!(cone.ask(AGENTS[0], &to, SECRET), SECRET.to_uppercase());
    }
    cone.wait_for_path(GATEWAYS[1], "direct", Duration::from_secs(10));
    assert_eq!(cone.path_to(GATEWAYS[2]), "relay");
    for peer in [&other, &symmetric] {
        let to = format!("{}@{}", AGENTS[1], peer.name);
        assert_eq!(cone.ask(AGENTS[0], &to, SECRET), SECRET.to_uppercase());
    }

    // Last, in clear and through the same router: proof that the captures saw what passed.
    let plain = homes[0]
        .host
        .inside(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a port");
    plain
        .send_to(LAST, (&*mesh.beacon_host.address, 9))
        .expect("sent");
    for (capture, place) in captures.iter().zip(["on the internet", "at the beacon"]) {
        let bytes = capture.read_until(LAST, Duration::from_secs(10));
        assert!(bytes.len() > 20_000, "{place}: {} bytes", bytes.len());
        let answer = SECRET.to_uppercase();
        for word in
            GATEWAYS
                .iter()
                .chain(&AGENTS)
                .copied()
                .chain([SECRET, &answer, TAG, "ana@example.com"])
        {
            assert!(!contains(&bytes, word.as_bytes()), "{word:?} is {place}");
        }
    }
}

/// The mesh's UDP port and the API's on loopback.
fn own_ports(gateway: &Gateway) -> Vec<u16> {
    let read = |file: &str| -> serde_json::Value {
        let path = gateway.state.join(file);
        let start = Instant::now();
        loop {
            if let Some(value) = std::fs::read(&path)
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok())
            {
                return value;
            }
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "no {}",
                path.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let port = read("addresses.json")["port"].as_u64().expect("a port");
    let api: SocketAddr = read("api.json")["loopback"]
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    vec![u16::try_from(port).expect("a port"), api.port()]
}

/// The ports that take a connection.
fn scan_tcp(from: &Host, address: &str, ports: &[u16]) -> Vec<u16> {
    let chunk = ports.len().div_ceil(8).max(1);
    std::thread::scope(|scope| {
        let scans: Vec<_> = ports
            .chunks(chunk)
            .map(|ports| {
                scope.spawn(move || {
                    from.inside(|| {
                        let open = |port: &u16| {
                            let address =
                                SocketAddr::new(address.parse().expect("an address"), *port);
                            TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
                        };
                        ports.iter().copied().filter(open).collect::<Vec<u16>>()
                    })
                })
            })
            .collect();
        scans
            .into_iter()
            .flat_map(|scan| scan.join().expect("scanned"))
            .collect()
    })
}

/// The ports that answer any of the things that one says to a UDP port.
fn scan_udp(from: &Host, address: &str, ports: &[u16]) -> BTreeSet<u16> {
    from.inside(|| {
        // Not connected, so that what comes back from any port is seen.
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
        socket.set_nonblocking(true).expect("set");
        let (mut answered, mut buffer) = (BTreeSet::new(), [0; 2048]);
        let mut listen = |answered: &mut BTreeSet<u16>| {
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                answered.insert(from.port());
            }
        };
        for (count, port) in ports.iter().enumerate() {
            for payload in greetings() {
                // A full queue on the way is no answer.
                let _ = socket.send_to(&payload, (address, *port));
            }
            listen(&mut answered);
            if ports.len() < 100 || count % 512 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        std::thread::sleep(Duration::from_millis(700));
        listen(&mut answered);
        answered
    })
}

/// Nothing, QUIC of version 1 and of one that nobody has (a server names its own then), WireGuard's
/// first message, STUN, HTTP, and a link byte of ours.
fn greetings() -> Vec<Vec<u8>> {
    let quic = |version: u32| {
        let mut packet = vec![0xC3];
        packet.extend(version.to_be_bytes());
        packet.extend([
            8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0x44, 0x96,
        ]);
        packet.resize(1200, 0x5A);
        packet
    };
    let mut wireguard = vec![1, 0, 0, 0];
    wireguard.resize(148, 0xA5);
    let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
    stun.resize(20, 7);
    vec![
        Vec::new(),
        quic(1),
        quic(0x1A2A_3A4A),
        wireguard,
        stun,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0x80; 40],
    ]
}

const GATEWAYS: [&str; 3] = ["gw-zanzibar", "gw-reykjavik", "gw-valparaiso"];
const AGENTS: [&str; 2] = ["quartermaster", "lighthouse-keeper"];
const TAG: &str = "tag:archipelago";
const SECRET: &str = "the barque sails at midnight with nine crates of oranges";
const LAST: &[u8] = b"and this is what plaintext looks like";
