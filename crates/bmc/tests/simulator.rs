//! The client against the simulated BMC: effects, not calls.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{PASSWORD, Records, USER, options};
use isobar_bmc::redfish::{Options, Redfish, connect};
use isobar_bmc::{Bmc, BmcError, BootTarget, Endpoint, ErrorClass, PowerAction, PowerState, Secret, TlsTrust};
use isobar_sim::{Fault, FaultKind, Manners, Power, ReadManner, Sim, SimConfig, start};

const SOON: Duration = Duration::from_secs(60);
const IMAGE: &str = "http://127.0.0.1:9/A-token-of-this-boot-0123456789/boot.iso";

async fn sim(change: impl FnOnce(&mut SimConfig)) -> Sim {
    let mut config = SimConfig {
        user: USER.into(),
        password: PASSWORD.into(),
        ..SimConfig::quick()
    };
    change(&mut config);
    start(config).await.unwrap()
}

async fn open_with(
    sim: &Sim,
    password: &str,
    tls: TlsTrust,
    options: Options,
) -> Result<(Redfish, Arc<Records>), BmcError> {
    let records = Arc::new(Records::default());
    let bmc = connect(endpoint_with(sim, password, tls), records.clone(), options).await?;
    Ok((bmc, records))
}

fn endpoint_with(sim: &Sim, password: &str, tls: TlsTrust) -> Endpoint {
    let password = Secret::new(password.to_owned());
    Endpoint::from_params(sim.url().as_str(), None, USER, password, tls, None).unwrap()
}

fn endpoint(sim: &Sim) -> Endpoint {
    endpoint_with(sim, PASSWORD, TlsTrust::Insecure)
}

async fn open(sim: &Sim) -> Redfish {
    open_with(sim, PASSWORD, TlsTrust::Insecure, options()).await.unwrap().0
}

fn fault(json: serde_json::Value) -> Fault {
    serde_json::from_value(json).unwrap()
}

#[tokio::test]
async fn boots_from_the_virtual_cd() {
    let sim = sim(|_| {}).await;
    let (mut bmc, records) = open_with(&sim, PASSWORD, TlsTrust::Insecure, options()).await.unwrap();
    assert_eq!(sim.sessions(), 1);
    let probe = bmc.probe().await.unwrap();
    assert_eq!(probe.system_uuid, Some(sim.config().uuid.to_string()));
    assert!(
        probe.media_slot.is_some() && !probe.system.is_empty() && !probe.manager.is_empty(),
        "{probe:?}"
    );
    bmc.power(PowerAction::ForceOff).await.unwrap();
    assert!(sim.wait_until(SOON, |s| s.power() == Power::Off).await);
    assert_eq!(bmc.power_state().await.unwrap(), PowerState::Off);

    let media = bmc.insert(IMAGE).await.unwrap();
    assert!(media.inserted);
    assert_eq!(
        (media.image.as_deref(), sim.cd().image.as_deref()),
        (Some(IMAGE), Some(IMAGE))
    );
    assert!(!sim.floppy().inserted, "the decoy");
    bmc.boot_once(BootTarget::Cd).await.unwrap();
    let set = sim.boot_override();
    assert_eq!((set.target.as_str(), set.enabled.as_str()), ("Cd", "Once"));
    bmc.clear_boot_override().await.unwrap();
    assert_eq!(sim.boot_override().enabled, "Disabled");
    bmc.boot_once(BootTarget::Cd).await.unwrap();
    bmc.power(PowerAction::On).await.unwrap();
    assert!(sim.wait_until(SOON, |s| !s.boots().is_empty()).await);
    bmc.eject().await.unwrap();
    bmc.eject().await.unwrap();
    assert!(!bmc.media().await.unwrap().inserted && !sim.cd().inserted);
    bmc.close().await;
    assert_eq!(sim.sessions(), 0, "logged out");

    let recorded = serde_json::to_string(&*records.0.lock().unwrap()).unwrap();
    assert!(recorded.contains("InsertMedia") && recorded.contains("A-toke…"));
    for secret in [PASSWORD, "A-token-of-this-boot"] {
        assert!(!recorded.contains(secret), "{secret} was recorded");
    }
    sim.shutdown().await;
}

