//! What every command knows: where state lives, whether to print JSON, and how to run what is
//! asynchronous.

use std::future::Future;
use std::io::Read;
use std::path::PathBuf;

use identity::UnixTime;

use crate::failure::Failure;
use crate::output::Output;

/// The global options.
#[derive(Clone, Debug)]
pub struct Context {
    state_dir: Option<PathBuf>,
    /// Whether facts are printed as JSON.
    pub json: bool,
}

/// Whose state; each has a default directory of its own, so that one user may play all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// `up`, `join` and every verb that speaks the local API.
    Gateway,
    /// `beacon`: in `beacon/`.
    Beacon,
    /// `init`, `invite`, `remove`, `renew`, `root`, `policy push`: in `operator/`.
    Operator,
}

impl Context {
    /// From the command line.
    pub fn new(state_dir: Option<PathBuf>, json: bool) -> Self {
        // Not by clap, for which a variable that is set to nothing is a mistake.
        let named = || std::env::var_os("CRABMESH_STATE_DIR").map(PathBuf::from);
        let state_dir = state_dir
            .or_else(named)
            .filter(|dir| !dir.as_os_str().is_empty());
        Self { state_dir, json }
    }

    /// The state directory: `--state-dir`, `CRABMESH_STATE_DIR`, or `crabmesh` per XDG; in it a
    /// beacon and an operator have a directory of their own. It need not exist.
    pub fn state_dir(&self, owner: Owner) -> Result<PathBuf, Failure> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|dir| dir.is_absolute())
        };
        let home = || {
            let state = absolute("XDG_STATE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
            state.map(|state| state.join("crabmesh"))
        };
        let Some(base) = self.state_dir.clone().or_else(home) else {
            return Err(Failure::usage("neither HOME nor XDG_STATE_HOME is set")
                .hint("name a directory with --state-dir"));
        };
        Ok(match owner {
            Owner::Gateway => base,
            Owner::Beacon => base.join("beacon"),
            Owner::Operator => base.join("operator"),
        })
    }

    /// Whether the directory was named, not defaulted: then it belongs into hints.
    pub fn state_dir_named(&self) -> bool {
        self.state_dir.is_some()
    }

    /// Where results go.
    pub fn output(&self) -> Output {
        Output::new(self.json)
    }

    /// Runs a future to its end on a runtime of one thread.
    pub fn block_on<T>(
        &self,
        future: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        runtime.block_on(future)
    }
}

/// The argument, or stdin where it is `-`. At most `most` bytes.
pub fn argument_or_stdin(argument: &str, most: usize) -> Result<Vec<u8>, Failure> {
    if argument != "-" {
        return Ok(argument.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    std::io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::failed(format!("cannot read stdin: {error}")))?;
    if bytes.len() > most {
        return Err(Failure::usage(format!(
            "stdin holds more than {most} bytes"
        )));
    }
    Ok(bytes)
}

/// The wall clock, for dates in signed documents.
pub fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime(since.map_or(0, |since| since.as_secs()))
}

/// The moment of an option like `--at`: now where there is none.
pub fn moment(at: Option<&str>) -> Result<UnixTime, Failure> {
    let Some(text) = at else {
        return Ok(now());
    };
    policy::parse_time(text).ok_or_else(|| {
        Failure::usage(format!("--at {text:?} is no date and time"))
            .hint("write it with its offset: 2026-12-31T00:00:00Z (RFC 3339)")
    })
}

/// Random bytes of the operating system, for keys.
pub fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(Failure::failed(format!(
            "the system gives no random bytes: {error}"
        ))),
    }
}

/// Sends the log to stderr, filtered by `CRABMESH_LOG` or else by `filter`. For the commands that
/// stay: `up` and `beacon`.
pub fn start_log(filter: &str) -> Result<(), Failure> {
    use std::io::IsTerminal;

    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::util::SubscriberInitExt;

    let wanted = std::env::var("CRABMESH_LOG").unwrap_or_else(|_| filter.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        Failure::usage(format!("the log filter {wanted:?} makes no sense: {error}"))
    })?;
    // It logs whole messages, bodies and all.
    let loud = filter_fn(|metadata| !metadata.target().starts_with("rmcp"));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(loud);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| Failure::failed(format!("cannot start the log: {error}")))
}
