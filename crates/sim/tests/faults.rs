//! Faults by API: each does what it says, is listed, and ends.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{CD, Client, ImageServer, SOON, SYSTEM, disc};
use isobar_sim::{Fault, FaultKind, Power, Sim, SimConfig, start};
use serde_json::json;

async fn begin() -> (Sim, Client, ImageServer) {
    let server = ImageServer::start(disc(100_000, 100_000)).await;
    let sim = start(SimConfig::quick()).await.unwrap();
    let client = Client::login(&sim).await;
    (sim, client, server)
}

fn up(sim: &Sim) -> bool {
    sim.boots().last().is_some_and(|b| b.reached("os-up"))
}

#[tokio::test]
async fn statuses_by_the_control_api_hit_what_they_match_and_wear_off() {
    let (sim, client, _) = begin().await;
    let fault = json!({"kind": "status", "code": 503, "retry_after_s": 7, "message_id": "Vendor.1.0.SYS518",
                       "message": "not ready", "method": "GET", "path": "systems", "times": 2});
    let planted = client.post("/sim/v1/faults", fault).await;
    assert_eq!(planted.status, 201);
    assert_eq!(client.get(CD).await.status, 200, "another path");
    for _ in 0..2 {
        let reply = client.get(SYSTEM).await;
        assert_eq!((reply.status, reply.message_id()), (503, "Vendor.1.0.SYS518"));
        assert_eq!(reply.headers["retry-after"], "7");
    }
    assert_eq!(client.get(SYSTEM).await.status, 200, "worn off");
    let list = client.get("/sim/v1/faults").await.body;
    assert_eq!((&list[0]["kind"], &list[0]["met"]), (&json!("status"), &json!(2)));
    let log = client.get("/sim/v1/log").await.body;
    let met = log["requests"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["fault"] == "status")
        .count();
    assert_eq!(met, 2);

    let id = planted.body["id"].as_u64().unwrap();
    assert_eq!(client.delete(&format!("/sim/v1/faults/{id}")).await.status, 200);
    assert_eq!(client.delete(&format!("/sim/v1/faults/{id}")).await.status, 404);
    assert_eq!(
        client.post("/sim/v1/faults", json!({"kind": "flood"})).await.status,
        400
    );
    sim.shutdown().await;
}

