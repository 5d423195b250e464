//! What the server says about itself: info, preferences, object types, indexes, interfaces.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::Method;
use isobar_model::table::NOUNS;
use isobar_model::{ApiError, Noun};
use serde_json::{Map, Value, json};

use super::doc::Shape;
use super::{Access, On, Table, right};
use crate::call::Call;
use crate::reply::{self, Answer};

pub(super) fn add(table: &mut Table) {
    // drpcli begins every command with this one, whatever its token may do.
    table
        .add(Method::GET, "/api/v3/info", Access::Known, async |call: Call| {
            reply::ok(&info(&call).await?)
        })
        .is("What the server is and can do.")
        .gives(200, Shape::of("Info"));
    table
        .add(Method::GET, "/api/v3/objects", Access::Known, object_types)
        .is("Lists the object types.")
        .gives(200, Shape::list("Text"));
    table
        .add(Method::GET, "/api/v3/indexes", Access::Known, all_indexes)
        .is("Shows the indexes of all object types.")
        .gives(200, Shape::of("AllIndexes"));
    table
        .add(Method::GET, "/api/v3/indexes/{model}", Access::Known, indexes)
        .is("Shows the indexes of an object type.")
        .gives(200, Shape::of("Indexes"))
        .refuses(&[404]);
    table
        .add(Method::GET, "/api/v3/indexes/{model}/{index}", Access::Known, index)
        .is("Shows an index.")
        .gives(200, Shape::of("Index"))
        .refuses(&[404]);
    table
        .add(
            Method::GET,
            "/api/v3/logs",
            right("logs", "get", On::All),
            async |call: Call| reply::ok(&(call.app.logs)()),
        )
        .is("Shows the latest log lines.")
        .gives(200, Shape::list("Map"));
    table
        .add(
            Method::GET,
            "/api/v3/prefs",
            right("preferences", "list", On::All),
            prefs,
        )
        .is("Shows the preferences; secrets are left out.")
        .gives(200, Shape::of("TextMap"));
    table
        .add(
            Method::POST,
            "/api/v3/prefs",
            right("preferences", "post", On::All),
            set_prefs,
        )
        .is("Sets preferences.")
        .takes(Shape::of("TextMap"))
        .gives(201, Shape::of("TextMap"))
        .refuses(&[404, 409, 422]);
    let see = |action| right("interfaces", action, On::All);
    table
        .add(Method::GET, "/api/v3/interfaces", see("list"), interfaces)
        .is("Lists the server's network interfaces.")
        .gives(200, Shape::list("Interface"));
    table
        .add(Method::GET, "/api/v3/interfaces/{key}", see("get"), interface)
        .is("Shows a network interface of the server.")
        .gives(200, Shape::of("Interface"))
        .refuses(&[404]);
}

