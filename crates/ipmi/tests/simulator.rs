//! The client against the simulated BMC, also over a network that loses and repeats packets.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isobar_bmc::redfish::Learnt;
use isobar_bmc::{
    AddressPolicy, Bmc, BootTarget, Endpoint, ErrorClass, Mode, NoRecorder, PowerAction, Secret, TlsTrust,
};
use isobar_ipmi::chassis::{BootFlags, device};
use isobar_ipmi::crypto::{SUITE_2, SUITE_3, SUITE_17, Suite, USUAL};
use isobar_ipmi::sol::{Console, Key};
use isobar_ipmi::{Options, Session, auto};
use isobar_sim::{Power, Sim, SimConfig};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// Long enough for a busy machine, short enough to fail a test that hangs.
const SOON: Duration = Duration::from_secs(60);

async fn sim(suites: &[u8]) -> Sim {
    let config = SimConfig {
        ipmi: Some((Ipv4Addr::LOCALHOST, 0).into()),
        ipmi_suites: suites.to_vec(),
        ..SimConfig::quick()
    };
    isobar_sim::start(config).await.unwrap()
}

fn endpoint(sim: &Sim, mode: Mode) -> Endpoint {
    let password = Secret::new("password".to_owned());
    let mut endpoint =
        Endpoint::from_params(sim.url().as_str(), None, "admin", password, TlsTrust::Insecure, None).unwrap();
    endpoint.mode = mode;
    endpoint.ipmi.port = sim.ipmi().unwrap().port();
    endpoint
}

fn options() -> Options {
    Options::within(SOON, AddressPolicy::default())
}

async fn open(endpoint: &Endpoint, suites: &[Suite]) -> Result<Session, isobar_bmc::BmcError> {
    let options = Options {
        suites: suites.to_vec(),
        ..options()
    };
    isobar_ipmi::bmc::open(endpoint, &NoRecorder, &options).await
}

#[tokio::test]
async fn the_best_suite_is_taken_and_no_weak_one_unless_told() {
    for (offered, wanted, got) in [
        (&[][..], USUAL, Some(SUITE_17)),
        (&[3, 17], USUAL, Some(SUITE_17)),
        (&[3], USUAL, Some(SUITE_3)),
        (&[2], USUAL, None),
        (&[2], &[SUITE_17, SUITE_3, SUITE_2], Some(SUITE_2)),
    ] {
        let sim = sim(offered).await;
        let opened = open(&endpoint(&sim, Mode::Ipmi), wanted).await;
        match (opened, got) {
            (Ok(mut session), Some(got)) => {
                assert_eq!(session.suite(), got, "{offered:?}");
                assert!(!session.is_on().await.unwrap());
                session.close().await;
            }
            (Err(error), None) => {
                assert_eq!(error.class, ErrorClass::Unsupported);
                assert!(error.message.contains("cipher suites 17, 3: it offers 2"), "{error}");
            }
            (opened, _) => panic!("{offered:?}: {opened:?}"),
        }
    }
}

#[tokio::test]
async fn a_wrong_login_is_told_from_a_bmc_that_is_not_there() {
    let sim = sim(&[]).await;
    let right = endpoint(&sim, Mode::Ipmi);
    let wrong = Endpoint {
        password: Secret::new("passwore".to_owned()),
        ..right.clone()
    };
    let error = open(&wrong, USUAL).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth, "{error}");
    assert!(!format!("{error:?}").contains("passwore"));
    let nobody = Endpoint {
        username: "nobody".to_owned(),
        ..right.clone()
    };
    assert_eq!(open(&nobody, USUAL).await.unwrap_err().class, ErrorClass::Auth);
    let port = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut away = right.clone();
    away.ipmi.port = port;
    let error = open(&away, USUAL).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unreachable, "{error}");
    assert!(error.hint.contains("ipmi/port-ipmitool"), "{}", error.hint);
    let elsewhere = Options {
        addresses: AddressPolicy {
            allowed: vec!["10.0.0.0/8".parse().unwrap()],
        },
        ..options()
    };
    let refused = isobar_ipmi::bmc::open(&right, &NoRecorder, &elsewhere)
        .await
        .unwrap_err();
    assert_eq!(refused.class, ErrorClass::Refused, "{refused}");
    let long = Endpoint {
        password: Secret::new("123456789012345678901".to_owned()),
        ..right
    };
    // Not a refused login: it was never sent.
    let error = open(&long, USUAL).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unsupported, "{error}");
    assert!(
        error.message.contains("20 bytes") && error.hint.contains("ipmi/mode"),
        "{error}"
    );
}

