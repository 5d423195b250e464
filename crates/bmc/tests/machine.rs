//! The machine behind the BMC: boot override, HTTP boot, power, Secure Boot, progress; and the BMC's own reset.
#![allow(clippy::unwrap_used)]

mod common;
mod tree;

use common::{USER, open};
use isobar_bmc::{Bmc, BootTarget, ErrorClass, PowerAction, PowerState};
use serde_json::{Value, json};
use tree::{MANAGER, SYSTEM, Tree, action, changes, link, members, refused, sent};

const TARGETS: &str = "BootSourceOverrideTarget@Redfish.AllowableValues";

fn boot(change: Value) -> Value {
    json!({"Boot": change})
}

#[tokio::test]
async fn the_target_is_what_this_machine_calls_its_virtual_cd() {
    for (maker, boot_section, want) in [
        ("Supermicro", json!({TARGETS: ["None", "Cd", "UsbCd"]}), "UsbCd"),
        ("Supermicro", json!({TARGETS: ["None", "Cd"]}), "Cd"),
        (
            "Supermicro",
            json!({TARGETS: ["UefiUsbCd", "UsbCd"], "BootSourceOverrideMode": "UEFI"}),
            "UefiUsbCd",
        ),
        (
            "Supermicro",
            json!({TARGETS: ["UefiUsbCd", "UsbCd"], "BootSourceOverrideMode": "Legacy"}),
            "UsbCd",
        ),
        // It does not tell its mode.
        (
            "Supermicro",
            json!({TARGETS: ["UsbCd", "UefiCd", "UefiUsbCd", "CD/DVD"]}),
            "UefiUsbCd",
        ),
        ("Dell Inc.", json!({TARGETS: ["UsbCd", "Cd"]}), "Cd"),
        (
            "",
            json!({TARGETS: null, "BootSourceOverrideSupported": ["UefiCd", "Pxe"]}),
            "UefiCd",
        ),
        ("", json!({TARGETS: ["None", "CD", "Hdd"]}), "CD"),
    ] {
        let bmc = Tree::new(maker).with(SYSTEM, boot(boot_section.clone())).serve();
        let (mut client, _) = open(&bmc.address).await.unwrap();
        client.boot_once(BootTarget::Cd).await.unwrap();
        let set = &sent(&bmc, "PATCH", SYSTEM)[0]["Boot"];
        assert_eq!(set["BootSourceOverrideTarget"], want, "{maker} {boot_section}");
    }
    // Not listed: by the refusals.
    let bmc = Tree::new("")
        .with(SYSTEM, boot(json!({TARGETS: null})))
        .serve_with(|seen, _| {
            let target = seen.body["Boot"]["BootSourceOverrideTarget"].as_str()?;
            (target != "UsbCd").then(|| refused(400, "PropertyValueNotInList", "not in the list", &[]))
        });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    client.boot_once(BootTarget::Cd).await.unwrap();
    // No override at all (HPE Cray): nothing is sent.
    let bmc = Tree::new("")
        .with(SYSTEM, boot(Value::Null))
        .with(SYSTEM, boot(json!({"BootOptions": {}})))
        .serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    assert_eq!(
        client.boot_once(BootTarget::Cd).await.unwrap_err().class,
        ErrorClass::Unsupported
    );
    assert!(changes(&bmc).is_empty());
}

#[tokio::test]
async fn a_full_override_goes_to_one_place() {
    let settings = format!("{SYSTEM}/SD");
    // AMI by its key, and one that says so only when it refuses.
    for ami in [true, false] {
        let tree = Tree::new("")
            .with(
                "/redfish/v1",
                json!({"Oem": if ami { json!({"Dre": {}, "Ami": {}}) } else { Value::Null }}),
            )
            .with(
                SYSTEM,
                json!({"@Redfish.Settings": {"SettingsObject": link(&settings)},
                "Boot": {"BootSourceOverrideMode": "Legacy"}}),
            )
            .with(
                &settings,
                boot(
                    json!({"BootSourceOverrideTarget": "None", "BootSourceOverrideEnabled": "Disabled",
                "BootSourceOverrideMode": "Legacy", TARGETS: ["None", "Cd"]}),
                ),
            );
        let bmc = tree.serve_with(|seen, _| {
            let missing = seen.body["Boot"].is_object() && seen.body["Boot"].get("BootSourceOverrideMode").is_none();
            let about = ["#/Boot/BootSourceOverrideMode"];
            missing.then(|| refused(400, "PropertyMissing", "a property is missing", &about))
        });
        let (mut client, _) = open(&bmc.address).await.unwrap();
        client.boot_once(BootTarget::Cd).await.unwrap();
        let patches = sent(&bmc, "PATCH", "/SD");
        assert_eq!(patches.len(), if ami { 1 } else { 2 });
        let want = json!({"BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once",
            "BootSourceOverrideMode": "Legacy"});
        assert_eq!(patches.last().unwrap()["Boot"], want);
        assert!(sent(&bmc, "PATCH", SYSTEM).is_empty());
    }
}

