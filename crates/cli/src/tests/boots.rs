//! Boots followed, discs shown.

use std::collections::VecDeque;

use serde_json::json;

use super::{UUID, boot, run, serve, world};

#[test]
fn a_boot_is_followed_until_handed_over() {
    let world = world(true);
    {
        let mut world = world.lock().unwrap();
        world.boots.push(json!({"id": "b0", "state": "done"}));
        let log = |n: usize| {
            json!([
                {"phase": "planned", "text": "image planned"},
                {"phase": "ejecting", "text": "ejecting what is in the virtual CD"},
                {"phase": "inserted", "text": "inserted"},
                {"phase": "firmware", "text": "the BMC reads the ISO"},
            ])
            .as_array()
            .unwrap()[..n]
                .to_vec()
        };
        world.next_boot = Some(boot(1, "planned", json!({"log": log(1)})));
        world.progress = VecDeque::from([
            boot(2, "inserted", json!({"log": log(3)})),
            boot(3, "firmware", json!({"detail": "the BMC reads the ISO", "log": log(3)})),
            boot(4, "firmware", json!({"handed_over": true, "log": log(4)})),
        ]);
    }
    let server = serve(&world);
    let ran = run(&server, &["isobar", "machines", "bootenv", "Name:mach-01", "local"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.starts_with("{\n  \"Available\": true,"), "{}", ran.out);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(
        lines,
        [
            "[   0 s] mach-01 sledgehammer: planned        image planned",
            "[   0 s] mach-01 sledgehammer: ejecting       ejecting what is in the virtual CD",
            "[   0 s] mach-01 sledgehammer: inserted       inserted",
            "[   0 s] mach-01 sledgehammer: firmware       the BMC reads the ISO",
        ]
    );
    assert_eq!(
        ran.lines[1..],
        [
            "GET /machines/Name:mach-01".to_owned(),
            format!("GET /isobar/v1/boots?machine={UUID}"),
            format!("PATCH /machines/{UUID}"),
            format!("GET /isobar/v1/boots?machine={UUID}"),
            "GET /isobar/v1/boots/b1?after=1&wait=20".to_owned(),
            "GET /isobar/v1/boots/b1?after=2&wait=20".to_owned(),
            "GET /isobar/v1/boots/b1?after=3&wait=20".to_owned(),
        ]
    );
}

#[test]
fn following_goes_on_to_the_agent_where_asked_and_not_at_all_where_not() {
    let up = boot(
        9,
        "agent-up",
        json!({"agent_up": true, "handed_over": true, "state": "done"}),
    );
    for (words, polls) in [
        (&["--wait", "agent"][..], 2),
        (&["--no-wait"], 0),
        (&["--wait", "none"], 0),
    ] {
        let world = world(true);
        {
            let mut world = world.lock().unwrap();
            world.next_boot = Some(boot(1, "grub", json!({"handed_over": true})));
            let kernel = json!({"handed_over": true, "percent": 63, "rate_bps": 4_100_000, "eta_s": 40});
            world.progress = VecDeque::from([boot(2, "initrd", kernel), up.clone()]);
        }
        let server = serve(&world);
        let ran = run(
            &server,
            &[&["isobar", "machines", "bootenv", "Name:mach-01", "local"], words].concat(),
        );
        assert_eq!(ran.status, 0, "{}", ran.err);
        assert_eq!(
            ran.lines.iter().filter(|line| line.contains("after=")).count(),
            polls,
            "{words:?}"
        );
        assert_eq!(ran.err.contains("agent up"), polls > 0, "{}", ran.err);
    }
    let shown: crate::follow::Boot = serde_json::from_value(boot(
        2,
        "initrd",
        json!({"percent": 63, "rate_bps": 4_100_000, "eta_s": 40}),
    ))
    .unwrap();
    assert_eq!(shown.line(), "initrd 63 %, 4.1 MB/s, 40 s left");
}

#[test]
fn a_failed_boot_is_an_error_with_its_hint() {
    let world = world(true);
    {
        let mut world = world.lock().unwrap();
        world.next_boot = Some(boot(1, "inserting", json!({})));
        let error =
            json!({"reason": "auth", "message": "10.0.0.9 refuses the password of root", "hint": "Set ipmi/password"});
        world.progress = VecDeque::from([boot(2, "inserting", json!({"state": "failed", "error": error}))]);
    }
    let server = serve(&world);
    let ran = run(&server, &["isobar", "machines", "workflow", "Name:mach-01", "x"]);
    assert_eq!(ran.status, 1);
    assert!(ran.out.contains("\"Workflow\": \"x\""), "the change itself was made");
    let end =
        "Error: the boot of mach-01 failed at inserting: 10.0.0.9 refuses the password of root\nSet ipmi/password\n\n";
    assert!(ran.err.ends_with(end), "{}", ran.err);
}

#[test]
fn a_boot_that_takes_longer_goes_on_without_us() {
    let world = world(true);
    world.lock().unwrap().next_boot = Some(boot(1, "powering", json!({})));
    let server = serve(&world);
    let words = [
        "isobar",
        "machines",
        "bootenv",
        "Name:mach-01",
        "local",
        "--wait-at-most",
        "0",
    ];
    let ran = run(&server, &words);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(
        ran.err
            .contains("not there yet after 0 s: powering on. The boot goes on; `isobar boots watch b1`"),
        "{}",
        ran.err
    );
}

#[test]
fn a_boot_that_was_there_before_is_not_taken_for_the_change_s() {
    let world = world(true);
    let failed = json!({"state": "failed", "error": {"message": "long ago"}});
    world.lock().unwrap().boots.push(boot(7, "inserting", failed));
    let server = serve(&world);
    let ran = run(
        &server,
        &["isobar", "machines", "update", UUID, "{\"Description\": \"x\"}"],
    );
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
}

#[test]
fn letting_go_of_the_virtual_cd_is_no_boot() {
    let world = world(true);
    let detail = "the virtual CD is to be ejected when that is safe";
    let log = json!([{"phase": "planned", "text": detail}]);
    let release = json!({"iso": null, "detail": detail, "log": log, "handed_over": true});
    world.lock().unwrap().next_boot = Some(boot(1, "planned", release));
    let server = serve(&world);
    let ran = run(&server, &["isobar", "machines", "bootenv", "Name:mach-01", "local"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_eq!(ran.err, format!("mach-01: {detail}\n"));
}

#[test]
fn an_original_server_is_not_followed() {
    let server = serve(&world(false));
    let ran = run(&server, &["isobar", "machines", "bootenv", "Name:mach-01", "local"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert_eq!(ran.lines.iter().filter(|line| line.contains("/isobar/")).count(), 1);
}

#[test]
fn discs_are_shown_printed_and_exported() {
    let server = serve(&world(true));
    let ran = run(&server, &["isobar", "isos", "tree", "Name:mach-01", "sledgehammer"]);
    let tree = ".\n└── boot\n    └── grub\n        └── grub.cfg\n\n2 directories, 1 file\n";
    assert_eq!((ran.status, ran.out.as_str()), (0, tree), "{}", ran.err);
    assert_eq!(
        run(&server, &["isobar", "isos", "tree", "Name:mach-01"]).out,
        tree,
        "the machine's own bootenv"
    );
    assert_eq!(
        run(
            &server,
            &["isobar", "isos", "cat", "Name:mach-01", "boot/grub/grub.cfg"]
        )
        .out,
        "set"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.iso");
    let ran = run(
        &server,
        &["isobar", "isos", "export", "Name:mach-01", "-o", file.to_str().unwrap()],
    );
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_eq!(std::fs::read(&file).unwrap(), b"0123456789");
    assert_eq!(
        run(&server, &["isobar", "isos", "export", "Name:mach-01", "-o", "-"]).out,
        "0123456789"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no .part is left");
}
