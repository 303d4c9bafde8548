//! Real commands: `sh`, and what it starts.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::parts::Cancel;
use super::*;
use crate::messages::fresh_id;

#[tokio::test]
async fn what_is_printed_is_the_answer_and_the_body_is_on_stdin() {
    let job = job("2+2");
    let script = r#"read -r sum; echo "$CRABMESH_FROM $CRABMESH_TO asks $CRABMESH_KIND $CRABMESH_REPLY_EXPECTED $CRABMESH_ATTEMPT $CRABMESH_MESSAGE_ID: $(($sum))""#;

    let done = sh(script).run_one(&job).await.expect("done");

    let expected = format!("planner@gw-a coder@gw-b asks message 1 1 {}: 4\n", job.id);
    assert_eq!(done, Done::text(expected));
}

#[tokio::test]
async fn an_exit_that_is_not_zero_is_a_failure() {
    let failed = sh("echo half; exit 3").run_one(&job("")).await;
    assert_eq!(failed, Err(WorkError::failed("exit code 3")));

    let killed = sh("kill -9 $$").run_one(&job("")).await;
    assert_eq!(killed, Err(WorkError::failed("killed by signal 9")));
}

#[tokio::test]
async fn a_command_that_is_not_there_is_waited_for() {
    let exec = exec(&["/nonexistent/agent"], 10);

    let error = exec.run_one(&job("")).await.expect_err("not done");

    assert!(matches!(error, WorkError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn when_its_time_is_up_the_whole_group_is_killed() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let begun = Instant::now();

    let late = exec(&["sh", "-c", &script], 1).run_one(&job("")).await;

    assert_eq!(late, Err(WorkError::failed("killed: not done within 1 s")));
    assert!(begun.elapsed() < Duration::from_secs(10));
    gone(&file).await;
}

#[tokio::test]
async fn a_message_taken_back_ends_its_command() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("pid");
    let exec = sh(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
    let (cancel, cancelled) = Cancel::new();
    let job = job("");

    let (ended, ()) = tokio::join!(exec.work(&job, Parts::default(), cancelled), async {
        while pid(&file).is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        cancel.now();
    });

    assert!(ended.is_err());
    gone(&file).await;
}

#[tokio::test]
async fn an_answer_that_no_message_can_carry_ends_the_command() {
    let most = wire::message::MAX_BODY;
    let whole = sh(&format!("head -c {most} /dev/zero"));
    assert_eq!(
        whole.run_one(&job("")).await.expect("fits").body.len(),
        most
    );

    let begun = Instant::now();
    let endless = sh("yes").run_one(&job("")).await;

    assert!(
        matches!(endless, Err(WorkError::Never { .. })),
        "{endless:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_command_that_reads_nothing_or_complains_much_is_not_in_the_way() {
    let large = "x".repeat(wire::message::MAX_BODY);

    let done = sh("exec <&-; head -c 1000000 /dev/zero >&2; echo ok")
        .run_one(&job(&large))
        .await;

    assert_eq!(done, Ok(Done::text("ok\n")));
}

#[tokio::test]
async fn lines_are_parts_as_they_come() {
    let (parts, mut told) = Parts::channel(8);
    let (_cancel, cancelled) = Cancel::new();
    let (exec, job) = (sh("echo one; echo two; printf three"), job(""));

    let done = exec.work(&job, parts, cancelled).await;

    assert_eq!(done, Ok(Done::text("one\ntwo\nthree")));
    for line in ["one\n", "two\n", "three"] {
        assert_eq!(told.recv().await, Some(Part::Text(line.into())));
    }
}

#[test]
fn a_command_is_a_path_or_a_name() {
    let bounds = Bounds::of(None, None, 1).expect("bounds");
    let new = |command: &[&str]| {
        let command: Vec<String> = command.iter().map(|part| (*part).to_owned()).collect();
        Exec::new(&command, bounds)
    };
    assert!(new(&["cat"]).is_ok() && new(&["/bin/cat", "-"]).is_ok());
    for wrong in [&[][..], &[""], &["./answer.sh"], &["cat", "a\0b"]] {
        assert!(new(wrong).is_err(), "{wrong:?}");
    }
    assert!(new(&["cat", &"x".repeat(COMMAND_MAX)]).is_err());
    for (timeout, concurrency) in [(Some(0), None), (Some(90_000), None), (None, Some(0))] {
        assert!(Bounds::of(timeout, concurrency, 1).is_err());
    }
}

impl Exec {
    async fn run_one(&self, job: &Job) -> Result<Done, WorkError> {
        let (_cancel, cancelled) = Cancel::new();
        self.work(job, Parts::default(), cancelled).await
    }
}

/// The child of the command is dead, though nobody waited for it but init.
async fn gone(file: &Path) {
    dies(pid(file).expect("it had started")).await;
}

pub(in crate::workers) async fn dies(child: u32) {
    let begun = Instant::now();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // Field 3, after the name in parentheses: Z is dead and not waited for.
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        state.is_some_and(|state| state != 'Z' && state != 'X')
    };
    while lives() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it lives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn pid(file: &Path) -> Option<u32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn sh(script: &str) -> Exec {
    exec(&["sh", "-c", script], 20)
}

fn exec(command: &[&str], timeout_s: u64) -> Exec {
    let command: Vec<String> = command.iter().map(|part| (*part).to_owned()).collect();
    let bounds = Bounds::of(Some(timeout_s), None, CONCURRENCY).expect("bounds");
    Exec::new(&command, bounds).expect("a worker")
}

fn job(body: &str) -> Job {
    Job {
        id: fresh_id(),
        kind: Kind::Message,
        from: "planner@gw-a".parse().expect("an address"),
        to: "coder@gw-b".parse().expect("an address"),
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        created_at_ms: 0,
        attempt: 1,
        reply_expected: true,
        in_reply_to: None,
        error: None,
        conversation: Some("c-1".into()),
        root: fresh_id(),
        depth: 0,
    }
}
