//! Users and their passwords.

use std::sync::{Arc, PoisonError};

use isobar_model::{ApiError, Lookup, Object, noun};
use serde_json::{Value, json};

use crate::objects::{OpenError, Options};
use crate::view::View;
use crate::write::new_secret;
use crate::{Claim, Objects, Principal};

/// The claims of a user's roles, as they are now.
pub(crate) fn claims(view: &View<'_>, user: &Object) -> Vec<Claim> {
    let roles = user
        .get("Roles")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let roles = roles.filter_map(|role| Lookup::get(view, "roles", role));
    roles.flat_map(|role| Claim::of_role(&role)).collect()
}

impl Objects {
    /// Checks a user's password. `from` is the peer's address: after a few wrong ones from there it has to wait.
    ///
    /// # Errors
    /// 403; 429 while it has to wait.
    pub fn authenticate(&self, user: &str, password: &str, from: &str) -> Result<Principal, ApiError> {
        let wait = self.core.logins.wait(user, from);
        if wait > 0 {
            let text = format!("too many wrong passwords: try again in {wait} s");
            return Err(ApiError::new(429, "AUTH", "", "", text));
        }
        let view = View::new(&self.core);
        let found = noun("users").and_then(|users| view.find(users, user));
        view.sound()?;
        let hash = found
            .as_ref()
            .and_then(|found| found.object.get("PasswordHash"))
            .and_then(Value::as_str);
        match found.as_ref() {
            Some(found) if self.core.logins.check(user, password, from, hash) => {
                let claims = claims(&view, &found.object);
                view.sound()?;
                Ok(Principal::of_user(user, claims, Vec::new()))
            }
            Some(_) => Err(ApiError::token_refused()),
            None => {
                self.core.logins.check(user, password, from, None);
                Err(ApiError::token_refused())
            }
        }
    }

    /// Sets a user's password and with it revokes their tokens.
    ///
    /// # Errors
    /// 404; 400 for an empty password.
    pub fn set_password(&self, user: &str, password: &str, by: &Principal) -> Result<Arc<Object>, ApiError> {
        if password.is_empty() {
            return Err(ApiError::bad_request(
                "PUT",
                "users",
                "an empty password protects nothing",
            ));
        }
        let hash = self.core.logins.hash(password).map_err(|e| cannot_hash(user, &e))?;
        let secret = new_secret();
        self.update_with("users", user, by, |object| {
            object.insert("PasswordHash".to_owned(), hash.as_str().into());
            object.insert("Secret".to_owned(), secret.as_str().into());
            Ok(())
        })
    }

    /// Makes the first user if there is none.
    pub(crate) fn make_first_user(&self, options: &Options) -> Result<(), OpenError> {
        if self.core.store.count("users")? > 0 {
            return Ok(());
        }
        let (user, given) = &options.first_user;
        let password = given.clone().unwrap_or_else(new_secret);
        if given.is_none() {
            *self.core.first_password.lock().unwrap_or_else(PoisonError::into_inner) = Some(password.clone());
        }
        let hash = self.core.logins.hash(&password).map_err(|e| cannot_hash(user, &e))?;
        let first = json!({"Name": user, "Roles": ["superuser"], "PasswordHash": hash});
        self.create("users", &first, &Principal::system())?;
        Ok(())
    }

    /// Makes the objects that every server has and that can be changed: the profile `global`.
    pub(crate) fn make_first_objects(&self) -> Result<(), ApiError> {
        for (noun, object) in isobar_model::content::first_objects() {
            if self.find(noun.name, &noun.key_of(&object))?.is_none() {
                self.create(noun.name, &Value::Object(object), &Principal::system())?;
            }
        }
        Ok(())
    }
}

fn cannot_hash(user: &str, error: &argon2::password_hash::Error) -> ApiError {
    ApiError::new(
        500,
        "STORE_ERROR",
        "users",
        user,
        format!("the password cannot be hashed: {error}"),
    )
}
