//! Vendors' manners, each on a small tree of our own making: what the client derives from links, actions, allowable
//! values, settings objects and refusals.
#![allow(clippy::unwrap_used)]

mod common;
mod tree;

use std::sync::Arc;
use std::time::Duration;

use common::open;
use isobar_bmc::{Bmc, BootTarget, ErrorClass, redfish};
use serde_json::{Value, json};
use tree::{MANAGER, SLOTS, SYSTEM, Tree, URL, action, changes, link, members, refused, sent};

/// Inserts, and answers the slot and the payload that was taken.
async fn inserted(bmc: &common::Scripted, url: &str) -> String {
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let media = client.insert(url).await.unwrap();
    assert!(media.inserted);
    client.eject().await.unwrap();
    assert!(!client.media().await.unwrap().inserted);
    client.close().await;
    media.slot
}

#[tokio::test]
async fn dell_before_6_boots_once_by_a_profile() {
    let import = format!("{MANAGER}/Actions/Oem/EID_674_Manager.ImportSystemConfiguration");
    for (ends_in, good) in [("Completed", true), ("Failed", false)] {
        let name = "#OemManager.v1_2_0.OemManager#OemManager.ImportSystemConfiguration";
        let tree = Tree::new("Dell Inc.").slot(SLOTS, "CD", json!({})).with(
            MANAGER,
            json!({"Model": "14G Monolithic", "FirmwareVersion": "5.10.50.00",
                "Actions": {"Oem": {name: action(&import)}}}),
        );
        let mut looks = 0;
        let bmc = tree.serve_with(move |seen, _| match (seen.method.as_str(), seen.path.as_str()) {
            ("POST", path) if path.ends_with("ImportSystemConfiguration") => {
                Some((202, "Location: /redfish/v1/Jobs/JID_1\r\n", String::new()))
            }
            ("GET", "/redfish/v1/Jobs/JID_1") => {
                looks += 1;
                let state = if looks < 3 { "Running" } else { ends_in };
                Some((200, "", json!({"JobState": state, "Message": "because"}).to_string()))
            }
            _ => None,
        });
        let (mut client, _) = open(&bmc.address).await.unwrap();
        let booted = client.boot_once(BootTarget::Cd).await;
        assert_eq!(booted.is_ok(), good, "{booted:?}");
        if let Err(err) = booted {
            assert!(err.message.contains("because"), "{err}");
        }
        let profile = &sent(&bmc, "POST", "ImportSystemConfiguration")[0];
        let xml = profile["ImportBuffer"].as_str().unwrap();
        assert!(
            xml.contains("VCD-DVD") && !xml.contains("> <") && !xml.contains('\n'),
            "{xml}"
        );
        assert_eq!(
            sent(&bmc, "PATCH", SYSTEM),
            Vec::<Value>::new(),
            "`Cd` is the drive in the machine"
        );
        // The disk is the disk.
        client.boot_once(BootTarget::Disk).await.unwrap();
        assert_eq!(sent(&bmc, "PATCH", SYSTEM).len(), 1);
    }
}

