//! `http`: each message is a signed POST, and what comes back is the reply.
//!
//! The body is the message's body under its content type; what is known of it is in `Crabmesh-*`
//! headers; the signature is that of Standard Webhooks, which libraries in every language verify.
//! The same message has the same `webhook-id` each time, so a receiver that remembers ids does
//! nothing twice.
//!
//! **Invariants.** No redirect is followed and no proxy of the environment used: the body goes to the
//! host that the admin named, and to no other. No more than one message's worth of an answer is read.

mod answer;
mod signature;

#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::api::Kind;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, Url};

use super::{AttachError, Bounds, Cancelled, Done, Job, Parts, Secret, WorkError, Worker, Working};
use signature::Signer;
pub(super) use signature::make_secret;

/// The worker.
pub(super) struct Http {
    client: Client,
    url: Url,
    signer: Signer,
    bounds: Bounds,
}

impl Http {
    pub(super) fn new(
        url: &str,
        insecure_http: bool,
        secret: &Secret,
        bounds: Bounds,
    ) -> Result<Self, AttachError> {
        let url = read_url(url, insecure_http)?;
        let signer = Signer::new(secret)?;
        let client = client(&url, bounds)?;
        Ok(Self {
            client,
            url,
            signer,
            bounds,
        })
    }

    async fn post(&self, job: &Job, parts: Parts) -> Result<Done, WorkError> {
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers(job, parts.wanted()))
            .body(job.body.clone());
        let response = request.send().await.map_err(|error| self.fault(&error))?;
        judge(response.status(), response.headers())?;
        self.answer(response, parts).await
    }

    fn headers(&self, job: &Job, parts_wanted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let (id, now) = (job.id.to_string(), unix_s());
        let signature = self.signer.sign(&id, now, &job.body);
        let mut put = |name: &'static str, value: &str| {
            // Ids, names, codes and numbers: what is no header value is none of these.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put("content-type", &job.content_type);
        put("accept", if parts_wanted { STREAMS } else { "*/*" });
        put("webhook-id", &id);
        put("webhook-timestamp", &now.to_string());
        put("webhook-signature", &signature);
        put("crabmesh-from", &job.from.to_string());
        put("crabmesh-to", &job.to.to_string());
        put("crabmesh-kind", job.kind.as_str());
        put("crabmesh-attempt", &job.attempt.to_string());
        put(
            "crabmesh-reply-expected",
            if job.reply_expected { "1" } else { "0" },
        );
        if parts_wanted {
            put("crabmesh-stream", "1");
        }
        if let Some(of) = &job.in_reply_to {
            put("crabmesh-in-reply-to", &of.to_string());
        }
        if let Some(error) = &job.error {
            put("crabmesh-error", &error.code);
        }
        if let Some(conversation) = &job.conversation {
            put("crabmesh-conversation", conversation);
        }
        headers
    }

    /// What went wrong on the way, in our own words: an error's own text may quote what a server said.
    fn fault(&self, error: &reqwest::Error) -> WorkError {
        if error.is_connect() {
            let refused = io_kind(error) == Some(io::ErrorKind::ConnectionRefused);
            return WorkError::unreachable(match refused {
                true => "connection refused",
                false if error.is_timeout() => "no connection in time",
                false => "cannot connect: its name, its TLS or the way to it",
            });
        }
        if error.is_timeout() {
            let seconds = self.bounds.timeout.as_secs();
            return WorkError::failed(format!("no answer within {seconds} s"));
        }
        WorkError::failed("the connection broke before the answer was whole")
    }
}

impl Worker for Http {
    fn work<'a>(&'a self, job: &'a Job, parts: Parts, mut cancelled: Cancelled) -> Working<'a> {
        Box::pin(async move {
            tokio::select! {
                biased;
                // Its connection is closed, and that is how the receiver hears of it.
                () = cancelled.wait() => Err(WorkError::never("cancelled")),
                done = self.post(job, parts) => match job.kind {
                    Kind::Message => done,
                    // Nobody waits for what is said to it.
                    Kind::Reply | Kind::Failure => done.map(|_| Done::silent()),
                },
            }
        })
    }

    fn concurrency(&self) -> usize {
        self.bounds.concurrency
    }
}

/// Whether a status is a yes, and if not, whether it may become one.
fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), WorkError> {
    if status.is_success() {
        return Ok(());
    }
    let why = format!("HTTP {}", status.as_u16());
    let after = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    Err(match status {
        // It does not know us, or is elsewhere: for the admin to set right, and no message's fault.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED => WorkError::Unreachable { why, after },
        _ if status.is_redirection() => WorkError::unreachable(format!(
            "{why}: redirects are not followed; give the last URL"
        )),
        // Not now.
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => WorkError::Unreachable { why, after },
        _ if status.is_server_error() => WorkError::Failed { why, after },
        _ => WorkError::Never { why },
    })
}

/// A client for one server of the admin's choice.
pub(super) fn client(url: &Url, bounds: Bounds) -> Result<Client, AttachError> {
    let mut client = Client::builder();
    if url.scheme() == "http" {
        // A host without the certificates of any authority can still speak to itself.
        client = client.tls_certs_only([]);
    }
    client
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(CONNECT_WITHIN.min(bounds.timeout))
        .timeout(bounds.timeout)
        .user_agent(concat!("crabmesh/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|_| {
            AttachError(
                "TLS does not start: this host has no certificates of authorities; hint: install ca-certificates"
                    .into(),
            )
        })
}

pub(super) fn read_url(text: &str, insecure_http: bool) -> Result<Url, AttachError> {
    let wrong = |why: String| Err(AttachError(why));
    if text.len() > URL_MAX {
        return wrong(format!("the URL is longer than {URL_MAX} bytes"));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return wrong(format!("the URL makes no sense: {error}")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return wrong(
            "a URL is shown to whoever lists the agents: it must hold no password".into(),
        );
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if insecure_http || is_this_host(&url) => Ok(url),
        "http" => wrong(
            "http to another host is readable and changeable on the way; hint: https, or --insecure-http"
                .into(),
        ),
        other => wrong(format!("{other}: is neither https nor http")),
    }
}

fn is_this_host(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || literal
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    None
}

fn unix_s() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs()
}

/// Messages at once.
pub(super) const CONCURRENCY: usize = 8;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const URL_MAX: usize = 2048;
const STREAMS: &str = "text/event-stream, text/plain;q=0.9, */*;q=0.5";
