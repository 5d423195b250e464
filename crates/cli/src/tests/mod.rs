//! Whole command lines against a server that answers in DRP's shapes and those of our own routes.
#![allow(clippy::unwrap_used)]

#[path = "../../../client/tests/support/mod.rs"]
mod support;

mod boots;
mod completion;
mod feed;
mod grammar;
mod requests;
mod surroundings;
mod tree;
mod urls;
mod verbs;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use clap::Command;
use serde_json::{Value, json};
use support::{Answer, Seen, Server};

use crate::host::fake;

const UUID: &str = "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215";

/// What a command left behind.
struct Ran {
    status: u8,
    out: String,
    err: String,
    lines: Vec<String>,
    seen: Vec<Seen>,
}

fn run_with(server: &Server, words: &[&str], env: &[(&str, &str)], stdin: &str) -> Ran {
    let mut all = vec![("RS_ENDPOINT", server.endpoint.as_str()), ("RS_TOKEN", "t0ken")];
    all.extend_from_slice(env);
    let (host, out, err) = fake::host(&all, stdin);
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let status = crate::run(&words, &[], &host);
    let seen = server.take();
    let lines = seen.iter().map(|seen| seen.line().replace("/api/v3", "")).collect();
    Ran {
        status,
        out: out.text(),
        err: err.text(),
        lines,
        seen,
    }
}

fn run(server: &Server, words: &[&str]) -> Ran {
    run_with(server, words, &[], "")
}

fn local(words: &[&str]) -> (u8, String, String) {
    let (host, out, err) = fake::host(&[], "");
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let data_dir = clap::Arg::new("data-dir").long("data-dir").help("Where all is");
    let extra = [Command::new("serve").about("Serves").arg(data_dir)];
    (crate::run(&words, &extra, &host), out.text(), err.text())
}

/// A machine, its params, and boots that come as a PATCH changes the BootEnv.
struct World {
    machine: Value,
    boots: Vec<Value>,
    /// What the long-poll answers, one after the other.
    progress: VecDeque<Value>,
    /// The boot that the next PATCH starts.
    next_boot: Option<Value>,
    /// False: a server without our API.
    ours: bool,
}

fn world(ours: bool) -> Arc<Mutex<World>> {
    let machine = json!({
        "Validated": true, "Available": true, "Errors": [], "Meta": {}, "Name": "mach-01", "Uuid": UUID,
        "Stage": "none", "BootEnv": "sledgehammer", "Workflow": "discover-base", "Description": "", "Profiles": [],
        "Params": {"boot-virtual-iso": true}, "Tasks": [], "CurrentTask": -1,
    });
    Arc::new(Mutex::new(World {
        machine,
        boots: Vec::new(),
        progress: VecDeque::new(),
        next_boot: None,
        ours,
    }))
}

fn serve(world: &Arc<Mutex<World>>) -> Server {
    let world = Arc::clone(world);
    Server::start(move |seen| answer(&mut world.lock().unwrap(), seen))
}

fn answer(world: &mut World, seen: &Seen) -> Answer {
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    if let Some(path) = path.strip_prefix("/isobar/v1") {
        return match path.trim_start_matches('/') {
            _ if !world.ours => Answer::error(404, "GET", "", path, &["No route"]),
            "boots" => Answer::ok(Value::Array(world.boots.iter().rev().cloned().collect())),
            "isos" => Answer::ok(json!([
                {"machine": UUID, "name": "mach-01", "bootenv": "local", "size": 0},
                {"machine": UUID, "name": "mach-01", "bootenv": "sledgehammer", "size": 10},
            ])),
            path if path == format!("isos/{UUID}/sledgehammer/tree") => {
                Answer::ok(json!([{"path": "boot/grub/grub.cfg", "offset": 0, "size": 3, "role": "other"}]))
            }
            path if path == format!("isos/{UUID}/sledgehammer/files/boot/grub/grub.cfg") => Answer::bytes(200, b"set"),
            path if path == format!("isos/{UUID}/sledgehammer/boot.iso") => Answer::bytes(200, b"0123456789"),
            path if path.starts_with("boots/") && query.starts_with("after=") => {
                Answer::ok(world.progress.pop_front().unwrap())
            }
            _ => Answer::error(404, "GET", "boots", path, &["Not Found"]),
        };
    }
    let path = path.strip_prefix("/api/v3/").unwrap();
    let path = path.replace("Name:mach-01", UUID);
    let machine = format!("machines/{UUID}");
    match (seen.method.as_str(), path.strip_prefix(&machine).unwrap_or(&path)) {
        ("GET", "info") => Answer::ok(json!({"id": "Fred"})),
        ("POST", "machines") => Answer::json(201, world.machine.clone()),
        ("GET", "") => Answer::ok(world.machine.clone()),
        ("HEAD", "") => Answer::bytes(200, b""),
        ("DELETE", "") => Answer::ok(world.machine.clone()),
        ("PATCH", "") => {
            let patch = isobar_model::patch::Patch::parse(&seen.json()).unwrap();
            patch
                .apply(&mut world.machine, isobar_model::patch::Target::Object)
                .unwrap();
            world.boots.extend(world.next_boot.take());
            Answer::ok(world.machine.clone())
        }
        ("GET", "/params") => Answer::ok(world.machine["Params"].clone()),
        ("POST", "/params/ipmi/password" | "/params/network-data" | "/params/boot-virtual-iso" | "/params/code") => {
            Answer::ok(seen.json())
        }
        ("DELETE", "/params/boot-virtual-iso") => Answer::ok(json!(true)),
        ("DELETE", key) if key.starts_with("/params/") => Answer::error(
            404,
            "DELETE",
            "params",
            key.trim_start_matches("/params/"),
            &["Not Found"],
        ),
        ("PATCH", "/params") => Answer::ok(json!({"boot-virtual-iso": true, "foo": {"a": 1}})),
        ("GET", "/pubkey") => Answer::ok(json!("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")),
        ("POST", "/actions/statusVirtualMedia") => Answer::ok(json!({"Inserted": true, "Image": "http://h/a?b&c"})),
        ("POST", action) if action.starts_with("/actions/power") => Answer::ok(json!("On")),
        ("POST", "/actions/mountVirtualMedia" | "/actions/unmountVirtualMedia") => Answer::ok(json!("Success")),
        ("GET", "params/ipmi/password") => {
            Answer::ok(json!({"Name": "ipmi/password", "Secure": true, "Schema": {"type": "string"}}))
        }
        ("GET", "params/code") => Answer::ok(json!({"Name": "code", "Secure": false, "Schema": {"type": "string"}})),
        ("HEAD", "params/ipmi/virtual-media-boot") => Answer::bytes(200, b""),
        ("GET", "params") => Answer::ok(json!([{"Name": "network-data"}, {"Name": "ipmi/mode"}])),
        (method, path) => Answer::error(
            404,
            method,
            path.split('/').next().unwrap(),
            path.split_once('/').map_or("", |p| p.1),
            &["Not Found"],
        ),
    }
}

fn boot(seq: u64, phase: &str, more: Value) -> Value {
    let mut boot = json!({
        "id": "b1", "machine": UUID, "machine_name": "mach-01", "bootenv": "sledgehammer", "state": "running",
        "phase": phase, "detail": "", "percent": null, "rate_bps": null, "eta_s": null, "handed_over": false,
        "agent_up": false, "error": null, "seq": seq, "iso": "dynamic_isos/x/sledgehammer/boot.iso",
    });
    boot.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    boot
}
