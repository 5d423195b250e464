//! Users, tokens, what they may, and preferences.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{PASSWORD, bench, options, root, text};
use isobar_model::ApiError;
use isobar_objects::{Objects, Token, TokenState, UserTokenRequest};
use isobar_store::{ManualClock, SqliteStore, Store, Txn, Vault};
use serde_json::{Value, json};

fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>) {
    assert_eq!(result.unwrap_err().code, 403);
}

fn plain() -> UserTokenRequest {
    UserTokenRequest::default()
}

#[test]
fn the_first_user_may_everything_and_no_hash_is_shown() {
    let b = bench();
    let root = b.objects.authenticate("rocketskates", PASSWORD, "::1").unwrap();
    assert!(root.allows("machines", "delete", "x") && root.user() == Some("rocketskates"));
    refused(b.objects.authenticate("rocketskates", "wrong", "::1"));
    refused(b.objects.authenticate("nobody", PASSWORD, "::1"));
    let user = b.objects.get("users", "rocketskates").unwrap();
    assert!(!user.contains_key("PasswordHash"), "{user:?}");
    let history = b.objects.store().events(isobar_store::Rev(0), 1000).unwrap();
    assert!(history.events.iter().any(|e| e.event.kind == "users"));
    assert!(!format!("{:?}", history.events).contains("argon2"));
    assert!(b.objects.first_password().is_none(), "it was given");
}

#[test]
fn a_random_first_password_is_told_once() {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
    let vault = Arc::new(Vault::ephemeral());
    let open = || {
        let mut options = options(&Arc::new(ManualClock::new(0)));
        options.first_user.1 = None;
        Objects::open(Arc::clone(&store), Arc::clone(&vault), options).unwrap()
    };
    let o = open();
    let password = o.first_password().unwrap();
    assert!(password.len() >= 16 && o.first_password().is_none());
    o.authenticate("rocketskates", &password, "::1").unwrap();
    let again = open();
    assert!(again.first_password().is_none());
    again.authenticate("rocketskates", &password, "::1").unwrap();
    assert_eq!(again.count("users").unwrap(), 1);
}

#[test]
fn guessing_is_slowed_down() {
    let b = bench();
    for _ in 0..6 {
        refused(b.objects.authenticate("rocketskates", "guess", "10.0.0.9"));
    }
    let slowed = b
        .objects
        .authenticate("rocketskates", PASSWORD, "10.0.0.9")
        .unwrap_err();
    assert_eq!(slowed.code, 429);
    b.objects.authenticate("rocketskates", PASSWORD, "10.0.0.1").unwrap();
    b.clock.advance(30);
    b.objects.authenticate("rocketskates", PASSWORD, "10.0.0.9").unwrap();
}

#[test]
fn a_token_ends_by_time_revocation_or_a_new_password() {
    let b = bench();
    let o = &b.objects;
    let issue = |ttl: Option<u64>| {
        let request = UserTokenRequest {
            ttl: ttl.map(Duration::from_secs),
            ..plain()
        };
        o.issue_user_token("rocketskates", &request, &root()).unwrap()
    };
    let (short, long, revoked) = (issue(Some(10)), issue(Some(7200)), issue(None));
    assert_eq!(long.as_str().len(), 43);
    assert!(!format!("{long:?}").contains(long.as_str()));
    assert_eq!(o.verify(short.as_str()).unwrap().name(), "user:rocketskates");
    o.revoke(revoked.as_str(), &root()).unwrap();
    o.revoke(revoked.as_str(), &root()).unwrap();
    refused(o.verify(revoked.as_str()));
    b.clock.advance(10);
    refused(o.verify(short.as_str()));
    o.verify(long.as_str()).unwrap();
    refused(o.verify("no such token"));
    refused(o.verify(""));
    o.set_password("rocketskates", "new", &root()).unwrap();
    refused(o.verify(long.as_str()));
    o.authenticate("rocketskates", "new", "::1").unwrap();
    refused(o.authenticate("rocketskates", PASSWORD, "::1"));

    let before = issue(None);
    o.set_prefs(&json!({"baseTokenSecret": "0123456789abcdef0123456789abcdef"}), &root())
        .unwrap();
    refused(o.verify(before.as_str()));
    let before = issue(None);
    o.create("users", &json!({"Name": "jane"}), &root()).unwrap();
    let jane = o.issue_user_token("jane", &plain(), &root()).unwrap();
    o.delete("users", "jane", &root()).unwrap();
    refused(o.verify(jane.as_str()));
    o.verify(before.as_str()).unwrap();
}

