//! What the demo tells, step by step.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use super::process::{Ended, Stage};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// From nothing to two agents that talk.
pub async fn tell(stage: &mut Stage, output: Output) -> Result<(), Failure> {
    let begun = Instant::now();
    let say = |text: &str| output.line(text);

    say("1. A beacon, where gateways meet. Unclaimed, it waits for its operator.")?;
    let beacon = free_address()?.to_string();
    let claim = stage
        .start(
            "beacon",
            "beacon",
            &["beacon", "--listen", &beacon],
            Some("claim "),
        )
        .await?;
    let claim = claim.trim_start_matches("claim ").to_owned();

    say(
        "2. The operator makes the mesh, and pushes its policy: requests both ways, nothing else.",
    )?;
    let init = [
        "init",
        "--mesh",
        "demo",
        "--beacon",
        &beacon,
        "--claim",
        &claim,
        "--user",
        "demo@example.com",
    ];
    stage.done("operator", &init, "").await?;
    let policy = stage.write("policy.hujson", POLICY)?.display().to_string();
    stage
        .done("operator", &["policy", "push", &policy], "")
        .await?;

    say("3. Two gateways join, each with a token that is good once, and an agent on each.")?;
    let config = stage
        .write("gateway.json", r#"{"allow_loopback": true}"#)?
        .display()
        .to_string();
    for (gateway, agent) in [("gw-a", "planner"), ("gw-b", "coder")] {
        let token = stage
            .done(
                "operator",
                &["invite", "--name", gateway, "--tag", "tag:gateway"],
                "",
            )
            .await?;
        stage.done(gateway, &["join", "-"], &token).await?;
        stage
            .start(
                gateway,
                gateway,
                &["up", "--config", &config],
                Some("ready"),
            )
            .await?;
        stage.done(gateway, &["agent", "add", agent], "").await?;
        let answer =
            format!("read -r question; echo \"{agent} on {gateway} says: $question? 42.\"");
        let recv = [
            "recv", "--as", agent, "--follow", "--exec", "sh", "-c", &answer,
        ];
        stage
            .start(&format!("{agent}@{gateway}"), gateway, &recv, None)
            .await?;
    }

    say("4. They ask each other.")?;
    ask(
        stage,
        output,
        "gw-a",
        "planner",
        "coder@gw-b",
        "how many tests fail",
    )
    .await?;
    ask(
        stage,
        output,
        "gw-b",
        "coder",
        "planner@gw-a",
        "what shall I do next",
    )
    .await?;

    say("5. Without a grant nothing passes: the policy allows requests, not one-way messages.")?;
    let send = ["send", "planner@gw-a", "by the way", "--as", "coder"];
    say(&format!("   gw-b$ crabmesh {}", shown(&send)))?;
    let refused = stage.run("gw-b", &send, "").await?;
    if refused.code != Some(Exit::Denied as i32) {
        return Err(unexpected(
            "the message without a grant was not refused",
            &refused,
        ));
    }
    say(&indented(&refused.stderr))?;

    say("6. How it stands.")?;
    say("   gw-a$ crabmesh status")?;
    say(&indented(&stage.done("gw-a", &["status"], "").await?))?;

    say(&format!(
        "\nThat was a mesh, in {:.1} s. The README has the real thing: two hosts and a beacon.",
        begun.elapsed().as_secs_f64()
    ))
}

/// One question and its answer. The gateways have only just started: until they know each other
/// and the policy, a question is refused at once and asked again.
async fn ask(
    stage: &Stage,
    output: Output,
    state: &str,
    from: &str,
    to: &str,
    question: &str,
) -> Result<(), Failure> {
    let send = ["send", to, question, "--as", from, "--ask"];
    output.line(format!("   {state}$ crabmesh {}", shown(&send)))?;
    let begun = Instant::now();
    loop {
        let ended = stage.run(state, &send, "").await?;
        if ended.code == Some(0) {
            return output.line(indented(&ended.stdout));
        }
        if begun.elapsed() > KNOWN_WITHIN {
            return Err(unexpected(&format!("{to} did not answer"), &ended));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// A port that is free for UDP and TCP alike.
fn free_address() -> Result<SocketAddr, Failure> {
    for _ in 0..100 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = socket.local_addr()?;
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(Failure::failed(
        "no port of 127.0.0.1 is free for UDP and TCP alike",
    ))
}

fn unexpected(what: &str, ended: &Ended) -> Failure {
    let code = ended
        .code
        .map_or("a signal".to_owned(), |code| format!("exit {code}"));
    Failure::failed(format!(
        "{what} ({code}): {} {}",
        ended.stdout, ended.stderr
    ))
}

fn shown(arguments: &[&str]) -> String {
    let quoted = |argument: &&str| match argument.contains(' ') {
        true => format!("'{argument}'"),
        false => (*argument).to_owned(),
    };
    arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("   {line}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

const POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": ["demo@example.com"]},
  "grants": [
    {"id": "ask-coder", "src": ["agent:planner@tag:gateway"], "dst": ["agent:coder@tag:gateway"], "msg": ["request"]},
    {"id": "ask-planner", "src": ["agent:coder@tag:gateway"], "dst": ["agent:planner@tag:gateway"], "msg": ["request"]},
  ],
  "tests": [
    {"src": "agent:planner@tag:gateway", "accept": ["agent:coder@tag:gateway:request"]},
    {"src": "agent:coder@tag:gateway", "deny": ["agent:planner@tag:gateway:send"]},
  ],
}
"#;

const KNOWN_WITHIN: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(200);
