//! The BMC by a plain HTTP client: sessions, media, boot override, power, errors.
#![allow(clippy::unwrap_used)]

mod common;

use common::{CD, COMMAND_LINE, Client, ImageServer, SOON, SYSTEM, disc};
use isobar_sim::{Manners, OsExit, Power, SimConfig, start};
use serde_json::{Value, json};
use std::sync::Arc;

#[tokio::test]
async fn the_tree_is_linked_and_needs_a_login() {
    let sim = start(SimConfig {
        tls: true,
        ..SimConfig::quick()
    })
    .await
    .unwrap();
    let mut client = Client::new(&sim);
    assert!(sim.url().as_str().starts_with("https://") && sim.fingerprint().is_some());
    let root = client.get("/redfish/v1/").await;
    assert_eq!(root.status, 200);
    let refused = client.get(SYSTEM).await;
    assert_eq!(
        (refused.status, refused.message_id()),
        (401, "Base.1.18.NoValidSession")
    );

    client.token = Client::login(&sim).await.token;
    let mut todo = vec!["/redfish/v1".to_owned()];
    let mut done = Vec::new();
    while let Some(path) = todo.pop() {
        let reply = client.get(&path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(
            reply.body["@odata.etag"],
            reply.headers["etag"].to_str().unwrap(),
            "{path}"
        );
        links(&reply.body, &mut todo);
        done.push(path);
        todo.retain(|p| !done.iter().any(|d| d.trim_end_matches('/') == p.trim_end_matches('/')));
    }
    for wanted in [
        SYSTEM,
        CD,
        "/redfish/v1/Chassis/1",
        "/redfish/v1/TaskService/Tasks",
        "/redfish/v1/Registries/Base",
    ] {
        assert!(done.iter().any(|d| d == wanted), "{wanted} is not reached by links");
    }
    sim.shutdown().await;
}

fn links(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("@odata.id").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|v| links(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| links(v, found)),
        _ => {}
    }
}

#[tokio::test]
async fn sessions_are_counted_and_end() {
    let manners = Manners {
        session_limit: 2,
        ..Manners::instant()
    };
    let sim = start(SimConfig {
        manners,
        ..SimConfig::quick()
    })
    .await
    .unwrap();
    let path = "/redfish/v1/SessionService/Sessions";
    let anonymous = Client::new(&sim);
    let wrong = anonymous
        .post(path, json!({"UserName": "admin", "Password": "guess"}))
        .await;
    assert_eq!(
        (wrong.status, wrong.message_id()),
        (401, "Base.1.18.ResourceAtUriUnauthorized")
    );
    let missing = anonymous.post(path, json!({"UserName": "admin"})).await;
    assert_eq!(
        (missing.status, missing.message_id()),
        (400, "Base.1.18.PropertyMissing")
    );

    let first = Client::login(&sim).await;
    let _second = Client::login(&sim).await;
    let full = anonymous
        .post(path, json!({"UserName": "admin", "Password": "password"}))
        .await;
    assert_eq!(
        (full.status, full.message_id()),
        (503, "Base.1.18.SessionLimitExceeded")
    );
    let basic = Client::send(anonymous.request("GET", SYSTEM).basic_auth("admin", Some("password")))
        .await
        .unwrap();
    assert_eq!(basic.status, 200, "Basic needs no session");

    assert_eq!(first.get(path).await.body["Members@odata.count"], 2);
    assert_eq!(first.delete("/redfish/v1/SessionService/Sessions/1").await.status, 204);
    assert_eq!(first.get(SYSTEM).await.status, 401, "a token ends with its session");
    assert_eq!(sim.sessions(), 1);
    assert!(
        !serde_json::to_string(&sim.requests()).unwrap().contains("guess"),
        "passwords are not recorded"
    );
    assert_eq!(sim.requests().last().unwrap().auth, "wrong");
    sim.shutdown().await;
}

