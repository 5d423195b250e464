//! Why a command fails, in the words that go after `Error: `.

use std::io;

use isobar_client::{ApiErrorBody, ClientError, FetchError};

/// Why a command fails. `Display` is what stands after `Error: `.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The server, or the way to it.
    #[error("{0}")]
    Client(#[from] ClientError),

    /// What the server said, and what to do about it.
    #[error("{error}\n{hint}")]
    Hinted { error: Box<ClientError>, hint: String },

    /// A file at a URL.
    #[error("{0}")]
    Fetch(#[from] FetchError),

    /// The command line itself is wrong; `usage` says how it is right.
    #[error("{message}")]
    Usage { message: String, usage: String },

    /// A text of our own.
    #[error("{0}")]
    Text(String),

    /// A file, standard input or standard output.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },

    /// The reader of the output has gone away: nobody is left to tell.
    #[error("standard output is closed")]
    Closed,
}

impl CliError {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Writing to standard output failed.
    pub(crate) fn stdout(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::Io {
            what: "standard output".to_owned(),
            source,
        }
    }

    /// What the server says is DRP's; what to do about it is not.
    pub(crate) fn advised(self) -> Self {
        match self {
            Self::Client(error @ (ClientError::Api(_) | ClientError::Status { .. })) => {
                let hint = match &error {
                    ClientError::Api(body) => advice(body),
                    // Without a word, as DRP refuses who it does not know.
                    ClientError::Status { status: 401 | 403, .. } => {
                        Some("wrong name or password, or no right: set RS_KEY=user:password")
                    }
                    _ => None,
                };
                Self::hinted(error, hint.map(str::to_owned))
            }
            other => other,
        }
    }

    /// Adds advice to what the server said.
    pub(crate) fn hinted(error: ClientError, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => Self::Hinted {
                error: Box::new(error),
                hint,
            },
            None => Self::Client(error),
        }
    }
}

/// What to try after a refusal: status, how one of the messages begins (empty: any), advice. The first that fits.
const ADVICE: &[(u16, &str, &str)] = &[
    (
        403,
        "Validation failed",
        "the token is not valid, or no longer: unset RS_TOKEN and set RS_KEY=user:password, or get a new one with `isobar \
         users token NAME`",
    ),
    (
        403,
        "",
        "log in as somebody whose roles allow it: `isobar users show NAME` shows the roles, `isobar roles show ROLE` their \
         claims",
    ),
    (
        404,
        "No route",
        "this server does not have that: `isobar info status` says which it is",
    ),
    (
        409,
        "Patch error",
        "somebody else changed it in between: look at it, then give the command again",
    ),
    (409, "already exists", "`update` or `upload` change what is there"),
];

fn advice(body: &ApiErrorBody) -> Option<&'static str> {
    let fits = |(code, begins, _): &&(u16, &str, &str)| {
        *code == body.code && (begins.is_empty() || body.messages.iter().any(|message| message.starts_with(begins)))
    };
    ADVICE.iter().find(fits).map(|(.., advice)| *advice)
}
