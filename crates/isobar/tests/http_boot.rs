//! UEFI HTTP boot: the BMC tells the firmware a URL, and the machine downloads the image by itself.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, FaultKind, SimConfig};
use serde_json::{Value, json};
use stage::{MACHINE, NEVER_READ, Options, PASSWORD, Stage, TIMING};

/// The address for BMCs leads nowhere: who reads by it gets nothing.
fn stage(profile: &'static str) -> Stage {
    with(profile, "127.0.0.1", "")
}

fn with(profile: &'static str, for_machine: &str, timing: &str) -> Stage {
    let options = Options {
        addresses: ("127.9.9.9".to_owned(), for_machine.to_owned()),
        timing: format!("{TIMING},{timing}").trim_end_matches(',').to_owned(),
        ..Options::default()
    };
    let stage = Stage::with(options, |config| dress(config, profile));
    stage.import();
    stage
}

fn dress(config: &mut SimConfig, profile: &str) {
    config.manners = config.manners.clone().with_profile(profile).unwrap();
}

fn begin(stage: &Stage) {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"]);
    assert!(out.ok, "{out}");
}

fn back_to_local(stage: &Stage) {
    for change in [["workflow", MACHINE, ""], ["bootenv", MACHINE, "local"]] {
        let out = stage.isobar(&[&["machines"], &change[..], &["--no-wait"]].concat());
        assert!(out.ok, "{out}");
    }
}

fn failed(stage: &Stage) -> (String, String, String) {
    stage.wait_boot("failed");
    let error = &stage.last_boot()["error"];
    let text = |name: &str| error[name].as_str().unwrap().to_owned();
    (text("reason"), text("message"), text("hint"))
}

/// What is left in the BMC.
fn nothing_is_set(stage: &Stage) -> bool {
    let left = stage.sim().boot_override();
    left.enabled == "Disabled" && left.http_uri.is_empty()
}

#[test]
fn a_bmc_without_virtual_media_boots_by_http() {
    let stage = stage("nvidia-bluefield");
    stage.add_machine(&json!({}));
    begin(&stage);
    stage.wait_boot("done");
    let boot = stage.last_boot();
    let boots = stage.sim().boots();
    assert_eq!(boots.len(), 1);
    assert_eq!(boots[0].device, "UefiHttp");
    let from_here = format!("http://127.0.0.1:{}/", stage.files_port());
    let set = &stage.requests("/Systems/1").remove(0);
    assert!(set.contains("UefiHttp") && set.contains(&from_here), "{set}");
    assert_eq!(boot["read_from_elsewhere"], Value::Null);
    let log = boot["log"].to_string();
    assert!(
        log.contains("no virtual media") && log.contains("downloaded the whole image"),
        "{log}"
    );
    assert!(nothing_is_set(&stage), "{:?}", stage.sim().boot_override());
    assert!(!boot.to_string().contains("127.9.9.9"), "{boot}");
    // The next one takes out what this one has left, and there is nothing.
    back_to_local(&stage);
    stage.wait("it is let go", |s| s.last_boot()["phase"] == "released");
}

#[test]
fn where_it_is_wanted_nothing_is_inserted() {
    let stage = stage("supermicro-x13");
    // The BMC's own address is not the machine's: that it alone may read holds for a BMC that reads.
    stage.add_machine(&json!({"isobar/boot-method": "uefi-http", "isobar/strict-image-peer": true}));
    begin(&stage);
    stage.wait_boot("done");
    assert_eq!(stage.sim().boots()[0].device, "UefiHttp");
    assert_eq!(stage.requests("VirtualMedia"), Vec::<String>::new());
    assert!(nothing_is_set(&stage), "{:?}", stage.sim().boot_override());
}