#[tokio::test]
async fn the_ladder_finds_the_payload_and_remembers_it() {
    for (demands, refuses) in [
        (vec!["TransferProtocolType"], vec![]),
        (
            vec!["TransferProtocolType", "TransferMethod"],
            vec!["Inserted", "WriteProtected"],
        ),
        (vec!["UserName", "Password"], vec![]),
        (vec!["Inserted", "WriteProtected"], vec![]),
        (vec![], vec!["Inserted", "WriteProtected", "TransferProtocolType"]),
    ] {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let manners = Manners {
            insert_demands: words(&demands),
            insert_refuses: words(&refuses),
            ..Manners::instant()
        };
        let sim = sim(|c| c.manners = manners).await;
        let mut bmc = open(&sim).await;
        assert!(bmc.insert(IMAGE).await.unwrap().inserted, "{demands:?} {refuses:?}");
        let mut learnt = bmc.profile().insert_members.clone();
        learnt.sort();
        let mut wanted = words(&demands);
        wanted.sort();
        assert_eq!(learnt, wanted);
        let known = Options {
            profile: bmc.profile().clone(),
            ..options()
        };
        bmc.close().await;

        let tries = |sim: &Sim| {
            sim.requests()
                .iter()
                .filter(|r| r.path.ends_with("InsertMedia"))
                .count()
        };
        let before = tries(&sim);
        let (mut bmc, _) = open_with(&sim, PASSWORD, TlsTrust::Insecure, known).await.unwrap();
        bmc.insert(IMAGE).await.unwrap();
        assert_eq!(tries(&sim), before + 1, "{demands:?}: begins on the rung that worked");
        bmc.close().await;
        sim.shutdown().await;
    }
}

