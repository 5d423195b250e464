//! Machines booted through their BMC: a real `isobar serve`, the real CLI, and a simulated BMC whose machine reads its
//! CD as firmware, GRUB and a kernel do. The operating system that comes up is played here, by the agent's protocol.
#![allow(clippy::unwrap_used)]

mod stage;

use isobar_sim::{Fault, FaultKind, Firmware, Power, ReadManner};
use serde_json::{Value, json};
use stage::{MACHINE, NEVER_READ, Stage};

#[test]
fn a_machine_boots_its_own_image_and_says_so() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
    assert!(out.stderr.contains("agent"), "the boot is followed: {out}");

    // It checks in first, and then says where it is.
    stage.wait("the agent says its address", |s| {
        s.machine()["Address"] == "192.168.77.10"
    });
    let machine = stage.machine();
    assert_eq!(machine["BootEnv"], "sledgehammer");
    assert_eq!(machine["Errors"], json!([]));
    let os = stage.last_os();
    let uuid = machine["Uuid"].as_str().unwrap();
    for argument in [
        &format!("rs.uuid={uuid}")[..],
        "provisioner.web=http://192.168.77.1:",
        "provisioner.ip=192.168.77.10/24",
        "provisioner.gw=192.168.77.1",
        "provisioner.vlan=1020",
        "console=ttyS0,115200",
    ] {
        assert!(
            os.command_line.contains(argument),
            "{argument} is missing: {}",
            os.command_line
        );
    }
    assert!(
        !os.command_line.contains(&os.boot["secret"].as_str().unwrap()[..8]),
        "the secret is not among them"
    );

    let boots: Value = stage.client().get(&format!("/isobar/v1/boots?machine={uuid}")).unwrap();
    assert_eq!(boots[0]["agent_up"], true);
    let phases: Vec<&str> = boots[0]["log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["phase"].as_str().unwrap())
        .collect();
    for phase in [
        "planned",
        "ejecting",
        "inserting",
        "inserted",
        "boot-once",
        "powering-on",
        "agent-up",
    ] {
        assert!(phases.contains(&phase), "{phase} is missing in {phases:?}");
    }

    let media: Value = stage.action(&["statusVirtualMedia", "ipmi/mode", "redfish"]);
    assert_eq!(media["Inserted"], true);
    let name = format!("/dynamic_isos/{uuid}/sledgehammer/boot.iso");
    assert!(
        media["Image"].as_str().unwrap().ends_with(&name),
        "people see the name, not the token: {media}"
    );
    assert_eq!(stage.action(&["powerstatus"]), "On");

    // Nobody but the secret's holder gets a token.
    let nobody = stage.nobody();
    for secret in ["", "guess"] {
        let body = json!({"machine": uuid, "attempt": os.boot["attempt"], "secret": secret, "nonce": "n"});
        let refused = nobody
            .post::<_, Value>("/isobar/v1/agent/exchange", &body)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("not one of this machine's"), "{refused}");
    }
    let other =
        json!({"machine": uuid, "attempt": os.boot["attempt"], "secret": os.boot["secret"], "nonce": "another"});
    assert!(
        nobody.post::<_, Value>("/isobar/v1/agent/exchange", &other).is_err(),
        "the secret is used up"
    );

    // Who did what stands in the audit log, without any secret.
    let boot = format!("boot {}", boots[0]["id"].as_str().unwrap());
    for (action, principal, detail) in [
        ("bmc:insert", "system", boot.as_str()),
        ("bmc:boot-once", "system", &boot),
        ("bmc:power-on", "system", &boot),
        ("grant", &format!("machine:{uuid}"), "ttl=604800 for a boot secret"),
        ("action:powerstatus", "user:rocketskates", ""),
        ("exchange-refused", "", ""),
    ] {
        stage.wait(action, |stage| {
            audited(stage, uuid)
                .iter()
                .any(|row| row["action"] == action && row["principal"] == principal && row["detail"] == detail)
        });
    }
    let told = json!(audited(&stage, uuid)).to_string();
    for secret in [stage::PASSWORD, os.boot["secret"].as_str().unwrap()] {
        assert!(!told.contains(secret), "{told}");
    }
}

/// What was done to a machine.
fn audited(stage: &Stage, uuid: &str) -> Vec<Value> {
    let out = stage.isobar(&["audit", "list", "--key", uuid, "--limit", "2000"]);
    assert!(out.ok, "{out}");
    serde_json::from_str(&out.stdout).unwrap()
}

