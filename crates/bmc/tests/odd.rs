//! Trees with anything in place of what should be there: every call ends, and none panics.
#![allow(clippy::unwrap_used)]

mod common;
mod tree;

use std::sync::Arc;
use std::time::Duration;

use common::{PASSWORD, Records, endpoint, options};
use isobar_bmc::redfish::{Options, connect};
use isobar_bmc::{Bmc, BootTarget, PowerAction};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tree::{MANAGER, SLOTS, SYSTEM, Tree, URL, action, link};

/// With a bit of every vendor.
fn full() -> Tree {
    let settings = format!("{SYSTEM}/Settings");
    let config = format!("{SLOTS}/CfgCD");
    Tree::new("Dell Inc.")
        .with("/redfish/v1", json!({"Vendor": "AMI", "Oem": {"Ami": {}}}))
        .with(
            SYSTEM,
            json!({"@Redfish.Settings": {"SettingsObject": link(&settings)}, "SecureBoot": link("/redfish/v1/sb"),
                "BootProgress": {"LastState": "OEM", "OemLastState": "x"}, "VirtualMedia": link(SLOTS)}),
        )
        .with(
            &settings,
            json!({"Boot": {"BootSourceOverrideTarget": "None", "HttpBootUri": "",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["Cd", "UefiHttp"], "BootSourceOverrideMode": "UEFI"}}),
        )
        .with(
            "/redfish/v1/sb",
            json!({"SecureBootEnable": true, "SecureBootMode": "UserMode"}),
        )
        .with(
            MANAGER,
            json!({"Model": "14G Monolithic", "FirmwareVersion": "5.0", "Actions": {
                "#Manager.Reset": action("/redfish/v1/reset"),
                "Oem": {"#OemManager.ImportSystemConfiguration": action("/redfish/v1/import"),
                    "#VirtualMedia.EnableRMedia": action("/redfish/v1/enable")}}}),
        )
        .with(
            SLOTS,
            json!({"Oem": {"Supermicro": {"VirtualMediaConfig": link(&config)}}}),
        )
        .with(
            &config,
            json!({"Actions": {"#IsoConfig.Mount": action("/redfish/v1/mount")}}),
        )
        .slot(
            SLOTS,
            "CD1",
            json!({"Actions": {"#VirtualMedia.InsertMedia": {"@Redfish.ActionInfo": "/redfish/v1/info"}}}),
        )
        .bare_slot(
            SLOTS,
            "CD2",
            json!({"Oem": {"Huawei": {"Actions": {"#VirtualMedia.VmmControl": action("/redfish/v1/vmm")}}}}),
        )
        .with(
            "/redfish/v1/info",
            json!({"Parameters": [{"Name": "Image", "Required": true}]}),
        )
}

/// Every place in a value, as a JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                places(
                    value,
                    &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")),
                    found,
                );
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                places(value, &format!("{at}/{i}"), found);
            }
        }
        _ => {}
    }
}

fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~é]{0,20}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, 1, "x", {"@odata.id": 3}])),
        Just(json!({"@odata.id": "http://[::1"})),
        Just(json!({"@odata.id": SYSTEM})),
        Just(json!({"target": {}, "Members": "x", "Oem": [1]})),
        Just(Value::String("é".repeat(5000))),
    ]
}

async fn talk(tree: Tree, status: u16) {
    let bmc = tree.serve_with(move |seen, _| {
        let changes = seen.method != "GET" && !seen.path.contains("Session");
        (changes && status != 0).then(|| (status, "", json!({"error": {"@Message.ExtendedInfo": [7]}}).to_string()))
    });
    let quick = Options {
        call_deadline: Duration::from_millis(400),
        settle: Duration::from_millis(30),
        poll: Duration::from_millis(5),
        longest_wait: Duration::from_millis(5),
        ..options()
    };
    let Ok(mut client) = connect(endpoint(&bmc.address, PASSWORD), Arc::new(Records::default()), quick).await else {
        return;
    };
    let _ = client.probe().await;
    let _ = client.host().await;
    let _ = client.insert(URL).await;
    let _ = client.boot_once(BootTarget::Cd).await;
    let _ = client.boot_http_once(URL).await;
    let _ = client.clear_boot_override().await;
    let _ = client.power(PowerAction::Cycle).await;
    let _ = client.eject().await;
    let _ = client.reset_bmc().await;
    client.close().await;
}

#[test]
fn strange_values_anywhere_end_in_an_answer_or_an_error() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let whole = full();
    let mut spots = Vec::new();
    for (uri, body) in &whole.0 {
        let mut found = Vec::new();
        places(body, "", &mut found);
        spots.extend(found.into_iter().map(|place| (uri.clone(), place)));
    }
    let change = (proptest::sample::select(spots), odd());
    let changed = (
        proptest::collection::vec(change, 1..4),
        proptest::sample::select(vec![0_u16, 200, 202, 400, 500]),
    );
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let run = runner.run(&changed, |(changes, status)| {
        let mut tree = whole.clone();
        for (uri, place) in changes.iter().map(|((uri, place), value)| (uri, (place, value))) {
            if let Some(at) = tree.0.get_mut(uri).and_then(|body| body.pointer_mut(place.0)) {
                *at = place.1.clone();
            }
        }
        let done = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), talk(tree, status)).await });
        prop_assert!(done.is_ok(), "it does not end");
        Ok(())
    });
    run.unwrap();
}