#[tokio::test]
async fn power_and_boot_flags_are_those_of_redfish() {
    let sim = sim(&[]).await;
    let mut bmc = isobar_ipmi::connect(&endpoint(&sim, Mode::Ipmi), Arc::new(NoRecorder), options())
        .await
        .unwrap();
    bmc.power(PowerAction::On).await.unwrap();
    assert!(sim.wait_until(SOON, |s| s.power() == Power::On).await);
    bmc.boot_once(BootTarget::Cd).await.unwrap();
    let set = sim.boot_override();
    assert_eq!(
        (set.enabled.as_str(), set.target.as_str(), set.mode.as_str()),
        ("Once", "Cd", "UEFI")
    );
    let host = bmc.host().await.unwrap();
    assert_eq!(host.boot_target.as_deref(), Some("Cd"));
    bmc.power(PowerAction::Cycle).await.unwrap();
    assert!(sim.wait_until(SOON, |s| s.boots().len() == 2).await);
    assert_eq!(sim.boots()[1].device, "Cd");
    assert!(sim.wait_until(SOON, |s| s.boot_override().enabled == "Disabled").await);
    bmc.boot_once(BootTarget::Pxe).await.unwrap();
    bmc.clear_boot_override().await.unwrap();
    assert_eq!(sim.boot_override().enabled, "Disabled");
    bmc.power(PowerAction::ForceOff).await.unwrap();
    assert!(sim.wait_until(SOON, |s| s.power() == Power::Off).await);
    // Off already, and a cycle of what is off switches on.
    bmc.power(PowerAction::ForceOff).await.unwrap();
    bmc.power(PowerAction::Cycle).await.unwrap();
    assert!(sim.wait_until(SOON, |s| s.power() == Power::On).await);
    assert_eq!(bmc.media().await.unwrap_err().class, ErrorClass::Unsupported);
    let probe = bmc.probe().await.unwrap();
    assert_eq!(probe.model, "Simulated server");
    bmc.close().await;
}

#[tokio::test]
async fn log_sensors_and_light() {
    let sim = sim(&[3]).await;
    let mut session = open(&endpoint(&sim, Mode::Ipmi), USUAL).await.unwrap();
    session.control(isobar_ipmi::chassis::Control::On, "on").await.unwrap();
    assert!(sim.wait_until(SOON, |s| s.power() == Power::On).await);
    session
        .control(isobar_ipmi::chassis::Control::Cycle, "cycle")
        .await
        .unwrap();
    let log = session.sel(10).await.unwrap();
    let words: Vec<_> = log.iter().map(|e| (e.sensor.as_str(), e.event.as_str())).collect();
    assert_eq!(
        words,
        [("System Boot", "initiated by power-up"), ("Power Unit", "power cycle")]
    );
    assert_eq!(session.sel(1).await.unwrap().len(), 1);
    assert_eq!(session.sel_info().await.unwrap().entries, 2);
    session.clear_sel().await.unwrap();
    assert!(session.sel(10).await.unwrap().is_empty());
    assert!(
        sim.wait_until(SOON, |s| s.boots().len() == 2 && s.power() == Power::On)
            .await
    );
    let sensors = session.sensors().await.unwrap();
    let shown: Vec<_> = sensors
        .iter()
        .map(|s| (s.name.as_str(), s.value, s.unit.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("Inlet Temp", Some(21.0), "degrees C"),
            ("CPU1 Temp", Some(48.0), "degrees C"),
            ("Fan1", Some(7200.0), "RPM"),
            ("Power", Some(220.0), "Watts"),
        ]
    );
    session.identify(Some(30)).await.unwrap();
    session.identify(None).await.unwrap();
    let before = BootFlags {
        valid: true,
        persistent: true,
        uefi: false,
        device: device::SETUP,
    };
    session.set_boot_flags(before).await.unwrap();
    assert_eq!(session.boot_flags().await.unwrap(), before);
    session.close().await;
}

