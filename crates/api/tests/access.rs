//! Every route and everybody who may call it: the table says who is let in, and a route without a row fails.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Line, Rig};
use isobar_api::routes::{On, Route, routes};
use isobar_model::Noun;
use isobar_objects::{Principal, UserTokenRequest};
use serde_json::{Value, json};

/// What a machine's token gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    /// 403.
    Never,
    /// Let in, where the path or the body is about its own machine; 403 where it is about another.
    Own,
    /// Let in.
    Always,
    /// As whoever has no right to it.
    AsAnybody,
}
use Machine::{Always, AsAnybody, Never, Own};

/// What somebody without the right gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Else {
    Refused,
    /// 200 or 404, with nothing in it.
    Nothing,
}
use Else::{Nothing, Refused};

/// Who may call a route.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Scope and action of the claim that lets in; none: everybody who has logged in.
    right: Option<(&'static str, &'static str)>,
    machine: Machine,
    others: Else,
}

const fn row(scope: &'static str, action: &'static str, machine: Machine) -> Row {
    Row {
        right: Some((scope, action)),
        machine,
        others: Refused,
    }
}

const fn filtered(scope: &'static str, action: &'static str) -> Row {
    Row {
        right: Some((scope, action)),
        machine: AsAnybody,
        others: Nothing,
    }
}

const KNOWN: Row = Row {
    right: None,
    machine: Always,
    others: Nothing,
};

/// The routes of a type of objects: method, what follows `/api/v3/TYPE`, action of the claim, and what the token of a
/// machine gets on `machines`, on `jobs`, on what agents read, and on the rest.
const OF_NOUNS: &[(&str, &str, &str, [Machine; 4])] = &[
    ("GET", "", "list", [AsAnybody, AsAnybody, Always, AsAnybody]),
    ("POST", "", "create", [Never, Own, Never, Never]),
    ("GET", "/KEY", "get", [Own, Own, Always, Never]),
    ("PATCH", "/KEY", "update", [Own, Own, Never, Never]),
    ("PUT", "/KEY", "update", [Own, Own, Never, Never]),
    ("DELETE", "/KEY", "delete", [Never; 4]),
    ("GET", "/KEY/actions", "actions", [Never, Own, Never, Never]),
    ("GET", "/KEY/actions/{command}", "actions", [Never; 4]),
    ("POST", "/KEY/actions/{command}", "action:command", [Never; 4]),
    ("GET", "/KEY/params", "get", [Own, Never, Always, Never]),
    ("POST", "/KEY/params", "update", [Own, Never, Never, Never]),
    ("PATCH", "/KEY/params", "update", [Own, Never, Never, Never]),
    ("GET", "/KEY/params/{*param}", "get", [Own, Never, Always, Never]),
    ("POST", "/KEY/params/{*param}", "update", [Own, Never, Never, Never]),
    ("DELETE", "/KEY/params/{*param}", "update", [Own, Never, Never, Never]),
    ("GET", "/KEY/pubkey", "get", [Own, Never, Always, Never]),
    ("META GET", "/KEY", "get", [Own, Own, Always, Never]),
    ("META PATCH", "/KEY", "update", [Own, Own, Never, Never]),
];
const READ_BY_AGENTS: &[&str] = &["params", "profiles", "stages", "tasks", "bootenvs", "workflows"];

