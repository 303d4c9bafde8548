//! Every file in `configs/` is what it says: loaded by the code that will load it, or held against
//! the binary. A file that no test here knows fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");

#[test]
fn every_sample_is_loaded() {
    for file in files(Path::new(CONFIGS)) {
        let name = file
            .strip_prefix(CONFIGS)
            .expect("below")
            .display()
            .to_string();
        match (
            &*name,
            file.extension().and_then(|extension| extension.to_str()),
        ) {
            ("gateway.json", _) => gateway_config(&file),
            ("beacon.json", _) => beacon_config(&file),
            ("container/Containerfile", _) => containerfile(&file),
            ("container/compose.yaml", _) => compose(&file),
            ("mcp/stdio.json", _) => mcp_by_stdio(&file),
            ("mcp/http.json", _) => mcp_by_http(&file),
            (_, Some("service")) => unit(&file),
            (_, Some("hujson")) => policy(&file),
            _ => panic!("no test loads configs/{name}"),
        }
    }
}

fn policy(file: &Path) {
    let name = file.display().to_string();
    let (document, warnings) =
        policy::Document::parse(&name, &text(file)).unwrap_or_else(|said| panic!("{said:?}"));
    assert!(warnings.is_empty(), "{name}: {warnings:?}");
    let report = policy::Policy::run_tests(&document, &[], identity::UnixTime(1_800_000_000));
    assert!(
        report.passed() && !report.outcomes.is_empty(),
        "{name}: {:?}",
        report.outcomes
    );
}

fn gateway_config(file: &Path) {
    let config = node::Config::load("state".into(), file).expect("it is accepted");
    assert!(!config.allow_loopback, "a sample for hosts of their own");
}

/// The command reads its file before anything else: what it refuses then is not the file.
fn beacon_config(file: &Path) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("not-a-directory");
    std::fs::write(&state, "").expect("written");
    let output = crabmesh(&[
        "--state-dir",
        &state.display().to_string(),
        "beacon",
        "--config",
        &file.display().to_string(),
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !said.contains("makes no sense") && !said.contains("cannot read"),
        "{said}"
    );
}

