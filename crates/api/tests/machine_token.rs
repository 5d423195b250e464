//! What a machine's token must never get, looked for everywhere: another machine, and any BMC's credentials.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Line, Rig};
use isobar_api::routes::routes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Secrets, each somewhere else.
const SECRETS: [&str; 4] = ["own-s3cret", "other-s3cret", "profile-s3cret", "global-s3cret"];

struct World {
    rig: Rig,
    own: String,
    other: String,
    job: String,
    token: String,
}

async fn world() -> World {
    let rig = Rig::start().await;
    let made = async |path: &str, object: Value| {
        let reply = rig.post(path, object).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()
    };
    // Whatever a template tries.
    let tries = [
        ("param", "{{ .Param \"ipmi/password\" }}"),
        ("expand", "{{ .ParamExpand \"ipmi/password\" }}"),
        ("compose", "{{ .ComposeParam \"ipmi/password\" }}"),
        ("json", "{{ .ParamAsJSON \"ipmi/password\" }}"),
        ("yaml", "{{ .ParamAsYAML \"ipmi/password\" }}"),
        (
            "machine",
            "{{ .Machine.Params }} {{ toJson .Machine.Params }} {{ .Machine.Secret }}",
        ),
        ("root", "{{ . }}"),
        ("token", "{{ .GenerateToken }}"),
    ];
    let secret = json!({"Name": "my/secret", "Secure": true, "Schema": {"type": "string"}});
    made("/api/v3/params", secret).await;
    for (name, contents) in tries {
        let template = json!({"Name": "s", "Contents": contents, "Path": "x"});
        made(
            "/api/v3/tasks",
            json!({"Name": format!("t-{name}"), "Templates": [template]}),
        )
        .await;
    }
    let tasks: Vec<_> = tries.iter().map(|(name, _)| format!("t-{name}")).collect();
    made("/api/v3/stages", json!({"Name": "s1", "Tasks": tasks})).await;
    let password = |of: usize| json!({"ipmi/password": SECRETS[of], "ipmi/username": "root"});
    made("/api/v3/profiles", json!({"Name": "p1", "Params": password(2)})).await;
    for (param, value) in password(3).as_object().unwrap() {
        let set = rig
            .ask("POST", &format!("/api/v3/profiles/global/params/{param}"))
            .json(value)
            .send()
            .await;
        assert_eq!(set.status, 200, "{set:?}");
    }
    let machine = async |name: &str, of: usize| {
        let object = json!({"Name": name, "Stage": "s1", "Profiles": ["p1"], "Params": password(of)});
        made("/api/v3/machines", object).await["Uuid"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (own, other) = (machine("mach-own", 0).await, machine("mach-other", 1).await);
    let job = made("/api/v3/jobs", json!({ "Machine": own })).await["Uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    made("/api/v3/jobs", json!({ "Machine": other })).await;
    let boots = [&own, &other].map(|uuid| json!({"id": format!("boot-{uuid}"), "machine": uuid, "seq": 1}));
    *rig.boots.boots.lock().unwrap() = boots.to_vec();
    let token = rig.machine_token(&own).await;
    World {
        rig,
        own,
        other,
        job,
        token,
    }
}

impl World {
    fn clean(&self, what: &str, text: &str) {
        for secret in SECRETS.iter().copied().chain([self.other.as_str(), "mach-other"]) {
            assert!(!text.contains(secret), "{what} shows {secret}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_can_be_read_shows_another_machine_or_a_bmcs_password() {
    let world = world().await;
    let rig = &world.rig;
    let queries = [
        "",
        "?decode=true",
        "?aggregate=true&decode=true",
        "?params=ipmi/password&decode=true&aggregate=true",
    ];
    let (mut seen, mut line) = (0, Line::new(rig));
    for route in routes().into_iter().filter(|route| route.method == "GET") {
        if ["/api/v3/ws", "/isobar/v1/events"].contains(&route.path.as_str()) {
            continue;
        }
        for key in [
            &world.own,
            &world.other,
            &world.job,
            "Name:mach-other",
            "global",
            "p1",
            "ipmi/password",
            "s1",
        ] {
            let path = route.path.replace("{key}", key).replace("{*key}", key);
            if path == route.path && key != world.own {
                continue;
            }
            let path = path
                .replace("{*param}", "ipmi/password")
                .replace("{*path}", "isobar/own.img")
                .replace("{bootenv}", "sledgehammer")
                .replace("{command}", "powerstatus")
                .replace("{model}", "machines")
                .replace("{index}", "Name");
            let decodes = route.doc.query.iter().any(|query| query.name == "decode");
            for query in queries.iter().take(if decodes { queries.len() } else { 1 }) {
                let path = format!("{path}{query}");
                let (status, body) = line.ask("GET", &path, Some(&world.token), &Value::Null).await;
                // What the client itself wrote comes back in errors.
                let text = body.to_string().replace(key, "KEY");
                world.clean(&format!("GET {path} ({status})"), &text);
                seen += usize::from(status == 200);
            }
        }
    }
    assert!(seen > 30, "the token works: {seen}");
    let own = rig
        .bare("GET", &format!("/api/v3/machines/{}", world.own))
        .token(&world.token)
        .send()
        .await;
    assert!(
        own.json()["Params"]["ipmi/password"]["Payload"].is_string(),
        "boxed: {own:?}"
    );
    let look = json!({"MacAddrs": [], "OnDiskUUID": world.other});
    let who = rig
        .bare("POST", "/api/v3/whoami")
        .token(&world.token)
        .json(&look)
        .send()
        .await;
    assert_eq!(who.json()["Result"]["Uuid"], "", "{who:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_template_of_a_job_shows_a_bmcs_password_or_what_tokens_are_made_of() {
    let world = world().await;
    let rig = &world.rig;
    let secret = rig.get(&format!("/api/v3/machines/{}", world.own)).await.json()["Secret"].clone();
    let secret = secret.as_str().unwrap();
    let mut job = world.job.clone();
    let mut done = Vec::new();
    loop {
        let path = format!("/api/v3/jobs/{job}");
        let actions = rig
            .bare("GET", &format!("{path}/actions"))
            .token(&world.token)
            .send()
            .await;
        let text = String::from_utf8_lossy(&actions.body).into_owned();
        world.clean(&format!("the actions of {done:?}"), &text);
        assert!(!text.contains(secret), "{text}");
        let task = rig.get(&path).await.json()["Task"].clone();
        done.push(task.as_str().unwrap().to_owned());
        let finished = json!([{"op": "replace", "path": "/State", "value": "finished"}]);
        let patched = rig
            .bare("PATCH", &path)
            .token(&world.token)
            .json(&finished)
            .send()
            .await;
        assert_eq!(patched.status, 200, "{patched:?}");
        let wanted = json!({ "Machine": world.own });
        let next = rig
            .bare("POST", "/api/v3/jobs")
            .token(&world.token)
            .json(&wanted)
            .send()
            .await;
        if next.status == 204 {
            break;
        }
        assert_eq!(next.status, 201, "{next:?}");
        job = next.json()["Uuid"].as_str().unwrap().to_owned();
    }
    assert_eq!(done.len(), 8, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feeds_tell_of_the_own_machine_without_its_secrets() {
    let world = world().await;
    let mut stream = world.rig.tls().await.unwrap();
    let head = format!(
        "GET /isobar/v1/events?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        world.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let patch = |uuid: &str, text: &str| {
        let ops = json!([{"op": "replace", "path": "/Description", "value": text}]);
        let path = format!("/api/v3/machines/{uuid}");
        let (rig, ops) = (&world.rig, ops);
        async move { rig.ask("PATCH", &path).json(&ops).send().await.status }
    };
    assert_eq!(patch(&world.other, "about the other").await, 200);
    assert_eq!(patch(&world.own, "the-last-event").await, 200);
    let mut text = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&text).contains("the-last-event") {
            assert!(stream.read_buf(&mut text).await.unwrap() > 0, "the stream ended");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("the last event never came");
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("machines.create") && text.contains(&world.own), "{text}");
    world.clean("the feed", &text);
    assert!(!text.contains("about the other"), "{text}");
}

/// The agent gets its machine's secure params by its tasks' templates; who else may look at jobs does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_template_is_for_the_agent_and_put_on_record() {
    let rig = Rig::start().await;
    let secret = json!({"Name": "my/secret", "Secure": true, "Schema": {"type": "string"}});
    let template = json!({"Name": "s", "Contents": "{{ .Param \"my/secret\" }}", "Path": "x"});
    rig.post("/api/v3/params", secret).await;
    rig.post("/api/v3/tasks", json!({"Name": "t1", "Templates": [template]}))
        .await;
    rig.post("/api/v3/stages", json!({"Name": "s1", "Tasks": ["t1"]})).await;
    let machine = json!({"Name": "mach-01", "Stage": "s1", "Params": {"my/secret": "s3cret"}});
    let machine = rig.post("/api/v3/machines", machine).await.json();
    let uuid = machine["Uuid"].as_str().unwrap();
    let job = rig.post("/api/v3/jobs", json!({ "Machine": uuid })).await.json();
    let path = format!("/api/v3/jobs/{}/actions", job["Uuid"].as_str().unwrap());
    let jobs_alone = rig.user_token("?scope=jobs").await;
    let refused = rig.bare("GET", &path).token(&jobs_alone).send().await;
    assert!(
        refused.status == 422 && !String::from_utf8_lossy(&refused.body).contains("s3cret"),
        "{refused:?}"
    );
    let agent = rig.machine_token(uuid).await;
    let given = rig.bare("GET", &path).token(&agent).send().await;
    assert_eq!(given.json()[0]["Content"], "s3cret", "{given:?}");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let rows = rig
            .get(&format!("/isobar/v1/audit?action=getSecure&principal=machine:{uuid}"))
            .await
            .json();
        if rows[0]["detail"] == "the templates of task t1" {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{rows}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What it may not write: where its BMC is, its rights, others, or longer life than it was given.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_does_not_get_further_by_writing() {
    let world = world().await;
    let rig = &world.rig;
    let own = format!("/api/v3/machines/{}", world.own);
    let add = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    for profile in [
        json!({"Name": "p2", "Params": {"my/secret": "x"}}),
        json!({"Name": "includes-p2", "Profiles": ["p2"]}),
        json!({"Name": "harmless", "Params": {"colour": "red"}}),
    ] {
        assert_eq!(rig.post("/api/v3/profiles", profile).await.status, 201);
    }
    for (method, path, body, status) in [
        (
            "PATCH",
            own.clone(),
            add("/Params/ipmi~1address", json!("10.6.6.6")),
            403,
        ),
        ("PATCH", own.clone(), add("/Params/ipmi~1password", json!("x")), 403),
        (
            "PATCH",
            format!("{own}/params"),
            add("/ipmi~1port-redfish", json!(1)),
            403,
        ),
        ("POST", format!("{own}/params"), json!({}), 403),
        (
            "POST",
            format!("{own}/params/boot-virtual-iso-url"),
            json!("http://10.6.6.6"),
            403,
        ),
        ("DELETE", format!("{own}/params/ipmi/password"), Value::Null, 403),
        ("PATCH", own.clone(), add("/Secret", json!("mine")), 403),
        ("PATCH", own.clone(), add("/Name", json!("mach-other2")), 403),
        (
            "POST",
            "/api/v3/params".to_owned(),
            json!({"Name": "ipmi/password", "Secure": false}),
            403,
        ),
        (
            "PATCH",
            "/api/v3/profiles/p1".to_owned(),
            add("/Params/ipmi~1address", json!("10.6.6.6")),
            403,
        ),
        (
            "PATCH",
            own.clone(),
            add("/Profiles", json!(["p1", "includes-p2"])),
            403,
        ),
        ("PATCH", own.clone(), add("/Profiles", json!(["p1", "harmless"])), 200),
        ("POST", "/api/v3/events".to_owned(), json!({"Type": "mine"}), 403),
        ("POST", "/api/v3/contents".to_owned(), json!({}), 403),
        ("POST", "/api/v3/files/x".to_owned(), json!({}), 403),
        (
            "POST",
            "/api/v3/jobs".to_owned(),
            json!({ "Machine": world.other }),
            403,
        ),
        (
            "POST",
            "/isobar/v1/agent/checkin".to_owned(),
            json!({"machine": world.other, "attempt": "a"}),
            403,
        ),
        (
            "DELETE",
            format!("/isobar/v1/machines/{}/tokens", world.own),
            Value::Null,
            403,
        ),
    ] {
        let reply = rig.bare(method, &path).token(&world.token).json(&body).send().await;
        assert_eq!(reply.status, status, "{method} {path} {body}: {reply:?}");
    }
    // A job of its own cannot be handed to another machine, nor one of another be made its own.
    let job = format!("/api/v3/jobs/{}", world.job);
    let handed = add("/Machine", json!(world.other));
    rig.bare("PATCH", &job).token(&world.token).json(&handed).send().await;
    assert_eq!(rig.get(&job).await.json()["Machine"], json!(world.own));

    let forever = rig
        .bare("GET", &format!("{own}/token?ttl=99999999"))
        .token(&world.token)
        .send()
        .await;
    let renewed = forever.json()["Token"].as_str().unwrap().to_owned();
    let granted = rig
        .get("/isobar/v1/audit?action=grant&type=machines&limit=1")
        .await
        .json();
    assert_eq!(
        (&granted[0]["detail"], &granted[0]["principal"]),
        (&json!("ttl=604800"), &json!(format!("machine:{}", world.own)))
    );
    for token in [&world.token, &renewed] {
        assert_eq!(rig.bare("GET", &own).token(token).send().await.status, 200);
    }
    let revoked = rig
        .ask("DELETE", &format!("/isobar/v1/machines/{}/tokens", world.own))
        .send()
        .await;
    assert_eq!(revoked.status, 204);
    for token in [&world.token, &renewed] {
        assert_eq!(
            rig.bare("GET", &own).token(token).send().await.status,
            403,
            "with all that came of it"
        );
    }
}
