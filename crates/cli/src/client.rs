//! The way to the node's local API: finds it, proves who asks, and keeps one connection.
//!
//! On the unix socket both ends check the other: a server under another uid than the owner of the
//! state is not our node, and is shown no token.

mod events;
mod upload;

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{AGENT_HEADER, Endpoints, ErrorAnswer};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use identity::AgentName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use crate::context::{Context, Owner};
use crate::failure::{Exit, Failure};

pub use events::{Event, Events, Stream};
use upload::Sending;
pub use upload::Upload;

/// `--as NAME` and where its token is.
#[derive(Clone, Debug, clap::Args)]
pub struct AsAgent {
    /// The local agent: by CRABMESH_TOKEN, --token-file, or the node's admin token (audited)
    #[arg(long = "as", value_name = "NAME", id = "as_agent")]
    pub name: AgentName,
    /// A file with the agent's API token
    #[arg(long, value_name = "F")]
    pub token_file: Option<PathBuf>,
}

/// The same where it may be left out: then the admin asks.
#[derive(Clone, Debug, clap::Args)]
pub struct MaybeAsAgent {
    /// Ask as this local agent: by CRABMESH_TOKEN, --token-file, or the node's admin token (audited)
    #[arg(long = "as", value_name = "NAME", id = "as_agent")]
    pub name: Option<AgentName>,
    /// A file with the agent's API token
    #[arg(long, value_name = "F", requires = "as_agent")]
    pub token_file: Option<PathBuf>,
}

/// One caller of the local API.
pub struct Client {
    place: Place,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    connection: Option<SendRequest<Sending>>,
}

/// Where the node is looked for; looked up anew for each connection, as a restart may move it.
#[derive(Clone, Debug)]
enum Place {
    StateDir(PathBuf),
    Socket(PathBuf),
    Loopback(SocketAddr),
}

/// An answer, whole.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// A call without an answer.
pub enum Unanswered {
    /// It never reached the node.
    Unsaid(Failure),
    /// It may have.
    Broken(Failure),
}

impl Client {
    /// For an agent.
    pub fn for_agent(context: &Context, who: &AsAgent) -> Result<Self, Failure> {
        Self::new(context, Some(who.name.clone()), who.token_file.as_deref())
    }

    /// For an agent where one is named, for the admin otherwise.
    pub fn for_anyone(context: &Context, who: &MaybeAsAgent) -> Result<Self, Failure> {
        Self::new(context, who.name.clone(), who.token_file.as_deref())
    }

    /// For the admin.
    pub fn for_admin(context: &Context) -> Result<Self, Failure> {
        Self::new(context, None, None)
    }

    /// For whoever has this token.
    pub fn with_token(context: &Context, token: Zeroizing<String>) -> Result<Self, Failure> {
        let place = Place::find(context)?;
        Ok(Self {
            host: place.host()?,
            place,
            authorization: Some(authorization(token)?),
            agent: None,
            connection: None,
        })
    }

    fn new(
        context: &Context,
        agent: Option<AgentName>,
        token_file: Option<&Path>,
    ) -> Result<Self, Failure> {
        let place = Place::find(context)?;
        let token = match (&agent, token_file) {
            (_, Some(file)) => Some(read_token(file)?),
            (Some(_), None) => std::env::var("CRABMESH_TOKEN")
                .ok()
                .filter(|t| !t.is_empty())
                .map(Zeroizing::new),
            (None, None) => None,
        };
        let token = match (token, &place) {
            (Some(token), _) => Some(token),
            (None, Place::StateDir(dir)) => Some(admin_token(dir)?),
            // A configured admin of another user is known by its uid.
            (None, Place::Socket(_)) => None,
            (None, Place::Loopback(_)) => {
                return Err(
                    Failure::usage("the API on loopback takes an agent's token only")
                        .hint("set CRABMESH_TOKEN and --as NAME"),
                );
            }
        };
        let host = place.host()?;
        let agent = agent.map(|agent| HeaderValue::try_from(agent.as_str()));
        let agent = agent.transpose();
        Ok(Self {
            place,
            host,
            authorization: token.map(authorization).transpose()?,
            agent: agent.map_err(|error| Failure::failed(error.to_string()))?,
            connection: None,
        })
    }