#[test]
fn no_token_is_for_ever_and_no_password_outlives_its_change() {
    let b = bench();
    let o = &b.objects;
    o.create("users", &json!({"Name": "jane"}), &root()).unwrap();
    let issue = || {
        let request = UserTokenRequest {
            ttl: Some(Duration::MAX),
            ..plain()
        };
        o.issue_user_token("jane", &request, &root()).unwrap()
    };
    let token = issue();
    let change = |path: &str, value: &str| {
        let ops = json!([{"op": "add", "path": path, "value": value}]);
        o.patch("users", "jane", &ops, false, &root()).unwrap();
    };
    change("/Description", "x");
    o.verify(token.as_str()).unwrap();
    // As a client sets it that hashes for itself.
    change(
        "/PasswordHash",
        "$argon2id$v=19$m=16,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
    );
    refused(o.verify(token.as_str()));
    let token = issue();
    b.clock.advance(3 * 366 * 86_400 - 1);
    o.verify(token.as_str()).unwrap();
    b.clock.advance(1);
    refused(o.verify(token.as_str()));
}

#[test]
fn expired_tokens_are_forgotten() {
    let b = bench();
    let o = &b.objects;
    for _ in 0..5 {
        o.issue_user_token("rocketskates", &plain(), &root()).unwrap();
    }
    b.clock.advance(3600);
    let kept = o.issue_user_token("rocketskates", &plain(), &root()).unwrap();
    assert_eq!(o.store().count("_tokens").unwrap(), 1);
    o.verify(kept.as_str()).unwrap();
}

#[test]
fn roles_and_claims_narrow_a_token() {
    let b = bench();
    let o = &b.objects;
    let reader = json!({"Name": "reader", "Claims": [{"scope": "machines", "action": "get,list", "specific": "*"}]});
    o.create("roles", &reader, &root()).unwrap();
    assert_eq!(
        o.create("users", &json!({"Name": "joe", "Roles": ["nope"]}), &root())
            .unwrap_err()
            .messages,
        ["Role nope does not exist"]
    );
    o.create("users", &json!({"Name": "jane", "Roles": ["reader"]}), &root())
        .unwrap();
    assert_eq!(
        o.delete("roles", "reader", &root()).unwrap_err().messages,
        ["Role reader in use by User jane"]
    );
    let verify = |request: &UserTokenRequest| {
        let token = o.issue_user_token("jane", request, &root()).unwrap();
        o.verify(token.as_str()).unwrap()
    };
    let all = verify(&plain());
    assert!(all.allows("machines", "get", "m1") && all.allows("machines", "list", ""));
    assert!(!all.allows("machines", "update", "m1") && !all.allows("users", "list", ""));
    let claim = |scope: &str| UserTokenRequest {
        claim: Some((scope.to_owned(), "*".to_owned(), "m1".to_owned())),
        ..plain()
    };
    let one = verify(&claim("machines"));
    assert!(one.allows("machines", "get", "m1"));
    assert!(!one.allows("machines", "get", "m2") && !one.allows("machines", "update", "m1"));
    let foreign = UserTokenRequest {
        roles: vec!["superuser".to_owned()],
        ..plain()
    };
    refused(o.issue_user_token("jane", &foreign, &root()));
    // Whoever comes with a narrow token gets no wide one for it.
    let renewed = o.issue_user_token("jane", &plain(), &one).unwrap();
    assert!(!o.verify(renewed.as_str()).unwrap().allows("machines", "get", "m2"));
    // A role that loses a claim takes it from tokens that are out.
    let none = json!([{"op": "replace", "path": "/Claims", "value": []}]);
    let token = o.issue_user_token("jane", &plain(), &root()).unwrap();
    o.patch("roles", "reader", &none, false, &root()).unwrap();
    assert!(!o.verify(token.as_str()).unwrap().allows("machines", "get", "m1"));
}

