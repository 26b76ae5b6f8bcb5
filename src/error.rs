//! What can go wrong on the command line. Each error says what happened and, where there is one, what to do next; its
//! class fixes the exit code that the help promises.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The work was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// The command line, or something that it names, is not right.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    /// Nobody answers, or whoever does refuses the token.
    #[error("{0}")]
    Unreachable(String),
    /// Refused for now, by something else that is going on.
    #[error("{0}")]
    Conflict(String),
    /// A change that is not over, or of which nobody knows how it ended.
    #[error("{0}")]
    Unsettled(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Whoever read our output has left (`steady logs x | head`): not a failure.
    #[error("the reader of our output has left")]
    PipeClosed,
}

impl Error {
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::File { path: path.to_owned(), source }
    }

    /// The class as a number, as `--help` lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Error::PipeClosed => 0,
            Error::Failed(_) | Error::File { .. } => 1,
            Error::Usage(_) => 2,
            Error::NotFound(_) => 3,
            Error::Unreachable(_) => 4,
            Error::Conflict(_) => 5,
            Error::Unsettled(_) => 6,
        })
    }

    /// The class as a word, for `--json`.
    pub fn class(&self) -> &'static str {
        match self {
            Error::Failed(_) | Error::File { .. } | Error::PipeClosed => "failed",
            Error::Usage(_) => "usage",
            Error::NotFound(_) => "not_found",
            Error::Unreachable(_) => "unreachable",
            Error::Conflict(_) => "conflict",
            Error::Unsettled(_) => "unsettled",
        }
    }
}
