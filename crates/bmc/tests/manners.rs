//! Bad manners, by script: what must be refused, what must be borne.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use common::{Answer, PASSWORD, Records, Scripted, Seen, endpoint, open, options};
use isobar_bmc::redfish::{Options, connect};
use isobar_bmc::{AddressPolicy, Bmc, BootTarget, ErrorClass, PowerAction, PowerState};
use serde_json::{Value, json};

/// A small BMC: service root, sessions, one system, one manager, one slot; `change` may answer first.
fn small(mut change: impl FnMut(&Seen) -> Option<Answer> + Send + 'static) -> Scripted {
    Scripted::start(move |seen| change(seen).or_else(|| Some(plain(seen))))
}

fn ok(body: &Value) -> Answer {
    (200, "", body.to_string())
}

fn plain(seen: &Seen) -> Answer {
    let path = seen.path.trim_end_matches('/');
    match (seen.method.as_str(), path) {
        ("GET", "/redfish/v1") => ok(&root()),
        ("POST", "/redfish/v1/SessionService/Sessions") => (
            201,
            "X-Auth-Token: t0ken-of-session\r\nLocation: /redfish/v1/SessionService/Sessions/1\r\n",
            "{}".into(),
        ),
        ("DELETE", _) => (204, "", String::new()),
        ("GET", "/redfish/v1/Systems") => ok(&json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]})),
        ("GET", "/redfish/v1/Systems/1") => ok(&system()),
        ("GET", "/redfish/v1/Managers/1") => ok(&json!({"VirtualMedia": {"@odata.id": "/vm"}})),
        ("GET", "/vm") => ok(&json!({"Members": [{"@odata.id": "/vm/CD1"}]})),
        ("GET", "/vm/CD1") => ok(&slot()),
        _ => (404, "", "<html>no such page</html>".into()),
    }
}

fn root() -> Value {
    json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}, "Managers": {"@odata.id": "/redfish/v1/Managers"},
        "Links": {"Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"}}})
}

fn system() -> Value {
    json!({"PowerState": "On", "Boot": {"BootSourceOverrideTarget": "None"},
        "Links": {"ManagedBy": [{"@odata.id": "/redfish/v1/Managers/1"}]},
        "Actions": {"#ComputerSystem.Reset": {"target": "/reset", "@Redfish.ActionInfo": "/gone"}}})
}

fn slot() -> Value {
    json!({"Id": "CD1", "Inserted": "false", "Image": "None",
        "Actions": {"#VirtualMedia.InsertMedia": {"target": "/vm/CD1/insert"}}})
}

#[tokio::test]
async fn nothing_goes_to_another_authority() {
    let other = Scripted::start(|_| Some((200, "", "{}".into())));
    for (what, place) in [("link", 0), ("session", 1), ("redirect", 2)] {
        let elsewhere = other.address.clone();
        let bmc = small(move |seen| match (place, seen.method.as_str(), seen.path.as_str()) {
            (0, "GET", "/redfish/v1/") => {
                let mut root = root();
                root["Links"]["Sessions"]["@odata.id"] =
                    format!("{elsewhere}/redfish/v1/SessionService/Sessions").into();
                Some(ok(&root))
            }
            (1, "POST", _) => {
                let location = format!("X-Auth-Token: x\r\nLocation: {elsewhere}/s/1\r\n");
                Some((201, Box::leak(location.into_boxed_str()), "{}".into()))
            }
            (2, "GET", "/redfish/v1/") => Some((
                301,
                Box::leak(format!("Location: {elsewhere}/\r\n").into_boxed_str()),
                String::new(),
            )),
            _ => None,
        });
        let err = open(&bmc.address).await.unwrap_err();
        assert_eq!(err.class, ErrorClass::Protocol, "{what}: {err}");
        assert!(err.hint.contains("ipmi/address"), "{what}: {err:?}");
    }
    assert!(other.paths().is_empty(), "{:?}", other.paths());
}