    /// Reads.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None, CALL_TIMEOUT)
            .await?
            .read()
    }

    /// Reads, and returns the answer whatever it is.
    pub async fn get_raw(&mut self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::GET, path, None, CALL_TIMEOUT).await
    }

    /// Does.
    pub async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.post_raw(path, body, Duration::ZERO).await?.read()
    }

    /// Does, and returns the answer whatever it is; the node may take `within`.
    pub async fn post_raw(
        &mut self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::failed(error.to_string()))?;
        self.call(Method::POST, path, Some(body.into()), within + CALL_TIMEOUT)
            .await
    }

    /// Removes.
    pub async fn delete(&mut self, path: &str) -> Result<(), Failure> {
        self.delete_raw(path).await?.done()
    }

    /// Removes, and returns the answer whatever it is.
    pub async fn delete_raw(&mut self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::DELETE, path, None, CALL_TIMEOUT).await
    }

    /// What waits for the agent and what comes, on a connection of its own.
    pub async fn follow(&mut self) -> Result<Stream, Failure> {
        match self
            .events(Method::GET, "/v1/messages/stream", None)
            .await?
        {
            Ok(events) => Ok(Stream::new(events)),
            Err(answer) => {
                answer.done()?;
                Err(Failure::failed("the node answers with no stream"))
            }
        }
    }

    /// A call that is answered by a stream of events, on a connection of its own; or by a refusal.
    pub async fn events(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Result<Events, Answer>, Failure> {
        let mut connection = self.connect().await?;
        let request = self.request(method, path, body)?;
        let response = tokio::time::timeout(CALL_TIMEOUT, connection.send_request(request)).await;
        let response = response
            .map_err(|_| self.silent())?
            .map_err(|error| self.broken(&error))?;
        if !response.status().is_success() {
            let refused = collect(response).await;
            return Ok(Err(refused.map_err(|error| self.broken(&error))?));
        }
        Ok(Ok(Events::new(response.into_body())))
    }

    /// Begins a call whose body is sent line by line, on a connection of its own.
    pub async fn upload(&self, path: &str) -> Result<Upload, Failure> {
        let mut connection = self.connect().await?;
        let mut request = self.request(Method::POST, path, None)?;
        let ndjson = HeaderValue::from_static("application/x-ndjson");
        request.headers_mut().insert(CONTENT_TYPE, ndjson);
        let (lines, body) = upload::lines();
        *request.body_mut() = Either::Right(body);
        let answer = tokio::spawn(async move {
            let response = connection.send_request(request).await?;
            collect(response).await
        });
        Ok(Upload { lines, answer })
    }

    /// One exchange with `/mcp`, on a connection of its own; the answer's body comes as it comes.
    pub async fn mcp(
        &self,
        method: Method,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Option<Bytes>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut connection = self.connect().await.map_err(Unanswered::Unsaid)?;
        let request = self.request(method, "/mcp", body);
        let mut request = request.map_err(Unanswered::Unsaid)?;
        let accept = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(ACCEPT, accept);
        request.headers_mut().extend(headers);
        let answered = tokio::time::timeout(CALL_TIMEOUT, connection.send_request(request)).await;
        match answered {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Unanswered::Broken(self.broken(&error))),
            Err(_) => Err(Unanswered::Broken(self.silent())),
        }
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        within: Duration,
    ) -> Result<Answer, Failure> {
        let exchange = self.exchange(method, path, body);
        match tokio::time::timeout(within, exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                self.connection = None;
                Err(self.silent())
            }
        }
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Answer, Failure> {
        loop {
            let kept = self.connection.take();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let request = self.request(method.clone(), path, body.clone())?;
            let sent = match connection.ready().await {
                Ok(()) => connection.send_request(request).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(response) => {
                    let answer = collect(response)
                        .await
                        .map_err(|error| self.broken(&error))?;
                    self.connection = Some(connection);
                    return Ok(answer);
                }
                // A kept connection that the node closed meanwhile took nothing of the call.
                Err(error) if !fresh && (error.is_canceled() || error.is_closed()) => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Request<Sending>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(agent) = &self.agent {
            request = request.header(HeaderName::from_static(AGENT_HEADER), agent.clone());
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request
            .body(Either::Left(Full::new(body.unwrap_or_default())))
            .map_err(|error| Failure::failed(format!("cannot ask for {path}: {error}")))
    }

    async fn connect(&self) -> Result<SendRequest<Sending>, Failure> {
        let handshake = match &self.place {
            Place::Loopback(address) => {
                let stream = TcpStream::connect(address).await;
                let stream = stream.map_err(|error| no_answer(&address.to_string(), &error))?;
                // A call is one write; waiting for more to send would only delay it.
                let _ = stream.set_nodelay(true);
                let (sender, connection) = http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| self.broken(&error))?;
                tokio::spawn(connection);
                return Ok(sender);
            }
            Place::Socket(path) => {
                let owner = std::fs::symlink_metadata(path)
                    .map_err(|error| no_answer(&path.display().to_string(), &error))?
                    .uid();
                open_socket(path, owner).await?
            }
            Place::StateDir(dir) => {
                let (endpoints, owner) = endpoints(dir)?;
                open_socket(&endpoints.socket, owner).await?
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(handshake))
            .await
            .map_err(|error| self.broken(&error))?;
        // It ends with its sender; what goes wrong on it is told by the call.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn silent(&self) -> Failure {
        Failure::no_node("the local node does not answer in time")
    }

    fn broken(&self, error: &hyper::Error) -> Failure {
        Failure::no_node(format!("the local node broke off: {error}"))
    }
}

impl Place {
    fn find(context: &Context) -> Result<Self, Failure> {
        let Some(named) = std::env::var("CRABMESH_API")
            .ok()
            .filter(|named| !named.is_empty())
        else {
            return Ok(Self::StateDir(context.state_dir(Owner::Gateway)?));
        };
        if let Some(address) = named.strip_prefix("http://") {
            let address: SocketAddr = address
                .trim_end_matches('/')
                .replace("localhost:", "127.0.0.1:")
                .parse()
                .map_err(|_| {
                    Failure::usage("CRABMESH_API is http://127.0.0.1:PORT or a socket path")
                })?;
            // A token is never sent further than this host.
            return match address.ip().is_loopback() {
                true => Ok(Self::Loopback(address)),
                false => Err(Failure::usage(
                    "CRABMESH_API names another host; the API is for its own host",
                )),
            };
        }
        let path = PathBuf::from(named.strip_prefix("unix:").unwrap_or(&named));
        match path.is_absolute() {
            true => Ok(Self::Socket(path)),
            false => Err(Failure::usage(
                "CRABMESH_API is http://127.0.0.1:PORT or the absolute path of a socket",
            )),
        }
    }
}

impl Place {
    fn host(&self) -> Result<HeaderValue, Failure> {
        match self {
            Self::Loopback(address) => HeaderValue::try_from(address.to_string())
                .map_err(|error| Failure::failed(error.to_string())),
            _ => Ok(HeaderValue::from_static("crabmesh")),
        }
    }
}

/// The socket of the node of this state directory.
pub fn socket(context: &Context) -> Result<PathBuf, Failure> {
    match Place::find(context)? {
        Place::StateDir(dir) => Ok(endpoints(&dir)?.0.socket),
        Place::Socket(path) => Ok(path),
        Place::Loopback(address) => Err(Failure::usage(format!("{address} is no socket"))),
    }
}

/// Where the node of this state directory serves agents: loopback TCP.
pub fn loopback(context: &Context) -> Result<SocketAddr, Failure> {
    match Place::find(context)? {
        Place::StateDir(dir) => Ok(endpoints(&dir)?.0.loopback),
        Place::Loopback(address) => Ok(address),
        Place::Socket(path) => Err(Failure::usage(format!(
            "{} alone does not say where the node serves agents",
            path.display()
        ))
        .hint("name the node's state with --state-dir")),
    }
}

impl Answer {
    /// Whether it is a refusal of this code.
    pub fn is_refused(&self, code: &str) -> bool {
        let refused = serde_json::from_slice::<ErrorAnswer>(&self.body);
        !self.status.is_success() && refused.is_ok_and(|it| it.error.code == code)
    }

    /// The value of an answer that is well.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Failure> {
        if !self.status.is_success() {
            return Err(self.failure());
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::failed(format!("the node answers with something else: {error}"))
                .hint("the node and this command may be of different versions")
        })
    }

    /// An answer that is well and says no more.
    pub fn done(self) -> Result<(), Failure> {
        match self.status.is_success() {
            true => Ok(()),
            false => Err(self.failure()),
        }
    }

    fn failure(&self) -> Failure {
        match serde_json::from_slice::<ErrorAnswer>(&self.body) {
            Ok(answer) => failure_of(&answer.error),
            Err(_) => Failure::failed(format!("the node answers with {}", self.status)),
        }
    }
}

