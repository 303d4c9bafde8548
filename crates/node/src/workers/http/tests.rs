//! The worker against a small server that answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::super::parts::Cancel;
use super::*;
use crate::messages::fresh_id;
use crate::workers::{Part, WorkError};

#[tokio::test]
async fn a_message_is_a_signed_post_and_its_answer_the_reply() {
    let server = Server::start([ok("text/markdown", "*4*")]).await;
    let job = job("2+2?");

    let done = server.http().work(&job).await.expect("done");

    assert_eq!(
        (&*done.content_type, &*done.body),
        ("text/markdown", &b"*4*"[..])
    );
    let asked = server.asked().remove(0);
    assert_eq!(asked.line, "POST /hook?x=1 HTTP/1.1");
    assert_eq!(asked.body, b"2+2?");
    for (name, value) in [
        ("content-type", "text/plain"),
        ("crabmesh-from", "planner@gw-a"),
        ("crabmesh-to", "coder@gw-b"),
        ("crabmesh-kind", "message"),
        ("crabmesh-attempt", "3"),
        ("crabmesh-reply-expected", "1"),
        ("crabmesh-conversation", "c-1"),
        ("webhook-id", &job.id.to_string()),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
    let at: u64 = asked.header("webhook-timestamp").parse().expect("seconds");
    let signer = Signer::new(&secret()).expect("a secret");
    let expected = signer.sign(&job.id.to_string(), at, b"2+2?");
    assert_eq!(asked.header("webhook-signature"), expected);
}

#[tokio::test]
async fn no_content_is_an_ack_without_words() {
    let server = Server::start(["HTTP/1.1 204 No Content\r\n\r\n".into()]).await;

    let done = server.http().work(&job("fyi")).await.expect("done");

    assert!(done.body.is_empty());
}

#[tokio::test]
async fn what_a_status_means() {
    let unreachable = |why: &str, after: Option<u64>| WorkError::Unreachable {
        why: why.into(),
        after: after.map(Duration::from_secs),
    };
    let cases = [
        ("500 No", "", WorkError::failed("HTTP 500")),
        ("400 No", "", WorkError::never("HTTP 400")),
        ("404 No", "", WorkError::never("HTTP 404")),
        ("422 No", "", WorkError::never("HTTP 422")),
        ("401 No", "", unreachable("HTTP 401", None)),
        (
            "429 No",
            "Retry-After: 7\r\n",
            unreachable("HTTP 429", Some(7)),
        ),
        ("503 No", "", unreachable("HTTP 503", None)),
        (
            "503 No",
            "Retry-After: soon\r\n",
            unreachable("HTTP 503", None),
        ),
    ];
    for (status, header, expected) in cases {
        let body = "<script>not for the log</script>";
        let answer = format!(
            "HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let server = Server::start([answer]).await;
        assert_eq!(
            server.http().work(&job("?")).await,
            Err(expected),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start([ok("text/plain", "mine now")]).await;
    let location = format!(
        "HTTP/1.1 307 Moved\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
        elsewhere.url
    );
    let server = Server::start([location]).await;

    let error = server
        .http()
        .work(&job("secret"))
        .await
        .expect_err("not done");

    assert!(
        matches!(&error, WorkError::Unreachable { why, .. } if why.contains("redirects")),
        "{error:?}"
    );
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        listener.local_addr().expect("bound")
    };

    let error = Under::of(&format!("http://{gone}/"), 5)
        .work(&job("?"))
        .await;

    assert_eq!(error, Err(WorkError::unreachable("connection refused")));
}

#[tokio::test]
async fn a_slow_answer_and_a_broken_one_are_failures() {
    let server = Server::start(["".into()]).await;
    let error = Under::of(&server.url, 1).work(&job("?")).await;
    assert_eq!(error, Err(WorkError::failed("no answer within 1 s")));

    let server = Server::start([
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nhalf".into(),
    ])
    .await;
    let error = server.http().work(&job("?")).await;
    let broke = "the connection broke before the answer was whole";
    assert_eq!(error, Err(WorkError::failed(broke)));
}

#[tokio::test]
async fn an_answer_that_no_message_can_carry_is_refused_whole() {
    let whole = "x".repeat(wire::message::MAX_BODY);
    let server = Server::start([
        ok("text/plain", &whole),
        ok("text/plain", &(whole.clone() + "x")),
        chunked(&[&whole, "x"]),
        ok("text/plain; odd=\u{e9}", "y"),
        ok(&format!("text/{}", "x".repeat(200)), "y"),
    ])
    .await;
    let http = server.http();

    assert_eq!(
        http.work(&job("1")).await.expect("fits").body.len(),
        whole.len()
    );
    for _ in 0..2 {
        let error = http.work(&job("2")).await.expect_err("too large");
        assert!(matches!(error, WorkError::Never { .. }), "{error:?}");
    }
    for _ in 0..2 {
        let done = http.work(&job("3")).await.expect("taken");
        assert_eq!(done.content_type, "application/octet-stream");
    }
}

#[tokio::test]
async fn parts_are_told_as_they_come_and_the_whole_is_the_answer() {
    let events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: one\n\ndata:  two\n\n";
    let server = Server::start([events.into(), chunked(&["a", "\u{df}"])]).await;
    let (parts, mut told) = Parts::channel(16);

    let (_cancel, cancelled) = Cancel::new();
    let http = server.http();
    let done = http.0.work(&job("?"), parts, cancelled).await;
    let done = done.expect("done");

    assert_eq!(&*done.body, b"one two");
    assert_eq!(done.content_type, "text/plain; charset=utf-8");
    let mut text = String::new();
    while let Ok(Part::Text(part)) = told.try_recv() {
        text.push_str(&part);
    }
    assert_eq!(text, "one two");
    assert!(
        server.asked()[0]
            .header("accept")
            .starts_with("text/event-stream")
    );
    let plain = http.work(&job("?")).await.expect("done");
    assert_eq!(&*plain.body, "a\u{df}".as_bytes());
}

#[tokio::test]
async fn a_cancelled_message_closes_its_connection() {
    let server = Server::start(["".into()]).await;
    let (cancel, cancelled) = Cancel::new();
    let (job, http) = (job("?"), server.http());
    let work = http.0.work(&job, Parts::default(), cancelled);

    let (ended, ()) = tokio::join!(work, async {
        while server.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cancel.now();
    });

    assert!(ended.is_err());
}

#[test]
fn plain_http_stays_on_this_host() {
    for fine in [
        "https://agent.example.com/x",
        "http://127.0.0.1:8080/",
        "http://localhost:1/",
        "http://[::1]:1/",
    ] {
        assert!(read_url(fine, false).is_ok(), "{fine}");
    }
    for wrong in [
        "http://agent.example.com/",
        "http://127.0.0.1.example.com/",
        "http://localhost.example.com/",
        "https://me:password@example.com/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "127.0.0.1:80",
        "",
    ] {
        assert!(read_url(wrong, false).is_err(), "{wrong}");
    }
    assert!(read_url("http://agent.example.com/", true).is_ok());
}

/// The worker, with what every call needs.
struct Under(Http);

impl Under {
    fn of(url: &str, timeout_s: u64) -> Self {
        let bounds = Bounds {
            timeout: Duration::from_secs(timeout_s),
            concurrency: 1,
        };
        Self(Http::new(url, false, &secret(), bounds).expect("a worker"))
    }

    async fn work(&self, job: &Job) -> Result<Done, WorkError> {
        let (_cancel, cancelled) = Cancel::new();
        self.0.work(job, Parts::default(), cancelled).await
    }
}

/// Gives one answer after the other; an empty one never comes.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Clone, Debug)]
struct Asked {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }
}

impl Server {
    async fn start<const N: usize>(answers: [String; N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}/hook?x=1", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (asked.clone(), Arc::new(Mutex::new(VecDeque::from(answers))));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, seen.clone(), answers.clone()));
            }
        });
        Self { url, asked }
    }

    fn http(&self) -> Under {
        Under::of(&self.url, 20)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

async fn answer(
    stream: TcpStream,
    seen: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<VecDeque<String>>>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let headers: Vec<(String, String)> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, value)| value.parse().expect("a number"));
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        seen.lock().expect("not poisoned").push(Asked {
            line: lines[0].clone(),
            headers,
            body,
        });
        let next = answers.lock().expect("not poisoned").pop_front();
        let next = next.expect("an answer is left");
        if next.is_empty() {
            return std::future::pending().await;
        }
        let closes = next.contains("Connection: close");
        // A client that has read enough goes away.
        let _ = stream.write_all(next.as_bytes()).await;
        if closes {
            return;
        }
    }
}

fn ok(content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn chunked(chunks: &[&str]) -> String {
    let mut text =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_owned();
    for chunk in chunks {
        text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    text + "0\r\n\r\n"
}

fn secret() -> Secret {
    serde_json::from_str(r#""whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz""#).expect("a secret")
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
        attempt: 3,
        reply_expected: true,
        in_reply_to: None,
        error: None,
        conversation: Some("c-1".into()),
        root: fresh_id(),
        depth: 0,
    }
}