#[tokio::test]
async fn every_part_of_the_authority_counts() {
    let targets = [
        "http://127.0.0.2:PORT/s",
        "https://127.0.0.1:PORT/s",
        "//127.0.0.2:PORT/s",
        "http://127.0.0.1:1/s",
    ];
    for target in targets {
        let bmc = small(move |seen| {
            let port = seen.header("host")?.rsplit(':').next()?.to_owned();
            (seen.path == "/redfish/v1/").then(|| {
                let mut root = root();
                root["Links"]["Sessions"]["@odata.id"] = target.replace("PORT", &port).into();
                ok(&root)
            })
        });
        let err = open(&bmc.address).await.unwrap_err();
        assert_eq!(err.class, ErrorClass::Protocol, "{target}: {err}");
        assert_eq!(bmc.paths(), ["GET /redfish/v1/"], "{target}");
    }
    let bmc = small(|seen| {
        let mut root = root();
        root["Links"]["Sessions"]["@odata.id"] =
            format!("http://{}/redfish/v1/SessionService/Sessions", seen.header("host")?).into();
        (seen.path == "/redfish/v1/").then(|| ok(&root))
    });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    assert_eq!(
        client.power_state().await.unwrap(),
        PowerState::On,
        "absolute, and its own"
    );
}

#[tokio::test]
async fn redirects_within_the_bmc_are_followed() {
    let bmc = small(|seen| {
        (seen.path == "/redfish/v1/Systems").then(|| (308, "Location: /redfish/v1/Systems/\r\n", String::new()))
    });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    assert_eq!(client.power_state().await.unwrap(), PowerState::On);
    client.close().await;
    assert!(bmc.paths().contains(&"GET /redfish/v1/Systems/".to_owned()));
}

#[tokio::test]
async fn addresses_outside_the_allowed_networks_are_not_talked_to() {
    let bmc = small(|_| None);
    let allowed = |networks: &[&str]| Options {
        addresses: AddressPolicy {
            allowed: networks.iter().map(|n| n.parse().unwrap()).collect(),
        },
        ..options()
    };
    let mapped = bmc.address.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let named = bmc.address.replace("127.0.0.1", "localhost");
    for address in [&bmc.address, &mapped, &named] {
        let err = connect(
            endpoint(address, PASSWORD),
            Arc::new(Records::default()),
            allowed(&["10.0.0.0/8"]),
        )
        .await;
        let err = err.unwrap_err();
        assert_eq!(err.class, ErrorClass::Refused, "{err}");
        assert!(err.message.contains("nothing was sent"), "{err}");
    }
    assert!(bmc.paths().is_empty());
    // A name is connected to where it was checked.
    let options = allowed(&["127.0.0.0/8"]);
    let mut client = connect(endpoint(&named, PASSWORD), Arc::new(Records::default()), options)
        .await
        .unwrap();
    client.close().await;
}

#[tokio::test]
async fn unreachable_and_not_redfish_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let err = open(&format!("http://{free}")).await.unwrap_err();
    assert_eq!(err.class, ErrorClass::Unreachable);
    assert!(err.message.contains(&free.to_string()), "{err}");
    let web = Scripted::start(|_| Some((200, "", "<html>a printer</html>".into())));
    assert_eq!(open(&web.address).await.unwrap_err().class, ErrorClass::Protocol);
    let web = Scripted::start(|_| Some((404, "", "<html>no such page</html>".into())));
    let err = open(&web.address).await.unwrap_err();
    assert!(err.status == Some(404) && err.hint.contains("ipmi/address"), "{err:?}");
    // HTTPS to a port that speaks HTTP.
    let err = open(&web.address.replace("http:", "https:")).await.unwrap_err();
    assert_eq!(err.class, ErrorClass::Tls, "{err}");
    // One that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let quick = Options {
        request_timeout: Duration::from_millis(100),
        ..options()
    };
    let err = connect(endpoint(&address, PASSWORD), Arc::new(Records::default()), quick)
        .await
        .unwrap_err();
    assert_eq!(err.class, ErrorClass::Timeout, "{err}");
}

