//! Nobody gives away rights that they do not have.
#![allow(clippy::unwrap_used)]

mod common;

use common::{bench, root};
use isobar_model::ApiError;
use isobar_objects::{Objects, Principal, UserTokenRequest};
use serde_json::{Value, json};

fn role(name: &str, claims: &[(&str, &str, &str)]) -> Value {
    let claim = |(scope, action, specific): &(&str, &str, &str)| json!({"scope": scope, "action": action, "specific": specific});
    json!({"Name": name, "Claims": claims.iter().map(claim).collect::<Vec<_>>()})
}

/// A user with these rights, who has logged in.
fn user(o: &Objects, name: &str, claims: &[(&str, &str, &str)]) -> Principal {
    let role_name = format!("{name}-role");
    o.create("roles", &role(&role_name, claims), &root()).unwrap();
    o.create("users", &json!({"Name": name, "Roles": [role_name]}), &root())
        .unwrap();
    o.set_password(name, "a password", &root()).unwrap();
    o.authenticate(name, "a password", "10.0.0.1").unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>) {
    let error = result.unwrap_err();
    assert_eq!((error.code, error.type_.as_str()), (403, "AUTH"), "{error}");
}

#[test]
fn a_role_gives_what_its_maker_has() {
    let b = bench();
    let o = &b.objects;
    let boss = user(
        o,
        "boss",
        &[
            ("roles,users", "*", "*"),
            ("machines", "get,update", "*"),
            ("machines", "action:poweron", "m1,m2"),
            ("profiles", "update:/Params", "p1"),
        ],
    );
    let create = |name: &str, claims: &[(&str, &str, &str)]| o.create("roles", &role(name, claims), &boss);
    // Together from several claims, too, and narrower ones.
    create(
        "fits-1",
        &[("machines", "get,action:poweron", "m1"), ("users", "get", "x")],
    )
    .unwrap();
    create(
        "fits-2",
        &[
            ("machines", "update:/Params/x", "*"),
            ("profiles", "update:/Params/x", "p1"),
        ],
    )
    .unwrap();
    create("empty", &[]).unwrap();
    for wider in [
        ("*", "*", "*"),
        ("machines", "*", "m1"),
        ("machines", "get,delete", "m1"),
        ("machines", "action", "m1"),
        ("machines", "action:poweron", "*"),
        ("machines,stages", "get", "*"),
        ("profiles", "update:/Meta", "p1"),
        ("profiles", "update", "p1"),
        ("profiles", "update:/Params", "p2"),
    ] {
        refused(create("wider", &[wider]));
    }
    let many: String = (0..5000).map(|n| format!("m{n},")).collect();
    refused(create("many", &[("machines", "get", &many)]));
    // What is there already may stay; what comes along is looked at.
    o.create("roles", &role("old", &[("stages", "*", "*")]), &root())
        .unwrap();
    let add = |claim: Value| json!([{"op": "add", "path": "/Claims/-", "value": claim}]);
    let own = json!({"scope": "machines", "action": "get", "specific": "*"});
    o.patch("roles", "old", &add(own), false, &boss).unwrap();
    let more = json!({"scope": "tasks", "action": "get", "specific": "*"});
    refused(o.patch("roles", "old", &add(more.clone()), false, &boss));
    refused(o.patch("roles", "boss-role", &add(more), false, &boss));
    // A pack that brings a role, or somebody to be.
    let packer = user(o, "packer", &[("contents", "*", "*")]);
    let pack = |section: &str, object: Value| json!({"meta": {"Name": "pack", "Version": "1.0"}, "sections": {section: {"thing": object}}});
    refused(o.put_content(&pack("roles", role("thing", &[("*", "*", "*")])), None, &packer));
    let somebody = json!({"Name": "thing", "Roles": ["superuser"], "PasswordHash": "x"});
    refused(o.put_content(&pack("users", somebody), None, &packer));
    let address = json!({"Name": "thing", "Params": {"ipmi/address": "10.6.6.6"}});
    refused(o.put_content(&pack("profiles", address.clone()), None, &packer));
    o.put_content(
        &pack("roles", role("thing", &[("contents", "get", "*")])),
        None,
        &packer,
    )
    .unwrap();
    o.put_content(&pack("profiles", address), Some("pack"), &root())
        .unwrap();
}