/// The policy in force at the local node.
pub fn policy(context: &Context) -> Result<api::Policy, Failure> {
    let mut client = Client::for_admin(context)?;
    context.block_on(async move { client.get("/v1/policy").await })
}

/// What the API refused, in the words and exit codes of the command line.
pub fn failure_of(failure: &api::Failure) -> Failure {
    let exit = match failure.code.as_str() {
        "denied" | "no_policy" | "blocked" => Exit::Denied,
        "timeout" | "expired" => Exit::TimedOut,
        "schema" => Exit::Usage,
        "stopping" => Exit::NoNode,
        _ => Exit::Failed,
    };
    let sentence = match failure.code.as_str() {
        "denied" => format!("denied by policy: {}", failure.reason),
        _ => failure.reason.clone(),
    };
    let told = Failure::new(exit, crate::terminal::printable(&sentence));
    match (&failure.missing_grant, &failure.hint, failure.code.as_str()) {
        (Some(grant), _, _) => told.hint(format!(
            "this grant is missing: {}",
            crate::terminal::printable(grant)
        )),
        (None, Some(hint), _) => told.hint(hint),
        (None, None, "unauthorized") => {
            told.hint("the token is wrong, or was replaced by `crabmesh agent rotate`")
        }
        (None, None, _) => told,
    }
}