/// All other routes.
const OTHERS: &[(&str, &str, Row)] = &[
    ("GET", "/api/v3/system/actions", row("system", "actions", Never)),
    (
        "GET",
        "/api/v3/system/actions/{command}",
        row("system", "actions", Never),
    ),
    (
        "POST",
        "/api/v3/system/actions/{command}",
        row("system", "action", Never),
    ),
    ("POST", "/api/v3/system/upgrade", row("system", "upgrade", Never)),
    ("GET", "/api/v3/users/{key}/token", row("users", "token", Never)),
    ("PUT", "/api/v3/users/{key}/password", row("users", "password", Never)),
    ("DELETE", "/isobar/v1/users/{key}/tokens", row("users", "token", Never)),
    ("GET", "/api/v3/machines/{key}/token", row("machines", "token", Own)),
    (
        "DELETE",
        "/isobar/v1/machines/{key}/tokens",
        row("machines", "token", Never),
    ),
    ("DELETE", "/isobar/v1/token", KNOWN),
    ("POST", "/api/v3/whoami", filtered("machines", "get")),
    ("GET", "/api/v3/info", KNOWN),
    ("GET", "/api/v3/objects", KNOWN),
    ("GET", "/api/v3/indexes", KNOWN),
    ("GET", "/api/v3/indexes/{model}", KNOWN),
    ("GET", "/api/v3/indexes/{model}/{index}", KNOWN),
    ("GET", "/api/v3/swagger.json", KNOWN),
    ("GET", "/api/v3/logs", row("logs", "get", Never)),
    ("GET", "/api/v3/prefs", row("preferences", "list", Never)),
    ("POST", "/api/v3/prefs", row("preferences", "post", Never)),
    ("GET", "/api/v3/interfaces", row("interfaces", "list", Never)),
    ("GET", "/api/v3/interfaces/{key}", row("interfaces", "get", Never)),
    ("GET", "/api/v3/ws", KNOWN),
    ("POST", "/api/v3/events", row("events", "post", Never)),
    ("GET", "/isobar/v1/events", KNOWN),
    ("GET", "/isobar/v1/boots", row("machines", "get", Never)),
    ("GET", "/isobar/v1/boots/{key}", filtered("machines", "get")),
    ("GET", "/isobar/v1/boots/{key}/post-mortem", filtered("machines", "get")),
    ("GET", "/isobar/v1/operations/{key}/report", filtered("machines", "get")),
    ("GET", "/isobar/v1/operations", row("machines", "get", Never)),
    ("POST", "/isobar/v1/operations", row("machines", "update", Never)),
    ("GET", "/isobar/v1/operations/{key}", filtered("machines", "get")),
    (
        "POST",
        "/isobar/v1/operations/{key}/cancel",
        filtered("machines", "update"),
    ),
    (
        "POST",
        "/isobar/v1/operations/{key}/retry",
        filtered("machines", "update"),
    ),
    (
        "POST",
        "/isobar/v1/machines/{key}/console",
        row("machines", "console", Never),
    ),
    (
        "PUT",
        "/isobar/v1/machines/{key}/console/{console}",
        row("machines", "console", Never),
    ),
    (
        "POST",
        "/isobar/v1/machines/{key}/doctor",
        row("machines", "action:doctor", Never),
    ),
    ("POST", "/isobar/v1/bmcs/scan", row("machines", "action:scan", Never)),
    (
        "POST",
        "/isobar/v1/machines/{key}/record",
        row("machines", "action:record", Never),
    ),
    ("GET", "/isobar/v1/isos", row("isos", "list", Never)),
    ("GET", "/isobar/v1/isos/{key}/{bootenv}/tree", row("isos", "get", Never)),
    (
        "GET",
        "/isobar/v1/isos/{key}/{bootenv}/files/{*path}",
        row("isos", "get", Never),
    ),
    (
        "GET",
        "/isobar/v1/isos/{key}/{bootenv}/boot.iso",
        row("isos", "get", Never),
    ),
    ("GET", "/isobar/v1/bases", row("isos", "list", Never)),
    ("POST", "/isobar/v1/bases/{key}", row("isos", "post", Never)),
    ("GET", "/api/v3/files", row("files", "list", Never)),
    ("GET", "/api/v3/files/{*key}", row("files", "get", Never)),
    ("POST", "/api/v3/files/{*key}", row("files", "post", Never)),
    ("DELETE", "/api/v3/files/{*key}", row("files", "delete", Never)),
    ("GET", "/api/v3/isos", row("isos", "list", Never)),
    ("GET", "/api/v3/isos/{key}", row("isos", "get", Never)),
    ("POST", "/api/v3/isos/{key}", row("isos", "post", Never)),
    ("DELETE", "/api/v3/isos/{key}", row("isos", "delete", Never)),
    ("GET", "/api/v3/contents", row("contents", "list", Never)),
    ("POST", "/api/v3/contents", row("contents", "create", Never)),
    ("GET", "/api/v3/contents/{key}", row("contents", "get", Never)),
    ("PUT", "/api/v3/contents/{key}", row("contents", "update", Never)),
    ("DELETE", "/api/v3/contents/{key}", row("contents", "delete", Never)),
    ("POST", "/api/v3/jobs", row("jobs", "create", Own)),
    ("DELETE", "/api/v3/jobs", row("jobs", "delete", Never)),
    ("GET", "/api/v3/jobs/{key}/actions", row("jobs", "actions", Own)),
    ("GET", "/api/v3/jobs/{key}/log", row("jobs", "log", Own)),
    ("PUT", "/api/v3/jobs/{key}/log", row("jobs", "update", Own)),
    ("GET", "/api/v3/jobs/{key}/plugin_actions", row("jobs", "actions", Own)),
    (
        "GET",
        "/api/v3/jobs/{key}/plugin_actions/{command}",
        row("jobs", "actions", Own),
    ),
    (
        "POST",
        "/api/v3/jobs/{key}/plugin_actions/{command}",
        row("jobs", "action:command", Never),
    ),
    (
        "POST",
        "/api/v3/plugin_providers/{key}",
        row("plugin_providers", "create", Never),
    ),
    (
        "DELETE",
        "/api/v3/plugin_providers/{key}",
        row("plugin_providers", "delete", Never),
    ),
    ("GET", "/api/v3/plugin-apis/{key}/{*path}", row("plugins", "get", Never)),
    (
        "POST",
        "/api/v3/plugin-apis/{key}/{*path}",
        row("plugins", "get", Never),
    ),
    ("PUT", "/api/v3/plugin-apis/{key}/{*path}", row("plugins", "get", Never)),
    (
        "PATCH",
        "/api/v3/plugin-apis/{key}/{*path}",
        row("plugins", "get", Never),
    ),
    (
        "DELETE",
        "/api/v3/plugin-apis/{key}/{*path}",
        row("plugins", "get", Never),
    ),
    ("GET", "/isobar/v1/audit", row("audit", "list", Never)),
    ("POST", "/isobar/v1/render", row("templates", "get", Never)),
    ("GET", "/isobar/v1/check/bootenvs", row("bootenvs", "list", Always)),
];