#[test]
fn nobody_becomes_somebody_with_more_rights() {
    let b = bench();
    let o = &b.objects;
    let clerk = user(o, "clerk", &[("users", "*", "*"), ("machines", "get", "*")]);
    user(o, "less", &[("machines", "get", "m1")]);
    user(o, "more", &[("stages", "get", "*")]);
    let roles = |roles: &[&str]| json!([{"op": "replace", "path": "/Roles", "value": roles}]);
    let patch = |user: &str, to: &[&str]| o.patch("users", user, &roles(to), false, &clerk);
    for user in ["clerk", "less"] {
        refused(patch(user, &["superuser"]));
    }
    patch("more", &["more-role", "less-role"]).unwrap();
    refused(patch("more", &["more-role", "superuser"]));
    refused(o.create("users", &json!({"Name": "new", "Roles": ["more-role"]}), &clerk));
    o.create("users", &json!({"Name": "new", "Roles": ["less-role"]}), &clerk)
        .unwrap();
    // A password of their own choice is as good as the role itself.
    for theirs in ["more", "rocketskates"] {
        refused(o.set_password(theirs, "mine now", &clerk));
        let hash = json!([{"op": "add", "path": "/PasswordHash", "value": "$argon2id$mine"}]);
        refused(o.patch("users", theirs, &hash, false, &clerk));
        refused(o.issue_user_token(theirs, &UserTokenRequest::default(), &clerk));
    }
    o.set_password("less", "mine now", &clerk).unwrap();
    o.set_password("clerk", "another", &clerk).unwrap();
    o.issue_user_token("less", &UserTokenRequest::default(), &clerk)
        .unwrap();
    let narrow = UserTokenRequest {
        claim: Some(("machines".into(), "get".into(), "*".into())),
        ..UserTokenRequest::default()
    };
    o.issue_user_token("rocketskates", &narrow, &clerk).unwrap();
    // A narrow token of a user with many rights gets none of the others.
    let narrow = UserTokenRequest {
        claim: Some(("users".into(), "*".into(), "*".into())),
        ..UserTokenRequest::default()
    };
    let token = o.issue_user_token("rocketskates", &narrow, &root()).unwrap();
    let narrowed = o.verify(token.as_str()).unwrap();
    refused(o.set_password("rocketskates", "mine now", &narrowed));
    refused(o.patch("users", "less", &roles(&["superuser"]), false, &narrowed));
}

#[test]
fn nobody_leaves_a_tenant() {
    let b = bench();
    let o = &b.objects;
    let all = [("*", "*", "*")];
    user(o, "inside", &all);
    user(o, "beside", &all);
    user(o, "outside", &all);
    let tenant = json!({"Name": "red", "Members": {"machines": []}, "Users": ["inside", "beside"]});
    o.create("tenants", &tenant, &root()).unwrap();
    let inside = o.authenticate("inside", "a password", "10.0.0.1").unwrap();
    let wider = json!([{"op": "replace", "path": "/Users", "value": []}]);
    refused(o.patch("tenants", "red", &wider, false, &inside));
    refused(o.delete("tenants", "red", &inside));
    refused(o.create("tenants", &json!({"Name": "blue"}), &inside));
    refused(o.create("users", &json!({"Name": "new", "Roles": ["superuser"]}), &inside));
    for user in ["outside", "rocketskates"] {
        refused(o.set_password(user, "mine now", &inside));
        refused(o.issue_user_token(user, &UserTokenRequest::default(), &inside));
    }
    o.set_password("beside", "mine now", &inside).unwrap();
    o.set_password("inside", "another", &inside).unwrap();
    // Nor does a job lead to a machine outside.
    let machine = b.machine(json!({"Name": "mach-01"}));
    let uuid = common::text(&machine, "Uuid");
    let wanted = json!({"Machine": uuid});
    assert_eq!(o.next_job(&wanted, &inside).unwrap_err().code, 422);
    o.create("tasks", &json!({"Name": "task"}), &root()).unwrap();
    o.create("stages", &json!({"Name": "stage", "Tasks": ["task"]}), &root())
        .unwrap();
    b.set(uuid, "Stage", "stage".into()).unwrap();
    o.next_job(&wanted, &root()).unwrap();
    let job = o.get("machines", uuid).unwrap();
    let job = common::text(&job, "CurrentJob");
    assert_eq!(o.job_log(job, &inside).unwrap_err().code, 422);
    o.job_log(job, &root()).unwrap();
}

#[test]
fn an_empty_word_is_no_claim_on_everything() {
    let b = bench();
    let who = user(
        &b.objects,
        "jane",
        &[("machines", "get,", "m1,"), ("stages", "get", ""), ("", "get", "*")],
    );
    assert!(who.allows("machines", "get", "m1"));
    for (scope, key) in [
        ("machines", ""),
        ("machines", "m2"),
        ("stages", ""),
        ("stages", "none"),
        ("", ""),
    ] {
        assert!(!who.allows(scope, "get", key), "{scope} {key}");
    }
}

