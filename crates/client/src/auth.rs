//! Credentials, kept out of `Debug`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Text that must not be printed: a password or a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. What it is written to must be private.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How a request says who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// User and password (RFC 7617).
    Basic {
        /// Name of the user.
        user: String,
        /// The user's password.
        password: Secret,
    },
    /// A token from `/users/NAME/token` or from the agent's exchange (RFC 6750).
    Token(Secret),
    /// No `Authorization` header.
    None,
}

impl Auth {
    /// User and password.
    pub fn basic(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Basic {
            user: user.into(),
            password: Secret::new(password),
        }
    }

    /// A token.
    pub fn token(token: impl Into<String>) -> Self {
        Self::Token(Secret::new(token))
    }

    /// Value of the `Authorization` header, if one is to be sent.
    pub(crate) fn header(&self) -> Option<String> {
        match self {
            Self::Basic { user, password } => Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{user}:{}", password.expose()))
            )),
            Self::Token(token) => Some(format!("Bearer {}", token.expose())),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let shown = format!("{:?} {:?}", Auth::basic("operator", "hunter2"), Auth::token("t0ken"));
        assert!(shown.contains("operator"));
        assert!(!shown.contains("hunter2") && !shown.contains("t0ken"), "{shown}");
    }

    #[test]
    fn basic_is_base64_of_user_and_password() {
        let header = Auth::basic("Aladdin", "open sesame").header();
        assert_eq!(header.as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")); // RFC 7617 §2
    }
}