#[test]
fn a_machine_reaches_itself_and_not_its_bmc() {
    let b = bench();
    let o = &b.objects;
    let params = json!({"ipmi/address": "10.0.0.5", "ipmi/password": "calvin"});
    let machine = b.machine(json!({"Name": "mach-01", "Params": params}));
    let uuid = text(&machine, "Uuid");
    let other = b.machine(json!({"Name": "mach-02"}));
    let token = o
        .issue_machine_token("Name:mach-01", Duration::from_secs(600), &root())
        .unwrap();
    let me = o.verify(token.as_str()).unwrap();
    assert_eq!(me.machine(), Some(uuid));

    let set = |member: &str, value: Value| {
        let ops = json!([{"op": "replace", "path": format!("/{member}"), "value": value}]);
        o.patch("machines", uuid, &ops, false, &me)
    };
    set("Address", json!("192.168.77.10")).unwrap();
    set("HardwareAddrs", json!(["52:54:00:00:00:01"])).unwrap();
    set("Runnable", json!(true)).unwrap();
    o.set_param("machines", uuid, "gohai-inventory", &json!({"CPU": {}}), &me)
        .unwrap();
    for (member, value) in [("Name", json!("x1")), ("Secret", json!("s")), ("Locked", json!(true))] {
        refused(set(member, value));
    }
    refused(set("Params", json!({})));
    for param in [
        "ipmi/address",
        "ipmi/password",
        "ipmi/port-redfish",
        "ipmi/port-ipmitool",
        "boot-virtual-iso-url",
        "isobar/server-address-bmc",
    ] {
        refused(o.set_param("machines", uuid, param, &json!("10.6.6.6"), &me));
    }
    refused(o.delete_param("machines", uuid, "ipmi/address", &me));
    refused(o.set_params("machines", uuid, &json!({"a1": 1}), &me));
    refused(o.set_param("machines", text(&other, "Uuid"), "a1", &json!(1), &me));
    refused(o.set_param("profiles", "global", "a1", &json!(1), &me));
    refused(o.create("machines", &json!({"Name": "mach-03"}), &me));
    refused(o.delete("machines", uuid, &me));
    refused(o.set_password("rocketskates", "mine", &me));
    refused(o.set_prefs(&json!({"logLevel": "info"}), &me));
    refused(o.issue_user_token("rocketskates", &plain(), &me));
    refused(o.update_with("users", "rocketskates", &me, |_| Ok(())));
    assert_eq!(o.resolve(uuid, "ipmi/address").unwrap().unwrap().value, "10.0.0.5");

    o.patch(
        "machines",
        uuid,
        &json!([{"op": "replace", "path": "/Secret", "value": "renewed"}]),
        false,
        &root(),
    )
    .unwrap();
    refused(o.verify(token.as_str()));
}

#[test]
fn a_machines_token_tells_whether_it_was_used() {
    let b = bench();
    let o = &b.objects;
    let machine = b.machine(json!({"Name": "mach-01"}));
    let uuid = text(&machine, "Uuid");
    let mut txn = Txn::default();
    let token = o
        .prepare_machine_token(uuid, Duration::from_secs(600), &mut txn)
        .unwrap();
    let state = || o.token_state(token.as_str()).unwrap();
    assert_eq!(state(), TokenState::Unknown);
    refused(o.verify(token.as_str()));
    o.store().commit(txn).unwrap();
    assert_eq!((state(), state()), (TokenState::Fresh, TokenState::Fresh));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| o.verify(token.as_str()).unwrap());
        }
    });
    assert_eq!(state(), TokenState::Used);
    let rev = o.store().rev().unwrap();
    o.verify(token.as_str()).unwrap();
    assert_eq!(o.store().rev().unwrap(), rev, "noted once");
    b.clock.advance(600);
    assert_eq!(state(), TokenState::Unknown);
    assert_eq!(
        o.prepare_machine_token("nobody", Duration::ZERO, &mut Txn::default())
            .unwrap_err()
            .code,
        404
    );
}

