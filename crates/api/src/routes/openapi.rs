//! `GET /api/v3/swagger.json`: the route table and the model table as an OpenAPI 3.0 document.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::body::Bytes;
use http::{Method, StatusCode};
use isobar_model::openapi;
use serde_json::{Map, Value, json};

use super::doc::{Doc, Shape};
use super::{Access, Route, Table};
use crate::call::Call;
use crate::reply;

pub(super) fn add(table: &mut Table) {
    table
        .add(Method::GET, "/api/v3/swagger.json", Access::Known, async |_: Call| {
            Ok(reply::raw_json(StatusCode::OK, DOCUMENT.clone()))
        })
        .is("This document.")
        .gives(200, Shape::of("Any"));
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document(&super::routes()).to_string().into());

/// Statuses that any route may end with when the server itself is in trouble.
const TROUBLE: &[u16] = &[500, 503];

fn document(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = route.path.replace("{*", "{");
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[route.method.as_str().to_lowercase()] = operation(route, route.method.as_str());
        // Served by the rows for GET; a websocket has no head.
        if route.method == Method::GET && !route.doc.gives.iter().any(|(status, _)| *status == 101) {
            entry["head"] = operation(route, "HEAD");
        }
    }
    let mut schemas = openapi::schemas();
    schemas.extend(own_schemas());
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Isobar",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The REST API of Digital Rebar Provision as Isobar speaks it (/api/v3), and Isobar's own \
                routes for agents, boots, discs and bases (/isobar/v1). Members of objects are matched without regard \
                to case and unknown ones are ignored. A key at the end of a path may hold slashes.",
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic" },
                "bearer": { "type": "http", "scheme": "bearer" },
            },
        },
        "security": [{ "basic": [] }, { "bearer": [] }],
    })
}

fn operation(route: &Route, method: &str) -> Value {
    let doc = &route.doc;
    let mut all = json!({
        "operationId": operation_id(method, &route.path),
        "summary": doc.summary,
        "tags": [tag(route)],
        "responses": responses(route, method == "HEAD"),
    });
    let parameters = parameters(route);
    if !parameters.is_empty() {
        all["parameters"] = parameters.into();
    }
    if doc.takes != Shape::Nothing {
        // A body of no length counts as no value.
        all["requestBody"] = json!({ "content": content(&doc.takes) });
    }
    if route.access == Access::Open {
        all["security"] = json!([]);
    }
    all
}

/// `GET /api/v3/machines/{key}/params` → `get-api-v3-machines-key-params`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-");
    format!("{}-{words}", method.to_lowercase())
}