#[tokio::test]
async fn http_boot_takes_a_url_where_it_is_offered() {
    const URL: &str = "https://10.0.0.1/token-token/boot.efi";
    let offered = json!({TARGETS: ["None", "UefiHttp"], "HttpBootUri": "", "BootSourceOverrideMode": "Legacy"});
    let bmc = Tree::new("").with(SYSTEM, boot(offered)).serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    assert!(client.host().await.unwrap().http_boot);
    client.boot_http_once(URL).await.unwrap();
    let want = json!({"BootSourceOverrideTarget": "UefiHttp", "BootSourceOverrideEnabled": "Once",
        "BootSourceOverrideMode": "UEFI", "HttpBootUri": URL});
    assert_eq!(sent(&bmc, "PATCH", SYSTEM)[0]["Boot"], want);
    // An operator's own URL stays; ours goes with its boot, as each BMC wants it gone.
    client.clear_boot_override().await.unwrap();
    assert_eq!(
        sent(&bmc, "PATCH", SYSTEM)[1]["Boot"],
        json!({"BootSourceOverrideEnabled": "Disabled"})
    );
    client.clear_http_boot().await.unwrap();
    client.clear_http_boot().await.unwrap();
    assert_eq!(
        sent(&bmc, "PATCH", SYSTEM)[2..],
        [json!({"Boot": {"HttpBootUri": null}})]
    );
    let kept = json!({TARGETS: ["None", "UefiHttp"], "HttpBootUri": URL, "BootSourceOverrideEnabled": "Disabled"});
    let bmc = Tree::new("").with(SYSTEM, boot(kept)).serve_with(|seen, _| {
        let null = seen.method == "PATCH" && seen.body["Boot"]["HttpBootUri"].is_null();
        null.then(|| {
            refused(
                400,
                "PropertyValueTypeError",
                "null is no text",
                &["#/Boot/HttpBootUri"],
            )
        })
    });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    client.clear_http_boot().await.unwrap();
    assert_eq!(sent(&bmc, "PATCH", SYSTEM)[1], json!({"Boot": {"HttpBootUri": ""}}));
    for boot_section in [
        json!({TARGETS: ["None", "Cd"], "HttpBootUri": ""}),
        json!({TARGETS: ["UefiHttp"]}),
    ] {
        let bmc = Tree::new("").with(SYSTEM, boot(boot_section)).serve();
        let (mut client, _) = open(&bmc.address).await.unwrap();
        assert!(!client.host().await.unwrap().http_boot);
        assert_eq!(
            client.boot_http_once(URL).await.unwrap_err().class,
            ErrorClass::Unsupported
        );
        assert!(changes(&bmc).is_empty());
    }
}

