//! Tokens: random, opaque, stored as hashes, and worth nothing once what they were issued on has changed.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use isobar_model::{ApiError, Lookup, Object, noun};
use isobar_store::{Audit, Delete, Expect, Put, StoreError, Txn};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::core::{Draft, Order, store_failed};
use crate::hook::BootWindow;
use crate::known::Basis;
use crate::login::random;
use crate::principal::Proof;
use crate::view::View;
use crate::write::new_secret;
use crate::{Claim, Objects, Principal, grants, users};

const KIND: &str = "_tokens";
/// Lifetime of a user's token that asks for none.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Longest lifetime: DRP's longest tokens live for three years.
const MAX_TTL: Duration = Duration::from_secs(3 * 366 * 86_400);
/// The same of a token that a machine asks for by itself.
const MAX_MACHINE_TTL: Duration = Duration::from_secs(7 * 86_400);
/// The preferences that are mixed into every token.
const SECRETS: &[&str] = &["baseTokenSecret", "systemGrantorSecret"];
/// Expired tokens that one transaction forgets.
const SWEEP: usize = 500;

/// A fresh token. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The text that goes after `Bearer `: 43 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn new() -> Self {
        Self(BASE64URL.encode(random::<32>()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What has become of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Never issued, expired, or revoked.
    Unknown,
    /// A machine's, not presented yet. (A user's stays so: nobody asks.)
    Fresh,
    /// A machine's that was presented at least once.
    Used,
}

/// What a user wants of a token: the query of `GET /users/:name/token`.
#[derive(Clone, Debug, Default)]
pub struct UserTokenRequest {
    /// Lifetime; one hour when not said.
    pub ttl: Option<Duration>,
    /// Some of the user's roles: the token has no rights of the others.
    pub roles: Vec<String>,
    /// The token has no rights beyond this claim: scope, action, specific.
    pub claim: Option<(String, String, String)>,
}

/// A token as it is stored, under the hash of its text.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Row {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    /// Each of these has to cover what is asked, besides the user's own claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    limits: Vec<Vec<Claim>>,
    /// The attempt of a machine's boot that it ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<String>,
    /// Hash of the secrets that it was issued on.
    grants: String,
    /// Seconds since the Unix epoch.
    expires: i64,
    /// First use of a machine's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<i64>,
}

/// How long a token lasts, for the audit log.
fn lasts(ttl: Duration) -> String {
    format!("ttl={}", ttl.min(MAX_TTL).as_secs())
}

