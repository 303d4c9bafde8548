//! How a command ends when it does not end well: one sentence, one hint, one exit code.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// What the exit code tells scripts; stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It is done.
    Done = 0,
    /// Anything that has no code of its own.
    Failed = 1,
    /// The command line or a file named by it makes no sense.
    Usage = 2,
    /// The policy forbids it.
    Denied = 3,
    /// Not within the time; or the message expired.
    TimedOut = 4,
    /// The local node does not answer.
    NoNode = 5,
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    sentence: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure with an exit code of its own.
    pub fn new(exit: Exit, sentence: impl Into<String>) -> Self {
        Self {
            exit,
            sentence: sentence.into(),
            hint: None,
        }
    }

    /// Exit 1.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self::new(Exit::Failed, sentence)
    }

    /// Exit 2.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self::new(Exit::Usage, sentence)
    }

    /// Exit 5, with its hint.
    pub fn no_node(sentence: impl Into<String>) -> Self {
        Self::new(Exit::NoNode, sentence)
            .hint("start it with `crabmesh up`, or name its state with --state-dir")
    }

    /// The one thing to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Says it on stderr. A failure without words was told before.
    pub fn report(self) -> ExitCode {
        if !self.sentence.is_empty() {
            let mut err = io::stderr().lock();
            // Nowhere is left to say that stderr is closed.
            let _ = writeln!(err, "crabmesh: {}", self.sentence);
            if let Some(hint) = &self.hint {
                let _ = writeln!(err, "hint: {hint}");
            }
        }
        self.exit.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<io::Error> for Failure {
    /// A reader that has gone away (`| head`) is no failure of ours.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    /// The whole chain in one sentence; a `hint: …` that an error carries becomes the hint.
    fn from(error: anyhow::Error) -> Self {
        let chain = format!("{error:#}");
        match chain.split_once("; hint: ") {
            Some((sentence, hint)) => Self::failed(sentence).hint(hint),
            None => Self::failed(chain),
        }
    }
}

impl From<node::state::StateError> for Failure {
    fn from(error: node::state::StateError) -> Self {
        anyhow::Error::from(error).into()
    }
}
