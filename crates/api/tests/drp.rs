//! DRP's routes as its clients use them: the shapes of the recorded transcripts.

#![allow(clippy::unwrap_used)]

mod common;

use common::Rig;
use serde_json::{Value, json};

/// What drpcli 4.7 sends for `machines create '{"Name":"mach-01"}'`.
fn create_body() -> Value {
    json!({
        "Validated": false, "Available": false, "Errors": null, "ReadOnly": false, "Meta": null, "Endpoint": "",
        "Bundle": "", "Partial": false, "Name": "mach-01", "Description": "", "Uuid": "", "CurrentJob": "",
        "Address": "", "Stage": "", "BootEnv": "", "Profiles": null, "Params": null, "Tasks": null, "CurrentTask": 0,
        "RetryTaskAttempt": 0, "TaskErrorStacks": null, "Runnable": false, "Secret": "", "OS": "",
        "HardwareAddrs": null, "Workflow": "", "Arch": "", "Locked": false, "Context": "",
        "Fingerprint": { "SSNHash": null, "CSNHash": null, "CloudInstanceID": "", "SystemUUID": "", "MemoryIds": null },
        "Pool": "", "PoolAllocated": false, "PoolStatus": "", "WorkflowComplete": false
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn login_and_create_as_drpcli_does_it() {
    let rig = Rig::start().await;
    let first = rig.get("/api/v3/users/rocketskates/token").await.json();
    let token = first["Token"].as_str().unwrap();
    let second = rig
        .bare("GET", "/api/v3/users/rocketskates/token?ttl=7200")
        .token(token)
        .send()
        .await
        .json();
    let token = second["Token"].as_str().unwrap();
    assert_ne!(first["Token"], second["Token"]);
    let info = &second["Info"];
    assert_eq!(
        (&info["id"], &info["api_port"], &info["file_port"]),
        (&json!("Fred"), &json!(1), &json!(2))
    );
    assert_eq!(
        info["stats"],
        json!([{"name":"machines.count","count":0},{"name":"subnets.count","count":0}])
    );
    assert!(
        info["features"]
            .as_array()
            .unwrap()
            .contains(&json!("virtual-media-boot"))
    );
    assert_eq!(info["scopes"]["machines"]["getSecure"], json!({}));
    assert_eq!(info["License"]["Licenses"], json!([]));
    let created = rig
        .bare("POST", "/api/v3/machines")
        .token(token)
        .json(&create_body())
        .send()
        .await;
    assert_eq!(created.status, 201, "{created:?}");
    let machine = created.json();
    let expected = json!({
        "Validated": true, "Available": true, "Errors": [], "ReadOnly": false,
        "Meta": { "feature-flags": "change-stage-v2" }, "Endpoint": "", "Bundle": "", "Partial": false,
        "Name": "mach-01", "Description": "", "CurrentJob": "", "Address": "", "Stage": "none", "BootEnv": "local",
        "Profiles": [], "Params": {}, "Tasks": [], "CurrentTask": -1, "Runnable": true, "OS": "", "HardwareAddrs": [],
        "Workflow": "", "Arch": "amd64", "Locked": false
    });
    for (member, value) in expected.as_object().unwrap() {
        assert_eq!(&machine[member], value, "{member}");
    }
    assert!(!machine["Secret"].as_str().unwrap().is_empty());
    let info = rig.bare("GET", "/api/v3/info").token(token).send().await.json();
    assert_eq!(info["stats"][0]["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_live_and_die() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let by_name = "/api/v3/machines/Name:mach-01";
    let by_uuid = format!("/api/v3/machines/{uuid}");
    assert_eq!(rig.get(by_name).await.json()["Uuid"], json!(uuid));
    assert_eq!(rig.ask("HEAD", by_name).send().await.status, 200);
    let absent = rig.ask("HEAD", "/api/v3/machines/Name:mach-02").send().await;
    assert_eq!((absent.status, absent.body.len()), (404, 0));
    rig.get("/api/v3/machines/john")
        .await
        .refused(404, "GET: machines/john: Not Found");

    // The patch that changes nothing.
    let same = rig.ask("PATCH", &by_uuid).json(&json!([])).send().await;
    assert_eq!((same.status, &same.json()["Name"]), (200, &json!("mach-01")));
    let patch = json!([
        {"op":"test","path":"/Description","from":"","value":""},
        {"op":"replace","path":"/Description","from":"","value":"x"}
    ]);
    let patched = rig.ask("PATCH", &by_uuid).json(&patch).send().await;
    assert_eq!((patched.status, &patched.json()["Description"]), (200, &json!("x")));
    let again = rig.ask("PATCH", &by_uuid).json(&patch).send().await;
    assert_eq!(
        (again.status, &again.json()["Messages"][0]),
        (409, &json!("Patch error at line 0: Test op failed."))
    );

    let mut whole = rig.get(&by_uuid).await.json();
    whole["Description"] = json!("y");
    let put = rig.ask("PUT", &by_uuid).json(&whole).send().await;
    assert_eq!((put.status, &put.json()["Description"]), (200, &json!("y")));
    whole["Uuid"] = json!("3e7031fe-3062-45f1-835c-92541bc9cbd3");
    assert_eq!(rig.ask("PUT", &by_uuid).json(&whole).send().await.status, 400);

    let bad_name = rig.post("/api/v3/machines", json!({"Name": "{x"})).await;
    assert_eq!(
        (bad_name.status, &bad_name.json()["Messages"][0]),
        (422, &json!("Invalid Name `{x`"))
    );
    rig.post("/api/v3/profiles", json!({"Name": "p1"})).await;
    rig.post("/api/v3/profiles", json!({"name": "p1"}))
        .await
        .refused(409, "CREATE: profiles/p1: already exists");
    rig.post("/api/v3/profiles", json!({}))
        .await
        .refused(400, "CREATE: profiles: Empty key not allowed");

    let gone = rig.ask("DELETE", by_name).send().await;
    assert_eq!((gone.status, &gone.json()["Uuid"]), (200, &json!(uuid)));
    rig.ask("DELETE", by_name)
        .send()
        .await
        .refused(404, "DELETE: machines/Name:mach-01: Not Found");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_counts_and_heads() {
    let rig = Rig::start().await;
    for name in ["mach-01", "mach-02", "mach-03"] {
        rig.machine(name).await;
    }
    let list = rig.get("/api/v3/machines").await;
    assert_eq!(list.json().as_array().unwrap().len(), 3);
    let head = rig.ask("HEAD", "/api/v3/machines").send().await;
    for reply in [&list, &head] {
        assert_eq!(reply.header("x-drp-list-total-count"), "3");
        assert_eq!(reply.header("x-drp-list-count"), "3");
    }
    assert!(head.body.is_empty());
    let users = rig.get("/api/v3/users").await.json();
    assert_eq!(
        (users[0]["Name"].as_str(), users[0].get("PasswordHash")),
        (Some("rocketskates"), None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_sorted_and_paged() {
    let rig = Rig::start().await;
    let declared = json!({"Name": "rack", "Schema": {"type": "integer", "default": 1}});
    rig.post("/api/v3/params", declared).await;
    let secret = json!({"Name": "pass", "Secure": true, "Schema": {"type": "string"}});
    rig.post("/api/v3/params", secret).await;
    rig.post("/api/v3/profiles", json!({"Name": "far", "Params": {"rack": 7}}))
        .await;
    for machine in [
        json!({"Name": "mach-01", "Params": {"color": "red", "pass": "canary"}}),
        json!({"Name": "mach-02", "Profiles": ["far"]}),
        json!({"Name": "mach-03", "Params": {"rack": 30}, "Description": "x"}),
    ] {
        assert_eq!(rig.post("/api/v3/machines", machine).await.status, 201);
    }
    for (query, names) in [
        ("Name=mach-02", "mach-02"),
        ("Name=mach-02&Name=mach-01&sort=Name", "mach-01 mach-02"),
        ("sort=Name&reverse=true&limit=2", "mach-03 mach-02"),
        ("sort=Name&offset=2", "mach-03"),
        ("limit=0", ""),
        ("BootEnv=local&Workflow=&sort=Name&limit=1", "mach-01"),
        ("color=red", "mach-01"),
        // Inherited.
        ("rack=7", "mach-02"),
        ("rack=Between(7,30)&sort=Name", "mach-02 mach-03"),
        ("rack=Gt(7)", "mach-03"),
        ("pass=canary", ""),
        // A range around the secret tells nothing about it.
        ("pass=Between(c,d)", ""),
    ] {
        let reply = rig.get(&format!("/api/v3/machines?{query}")).await;
        let list = reply.json();
        let found: Vec<&str> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["Name"].as_str().unwrap())
            .collect();
        assert_eq!(found.join(" "), names, "{query}");
        assert_eq!(reply.header("x-drp-list-count"), found.len().to_string(), "{query}");
        assert_eq!(reply.header("x-drp-list-total-count"), "3", "{query}");
    }
    let refused = rig.get("/api/v3/machines?Runnable=fred").await;
    refused.refused(406, "GET: machines: Runnable must be true or false");
    let unknown = rig.get("/api/v3/bootenvs?greg=1").await;
    unknown.refused(406, "GET: bootenvs: Filter not found: greg");
}

#[tokio::test(flavor = "multi_thread")]
async fn params_by_themselves() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let base = "/api/v3/machines/Name:mach-01/params";
    rig.get("/api/v3/params/not-declared")
        .await
        .refused(404, "GET: params/not-declared: Not Found");
    let one = |name: &str| format!("{base}/{name}");
    assert_eq!(rig.get(&one("foo")).await.json(), Value::Null);
    let set = rig.post(&one("boot-virtual-iso"), json!(true)).await;
    assert_eq!((set.status, set.json()), (200, json!(true)));
    // The slash belongs to the name, escaped or not.
    rig.post(&one("a/b"), json!({"x": 1})).await;
    assert_eq!(rig.get(&one("a%2Fb")).await.json(), json!({"x": 1}));
    assert_eq!(
        rig.get(base).await.json(),
        json!({"a/b": {"x": 1}, "boot-virtual-iso": true})
    );
    let patch = json!([
        {"op":"test","path":"","from":"","value":{"a/b": {"x": 1}, "boot-virtual-iso": true}},
        {"op":"add","path":"/foo","from":"","value":{"a":1}}
    ]);
    let patched = rig.ask("PATCH", base).json(&patch).send().await;
    assert_eq!(patched.json()["foo"], json!({"a": 1}), "{patched:?}");
    let failed = rig.ask("PATCH", base).json(&patch).send().await;
    assert_eq!(
        (failed.status, &failed.json()["Messages"][1]),
        (409, &json!("Test op failed."))
    );
    let removed = rig.ask("DELETE", &one("foo")).send().await;
    assert_eq!((removed.status, removed.json()), (200, json!({"a": 1})));
    rig.ask("DELETE", &one("foo"))
        .send()
        .await
        .refused(404, "DELETE: params/foo: Not Found");
    let whole = rig.post(base, json!({"only": 1})).await;
    assert_eq!(whole.json(), json!({"only": 1}));
    assert_eq!(
        rig.get(&format!("/api/v3/machines/{uuid}")).await.json()["Params"],
        json!({"only": 1})
    );

    let declared = json!({"Name": "np", "Schema": {"type": "string", "default": "d"}});
    assert_eq!(rig.post("/api/v3/params", declared).await.status, 201);
    assert_eq!(rig.get("/api/v3/params/np").await.json()["Schema"]["type"], "string");
    assert!(matches!(rig.post(&one("np"), json!([1])).await.status, 400 | 422));
    assert_eq!(rig.get(&one("np?aggregate=true")).await.json(), json!("d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secure_params_are_shown_to_those_with_the_right() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let declared = json!({"Name": "pass", "Secure": true, "Schema": {"type": "string"}});
    assert_eq!(rig.post("/api/v3/params", declared).await.status, 201);
    let base = format!("/api/v3/machines/{uuid}");
    let key = rig.get(&format!("{base}/pubkey")).await.json();
    assert_eq!(key.as_str().unwrap().len(), 44);
    let path = format!("{base}/params/pass");
    rig.post(&path, json!("canary-7d1")).await;
    let sealed = rig.get(&path).await;
    assert!(sealed.json().get("Payload").is_some(), "{sealed:?}");
    let decoded = format!("{path}?decode=true");
    assert_eq!(rig.get(&decoded).await.json(), json!("canary-7d1"));
    assert_eq!(
        rig.get(&format!("{base}?decode=true")).await.json()["Params"]["pass"],
        json!("canary-7d1")
    );
    assert_eq!(
        rig.get("/api/v3/machines?decode=true").await.json()[0]["Params"]["pass"],
        json!("canary-7d1")
    );
    let machine = rig.machine_token(&uuid).await;
    for path in [
        &decoded,
        &format!("{base}/params?decode=true"),
        &format!("{base}?decode=true"),
    ] {
        let reply = rig.bare("GET", path).token(&machine).send().await;
        assert_eq!(reply.status, 403, "{path} {reply:?}");
    }
    let listed = rig
        .bare("GET", "/api/v3/machines?decode=true&aggregate=true")
        .token(&machine)
        .send()
        .await;
    assert!(!String::from_utf8_lossy(&listed.body).contains("canary-7d1"));
    let own = rig.bare("GET", &path).token(&machine).send().await;
    assert!(own.status == 200 && own.json().get("Payload").is_some(), "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_an_object() {
    let rig = Rig::start().await;
    rig.post(
        "/api/v3/profiles",
        json!({"Name": "p1", "Params": {"far": 1, "near": 1}}),
    )
    .await;
    let body = json!({"Name": "mach-01", "Profiles": ["p1"], "Params": {"near": 2}});
    rig.post("/api/v3/machines", body).await;
    let show = async |query: &str| rig.get(&format!("/api/v3/machines/Name:mach-01{query}")).await.json();
    let slim = show("?slim=Params,Meta").await;
    assert_eq!(
        (&slim["Params"], &slim["Meta"], &slim["Partial"]),
        (&json!({}), &json!({}), &json!(true))
    );
    assert_eq!(show("?aggregate=true").await["Params"], json!({"far": 1, "near": 2}));
    assert_eq!(show("?aggregate=true&params=far").await["Params"], json!({"far": 1}));
    let params = rig
        .get("/api/v3/machines/Name:mach-01/params?aggregate=true")
        .await
        .json();
    assert_eq!(params, json!({"far": 1, "near": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn meta_alone() {
    let rig = Rig::start().await;
    rig.machine("mach-01").await;
    let path = "/api/v3/meta/machines/Name:mach-01";
    assert_eq!(rig.get(path).await.json(), json!({"feature-flags": "change-stage-v2"}));
    let patch = json!([
        {"op":"test","path":"","from":"","value":{"feature-flags":"change-stage-v2"}},
        {"op":"add","path":"/a","from":"","value":"b"}
    ]);
    let patched = rig.ask("PATCH", path).json(&patch).send().await;
    assert_eq!(
        patched.json(),
        json!({"a": "b", "feature-flags": "change-stage-v2"}),
        "{patched:?}"
    );
    assert_eq!(rig.ask("PATCH", path).json(&patch).send().await.status, 409);
    let number = json!([{"op":"add","path":"/n","value":1}]);
    assert_eq!(rig.ask("PATCH", path).json(&number).send().await.status, 400);
    rig.get("/api/v3/meta/machines/john")
        .await
        .refused(404, "GET: machines/john: Not Found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_about_itself() {
    let rig = Rig::start().await;
    let names = rig.get("/api/v3/objects").await.json();
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert!(
        names.is_sorted() && names.contains(&"machines") && names.contains(&"preferences"),
        "{names:?}"
    );
    let indexes = rig.get("/api/v3/indexes/machines").await.json();
    assert_eq!(indexes["Uuid"], json!({"Unique": true, "Type": "UUID string"}));
    assert_eq!(rig.get("/api/v3/indexes/machines/Uuid").await.json(), indexes["Uuid"]);
    assert_eq!(rig.get("/api/v3/indexes").await.json()["machines"], indexes);
    assert_eq!(rig.get("/api/v3/indexes/freds").await.status, 404);
    let prefs = rig.get("/api/v3/prefs").await.json();
    assert_eq!(
        (&prefs["defaultBootEnv"], &prefs["defaultStage"]),
        (&json!("local"), &json!("none"))
    );
    let set = rig.post("/api/v3/prefs", json!({"unknownBootEnv": "ignore"})).await;
    assert_eq!((set.status, &set.json()["unknownBootEnv"]), (201, &json!("ignore")));
    let unknown = rig.post("/api/v3/prefs", json!({"greg": "x"})).await;
    unknown.refused(400, "POST: prefs: Unknown Preference greg");
    assert_eq!(rig.get("/api/v3/system/actions").await.json(), json!([]));
    for interface in rig.get("/api/v3/interfaces").await.json().as_array().unwrap() {
        let one = rig
            .get(&format!("/api/v3/interfaces/{}", interface["Name"].as_str().unwrap()))
            .await;
        assert_eq!(&one.json(), interface);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_of_machines() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let base = "/api/v3/machines/Name:mach-01/actions";
    assert_eq!(rig.get(base).await.json()[0]["Command"], "powerstatus");
    assert_eq!(rig.get(&format!("{base}?plugin=other")).await.json(), json!([]));
    assert_eq!(rig.get(&format!("{base}/powerstatus")).await.json()["Provider"], "ipmi");
    let on = rig
        .post(&format!("{base}/powerstatus"), json!({"ipmi/mode": "redfish"}))
        .await;
    assert_eq!((on.status, on.json()), (200, json!("On")));
    let heard = format!("begin powerstatus {uuid} {{\"ipmi/mode\":\"redfish\"}} user:rocketskates");
    assert_eq!(rig.boots.heard(), [heard]);
    let text = "INVOKE: machines/Name:mach-01: Action fly on machines: Not Found";
    rig.post(&format!("{base}/fly"), json!({})).await.refused(400, text);
    assert_eq!(rig.post(&format!("{base}/powerstatus"), json!([1])).await.status, 400);
    let profile = rig.post("/api/v3/profiles/global/actions/fly", json!({})).await;
    profile.refused(400, "INVOKE: profiles/global: Action fly on profiles: Not Found");
    assert_eq!(rig.get("/api/v3/profiles/global/actions").await.json(), json!([]));
    assert_eq!(rig.get("/api/v3/profiles/nobody/actions").await.status, 404);
}

/// The stored password is sent to where these params say.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_the_password_does_not_say_where_it_is_sent() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let narrowed = rig
        .user_token(&format!("?scope=machines&action=action:powerstatus&specific={uuid}"))
        .await;
    let trusted = rig.user_token("").await;
    let path = format!("/api/v3/machines/{uuid}/actions/powerstatus");
    for params in [
        json!({"ipmi/address": "192.0.2.66"}),
        json!({"ipmi/port-redfish": 8443}),
        json!({"ipmi/port-ipmitool": 6230}),
    ] {
        let ask = async |token: &str| rig.bare("POST", &path).token(token).json(&params).send().await;
        let refused = ask(&narrowed).await;
        let name = params.as_object().unwrap().keys().next().unwrap();
        refused.refused(
            403,
            &format!(
                "AUTH: machines/{uuid}: {name} may be given per call by users who may read the password that is sent there"
            ),
        );
        assert_eq!(rig.boots.heard(), [""; 0], "nothing was sent anywhere");
        assert_eq!(ask(&trusted).await.status, 200, "{params}");
        rig.boots.heard.lock().unwrap().clear();
    }
    let other = rig
        .bare("POST", &path)
        .token(&narrowed)
        .json(&json!({"ipmi/mode": "redfish"}))
        .send()
        .await;
    assert_eq!(other.status, 200, "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrowed_token_runs_the_action_it_names_and_no_other() {
    let rig = Rig::start().await;
    let uuid = rig.machine("mach-01").await;
    let path = format!("/api/v3/machines/{uuid}/actions/powerstatus");
    for (claim, status) in [
        (
            format!("?scope=machines&action=action:powerstatus&specific={uuid}"),
            200,
        ),
        (format!("?scope=machines&action=action&specific={uuid}"), 200),
        (format!("?scope=machines&action=action:powercycle&specific={uuid}"), 403),
        (
            "?scope=machines&action=action:powerstatus&specific=other".to_owned(),
            403,
        ),
    ] {
        let token = rig.user_token(&claim).await;
        let reply = rig.bare("POST", &path).token(&token).json(&json!({})).send().await;
        assert_eq!(reply.status, status, "{claim} {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoami_names_the_machine_and_gives_no_token() {
    let rig = Rig::start().await;
    let body = json!({"Name": "mach-01", "HardwareAddrs": ["52:54:00:aa:bb:01"]});
    let uuid = rig.post("/api/v3/machines", body).await.json()["Uuid"].clone();
    rig.machine("mach-02").await;
    let ask = json!({"Fingerprint": {"SSNHash": null}, "MacAddrs": ["52:54:00:AA:BB:01"], "OnDiskUUID": ""});
    let reply = rig.post("/api/v3/whoami", ask.clone()).await.json();
    assert_eq!(reply["Result"], json!({"Score": 25, "Uuid": uuid, "Token": ""}));
    assert_eq!(reply["MacAddrs"], ask["MacAddrs"]);
    let stranger = rig
        .post("/api/v3/whoami", json!({"MacAddrs": ["52:54:00:aa:bb:99"]}))
        .await
        .json();
    assert_eq!(stranger["Result"], json!({"Score": 0, "Uuid": "", "Token": ""}));
}
