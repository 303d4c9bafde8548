//! Hosts and routers as network namespaces, joined by one bridge that plays the internet.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{Finished, Running, run, run_with_input};

/// One private internet. Dropping it removes all its namespaces.
pub struct Lab {
    name: String,
    namespaces: Vec<String>,
    public_hosts: u8,
    homes: u8,
    lone_hosts: u8,
}

/// A namespace with an address that packets can reach.
#[derive(Clone, Debug)]
pub struct Host {
    /// The namespace.
    pub namespace: String,
    /// Its IPv4 address.
    pub address: String,
}

/// A host behind a router of its own.
#[derive(Clone, Debug)]
pub struct Home {
    /// The host inside.
    pub host: Host,
    /// The router's namespace.
    pub router: String,
    /// The router's public address.
    pub public: String,
}

/// How a home's router translates and filters (RFC 4787 terms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Endpoint-independent mapping that keeps the port, address- and port-dependent filtering:
    /// the common home router.
    Cone,
    /// Another random port for each destination: corporate and cloud NAT.
    Symmetric,
    /// A cone that lets no UDP out at all.
    UdpBlocked,
}

impl Lab {
    /// Makes the internet of this lab: an empty bridge.
    pub fn new() -> Self {
        // `ip netns add` and the sweep share /run/netns with those of other threads.
        let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        sweep();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let mut lab = Self {
            name,
            namespaces: Vec::new(),
            public_hosts: 0,
            homes: 0,
            lone_hosts: 0,
        };
        let internet = lab.namespace("net");
        ip(&["-n", &internet, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &internet, "link", "set", "br0", "up"]);
        lab
    }

    /// A host with a public address.
    pub fn public_host(&mut self) -> Host {
        self.public_hosts += 1;
        let namespace = self.namespace(&format!("pub{}", self.public_hosts));
        let address = format!("203.0.113.{}", 10 + self.public_hosts);
        self.plug(&namespace, &address);
        Host { namespace, address }
    }

    /// A host with nothing but its loopback.
    pub fn lone_host(&mut self) -> Host {
        self.lone_hosts += 1;
        let namespace = self.namespace(&format!("lone{}", self.lone_hosts));
        Host {
            namespace,
            address: "127.0.0.1".into(),
        }
    }

    /// A host behind a router of this kind.
    pub fn home(&mut self, nat: Nat) -> Home {
        self.homes += 1;
        let number = self.homes;
        let router = self.namespace(&format!("nat{number}"));
        let namespace = self.namespace(&format!("home{number}"));
        let public = format!("203.0.113.{}", 100 + number);
        let (inside, address) = (format!("192.168.{number}.1"), format!("192.168.{number}.2"));

        self.plug(&router, &public);
        let link = [
            "link", "add", "lan", "netns", &router, "type", "veth", "peer", "name", "eth0",
            "netns", &namespace,
        ];
        ip(&link);
        ip(&[
            "-n",
            &router,
            "addr",
            "add",
            &format!("{inside}/24"),
            "dev",
            "lan",
        ]);
        ip(&["-n", &router, "link", "set", "lan", "up"]);
        ip(&[
            "-n",
            &namespace,
            "addr",
            "add",
            &format!("{address}/24"),
            "dev",
            "eth0",
        ]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "route", "add", "default", "via", &inside]);
        set(&router, "net/ipv4/ip_forward", 1);
        nft(&router, &rules(nat));
        Home {
            host: Host { namespace, address },
            router,
            public,
        }
    }

    /// How long this router keeps a silent UDP mapping, in seconds.
    pub fn set_udp_timeout(&self, home: &Home, seconds: u32) {
        for key in [
            "nf_conntrack_udp_timeout",
            "nf_conntrack_udp_timeout_stream",
        ] {
            set(&home.router, &format!("net/netfilter/{key}"), seconds);
        }
    }

    /// The namespace of the bridge that all public traffic crosses.
    pub fn internet(&self) -> Host {
        Host {
            namespace: self.backbone().into(),
            address: "0.0.0.0".into(),
        }
    }

    /// What begins the name of each of its namespaces.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn backbone(&self) -> &str {
        &self.namespaces[0]
    }

    fn namespace(&mut self, role: &str) -> String {
        let name = format!("{}-{role}", self.name);
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        self.namespaces.push(name.clone());
        name
    }

    /// Joins a namespace to the internet with this address.
    fn plug(&self, namespace: &str, address: &str) {
        let port = format!("p{}", self.namespaces.len());
        let internet = self.backbone();
        ip(&[
            "link", "add", &port, "netns", internet, "type", "veth", "peer", "name", "wan",
            "netns", namespace,
        ]);
        ip(&["-n", internet, "link", "set", &port, "master", "br0", "up"]);
        ip(&[
            "-n",
            namespace,
            "addr",
            "add",
            &format!("{address}/24"),
            "dev",
            "wan",
        ]);
        ip(&["-n", namespace, "link", "set", "wan", "up"]);
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            remove(namespace);
        }
    }
}