#[tokio::test]
async fn stale_media_and_old_images_are_ejected_first() {
    let sim = sim(|_| {}).await;
    let mut bmc = open(&sim).await;
    bmc.insert("http://127.0.0.1:9/An-older-token-0123456789/boot.iso")
        .await
        .unwrap();
    sim.plant(FaultKind::StaleInserted { for_ms: Some(100) });
    let media = bmc.insert(IMAGE).await.unwrap();
    assert_eq!(media.image.as_deref(), Some(IMAGE));
    bmc.close().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn a_certificate_is_pinned() {
    let sim = sim(|c| c.tls = true).await;
    let print = sim.fingerprint().unwrap().to_owned();
    let (mut bmc, _) = open_with(&sim, PASSWORD, TlsTrust::Insecure, options()).await.unwrap();
    let shown = bmc.certificate().unwrap();
    assert_eq!(
        (shown.fingerprint.as_str(), shown.proven),
        (print.as_str(), true),
        "for pinning at first use"
    );
    bmc.close().await;
    let (mut bmc, _) = open_with(&sim, PASSWORD, TlsTrust::Pinned(print.to_uppercase()), options())
        .await
        .unwrap();
    bmc.power_state().await.unwrap();
    bmc.close().await;
    let asked = sim.requests().len();
    let err = open_with(&sim, PASSWORD, TlsTrust::Pinned("00".repeat(32)), options())
        .await
        .unwrap_err();
    assert_eq!(err.class, ErrorClass::Tls);
    assert!(
        err.message.contains(&print) && err.message.contains("127.0.0.1"),
        "{err}"
    );
    assert_eq!(sim.requests().len(), asked, "nothing was sent");
    sim.shutdown().await;
}

#[tokio::test]
async fn a_wrong_password_is_sent_once() {
    let sim = sim(|_| {}).await;
    let err = open_with(&sim, "wrong-password", TlsTrust::Insecure, options())
        .await
        .unwrap_err();
    assert_eq!(err.class, ErrorClass::Auth);
    assert!(err.message.contains("127.0.0.1") && err.message.contains(USER), "{err}");
    assert!(err.hint.contains("ipmi/password") && !format!("{err:?}").contains("wrong-password"));
    let logins = sim.requests().iter().filter(|r| r.method == "POST").count();
    assert_eq!(logins, 1);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_lost_session_is_renewed_once_and_a_full_table_is_no_hurdle() {
    let sim = sim(|c| c.manners.session_limit = 1).await;
    let mut first = open(&sim).await;
    sim.plant(FaultKind::LoseSessions);
    assert_eq!(first.power_state().await.unwrap(), PowerState::Off);
    // The table is full now: the second goes on with Basic.
    let mut second = open(&sim).await;
    assert_eq!(second.power_state().await.unwrap(), PowerState::Off);
    assert!(sim.requests().iter().any(|r| r.auth == "basic"));
    second.close().await;
    first.close().await;
    assert_eq!(sim.sessions(), 0);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_bmc_that_hangs_is_a_timeout() {
    let sim = sim(|_| {}).await;
    let (mut bmc, records) = open_with(&sim, PASSWORD, TlsTrust::Insecure, options()).await.unwrap();
    bmc.probe().await.unwrap();
    sim.plant(fault(
        serde_json::json!({"kind": "hang", "method": "POST", "path": "InsertMedia"}),
    ));
    bmc.go_on(&endpoint(&sim), records.clone(), Duration::from_secs(3));
    let err = bmc.insert(IMAGE).await.unwrap_err();
    assert_eq!(err.class, ErrorClass::Timeout);
    assert!(
        err.message.contains("InsertMedia") && err.message.contains("127.0.0.1"),
        "{err}"
    );
    let last = records.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last.status, None, "recorded though unanswered");
    sim.shutdown().await;
}

#[tokio::test]
async fn what_a_bmc_said_before_it_fell_silent_is_told() {
    let sim = sim(|_| {}).await;
    let mut bmc = open(&sim).await;
    bmc.probe().await.unwrap();
    for json in [
        serde_json::json!({"kind": "status", "code": 500, "method": "GET", "path": "Systems/1", "times": 1}),
        serde_json::json!({"kind": "hang", "method": "GET", "path": "Systems/1"}),
    ] {
        sim.plant(fault(json));
    }
    bmc.go_on(&endpoint(&sim), Arc::new(Records::default()), Duration::from_secs(6));
    let err = bmc.power_state().await.unwrap_err();
    assert_eq!(err.class, ErrorClass::Failing, "{err}");
    sim.shutdown().await;
}

#[tokio::test]
async fn what_is_accepted_and_not_done_is_found_out() {
    let sim = sim(|_| {}).await;
    let mut bmc = open(&sim).await;
    sim.plant(FaultKind::NoMount { inserted: false });
    let err = bmc.insert(IMAGE).await.unwrap_err();
    assert_eq!(err.class, ErrorClass::NotMounted);
    assert!(
        err.message.contains("stays empty") && !err.message.contains("A-token-of-this"),
        "{err}"
    );
    bmc.close().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn busy_is_waited_for_and_a_lost_reply_is_in_doubt() {
    let sim = sim(|_| {}).await;
    let mut bmc = open(&sim).await;
    sim.plant(fault(serde_json::json!(
        {"kind": "status", "code": 503, "retry_after_s": 1, "method": "POST", "path": "InsertMedia", "times": 2}
    )));
    assert!(bmc.insert(IMAGE).await.unwrap().inserted);
    sim.plant(fault(
        serde_json::json!({"kind": "lose-reply", "method": "POST", "path": "Reset", "times": 1}),
    ));
    let err = bmc.power(PowerAction::On).await.unwrap_err();
    assert_eq!(err.class, ErrorClass::Timeout);
    assert!(
        sim.wait_until(SOON, |s| s.power() == Power::On).await,
        "it was done all the same"
    );
    bmc.power(PowerAction::On).await.unwrap();
    bmc.close().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn cycling_uses_what_there_is() {
    for types in [
        &["On", "ForceOff", "PowerCycle"][..],
        &["On", "ForceOff", "ForceRestart"],
        &["On", "ForceOff"],
    ] {
        let sim = sim(|c| c.manners.reset_types = types.iter().map(|t| (*t).to_owned()).collect()).await;
        let mut bmc = open(&sim).await;
        bmc.power(PowerAction::On).await.unwrap();
        assert!(
            sim.wait_until(SOON, |s| s.power() == Power::On && !s.boots().is_empty())
                .await
        );
        let boots = sim.boots().len();
        bmc.power(PowerAction::Cycle).await.unwrap();
        assert!(
            sim.wait_until(SOON, |s| s.boots().len() > boots && s.power() == Power::On)
                .await
        );
        let asked = |r: &isobar_sim::Request| Some(r.body.as_ref()?.get("ResetType")?.as_str()?.to_owned());
        let asked: Vec<String> = sim.requests().iter().filter_map(asked).skip(1).collect();
        assert_eq!(
            asked,
            if types.len() == 3 {
                &types[2..]
            } else {
                &["ForceOff", "On"]
            }
        );
        bmc.power(PowerAction::ForceOff).await.unwrap();
        assert!(sim.wait_until(SOON, |s| s.power() == Power::Off).await);
        bmc.power(PowerAction::Cycle).await.unwrap();
        assert!(sim.wait_until(SOON, |s| s.power() == Power::On).await);
        let err = bmc.power(PowerAction::GracefulShutdown).await.unwrap_err();
        assert_eq!(err.class, ErrorClass::Unsupported);
        assert!(err.message.contains("ForceOff"), "says what there is: {err}");
        bmc.close().await;
        sim.shutdown().await;
    }
}

#[tokio::test]
async fn etags_are_given_where_they_are_asked_for() {
    let sim = sim(|c| c.manners.if_match_required = true).await;
    let mut bmc = open(&sim).await;
    bmc.boot_once(BootTarget::Cd).await.unwrap();
    assert_eq!(sim.boot_override().enabled, "Once");
    bmc.close().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn a_conversation_that_is_dropped_logs_out() {
    let sim = sim(|_| {}).await;
    let bmc = open(&sim).await;
    assert_eq!(sim.sessions(), 1);
    drop(bmc);
    assert!(sim.wait_until(SOON, |s| s.sessions() == 0).await);
    sim.shutdown().await;
}

#[tokio::test]
async fn every_profile_boots_from_its_virtual_cd_or_says_that_it_has_none() {
    let places = ["http", "https", "nfs"].map(|scheme| IMAGE.replace("http:", &format!("{scheme}:")));
    for name in Manners::profiles() {
        let sim = sim(|c| {
            c.manners = c.manners.clone().with_profile(name).unwrap();
            // The image's server is not there.
            c.manners.read = ReadManner::Lazy;
        })
        .await;
        let (mut bmc, _) = open_with(&sim, PASSWORD, TlsTrust::Insecure, options()).await.unwrap();
        if !sim.config().manners.has_media() {
            let err = bmc.insert_one_of(&places).await.unwrap_err();
            assert_eq!(err.class, ErrorClass::Unsupported, "{name}: {err:?}");
            assert!(err.message.contains("no usable virtual media"), "{name}: {err:?}");
            continue;
        }
        let done: Result<(), BmcError> = async {
            bmc.power(PowerAction::ForceOff).await?;
            bmc.insert_one_of(&places).await?;
            let image = sim.cd().image.unwrap();
            let schemes = &sim.config().manners.image_schemes;
            let wanted = schemes.first().map_or("http", String::as_str);
            assert!(image.starts_with(&format!("{wanted}://")), "{name}: {image}");
            assert!(!sim.floppy().inserted, "{name}: the decoy");
            bmc.boot_once(BootTarget::Cd).await?;
            let set = sim.boot_override();
            let by_override = set.target.ends_with("Cd") && set.enabled != "Disabled";
            assert_eq!(by_override, !sim.config().manners.boot_by_profile, "{name}: {set:?}");
            assert!(sim.wait_until(SOON, |s| s.power() == Power::Off).await, "{name}");
            bmc.power(PowerAction::On).await?;
            let from_cd = |s: &Sim| s.boots().last().is_some_and(|boot| boot.device == "Cd");
            assert!(sim.wait_until(SOON, from_cd).await, "{name}: {:?}", sim.boots());
            bmc.clear_boot_override().await?;
            bmc.eject().await
        }
        .await;
        done.unwrap_or_else(|err| panic!("{name}: {err} ({})", err.hint));
        assert!(!sim.cd().inserted, "{name}");
        bmc.close().await;
        assert_eq!(sim.sessions(), 0, "{name}");
        sim.shutdown().await;
    }
}

#[tokio::test]
async fn a_certificate_is_judged_by_a_ca_of_ones_own() {
    let (ca, chain) = (Authority::new(), tempfile::tempdir().unwrap());
    let good = ca.issue(chain.path(), "127.0.0.1");
    let open = async |sim: &Sim, pem: &str| {
        let trust = TlsTrust::Authority(pem.to_owned());
        open_with(sim, PASSWORD, trust, options()).await.map(|_| ())
    };
    let signed = sim(|config| (config.tls, config.certificate) = (true, Some(good))).await;
    open(&signed, &ca.pem).await.unwrap();
    let other = open(&signed, &Authority::new().pem).await.unwrap_err();
    assert!(
        other.class == ErrorClass::Tls && other.message.contains("not signed by the CA"),
        "{other}"
    );
    assert!(signed.requests().iter().all(|r| r.seq <= 3), "nothing is sent to it");
    let bad = open(&signed, "no PEM").await.unwrap_err();
    assert!(
        bad.class == ErrorClass::Tls && bad.message.contains("unusable") && bad.hint.contains("isobar/bmc-ca"),
        "{bad}"
    );
    let named = ca.issue(chain.path(), "bmc.example");
    let named = sim(|config| (config.tls, config.certificate) = (true, Some(named))).await;
    let error = open(&named, &ca.pem).await.unwrap_err();
    assert!(
        error.message.contains("for another name") && error.hint.contains("ipmi/address"),
        "{error}"
    );
}

/// A CA.
struct Authority {
    pem: String,
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        Self {
            pem: issuer.pem(),
            issuer,
        }
    }

    /// A PEM file with certificate and key.
    fn issue(&self, folder: &std::path::Path, name: &str) -> std::path::PathBuf {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = folder.join(format!("{name}.pem"));
        std::fs::write(&path, certificate.pem() + &key.serialize_pem()).unwrap();
        path
    }
}