#[test]
fn what_changes_by_itself_is_no_content() {
    let b = bench();
    let pack = json!({"meta": {"Name": "pack", "Version": "1.0"}, "sections": {"machines": {"3e7031fe-3062-45f1-835c-92541bc9cbd3": {"Name": "m-one", "Uuid": "3e7031fe-3062-45f1-835c-92541bc9cbd3"}}}});
    let summary = b.objects.put_content(&pack, None, &root()).unwrap();
    assert!(
        summary["Warnings"][0].as_str().unwrap().contains("section machines"),
        "{summary}"
    );
    assert_eq!(b.objects.count("machines").unwrap(), 0);
}

#[test]
fn nobody_moves_a_bmc_by_a_profile() {
    let b = bench();
    let o = &b.objects;
    let bmc = |address: &str| json!({"Name": format!("at-{address}"), "Params": {"ipmi/address": address}});
    for address in ["10.0.0.1", "10.6.6.6"] {
        o.create("profiles", &bmc(address), &root()).unwrap();
    }
    o.create("profiles", &json!({"Name": "harmless"}), &root()).unwrap();
    o.create(
        "stages",
        &json!({"Name": "there", "Profiles": ["at-10.6.6.6"]}),
        &root(),
    )
    .unwrap();
    let machine =
        b.machine(json!({"Name": "mach-01", "Profiles": ["at-10.0.0.1"], "Params": {"ipmi/password": "s3cret"}}));
    let uuid = common::text(&machine, "Uuid");
    let clerk = user(o, "clerk", &[("machines", "get,update", "*"), ("profiles", "*", "*")]);
    let profiles = |all: &[&str]| json!([{"op": "replace", "path": "/Profiles", "value": all}]);
    for all in [&["at-10.6.6.6", "at-10.0.0.1"][..], &["at-10.6.6.6"], &[]] {
        refused(o.patch("machines", uuid, &profiles(all), false, &clerk));
    }
    o.patch("machines", uuid, &profiles(&["harmless", "at-10.0.0.1"]), false, &clerk)
        .unwrap();
    o.patch("machines", uuid, &profiles(&[]), false, &root()).unwrap();
    let stage = json!([{"op": "replace", "path": "/Stage", "value": "there"}]);
    refused(o.patch("machines", uuid, &stage, false, &clerk));
    o.patch("machines", uuid, &stage, false, &root()).unwrap();
}

#[test]
fn a_machine_does_not_choose_the_stage_whose_secrets_it_gets() {
    let b = bench();
    let o = &b.objects;
    o.create("params", &json!({"Name": "my/secret", "Secure": true}), &root())
        .unwrap();
    let make = |noun: &str, object: Value| drop(o.create(noun, &object, &root()).unwrap());
    make("profiles", json!({"Name": "vault", "Params": {"my/secret": "s3cret"}}));
    make("tasks", json!({"Name": "task"}));
    make("stages", json!({"Name": "plain", "Tasks": ["task"]}));
    make("stages", json!({"Name": "by-profile", "Profiles": ["vault"]}));
    make("stages", json!({"Name": "by-param", "Params": {"my/secret": "s3cret"}}));
    make("stages", json!({"Name": "bmc", "Params": {"ipmi/address": "10.6.6.6"}}));
    make("workflows", json!({"Name": "harmless", "Stages": ["plain"]}));
    make(
        "workflows",
        json!({"Name": "through-it", "Stages": ["plain", "by-param"]}),
    );
    let machine = b.machine(json!({"Name": "mach-01"}));
    let uuid = common::text(&machine, "Uuid");
    let token = o
        .issue_machine_token(uuid, std::time::Duration::from_secs(600), &root())
        .unwrap();
    let itself = o.verify(token.as_str()).unwrap();
    let set = |member: &str, value: Value, by: &Principal| {
        let ops = json!([{"op": "replace", "path": format!("/{member}"), "value": value}]);
        o.patch("machines", uuid, &ops, true, by)
    };
    for stage in ["by-profile", "by-param", "bmc"] {
        refused(set("Stage", stage.into(), &itself));
        refused(set("Tasks", json!(["task", format!("stage:{stage}")]), &itself));
    }
    refused(set("Workflow", "through-it".into(), &itself));
    // What its tasks need: other stages, other workflows, and all that somebody else set it on.
    set("Stage", "plain".into(), &itself).unwrap();
    set("Workflow", "harmless".into(), &itself).unwrap();
    set("Workflow", "through-it".into(), &root()).unwrap();
    for _ in 0..2 {
        let job = o.next_job(&json!({"Machine": uuid}), &itself).unwrap();
        if let isobar_objects::NextJob::Made(job) = job {
            let done = json!([{"op": "replace", "path": "/State", "value": "finished"}]);
            o.patch("jobs", common::text(&job, "Uuid"), &done, false, &itself)
                .unwrap();
        }
    }
    assert_eq!(common::text(&o.get("machines", uuid).unwrap(), "Stage"), "by-param");
    set("Workflow", "".into(), &itself).unwrap();
    refused(set("Stage", "by-param".into(), &itself));
}
