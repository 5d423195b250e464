//! By which scheme an image is offered to a BMC.

use super::discover::Found;
use super::media::Parameters;
use super::quirks::Quirk;
use super::slots::{Insert, Slot};

/// The scheme of a URL: `http`.
pub(crate) fn of(url: &str) -> &str {
    url.split("://").next().unwrap_or_default()
}

/// The places of an image in the order in which they are tried: first those that the BMC lists, what its table row and
/// its kind of slot prefer, last what its siblings refused. One place alone is tried whatever the BMC says.
pub(crate) fn order(
    found: &Found,
    slot: Option<&Slot>,
    said: Option<&Parameters>,
    urls: &[String],
    refused: &[String],
) -> Vec<String> {
    let listed = |url: &&String| {
        let protocols = said.map_or(&[][..], |said| &said.protocols);
        protocols.iter().any(|p| p.eq_ignore_ascii_case(of(url)))
    };
    let mut offers: Vec<String> = urls.iter().filter(listed).cloned().collect();
    if offers.is_empty() {
        urls.clone_into(&mut offers);
    }
    let prefers = match slot.map(|slot| &slot.insert) {
        // Host and path of a share: there is no web client behind these.
        Some(Insert::Config(..)) => &["nfs"][..],
        _ => found.quirks.image_schemes(),
    };
    let place = |url: &String| {
        let rank = prefers.iter().position(|scheme| *scheme == of(url));
        let was_refused = refused.iter().any(|scheme| scheme == of(url));
        (was_refused, rank.unwrap_or(prefers.len()))
    };
    // Stable: else the order of the offer holds.
    offers.sort_by_key(place);
    offers
}

/// A URL as this BMC wants it written.
pub(crate) fn written(found: &Found, url: &str) -> String {
    if found.quirks.has(Quirk::BareNfs)
        && !found.quirks.has(Quirk::UrlNfs)
        && let Some(("nfs", rest)) = url.split_once("://")
        && let Some((host, path)) = rest.split_once('/')
    {
        return format!("{host}:/{path}");
    }
    url.to_owned()
}
