//! What an operator adds to a server by its options, and what machines get of it on the file plane.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use common::Served;
use isobar_client::{Client, path};
use serde_json::{Value, json};

/// Status and body of a GET on the file plane, by somebody without credentials.
fn plane(served: &Served, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(served.ready["files"].as_str().unwrap()).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

fn create(client: &Client, noun: &str, object: &Value) -> Value {
    client.post(&path!("api", "v3", noun), object).unwrap()
}

#[test]
fn options_bring_layers_plugins_prefs_and_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    std::fs::create_dir_all(layer.join("templates")).unwrap();
    std::fs::write(layer.join("._Name.meta"), "mine").unwrap();
    std::fs::write(layer.join("templates/etc.yaml"), "ID: etc\nContents: x").unwrap();
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../content/plugins");
    let data = dir.path().join("data");
    let served = Served::with(
        &data,
        &[
            "--content-layers",
            layer.to_str().unwrap(),
            "--plugin-dir",
            plugins.to_str().unwrap(),
            "--server-id",
            "Fred",
            "--initial-prefs",
            "knownTokenTimeout=77",
            "--ipmi-provider=false",
            "--content-pack=false",
        ],
    );
    let client = served.login(&data);
    let get = |path: &str| client.get::<Value>(path).unwrap();
    assert_eq!(get("/api/v3/info")["id"], "Fred");
    assert_eq!(get("/api/v3/prefs")["knownTokenTimeout"], "77");
    let template = get("/api/v3/templates/etc");
    assert_eq!(
        (&template["Bundle"], &template["ReadOnly"]),
        (&json!("mine"), &json!(true))
    );
    let layers: Vec<_> = get("/api/v3/contents")
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["meta"]["Type"].clone())
        .collect();
    assert_eq!(layers, ["basic", "plugin", "local"]);

    let said: Vec<_> = get("/api/v3/logs")
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["Message"].clone())
        .collect();
    assert!(said.contains(&json!("ready")), "{said:?}");

    // The example counts.
    create(&client, "plugins", &json!({"Name": "count", "Provider": "incrementer"}));
    let machine = create(&client, "machines", &json!({"Name": "mach-01"}));
    let actions = format!("/api/v3/machines/{}/actions", machine["Uuid"].as_str().unwrap());
    assert_eq!(get(&actions).as_array().unwrap().len(), 1);
    let run = |command: &str, params: Value| client.post::<_, Value>(&format!("{actions}/{command}"), &params);
    assert_eq!(run("increment", json!({})).unwrap(), json!(1));
    assert_eq!(run("increment", json!({"incrementer/step": 5})).unwrap(), json!(6));
    assert_eq!(run("reset_count", json!({})).unwrap(), json!("Success"));
    assert!(
        run("reset_count", json!({}))
            .unwrap_err()
            .to_string()
            .contains("Missing Parameter incrementer/touched")
    );
}

#[test]
fn the_file_plane_has_uploads_and_what_templates_make() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let served = Served::with(&data, &["--address-for-machine", "192.0.2.7"]);
    let client = served.login(&data);
    for (name, body) in [("files/images/a.txt", "hello, world"), ("isos/x.iso", "iso")] {
        let route = format!("/api/v3/{name}");
        client
            .upload::<Value>(&route, "application/octet-stream", None, &mut body.as_bytes())
            .unwrap();
    }
    assert_eq!(
        plane(&served, "/files/images/a.txt", ""),
        ("200".to_owned(), "hello, world".to_owned())
    );
    assert_eq!(
        plane(&served, "/files/images/a.txt", "Range: bytes=7-\r\n"),
        ("206".to_owned(), "world".to_owned())
    );
    assert_eq!(plane(&served, "/isos/x.iso", "").1, "iso");
    for missing in [
        "/files/a.txt",
        "/files/../isobar.db",
        "/files/%2e%2e/isobar.db",
        "/isobar.db",
        "/isos/",
    ] {
        let (status, _) = plane(&served, missing, "");
        assert!(["404", "400"].contains(&status.as_str()), "{missing}: {status}");
    }
    let templates =
        json!([{"Name": "ks", "Path": "{{.Machine.Path}}/ks", "Contents": "{{.ProvisionerURL}} {{.Machine.Name}}"}]);
    create(
        &client,
        "bootenvs",
        &json!({"Name": "env", "OS": {"Name": "env"}, "Templates": templates}),
    );
    let machine = create(&client, "machines", &json!({"Name": "mach-01", "BootEnv": "env"}));
    let file = format!("/machines/{}/ks", machine["Uuid"].as_str().unwrap());
    let port = served.ready["files"].as_str().unwrap().rsplit(':').next().unwrap();
    // The machine's address of the server, whoever asks.
    assert_eq!(plane(&served, &file, "").1, format!("http://192.0.2.7:{port} mach-01"));
    assert!(plane(&served, "/default.ipxe", "").1.starts_with("#!ipxe\n"));
    // A restart loses none of it.
    served.kill();
    let served = Served::start(&data);
    assert_eq!(plane(&served, "/files/images/a.txt", "").1, "hello, world");
    served
        .login(&data)
        .delete::<Value>("/api/v3/files/images/a.txt")
        .unwrap();
    assert_eq!(plane(&served, "/files/images/a.txt", "").0, "404");
}