#[tokio::test]
async fn a_reset_comes_before_the_deed_and_a_lost_reply_after_it() {
    let (sim, client, server) = begin().await;
    sim.plant(Fault::from(FaultKind::Reset).on("POST", "InsertMedia").once());
    let insert = || {
        let body = json!({"Image": server.url()});
        client
            .request("POST", &format!("{CD}/Actions/VirtualMedia.InsertMedia"))
            .json(&body)
    };
    assert!(Client::send(insert()).await.is_err());
    assert!(!sim.cd().inserted, "not done");
    sim.plant(Fault::from(FaultKind::LoseReply).on("POST", "InsertMedia").once());
    assert!(Client::send(insert()).await.is_err());
    assert!(sim.cd().inserted, "done, but nobody heard");
    assert_eq!(sim.requests().last().unwrap().status, None);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_hang_answers_nothing_and_does_nothing() {
    let (sim, client, _) = begin().await;
    let id = sim.plant(Fault::from(FaultKind::Hang).on("POST", "Reset"));
    let hung = client
        .request("POST", &format!("{SYSTEM}/Actions/ComputerSystem.Reset"))
        .json(&json!({"ResetType": "On"}))
        .timeout(Duration::from_millis(300));
    assert!(Client::send(hung).await.unwrap_err().is_timeout());
    assert_eq!(client.get(SYSTEM).await.body["PowerState"], "Off");
    assert!(sim.remove_fault(id));
    assert_eq!(client.reset("On").await.status, 204);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_held_reply_comes_when_it_is_released_before_or_after_the_deed() {
    let (sim, client, server) = begin().await;
    for done in [true, false] {
        let id = sim.plant(Fault::from(FaultKind::Hold { done }).on("POST", "InsertMedia"));
        let url = server.url();
        let insert = client.insert(&url);
        let watch = async {
            let met = |s: &Sim| s.faults().iter().any(|f| f.id == id && f.met == 1);
            assert!(sim.wait_until(SOON, met).await);
            if done {
                assert!(sim.wait_until(SOON, |s| s.cd().inserted).await);
            }
            // Another request is answered meanwhile, and shows whether the deed was done.
            assert_eq!(client.get(CD).await.body["Inserted"], done);
            assert_eq!(
                client
                    .post(&format!("/sim/v1/faults/{id}/release"), json!({}))
                    .await
                    .status,
                200
            );
        };
        let (reply, ()) = tokio::join!(insert, watch);
        assert_eq!(reply.status, 204);
        assert!(sim.cd().inserted);
        client.eject().await;
    }
    sim.shutdown().await;
}

#[tokio::test]
async fn what_is_held_is_done_even_when_the_caller_has_hung_up() {
    let (sim, client, server) = begin().await;
    let id = sim.plant(Fault::from(FaultKind::Hold { done: false }).on("POST", "InsertMedia"));
    let insert = client
        .request("POST", &format!("{CD}/Actions/VirtualMedia.InsertMedia"))
        .json(&json!({"Image": server.url()}));
    let caller = tokio::spawn(Client::send(insert));
    let met = |s: &Sim| s.faults().iter().any(|f| f.id == id && f.met == 1);
    assert!(sim.wait_until(SOON, met).await);
    caller.abort();
    assert!(caller.await.is_err_and(|error| error.is_cancelled()));
    let held = |s: &Sim| {
        s.requests()
            .into_iter()
            .find(|r| r.path.contains("InsertMedia"))
            .unwrap()
    };
    assert_eq!((held(&sim).ended, sim.cd().inserted), (None, false));
    assert!(sim.release(id));
    assert!(
        sim.wait_until(SOON, |s| s.cd().inserted && held(s).ended.is_some())
            .await
    );
    assert_eq!(client.get(CD).await.status, 200);
    let connections: std::collections::HashSet<u64> = sim.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections.len(), 2, "one that was cut, one for what came after it");
    sim.shutdown().await;
}

#[tokio::test]
async fn a_mount_that_is_none() {
    let (sim, client, server) = begin().await;
    for inserted in [false, true] {
        sim.plant(Fault::from(FaultKind::NoMount { inserted }).once());
        assert_eq!(client.insert(&server.url()).await.status, 204);
        assert_eq!(client.get(CD).await.body["Inserted"], inserted);
        assert!(!sim.cd().mounted);
        client.boot("Cd", "Once").await;
        client.reset("ForceRestart").await;
        let nothing = |s: &Sim| s.boots().last().is_some_and(|b| b.reached("no-bootable-device"));
        assert!(sim.wait_until(SOON, nothing).await);
        client.reset("ForceOff").await;
        assert!(sim.wait_until(SOON, |s| s.power() == Power::Off).await);
        client.eject().await;
    }
    assert!(server.seen().is_empty(), "nothing is read");
    sim.shutdown().await;
}

#[tokio::test]
async fn a_stale_inserted_ends_with_its_time_or_its_fault() {
    let (sim, client, server) = begin().await;
    sim.plant(Fault::from(FaultKind::StaleInserted { for_ms: Some(1) }).once());
    let id = sim.plant(FaultKind::StaleInserted { for_ms: None });
    for round in 0..2 {
        client.insert(&server.url()).await;
        assert_eq!(client.eject().await.status, 204);
        if round == 1 {
            let slot = client.get(CD).await.body;
            assert_eq!(
                (&slot["Inserted"], &slot["Image"]),
                (&json!(true), &json!(server.url()))
            );
            sim.remove_fault(id);
        }
        assert!(sim.wait_until(SOON, |s| !s.cd().inserted).await, "round {round}");
    }
    sim.shutdown().await;
}

#[tokio::test]
async fn sessions_and_media_get_lost() {
    let (sim, mut client, server) = begin().await;
    client.insert(&server.url()).await;
    sim.plant(FaultKind::LoseSessions);
    assert_eq!(client.get(SYSTEM).await.status, 401);
    client.token = Client::login(&sim).await.token;
    sim.plant(Fault::from(FaultKind::LoseSessions).on("PATCH", "Systems").once());
    assert_eq!(client.boot("Cd", "Once").await.status, 401, "in the middle of the job");
    client.token = Client::login(&sim).await.token;

    // The medium goes while the machine reads it.
    sim.plant(FaultKind::ReadStall);
    client.boot("Cd", "Once").await;
    client.reset("On").await;
    assert!(
        sim.wait_until(SOON, |s| s.boots().last().is_some_and(|b| b.reached("firmware")))
            .await
    );
    assert_eq!(sim.plant(FaultKind::MediaLost), 0);
    let nothing = |s: &Sim| s.boots().last().is_some_and(|b| b.reached("no-bootable-device"));
    assert!(sim.wait_until(SOON, nothing).await, "{:?}", sim.boots());
    assert!(!sim.cd().inserted);
    sim.shutdown().await;
}

#[tokio::test]
async fn power_lags_and_is_ignored() {
    let (sim, client, _) = begin().await;
    sim.plant(Fault::from(FaultKind::PowerIgnored).once());
    assert_eq!(client.reset("On").await.status, 204);
    let id = sim.plant(FaultKind::PowerLag { ms: 1500 });
    let before = std::time::Instant::now();
    assert_eq!(client.reset("On").await.status, 204);
    assert!(sim.wait_until(SOON, |s| s.power() == Power::PoweringOn).await);
    assert!(sim.wait_until(SOON, |s| s.power() == Power::On).await);
    assert!(before.elapsed() >= Duration::from_millis(1500));
    assert_eq!(sim.boots().len(), 1, "the first On was swallowed");
    sim.remove_fault(id);
    let button = sim.plant(Fault::from(FaultKind::ButtonIgnored).once());
    client.reset("GracefulShutdown").await;
    client.reset("GracefulShutdown").await;
    assert!(sim.wait_until(SOON, |s| s.power() == Power::Off).await);
    assert!(sim.faults().iter().any(|f| f.id == button && f.met == 1));
    sim.shutdown().await;
}

#[tokio::test]
async fn overrides_are_ignored_or_kept() {
    let (sim, client, server) = begin().await;
    client.insert(&server.url()).await;
    sim.plant(Fault::from(FaultKind::OverrideIgnored).once());
    client.boot("Cd", "Once").await;
    client.reset("On").await;
    let nothing = |s: &Sim| s.boots().last().is_some_and(|b| b.reached("no-bootable-device"));
    assert!(sim.wait_until(SOON, nothing).await);
    sim.plant(FaultKind::OverrideKept);
    client.boot("Cd", "Once").await;
    client.reset("ForceRestart").await;
    assert!(sim.wait_until(SOON, up).await);
    assert_eq!(sim.boot_override().enabled, "Once");
    sim.shutdown().await;
}

#[tokio::test]
async fn reads_fail_or_stall_until_the_fault_is_gone() {
    let (sim, client, server) = begin().await;
    client.insert(&server.url()).await;
    client.boot("Cd", "Once").await;
    let mut error = Fault::from(FaultKind::ReadError);
    error.times = Some(1);
    sim.plant(error);
    let stall = sim.plant(FaultKind::ReadStall);
    client.reset("On").await;
    let met = |s: &Sim| s.faults().iter().any(|f| f.id == stall && f.met == 1);
    assert!(
        sim.wait_until(SOON, met).await,
        "after the error, the retry stalls: {:?}",
        sim.faults()
    );
    assert!(sim.reads()[0].error.as_deref().unwrap().contains("simulated fault"));
    assert!(!up(&sim));
    sim.remove_fault(stall);
    assert!(sim.wait_until(SOON, up).await);
    sim.shutdown().await;
}
