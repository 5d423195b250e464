//! Nobody gives away rights that they do not have: not by a role, a user's password, a token, or a pack that brings any
//! of these along.

use isobar_model::{ApiError, Lookup, Noun, Object, noun, text};

use crate::tokens::list;
use crate::view::View;
use crate::{Claim, Principal};

/// Refuses a change of a role, a user or a tenant (`new` none: its removal) that gives somebody rights which `by` does
/// not have.
///
/// # Errors
/// 403 that names the right.
pub(crate) fn check(
    view: &View<'_>,
    by: &Principal,
    noun: &Noun,
    key: &str,
    old: Option<&Object>,
    new: Option<&Object>,
) -> Result<(), ApiError> {
    if by.is_system() {
        return Ok(());
    }
    match (noun.name, new) {
        ("roles", Some(new)) => {
            let had = old.map(Claim::of_role).unwrap_or_default();
            let mut claims = Claim::of_role(new);
            claims.retain(|claim| !had.contains(claim));
            has_all(by, noun, key, &claims)
        }
        ("users", Some(new)) => {
            let same = |member: &str| old.is_some_and(|old| old.get(member) == new.get(member));
            let anew = !same("PasswordHash");
            if anew || !same("Roles") {
                sees_no_less(view, by, key)?;
            }
            // Who sets a password can come as this user.
            let had = |role: &str| !anew && old.is_some_and(|old| list(old, "Roles").any(|had| had == role));
            let roles = list(new, "Roles").filter(|role| !had(role));
            let roles = roles.filter_map(|role| Lookup::get(view, "roles", role));
            let claims: Vec<Claim> = roles.flat_map(|role| Claim::of_role(&role)).collect();
            has_all(by, noun, key, &claims)
        }
        ("tenants", _) if by.is_in_a_tenant() => Err(denied(
            noun.name,
            key,
            "who is in a tenant changes none: that would be the way out of it",
        )),
        _ => Ok(()),
    }
}

/// Refuses a token of somebody else that would have rights which `by` does not have. `narrowed`: each of these limits
/// it; it is enough that `by` has all of one.
pub(crate) fn check_token(
    view: &View<'_>,
    by: &Principal,
    user: &str,
    own: &[Claim],
    narrowed: &[Vec<Claim>],
) -> Result<(), ApiError> {
    if by.is_system() || by.user() == Some(user) {
        return Ok(());
    }
    sees_no_less(view, by, user)?;
    if narrowed.iter().any(|limit| by.lacks(limit).is_none()) {
        return Ok(());
    }
    let users = crate::objects::row("users")?;
    has_all(by, users, user, own)
}

fn has_all(by: &Principal, noun: &Noun, key: &str, claims: &[Claim]) -> Result<(), ApiError> {
    let Some(missing) = by.lacks(claims) else { return Ok(()) };
    let text = format!(
        "{} does not have the right {}:{} on {}, and so cannot give it",
        by.name(),
        missing.scope,
        missing.action,
        missing.specific
    );
    Err(denied(noun.name, key, &text))
}

/// Whoever is in tenants stays in them: they let nobody in who is not in the same.
fn sees_no_less(view: &View<'_>, by: &Principal, user: &str) -> Result<(), ApiError> {
    let (Some(own), true) = (by.user().filter(|own| *own != user), by.is_in_a_tenant()) else {
        return Ok(());
    };
    let has = |tenant: &Object, user: &str| list(tenant, "Users").any(|member| member == user);
    let tenants = noun("tenants").map(|noun| view.all(noun)).unwrap_or_default();
    let mut of_by = tenants.iter().filter(|(_, tenant)| has(&tenant.object, own));
    match of_by.find(|(_, tenant)| !has(&tenant.object, user)) {
        Some((_, tenant)) => {
            let tenant = text(&tenant.object, "Name");
            let text = format!("{} is in tenant {tenant}, and {user} is not", by.name());
            Err(denied("users", user, &text))
        }
        None => Ok(()),
    }
}

fn denied(noun: &str, key: &str, text: &str) -> ApiError {
    ApiError::new(403, "AUTH", noun, key, text)
}