/// Routes with a rule of their own: everybody may call the first, who has a secret in the body; the others are for
/// machines alone.
const OF_AGENTS: &[&str] = &[
    "/isobar/v1/agent/exchange",
    "/isobar/v1/agent/checkin",
    "/isobar/v1/agent/heartbeat",
];

fn expected(route: &Route) -> Option<Row> {
    let (method, path) = (route.method.as_str(), route.path.as_str());
    let other = OTHERS.iter().find(|(m, p, _)| *m == method && *p == path);
    if let Some((_, _, row)) = other {
        return Some(*row);
    }
    let of_noun = |noun: &'static Noun| {
        let key = if noun.name == "params" { "{*key}" } else { "{key}" };
        OF_NOUNS.iter().find_map(|(m, rest, action, machine)| {
            let (m, wanted) = match m.strip_prefix("META ") {
                Some(m) => (m, format!("/api/v3/meta/{}/{{*key}}", noun.name)),
                None => (*m, format!("/api/v3/{}{}", noun.name, rest.replace("KEY", key))),
            };
            let kind = match noun.name {
                "machines" => 0,
                "jobs" => 1,
                name if READ_BY_AGENTS.contains(&name) => 2,
                _ => 3,
            };
            let others = if rest.is_empty() && m == "GET" {
                Nothing
            } else {
                Refused
            };
            (m == method && wanted == path).then_some(Row {
                right: Some((noun.name, *action)),
                machine: machine[kind],
                others,
            })
        })
    };
    isobar_model::table::NOUNS.iter().find_map(of_noun)
}

struct World<'a> {
    rig: &'a Rig,
    line: Line<'a>,
    machine: String,
    job: String,
    own: String,
    other: String,
}

impl World<'_> {
    /// The route's path about the machine, or about something that is not there.
    fn path(&self, route: &Route, real: bool) -> String {
        let key = match () {
            () if !real => "thing",
            () if route.path.contains("/jobs/") => &self.job,
            () if route.path.contains("/machines/") || route.path.contains("/isos/{key}/{bootenv}") => &self.machine,
            () => "thing",
        };
        let filled = route.path.replace("{key}", key).replace("{*key}", key);
        filled
            .replace("{*path}", "a/b")
            .replace("{*param}", "a/b")
            .replace("{model}", "machines")
            .replace("{index}", "Name")
            .replace(['{', '}'], "")
    }

    async fn ask(&mut self, route: &Route, real: bool, token: Option<&str>) -> (u16, Value) {
        let body = match (route.method.as_str(), route.path.as_str()) {
            ("POST", "/api/v3/jobs") => json!({ "Machine": self.machine }),
            ("PATCH", _) => json!([]),
            ("GET", _) => Value::Null,
            _ => json!({}),
        };
        let path = self.path(route, real);
        self.line.ask(route.method.as_str(), &path, token, &body).await
    }

    async fn token(&self, user: &str, claim: Option<(&str, &str, &str)>) -> String {
        let user = user.to_owned();
        let claim = claim.map(|(scope, action, key)| (scope.to_owned(), action.to_owned(), key.to_owned()));
        let request = UserTokenRequest {
            claim,
            ..UserTokenRequest::default()
        };
        let issue = move |o: &isobar_objects::Objects| o.issue_user_token(&user, &request, &Principal::system());
        self.rig.objects.run(issue).await.unwrap().as_str().to_owned()
    }
}