#[tokio::test]
async fn the_console_carries_both_ways_and_is_one_persons_at_a_time() {
    let sim = sim(&[]).await;
    assert!(sim.switch_on());
    assert!(
        sim.wait_until(SOON, |s| s.serial().contains("no-bootable-device"))
            .await
    );
    let endpoint = endpoint(&sim, Mode::Ipmi);
    let console = Console::open(open(&endpoint, USUAL).await.unwrap(), false)
        .await
        .unwrap();
    let (keys, typed) = mpsc::channel(8);
    let (screen, mut shown) = mpsc::channel(8);
    let first = tokio::spawn(console.run(typed, screen));
    let text: String = (0..500).map(|n| format!("{n} ")).collect();
    keys.send(Key::Text(text.clone().into_bytes())).await.unwrap();
    let mut got = Vec::new();
    while got.len() < text.len() {
        got.extend(tokio::time::timeout(SOON, shown.recv()).await.unwrap().unwrap());
    }
    assert_eq!(String::from_utf8(got).unwrap(), text);

    let refused = Console::open(open(&endpoint, USUAL).await.unwrap(), false)
        .await
        .unwrap_err();
    assert_eq!(refused.class, ErrorClass::Busy, "{refused}");
    let second = Console::open(open(&endpoint, USUAL).await.unwrap(), true)
        .await
        .unwrap();
    let ended = tokio::time::timeout(SOON, first).await.unwrap().unwrap().unwrap_err();
    assert!(ended.message.contains("somebody else"), "{ended}");
    let (keys, typed) = mpsc::channel(8);
    let (screen, mut shown) = mpsc::channel(8);
    let second = tokio::spawn(second.run(typed, screen));
    // Who lost it did not close it for who has it now.
    keys.send(Key::Text(b"mine".to_vec())).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 4 {
        got.extend(tokio::time::timeout(SOON, shown.recv()).await.unwrap().unwrap());
    }
    assert_eq!(got, b"mine");
    drop(keys);
    second.await.unwrap().unwrap();
    // Given back.
    let third = Console::open(open(&endpoint, USUAL).await.unwrap(), false)
        .await
        .unwrap();
    let (screen, shown) = mpsc::channel(8);
    drop(shown);
    third.run(mpsc::channel(1).1, screen).await.unwrap();
}

#[tokio::test]
async fn a_mode_chooses_the_face() {
    let sim = sim(&[]).await;
    let redfish = isobar_bmc::redfish::Options::default;
    let usual = Arc::new(NoRecorder);
    // Power over IPMI, media over Redfish.
    let mut split = auto::connect(&endpoint(&sim, Mode::Ipmi), usual.clone(), redfish(), options())
        .await
        .unwrap();
    split.power(PowerAction::On).await.unwrap();
    assert!(sim.requests().iter().any(|r| r.method == "IPMI"));
    assert!(!split.media().await.unwrap().inserted);
    split.close().await;
    assert_eq!(sim.sessions(), 0);
    // Redfish where it is.
    let before = sim.requests().iter().filter(|r| r.method == "IPMI").count();
    let mut auto_mode = auto::connect(&endpoint(&sim, Mode::Auto), usual.clone(), redfish(), options())
        .await
        .unwrap();
    auto_mode.power(PowerAction::ForceOff).await.unwrap();
    auto_mode.close().await;
    assert_eq!(sim.requests().iter().filter(|r| r.method == "IPMI").count(), before);
    // And IPMI where it is not.
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let mut only = endpoint(&sim, Mode::Auto);
    only.url = url::Url::parse(&format!("http://{closed}/")).unwrap();
    let mut instead = auto::connect(&only, usual.clone(), redfish(), options()).await.unwrap();
    instead.power_state().await.unwrap();
    let error = instead.media().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unreachable, "Redfish's own reason: {error}");
    instead.close().await;
    only.mode = Mode::Redfish;
    assert!(auto::connect(&only, usual.clone(), redfish(), options()).await.is_err());
    // Neither: Redfish's reason.
    only.mode = Mode::Auto;
    let mut long = only.clone();
    long.password = Secret::new("123456789012345678901".to_owned());
    let error = auto::connect(&long, usual.clone(), redfish(), options())
        .await
        .err()
        .unwrap();
    assert_eq!(error.class, ErrorClass::Unreachable, "{error}");
    only.ipmi.port = closed.port();
    let error = auto::connect(&only, usual, redfish(), options()).await.err().unwrap();
    assert!(error.message.contains(&closed.to_string()), "{error}");
}

