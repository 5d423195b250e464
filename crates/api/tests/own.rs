//! Our own routes: agents, boots, discs, bases.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::Rig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_exchanges_checks_in_and_beats() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let other = rig.machine("mach-02").await;
    let exchange = async |secret: &str| {
        let body = json!({"machine": uuid, "attempt": "00", "secret": secret, "nonce": "n"});
        rig.bare("POST", "/isobar/v1/agent/exchange").json(&body).send().await
    };
    assert_eq!(
        exchange("good").await.json(),
        json!({"token": format!("token for {uuid} n")})
    );
    exchange("old")
        .await
        .refused(403, &format!("AUTH: machines/{uuid}: this boot is over"));
    let token = rig.machine_token(&uuid).await;
    let say = async |what: &str, machine: &str| {
        let body = json!({"machine": machine, "attempt": "00", "version": "1", "uptime_s": 3, "root_in_memory": true});
        rig.bare("POST", &format!("/isobar/v1/agent/{what}"))
            .token(&token)
            .json(&body)
            .send()
            .await
    };
    assert_eq!(say("checkin", &uuid).await.json(), json!({"heartbeat_s": 5}));
    assert_eq!(
        say("heartbeat", &uuid).await.json(),
        json!({"command": null, "heartbeat_s": 5})
    );
    for what in ["checkin", "heartbeat"] {
        assert_eq!(say(what, &other).await.status, 403);
        // People are no agents, whatever they may.
        let body = json!({"machine": uuid, "attempt": "00"});
        assert_eq!(rig.post(&format!("/isobar/v1/agent/{what}"), body).await.status, 403);
    }
    assert_eq!(
        rig.boots.heard(),
        [format!("checkin {uuid} true"), format!("heartbeat {uuid}")]
    );
    let broken = rig
        .bare("POST", "/isobar/v1/agent/exchange")
        .json(&json!({"machine": uuid}))
        .send()
        .await;
    assert_eq!(broken.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_token_is_for_its_own_machine() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let other = rig.machine("mach-02").await;
    let token = rig.machine_token(&uuid).await;
    let ask = |method: &str, path: &str| rig.bare(method, path).token(&token);
    let own = format!("/api/v3/machines/{uuid}");
    let patch = json!([{"op": "replace", "path": "/Address", "value": "192.0.2.9"}]);
    assert_eq!(
        ask("PATCH", &own).json(&patch).send().await.json()["Address"],
        "192.0.2.9"
    );
    assert_eq!(
        ask("PATCH", "/api/v3/machines/Name:mach-01")
            .json(&json!([]))
            .send()
            .await
            .status,
        200
    );
    let inventory = json!({"CPU": {"count": 2}});
    let set = ask("POST", &format!("{own}/params/gohai-inventory"))
        .json(&inventory)
        .send()
        .await;
    assert_eq!((set.status, set.json()), (200, inventory));
    let renewed = ask("GET", &format!("{own}/token?ttl=600")).send().await.json();
    assert!(renewed["Token"].as_str().unwrap().len() > 20);

    let theirs = format!("/api/v3/machines/{other}");
    for (method, path) in [
        ("GET", theirs.as_str()),
        ("PATCH", &theirs),
        ("PUT", &theirs),
        ("DELETE", &theirs),
        ("DELETE", &own),
        ("GET", "/api/v3/machines/Name:mach-02"),
        ("GET", "/api/v3/machines/Name:no-such-machine"),
        ("GET", &format!("{theirs}/params")),
        ("GET", &format!("{theirs}/token")),
        ("GET", &format!("/api/v3/meta/machines/{other}")),
        ("POST", &format!("{own}/actions/powercycle")),
        ("GET", &format!("{own}/actions")),
        ("POST", "/api/v3/machines"),
        ("GET", "/api/v3/users/rocketskates"),
        ("GET", "/api/v3/users/rocketskates/token"),
        ("PUT", "/api/v3/users/rocketskates/password"),
        ("GET", "/api/v3/prefs"),
        ("GET", "/isobar/v1/boots"),
        ("GET", &format!("/isobar/v1/boots?machine={other}")),
        ("GET", "/isobar/v1/isos"),
        ("GET", &format!("/isobar/v1/isos/{uuid}/sledgehammer/boot.iso")),
        (
            "GET",
            &format!("/isobar/v1/isos/{uuid}/sledgehammer/files/isobar/own.img"),
        ),
        ("POST", "/isobar/v1/bases/sledgehammer"),
    ] {
        let reply = ask(method, path).json(&json!([])).send().await;
        assert_eq!(reply.status, 403, "{method} {path} {reply:?}");
    }
    for list in ["/api/v3/machines", "/api/v3/users"] {
        assert_eq!(ask("GET", list).send().await.json(), json!([]), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn boots_are_listed_and_followed() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let other = rig.machine("mach-02").await;
    let boot = |seq: u64| json!({"id": "b1", "machine": uuid, "seq": seq});
    rig.boots.set_boot(boot(1));
    assert_eq!(rig.get("/isobar/v1/boots").await.json(), json!([boot(1)]));
    assert_eq!(
        rig.get("/isobar/v1/boots?machine=Name:mach-01").await.json(),
        json!([boot(1)])
    );
    assert_eq!(rig.get("/isobar/v1/boots?machine=Name:mach-02").await.json(), json!([]));
    rig.get("/isobar/v1/boots?machine=john")
        .await
        .refused(404, "GET: machines/john: Not Found");
    assert_eq!(rig.get("/isobar/v1/boots/b1").await.json(), boot(1));
    assert_eq!(rig.get("/isobar/v1/boots/b2").await.status, 404);
    assert_eq!(rig.get("/isobar/v1/boots/b1?after=x").await.status, 400);
    // Already past: at once. Else when it comes, or when the time is up.
    assert_eq!(rig.get("/isobar/v1/boots/b1?after=0&wait=60").await.json(), boot(1));
    assert_eq!(rig.get("/isobar/v1/boots/b1?after=1&wait=0").await.json(), boot(1));
    let change = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.boots.set_boot(boot(2));
    };
    let (reply, ()) = tokio::join!(rig.get("/isobar/v1/boots/b1?after=1&wait=60"), change);
    assert_eq!(reply.json(), boot(2));
    let theirs = rig.machine_token(&other).await;
    assert_eq!(
        rig.bare("GET", "/isobar/v1/boots/b1")
            .token(&theirs)
            .send()
            .await
            .status,
        403
    );
    let own = rig.machine_token(&uuid).await;
    assert_eq!(
        rig.bare("GET", "/isobar/v1/boots/b1").token(&own).send().await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_news_does_not_hold_up_a_shutdown() {
    let mut rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let boot = json!({"id": "b1", "machine": uuid, "seq": 1});
    rig.boots.set_boot(boot.clone());
    let handle = rig.handle.take().unwrap();
    let waiting = rig.get("/isobar/v1/boots/b1?after=1&wait=60");
    let boots = &rig.boots;
    let stop = async {
        common::until("somebody waits", || boots.waiting.load(Ordering::SeqCst) > 0).await;
        // Who waits for news would be done in 60 s: it is not waited for them.
        let stopped = tokio::time::timeout(Duration::from_secs(45), handle.shutdown(Duration::from_secs(600)));
        assert!(stopped.await.is_ok(), "it waits for who waits");
    };
    let (reply, ()) = tokio::join!(waiting, stop);
    assert_eq!(reply.json(), boot);
}

#[tokio::test(flavor = "multi_thread")]
async fn discs_are_read_by_file_by_range_and_whole() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let kernel: Vec<u8> = (0..700_001u32).map(|n| (n % 251) as u8).collect();
    let disc = rig.disc(&kernel);
    let mut exported = Vec::new();
    disc.export(&rig.blobs, &mut exported).unwrap();
    rig.boots
        .images
        .lock()
        .unwrap()
        .insert(format!("{uuid}/sledgehammer"), disc);
    let base = "/isobar/v1/isos/Name:mach-01/sledgehammer";

    let tree = rig.get(&format!("{base}/tree")).await.json();
    let of = |path: &str| {
        tree.as_array()
            .unwrap()
            .iter()
            .find(|f| f["path"] == path)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (&of("vmlinuz0")["role"], &of("vmlinuz0")["size"]),
        (&json!("kernel"), &json!(700_001))
    );
    let menu = rig.get(&format!("{base}/files/boot/grub/grub.cfg")).await;
    assert_eq!((menu.status, &menu.body[..]), (200, &b"set timeout=0\n"[..]));
    assert_eq!(rig.get(&format!("{base}/files/vmlinuz0")).await.body, kernel);
    assert_eq!(rig.get(&format!("{base}/files/no/such")).await.status, 404);
    assert_eq!(rig.get("/isobar/v1/isos/Name:mach-01/local/boot.iso").await.status, 404);

    let iso = format!("{base}/boot.iso");
    let whole = rig.ask("GET", &iso).header("accept-encoding", "gzip").send().await;
    assert_eq!(whole.header("content-encoding"), "", "a disc is not zipped");
    assert!(
        whole.body == exported,
        "{} bytes of {}",
        whole.body.len(),
        exported.len()
    );
    let etag = whole.header("etag").to_owned();
    let range = async |value: &str| rig.ask("GET", &iso).header("range", value).send().await;
    let part = range("bytes=32768-33000").await;
    assert_eq!((part.status, &part.body[..]), (206, &exported[32768..33001]));
    assert_eq!(
        part.header("content-range"),
        format!("bytes 32768-33000/{}", exported.len())
    );
    assert_eq!(range("bytes=-5").await.body, exported[exported.len() - 5..]);
    let past = range(&format!("bytes={}-", exported.len())).await;
    assert_eq!((past.status, past.body.len()), (416, 0));
    let stale = rig
        .ask("GET", &iso)
        .header("range", "bytes=0-1")
        .header("if-range", "\"other\"")
        .send()
        .await;
    assert_eq!((stale.status, stale.body.len()), (200, exported.len()));
    let known = rig.ask("GET", &iso).header("if-none-match", &etag).send().await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let head = rig.ask("HEAD", &iso).send().await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, exported.len().to_string().as_str())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bases_come_as_streams() {
    let rig = Rig::start().await;
    let tar: Vec<u8> = (0..3_000_000u32).map(|n| (n % 253) as u8).collect();
    let post = |name: &str| rig.ask("POST", &format!("/isobar/v1/bases/{name}"));
    let reply = post("sledgehammer").body("application/x-tar", tar.clone()).send().await;
    assert_eq!(
        (reply.status, reply.json()),
        (201, json!({"name": "sledgehammer", "size": tar.len()}))
    );
    assert!(rig.boots.tars.lock().unwrap()[0].1 == tar);
    assert_eq!(
        rig.get("/isobar/v1/bases").await.json(),
        json!([{"name": "sledgehammer"}])
    );
    for bad in ["..", "%2e%2e%2fx", "-x", "a%20b"] {
        let reply = post(bad).body("application/x-tar", "x").send().await;
        assert_eq!(reply.status, 422, "{bad} {reply:?}");
    }

    // A tar that breaks off reaches nobody and leaves nothing.
    let token = rig.user_token("").await;
    let mut stream = rig.tls().await.unwrap();
    let head = format!(
        "POST /isobar/v1/bases/half HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(rig.boots.tars.lock().unwrap().len(), 1);
    let left: Vec<_> = std::fs::read_dir(rig.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n.to_string_lossy().contains("upload"))
        .collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_without_a_machine_is_for_those_who_may_see_all() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    rig.boots.set_boot(json!({"id": "b1", "machine": "gone", "seq": 1}));
    assert_eq!(rig.get("/isobar/v1/boots/b1").await.status, 200);
    let token = rig.machine_token(&uuid).await;
    let reply = rig.bare("GET", "/isobar/v1/boots/b1").token(&token).send().await;
    assert_eq!((reply.status, &reply.json()["Type"]), (403, &Value::from("AUTH")));
}
