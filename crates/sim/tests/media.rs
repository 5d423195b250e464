//! How the inserted image is read, in each manner and when its server is bad.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Client, ImageServer, SOON, disc};
use isobar_sim::{Manners, Read, ReadCause, ReadManner, Sim, SimConfig, start};

async fn sim(read: ReadManner, change: impl FnOnce(&mut Manners)) -> Sim {
    let mut manners = Manners {
        read,
        ..Manners::instant()
    };
    change(&mut manners);
    start(SimConfig {
        manners,
        ..SimConfig::quick()
    })
    .await
    .unwrap()
}

async fn boot_cd(sim: &Sim, client: &Client) {
    assert_eq!(client.boot("Cd", "Once").await.status, 200);
    assert_eq!(client.reset("On").await.status, 204);
    let up = |s: &Sim| s.boots().last().is_some_and(|b| b.reached("os-up"));
    assert!(sim.wait_until(SOON, up).await, "{:#?}", sim.boots());
}

fn bytes(reads: &[Read], cause: ReadCause) -> u64 {
    reads.iter().filter(|r| r.cause == cause).map(|r| r.length).sum()
}

#[tokio::test]
async fn at_insert_reads_the_first_block_and_then_on_demand() {
    let server = ImageServer::start(disc(400_000, 100_000)).await;
    let sim = sim(ReadManner::AtInsert, |_| {}).await;
    let client = Client::login(&sim).await;
    assert_eq!(client.insert(&server.url()).await.status, 204);
    let asked = server.seen();
    assert_eq!(
        asked,
        [("HEAD".into(), None), ("GET".into(), Some("bytes=0-65535".into()))]
    );
    boot_cd(&sim, &client).await;
    assert_eq!(bytes(&sim.reads(), ReadCause::Insert), 65536);
    let machine = bytes(&sim.reads(), ReadCause::Machine);
    assert!(
        machine > 500_000 && machine < server.bytes.len() as u64,
        "{machine} of {}",
        server.bytes.len()
    );
    sim.shutdown().await;
}

#[tokio::test]
async fn read_ahead_is_ahead_of_the_machine() {
    let server = ImageServer::start(disc(3_000_000, 1_000_000)).await;
    let sim = sim(ReadManner::ReadAhead, |m| m.window = 512 << 10).await;
    let client = Client::login(&sim).await;
    assert_eq!(client.insert(&server.url()).await.status, 204);
    boot_cd(&sim, &client).await;
    assert!(bytes(&sim.reads(), ReadCause::Ahead) > 1_000_000);
    sim.shutdown().await;
}

#[tokio::test]
async fn copy_all_asks_once_for_everything_and_boots_without_the_server() {
    let server = ImageServer::start(disc(400_000, 100_000)).await;
    let sim = sim(ReadManner::CopyAll, |_| {}).await;
    let client = Client::login(&sim).await;
    assert_eq!(client.insert(&server.url()).await.status, 204);
    assert_eq!(server.seen(), [("GET".into(), None)]);
    assert_eq!(sim.media()[0].covered, [(0, server.bytes.len() as u64)].into());
    server.broken.store(true, Ordering::SeqCst);
    boot_cd(&sim, &client).await;
    assert_eq!(server.seen().len(), 1);
    sim.shutdown().await;
}

#[tokio::test]
async fn an_image_that_is_not_there_is_refused_by_those_who_look() {
    let server = ImageServer::start(vec![0; 4096]).await;
    let missing = server.url().replace("boot.iso", "other.iso");
    let nobody = "http://127.0.0.1:9/boot.iso";
    for manner in [ReadManner::AtInsert, ReadManner::ReadAhead, ReadManner::CopyAll] {
        let sim = sim(manner, |_| {}).await;
        let client = Client::login(&sim).await;
        for url in [missing.as_str(), nobody] {
            let reply = client.insert(url).await;
            assert_eq!(reply.status, 400, "{manner:?} {url}");
            assert_eq!(reply.message_id(), "Base.1.18.CouldNotEstablishConnection");
            assert!(!sim.cd().inserted);
        }
        sim.shutdown().await;
    }
}

#[tokio::test]
async fn a_lazy_bmc_with_a_dead_server_boots_nothing_and_says_so() {
    let sim = sim(ReadManner::Lazy, |_| {}).await;
    let client = Client::login(&sim).await;
    assert_eq!(client.insert("http://127.0.0.1:9/boot.iso").await.status, 204);
    assert_eq!(client.boot("Cd", "Once").await.status, 200);
    client.reset("On").await;
    let ended = |s: &Sim| s.boots().last().is_some_and(|b| b.reached("no-bootable-device"));
    assert!(sim.wait_until(SOON, ended).await);
    assert!(
        sim.boots()[0]
            .stages
            .iter()
            .any(|s| s.stage.starts_with("failed: reading the image"))
    );
    assert!(sim.cd().inserted, "the slot goes on saying so");
    sim.shutdown().await;
}

#[tokio::test]
async fn a_server_that_comes_back_in_time_is_waited_for() {
    let server = ImageServer::start(disc(200_000, 100_000)).await;
    server.broken.store(true, Ordering::SeqCst);
    let sim = sim(ReadManner::Lazy, |m| m.read_patience_ms = 20_000).await;
    let client = Client::login(&sim).await;
    client.insert(&server.url()).await;
    client.boot("Cd", "Once").await;
    client.reset("On").await;
    assert!(
        sim.wait_until(SOON, |s| s.reads().iter().filter(|r| r.status == Some(503)).count()
            >= 2)
            .await
    );
    server.broken.store(false, Ordering::SeqCst);
    assert!(
        sim.wait_until(SOON, |s| s.boots().last().is_some_and(|b| b.reached("os-up")))
            .await
    );
    sim.shutdown().await;
}

#[tokio::test]
async fn the_speed_limit_holds() {
    let server = ImageServer::start(disc(200_000, 100_000)).await;
    let sim = sim(ReadManner::CopyAll, |m| m.rate_bps = Some(2_000_000)).await;
    let client = Client::login(&sim).await;
    let started = Instant::now();
    assert_eq!(client.insert(&server.url()).await.status, 204);
    let least = Duration::from_secs_f64(server.bytes.len() as f64 / 2e6);
    assert!(
        started.elapsed() >= least,
        "{:?} for {} bytes",
        started.elapsed(),
        server.bytes.len()
    );
    sim.shutdown().await;
}

#[tokio::test]
async fn replacing_is_a_manner() {
    let server = ImageServer::start(vec![0; 4096]).await;
    let sim = sim(ReadManner::Lazy, |m| m.insert_replaces = true).await;
    let client = Client::login(&sim).await;
    assert_eq!(client.insert("http://127.0.0.1:9/old.iso").await.status, 204);
    assert_eq!(client.insert(&server.url()).await.status, 204);
    assert_eq!(sim.cd().image, Some(server.url()));
    sim.shutdown().await;
}