fn unit(file: &Path) {
    let name = file.display().to_string();
    let settings = settings(&text(file));
    let one = |key: &str| match settings.get(key).map(Vec::as_slice) {
        Some([value]) => value.as_str(),
        other => panic!("{name}: {key} is {other:?}"),
    };
    command_line_is_understood(one("ExecStart"));

    // A uid of its own, and a state directory that only it can read.
    assert!(one("User").starts_with("crabmesh"), "{name}");
    assert_eq!(one("User"), one("Group"), "{name}");
    assert_eq!(one("StateDirectoryMode"), "0700", "{name}");
    assert_eq!(one("UMask"), "0077", "{name}");
    assert_eq!(
        one("Environment"),
        format!("CRABMESH_STATE_DIR=/var/lib/{}", one("StateDirectory")),
        "{name}"
    );
    // Told by `sd_notify`, which the binary does.
    assert_eq!(one("Type"), "notify", "{name}");
    // Privileged ports alone need a capability, and that one.
    let listens_low = one("ExecStart").ends_with(":443");
    let capability = if listens_low {
        "CAP_NET_BIND_SERVICE"
    } else {
        ""
    };
    assert_eq!(
        (one("CapabilityBoundingSet"), one("AmbientCapabilities")),
        (capability, capability),
        "{name}"
    );
    for (key, value) in [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("RestrictNamespaces", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallFilter", "@system-service"),
        // Addresses of interfaces come by netlink.
        (
            "RestrictAddressFamilies",
            "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        ),
        ("Restart", "always"),
    ] {
        assert_eq!(one(key), value, "{name}: {key}");
    }
}

fn containerfile(file: &Path) {
    let text = text(file);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for line in [
        "USER 1000:1000",
        "ENV CRABMESH_STATE_DIR=/state",
        r#"ENTRYPOINT ["/usr/local/bin/crabmesh"]"#,
        r#"CMD ["up"]"#,
    ] {
        assert!(lines.contains(&line), "{line:?} is missing");
    }
    assert!(!text.contains("EXPOSE"), "a gateway needs no open port");
    command_line_is_understood("/usr/local/bin/crabmesh up");
}

fn compose(file: &Path) {
    let text = text(file);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for line in [
        r#"command: ["up"]"#,
        r#"user: "1000:1000""#,
        "read_only: true",
        r#"cap_drop: ["ALL"]"#,
        r#"security_opt: ["no-new-privileges:true"]"#,
        "mem_limit: 256m",
        "cpus: 0.25",
        "CRABMESH_STATE_DIR: /state",
    ] {
        assert!(lines.contains(&line), "{line:?} is missing");
    }
    assert!(
        !text.contains("ports:") && !text.contains("privileged"),
        "a gateway needs neither"
    );
}

fn mcp_by_stdio(file: &Path) {
    let server = mcp_server(file);
    assert_eq!(
        (&server["type"], &server["command"]),
        (&"stdio".into(), &"crabmesh".into())
    );
    let arguments = server["args"].as_array().expect("arguments").iter();
    let mut arguments: Vec<&str> = arguments.map(|it| it.as_str().expect("text")).collect();
    // Understood as they are: what is refused is the state directory, in which there is no node.
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().display().to_string();
    arguments.extend(["--state-dir", &state]);
    assert_eq!(crabmesh(&arguments).status.code(), Some(5), "{arguments:?}");
}

/// The port is that of the other sample, the token is in no file.
fn mcp_by_http(file: &Path) {
    let server = mcp_server(file);
    let gateway = node::Config::load("state".into(), &Path::new(CONFIGS).join("gateway.json"));
    let port = gateway.expect("it is accepted").api.port;
    assert_eq!(server["type"], "http");
    assert_eq!(server["url"], format!("http://127.0.0.1:{port}/mcp"));
    let authorization = "Bearer ${CRABMESH_TOKEN}";
    assert_eq!(server["headers"]["Authorization"], authorization);
    assert!(api::Route::ALL.iter().any(|route| route.path == "/mcp"));
}

fn mcp_server(file: &Path) -> serde_json::Value {
    let mut config: serde_json::Value = serde_json::from_str(&text(file)).expect("JSON");
    config["mcpServers"]["mesh"].take()
}

/// Its subcommand exists and knows each of its options; an address is one.
fn command_line_is_understood(line: &str) {
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("/usr/local/bin/crabmesh"), "{line}");
    let subcommand = words.next().expect("a subcommand");
    let output = crabmesh(&[subcommand, "--help"]);
    assert!(output.status.success(), "{line}: {output:?}");
    let help = String::from_utf8(output.stdout).expect("text");
    for word in words {
        if word.starts_with("--") {
            assert!(
                help.contains(&format!("{word} ")),
                "{line}: {word} is not in\n{help}"
            );
        } else {
            word.parse::<std::net::SocketAddr>()
                .unwrap_or_else(|error| panic!("{line}: {word}: {error}"));
        }
    }
}

/// `Key=value` lines; a key may come again.
fn settings(unit: &str) -> BTreeMap<String, Vec<String>> {
    let mut settings = BTreeMap::<String, Vec<String>>::new();
    for line in unit
        .lines()
        .filter(|line| !line.starts_with(['#', '[']) && !line.trim().is_empty())
    {
        let (key, value) = line
            .split_once('=')
            .unwrap_or_else(|| panic!("{line:?} is no setting"));
        settings.entry(key.into()).or_default().push(value.into());
    }
    settings
}

fn crabmesh(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crabmesh"));
    command
        .args(arguments)
        .env_remove("CRABMESH_STATE_DIR")
        .env_remove("CRABMESH_API")
        .env_remove("CRABMESH_TOKEN");
    command.output().expect("it starts")
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory");
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