#[tokio::test]
async fn power_in_the_types_that_there_are() {
    let reset = |listed: Value| json!({"Actions": {"#ComputerSystem.Reset": listed}});
    let types = "ResetType@Redfish.AllowableValues";
    let info = "/redfish/v1/info";
    let listed_there = json!({types: null, "@Redfish.ActionInfo": info});
    for (what, action, listed, parameters, want) in [
        (
            "offered",
            PowerAction::Cycle,
            json!({types: ["PowerCycle", "On"]}),
            Value::Null,
            vec!["PowerCycle"],
        ),
        (
            "not offered",
            PowerAction::Cycle,
            json!({types: ["ForceRestart", "On"]}),
            Value::Null,
            vec!["ForceRestart"],
        ),
        (
            "neither",
            PowerAction::Cycle,
            json!({types: ["ForceOff", "On"]}),
            Value::Null,
            vec!["ForceOff", "On"],
        ),
        (
            "info is gone",
            PowerAction::Cycle,
            listed_there.clone(),
            Value::Null,
            vec!["ForceRestart"],
        ),
        (
            "in the info",
            PowerAction::Cycle,
            listed_there.clone(),
            json!([{"Name": "ResetType", "AllowableValues": ["PowerCycle"]}]),
            vec!["PowerCycle"],
        ),
        (
            "an odd info",
            PowerAction::Cycle,
            listed_there,
            json!(3),
            vec!["ForceRestart"],
        ),
        (
            "Off",
            PowerAction::ForceOff,
            json!({types: ["Off", "On"]}),
            Value::Null,
            vec!["Off"],
        ),
        (
            "old name",
            PowerAction::Cycle,
            json!({types: null, "ResetType@DMTF.AllowableValues": ["PowerCycle"]}),
            Value::Null,
            vec!["PowerCycle"],
        ),
        (
            "by button",
            PowerAction::GracefulShutdown,
            json!({types: ["PushPowerButton"]}),
            Value::Null,
            vec!["PushPowerButton"],
        ),
    ] {
        let mut tree = Tree::new("").with(SYSTEM, reset(listed));
        if !parameters.is_null() {
            tree.put(info, json!({"Parameters": parameters}));
        }
        let bmc = tree.serve();
        let (mut client, _) = open(&bmc.address).await.unwrap();
        client.power(action).await.unwrap_or_else(|err| panic!("{what}: {err}"));
        let kinds: Vec<Value> = sent(&bmc, "POST", "ComputerSystem.Reset")
            .iter()
            .map(|b| b["ResetType"].clone())
            .collect();
        assert_eq!(kinds, want, "{what}");
    }
    // Off: cycling it is switching it on.
    let bmc = Tree::new("").with(SYSTEM, json!({"PowerState": "Off"})).serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    client.power(PowerAction::Cycle).await.unwrap();
    assert_eq!(sent(&bmc, "POST", "ComputerSystem.Reset"), [json!({"ResetType": "On"})]);
}

#[tokio::test]
async fn the_machines_state_is_read() {
    let tree = Tree::new("")
        .with(
            SYSTEM,
            json!({"BootProgress": {"LastState": "OSRunning"}, "SecureBoot": link("/redfish/v1/sb"),
            "Boot": {"BootSourceOverrideMode": "UEFI"}}),
        )
        .with(
            "/redfish/v1/sb",
            json!({"SecureBootEnable": true, "SecureBootCurrentBoot": "Disabled"}),
        );
    let bmc = tree.serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let host = client.host().await.unwrap();
    assert_eq!((host.power, host.boot_mode.as_deref()), (PowerState::On, Some("UEFI")));
    assert_eq!(host.boot_progress.as_deref(), Some("OSRunning"));
    let secure = host.secure_boot.unwrap();
    assert_eq!(
        (secure.enabled, secure.in_force),
        (Some(true), Some(false)),
        "from the next boot on"
    );
    // Linked and gone.
    let bmc = Tree::new("")
        .with(SYSTEM, json!({"SecureBoot": link("/redfish/v1/sb")}))
        .serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    assert_eq!(client.host().await.unwrap().secure_boot, None);
}