#[tokio::test]
async fn targets_that_only_the_settings_object_lists_are_written_there() {
    let settings = format!("{SYSTEM}/Settings");
    let tree = Tree::new("Dell Inc.")
        .with(
            SYSTEM,
            json!({"Boot": null, "@Redfish.Settings": {"SettingsObject": link(&settings)}}),
        )
        .with(
            MANAGER,
            json!({"Model": "17G Monolithic", "FirmwareVersion": "1.20.25.00"}),
        )
        .with(
            &settings,
            json!({"Boot": {"BootSourceOverrideTarget": null, "BootSourceOverrideEnabled": null,
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Cd"]}}),
        );
    let bmc = tree.serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    client.boot_once(BootTarget::Cd).await.unwrap();
    assert_eq!(changes(&bmc), [format!("PATCH {settings}")]);
}

#[tokio::test]
async fn ilo_4_takes_the_image_and_nothing_else() {
    let tree = Tree::new("HP")
        .with(MANAGER, json!({"Model": "iLO 4"}))
        .bare_slot(SLOTS, "1", json!({"MediaTypes": ["Floppy", "USBStick"]}))
        .bare_slot(SLOTS, "2", json!({}));
    let bmc = tree.serve();
    assert_eq!(inserted(&bmc, URL).await, format!("{SLOTS}/2"));
    let patches = sent(&bmc, "PATCH", "/2");
    assert!(patches.iter().all(|p| p.as_object().unwrap().len() == 1), "{patches:?}");
    assert_eq!(sent(&bmc, "PATCH", "/1"), Vec::<Value>::new());
}

#[tokio::test]
async fn a_vendors_own_insert_is_used_where_there_is_no_other() {
    let own = |name: &str| action(&format!("{SLOTS}/2/Actions/Oem/Hpe/HpeiLOVirtualMedia.{name}"));
    let tree = Tree::new("HPE").bare_slot(
        SLOTS,
        "2",
        json!({"Oem": {"Hpe": {"Actions": {"#HpeiLOVirtualMedia.InsertVirtualMedia": own("InsertVirtualMedia"),
            "#HpeiLOVirtualMedia.EjectVirtualMedia": own("EjectVirtualMedia")}}}}),
    );
    let bmc = tree.serve();
    assert_eq!(inserted(&bmc, URL).await, format!("{SLOTS}/2"));
    assert_eq!(sent(&bmc, "POST", ".InsertVirtualMedia"), [json!({"Image": URL})]);
    assert_eq!(sent(&bmc, "PATCH", "/2"), Vec::<Value>::new());
}

#[tokio::test]
async fn huawei_connects_by_its_own_action_and_not_at_the_first_try() {
    let control = format!("{SLOTS}/CD/Oem/Huawei/Actions/VirtualMedia.VmmControl");
    let tree = Tree::new("Huawei").bare_slot(
        SLOTS,
        "CD",
        json!({"Actions": {}, "Oem": {"Huawei": {"Actions": {"#VirtualMedia.VmmControl": action(&control)}}}}),
    );
    let mut tries = 0;
    let bmc = tree.serve_with(move |seen, tree| {
        let slot = format!("{SLOTS}/CD");
        match seen.body["VmmControlType"].as_str() {
            Some("Disconnect") => tree.eject(&slot),
            Some(_) => {
                tries += 1;
                let state = if tries == 1 { "Exception" } else { "Completed" };
                if tries > 1 {
                    tree.insert(&slot, &seen.body["Image"]);
                }
                tree.put("/redfish/v1/Task/1", json!({"TaskState": state}));
                return Some((202, "Location: /redfish/v1/Task/1\r\n", "{}".into()));
            }
            None => return None,
        }
        Some((200, "", "{}".into()))
    });
    let nfs = "nfs://10.0.0.1/export/token-token/boot.iso";
    assert_eq!(inserted(&bmc, nfs).await, format!("{SLOTS}/CD"));
    let sent = sent(&bmc, "POST", ".VmmControl");
    let connect = json!({"VmmControlType": "Connect", "Image": nfs});
    assert_eq!(sent.iter().filter(|b| **b == connect).count(), 2, "{sent:?}");
}

#[tokio::test]
async fn supermicro_x10_mounts_beside_its_slots() {
    let config = format!("{SLOTS}/CfgCD");
    let tree = Tree::new("Supermicro")
        .with(
            SLOTS,
            json!({"Members": null, "Oem": {"Supermicro": {"VirtualMediaConfig": link(&config)}}}),
        )
        .with(
            &config,
            json!({"Host": "", "Path": "", "Actions": {
            "#IsoConfig.Mount": action(&format!("{config}/Actions/IsoConfig.Mount")),
            "#IsoConfig.UnMount": action(&format!("{config}/Actions/IsoConfig.UnMount"))}}),
        );
    let bmc = tree.serve_with(move |seen, tree| {
        let cd = format!("{SLOTS}/CD1");
        let done = Some((200, "", "{}".into()));
        if seen.path.ends_with("IsoConfig.Mount") {
            let text = |name: &str| tree.0[&format!("{SLOTS}/CfgCD")][name].as_str().unwrap().to_owned();
            let image = text("Host") + &text("Path");
            tree.put(&cd, json!({"Id": "CD1", "Inserted": true, "Image": image}));
            return done;
        }
        if seen.path.ends_with("IsoConfig.UnMount") {
            return match tree.0.remove(&cd) {
                Some(_) => done,
                None => Some(refused(400, "GeneralError", "nothing is mounted", &[])),
            };
        }
        None
    });
    inserted(&bmc, "nfs://10.0.0.1/export/boot.iso").await;
    let patch = &sent(&bmc, "PATCH", "/CfgCD")[0];
    assert_eq!(
        (&patch["Host"], &patch["Path"]),
        (&json!("nfs://10.0.0.1"), &json!("/export/boot.iso"))
    );
    assert_eq!(
        sent(&bmc, "POST", "IsoConfig.UnMount").len(),
        1,
        "nothing to unmount before"
    );
}

#[tokio::test]
async fn what_a_slot_demands_is_added_and_what_it_refuses_dropped() {
    let missing = |name: &str| {
        refused(
            400,
            "ActionParameterMissing",
            "a parameter is missing",
            &[&format!("#/{name}")],
        )
    };
    // (what the action must have, how it says so, the payload beside `Image`)
    let rules: [(&[&str], bool, Value); 4] = [
        (&[], true, json!({})),
        (&["TransferProtocolType"], true, json!({"TransferProtocolType": "HTTP"})),
        (
            &["TransferProtocolType", "TransferMethod"],
            true,
            json!({"TransferProtocolType": "HTTP", "TransferMethod": "Stream"}),
        ),
        (
            &["UserName", "Password"],
            false,
            json!({"UserName": "none", "Password": "none"}),
        ),
    ];
    for (must, names, payload) in rules {
        let must: Vec<String> = must.iter().map(|m| (*m).to_owned()).collect();
        let bmc = Tree::new("Cisco Systems Inc")
            .slot(SLOTS, "0", json!({}))
            .serve_with(move |seen, _| {
                if !seen.path.ends_with("InsertMedia") {
                    return None;
                }
                let first = must.iter().find(|m| seen.body.get(m.as_str()).is_none())?;
                Some(match names {
                    true => missing(first),
                    false => refused(400, "GeneralError", "Share credentials must not be empty", &[]),
                })
            });
        inserted(&bmc, URL).await;
        let mut taken = sent(&bmc, "POST", "InsertMedia").pop().unwrap();
        assert_eq!(taken.as_object_mut().unwrap().remove("Image"), Some(json!(URL)));
        assert_eq!(taken, payload);
    }
    // Learnt from a sibling, and refused here: Supermicro X11.
    let bmc = Tree::new("Supermicro")
        .slot(SLOTS, "1", json!({}))
        .serve_with(|seen, _| {
            let there = ["Inserted", "WriteProtected"]
                .into_iter()
                .find(|m| seen.body.get(m).is_some())?;
            let text = format!("The parameter {there} is not supported.");
            Some(refused(400, "ActionParameterNotSupported", &text, &[]))
        });
    let learnt = isobar_bmc::redfish::Options {
        profile: isobar_bmc::redfish::Profile {
            insert_members: vec!["Inserted".into(), "WriteProtected".into()],
            ..isobar_bmc::redfish::Profile::default()
        },
        ..common::options()
    };
    let endpoint = common::endpoint(&bmc.address, common::PASSWORD);
    let mut client = isobar_bmc::redfish::connect(endpoint, std::sync::Arc::new(common::Records::default()), learnt)
        .await
        .unwrap();
    client.insert(URL).await.unwrap();
    assert_eq!(client.profile().insert_members, Vec::<String>::new());
}

#[tokio::test]
async fn slots_that_are_not_for_us_are_left_alone() {
    let kvm = json!({"Name": "KVM mapped vDVD"});
    let floppy = json!({"MediaTypes": ["Floppy", "USBStick"]});
    let proxy = json!({"Actions": {"#VirtualMedia.EjectMedia": action("/x")},
        "Oem": {"OpenBMC": {"WebSocketEndpoint": "/vm/0/0"}}});
    for (maker, tree, want) in [
        (
            "Cisco Systems Inc",
            Tree::new("Cisco Systems Inc")
                .bare_slot(SLOTS, "0", kvm.clone())
                .bare_slot(SLOTS, "1", kvm.clone())
                .slot(SLOTS, "4", json!({"MediaTypes": ["USBStick"]}))
                .slot(SLOTS, "3", json!({"MediaTypes": ["DVD"]})),
            "3",
        ),
        (
            "no name",
            Tree::new("")
                .bare_slot(SLOTS, "0", kvm)
                .bare_slot(SLOTS, "1", json!({"ConnectedVia": "Applet"}))
                .bare_slot(SLOTS, "2", json!({})),
            "2",
        ),
        (
            "OpenBMC",
            Tree::new("").bare_slot(SLOTS, "Slot_0", proxy).slot(
                SLOTS,
                "USB1",
                json!({"MediaTypes": ["CD", "USBStick"]}),
            ),
            "USB1",
        ),
        (
            "HPE",
            Tree::new("HPE").slot(SLOTS, "1", floppy).slot(SLOTS, "2", json!({})),
            "2",
        ),
        (
            "Lenovo",
            Tree::new("Lenovo")
                .slot(SLOTS, "RDOC1", json!({}))
                .bare_slot(SLOTS, "Remote1", json!({}))
                .bare_slot(SLOTS, "EXT2", json!({}))
                .bare_slot(SLOTS, "EXT1", json!({})),
            "EXT1",
        ),
        (
            "AMI",
            Tree::new("GIGABYTE")
                .slot(SLOTS, "HD1", json!({"MediaTypes": null}))
                .slot(SLOTS, "CD2", json!({"MediaTypes": null}))
                .slot(
                    SLOTS,
                    "CD1",
                    json!({"MediaTypes": null, "Image": "None", "Inserted": "false"}),
                ),
            "CD1",
        ),
        (
            "nothing says what it is for",
            Tree::new("").slot(SLOTS, "HD1", json!({"MediaTypes": null})).slot(
                SLOTS,
                "Slot1",
                json!({"MediaTypes": null, "Name": "Virtual Media"}),
            ),
            "Slot1",
        ),
        (
            "a USB device, which is no CD where there is one",
            Tree::new("Supermicro")
                .slot(
                    SLOTS,
                    "VirtualMedia1",
                    json!({"MediaTypes": null, "Name": "Virtual Removable Media"}),
                )
                .slot(SLOTS, "Floppy1", json!({"MediaTypes": null})),
            "VirtualMedia1",
        ),
        (
            "one says what it is for",
            Tree::new("")
                .slot(SLOTS, "1", json!({"MediaTypes": null, "Name": "Virtual Media"}))
                .slot(SLOTS, "2", json!({})),
            "2",
        ),
        (
            "no target",
            Tree::new("").slot(
                SLOTS,
                "CD",
                json!({"Actions": {"#VirtualMedia.InsertMedia": {"target": null}}}),
            ),
            "CD",
        ),
    ] {
        let bmc = tree.serve();
        assert_eq!(inserted(&bmc, URL).await, format!("{SLOTS}/{want}"), "{maker}");
        assert!(
            changes(&bmc).iter().all(|c| c.contains(&format!("{SLOTS}/{want}"))),
            "{maker}: {:?}",
            changes(&bmc)
        );
    }
}

#[tokio::test]
async fn remote_media_that_is_switched_off_is_switched_on() {
    for linked in [true, false] {
        let enable = format!("{MANAGER}/Actions/Oem/AMIVirtualMedia.EnableRMedia");
        let tree = Tree::new("NVIDIA").with(
            MANAGER,
            json!({"VirtualMedia": if linked { link(SLOTS) } else { Value::Null },
                "Actions": {"Oem": {"#AMIVirtualMedia.EnableRMedia": action(&enable)}}}),
        );
        let mut looks = 0;
        let bmc = tree.serve_with(move |seen, tree| {
            looks += usize::from(looks > 0 && (seen.path == MANAGER || seen.path == SLOTS));
            if looks == 3 && !tree.0.contains_key(&format!("{SLOTS}/CD1")) {
                *tree = tree
                    .clone()
                    .slot(SLOTS, "CD1", json!({}))
                    .with(MANAGER, json!({"VirtualMedia": link(SLOTS)}));
            }
            if seen.path.ends_with("EnableRMedia") {
                looks = 1;
                assert_eq!(seen.body, json!({"RMediaState": "Enable"}));
                return Some((204, "", String::new()));
            }
            None
        });
        let (mut client, _) = open(&bmc.address).await.unwrap();
        // Looking switches nothing on.
        assert!(!client.media().await.unwrap().inserted, "linked: {linked}");
        // There is nothing to eject, which is no failure: every boot begins so.
        client.eject().await.unwrap();
        assert_eq!(client.probe().await.unwrap().media_slot, None);
        assert!(changes(&bmc).is_empty());
        assert_eq!(
            client.insert(URL).await.unwrap().slot,
            format!("{SLOTS}/CD1"),
            "linked: {linked}"
        );
    }
}

#[tokio::test]
async fn the_manager_with_media_and_the_hosts_system_are_chosen() {
    let other = "/redfish/v1/Managers/BMC1";
    let slots = format!("{other}/VirtualMedia");
    // Cisco S3260: the manager that the system names has no media, or a link to a list that is empty or not there.
    let cisco = Tree::new("Cisco Systems Inc")
        .with("/redfish/v1/Managers", members(&[MANAGER, other]))
        .with(other, json!({"VirtualMedia": link(&slots), "FirmwareVersion": "4.1"}))
        .slot(&slots, "0", json!({}));
    for tree in [
        cisco.clone().with(MANAGER, json!({"VirtualMedia": null})),
        cisco.clone(),
        cisco.without(SLOTS),
    ] {
        let bmc = tree.serve();
        let (mut client, _) = open(&bmc.address).await.unwrap();
        let probe = client.probe().await.unwrap();
        assert_eq!((probe.manager.as_str(), probe.firmware.as_str()), (other, "4.1"));
        assert_eq!(probe.media_slot, Some(format!("{slots}/0")));
    }

    // NVIDIA: the GPUs' baseboard beside the host, named first everywhere.
    let (gpus, gpu_bmc) = ("/redfish/v1/Systems/HGX_Baseboard_0", "/redfish/v1/Managers/HGX_BMC_0");
    let tree = Tree::new("")
        .with("/redfish/v1/Systems", members(&[gpus, SYSTEM]))
        .with(gpus, json!({"Boot": {"BootSourceOverrideTarget": "None"}}))
        .with(gpu_bmc, json!({"VirtualMedia": link("/redfish/v1/wrong")}))
        .with(SYSTEM, json!({"Links": {"ManagedBy": [link(gpu_bmc), link(MANAGER)]}}))
        .slot(SLOTS, "USB1", json!({}));
    let bmc = tree.serve();
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let probe = client.probe().await.unwrap();
    assert_eq!((probe.system.as_str(), probe.manager.as_str()), (SYSTEM, MANAGER));
    assert_eq!(probe.media_slot, Some(format!("{SLOTS}/USB1")));
}

#[tokio::test]
async fn a_conversation_that_goes_on_with_another_system_leaves_the_first_alone() {
    let nodes = ["/redfish/v1/Systems/Node0", "/redfish/v1/Systems/Node1"];
    let mut tree = Tree::new("")
        .with("/redfish/v1/Systems", members(&nodes))
        .with(MANAGER, json!({"VirtualMedia": null}));
    for node in nodes {
        let slots = format!("{node}/VirtualMedia");
        tree = tree
            .with(node, json!({"VirtualMedia": link(&slots)}))
            .slot(&slots, "Cd", json!({}));
    }
    let bmc = tree.serve();
    let of = |node: &str| {
        let mut endpoint = common::endpoint(&bmc.address, common::PASSWORD);
        endpoint.system = Some(node.to_owned());
        endpoint
    };
    let records = Arc::new(common::Records::default());
    let first = redfish::connect(of("Node0"), records.clone(), common::options());
    let mut client = first.await.unwrap();
    client.eject().await.unwrap();
    client.go_on(&of("Node1"), records, Duration::from_secs(30));
    let media = client.insert(URL).await.unwrap();
    assert_eq!(media.slot, format!("{}/VirtualMedia/Cd", nodes[1]));
    client.close().await;
    let inserts: Vec<_> = changes(&bmc)
        .into_iter()
        .filter(|c| c.contains("InsertMedia"))
        .collect();
    assert!(inserts.iter().all(|c| c.contains("Node1")), "{inserts:?}");
}

#[tokio::test]
async fn where_nothing_takes_an_image_one_error_says_so_and_nothing_is_sent() {
    let bare = json!({"Name": "Virtual CD"});
    let nodes: Vec<String> = (0..4).map(|i| format!("/redfish/v1/Systems/Node{i}")).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let mut cray = Tree::new("HPE")
        .with("/redfish/v1/Systems", members(&nodes))
        .with(MANAGER, json!({"VirtualMedia": null}));
    for node in &nodes {
        cray.put(node, json!({"Boot": {"BootOptions": {}}}));
    }
    for (what, tree) in [
        ("no link", Tree::new("").with(MANAGER, json!({"VirtualMedia": null}))),
        ("link to nothing", Tree::new("").without(SLOTS)),
        ("no members", Tree::new("Intel Corporation")),
        (
            "read-only slots",
            Tree::new("Dell Inc.").bare_slot(SLOTS, "CD", bare.clone()),
        ),
        ("KVM slots", Tree::new("Cisco Systems Inc").bare_slot(SLOTS, "0", bare)),
        (
            "client's slots",
            Tree::new("Lenovo").bare_slot(SLOTS, "Remote1", json!({})),
        ),
        (
            "nothing to write an image to",
            Tree::new("").with(SLOTS, members(&[&format!("{SLOTS}/Slot_0")])).with(
                &format!("{SLOTS}/Slot_0"),
                json!({"Id": "Slot_0", "MediaTypes": ["CD", "USBStick"], "Inserted": false}),
            ),
        ),
        (
            "floppies",
            Tree::new("HPE").slot(SLOTS, "1", json!({"MediaTypes": ["Floppy"]})),
        ),
        ("several systems", cray),
        (
            "no system",
            Tree::new("")
                .with("/redfish/v1/Systems", members(&[]))
                .with(MANAGER, json!({"VirtualMedia": null})),
        ),
    ] {
        let bmc = tree.serve();
        let (mut client, _) = open(&bmc.address).await.unwrap();
        let err = client.insert(URL).await.unwrap_err();
        assert_eq!(err.class, ErrorClass::Unsupported, "{what}: {err}");
        assert!(err.message.contains("no usable virtual media"), "{what}: {err}");
        assert!(!err.hint.is_empty());
        client.close().await;
        assert_eq!(changes(&bmc), Vec::<String>::new(), "{what}");
    }
}

#[tokio::test]
async fn nfs_is_written_as_each_wants_it() {
    let nfs = "nfs://10.0.0.1/export/token-token/boot.iso";
    let bare = "10.0.0.1:/export/token-token/boot.iso";
    for (vendor, model, want) in [
        ("Lenovo", "ThinkSystem SR650 V3", bare),
        ("Lenovo", "ThinkSystem SR650 V4", nfs),
        ("Dell Inc.", "PowerEdge R750", bare),
        ("HPE", "ProLiant DL380 Gen12", nfs),
    ] {
        let bmc = Tree::new(vendor)
            .with(SYSTEM, json!({"Model": model}))
            .slot(SLOTS, "CD1", json!({}))
            .serve();
        inserted(&bmc, nfs).await;
        let sent = sent(&bmc, "POST", "InsertMedia");
        assert_eq!(sent[0]["Image"], want, "{vendor} {model}");
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    for (status, id, text, url, class, hint) in [
        (
            400,
            "ResourceAtUriInUnknownFormat",
            "is in a format not recognized",
            URL,
            ErrorClass::Refused,
            "over http",
        ),
        (
            400,
            "FileTransferProtocolMismatch",
            "x",
            URL,
            ErrorClass::Refused,
            "NFS",
        ),
        (
            403,
            "OemLicenseNotPassed",
            "Not licensed to perform this request",
            URL,
            ErrorClass::Forbidden,
            "licence",
        ),
        (
            400,
            "GeneralError",
            "This feature requires a license",
            URL,
            ErrorClass::Forbidden,
            "licence",
        ),
    ] {
        let bmc = Tree::new("")
            .slot(SLOTS, "CD1", json!({}))
            .slot(SLOTS, "CD2", json!({}))
            .serve_with(move |seen, _| {
                seen.path
                    .ends_with("InsertMedia")
                    .then(|| refused(status, id, text, &[]))
            });
        let (mut client, _) = open(&bmc.address).await.unwrap();
        let err = client.insert(url).await.unwrap_err();
        assert_eq!(err.class, class, "{id}: {err:?}");
        assert!(err.hint.contains(hint), "{id}: {err:?}");
        assert_eq!(
            sent(&bmc, "POST", "InsertMedia").len(),
            1,
            "{id}: no other slot would take it either"
        );
    }
}

#[tokio::test]
async fn siblings_are_spared_the_refusals() {
    let learnt = std::sync::Arc::new(isobar_bmc::redfish::Learnt::default());
    for (firmware, refusals) in [("1.0", 1), ("1.0", 0), ("2.0", 1)] {
        let tree = Tree::new("AMI")
            .slot(SLOTS, "CD1", json!({}))
            .with(MANAGER, json!({"FirmwareVersion": firmware}));
        let bmc = tree.serve_with(|seen, _| {
            let lacks = seen.path.ends_with("InsertMedia") && seen.body.get("TransferProtocolType").is_none();
            let about = ["#/TransferProtocolType"];
            lacks.then(|| refused(400, "ActionParameterMissing", "a parameter is missing", &about))
        });
        let options = isobar_bmc::redfish::Options {
            learnt: learnt.clone(),
            ..common::options()
        };
        let endpoint = common::endpoint(&bmc.address, common::PASSWORD);
        let records = std::sync::Arc::new(common::Records::default());
        let mut client = isobar_bmc::redfish::connect(endpoint, records, options).await.unwrap();
        client.insert(URL).await.unwrap();
        assert_eq!(sent(&bmc, "POST", "InsertMedia").len(), 1 + refusals, "{firmware}");
    }
}

#[tokio::test]
async fn what_a_collection_has_in_its_later_parts_is_found() {
    let mut tree = Tree::new("Dell Inc.").slot(SLOTS, "CD", json!({}));
    for (collection, member) in [
        ("/redfish/v1/Systems", SYSTEM.to_owned()),
        (SLOTS, format!("{SLOTS}/CD")),
    ] {
        let later = format!("{collection}?$skip=1");
        let (mut first, mut last) = (members(&[&format!("{collection}/none")]), members(&[&member]));
        // The last part names itself as the next one: it ends all the same.
        for part in [&mut first, &mut last] {
            part["Members@odata.nextLink"] = later.clone().into();
        }
        tree.put(collection, first);
        tree.put(&later, last);
    }
    let bmc = tree.serve();
    assert_eq!(inserted(&bmc, URL).await, format!("{SLOTS}/CD"));
}