impl Host {
    /// Runs a command here to its end.
    pub fn run(&self, command: &[&str]) -> Finished {
        run(&[&["ip", "netns", "exec", &self.namespace], command].concat())
    }

    /// Runs a function here, on a thread of its own: its sockets are this host's.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.namespace);
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                let namespace = File::open(&path).expect("a namespace of this lab");
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter");
                act()
            });
            acting
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a command here; it ends with the value.
    pub fn start(&self, command: &[&str]) -> Running {
        Running::start(&[&["ip", "netns", "exec", &self.namespace], command].concat())
    }
}

/// Whether labs can be made here: root with `ip` and `nft`. Otherwise what is missing.
pub fn available() -> Result<(), String> {
    if !std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")))
    {
        return Err("not root".into());
    }
    for tool in ["ip", "nft", "tcpdump", "setpriv", "unshare"] {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| Path::new(dir).join(tool).exists());
        if !found {
            return Err(format!("{tool} is not installed"));
        }
    }
    Ok(())
}

fn rules(nat: Nat) -> String {
    let masquerade = match nat {
        Nat::Cone | Nat::UdpBlocked => "masquerade",
        Nat::Symmetric => "masquerade fully-random",
    };
    let udp = match nat {
        Nat::UdpBlocked => "meta l4proto udp drop;",
        Nat::Cone | Nat::Symmetric => "",
    };
    format!(
        "table ip nat {{
           chain post {{
             type nat hook postrouting priority 100;
             oifname wan {masquerade};
           }}
         }}
         table ip filter {{
           chain forward {{
             type filter hook forward priority 0; policy drop;
             {udp}
             ct state established,related accept;
             iifname lan accept;
           }}
           chain input {{
             type filter hook input priority 0; policy drop;
             ct state established,related accept;
             iifname lan accept;
             iifname lo accept;
           }}
         }}
"
    )
}

fn nft(namespace: &str, rules: &str) {
    run_with_input(&["ip", "netns", "exec", namespace, "nft", "-f", "-"], rules).expect_success();
}

fn in_namespace(namespace: &str, command: &[&str]) {
    run(&[&["ip", "netns", "exec", namespace], command].concat()).expect_success();
}

fn ip(arguments: &[&str]) {
    run(&[&["ip"], arguments].concat()).expect_success();
}

/// Sets what is under /proc/sys of this namespace.
fn set(namespace: &str, key: &str, value: u32) {
    in_namespace(
        namespace,
        &["sh", "-c", &format!("echo {value} > /proc/sys/{key}")],
    );
}

/// Removes a namespace, and ends what a test that was killed left running in it.
fn remove(namespace: &str) {
    let _ = Command::new("sh")
        .args(["-c", "ip netns pids \"$0\" | xargs -r kill -9", namespace])
        .status();
    let _ = Command::new("ip")
        .args(["netns", "del", namespace])
        .status();
}

/// Removes the labs of processes that are gone.
pub fn sweep() {
    let listed = run(&["ip", "netns", "list"]).stdout;
    for name in listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(name);
        }
    }
}

static BUILDING: Mutex<()> = Mutex::new(());

/// Begins the name of every namespace of ours, before the pid of the test.
pub const PREFIX: &str = "crabmesh-";