#[tokio::test]
async fn an_idle_session_expires() {
    let manners = Manners {
        session_timeout_s: 0,
        ..Manners::instant()
    };
    let sim = start(SimConfig {
        manners,
        ..SimConfig::quick()
    })
    .await
    .unwrap();
    let client = Client::login(&sim).await;
    assert_eq!(client.get(SYSTEM).await.status, 401);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_boot_override_is_checked_and_read_back() {
    let sim = start(SimConfig::quick()).await.unwrap();
    let client = Client::login(&sim).await;
    assert_eq!(client.boot("Cd", "Once").await.status, 200);
    let system = client.get(SYSTEM).await;
    assert_eq!(system.body["Boot"]["BootSourceOverrideTarget"], "Cd");
    assert_eq!(system.body["Boot"]["BootSourceOverrideEnabled"], "Once");
    assert_eq!(system.body["Boot"]["BootSourceOverrideMode"], "UEFI");

    for (body, id) in [
        (
            json!({"Boot": {"BootSourceOverrideTarget": "Tape"}}),
            "Base.1.18.PropertyValueNotInList",
        ),
        (
            json!({"Boot": {"BootSourceOverrideMode": "Legacy"}}),
            "Base.1.18.PropertyValueNotInList",
        ),
        (json!({"Colour": "red"}), "Base.1.18.PropertyUnknown"),
        (json!({"PowerState": "On"}), "Base.1.18.PropertyNotWritable"),
    ] {
        let reply = client.patch(SYSTEM, body.clone()).await;
        assert_eq!((reply.status, reply.message_id()), (400, id), "{body}");
    }
    let broken = Client::send(client.request("PATCH", SYSTEM).body("{")).await.unwrap();
    assert_eq!((broken.status, broken.message_id()), (400, "Base.1.18.MalformedJSON"));

    let tag = system.headers["etag"].to_str().unwrap().to_owned();
    let patch = |tag: &str| {
        client
            .request("PATCH", SYSTEM)
            .header("If-Match", tag)
            .json(&json!({"AssetTag": "rack 7"}))
    };
    assert_eq!(Client::send(patch(&tag)).await.unwrap().status, 200);
    assert_eq!(
        Client::send(patch(&tag)).await.unwrap().status,
        412,
        "it changed meanwhile"
    );
    assert_eq!(Client::send(patch("*")).await.unwrap().status, 200);

    assert_eq!(client.boot("None", "Disabled").await.status, 200);
    assert_eq!(sim.boot_override().enabled, "Disabled");
    sim.shutdown().await;
}

#[tokio::test]
async fn if_match_can_be_demanded() {
    let manners = Manners {
        if_match_required: true,
        ..Manners::instant()
    };
    let sim = start(SimConfig {
        manners,
        ..SimConfig::quick()
    })
    .await
    .unwrap();
    let client = Client::login(&sim).await;
    assert_eq!(client.boot("Cd", "Once").await.status, 428);
    sim.shutdown().await;
}

#[tokio::test]
async fn media_actions_check_their_parameters() {
    let manners = Manners {
        insert_refuses: vec!["WriteProtected".into()],
        insert_demands: vec!["TransferProtocolType".into()],
        ..Manners::instant()
    };
    let sim = start(SimConfig {
        manners,
        ..SimConfig::quick()
    })
    .await
    .unwrap();
    let client = Client::login(&sim).await;
    let action = format!("{CD}/Actions/VirtualMedia.InsertMedia");
    for (body, id) in [
        (json!({}), "ActionParameterMissing"),
        (json!({"Image": "http://127.0.0.1:1/a.iso"}), "ActionParameterMissing"),
        (
            json!({"Image": "http://127.0.0.1:1/a.iso", "WriteProtected": true}),
            "ActionParameterUnknown",
        ),
        (
            json!({"Image": "http://127.0.0.1:1/a.iso", "Speed": 7}),
            "ActionParameterUnknown",
        ),
        (
            json!({"Image": "floppy.img", "TransferProtocolType": "HTTP"}),
            "ActionParameterValueError",
        ),
    ] {
        let reply = client.post(&action, body.clone()).await;
        assert_eq!(
            (reply.status, reply.message_id()),
            (400, &*format!("Base.1.18.{id}")),
            "{body}"
        );
    }
    let good = json!({"Image": "http://127.0.0.1:1/a.iso", "TransferProtocolType": "HTTP"});
    assert_eq!(
        client.post(&action, good.clone()).await.status,
        204,
        "a lazy BMC looks later"
    );
    assert_eq!(client.post(&action, good).await.status, 409, "occupied");
    assert_eq!(client.get(CD).await.body["Inserted"], true);
    assert_eq!(client.eject().await.status, 204);
    assert_eq!(client.get(CD).await.body["Image"], Value::Null);
    assert_eq!(client.eject().await.status, 204, "nothing to eject is fine");
    assert_eq!(client.get(&action).await.status, 405);
    assert_eq!(client.get("/redfish/v1/Managers/1/VirtualMedia/3").await.status, 404);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_lazy_cd_boot_reads_nothing_before_power_on_and_everything_after() {
    let server = ImageServer::start(disc(300_000, 700_000)).await;
    let sim = start(SimConfig::quick()).await.unwrap();
    let client = Client::login(&sim).await;
    assert_eq!(client.insert(&server.url()).await.status, 204);
    assert_eq!(client.boot("Cd", "Once").await.status, 200);
    assert!(server.seen().is_empty(), "read before power-on");
    assert_eq!(client.reset("On").await.status, 204);
    assert!(
        sim.wait_until(SOON, |s| s.boots().last().is_some_and(|b| b.reached("os-up")))
            .await,
        "{:?}",
        sim.boots()
    );

    let boot = sim.boots().remove(0);
    assert_eq!(
        (boot.device.as_str(), boot.enabled.as_str(), boot.medium),
        ("Cd", "Once", Some(1))
    );
    assert_eq!(boot.command_line.as_deref(), Some(COMMAND_LINE));
    let stages: Vec<&str> = boot.stages.iter().map(|s| s.stage.as_str()).collect();
    assert_eq!(
        stages,
        [
            "firmware",
            "loader",
            "menu",
            "kernel",
            "initrd",
            "kernel-started",
            "os-up"
        ]
    );
    assert!(sim.media()[0].machine_bytes > 1_000_000);
    assert_eq!(client.get(SYSTEM).await.body["PowerState"], "On");
    assert_eq!(sim.boot_override().enabled, "Disabled", "Once is used up");

    // The next boot is the disk's.
    assert_eq!(client.reset("ForceRestart").await.status, 204);
    assert!(
        sim.wait_until(SOON, |s| s.boots().len() == 2
            && s.boots()[1].reached("no-bootable-device"))
            .await
    );
    assert_eq!(sim.boots()[1].device, "Hdd");
    assert_eq!(client.reset("ForceOff").await.status, 204);
    assert!(sim.wait_until(SOON, |s| s.power() == Power::Off).await);
    assert_eq!(sim.boots()[1].ended.as_deref(), Some("power-off"));
    sim.shutdown().await;
}

#[tokio::test]
async fn an_operating_system_on_paper_finds_its_initrd_and_reboots_into_a_new_override() {
    let server = ImageServer::start(disc(1000, 1000)).await;
    let reboot = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&reboot);
    let os_up: isobar_sim::OsHook = Arc::new(move |os| {
        let told = Arc::clone(&told);
        Box::pin(async move {
            let own = os.initrds.iter().find(|(path, _)| path == "/isobar/own.img").unwrap();
            assert_eq!(own.1, b"own initrd of this machine");
            assert!(os.command_line.contains("rs.uuid="));
            told.notified().await;
            OsExit::Reboot
        })
    });
    let sim = start(SimConfig {
        os_up: Some(os_up),
        ..SimConfig::quick()
    })
    .await
    .unwrap();
    let client = Client::login(&sim).await;
    client.insert(&server.url()).await;
    client.boot("Cd", "Once").await;
    client.reset("On").await;
    assert!(
        sim.wait_until(SOON, |s| s.boots().last().is_some_and(|b| b.reached("os-up")))
            .await
    );

    client.boot("Cd", "Once").await;
    reboot.notify_one();
    assert!(
        sim.wait_until(SOON, |s| s.boots().len() == 2 && s.boots()[1].reached("os-up"))
            .await
    );
    assert_eq!(sim.boots()[0].ended.as_deref(), Some("reset"));
    assert_eq!(sim.boots()[1].device, "Cd");
    assert_eq!(sim.power(), Power::On, "a reboot is no power change");
    sim.shutdown().await;
}

#[tokio::test]
async fn continuous_stays_and_graceful_resets_shut_down_first() {
    let server = ImageServer::start(disc(1000, 1000)).await;
    let sim = start(SimConfig::quick()).await.unwrap();
    let client = Client::login(&sim).await;
    client.insert(&server.url()).await;
    client.boot("Cd", "Continuous").await;
    client.reset("PushPowerButton").await;
    let up = |n: usize| move |s: &isobar_sim::Sim| s.boots().len() == n && s.boots()[n - 1].reached("os-up");
    assert!(sim.wait_until(SOON, up(1)).await);
    client.reset("GracefulRestart").await;
    assert!(sim.wait_until(SOON, up(2)).await);
    assert_eq!(sim.boots()[0].ended.as_deref(), Some("shutdown"));
    client.reset("PowerCycle").await;
    assert!(sim.wait_until(SOON, up(3)).await);
    client.reset("GracefulShutdown").await;
    assert!(sim.wait_until(SOON, |s| s.power() == Power::Off).await);
    assert!(sim.boots().iter().all(|b| b.device == "Cd"));
    assert_eq!(
        client.reset("Jump").await.message_id(),
        "Base.1.18.ActionParameterValueError"
    );
    sim.shutdown().await;
}

#[tokio::test]
async fn a_disc_that_does_not_boot_says_why() {
    let server = ImageServer::start(vec![7u8; 100_000]).await;
    let sim = start(SimConfig::quick()).await.unwrap();
    let client = Client::login(&sim).await;
    client.insert(&server.url()).await;
    client.boot("Cd", "Once").await;
    client.reset("On").await;
    assert!(
        sim.wait_until(SOON, |s| s
            .boots()
            .last()
            .is_some_and(|b| b.reached("no-bootable-device")))
            .await
    );
    let stages = sim.boots().remove(0).stages;
    assert!(
        stages.iter().any(|s| s.stage.contains("not a volume descriptor")),
        "{stages:?}"
    );
    sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_ports_are_free_when_it_has_ended() {
    // An address of its own: nobody else here takes a port of it meanwhile.
    let own = std::net::SocketAddr::from(([127, 77, 0, 1], 0));
    let mut config = SimConfig {
        listen: own,
        ipmi: Some(own),
        ..SimConfig::quick()
    };
    for _ in 0..100 {
        let sim = isobar_sim::start(config.clone()).await.unwrap();
        config.listen.set_port(sim.url().port_or_known_default().unwrap());
        config.ipmi = sim.ipmi();
        sim.shutdown().await;
    }
}
