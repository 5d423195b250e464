//! Users and their passwords.

use std::sync::{Arc, PoisonError};

use isobar_model::{ApiError, Lookup, Object, noun};
use serde_json::{Value, json};

use crate::objects::{OpenError, Options};
use crate::principal::{Proof, Tenant};
use crate::tokens::list;
use crate::view::View;
use crate::write::new_secret;
use crate::{Claim, Objects, Principal, audit};

/// The claims of a user's roles, as they are now.
pub(crate) fn claims(view: &View<'_>, user: &Object) -> Vec<Claim> {
    let roles = list(user, "Roles").filter_map(|role| Lookup::get(view, "roles", role));
    roles.flat_map(|role| Claim::of_role(&role)).collect()
}

impl Objects {
    /// Checks a user's password. `from` is the peer's address: after a few wrong ones from there it has to wait.
    ///
    /// # Errors
    /// 403; 429 while it has to wait.
    pub fn authenticate(&self, user: &str, password: &str, from: &str) -> Result<Principal, ApiError> {
        let view = View::new(&self.core);
        let found = noun("users").and_then(|users| view.find(users, user));
        view.sound()?;
        // People type passwords where names belong: what is no user's name is not told.
        let known = found.as_ref().map_or("", |_| user);
        let tell = |detail| self.note(audit::refused("login-refused", "users", known, from, detail));
        let wait = self.core.logins.wait(user, from);
        if wait > 0 {
            tell("had to wait");
            let text = format!("too many wrong passwords: try again in {wait} s");
            return Err(ApiError::new(429, "AUTH", "", "", text).with_retry_after(wait));
        }
        let hash = found
            .as_ref()
            .and_then(|found| found.object.get("PasswordHash"))
            .and_then(Value::as_str);
        let Some(found) = found
            .as_ref()
            .filter(|_| self.core.logins.check(user, password, from, hash))
        else {
            if found.is_none() {
                self.core.logins.check(user, password, from, None);
            }
            tell(if found.is_some() {
                "wrong password"
            } else {
                "no such user"
            });
            return Err(ApiError::token_refused());
        };
        let who = self.user(&view, user, &found.object, Vec::new())?;
        let secrets = self.grants(isobar_model::text(&found.object, "Secret"), "")?;
        let who = who.with_proof(Proof::Password(secrets)).at(from);
        self.note(who.audit("login", "users", user, ""));
        Ok(who)
    }

    /// A user with the rights that they have now.
    pub(crate) fn user(
        &self,
        view: &View<'_>,
        name: &str,
        user: &Object,
        limits: Vec<Vec<Claim>>,
    ) -> Result<Principal, ApiError> {
        let claims = claims(view, user);
        let mut tenants = Vec::new();
        if let Some(noun) = noun("tenants") {
            let all = view.all(noun);
            let of = |tenant: &Object| list(tenant, "Users").any(|member| member == name);
            tenants.extend(
                all.iter()
                    .filter(|(_, found)| of(&found.object))
                    .map(|(_, found)| Tenant::of(&found.object)),
            );
        }
        view.sound()?;
        Ok(Principal::of_user(name, claims, limits).with_tenants(tenants))
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
        self.update_freely("users", user, by, |object| {
            object.insert("PasswordHash".to_owned(), hash.as_str().into());
            object.insert("Secret".to_owned(), secret.as_str().into());
            Ok(())
        })
    }

    /// Gives a user or a machine another secret, and with it revokes all their tokens.
    ///
    /// # Errors
    /// 404; 403 for a machine's token.
    pub fn revoke_all(&self, noun: &str, key: &str, by: &Principal) -> Result<(), ApiError> {
        let secret = new_secret();
        let renew = |object: &mut Object| {
            object.insert("Secret".to_owned(), secret.as_str().into());
            Ok(())
        };
        self.update_freely(noun, key, by, renew).map(drop)
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