#[tokio::test]
async fn a_session_is_kept_for_the_next_exchange_and_renewed_when_the_bmc_has_forgotten_it() {
    let sim = sim(&[]).await;
    let nobody = Arc::new(NoRecorder);
    let place = endpoint(&sim, Mode::Ipmi);
    let redfish = isobar_bmc::redfish::Options::default();
    let mut split = auto::connect(&place, nobody.clone(), redfish, options()).await.unwrap();
    split.power(PowerAction::On).await.unwrap();
    for _ in 0..3 {
        assert!(split.rest().await);
        split.go_on(&place, nobody.clone(), SOON);
        split.boot_once(BootTarget::Pxe).await.unwrap();
    }
    assert_eq!(sim.ipmi_logins(), 1);
    // A BMC that restarts forgets its sessions, and says nothing of it: what is to be sent once arrives once.
    assert!(split.rest().await);
    let mut other = open(&place, USUAL).await.unwrap();
    other.reset_bmc().await.unwrap();
    split.go_on(&place, nobody, SOON);
    let before = sim.requests().len();
    split.power(PowerAction::Cycle).await.unwrap();
    assert_eq!(
        (sim.ipmi_logins(), sim.requests().len()),
        (3, before + 1),
        "{:#?}",
        sim.requests()
    );
    split.close().await;
}

#[tokio::test]
async fn a_right_login_is_not_called_wrong_because_ipmi_is_closed_to_it() {
    let usual = Arc::new(NoRecorder);
    let learnt = Arc::new(Learnt::default());
    let redfish = |learnt: &Arc<Learnt>| isobar_bmc::redfish::Options {
        learnt: Arc::clone(learnt),
        ..Default::default()
    };
    let sim = sim(&[]).await;
    let other = isobar_sim::start(SimConfig {
        password: "another".to_owned(),
        ipmi: Some((Ipv4Addr::LOCALHOST, 0).into()),
        ..SimConfig::quick()
    });
    let other = other.await.unwrap();
    let mut bmc = endpoint(&sim, Mode::Auto);
    bmc.ipmi.port = other.ipmi().unwrap().port();
    let mut spoken = auto::connect(&bmc, usual.clone(), redfish(&learnt), options())
        .await
        .unwrap();
    spoken.close().await;
    // Its web server is away, as in a reset; its IPMI refuses who may use Redfish alone.
    sim.shutdown().await;
    for _ in 0..2 {
        let error = auto::connect(&bmc, usual.clone(), redfish(&learnt), options()).await;
        assert_eq!(error.err().unwrap().class, ErrorClass::Unreachable);
        assert!(learnt.faces(&bmc.name()).ipmi_refuses, "it is not asked a second time");
    }
    // Who has never heard it over Redfish takes IPMI's word.
    let error = auto::connect(&bmc, usual, redfish(&Arc::default()), options()).await;
    assert_eq!(error.err().unwrap().class, ErrorClass::Auth);
}

/// A network that carries a packet to the BMC (true) or back so many times as `fate` says.
async fn network(to: SocketAddr, fate: impl Fn(bool, &[u8]) -> usize + Send + 'static) -> SocketAddr {
    let near = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let address = near.local_addr().unwrap();
    tokio::spawn(async move {
        let far = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        far.connect(to).await.unwrap();
        let (mut out, mut back) = ([0; 1500], [0; 1500]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((n, from)) = near.recv_from(&mut out) => {
                    client = Some(from);
                    for _ in 0..fate(true, &out[..n]) {
                        far.send(&out[..n]).await.unwrap();
                    }
                }
                Ok(n) = far.recv(&mut back) => {
                    for _ in 0..fate(false, &back[..n]) {
                        near.send_to(&back[..n], client.unwrap()).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn a_network_that_loses_packets_costs_time_alone() {
    let sim = sim(&[17]).await;
    let mut endpoint = endpoint(&sim, Mode::Ipmi);
    let count = AtomicU64::new(0);
    let bad = move |_, _: &[u8]| match count.fetch_add(1, Ordering::Relaxed) % 12 {
        2 | 5 | 8 => 0,
        3 | 7 => 2,
        _ => 1,
    };
    endpoint.ipmi.port = network(sim.ipmi().unwrap(), bad).await.port();
    let mut session = open(&endpoint, USUAL).await.unwrap();
    for _ in 0..6 {
        assert!(!session.is_on().await.unwrap());
    }
    session.close().await;
}

#[tokio::test]
async fn a_bmc_that_is_silent_about_a_suite_is_asked_for_the_next() {
    let sim = sim(&[3]).await;
    let mut endpoint = endpoint(&sim, Mode::Ipmi);
    // Open Session Requests that propose RAKP-HMAC-SHA256 (3).
    let deaf = |out, packet: &[u8]| usize::from(!(out && packet.get(5) == Some(&0x10) && packet.get(28) == Some(&3)));
    endpoint.ipmi.port = network(sim.ipmi().unwrap(), deaf).await.port();
    let mut session = open(&endpoint, USUAL).await.unwrap();
    assert_eq!(session.suite(), SUITE_3);
    session.close().await;
}