async fn collect(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, body })
}

async fn open_socket(path: &Path, owner: u32) -> Result<UnixStream, Failure> {
    let place = path.display().to_string();
    let stream = UnixStream::connect(path)
        .await
        .map_err(|error| no_answer(&place, &error))?;
    let server = stream
        .peer_cred()
        .map_err(|error| no_answer(&place, &error))?
        .uid();
    match server == owner {
        true => Ok(stream),
        false => Err(Failure::failed(format!(
            "{place} is served by user {server}, not by its owner {owner}"
        ))
        .hint("somebody may be after tokens; look who listens there")),
    }
}

/// Where the node of that state directory listens, and who owns the directory.
fn endpoints(dir: &Path) -> Result<(Endpoints, u32), Failure> {
    let owner = std::fs::metadata(dir)
        .map_err(|error| no_answer(&dir.display().to_string(), &error))?
        .uid();
    let file = dir.join(node::files::API);
    let bytes =
        std::fs::read(&file).map_err(|error| no_answer(&dir.display().to_string(), &error))?;
    let endpoints = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::failed(format!("{} makes no sense: {error}", file.display())))?;
    Ok((endpoints, owner))
}

fn admin_token(dir: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = dir.join(node::files::ADMIN_TOKEN);
    match std::fs::read_to_string(&file) {
        Ok(token) => Ok(Zeroizing::new(token.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Failure::failed(
            format!("{} is not for this user", file.display()),
        )
        .hint("set CRABMESH_API and CRABMESH_TOKEN as `crabmesh agent add` printed them")),
        Err(error) => Err(no_answer(&dir.display().to_string(), &error)),
    }
}

fn read_token(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn authorization(token: Zeroizing<String>) -> Result<HeaderValue, Failure> {
    let text = Zeroizing::new(format!("Bearer {}", token.as_str()));
    let mut value = HeaderValue::try_from(text.as_str())
        .map_err(|_| Failure::usage("the token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn no_answer(place: &str, error: &std::io::Error) -> Failure {
    Failure::no_node(format!(
        "the local node does not answer at {place}: {error}"
    ))
}

/// What the node needs for any call that waits for nobody.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
