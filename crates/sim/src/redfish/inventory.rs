//! What a server is made of, the same in all of them: processors, memory, drives, sensors. Clients that take stock and
//! judges of the service want more to look at than what booting takes.

use std::sync::LazyLock;

use serde_json::{Map, Value};

struct Inventory {
    /// Members to be added to resources, by their path.
    links: Map<String, Value>,
    resources: Map<String, Value>,
}

static INVENTORY: LazyLock<Inventory> = LazyLock::new(|| {
    let mut parsed: Value = serde_json::from_str(include_str!("inventory.json")).unwrap_or_default();
    let mut part = |name: &str| match parsed[name].take() {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    Inventory {
        links: part("links"),
        resources: part("resources"),
    }
});

/// Its path as it is written; case and a slash at the end do not matter.
pub(crate) fn find(path: &str) -> Option<&'static str> {
    let path = path.trim_end_matches('/');
    let mut paths = INVENTORY.resources.keys();
    paths.find(|known| known.eq_ignore_ascii_case(path)).map(String::as_str)
}

pub(crate) fn show(path: &str) -> Option<Value> {
    INVENTORY.resources.get(path).cloned()
}

/// Adds the links to what belongs to the resource.
pub(crate) fn link(path: &str, mut resource: Value) -> Value {
    if let (Some(links), Some(members)) = (INVENTORY.links.get(path), resource.as_object_mut()) {
        members.extend(
            links
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone())),
        );
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_of_the_inventory_leads_to_a_part_of_it() {
        let linked = |value: &Value| value["@odata.id"].as_str().map(str::to_owned);
        assert!(INVENTORY.resources.len() > 40);
        let links = INVENTORY.links.values().filter_map(Value::as_object);
        for target in links.flat_map(Map::values).filter_map(linked) {
            assert!(find(&target).is_some(), "{target}");
        }
        for (path, resource) in &INVENTORY.resources {
            assert_eq!(linked(resource).as_ref(), Some(path));
            let members = resource["Members"].as_array().into_iter().flatten();
            for target in members.filter_map(linked) {
                assert!(find(&target).is_some(), "{target}");
            }
        }
    }
}