/// What an old BMC answers a ClientHello with, record by record.
#[tokio::test]
async fn tls_that_is_too_old_is_said_so() {
    // RFC 5246 §7.2 and §7.4.1.3: alerts, and a ServerHello of TLS 1.0 and 1.1 with TLS_RSA_WITH_AES_128_CBC_SHA.
    let alert = |code: u8| vec![0x15, 3, 1, 0, 2, 2, code];
    let hello = |minor: u8| {
        let mut hello = vec![0x16, 3, minor, 0, 42, 2, 0, 0, 38, 3, minor];
        hello.extend([7; 32]);
        hello.extend([0, 0, 0x2f, 0]);
        hello
    };
    for (what, answer) in [
        ("protocol version", alert(70)),
        ("no common cipher", alert(40)),
        ("TLS 1.0", hello(1)),
        ("TLS 1.1", hello(2)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                let mut head = [0; 5];
                let _ = socket.read_exact(&mut head);
                let mut rest = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
                let _ = socket.read_exact(&mut rest);
                let _ = socket.write_all(&answer);
                // Until the other side hangs up.
                let _ = socket.read_to_end(&mut rest);
            }
        });
        let err = open(&address).await.unwrap_err();
        assert_eq!(err.class, ErrorClass::Tls, "{what}: {err}");
        assert!(err.message.contains("TLS is too old"), "{what}: {err}");
        assert!(err.hint.contains("firmware"), "{what}: {}", err.hint);
    }
}

#[tokio::test]
async fn without_sessions_basic_is_used_and_a_wrong_password_sent_once() {
    for right in [true, false] {
        let bmc = small(move |seen| match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/redfish/v1/") => Some(ok(&json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}}))),
            _ if !right => Some((401, "", "{}".into())),
            _ => None,
        });
        let (mut client, _) = open(&bmc.address).await.unwrap();
        match client.power_state().await {
            Ok(state) => assert!(right && state == PowerState::On),
            Err(err) => {
                assert!(!right && err.class == ErrorClass::Auth, "{err}");
                // Not even by the next call: BMCs lock users out.
                assert_eq!(client.power_state().await.unwrap_err().class, ErrorClass::Auth);
                assert_eq!(bmc.paths().len(), 2, "{:?}", bmc.paths());
            }
        }
        let seen = bmc.seen.lock().unwrap();
        assert!(
            seen.iter()
                .skip(1)
                .all(|s| s.header("authorization").is_some_and(|v| v.starts_with("Basic ")))
        );
    }
}

#[tokio::test]
async fn no_session_is_left_after_401_with_a_good_login() {
    let bmc = small(|seen| (seen.path == "/redfish/v1/Systems").then(|| (401, "", "{}".into())));
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let err = client.power_state().await.unwrap_err();
    assert_eq!(err.class, ErrorClass::Failing, "the password is right: {err}");
    let logins = bmc.paths().iter().filter(|p| p.starts_with("POST")).count();
    assert_eq!(logins, 2, "logs in again once, and not for ever");
}

#[tokio::test]
async fn a_slot_that_refuses_is_passed_over() {
    let bmc = small(|seen| {
        let dead = || json!({"Id": "CD0", "MediaTypes": ["CD"]});
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/vm") => Some(ok(
                &json!({"Members": [{"@odata.id": "/vm/CD0"}, {"@odata.id": "/vm/CD1"}]}),
            )),
            ("GET", "/vm/CD0") => {
                let mut dead = dead();
                dead["Actions"] = json!({"#VirtualMedia.InsertMedia": {"target": "/vm/CD0/insert"}});
                Some(ok(&dead))
            }
            ("POST", "/vm/CD0/insert") => Some((405, "", "{}".into())),
            ("POST", "/vm/CD1/insert") => Some((204, "", String::new())),
            ("GET", "/vm/CD1") => {
                let mut slot = slot();
                slot["Inserted"] = "true".into();
                slot["Image"] = "10.0.0.1:8091/token-token/boot.iso".into();
                Some(ok(&slot))
            }
            ("POST", _) if seen.path.ends_with("EjectMedia") => Some((204, "", String::new())),
            _ => None,
        }
    });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let media = client
        .insert("http://10.0.0.1:8091/token-token/boot.iso")
        .await
        .unwrap();
    assert_eq!((media.slot.as_str(), media.inserted), ("/vm/CD1", true));
}