/// The body of `GET /info`.
pub(super) async fn info(call: &Call) -> Result<Value, ApiError> {
    let (machines, features) = call
        .objects(|objects, _| Ok((objects.count("machines")?, objects.features())))
        .await?;
    let server = &call.app.server;
    Ok(json!({
        "arch": go_arch(),
        "os": std::env::consts::OS,
        "version": server.version,
        "id": server.id,
        "local_id": server.id,
        "ha_id": "",
        "api_port": server.api_port,
        "file_port": server.file_port,
        "dhcp_port": 67,
        "binl_port": 4011,
        "tftp_port": 69,
        "tftp_enabled": false,
        "dhcp_enabled": false,
        "binl_enabled": false,
        "prov_enabled": true,
        "address": server.address,
        "manager": false,
        "stats": [
            { "name": "machines.count", "count": machines },
            { "name": "subnets.count", "count": 0 },
        ],
        "features": features,
        "scopes": *SCOPES,
        "License": license(),
    }))
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Rights by scope: what `users token` can narrow a token to.
static SCOPES: LazyLock<Value> = LazyLock::new(scopes);

fn scopes() -> Value {
    let mut scopes: BTreeMap<&str, BTreeMap<&str, Map<String, Value>>> = BTreeMap::new();
    for route in super::routes() {
        match route.access {
            Access::Right { scope, action, .. } => {
                scopes.entry(scope).or_default().entry(action).or_default();
            }
            Access::Action { scope } => {
                scopes.entry(scope).or_default().entry("action").or_default();
            }
            Access::Open | Access::Known | Access::Agent => {}
        }
    }
    for noun in NOUNS.iter().filter(|noun| noun.has_params) {
        for action in ["getSecure", "updateSecure"] {
            scopes.entry(noun.name).or_default().entry(action).or_default();
        }
    }
    json!(scopes)
}

/// Isobar has no licence to check; clients look for the members.
fn license() -> Value {
    json!({
        "Contact": "", "ContactEmail": "", "ContactId": "",
        "Owner": "", "OwnerEmail": "", "OwnerId": "",
        "Grantor": "", "GrantorEmail": "",
        "Version": "", "GenerationVersion": "",
        "Licenses": [],
    })
}

async fn object_types(_call: Call) -> Answer {
    let mut names: Vec<&str> = NOUNS.iter().map(|noun| noun.name).chain(["preferences"]).collect();
    names.sort_unstable();
    reply::ok(&names)
}

async fn all_indexes(_call: Call) -> Answer {
    let all: BTreeMap<&str, _> = NOUNS.iter().map(|noun| (noun.name, noun.indexes_body())).collect();
    reply::ok(&all)
}

fn model(call: &Call) -> Result<&'static Noun, ApiError> {
    let name = call.param("model");
    isobar_model::noun(name).ok_or_else(|| ApiError::not_found("GET", "indexes", name))
}

async fn indexes(call: Call) -> Answer {
    reply::ok(&model(&call)?.indexes_body())
}

async fn index(call: Call) -> Answer {
    let (noun, name) = (model(&call)?, call.param("index"));
    match noun.indexes_body().get(name) {
        Some(index) => reply::ok(index),
        None => Err(ApiError::not_found("GET", "indexes", &format!("{}/{name}", noun.name))),
    }
}

async fn prefs(call: Call) -> Answer {
    reply::ok(&call.objects(|objects, _| objects.prefs()).await?)
}

async fn set_prefs(mut call: Call) -> Answer {
    let pairs = call.json().await?.unwrap_or_default();
    reply::created(&call.objects(move |objects, who| objects.set_prefs(&pairs, who)).await?)
}

async fn interfaces(_call: Call) -> Answer {
    reply::ok(&host_interfaces().values().collect::<Vec<_>>())
}

async fn interface(call: Call) -> Answer {
    match host_interfaces().get(call.key()) {
        Some(interface) => reply::ok(interface),
        None => Err(ApiError::new(404, "GET", "interfaces", call.key(), "No interface")),
    }
}

/// Interfaces with an address, loopback left out, by name.
fn host_interfaces() -> BTreeMap<String, Value> {
    let mut addresses: BTreeMap<String, (u32, Vec<String>)> = BTreeMap::new();
    for interface in if_addrs::get_if_addrs().unwrap_or_default() {
        if interface.is_loopback() {
            continue;
        }
        let bits = match &interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        };
        let text = format!("{}/{bits}", interface.ip());
        let entry = addresses.entry(interface.name.clone()).or_default();
        entry.0 = interface.index.unwrap_or_default();
        entry.1.push(text);
    }
    let body = |name: &str, index: u32, addresses: &[String]| {
        json!({
            "Name": name,
            "Index": index,
            "Addresses": addresses,
            "ActiveAddress": addresses.first(),
            "Gateway": "",
            "DnsServers": [],
            "DnsDomain": "",
            "ReadOnly": true,
            "Meta": {},
        })
    };
    addresses
        .iter()
        .map(|(name, (index, list))| (name.clone(), body(name, *index, list)))
        .collect()
}