#[test]
fn a_live_agent_reboots_its_machine_and_nobody_cuts_the_power() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    assert!(
        stage
            .isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"])
            .ok
    );
    let first = stage.last_os().boot["attempt"].clone();
    let url = stage.sim().cd().image.clone().unwrap();

    // Local: nothing is rebooted, the disc is taken out, its token is over.
    assert!(stage.isobar(&["machines", "workflow", MACHINE, ""]).ok);
    assert!(stage.isobar(&["machines", "bootenv", MACHINE, "local"]).ok);
    stage.wait("the disc is out", |s| s.sim().cd().image.is_none());
    stage.wait("the token is over", |s| s.get_image(&url, None).0 == 410);
    assert_eq!(stage.sim().power(), Power::On);

    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
    assert_ne!(stage.last_os().boot["attempt"], first, "a new attempt, a new secret");
    let resets = stage.requests("ComputerSystem.Reset");
    assert_eq!(
        resets.len(),
        1,
        "one power-on at the very first boot, no more: {resets:?}"
    );
    assert_eq!(stage.machine()["Errors"], json!([]));
}

#[test]
fn reads_tell_the_progress_where_they_can() {
    for manner in [
        ReadManner::Lazy,
        ReadManner::AtInsert,
        ReadManner::ReadAhead,
        ReadManner::CopyAll,
    ] {
        let stage = Stage::new(|config| config.manners.read = manner);
        stage.import();
        stage.add_machine(&json!({}));
        let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
        assert!(out.ok, "{manner:?}: {out}");
        let copied = stage.last_boot()["log"].to_string().contains("copied to the BMC");
        assert_eq!(copied, manner == ReadManner::CopyAll, "{manner:?}: {out}");
    }
}

#[test]
fn a_kill_between_insert_and_power_on_does_no_harm() {
    let mut stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    // The BMC holds its answer to the one-time boot: insert is done, power-on is not.
    let hold = stage.sim().plant(
        Fault::from(FaultKind::Hold { done: true })
            .on("PATCH", "/Systems/1")
            .once(),
    );
    assert!(
        stage
            .isobar(&["machines", "workflow", MACHINE, "discover-base", "--no-wait"])
            .ok
    );
    stage.wait("the image is in and the override held", |s| {
        s.sim().cd().image.is_some() && s.sim().faults().iter().any(|f| f.id == hold && f.met > 0)
    });
    let url = stage.sim().cd().image.clone().unwrap();
    let (status, before) = stage.get_image(&url, None);
    assert_eq!(status, 200);

    stage.kill_server();
    stage.sim().release(hold);
    // Another live image in the meantime changes nothing for a disc that is mounted.
    stage.start_server();
    let (status, after) = stage.get_image(&url, None);
    assert_eq!((status, after == before), (200, true), "the mounted bytes are the same");
    stage.import_version(2);
    assert!(stage.get_image(&url, None).1 == before, "a new base is for new images");

    stage.wait_boot("done");
    assert_eq!(
        stage.sim().cd().image.as_deref(),
        Some(&url[..]),
        "it was not inserted again"
    );
    assert_eq!(
        stage.requests("ComputerSystem.Reset").len(),
        1,
        "one power-on, no power-off"
    );
    assert_eq!(stage.overlaps(), [""; 0], "never two exchanges at once");
}

#[test]
fn served_ranges_are_the_exported_ones() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    assert!(
        stage
            .isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"])
            .ok
    );
    let exported = stage.dir().join("exported.iso");
    let out = stage.isobar(&["isos", "export", MACHINE, "-o", exported.to_str().unwrap()]);
    assert!(out.ok, "{out}");
    let exported = std::fs::read(exported).unwrap();
    let url = stage.sim().cd().image.clone().unwrap();
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let len = exported.len() as u64;
    for _ in 0..300 {
        let from = random(len);
        let to = (from + random(1 << 18)).min(len - 1);
        let (status, bytes) = stage.get_image(&url, Some(&format!("bytes={from}-{to}")));
        assert_eq!(status, 206);
        assert!(bytes == exported[from as usize..=to as usize], "{from}-{to}");
    }
    let (_, tail) = stage.get_image(&url, Some("bytes=-5000"));
    assert!(tail == exported[exported.len() - 5000..]);
    assert_eq!(stage.get_image(&url, Some(&format!("bytes={len}-"))).0, 416);

    let tree = stage.isobar(&["isos", "tree", MACHINE]);
    assert!(
        tree.ok && tree.stdout.contains("vmlinuz0") && tree.stdout.contains("grub.cfg"),
        "{tree}"
    );
    let config = stage.isobar(&["isos", "cat", MACHINE, "boot/grub/grub.cfg"]);
    assert!(config.stdout.contains("provisioner.ip=192.168.77.10/24"), "{config}");
}