#[tokio::test]
async fn no_virtual_media_is_one_clear_error() {
    let bmc = small(|seen| (seen.path == "/redfish/v1/Managers/1").then(|| ok(&json!({}))));
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let err = client.insert("http://10.0.0.1/x/boot.iso").await.unwrap_err();
    assert_eq!(err.class, ErrorClass::Unsupported);
    assert!(err.message.contains("no usable virtual media"), "{err}");
    assert_eq!(client.probe().await.unwrap().media_slot, None);
    let bmc = small(|seen| (seen.path == "/vm").then(|| ok(&json!({"Name": "no members at all"}))));
    let (mut client, _) = open(&bmc.address).await.unwrap();
    assert!(
        client
            .media()
            .await
            .unwrap_err()
            .message
            .contains("no usable virtual media: it lists no slot")
    );
}

#[tokio::test]
async fn tasks_are_waited_for() {
    let mut polls = 0;
    let mut inserted = false;
    let bmc = small(move |seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/vm/CD1/insert") => Some((202, "Location: /task/1\r\n", "{}".into())),
        ("GET", "/task/1") => {
            polls += 1;
            inserted = polls >= 3;
            let state = if inserted { "Completed" } else { "Running" };
            Some(ok(&json!({"TaskState": state})))
        }
        ("GET", "/vm/CD1") if inserted => Some(ok(
            &json!({"Id": "CD1", "Inserted": true, "Image": "http://10.0.0.1/x/boot.iso"}),
        )),
        _ => None,
    });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    assert!(client.insert("http://10.0.0.1/x/boot.iso").await.unwrap().inserted);

    let bmc = small(|seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/vm/CD1/insert") => Some((202, "Location: /task/1\r\n", "{}".into())),
        ("GET", "/task/1") => Some(ok(
            &json!({"TaskState": "Exception", "Messages": [{"Message": "share not found"}]}),
        )),
        _ => None,
    });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let err = client.insert("http://10.0.0.1/x/boot.iso").await.unwrap_err();
    assert!(err.message.contains("share not found"), "{err}");
}

