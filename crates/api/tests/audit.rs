//! The audit log: each kind of deed is in it, no secret is, and nothing takes a row away.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{PASSWORD, Rig};
use isobar_api::routes::routes;
use serde_json::{Value, json};

async fn audit(rig: &Rig, query: &str) -> Vec<Value> {
    let reply = rig.get(&format!("/isobar/v1/audit?limit=1000&{query}")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json().as_array().unwrap().clone()
}

/// The newest row that a query finds; what is no commit takes a second.
async fn told(rig: &Rig, query: &str) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(row) = audit(rig, query).await.into_iter().next() {
            return row;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing of {query} is told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_told_and_no_secret_with_it() {
    let rig = Rig::start().await;
    let ask = |method: &str, path: &str| rig.ask(method, path);
    let patch = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let uuid = rig.machine("mach-01").await;
    let machine = format!("/api/v3/machines/{uuid}");
    ask("PATCH", &machine)
        .json(&patch("/Stage", json!("none")))
        .send()
        .await;
    ask("PATCH", &machine)
        .json(&patch("/Description", json!("s3cret-text")))
        .send()
        .await;
    ask("POST", &format!("{machine}/params/ipmi/password"))
        .json(&json!("s3cret-bmc"))
        .send()
        .await;
    ask("GET", &format!("{machine}/params/ipmi/password?decode=true"))
        .send()
        .await;
    ask("GET", &format!("{machine}?decode=true")).send().await;
    ask("GET", "/api/v3/machines?decode=true").send().await;
    ask("POST", "/api/v3/users")
        .json(&json!({"Name": "jane", "Roles": ["superuser"]}))
        .send()
        .await;
    ask("PUT", "/api/v3/users/jane/password")
        .json(&json!({"Password": "s3cret-jane"}))
        .send()
        .await;
    let token = rig.get("/api/v3/users/jane/token?ttl=60&scope=machines").await.json()["Token"].clone();
    let token = token.as_str().unwrap().to_owned();
    rig.bare("DELETE", "/isobar/v1/token").token(&token).send().await;
    rig.bare("GET", "/api/v3/info").token(&token).send().await;
    rig.bare("GET", "/api/v3/info")
        .basic("jane", "s3cret-wrong")
        .send()
        .await;
    rig.bare("GET", "/api/v3/info")
        .basic("s3cret-typed-as-name", "x")
        .send()
        .await;
    rig.bare("GET", "/api/v3/info")
        .basic("jane", "s3cret-jane")
        .send()
        .await;
    ask("DELETE", &format!("/isobar/v1/machines/{uuid}/tokens"))
        .send()
        .await;
    ask("POST", "/api/v3/prefs")
        .json(&json!({"logLevel": "info", "systemGrantorSecret": "s3cret-grantor"}))
        .send()
        .await;
    ask("POST", "/api/v3/files/a.txt")
        .body("application/octet-stream", "s3cret-file")
        .send()
        .await;
    ask("DELETE", "/api/v3/files/a.txt").send().await;
    let pack = json!({"meta": {"Name": "pack", "Version": "v1"}, "sections": {"profiles": {"p9": {"Name": "p9"}}}});
    assert_eq!(ask("POST", "/api/v3/contents").json(&pack).send().await.status, 201);
    let exchange = json!({"machine": uuid, "attempt": "a", "secret": "s3cret-boot", "nonce": "n"});
    assert_eq!(
        rig.bare("POST", "/isobar/v1/agent/exchange")
            .json(&exchange)
            .send()
            .await
            .status,
        403
    );
    assert_eq!(told(&rig, "action=exchange-refused").await["key"], json!(uuid));
    ask("DELETE", &machine).send().await;

    let root = "principal=user:rocketskates&source=127.0.0.1";
    for (query, kind, key, detail) in [
        (
            &*format!("action=create&{root}&type=machines"),
            "machines",
            &*uuid,
            "Name=mach-01 Stage=none BootEnv=local Runnable=true",
        ),
        ("action=update&type=machines&limit=1", "machines", &uuid, "Secret"),
        ("action=revoke&type=machines", "machines", &uuid, "all tokens"),
        ("action=delete&type=machines", "machines", &uuid, "Name=mach-01"),
        (
            "action=update&type=users&key=jane",
            "users",
            "jane",
            "PasswordHash Secret",
        ),
        ("action=grant", "users", "jane", "ttl=60 claim=machines * *"),
        (
            "action=revoke&type=users&key=jane&principal=user:jane",
            "users",
            "jane",
            "one token",
        ),
        ("action=token-refused", "tokens", "", ""),
        ("action=login-refused&key=jane", "users", "jane", "wrong password"),
        ("action=login-refused&key=", "users", "", "no such user"),
        ("action=login&principal=user:jane", "users", "jane", ""),
        ("action=login&principal=user:rocketskates", "users", "rocketskates", ""),
        (
            "action=update&type=preferences",
            "preferences",
            "",
            "logLevel=info systemGrantorSecret",
        ),
        ("action=revoke&type=tokens", "tokens", "", "all tokens"),
        ("action=post&type=files", "files", "a.txt", &file_detail()),
        ("action=delete&type=files", "files", "a.txt", ""),
        ("action=create&type=contents", "contents", "pack", ""),
        ("action=getSecure&key=", "machines", "", "a list"),
    ] {
        let row = told(&rig, query).await;
        assert_eq!(
            (row["type"].as_str(), row["key"].as_str(), row["detail"].as_str()),
            (Some(kind), Some(key), Some(detail)),
            "{query}: {row}"
        );
    }
    // One look at a param and one at all of the machine: the same row, if the second came before it was written.
    let looked = told(&rig, &format!("action=getSecure&key={uuid}&{root}")).await;
    assert!(matches!(looked["times"].as_u64(), Some(1 | 2)), "{looked}");
    let changes = audit(&rig, &format!("type=machines&key={uuid}&action=update&after=0")).await;
    let changes: Vec<_> = changes.iter().map(|row| row["detail"].as_str().unwrap()).collect();
    assert_eq!(changes, ["Description", "Params/ipmi/password", "Secret"]);

    let all = audit(&rig, "").await;
    let text = json!(all).to_string();
    assert!(
        !text.contains("s3cret") && !text.contains(&token) && !text.contains(PASSWORD),
        "{text}"
    );
    let seqs: Vec<_> = all.iter().map(|row| row["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted_by(|a, b| a > b), "{seqs:?}");
    let page = audit(&rig, &format!("before={}&limit=2", seqs[3])).await;
    assert_eq!(
        page.iter().map(|row| row["seq"].as_u64().unwrap()).collect::<Vec<_>>(),
        seqs[4..6]
    );
    let since = all[0]["time"].as_str().unwrap();
    assert!(!audit(&rig, &format!("since={since}")).await.is_empty());
    assert!(audit(&rig, "until=1999-01-01T00:00:00Z").await.is_empty() && audit(&rig, "until=2h").await.is_empty());
    assert!(audit(&rig, "since=2h").await.len() >= all.len());
    for wrong in ["since=yesterday", "after=x", "limit=-1", "who=me"] {
        assert_eq!(
            rig.get(&format!("/isobar/v1/audit?{wrong}")).await.status,
            400,
            "{wrong}"
        );
    }
}

fn file_detail() -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, b"s3cret-file");
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("11 bytes, sha256 {hex}")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_changes_a_row() {
    for route in routes() {
        assert!(!route.path.contains("audit") || route.method == "GET", "{route:?}");
    }
    let rig = Rig::start().await;
    rig.machine("mach-01").await;
    let before = audit(&rig, "action=create").await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for path in [
            "/isobar/v1/audit",
            "/isobar/v1/audit/1",
            "/api/v3/audit",
            "/api/v3/_audit/1",
        ] {
            let reply = rig.ask(method, path).json(&json!([])).send().await;
            assert_eq!(reply.status, 404, "{method} {path}");
        }
    }
    assert_eq!(audit(&rig, "action=create").await, before);
}

/// A refusal costs the server a row a minute, not one each, and tells how long to wait.
#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_waits_and_fills_no_disk() {
    let rig = Rig::start().await;
    let guess = || rig.bare("GET", "/api/v3/info").basic("rocketskates", "wrong").send();
    for _ in 0..6 {
        assert_eq!(guess().await.status, 403);
    }
    for _ in 0..20 {
        let slowed = guess().await;
        assert_eq!(slowed.status, 429);
        let text = slowed.json()["Messages"][0].as_str().unwrap().to_owned();
        assert!(
            text.starts_with("too many wrong passwords: try again in ") && text.ends_with(" s"),
            "{text}"
        );
        let seconds = text.split(' ').rev().nth(1).unwrap();
        assert_eq!(slowed.header("retry-after"), seconds);
    }
    let token = {
        let issue = |o: &isobar_objects::Objects| {
            let root = isobar_objects::Principal::system();
            o.issue_user_token("rocketskates", &isobar_objects::UserTokenRequest::default(), &root)
        };
        rig.objects.run(issue).await.unwrap()
    };
    let ask = async || {
        let path = "/isobar/v1/audit?action=login-refused&after=0";
        let reply = rig.bare("GET", path).token(token.as_str()).send().await;
        assert_eq!(reply.status, 200, "a token goes on working");
        reply.json().as_array().unwrap().clone()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let rows = loop {
        let rows = ask().await;
        if rows.iter().any(|row| row["detail"] == "had to wait") {
            break rows;
        }
        assert!(tokio::time::Instant::now() < deadline, "{rows:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(rows.len() <= 4, "{rows:?}");
    assert!(
        rows.iter()
            .all(|row| row["key"] == "rocketskates" && row["principal"] == ""),
        "{rows:?}"
    );
}
