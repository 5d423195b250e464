//! Events and logs, watched.

use std::sync::Mutex;

use serde_json::json;

use super::support::{Answer, Server};
use super::{local, run};

#[test]
fn events_are_shown_as_they_come_and_after_a_break_from_where_it_was() {
    let answers = Mutex::new(vec![
        "id: 8\nevent: jobs.create\ndata: {\"Type\":\"jobs\",\"Action\":\"create\",\"Key\":\"k2\"}\n\n",
        ": alive\n\nid: 7\nevent: machines.update\ndata: {\"Time\":\"T\",\"Type\":\"machines\",\"Action\":\"update\",\
         \"Key\":\"k1\",\"Principal\":\"op\",\"Object\":{\"Name\":\"a\\u001b\"}}\n\n",
    ]);
    let server = Server::start(move |seen| match seen.target.split('?').next().unwrap() {
        "/isobar/v1/events" => Answer::bytes(200, answers.lock().unwrap().pop().unwrap_or_default().as_bytes()),
        _ => Answer::ok(json!({})),
    });
    let ran = run(
        &server,
        &[
            "isobar",
            "-F",
            "text",
            "events",
            "watch",
            "machines.*.*",
            "jobs.*.*",
            "--count",
            "2",
        ],
    );
    assert_eq!(
        ran.out, "T machines.update.k1 a\u{fffd} by op\n jobs.create.k2\n",
        "{}",
        ran.err
    );
    assert_eq!(
        ran.lines[1..],
        [
            "GET /isobar/v1/events?pattern=machines.%2A.%2A&pattern=jobs.%2A.%2A",
            "GET /isobar/v1/events?pattern=machines.%2A.%2A&pattern=jobs.%2A.%2A&after=7",
        ]
    );
    let other = Server::start(|seen| match seen.target.as_str() {
        "/isobar/v1/events" => Answer::error(404, "GET", "", "/isobar/v1/events", &["No route"]),
        _ => Answer::ok(json!({})),
    });
    assert!(
        run(&other, &["isobar", "events", "watch"])
            .err
            .contains("on Isobar's servers only")
    );
}

#[test]
fn log_lines_are_shown_once() {
    let looks = Mutex::new(0_u64);
    let server = Server::start(move |seen| match seen.target.as_str() {
        "/api/v3/logs" => {
            let mut looks = looks.lock().unwrap();
            *looks += 1;
            let line = |seq: u64| json!({"Seq": seq, "Time": "T", "Level": "info", "Service": "s", "Message": format!("m{seq}")});
            Answer::ok((1..=*looks + 1).map(line).collect())
        }
        _ => Answer::ok(json!({})),
    });
    let ran = run(&server, &["isobar", "-F", "table", "logs", "watch", "--count", "3"]);
    assert_eq!(ran.out, "T info s: m1\nT info s: m2\nT info s: m3\n");
}

#[test]
fn an_event_is_posted_and_a_password_hashed_without_a_server() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "POST" => Answer::bytes(204, b""),
        _ => Answer::ok(json!({})),
    });
    let ran = run(
        &server,
        &["isobar", "events", "post", "{Type: lab, Action: cabled, Key: rack-7}"],
    );
    assert_eq!((ran.status, ran.lines[1].as_str()), (0, "POST /events"), "{}", ran.err);
    assert_eq!(ran.seen[1].json()["Key"], "rack-7");
    let (status, out, err) = local(&["isobar", "users", "passwordhash", "hunter2"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with("\"$argon2id$v=19$"), "{out}");
}

#[test]
fn the_audit_log_is_shown_in_pages_and_followed() {
    let row = |seq: u64| {
        json!({"seq": seq, "time": "T", "principal": "user:jane", "source": "10.0.0.1", "action": "login", "type": "users",
            "key": "jane", "detail": "", "times": if seq == 1 { 3 } else { 1 }})
    };
    let server = Server::start(move |seen| match seen.target.split_once('?') {
        Some(("/isobar/v1/audit", query)) => {
            let number = |name: &str| {
                let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                pairs
                    .filter(|(n, _)| *n == name)
                    .find_map(|(_, value)| value.parse::<u64>().ok())
            };
            let limit = number("limit").unwrap();
            match (number("after"), number("before")) {
                (Some(3), _) => Answer::error(403, "AUTH", "audit", "", &["no more"]),
                (Some(after), _) => Answer::ok(json!([row(after + 1)])),
                (None, before) if limit > 2 => {
                    let end = before.unwrap_or(2001);
                    Answer::ok((end.saturating_sub(limit)..end).rev().map(row).collect())
                }
                (None, _) => Answer::ok(json!([row(2), row(1)])),
            }
        }
        _ => Answer::ok(json!({})),
    });
    let ran = run(
        &server,
        &[
            "isobar", "audit", "list", "--since", "2h", "--action", "login", "--limit", "1200",
        ],
    );
    let rows: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1200, "{}", ran.err);
    assert_eq!(
        ran.lines[1..],
        [
            "GET /isobar/v1/audit?since=2h&action=login&limit=1000",
            "GET /isobar/v1/audit?since=2h&action=login&limit=200&before=1001"
        ]
    );
    let ran = run(
        &server,
        &["isobar", "-F", "text", "audit", "list", "--limit", "2", "--follow"],
    );
    assert_eq!(
        ran.out,
        "T user:jane 10.0.0.1 login users jane (3 times)\nT user:jane 10.0.0.1 login users jane\nT user:jane 10.0.0.1 \
         login users jane\n",
        "{}",
        ran.err
    );
    assert!(ran.status != 0 && ran.err.contains("no more"), "{}", ran.err);
    let table = run(&server, &["isobar", "-F", "table", "audit", "list", "--limit", "2"]);
    assert!(
        table.out.contains("principal") && table.out.contains("user:jane"),
        "{}",
        table.out
    );
}

#[test]
fn tokens_are_revoked() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "DELETE" => Answer::bytes(204, b""),
        _ => Answer::ok(json!({})),
    });
    for (words, line) in [
        (&["isobar", "tokens", "revoke"][..], "DELETE /isobar/v1/token"),
        (
            &["isobar", "tokens", "revoke", "users", "fred"],
            "DELETE /isobar/v1/users/fred/tokens",
        ),
        (
            &["isobar", "tokens", "revoke", "machines", "Name:m"],
            "DELETE /isobar/v1/machines/Name:m/tokens",
        ),
    ] {
        let ran = run(&server, words);
        assert_eq!(
            (ran.status, ran.lines.last().map(String::as_str)),
            (0, Some(line)),
            "{}",
            ran.err
        );
    }
    assert!(
        run(&server, &["isobar", "tokens", "revoke", "fred"])
            .err
            .contains("say which")
    );
}