#[tokio::test]
async fn a_bmc_is_reset_in_its_own_way() {
    let reset = format!("{MANAGER}/Actions/Manager.Reset");
    let types = "ResetType@Redfish.AllowableValues";
    for (listed, refuses, want) in [
        (json!(["GracefulRestart"]), "", vec!["GracefulRestart"]),
        (json!(["ForceRestart"]), "", vec!["ForceRestart"]),
        (Value::Null, "GracefulRestart", vec!["GracefulRestart", "ForceRestart"]),
    ] {
        let mut manager = json!({"Actions": {"#Manager.Reset": action(&reset)}});
        manager["Actions"]["#Manager.Reset"][types] = listed;
        let bmc = Tree::new("").with(MANAGER, manager).serve_with(move |seen, _| {
            let kind = seen
                .path
                .ends_with("Manager.Reset")
                .then(|| seen.body["ResetType"].as_str())??;
            Some(match kind == refuses {
                true => refused(400, "ActionParameterValueFormatError", "no", &[]),
                false => (204, "", String::new()),
            })
        });
        let (mut client, _) = open(&bmc.address).await.unwrap();
        client.reset_bmc().await.unwrap();
        client.close().await;
        let kinds: Vec<Value> = sent(&bmc, "POST", "Manager.Reset")
            .iter()
            .map(|b| b["ResetType"].clone())
            .collect();
        assert_eq!(kinds, want);
        assert!(
            !bmc.paths().iter().any(|p| p.starts_with("DELETE")),
            "its sessions went with it"
        );
    }
    let bmc = Tree::new("").serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    assert_eq!(client.reset_bmc().await.unwrap_err().class, ErrorClass::Unsupported);
}

#[tokio::test]
async fn sessions_are_found_at_their_usual_place() {
    let usual = "/redfish/v1/SessionService";
    let tree = Tree::new("").with(
        "/redfish/v1",
        json!({"Links": {"Sessions": link("/redfish/v1/Sessions")}, "SessionService": link(usual)}),
    );
    let bmc = tree.serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    client.power_state().await.unwrap();
    client.probe().await.unwrap();
    client.close().await;
    let logins: Vec<String> = bmc.paths().into_iter().filter(|p| !p.starts_with("GET ")).collect();
    let session = format!("{usual}/Sessions");
    let want = [
        "POST /redfish/v1/Sessions".to_owned(),
        format!("POST {session}"),
        format!("DELETE {session}/1"),
    ];
    assert_eq!(logins, want, "one session for all, and it is closed");
}

#[tokio::test]
async fn only_other_sessions_of_our_own_user_are_ended() {
    let list = "/redfish/v1/SessionService/Sessions";
    let session = |id: &str| format!("{list}/{id}");
    let tree = |others: &[(&str, Value)]| {
        let mut all: Vec<String> = ["1", "gone"].map(session).into();
        let mut tree = Tree::new("").with(&session("1"), json!({"UserName": USER}));
        for (id, body) in others {
            tree = tree.with(&session(id), body.clone());
            all.push(session(id));
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        tree.with(list, members(&all))
    };
    let foreign = [
        ("2", json!({"UserName": "somebody"})),
        ("3", json!({"UserName": format!("{USER}2")})),
        ("4", json!({"UserName": null})),
        ("5", json!({})),
    ];
    let ours = [("6", json!({"UserName": USER})), ("7", json!({"UserName": USER}))];
    for (others, want) in [
        (foreign.to_vec(), Vec::new()),
        ([&foreign[..], &ours[..]].concat(), vec![session("6"), session("7")]),
    ] {
        let bmc = tree(&others).serve();
        let (mut client, _) = open(&bmc.address).await.unwrap();
        let ended = client.clear_sessions().await.unwrap();
        assert_eq!(ended as usize, want.len());
        let want: Vec<String> = want.iter().map(|uri| format!("DELETE {uri}")).collect();
        let deleted = || -> Vec<String> {
            let all = bmc.paths().into_iter();
            all.filter(|path| path.starts_with("DELETE")).collect()
        };
        assert_eq!(deleted(), want);
        // The conversation goes on, and its own session is ended with it.
        client.power_state().await.unwrap();
        client.close().await;
        assert_eq!(deleted().last().unwrap(), &format!("DELETE {}", session("1")));
    }
    // One of two that is not ended is no failure; none at all is.
    for (refuses, ended) in [("6", Ok(1)), ("", Err(ErrorClass::Failing))] {
        let bmc = tree(&ours).serve_with(move |seen, _| {
            let is = seen.method == "DELETE" && seen.path.ends_with(refuses);
            is.then(|| refused(500, "InternalError", "no", &[]))
        });
        let (mut client, _) = open(&bmc.address).await.unwrap();
        let found = client.clear_sessions().await.map_err(|error| error.class);
        assert_eq!(found, ended, "{refuses}");
    }
}