#[test]
fn preferences_are_all_or_nothing() {
    let b = bench();
    let o = &b.objects;
    let prefs = o.prefs().unwrap();
    assert_eq!(
        (prefs["defaultBootEnv"].as_str(), prefs["knownTokenTimeout"].as_str()),
        (Some("local"), Some("3600"))
    );
    assert!(!prefs.contains_key("baseTokenSecret") && !prefs.contains_key("defaultWorkflow"));
    let cases = [
        (json!({"greg": "x"}), "POST: prefs: Unknown Preference greg"),
        (
            json!({"defaultBootEnv": "illegal"}),
            "POST: prefs: defaultBootEnv: Bootenv illegal does not exist",
        ),
        (
            json!({"unknownBootEnv": "local"}),
            "POST: prefs: unknownBootEnv: BootEnv local cannot be used for the unknownBootEnv",
        ),
        (
            json!({"baseTokenSecret": "short"}),
            "POST: prefs: baseTokenSecret: Must be 32 bytes long",
        ),
        (
            json!({"logLevel": "info", "defaultStage": "gone"}),
            "POST: prefs: defaultStage: Stage gone does not exist",
        ),
    ];
    for (pairs, want) in cases {
        assert_eq!(o.set_prefs(&pairs, &root()).unwrap_err().to_string(), want);
    }
    assert_eq!(o.prefs().unwrap(), prefs);
    let set = json!({"defaultWorkflow": "discover-base", "logLevel": "debug"});
    assert_eq!(o.set_prefs(&set, &root()).unwrap()["logLevel"], "debug");
    let machine = b.machine(json!({"Name": "mach-01"}));
    assert_eq!(
        (text(&machine, "Workflow"), text(&machine, "BootEnv")),
        ("discover-base", "sledgehammer")
    );
    o.set_prefs(&json!({"defaultWorkflow": ""}), &root()).unwrap();
    assert_eq!(text(&b.machine(json!({"Name": "mach-02"})), "Workflow"), "");
}

#[test]
fn a_replaced_user_keeps_the_secret_that_was_not_said() {
    let b = bench();
    let o = &b.objects;
    let user = o.create("users", &json!({"Name": "jane"}), &root()).unwrap();
    let token = o.issue_user_token("jane", &plain(), &root()).unwrap();
    let again = o.replace(
        "users",
        "jane",
        &json!({"Name": "jane", "Description": "x"}),
        false,
        &root(),
    );
    assert_eq!(text(&again.unwrap(), "Secret"), text(&user, "Secret"));
    o.verify(token.as_str()).unwrap();
}

#[test]
fn a_token_that_was_looked_at_is_looked_at_again_when_something_changed() {
    let b = bench();
    let o = &b.objects;
    let role = |claims: Value| json!([{"op": "replace", "path": "/Claims", "value": claims}]);
    let reads = json!([{"scope": "machines", "action": "get", "specific": "*"}]);
    o.create("roles", &json!({"Name": "reader", "Claims": reads.clone()}), &root())
        .unwrap();
    o.create("users", &json!({"Name": "jane", "Roles": ["reader"]}), &root())
        .unwrap();
    let issue = || {
        let token = o.issue_user_token("jane", &plain(), &root()).unwrap();
        assert!(o.verified_before(token.as_str()).is_none());
        assert!(o.verify(token.as_str()).unwrap().allows("machines", "get", "m1"));
        let known = o.verified_before(token.as_str()).unwrap();
        assert!(known.allows("machines", "get", "m1") && known.user() == Some("jane"));
        token
    };
    let reads_no_more = |token: &Token| {
        let now = o.verified_before(token.as_str());
        assert!(now.is_none_or(|who| !who.allows("machines", "get", "m1")));
        let now = o.verify(token.as_str());
        assert!(now.is_err() || !now.unwrap().allows("machines", "get", "m1"));
    };

    let token = issue();
    o.patch("roles", "reader", &role(json!([])), false, &root()).unwrap();
    reads_no_more(&token);
    o.patch("roles", "reader", &role(reads), false, &root()).unwrap();

    let token = issue();
    let tenant = json!({"Name": "acme", "Members": {"machines": ["m2"]}, "Users": ["jane"]});
    o.create("tenants", &tenant, &root()).unwrap();
    reads_no_more(&token);
    o.delete("tenants", "acme", &root()).unwrap();

    let token = issue();
    let roles = json!([{"op": "replace", "path": "/Roles", "value": []}]);
    o.patch("users", "jane", &roles, false, &root()).unwrap();
    reads_no_more(&token);
    let roles = json!([{"op": "replace", "path": "/Roles", "value": ["reader"]}]);
    o.patch("users", "jane", &roles, false, &root()).unwrap();

    let (token, other) = (issue(), issue());
    o.revoke(token.as_str(), &root()).unwrap();
    reads_no_more(&token);
    assert!(o.verify(other.as_str()).is_ok());
    o.set_password("jane", "another", &root()).unwrap();
    reads_no_more(&other);

    let token = issue();
    let secret = "0123456789abcdef0123456789abcdef";
    o.set_prefs(&json!({"baseTokenSecret": secret}), &root()).unwrap();
    reads_no_more(&token);

    let token = issue();
    b.clock.advance(3_601);
    reads_no_more(&token);
}
