//! The two listeners: where they are, who may open them, and the note that says so.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::Endpoints;
use data_encoding::HEXLOWER;
use tokio::net::{TcpListener, UnixListener};
use zeroize::Zeroizing;

use super::ApiConfig;
use crate::agents;
use crate::files;
use crate::state::{StateDir, StateError};

/// Both listeners, bound.
pub(super) struct Listeners {
    pub(super) unix: UnixListener,
    pub(super) tcp: TcpListener,
    pub(super) endpoints: Endpoints,
}

impl Listeners {
    pub(super) async fn bind(state: &StateDir, config: &ApiConfig) -> Result<Self, ApiError> {
        let last: Option<Endpoints> = state.read_json(files::API).unwrap_or(None);
        let socket = socket_path(state, config)?;
        let unix = bind_unix(&socket, config)?;
        let last = last.map_or(0, |last| last.loopback.port());
        let tcp = bind_tcp(config.port, last).await?;
        let loopback = tcp
            .local_addr()
            .map_err(|source| ApiError::Loopback { port: 0, source })?;
        let endpoints = Endpoints { socket, loopback };
        state.write_json(files::API, &endpoints)?;
        Ok(Self {
            unix,
            tcp,
            endpoints,
        })
    }
}

/// The admin token, made at the first start.
pub(super) fn admin_token(state: &StateDir) -> Result<Zeroizing<String>, ApiError> {
    if let Some(bytes) = state.read(files::ADMIN_TOKEN)? {
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes)
            .map(str::trim)
            .unwrap_or_default();
        if text.starts_with(ADMIN_PREFIX) && text.len() >= ADMIN_PREFIX.len() + 43 {
            return Ok(Zeroizing::new(text.to_owned()));
        }
        return Err(ApiError::AdminToken(state.file(files::ADMIN_TOKEN)));
    }
    let token = agents::secret(ADMIN_PREFIX).map_err(|_| ApiError::Random)?;
    state.write(files::ADMIN_TOKEN, token.as_bytes())?;
    Ok(token)
}

fn socket_path(state: &StateDir, config: &ApiConfig) -> Result<PathBuf, ApiError> {
    if let Some(path) = &config.socket {
        return Ok(path.clone());
    }
    // Absolute, so that a client in another directory finds it.
    let home = state
        .path()
        .canonicalize()
        .map_err(|source| ApiError::socket(state.path(), source))?;
    let path = home.join("api.sock");
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(path);
    }
    let name = agents::sha256(&home.to_string_lossy());
    let runtime = runtime_dir()?;
    Ok(runtime.join(format!("{}.sock", HEXLOWER.encode(&name[..8]))))
}

/// A directory of this user's alone, with a short path.
fn runtime_dir() -> Result<PathBuf, ApiError> {
    let uid = rustix::process::geteuid().as_raw();
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let given = given.filter(|dir| dir.is_absolute() && dir.as_os_str().len() < 60 && dir.is_dir());
    let dir = match given {
        Some(dir) => dir.join("crabmesh"),
        None => PathBuf::from(format!("/tmp/crabmesh-{uid}")),
    };
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ApiError::socket(&dir, error));
        }
        _ => {}
    }
    // Whoever made it before: a link, or another's directory, is not ours to use.
    let facts = std::fs::symlink_metadata(&dir).map_err(|source| ApiError::socket(&dir, source))?;
    match facts.is_dir() && facts.uid() == uid && facts.permissions().mode() & 0o077 == 0 {
        true => Ok(dir),
        false => Err(ApiError::RuntimeDir(dir)),
    }
}

fn bind_unix(path: &Path, config: &ApiConfig) -> Result<UnixListener, ApiError> {
    let failed = |source| ApiError::socket(path, source);
    // The state directory is locked by this process, so what is there is a dead node's.
    match std::fs::symlink_metadata(path) {
        Ok(facts) if std::os::unix::fs::FileTypeExt::is_socket(&facts.file_type()) => {
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // With configured admins others must be able to connect: the uid of each is checked.
    let mode = if config.admin_uids.is_empty() {
        0o600
    } else {
        0o666
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// The configured port; or the last one, since agents were told it; or any.
async fn bind_tcp(configured: u16, last: u16) -> Result<TcpListener, ApiError> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if configured == 0
        && last != 0
        && let Ok(listener) = TcpListener::bind(at(last)).await
    {
        return Ok(listener);
    }
    TcpListener::bind(at(configured))
        .await
        .map_err(|source| ApiError::Loopback {
            port: configured,
            source,
        })
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The unix socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The loopback port cannot be had.
    #[error("cannot listen on port {port} of 127.0.0.1")]
    Loopback {
        /// 0 where any would do.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else prepared the directory of the socket.
    #[error("{} is not this user's alone; hint: remove it, or choose a shorter --state-dir", .0.display())]
    RuntimeDir(PathBuf),
    /// The file does not hold an admin token.
    #[error("{} holds no admin token; hint: remove it, and the next start makes another", .0.display())]
    AdminToken(PathBuf),
    /// The kernel gave no randomness.
    #[error("the kernel gives no random bytes")]
    Random,
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
}

impl ApiError {
    fn socket(path: &Path, source: io::Error) -> Self {
        Self::Socket {
            path: path.into(),
            source,
        }
    }
}

/// What the admin token begins with.
const ADMIN_PREFIX: &str = "cmadmin_";

/// `sun_path` has 108 bytes with its end (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
