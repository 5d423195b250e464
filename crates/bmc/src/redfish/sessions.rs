//! Sessions that our own user has left open: the BMC has few, and keeps them for minutes.

use super::json;
use super::transport::Transport;
use crate::{BmcError, ErrorClass};

/// More are not looked at: no BMC has so many.
const MOST: usize = 64;

/// Ends every session of our user but the one that this conversation has; how many.
///
/// # Errors
/// The BMC has no list of its sessions, or does not end any of those that it lists.
pub(crate) async fn clear(http: &mut Transport) -> Result<u32, BmcError> {
    let Some(collection) = http.session_list() else {
        return Err(http.error(ErrorClass::Unsupported, "it has no list of sessions"));
    };
    let listed = http.get(&collection).await?;
    let (mut ended, mut refused) = (0, None);
    for uri in json::members(&listed.body).into_iter().take(MOST) {
        if http.is_own_session(&uri) {
            continue;
        }
        let Some(session) = http.get_if_there(&uri).await? else {
            continue;
        };
        if json::text(&session.body, &["UserName"]) != Some(http.user()) {
            continue;
        }
        let reply = http.delete(&uri).await?;
        match reply.is_good() || reply.status == 404 {
            true => ended += 1,
            false => drop(refused.get_or_insert_with(|| http.refusal("DELETE", &uri, &reply))),
        }
    }
    match refused {
        Some(error) if ended == 0 => Err(error),
        _ => Ok(ended),
    }
}