#[tokio::test]
async fn an_override_goes_where_the_properties_are() {
    // The settings object holds the target alone, and its allowable values differ from the system's.
    let mut state = json!({"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideMode": "UEFI"});
    let mut pending = json!({"BootSourceOverrideTarget": "None",
        "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "UsbCd"]});
    let bmc = small(move |seen| {
        let target = match seen.path.as_str() {
            "/redfish/v1/Systems/1" => &mut state,
            "/pending" => &mut pending,
            _ => return None,
        };
        if seen.method == "PATCH" {
            for (name, value) in seen.body["Boot"].as_object().unwrap() {
                assert!(target.get(name).is_some(), "{name} is not at {}", seen.path);
                target[name] = value.clone();
            }
            return Some((204, "", String::new()));
        }
        let mut body = if seen.path == "/pending" { json!({}) } else { system() };
        body["Boot"] = target.clone();
        body["@Redfish.Settings"] = json!({"SettingsObject": {"@odata.id": "/pending"}});
        Some(ok(&body))
    });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    client.boot_once(BootTarget::Cd).await.unwrap();
    let patches: Vec<Value> = bmc
        .seen
        .lock()
        .unwrap()
        .iter()
        .filter(|s| s.method == "PATCH")
        .map(|s| s.body["Boot"].clone())
        .collect();
    assert_eq!(patches.len(), 2);
    assert!(
        patches.contains(&json!({"BootSourceOverrideTarget": "UsbCd"})),
        "{patches:?}"
    );
    assert!(
        patches.contains(&json!({"BootSourceOverrideEnabled": "Once"})),
        "{patches:?}"
    );
    let err = client.boot_once(BootTarget::Pxe).await.unwrap_err();
    assert_eq!(err.class, ErrorClass::Unsupported);
    assert!(err.message.contains("UsbCd"), "says what there is: {err}");
}

#[tokio::test]
async fn an_override_that_cannot_be_disabled_becomes_the_disk() {
    // sushy-emulator: `Enabled` is ignored and always `Continuous`, and a PATCH without a target is refused in plain text.
    let mut target = "Cd".to_owned();
    let bmc = small(move |seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("PATCH", "/redfish/v1/Systems/1") => match seen.body["Boot"]["BootSourceOverrideTarget"].as_str() {
            Some(wanted) => {
                wanted.clone_into(&mut target);
                Some((204, "", String::new()))
            }
            None => Some((400, "", "Missing the BootSourceOverrideTarget".into())),
        },
        ("GET", "/redfish/v1/Systems/1") => {
            let mut body = system();
            body["Boot"] = json!({"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": target,
                "BootSourceOverrideTarget@Redfish.AllowableValues": ["Pxe", "Cd", "Hdd"]});
            Some(ok(&body))
        }
        _ => None,
    });
    let (mut client, _) = open(&bmc.address).await.unwrap();
    client.clear_boot_override().await.unwrap();
    let seen = bmc.seen.lock().unwrap();
    let patches: Vec<&Value> = seen
        .iter()
        .filter(|s| s.method == "PATCH")
        .map(|s| &s.body["Boot"])
        .collect();
    assert_eq!(
        patches,
        [
            &json!({"BootSourceOverrideEnabled": "Disabled"}),
            &json!({"BootSourceOverrideTarget": "Hdd"})
        ]
    );
}

#[tokio::test]
async fn an_override_that_does_not_stick_is_found_out() {
    let bmc = small(|seen| (seen.method == "PATCH").then(|| (204, "", String::new())));
    let (mut client, _) = open(&bmc.address).await.unwrap();
    let err = client.boot_once(BootTarget::Cd).await.unwrap_err();
    assert!(err.message.contains("but shows None"), "{err}");
}

#[tokio::test]
async fn entity_tags_are_tried_in_every_form() {
    for accepted in ["W/\"abc\"", "abc", "*"] {
        let mut set = false;
        let bmc = small(move |seen| match (seen.method.as_str(), seen.path.as_str()) {
            ("PATCH", _) if seen.header("if-match") == Some(accepted) => {
                set = true;
                Some((204, "", String::new()))
            }
            ("PATCH", _) => Some((412, "", "{}".into())),
            ("GET", "/redfish/v1/Systems/1") => {
                let mut body = system();
                body["@odata.etag"] = "W/\"abc\"".into();
                if set {
                    body["Boot"] = json!({"BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once"});
                }
                Some(ok(&body))
            }
            _ => None,
        });
        let (mut client, _) = open(&bmc.address).await.unwrap();
        client
            .boot_once(BootTarget::Cd)
            .await
            .unwrap_or_else(|err| panic!("{accepted}: {err}"));
    }
}

#[tokio::test]
async fn malformed_answers_never_panic() {
    // Everything that this BMC says is damaged in another way.
    let bodies = [
        "null",
        "[]",
        "3",
        "\"x\"",
        "{\"Members\": null}",
        "{\"Members\": [{}]}",
        "{\"Systems\": 3, \"Boot\": null}",
        "{\"Systems\": {\"@odata.id\": \"/s\"}, \"Links\": null}",
        "{\"error\": {\"@Message.ExtendedInfo\": 3}}",
        "{",
    ];
    for body in bodies {
        for status in [200, 201, 202, 400, 500] {
            let bmc = Scripted::start(move |seen| match seen.path.as_str() {
                "/redfish/v1/" => Some(ok(&root())),
                "/redfish/v1/SessionService/Sessions" => Some((201, "X-Auth-Token: t\r\n", "{}".into())),
                _ => Some((status, "", body.into())),
            });
            let mut client = open(&bmc.address).await.unwrap().0;
            // A task that never ends is not waited for: it is the exchange that is short, not the login.
            let short = Duration::from_millis(300);
            client.go_on(&endpoint(&bmc.address, PASSWORD), Arc::new(Records::default()), short);
            assert!(
                client.insert("http://10.0.0.1/x/boot.iso").await.is_err(),
                "{status} {body}"
            );
            assert!(client.power(PowerAction::On).await.is_err(), "{status} {body}");
        }
    }
}
