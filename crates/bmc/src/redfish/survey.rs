//! What is worth knowing of a BMC before a machine boots through it: its clock, its licences, its slots.

use serde_json::{Value, json};

use super::discover::Found;
use super::json;
use super::slots::{Enable, Insert, Slot, can_be_switched_on, slots};
use super::transport::Transport;
use crate::{BmcError, ErrorClass};

/// Licences of one BMC that are read; Lenovo lists one for each feature.
const MOST: usize = 32;

/// `DateTime` of the manager (DSP2046 Manager), and its offset where that stands apart.
///
/// # Errors
/// [`ErrorClass::Unsupported`] where it tells no time.
pub(crate) async fn clock(http: &mut Transport, found: &Found) -> Result<Value, BmcError> {
    let manager = match &found.manager_uri {
        Some(uri) => http.get(uri).await?.body,
        None => Value::Null,
    };
    match json::text(&manager, &["DateTime"]) {
        Some(time) => Ok(json!({"DateTime": time, "DateTimeLocalOffset": manager.get("DateTimeLocalOffset")})),
        None => Err(http.error(ErrorClass::Unsupported, "its manager does not tell the time")),
    }
}

/// Names of licences: of the standard's service (DSP2046 License), else where vendors have them.
pub(crate) async fn licences(http: &mut Transport, found: &Found) -> Result<Value, BmcError> {
    let mut names: Vec<String> = Vec::new();
    if let Some(service) = json::link(&found.root, &["LicenseService"])
        && let Some(service) = http.get_if_there(&service).await?
        && let Some(collection) = json::link(&service.body, &["Licenses"])
    {
        read(http, &collection, &mut names).await?;
    }
    let vendors = |path: &[&str]| -> Vec<Value> {
        let oem = json::at(&found.manager, path).as_object();
        oem.into_iter().flatten().map(|(_, vendor)| vendor.clone()).collect()
    };
    for vendor in [vendors(&["Oem"]), vendors(&["Links", "Oem"])].concat() {
        // HPE has it in the manager itself.
        named(json::at(&vendor, &["License"]), &mut names);
        let places = [
            json::link(&vendor, &["DellLicenseCollection"]),
            json::link(&vendor, &["Links", "LicenseService"]).filter(|_| names.is_empty()),
            json::link(&vendor, &["LicenseManager"]),
        ];
        for place in places.into_iter().flatten() {
            read(http, &place, &mut names).await?;
        }
    }
    Ok(names.into())
}

async fn read(http: &mut Transport, place: &str, names: &mut Vec<String>) -> Result<(), BmcError> {
    let Some(holder) = http.get_if_there(place).await?.map(|reply| reply.body) else {
        return Ok(());
    };
    // Supermicro: a resource with a query beside the actions.
    let query = json::link(&holder, &["QueryLicense"]);
    for uri in json::members(&holder).into_iter().chain(query).take(MOST) {
        if let Some(licence) = http.get_if_there(&uri).await? {
            named(&licence.body, names);
        }
    }
    Ok(())
}

/// The name of a licence, wherever its vendor has put it; never its key.
fn named(licence: &Value, names: &mut Vec<String>) {
    let mut add = |name: &str| {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    };
    for packed in json::texts(licence, &["Licenses"]).unwrap_or_default() {
        let inner: Value = serde_json::from_str(&packed).unwrap_or_default();
        json::text(&inner, &["ProductKey", "Node", "LicenseName"]).map(&mut add);
    }
    if licence.get("Licenses").is_some() {
        return;
    }
    let described = json::texts(licence, &["LicenseDescription"]).unwrap_or_default();
    if let Some(first) = described.first() {
        return add(first);
    }
    let said = ["LicenseString", "License", "Name"];
    said.iter()
        .find_map(|member| json::text(licence, &[member]))
        .map(&mut add);
}

/// The slots that can take a CD, best first; none where remote media is to be switched on first.
///
/// # Errors
/// [`ErrorClass::Unsupported`], with what was passed over, when there is none.
pub(crate) async fn media(http: &mut Transport, found: &Found) -> Result<Value, BmcError> {
    let shown = |slot: &Slot| {
        let media = slot.media(found);
        let way = match &slot.insert {
            Insert::Action(_) => "InsertMedia",
            Insert::Own(..) => "a vendor's action",
            Insert::Patch => "PATCH of the slot",
            Insert::Config(..) => "a share that is mounted",
        };
        json!({"Uri": slot.uri, "Way": way, "Inserted": media.inserted, "Image": media.image})
    };
    let slots = match slots(http, found, Enable::No).await {
        Err(error) if error.class == ErrorClass::Unsupported && can_be_switched_on(found) => Vec::new(),
        slots => slots?,
    };
    Ok(slots.iter().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_named_as_their_vendors_have_them() {
        let of = |licence: Value| {
            let mut names = Vec::new();
            named(&licence, &mut names);
            names
        };
        let hpe = json!({"LicenseKey": "XXXXX-CK9YW", "LicenseString": "iLO Advanced", "LicenseType": "Perpetual"});
        assert_eq!(of(hpe), ["iLO Advanced"]);
        let dell = json!({"Name": "DellLicense", "LicenseDescription": ["iDRAC9 Enterprise License"]});
        assert_eq!(of(dell), ["iDRAC9 Enterprise License"]);
        let lenovo = json!({"Name": "Lenovo XClarity Controller Enterprise Upgrade", "LicenseString": null});
        assert_eq!(of(lenovo), ["Lenovo XClarity Controller Enterprise Upgrade"]);
        let packed =
            r#"{"ProductKey": {"Node": {"LicenseID": "2", "LicenseName": "SFT-DCMS-SINGLE"}, "Signature": "x"}}"#;
        assert_eq!(
            of(json!({"Name": "LicenseManager", "Licenses": [packed, "{"]})),
            ["SFT-DCMS-SINGLE"]
        );
        assert!(of(json!({"Name": "LicenseManager", "Licenses": []})).is_empty() && of(json!(null)).is_empty());
    }
}
