//! `kill -9` of the server: at every step of a boot, at random moments, and between the agent's own calls. The BMCs and
//! the machines behind them live in the test's process and go on.
//!
//! `ISOBAR_TEST_KILLS` sets how often the server is killed at random moments, `ISOBAR_TEST_SEED` repeats a run.
#![allow(clippy::unwrap_used)]

mod agent;
mod bytes;
mod cleanup;
mod points;
mod random;
#[path = "../stage/mod.rs"]
mod stage;

use isobar_client::{Client, ClientError};
use serde_json::{Value, json};

/// Sets the bootenv of a machine; true once it is acknowledged.
fn set_bootenv(client: &Client, uuid: &str, bootenv: &str) -> Result<(), ClientError> {
    patch(client, uuid, "/BootEnv", &json!(bootenv))
}

fn patch(client: &Client, uuid: &str, path: &str, value: &Value) -> Result<(), ClientError> {
    let operations = [json!({"op": "replace", "path": path, "value": value})];
    client
        .patch::<_, Value>(&format!("/api/v3/machines/{uuid}"), &operations)
        .map(drop)
}

/// A machine's boots, newest first.
fn boots(client: &Client, uuid: &str) -> Result<Vec<Value>, ClientError> {
    client.get(&format!("/isobar/v1/boots?machine={uuid}"))
}

/// Whether nothing is under way for the machine, and nothing is owed to its BMC.
fn settled(boots: &[Value]) -> bool {
    boots
        .iter()
        .all(|boot| boot["state"] != "running" && boot["cleanup"] != true)
}