fn tag(route: &Route) -> &str {
    let mut words = route.path.trim_start_matches('/').split('/').skip(2);
    words.next().unwrap_or_default()
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut all = Vec::new();
    for name in path_parameters(&route.path) {
        let doc = match (name, route.noun) {
            ("key", Some(noun)) => openapi::key_doc(noun),
            _ => String::new(),
        };
        let schema = json!({ "type": "string", "minLength": 1 });
        all.push(json!({ "name": name, "in": "path", "required": true, "description": doc, "schema": schema }));
    }
    for query in &route.doc.query {
        let schema = json!({ "type": query.typ });
        all.push(json!({ "name": query.name, "in": "query", "description": query.doc, "schema": schema }));
    }
    let taken: BTreeSet<&str> = route.doc.query.iter().map(|query| query.name).collect();
    if let Some(noun) = route.doc.filters {
        for index in noun.all_indexes().filter(|index| !taken.contains(index.name)) {
            let doc = format!(
                "A value ({}), or Eq, Ne, Lt, Lte, Gt, Gte, Between, Except, In, Nin or Re of some in parentheses.",
                index.kind.wire_name()
            );
            let schema = json!({ "type": "string" });
            all.push(json!({ "name": index.name, "in": "query", "description": doc, "schema": schema }));
        }
    }
    all
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{'))
        .map(|part| part.trim_start_matches('*').trim_end_matches('}'))
}

/// All statuses that a route may answer with, those of refusals included.
#[must_use]
pub fn statuses(route: &Route) -> BTreeSet<u16> {
    refusals(route)
        .into_iter()
        .chain(route.doc.gives.iter().map(|(status, _)| *status))
        .collect()
}

fn refusals(route: &Route) -> BTreeSet<u16> {
    let doc: &Doc = &route.doc;
    let mut all: BTreeSet<u16> = doc.refuses.iter().chain(TROUBLE).copied().collect();
    if route.access != Access::Open {
        all.extend([401, 403, 429]);
    }
    if path_parameters(&route.path).next().is_some() {
        all.insert(400);
    }
    if doc.takes != Shape::Nothing {
        all.extend([400, 408, 413, 415]);
    }
    if route.method != Method::GET {
        all.insert(507);
    }
    // Whoever has what is there need not be sent it again.
    if route.method == Method::GET && matches!(doc.gives.first(), Some((200, shape)) if *shape != Shape::Stream) {
        all.insert(304);
    }
    all
}

fn responses(route: &Route, head: bool) -> Value {
    let mut all = Map::new();
    for (status, shape) in &route.doc.gives {
        let mut response = json!({ "description": reason(*status) });
        if *shape != Shape::Nothing && !head {
            response["content"] = content(shape);
        }
        if route.doc.filters.is_some() {
            let count = |doc: &str| json!({ "description": doc, "schema": { "type": "integer" } });
            response["headers"] = json!({
                "X-DRP-LIST-TOTAL-COUNT": count("All objects."),
                "X-DRP-LIST-COUNT": count("Those that are given."),
            });
        }
        all.insert(status.to_string(), response);
    }
    for status in refusals(route) {
        let mut response = json!({ "description": reason(status) });
        // A wrong password is refused without a body; 401 and 304 have none.
        if !head && !matches!(status, 304 | 401 | 403) {
            response["content"] = content(&Shape::of("Error"));
        }
        all.entry(status.to_string()).or_insert(response);
    }
    all.into()
}

fn reason(status: u16) -> &'static str {
    let status = StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or("")
}

fn content(shape: &Shape) -> Value {
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    match shape {
        Shape::Nothing => json!({}),
        Shape::Octets => json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } }),
        Shape::Stream => json!({ "text/event-stream": { "schema": { "type": "string" } } }),
        Shape::Lines => json!({ "application/x-ndjson": { "schema": { "type": "string" } } }),
        Shape::Json(name) => json!({ "application/json": { "schema": schema(name) } }),
        Shape::List(name) => json!({ "application/json": { "schema": { "type": "array", "items": schema(name) } } }),
    }
}