/// Sets the machine booting and gives what the CLI said; it has to fail, with the same reason on the object.
fn failing(stage: &Stage, reason: &str) -> String {
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base"]);
    assert!(!out.ok, "{reason}: the command has to fail: {out}");
    let machine = stage.machine();
    let errors = machine["Errors"].to_string();
    let boots: Value = stage
        .client()
        .get(&format!(
            "/isobar/v1/boots?machine={}",
            machine["Uuid"].as_str().unwrap()
        ))
        .unwrap();
    let error = &boots[0]["error"];
    assert_eq!(error["reason"], reason, "{boots}");
    let (message, hint) = (error["message"].as_str().unwrap(), error["hint"].as_str().unwrap());
    assert!(!hint.is_empty(), "{error}");
    let plain = |text: &str| text.trim_end_matches('.').replace(['"', '\\'], "");
    assert!(plain(&out.stderr).contains(&plain(message)), "the CLI says it: {out}");
    assert!(plain(&errors).contains(&plain(message)), "the object says it: {errors}");
    out.stderr
}

#[test]
fn a_wrong_password_is_tried_once_and_named() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({"ipmi/password": "not-the-canary"}));
    let said = failing(&stage, "bmc-password");
    assert!(said.contains("ipmi/password"), "{said}");
    assert!(!said.contains("not-the-canary"));
    assert!(
        stage.requests("SessionService/Sessions").len() <= 1,
        "BMCs lock accounts"
    );
}

#[test]
fn an_unreachable_bmc_is_named() {
    let stage = Stage::new(|_| {});
    stage.import();
    // A port that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    stage.add_machine(&json!({"ipmi/address": format!("http://{free}")}));
    let said = failing(&stage, "bmc-unreachable");
    assert!(said.contains(&free.to_string()), "{said}");
}

#[test]
fn a_bmc_that_mounts_nothing_is_caught() {
    let stage = Stage::timed(&format!("{},{NEVER_READ}", stage::TIMING), |_| {});
    stage.import();
    stage.add_machine(&json!({}));
    stage.sim().plant(FaultKind::NoMount { inserted: true });
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(!out.ok && out.stderr.contains("never asked for it"), "{out}");
    assert!(stage.machine()["Errors"].to_string().contains("never asked for it"));
    // What the boot left in the BMC is taken out again.
    stage.wait("cleaned up", |s| s.last_boot()["cleanup"] == false);
}

#[test]
fn a_slot_that_stays_empty_is_caught() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    stage.sim().plant(FaultKind::NoMount { inserted: false });
    let said = failing(&stage, "insert-not-mounted");
    assert!(said.contains("empty"), "{said}");
}

#[test]
fn without_a_live_image_the_machine_says_what_to_run() {
    let stage = Stage::new(|_| {});
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base"]);
    let machine = stage.machine();
    let told = format!("{}{}{}", out.stderr, machine["Errors"], out.stdout);
    assert!(told.contains("isobar sledgehammer build"), "{out}\n{machine}");
    assert!(!out.ok, "{out}");
    assert_eq!(stage.sim().power(), Power::Off, "nothing was sent to the BMC");
}

#[test]
fn malformed_network_data_is_named_member_by_member() {
    let stage = Stage::new(|_| {});
    stage.import();
    let network = json!({"prov": {"address": "192.168.77.300", "netmask": "255.255.255.0"}});
    stage.add_machine(&json!({"network-data": network}));
    let said = failing(&stage, "network-data");
    assert!(said.contains("address") && said.contains("192.168.77.300"), "{said}");
    // Corrected and set again, it boots.
    stage.set("network-data", &stage::network().to_string());
    assert!(stage.isobar(&["machines", "workflow", MACHINE, ""]).ok);
    assert!(stage.isobar(&["machines", "bootenv", MACHINE, "local"]).ok);
    let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
    assert!(out.ok, "{out}");
    assert_eq!(stage.machine()["Errors"], json!([]));
}