fn hash_of(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

impl Objects {
    /// Issues a token to a user: to themself, or on behalf of somebody with the right to (`users`, `token`). What limits
    /// `by` limits the token.
    ///
    /// # Errors
    /// 404; 403 for a role that the user does not have.
    pub fn issue_user_token(&self, user: &str, request: &UserTokenRequest, by: &Principal) -> Result<Token, ApiError> {
        let view = View::new(&self.core);
        let (user, found) = view.meant("GET", crate::objects::row("users")?, user)?;
        if by.user() != Some(&user) && !by.allows("users", "token", &user) {
            return Err(ApiError::token_refused());
        }
        let own: BTreeSet<&str> = list(&found.object, "Roles").collect();
        let mut limits = by.limits();
        if !request.roles.is_empty() {
            if let Some(role) = request.roles.iter().find(|role| !own.contains(role.as_str())) {
                let text = format!("user {user} does not have the role {role}");
                return Err(ApiError::new(403, "AUTH", "users", &user, text));
            }
            let roles = request
                .roles
                .iter()
                .filter_map(|role| Lookup::get(&view, "roles", role));
            limits.push(roles.flat_map(|role| Claim::of_role(&role)).collect());
        }
        if let Some((scope, action, specific)) = &request.claim {
            limits.push(vec![Claim::new(scope, action, specific)]);
        }
        grants::check_token(&view, by, &user, &users::claims(&view, &found.object), &limits)?;
        let ttl = request.ttl.unwrap_or(DEFAULT_TTL);
        let mut detail = lasts(ttl);
        if !request.roles.is_empty() {
            detail += &format!(" roles={}", request.roles.join(","));
        }
        if let Some((scope, action, specific)) = &request.claim {
            detail += &format!(" claim={scope} {action} {specific}");
        }
        let row = Row {
            grants: self.grants(text(&found.object, "Secret"), "")?,
            user: Some(user.clone()),
            machine: None,
            limits,
            window: None,
            expires: self.expires(ttl),
            used: None,
        };
        view.sound()?;
        self.issue(&row, by.audit("grant", "users", &user, detail))
    }

    /// Issues a token to a machine (its UUID): it may do what an agent needs for its own machine.
    ///
    /// # Errors
    /// 404.
    pub fn issue_machine_token(&self, uuid: &str, ttl: Duration, by: &Principal) -> Result<Token, ApiError> {
        let ttl = match by.machine() {
            Some(_) => ttl.min(MAX_MACHINE_TTL),
            None => ttl,
        };
        let mut row = self.machine_row(uuid, ttl)?;
        // Who came with a narrow token, or one that ends with a boot, gets no better one.
        if let Proof::Token(key) = by.proof()
            && let Some((own, _)) = self.row(key)?.filter(|(own, _)| own.machine.is_some())
        {
            (row.window, row.limits) = (own.window, own.limits);
        }
        let machine = row.machine.clone().unwrap_or_default();
        self.issue(&row, by.audit("grant", "machines", &machine, lasts(ttl)))
    }

    /// [`Objects::issue_machine_token`] as part of the caller's own transaction; the token is good once that is
    /// committed.
    ///
    /// # Errors
    /// 404.
    pub fn prepare_machine_token(&self, uuid: &str, ttl: Duration, txn: &mut Txn) -> Result<Token, ApiError> {
        let row = self.machine_row(uuid, ttl)?;
        let token = Token::new();
        txn.puts.push(row_put(&hash_of(token.as_str()), &row, Expect::Absent)?);
        let machine = Principal::of_machine(row.machine.as_deref().unwrap_or_default());
        txn.audit
            .push(machine.audit("grant", "machines", uuid, lasts(ttl) + " for a boot secret"));
        Ok(token)
    }

    /// The token of a machine for a file that it fetches while it boots: it ends with the boot, whatever its lifetime. The
    /// same for every fetch of one boot, so that fetching often makes no more rows.
    pub(crate) fn window_token(
        &self,
        uuid: &str,
        window: &BootWindow,
        what: &str,
        limits: Vec<Vec<Claim>>,
        ttl: Duration,
    ) -> Result<Token, ApiError> {
        let seed = format!("template\0{what}\0{}", window.seed());
        let token = Token(BASE64URL.encode(Sha256::digest(seed)));
        let key = hash_of(token.as_str());
        if let Some((row, _)) = self.row(&key)? {
            let view = View::new(&self.core);
            if self.holder(&view, &row)?.is_some() {
                return Ok(token);
            }
        }
        let row = Row {
            limits,
            window: Some(window.attempt.clone()),
            // Nobody waits to hear of its first use.
            used: Some(self.now()),
            ..self.machine_row(uuid, ttl)?
        };
        let machine = Principal::of_machine(uuid);
        let txn = Txn {
            puts: vec![row_put(&key, &row, Expect::Any)?],
            audit: vec![machine.audit("grant", "machines", uuid, lasts(ttl) + " for a file of its boot")],
            ..Txn::default()
        };
        self.core.store.commit(txn).map_err(|e| store_failed(&e))?;
        Ok(token)
    }

    /// Who presents this token. The first time for a machine's token is noted, durably, before this returns.
    ///
    /// # Errors
    /// 403 for what is unknown, expired or revoked.
    pub fn verify(&self, token: &str) -> Result<Principal, ApiError> {
        let refused = ApiError::token_refused;
        let key = hash_of(token);
        let basis = Basis::of(self.core.store.as_ref(), self.core.content());
        if let Some(principal) = self.core.known_tokens.get(&basis, &key, self.now()) {
            return Ok(principal);
        }
        loop {
            let Some((mut row, rev)) = self.row(&key)? else {
                return Err(refused());
            };
            let view = View::new(&self.core);
            let principal = self.holder(&view, &row)?.ok_or_else(refused)?;
            let principal = principal.with_proof(Proof::Token(key.clone()));
            if row.user.is_some() {
                let expires = row.expires;
                self.core.known_tokens.put(basis, key, principal.clone(), expires);
                return Ok(principal);
            }
            if row.machine.is_none() || row.used.is_some() {
                return Ok(principal);
            }
            row.used = Some(self.now());
            let txn = Txn {
                puts: vec![row_put(&key, &row, rev)?],
                ..Txn::default()
            };
            match self.core.store.commit(txn) {
                Ok(_) => return Ok(principal),
                // Another request was the first, or it was revoked.
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(store_failed(&e)),
            }
        }
    }

    /// [`Objects::verify`] of a token that was verified before and is as good as it was then; reads nothing but memory.
    #[must_use]
    pub fn verified_before(&self, token: &str) -> Option<Principal> {
        let basis = Basis::of(self.core.store.as_ref(), self.core.content());
        self.core.known_tokens.get(&basis, &hash_of(token), self.now())
    }

    /// What has become of a token, without using it.
    ///
    /// # Errors
    /// Of the store.
    pub fn token_state(&self, token: &str) -> Result<TokenState, ApiError> {
        let Some((row, _)) = self.row(&hash_of(token))? else {
            return Ok(TokenState::Unknown);
        };
        let view = View::new(&self.core);
        Ok(match (self.holder(&view, &row)?, row.used) {
            (None, _) => TokenState::Unknown,
            (Some(_), None) => TokenState::Fresh,
            (Some(_), Some(_)) => TokenState::Used,
        })
    }

    /// The same one with the rights that they have now: for who stays connected.
    ///
    /// # Errors
    /// 403 when their token, or the password that they came with, is good no more.
    pub fn renew(&self, who: &Principal) -> Result<Principal, ApiError> {
        let view = View::new(&self.core);
        let renewed = match who.proof() {
            Proof::None => Some(who.clone()),
            Proof::Token(key) => match self.row(key)? {
                Some((row, _)) => self.holder(&view, &row)?,
                None => None,
            },
            Proof::Password(secrets) => {
                let name = who.user().unwrap_or_default();
                match noun("users").and_then(|noun| view.find(noun, name)) {
                    Some(found) if self.grants(text(&found.object, "Secret"), "")? == *secrets => {
                        Some(self.user(&view, name, &found.object, Vec::new())?)
                    }
                    _ => None,
                }
            }
        };
        view.sound()?;
        let renewed = renewed.ok_or_else(ApiError::token_refused)?;
        Ok(renewed.with_proof(who.proof().clone()).at(who.source()))
    }

    /// Makes a token worthless at once. Revoking an unknown one is no error.
    ///
    /// # Errors
    /// Of the store.
    pub fn revoke(&self, token: &str, by: &Principal) -> Result<(), ApiError> {
        self.revoke_key(hash_of(token), by)
    }

    /// Makes the token worthless that this one came with; none: it came with a password.
    ///
    /// # Errors
    /// Of the store.
    pub fn revoke_own(&self, who: &Principal) -> Result<bool, ApiError> {
        match who.proof() {
            Proof::Token(key) => self.revoke_key(key.clone(), who).map(|()| true),
            Proof::None | Proof::Password(_) => Ok(false),
        }
    }

    fn revoke_key(&self, key: String, by: &Principal) -> Result<(), ApiError> {
        let Some((row, _)) = self.row(&key)? else { return Ok(()) };
        let (kind, of) = match (&row.user, &row.machine) {
            (Some(user), _) => ("users", user.as_str()),
            (None, machine) => ("machines", machine.as_deref().unwrap_or_default()),
        };
        let txn = Txn {
            audit: vec![by.audit("revoke", kind, of, "one token")],
            deletes: vec![delete(key)],
            ..Txn::default()
        };
        self.core.store.commit(txn).map(|_| ()).map_err(|e| store_failed(&e))
    }

    /// Whom a token speaks for; none when it is worth nothing any more.
    fn holder(&self, view: &View<'_>, row: &Row) -> Result<Option<Principal>, ApiError> {
        if row.expires <= self.now() {
            return Ok(None);
        }
        let object = |name: &str, key: &str| {
            noun(name)
                .and_then(|noun| view.find(noun, key))
                .map(|found| found.object)
        };
        let principal = match (&row.user, &row.machine) {
            (Some(user), _) => {
                let Some(object) = object("users", user) else {
                    return view.sound().map(|()| None);
                };
                let current = self.grants(text(&object, "Secret"), "")?;
                let principal = self.user(view, user, &object, row.limits.clone())?;
                (current == row.grants).then_some(principal)
            }
            (None, Some(uuid)) => {
                let Some(object) = object("machines", uuid) else {
                    return view.sound().map(|()| None);
                };
                let open = match &row.window {
                    Some(attempt) => self.core.windows().is_open(uuid, attempt)?,
                    None => true,
                };
                let current = self.grants("", text(&object, "Secret"))?;
                (open && current == row.grants).then(|| Principal::of_machine(uuid).within(row.limits.clone()))
            }
            (None, None) => None,
        };
        view.sound()?;
        Ok(principal)
    }

    fn machine_row(&self, uuid: &str, ttl: Duration) -> Result<Row, ApiError> {
        let machine = self.get("machines", uuid)?;
        Ok(Row {
            user: None,
            machine: Some(text(&machine, "Uuid").to_owned()),
            limits: Vec::new(),
            window: None,
            grants: self.grants("", text(&machine, "Secret"))?,
            expires: self.expires(ttl),
            used: None,
        })
    }

    fn issue(&self, row: &Row, told: Audit) -> Result<Token, ApiError> {
        self.forget_expired_tokens()?;
        let token = Token::new();
        let txn = Txn {
            puts: vec![row_put(&hash_of(token.as_str()), row, Expect::Absent)?],
            audit: vec![told],
            ..Txn::default()
        };
        self.core.store.commit(txn).map_err(|e| store_failed(&e))?;
        Ok(token)
    }

    fn row(&self, key: &str) -> Result<Option<(Row, Expect)>, ApiError> {
        let Some(doc) = self.core.store.get(KIND, key).map_err(|e| store_failed(&e))? else {
            return Ok(None);
        };
        // A row that cannot be read is a token that cannot be used.
        Ok(serde_json::from_slice(&doc.body)
            .ok()
            .map(|row| (row, Expect::Rev(doc.rev))))
    }

    fn now(&self) -> i64 {
        i64::try_from(self.core.clock.now_ns().div_euclid(1_000_000_000)).unwrap_or(i64::MAX)
    }

    fn expires(&self, ttl: Duration) -> i64 {
        let ttl = i64::try_from(ttl.min(MAX_TTL).as_secs()).unwrap_or(i64::MAX);
        self.now().saturating_add(ttl)
    }

    /// Forgets expired tokens, now and then.
    pub(crate) fn forget_expired_tokens(&self) -> Result<(), ApiError> {
        if !self.core.logins.sweep_is_due() {
            return Ok(());
        }
        let now = self.now();
        let expired = self
            .core
            .store
            .list(KIND)
            .map_err(|e| store_failed(&e))?
            .into_iter()
            .filter(|doc| serde_json::from_slice::<Row>(&doc.body).map_or(true, |row| row.expires <= now));
        let expired: Vec<_> = expired.map(|doc| delete(doc.key)).collect();
        for some in expired.chunks(SWEEP) {
            let txn = Txn {
                deletes: some.to_vec(),
                ..Txn::default()
            };
            self.core.store.commit(txn).map_err(|e| store_failed(&e))?;
        }
        Ok(())
    }

    /// What a token is issued on: when any of it changes, the token is worth nothing.
    pub(crate) fn grants(&self, user_secret: &str, machine_secret: &str) -> Result<String, ApiError> {
        let mut digest = Sha256::new();
        let mut mix = |part: &[u8]| {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        };
        for name in SECRETS {
            let doc = self.core.store.get("_meta", name).map_err(|e| store_failed(&e))?;
            let sealed = doc.map(|doc| doc.body).unwrap_or_default();
            let secret = self.core.vault.open_sealed(&format!("_meta/{name}"), &sealed);
            mix(&secret.map_err(|e| ApiError::new(500, "STORE_ERROR", "prefs", name, e.to_string()))?);
        }
        mix(user_secret.as_bytes());
        mix(machine_secret.as_bytes());
        Ok(hex::encode(digest.finalize()))
    }

    /// Makes the secrets that are mixed into tokens, in a new database.
    pub(crate) fn prepare_token_secrets(&self) -> Result<(), ApiError> {
        for name in SECRETS {
            if self
                .core
                .store
                .get("_meta", name)
                .map_err(|e| store_failed(&e))?
                .is_none()
            {
                let secret = new_secret() + &new_secret();
                self.core.write(Order::Exclusive, name, |_, draft| {
                    self.set_token_secret(draft, name, &secret)
                })?;
            }
        }
        Ok(())
    }

    /// Sets one of the preferences that are mixed into tokens.
    pub(crate) fn set_token_secret(&self, draft: &mut Draft, name: &str, secret: &str) -> Result<(), ApiError> {
        draft.txn.puts.push(Put {
            kind: "_meta".to_owned(),
            key: name.to_owned(),
            body: self.core.vault.seal(&format!("_meta/{name}"), secret.as_bytes()).into(),
            expect: Expect::Any,
            indexes: Vec::new(),
        });
        Ok(())
    }
}

fn row_put(key: &str, row: &Row, expect: Expect) -> Result<Put, ApiError> {
    let body = serde_json::to_vec(row).map_err(|e| ApiError::new(500, "STORE_ERROR", "", "", e.to_string()))?;
    Ok(Put {
        kind: KIND.to_owned(),
        key: key.to_owned(),
        body: body.into(),
        expect,
        indexes: Vec::new(),
    })
}

fn delete(key: String) -> Delete {
    Delete {
        kind: KIND.to_owned(),
        key,
        expect: Expect::Any,
    }
}

fn text<'a>(object: &'a Object, member: &str) -> &'a str {
    object.get(member).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn list<'a>(object: &'a Object, member: &str) -> impl Iterator<Item = &'a str> {
    object
        .get(member)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}