#[test]
fn a_bmc_that_does_not_offer_it_is_refused_with_the_reason() {
    for (profile, method, says) in [
        (
            "dell-idrac9",
            "uefi-http",
            ["cannot boot from UefiHttp", "isobar/boot-method"],
        ),
        (
            "lenovo-xcc-1",
            "auto",
            ["no usable virtual media", "nor UEFI HTTP boot"],
        ),
        ("nvidia-bluefield", "virtual-media", ["no usable virtual media", ""]),
    ] {
        let stage = stage(profile);
        stage.add_machine(&json!({"isobar/boot-method": method}));
        begin(&stage);
        let (reason, message, hint) = failed(&stage);
        assert_eq!(reason, "bmc-unsupported", "{profile}: {message}");
        let told = format!("{message}; {hint}");
        assert!(says.iter().all(|part| told.contains(part)), "{profile}: {told}");
        assert_eq!(stage.last_boot()["cleanup"], false, "{profile}");
        assert!(stage.sim().boots().is_empty(), "{profile}");
    }
}

#[test]
fn firmware_that_never_asks_is_told_of_and_nothing_stays_set() {
    let stage = with("nvidia-bluefield", "127.8.8.8", NEVER_READ);
    stage.add_machine(&json!({}));
    begin(&stage);
    let (reason, message, hint) = failed(&stage);
    assert_eq!(reason, "image-never-read", "{message}");
    assert!(message.contains("never asked http://127.8.8.8:"), "{message}");
    assert!(
        hint.contains("DHCP") && !hint.contains("boot-virtual-iso-url"),
        "{hint}"
    );
    stage.wait("it is cleaned up", |s| s.last_boot()["cleanup"] == false);
    assert!(nothing_is_set(&stage), "{:?}", stage.sim().boot_override());
}

#[test]
fn readers_are_bound_where_their_networks_are_named() {
    // The machine has to ask, to be refused, in this time.
    let stage = with("nvidia-bluefield", "127.0.0.1", "first_read_s=10");
    stage.add_machine(&json!({"isobar/strict-image-peer": true, "isobar/image-peers": ["10.1.0.0/16"]}));
    begin(&stage);
    let (reason, message, hint) = failed(&stage);
    assert_eq!(reason, "image-never-read", "{message}");
    assert!(
        hint.contains("isobar/image-peers") && hint.contains("127.0.0.1"),
        "{hint}"
    );
    assert_eq!(stage.last_boot()["refused_reader"], "127.0.0.1");
}

#[test]
fn a_boot_that_is_cancelled_leaves_no_url_behind() {
    let stage = stage("nvidia-bluefield");
    stage.add_machine(&json!({"boot-virtual-iso-power": "wait"}));
    stage.sim().switch_on();
    stage.wait("the machine is on", |s| s.sim().power() == isobar_sim::Power::On);
    begin(&stage);
    stage.wait("its power is the operator's", |s| {
        s.last_boot()["phase"] == "waiting-for-power"
    });
    assert!(stage.sim().boot_override().http_uri.starts_with("http://127.0.0.1:"));
    back_to_local(&stage);
    stage.wait("all is cleared", nothing_is_set);
    stage.wait("the clean-up is over", |s| s.last_boot()["cleanup"] == false);
    assert_eq!(stage.sim().boots().len(), 1);
}

#[test]
fn a_kill_while_it_is_set_goes_on_after_the_restart() {
    let mut stage = stage("nvidia-bluefield");
    let hold = Fault::from(FaultKind::Hold { done: true })
        .on("PATCH", "/Systems/1")
        .once();
    let hold = stage.sim().plant(hold);
    stage.add_machine(&json!({}));
    begin(&stage);
    stage.wait("the override is set", |s| s.sim().boot_override().target == "UefiHttp");
    stage.kill_server();
    stage.sim().release(hold);
    stage.start_server();
    stage.wait_boot("done");
    assert_eq!(stage.sim().boots().len(), 1);
    assert!(nothing_is_set(&stage), "{:?}", stage.sim().boot_override());
    // What is not there is looked for once more, in the same session.
    let at_once = stage
        .overlaps()
        .into_iter()
        .filter(|overlap| overlap.contains("came while"));
    assert_eq!(at_once.collect::<Vec<_>>(), Vec::<String>::new());
    assert!(!stage.log().contains(PASSWORD));
}