#[test]
fn a_stale_token_is_gone_and_a_guess_is_not_found() {
    let stage = Stage::new(|_| {});
    stage.import();
    stage.add_machine(&json!({}));
    assert!(
        stage
            .isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"])
            .ok
    );
    let url = stage.sim().cd().image.clone().unwrap();
    let guess = url.replace(url.rsplit('/').nth(1).unwrap(), &"A".repeat(43));
    assert_eq!(stage.get_image(&guess, None).0, 404);
    assert_eq!(
        stage.action(&["unmountVirtualMedia", "ipmi/mode", "redfish"]),
        "Success"
    );
    let (status, body) = stage.get_image(&url, None);
    assert_eq!(status, 410);
    assert!(String::from_utf8_lossy(&body).contains("is over"), "it says why");
}

#[test]
fn media_by_hand() {
    let stage = Stage::new(|config| config.firmware = Firmware::Bios);
    stage.import();
    stage.add_machine(&json!({"boot-virtual-iso": false}));
    let uuid = stage.machine()["Uuid"].as_str().unwrap().to_owned();
    let url = format!(
        "http://127.0.0.1:{}/dynamic_isos/{uuid}/sledgehammer/boot.iso",
        stage.files_port()
    );
    let mount = [
        "mountVirtualMedia",
        "ipmi/mode",
        "redfish",
        "ipmi/virtual-media-url",
        &url,
        "ipmi/virtual-media-boot",
        "true",
    ];
    assert_eq!(stage.action(&mount), "Success");
    let media = stage.action(&["statusVirtualMedia"]);
    assert_eq!(media, json!({"Image": url, "Inserted": true}));
    assert_eq!(stage.action(&["powercycle", "ipmi/mode", "redfish"]), "Success");
    stage.wait("its agent is up", |s| s.machine()["Address"] == "192.168.77.10");
    let rows = audited(&stage, &uuid);
    for action in ["action:mountVirtualMedia", "action:powercycle"] {
        let told: Vec<_> = rows.iter().filter(|row| row["action"] == action).collect();
        assert_eq!(
            told.len(),
            1,
            "{action}, once however many exchanges it takes: {rows:?}"
        );
        assert_eq!(told[0]["principal"], "user:rocketskates");
    }

    let out = stage.isobar(&["machines", "runaction", MACHINE, "powerstatus", "ipmi/mode", "racadm"]);
    assert!(
        !out.ok && out.stderr.contains("Unavailable ipmi driver: racadm"),
        "{out}"
    );
    let out = stage.isobar(&["machines", "remove", MACHINE, "param", "boot-virtual-media"]);
    assert!(
        !out.ok && out.stderr.contains("boot-virtual-iso"),
        "did you mean: {out}"
    );
}

#[test]
fn a_bmcs_certificate_is_pinned_at_its_first_login() {
    let mut stage = Stage::new(|config| config.tls = true);
    stage.add_machine(&json!({}));
    let status = |stage: &Stage| stage.isobar(&["machines", "runaction", MACHINE, "powerstatus"]);
    let out = status(&stage);
    assert!(out.ok, "{out}");

    // Another certificate, and the server was away meanwhile.
    stage.replace_sim(|config| config.tls = true);
    stage.kill_server();
    stage.start_server();
    let print = stage.sim().fingerprint().unwrap().to_owned();
    let out = status(&stage);
    assert!(!out.ok, "{out}");
    for said in ["not the pinned one", &print, "isobar/bmc-tls"] {
        assert!(out.stderr.contains(said), "{said}: {out}");
    }
    assert_eq!(stage.sim().requests().len(), 0, "nothing is sent to it");

    // A fingerprint pins it anew, for good.
    stage.set("isobar/bmc-tls", &print);
    let out = status(&stage);
    assert!(out.ok, "{out}");
    stage.set("isobar/bmc-tls", "first-use");
    let out = status(&stage);
    assert!(out.ok, "{out}");

    // Who says `any` gets any.
    stage.replace_sim(|config| config.tls = true);
    stage.set("isobar/bmc-tls", "any");
    let out = status(&stage);
    assert!(out.ok, "{out}");
    stage.set("isobar/bmc-tls", "anything");
    let out = status(&stage);
    assert!(!out.ok && out.stderr.contains("isobar/bmc-tls of mach-01 is"), "{out}");
}
