//! Content packs, files, jobs and plugins over the wire.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::Rig;
use isobar_api::Plugins;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn packs_are_uploaded_and_shown() {
    let rig = Rig::start().await;
    let pack = json!({"meta": {"Name": "p1"}, "sections": {"tasks": {"t1": {"Name": "t1"}}}});
    let made = rig.post("/api/v3/contents", pack.clone()).await;
    assert_eq!((made.status, &made.json()["Counts"]), (201, &json!({"tasks": 1})));
    rig.post("/api/v3/contents", pack.clone())
        .await
        .refused(409, "POST: contents/p1: Content p1 already exists");
    let other = rig.ask("PUT", "/api/v3/contents/p2").json(&pack).send().await;
    assert_eq!(other.status, 400, "{other:?}");
    assert_eq!(
        rig.ask("PUT", "/api/v3/contents/p1").json(&pack).send().await.status,
        200
    );
    assert_eq!(
        rig.get("/api/v3/contents/p1").await.json()["sections"]["tasks"]["t1"]["Name"],
        "t1"
    );
    // Clear secrets want a right of their own.
    let reader = rig.user_token("?scope=contents&action=get&specific=*").await;
    let decode = rig
        .bare("GET", "/api/v3/contents/p1?decode=true")
        .token(&reader)
        .send()
        .await;
    assert_eq!(decode.status, 403, "{decode:?}");
    assert_eq!(rig.ask("DELETE", "/api/v3/contents/p1").send().await.status, 204);
    rig.get("/api/v3/contents/p1")
        .await
        .refused(404, "GET: contents/p1: No such content store");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_back_as_they_went_and_names_lead_nowhere_else() {
    let rig = Rig::start().await;
    let upload =
        |path: &'static str, body: &'static str| rig.ask("POST", path).body("application/octet-stream", body).send();
    let made = upload("/api/v3/files/images/a.txt", "hello").await;
    assert_eq!(
        (made.status, made.json()),
        (201, json!({"Path": "/images/a.txt", "Size": 5}))
    );
    assert_eq!(
        upload("/api/v3/isos/x.iso", "iso").await.json(),
        json!({"Path": "x.iso", "Size": 3})
    );
    assert_eq!(rig.get("/api/v3/files").await.json(), json!(["images/"]));
    assert_eq!(rig.get("/api/v3/files?path=/images").await.json(), json!(["a.txt"]));
    assert_eq!(rig.get("/api/v3/isos").await.json(), json!(["x.iso"]));
    let whole = rig.get("/api/v3/files/images/a.txt").await;
    assert_eq!((whole.status, &whole.body[..]), (200, &b"hello"[..]));
    assert_eq!(whole.header("x-drp-sha256sum").len(), 64);
    let part = rig
        .ask("GET", "/api/v3/files/images/a.txt")
        .header("range", "bytes=1-2")
        .send()
        .await;
    assert_eq!(
        (part.status, &part.body[..], part.header("content-range")),
        (206, &b"el"[..], "bytes 1-2/5")
    );
    // As a form sends it.
    let form =
        |part: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{part}\"\r\n\r\nfrom a form\r\n--b--\r\n");
    let send = async |part: &str| {
        let ask = rig.ask("POST", "/api/v3/files/form");
        ask.body("multipart/form-data; boundary=b", form(part)).send().await
    };
    assert_eq!(send("file").await.json(), json!({"Path": "/form", "Size": 11}));
    assert_eq!(&rig.get("/api/v3/files/form").await.body[..], b"from a form");
    assert_eq!(send("other").await.status, 400);
    assert_eq!(rig.ask("DELETE", "/api/v3/files/form").send().await.status, 204);
    assert_eq!(upload("/api/v3/files/a.tar?explode=true", "x").await.status, 422);
    let beside = upload("/api/v3/files/images/a.txt/b", "x").await;
    beside.refused(409, "POST: files/images/a.txt/b: Cannot create directory /images/a.txt");
    for path in [
        "/api/v3/files/a/../../b",
        "/api/v3/files/%2e%2e/b",
        "/api/v3/isos/..%2fb",
    ] {
        let reply = rig.ask("POST", path).body("application/octet-stream", "x").send().await;
        assert!((400..500).contains(&reply.status), "{path} {reply:?}");
    }
    assert_eq!(rig.ask("DELETE", "/api/v3/files/images/a.txt").send().await.status, 204);
    rig.ask("DELETE", "/api/v3/files/fred")
        .send()
        .await
        .refused(404, "DELETE: files/fred: Unable to delete");
    rig.ask("DELETE", "/api/v3/isos/fred")
        .send()
        .await
        .refused(404, "DELETE: isos/fred: no such iso");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_works_on_its_own_machine_alone() {
    let rig = Rig::start().await;
    rig.post(
        "/api/v3/tasks",
        json!({"Name": "t1", "Templates": [{"Name": "s", "Contents": "echo"}]}),
    )
    .await;
    rig.post("/api/v3/stages", json!({"Name": "s1", "Tasks": ["t1"]})).await;
    let machine = rig
        .post("/api/v3/machines", json!({"Name": "mach-01", "Stage": "s1"}))
        .await
        .json();
    let uuid = machine["Uuid"].as_str().unwrap().to_owned();
    let other = rig.machine("mach-02").await;
    let (own, stranger) = (rig.machine_token(&uuid).await, rig.machine_token(&other).await);
    let as_agent = |token: &str, method: &str, path: &str| rig.bare(method, path).token(token);
    let wanted = json!({ "Machine": uuid });
    assert_eq!(
        as_agent(&stranger, "POST", "/api/v3/jobs")
            .json(&wanted)
            .send()
            .await
            .status,
        403
    );
    let job = as_agent(&own, "POST", "/api/v3/jobs").json(&wanted).send().await;
    assert_eq!((job.status, &job.json()["Task"]), (201, &json!("t1")));
    let job = format!("/api/v3/jobs/{}", job.json()["Uuid"].as_str().unwrap());
    let run = json!([{"op": "replace", "path": "/State", "value": "running"}]);
    for (path, method) in [
        ("", "GET"),
        ("", "PATCH"),
        ("/log", "GET"),
        ("/log", "PUT"),
        ("/actions", "GET"),
    ] {
        let ask = |token: &str| as_agent(token, method, &format!("{job}{path}")).json(&run);
        assert_eq!(ask(&stranger).send().await.status, 403, "{method} {path}");
        let reply = ask(&own).send().await;
        assert!(reply.status < 300, "{method} {path} {reply:?}");
    }
    assert_eq!(as_agent(&own, "DELETE", &job).send().await.status, 403);
    assert_eq!(
        rig.get("/api/v3/jobs?State=running")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

/// A provider that answers what it was asked.
const PROVIDER: &str = r#"#!/bin/sh
if [ "$1" = define ]; then
  cat <<'END'
{"Name": "echoer", "Version": "v1", "AvailableActions": [
  {"Command": "echo", "Model": "machines", "OptionalParams": ["echo/step"]},
  {"Command": "need", "Model": "machines", "RequiredParams": ["echo/needed"]},
  {"Command": "fail", "Model": "machines"}],
 "Sections": {"params": {"echo/step": {"Name": "echo/step", "Schema": {"type": "integer"}},
                         "echo/secret": {"Name": "echo/secret", "Secure": true}}}}
END
else
  asked=$(cat)
  case $asked in
    *'"Command":"fail"'*) echo '{"Error": "no luck"}';;
    *) printf '{"Result": %s, "Params": {"echo/needed": 1, "gone": null}}' "$asked";;
  esac
fi
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_offers_actions() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("echoer");
    std::fs::write(&program, PROVIDER).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("broken"), "no program").unwrap();
    let (plugins, layers) = Plugins::open(dir.path()).unwrap();
    let rig = Rig::with_plugins(plugins, layers).await;
    let uuid = rig
        .post("/api/v3/machines", json!({"Name": "mach-01", "Params": {"gone": 1}}))
        .await
        .json()["Uuid"]
        .clone();
    let base = format!("/api/v3/machines/{}/actions", uuid.as_str().unwrap());
    assert_eq!(rig.get("/api/v3/plugin_providers/echoer").await.json()["Version"], "v1");
    let commands = || async {
        let all = rig.get(&base).await.json();
        let names = all
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a["Command"].as_str().unwrap().to_owned());
        names.filter(|name| name != "powerstatus").collect::<Vec<_>>()
    };
    assert!(commands().await.is_empty(), "no plugin is made of it yet");
    rig.post("/api/v3/plugins", json!({"Name": "p1", "Provider": "gone"}))
        .await
        .refused(422, "ValidationError: plugins/p1: Invalid Provider `gone`");
    let plugin = json!({"Name": "p1", "Provider": "echoer", "Params": {"size": 1}});
    assert_eq!(rig.post("/api/v3/plugins", plugin).await.status, 201);
    assert_eq!(commands().await, ["echo", "fail"]);
    let run = |command: &str, params: Value| {
        let ask = rig.ask("POST", &format!("{base}/{command}")).json(&params);
        ask.send()
    };
    let missing = format!(
        "machines/{}: Action need Missing Parameter echo/needed",
        uuid.as_str().unwrap()
    );
    run("need", json!({})).await.refused(400, &format!("INVOKE: {missing}"));
    rig.get(&format!("{base}/need"))
        .await
        .refused(400, &format!("GET: {missing}"));
    assert_eq!(run("echo", json!({"echo/step": "x"})).await.status, 400);
    let secret = run("echo", json!({"echo/secret": "x"})).await;
    assert!(
        secret.json()["Messages"][0]
            .as_str()
            .unwrap()
            .contains("cannot be passed secure parameter")
    );
    assert!(run("fail", json!({})).await.json()["Messages"][0] == "no luck");
    let said = run("echo", json!({"echo/step": 5, "more": true})).await.json();
    assert_eq!(
        (&said["Command"], &said["Params"]),
        (&json!("echo"), &json!({"echo/step": 5, "more": true}))
    );
    assert_eq!(
        (&said["Plugin"]["Params"], said["Object"].get("Secret")),
        (&json!({"size": 1}), None)
    );
    // What it wanted changed is changed.
    assert_eq!(
        rig.get("/api/v3/machines/Name:mach-01/params").await.json(),
        json!({"echo/needed": 1})
    );
    assert_eq!(commands().await, ["echo", "need", "fail"]);
    let powerless = rig.user_token("?scope=machines&action=get&specific=*").await;
    let refused = rig
        .bare("POST", &format!("{base}/echo"))
        .token(&powerless)
        .json(&json!({}))
        .send()
        .await;
    assert_eq!(refused.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_is_uploaded_once_at_a_time() {
    use tokio::io::AsyncWriteExt;
    let rig = Rig::start().await;
    let token = rig.user_token("").await;
    let mut first = rig.tls().await.unwrap();
    let head = format!(
        "POST /api/v3/isos/a.iso HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\nhalf"
    );
    first.write_all(head.as_bytes()).await.unwrap();
    first.flush().await.unwrap();
    let upload = async |name: &str| {
        let ask = rig.ask("POST", &format!("/api/v3/isos/{name}"));
        ask.body("application/octet-stream", "whole").send().await
    };
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let status = upload("a.iso").await.status;
        if status == 409 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the first one is not noticed");
    }
    assert_eq!(upload("b.iso").await.status, 201);
    // It breaks off.
    drop(first);
    while upload("a.iso").await.status != 201 {
        assert!(tokio::time::Instant::now() < deadline, "the name is not given back");
    }
}