fn let_in(status: u16) -> bool {
    status != 401 && status != 403
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_lets_in_who_may_and_nobody_else() {
    let rig = Rig::start().await;
    let made = async |path: &str, object: Value| {
        let reply = rig.post(path, object).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()
    };
    made(
        "/api/v3/tasks",
        json!({"Name": "t1", "Templates": [{"Name": "s", "Contents": "echo"}]}),
    )
    .await;
    made("/api/v3/stages", json!({"Name": "s1", "Tasks": ["t1"]})).await;
    let machine = made("/api/v3/machines", json!({"Name": "mach-01", "Stage": "s1"})).await;
    let machine = machine["Uuid"].as_str().unwrap().to_owned();
    let other = rig.machine("mach-02").await;
    let job = made("/api/v3/jobs", json!({ "Machine": machine })).await;
    let claims = json!([{"scope": "machines", "action": "list", "specific": "*"}]);
    made("/api/v3/roles", json!({"Name": "lister", "Claims": claims})).await;
    made("/api/v3/users", json!({"Name": "jane", "Roles": ["lister"]})).await;
    made("/api/v3/users", json!({"Name": "joe"})).await;

    let mut world = World {
        line: Line::new(&rig),
        job: job["Uuid"].as_str().unwrap().to_owned(),
        own: rig.machine_token(&machine).await,
        other: rig.machine_token(&other).await,
        rig: &rig,
        machine,
    };
    let expired = UserTokenRequest {
        ttl: Some(Duration::ZERO),
        ..UserTokenRequest::default()
    };
    let dead = rig.objects.run(move |o| {
        let root = Principal::system();
        let expired = o.issue_user_token("rocketskates", &expired, &root).unwrap();
        let revoked = o
            .issue_user_token("rocketskates", &UserTokenRequest::default(), &root)
            .unwrap();
        o.revoke(revoked.as_str(), &root).unwrap();
        [expired, revoked].map(|token| token.as_str().to_owned())
    });
    let dead: [String; 2] = dead.await;

    let mut used = BTreeSet::new();
    for route in routes() {
        let agents = OF_AGENTS.iter().position(|path| *path == route.path);
        let Some(row) = expected(&route).or(agents.map(|_| KNOWN)) else {
            panic!("{route:?} has no row: who may call it?");
        };
        used.insert((route.method.to_string(), route.path.clone()));
        if agents == Some(0) {
            assert_eq!(world.ask(&route, true, None).await.0, 400, "{route:?} is open to all");
            continue;
        }
        assert_eq!(world.ask(&route, true, None).await.0, 401, "{route:?} by nobody");
        for token in &dead {
            assert_eq!(
                world.ask(&route, true, Some(token)).await.0,
                403,
                "{route:?} by a dead token"
            );
        }
        // Its own token goes with the first call.
        let spent = route.path == "/isobar/v1/token";
        for user in ["joe", "jane"] {
            let token = world.token(user, None).await;
            let (status, body) = world.ask(&route, true, Some(&token)).await;
            let may = row.right.is_none() || user == "jane" && row.right == Some(("machines", "list"));
            if may && agents.is_none() {
                assert!(let_in(status), "{route:?} by {user}: {status} {body}");
            } else if row.others == Refused || agents.is_some() {
                assert_eq!(
                    (status, &body["Type"]),
                    (403, &json!("AUTH")),
                    "{route:?} by {user}: {body}"
                );
            } else {
                nothing_in(&route, status, &body);
            }
        }
        if agents.is_none() && !spent {
            let (own, other) = (world.own.clone(), world.other.clone());
            for (token, of_own) in [(&own, true), (&other, false)] {
                let (status, body) = world.ask(&route, true, Some(token)).await;
                let text = format!("{route:?} by the machine itself ({of_own}): {status} {body}");
                match row.machine {
                    Always => assert!(let_in(status), "{text}"),
                    Own if of_own => assert!(let_in(status), "{text}"),
                    Own | Never => assert_eq!(status, 403, "{text}"),
                    AsAnybody if row.others == Nothing => nothing_in(&route, status, &body),
                    AsAnybody => assert_eq!(status, 403, "{text}"),
                }
            }
        }
        if let Some((scope, action)) = row.right {
            let exact = world.token("rocketskates", Some((scope, action, "*"))).await;
            let (status, body) = world.ask(&route, false, Some(&exact)).await;
            assert!(let_in(status), "{route:?} with {scope}:{action}: {status} {body}");
            for claim in [
                (scope, "nothing", "*"),
                ("nothing", action, "*"),
                (scope, action, "elsewhere"),
            ] {
                let wrong = world.token("rocketskates", Some(claim)).await;
                let (status, body) = world.ask(&route, true, Some(&wrong)).await;
                match row.others {
                    Refused => assert_eq!(status, 403, "{route:?} with {claim:?}: {body}"),
                    Nothing => nothing_in(&route, status, &body),
                }
            }
        }
        let root = world.token("rocketskates", None).await;
        let (status, body) = world.ask(&route, false, Some(&root)).await;
        assert_eq!(
            let_in(status),
            agents.is_none(),
            "{route:?} by the superuser: {status} {body}"
        );
    }
    for (method, path, _) in OTHERS {
        assert!(
            used.contains(&((*method).to_owned(), (*path).to_owned())),
            "{method} {path} is no route"
        );
    }
}

#[track_caller]
fn nothing_in(route: &Route, status: u16, body: &Value) {
    let empty = match body {
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
        body => body["Result"]["Uuid"] == "",
    };
    assert!(status == 404 || status == 200 && empty, "{route:?}: {status} {body}");
}

/// A claim may be for all of an object or for a part, for all actions or for one.
#[tokio::test(flavor = "multi_thread")]
async fn roles_say_what_may_be_done_to_what() {
    let rig = Rig::start().await;
    let (a, b) = (rig.machine("mach-01").await, rig.machine("mach-02").await);
    let secret = json!({"Name": "my/secret", "Secure": true, "Schema": {"type": "string"}});
    assert_eq!(rig.post("/api/v3/params", secret).await.status, 201);
    let replace = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let (one, two) = (format!("machines/{a}"), format!("machines/{b}"));
    let params = |of: &str, param: &str| format!("{of}/params/{param}");
    // Claims (scope, action, specific), a request, and its status.
    type Claims<'a> = &'a [(&'a str, &'a str, &'a str)];
    let foo = &[("machines", "get,update:/Params/foo,update:/Meta/color", "*")][..];
    let of_one = &[("machines", "get,list,update", a.as_str())][..];
    let cases: Vec<(Claims<'_>, &str, String, Value, u16)> = vec![
        (foo, "POST", params(&one, "foo"), json!(1), 200),
        (foo, "PATCH", one.clone(), replace("/Params/foo", json!({"a": 1})), 200),
        (foo, "PATCH", format!("{one}/params"), replace("/foo", json!(2)), 200),
        (
            foo,
            "PATCH",
            format!("meta/{one}"),
            replace("/color", json!("red")),
            200,
        ),
        (foo, "DELETE", params(&one, "foo"), Value::Null, 200),
        (foo, "POST", params(&one, "foobar"), json!(1), 403),
        (foo, "POST", params(&one, "bar"), json!(1), 403),
        (foo, "POST", format!("{one}/params"), json!({"foo": 1, "bar": 1}), 403),
        (foo, "PATCH", one.clone(), replace("/Description", json!("x")), 403),
        (
            foo,
            "PATCH",
            one.clone(),
            replace("/BootEnv", json!("sledgehammer")),
            403,
        ),
        (foo, "PATCH", format!("meta/{one}"), replace("/icon", json!("x")), 403),
        (
            foo,
            "PUT",
            one.clone(),
            json!({"Name": "mach-01", "Uuid": a, "Description": "x"}),
            403,
        ),
        (foo, "DELETE", one.clone(), Value::Null, 403),
        (foo, "GET", format!("{one}/token"), Value::Null, 403),
        (of_one, "PATCH", one.clone(), replace("/Description", json!("x")), 200),
        (of_one, "PATCH", two.clone(), replace("/Description", json!("x")), 403),
        (of_one, "GET", "machines/Name:mach-02".to_owned(), Value::Null, 403),
        (of_one, "GET", "machines/Name:mach-01".to_owned(), Value::Null, 200),
        (of_one, "POST", "machines".to_owned(), json!({"Name": "mach-03"}), 403),
        // Whoever may change a machine does not thereby set its secrets, nor say where they are sent.
        (of_one, "POST", params(&one, "my/secret"), json!("x"), 403),
        (
            of_one,
            "PATCH",
            one.clone(),
            replace("/Params/my~1secret", json!("x")),
            403,
        ),
        (of_one, "POST", params(&one, "ipmi/address"), json!("10.6.6.6"), 403),
        (
            of_one,
            "GET",
            format!("{}?decode=true", params(&one, "my/secret")),
            Value::Null,
            403,
        ),
        (of_one, "GET", format!("{one}?decode=true"), Value::Null, 403),
        (of_one, "GET", "machines?decode=true".to_owned(), Value::Null, 403),
        (
            &[("machines", "update,updateSecure", "*")],
            "POST",
            params(&one, "my/secret"),
            json!("x"),
            200,
        ),
        (
            &[("machines", "update,updateSecure", "*")],
            "POST",
            params(&one, "ipmi/address"),
            json!("10.6.6.6"),
            403,
        ),
        (
            &[("machines", "update,getSecure", "*")],
            "POST",
            params(&one, "ipmi/address"),
            json!("10.6.6.6"),
            200,
        ),
        (
            &[("machines", "get,getSecure", "*")],
            "GET",
            format!("{one}?decode=true"),
            Value::Null,
            200,
        ),
        (
            &[("machines", "create", "*")],
            "POST",
            "machines".to_owned(),
            json!({"Name": "m9", "Params": {"ipmi/address": "10.6.6.6"}}),
            403,
        ),
        (
            &[("machines", "create", "*")],
            "POST",
            "machines".to_owned(),
            json!({"Name": "m9"}),
            201,
        ),
        (
            &[("machines", "action:powerstatus", "*")],
            "POST",
            format!("{one}/actions/powerstatus"),
            json!({}),
            200,
        ),
        (
            &[("machines", "action:powerstatus", "*")],
            "POST",
            format!("{one}/actions/poweroff"),
            json!({}),
            403,
        ),
        (
            &[("machines", "action", "*")],
            "POST",
            format!("{one}/actions/powerstatus"),
            json!({}),
            200,
        ),
        (&[("machines", "*", "*")], "DELETE", two.clone(), Value::Null, 200),
        (&[("*", "get", "*")], "GET", "stages/none".to_owned(), Value::Null, 200),
        (
            &[("*", "get", "*")],
            "DELETE",
            "stages/none".to_owned(),
            Value::Null,
            403,
        ),
    ];
    let mut line = Line::new(&rig);
    for (n, (claims, method, path, body, want)) in cases.into_iter().enumerate() {
        let parts = |(scope, action, specific): &(&str, &str, &str)| json!({"scope": scope, "action": action, "specific": specific});
        let (role, user) = (format!("role-{n}"), format!("user-{n}"));
        rig.post(
            "/api/v3/roles",
            json!({"Name": role, "Claims": claims.iter().map(parts).collect::<Vec<_>>()}),
        )
        .await;
        rig.post("/api/v3/users", json!({"Name": user, "Roles": [role]})).await;
        let issue = move |o: &isobar_objects::Objects| {
            o.issue_user_token(&user, &UserTokenRequest::default(), &Principal::system())
        };
        let token = rig.objects.run(issue).await.unwrap();
        let (status, answer) = line
            .ask(method, &format!("/api/v3/{path}"), Some(token.as_str()), &body)
            .await;
        assert_eq!(status, want, "{claims:?}: {method} {path} {body}: {answer}");
    }
    let kept = rig.get(&format!("/api/v3/{one}")).await.json();
    assert_eq!((&kept["BootEnv"], &kept["Description"]), (&json!("local"), &json!("x")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_users_see_its_members_alone() {
    let rig = Rig::start().await;
    let (a, b) = (rig.machine("mach-01").await, rig.machine("mach-02").await);
    rig.post("/api/v3/users", json!({"Name": "jane", "Roles": ["superuser"]}))
        .await;
    let tenant = json!({"Name": "blue", "Members": {"machines": [a]}, "Users": ["jane"]});
    assert_eq!(rig.post("/api/v3/tenants", tenant).await.status, 201);
    let issue =
        |o: &isobar_objects::Objects| o.issue_user_token("jane", &UserTokenRequest::default(), &Principal::system());
    let token = rig.objects.run(issue).await.unwrap();
    let mut line = Line::new(&rig);
    for (method, path, want) in [
        ("GET", format!("/api/v3/machines/{a}"), 200),
        ("GET", format!("/api/v3/machines/{b}"), 403),
        ("PATCH", format!("/api/v3/machines/{b}"), 403),
        ("DELETE", format!("/api/v3/machines/{b}"), 403),
        ("POST", "/api/v3/machines".to_owned(), 403),
        ("POST", format!("/api/v3/machines/{b}/actions/powerstatus"), 403),
        ("GET", format!("/isobar/v1/boots?machine={b}"), 403),
        ("GET", "/isobar/v1/boots".to_owned(), 403),
        ("GET", format!("/isobar/v1/isos/{b}/sledgehammer/tree"), 404),
        ("GET", "/api/v3/stages/none".to_owned(), 200),
    ] {
        let (status, body) = line.ask(method, &path, Some(token.as_str()), &json!([])).await;
        assert_eq!(status, want, "{method} {path}: {body}");
    }
    let (_, shown) = line
        .ask("GET", "/api/v3/machines", Some(token.as_str()), &Value::Null)
        .await;
    let shown: Vec<_> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|machine| &machine["Uuid"])
        .collect();
    assert_eq!(shown, [&json!(a)]);
    let (_, isos) = line
        .ask("GET", "/isobar/v1/isos", Some(token.as_str()), &Value::Null)
        .await;
    assert_eq!(isos, json!([]), "the disc of another's machine");
}

#[test]
fn rights_on_parts_are_for_changes_alone() {
    for route in routes() {
        if let isobar_api::routes::Access::Right {
            action, on: On::Part, ..
        } = route.access
        {
            assert!(action == "update" && route.method != "GET", "{route:?}");
        }
    }
}

/// What a console says is an answer without an end: who may read it is looked at again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_console_ends_when_the_right_to_it_goes() {
    use http_body_util::BodyExt as _;

    let limits = isobar_api::Limits {
        rights: Duration::from_millis(50),
        ..isobar_api::Limits::default()
    };
    let rig = Rig::limited(limits).await;
    let machine = rig.machine("mach-01").await;
    let claims = json!([{"scope": "machines", "action": "console", "specific": "*"}]);
    let role = rig
        .post("/api/v3/roles", json!({"Name": "typist", "Claims": claims}))
        .await;
    assert_eq!(role.status, 201, "{role:?}");
    let user = rig
        .post("/api/v3/users", json!({"Name": "jane", "Roles": ["typist"]}))
        .await;
    assert_eq!(user.status, 201, "{user:?}");
    let issue =
        |o: &isobar_objects::Objects| o.issue_user_token("jane", &UserTokenRequest::default(), &Principal::system());
    let token = rig.objects.run(issue).await.unwrap();
    let stream = hyper_util::rt::TokioIo::new(rig.tls().await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::post(format!("/isobar/v1/machines/{machine}/console"))
        .header("host", "127.0.0.1")
        .header("authorization", format!("Bearer {}", token.as_str()));
    let request = request.body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert!(first.into_data().unwrap().starts_with(machine.as_bytes()));
    let taken = rig
        .ask("PATCH", "/api/v3/roles/typist")
        .json(&json!([{"op": "replace", "path": "/Claims", "value": []}]))
        .send()
        .await;
    assert_eq!(taken.status, 200, "{taken:?}");
    let mut said = Vec::new();
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(60), body.frame())
            .await
            .unwrap()
        {
            Some(Ok(frame)) => said.extend(frame.into_data().unwrap()),
            other => break other,
        }
    };
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("the right to it has gone"), "{said}");
    assert!(matches!(end, Some(Err(_))), "that is no good end");
}