/// The schemas that are no object types.
fn own_schemas() -> Map<String, Value> {
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer", "format": "int64" });
    let texts = || json!({ "type": "array", "items": { "type": "string" } });
    let map = || json!({ "type": "object", "additionalProperties": true });
    let open = |properties: Value| json!({ "type": "object", "properties": properties });
    let closed = |properties: Value| {
        let required: Vec<&String> = properties.as_object().into_iter().flat_map(Map::keys).collect();
        json!({ "type": "object", "required": required, "properties": properties })
    };
    let action = || {
        closed(json!({
            "Provider": text(), "Model": text(), "Command": text(), "RequiredParams": texts(), "OptionalParams": texts(),
        }))
    };
    let index = || closed(json!({ "Type": text(), "Unique": { "type": "boolean" } }));
    let all = json!({
        "Any": { "nullable": true },
        "Text": text(),
        "Map": map(),
        "TextMap": { "type": "object", "additionalProperties": { "type": "string" } },
        "Error": closed(json!({
            "Model": text(), "Key": text(), "Type": text(), "Messages": texts(), "Code": number(),
        })),
        "Patch": {
            "type": "array",
            "description": "RFC 6902.",
            "items": {
                "type": "object",
                "required": ["op", "path"],
                "properties": {
                    "op": { "type": "string", "enum": ["add", "remove", "replace", "move", "copy", "test"] },
                    "path": text(),
                    "from": text(),
                    "value": { "nullable": true },
                },
            },
        },
        "Info": closed(json!({
            "arch": text(), "os": text(), "version": text(), "id": text(), "local_id": text(), "ha_id": text(),
            "api_port": number(), "file_port": number(), "address": text(), "features": texts(), "scopes": map(),
            "stats": { "type": "array", "items": closed(json!({ "name": text(), "count": number() })) },
        })),
        "Token": closed(json!({ "Token": text(), "Info": { "$ref": "#/components/schemas/Info" } })),
        "Password": closed(json!({ "Password": text() })),
        "Event": open(json!({
            "Time": text(), "Type": text(), "Action": text(), "Key": text(), "Principal": text(),
            "Object": { "nullable": true }, "Original": { "nullable": true },
        })),
        "Blob": closed(json!({ "Path": text(), "Size": number() })),
        "Content": open(json!({ "meta": map(), "sections": { "type": "object", "additionalProperties": map() } })),
        "ContentSummary": closed(json!({
            "meta": map(), "Counts": { "type": "object", "additionalProperties": { "type": "integer" } },
            "Warnings": texts(),
        })),
        "Action": action(),
        "JobAction": closed(json!({ "Name": text(), "Path": text(), "Content": text(), "Meta": map() })),
        "JobRequest": open(json!({ "Machine": text(), "Uuid": text() })),
        "Index": index(),
        "Indexes": { "type": "object", "additionalProperties": index() },
        "AllIndexes": { "type": "object", "additionalProperties": { "type": "object", "additionalProperties": index() } },
        "Interface": closed(json!({
            "Name": text(), "Index": number(), "Addresses": texts(), "ActiveAddress": text(), "Gateway": text(),
            "DnsServers": texts(), "DnsDomain": text(), "ReadOnly": { "type": "boolean" }, "Meta": map(),
        })),
        "WhoAmI": open(json!({
            "Fingerprint": { "type": "object" }, "MacAddrs": texts(), "OnDiskUUID": text(),
        })),
        "Exchange": closed(json!({ "machine": text(), "attempt": text(), "secret": text(), "nonce": text() })),
        "Exchanged": closed(json!({ "token": text() })),
        "Checkin": {
            "type": "object",
            "required": ["machine", "attempt"],
            "properties": {
                "machine": text(), "attempt": text(), "version": text(), "uptime_s": number(),
                "root_in_memory": { "type": "boolean" },
            },
        },
        "Heartbeat": {
            "type": "object",
            "required": ["machine", "attempt"],
            "properties": { "machine": text(), "attempt": text(), "uptime_s": number() },
        },
        "DiscFile": closed(json!({ "path": text(), "offset": number(), "size": number(), "role": text() })),
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Everything that a `$ref` names.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(text) if name == "$ref" => drop(found.insert(text.clone())),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_says_what_it_takes_and_gives() {
        for route in super::super::routes() {
            assert!(!route.doc.summary.is_empty(), "{route:?} has no summary");
            let outcomes = route.doc.gives.len() + route.doc.refuses.len();
            assert!(outcomes > 0, "{route:?} says nothing of its outcome");
            assert!(statuses(&route).contains(&500), "{route:?}");
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there_and_used() {
        let document = document(&super::super::routes());
        let mut named = BTreeSet::new();
        references(&document, &mut named);
        let prefix = "#/components/schemas/";
        let named: BTreeSet<&str> = named.iter().map(|name| name.strip_prefix(prefix).unwrap()).collect();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for name in &named {
            assert!(schemas.contains_key(*name), "{name} is nowhere");
        }
        for name in own_schemas().keys() {
            assert!(named.contains(name.as_str()), "{name} is used nowhere");
        }
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let document = document(&super::super::routes());
        let mut ids = BTreeSet::new();
        for methods in document["paths"].as_object().unwrap().values() {
            for operation in methods.as_object().unwrap().values() {
                assert!(ids.insert(operation["operationId"].to_string()), "{operation}");
            }
        }
        assert!(ids.len() > 200, "{}", ids.len());
    }
}
