//! Hashes of passwords, for users that are made from files.

use argon2::password_hash::{PasswordHasher as _, SaltString};
use crypto_box::aead::OsRng;

use super::{Arity, Call, Verb, verb};
use crate::output::Output;
use crate::session::Session;
use crate::{CliError, input};

pub(super) const VERBS: &[Verb] = &[verb(
    "passwordhash",
    "[password]",
    Arity::Exactly(1),
    hash,
    "Prints what PasswordHash has to be for a password, best from @FILE or -; no server is asked",
    "users passwordhash @password.txt",
)];

/// Argon2id in PHC form, as the server makes it itself.
fn hash(session: &Session, call: &Call) -> Result<Output, CliError> {
    let password = input::secret(session.host, call.arg(0))?;
    if password.expose().is_empty() {
        return Err(CliError::text("an empty password protects nothing"));
    }
    let salt = SaltString::generate(&mut OsRng);
    let hash = argon2::Argon2::default()
        .hash_password(password.expose().as_bytes(), &salt)
        .map_err(|error| CliError::text(format!("cannot hash the password: {error}")))?;
    Ok(Output::json(hash.to_string().into()))
}
