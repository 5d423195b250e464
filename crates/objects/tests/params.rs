//! Params: where they come from, what they may be, and secrets that are never stored in clear.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::{Bench, bench, options, root, text};
use isobar_objects::Objects;
use isobar_store::vault::seal_for;
use isobar_store::{ManualClock, SqliteStore, StoreOptions, Vault};
use serde_json::{Value, json};

const CANARY: &str = "canary-7f3a9c51";

fn world() -> (Bench, String) {
    let b = bench();
    let create = |noun: &str, input: Value| b.objects.create(noun, &input, &root()).unwrap();
    create(
        "params",
        json!({"Name": "level", "Schema": {"type": "integer", "default": 9}}),
    );
    create(
        "params",
        json!({"Name": "hush", "Secure": true, "Schema": {"type": "string"}}),
    );
    create(
        "profiles",
        json!({"Name": "inner", "Params": {"from": "inner", "deep": 1}}),
    );
    create(
        "profiles",
        json!({"Name": "outer", "Params": {"from": "outer"}, "Profiles": ["inner"]}),
    );
    create("stages", json!({"Name": "st-1", "Params": {"from": "stage", "st": 1}}));
    b.objects
        .set_param("profiles", "global", "gl", &json!("global"), &root())
        .unwrap();
    let machine = b.machine(json!({"Name": "mach-01", "Stage": "st-1", "Profiles": ["outer"], "Params": {"own": [1]}}));
    let uuid = text(&machine, "Uuid").to_owned();
    (b, uuid)
}

#[test]
fn own_params_are_set_shown_and_removed() {
    let (b, uuid) = world();
    let o = &b.objects;
    let key = "Name:mach-01";
    assert_eq!(o.param("machines", key, "unset", false, false).unwrap(), Value::Null);
    assert_eq!(
        o.set_param("machines", key, "ipmi/mode", &json!("redfish"), &root())
            .unwrap(),
        "redfish"
    );
    o.set_param("machines", key, "nothing", &Value::Null, &root()).unwrap();
    let shown = o.params("machines", key, false, false).unwrap();
    assert_eq!(
        Value::Object(shown),
        json!({"own": [1], "ipmi/mode": "redfish", "nothing": null})
    );
    assert_eq!(o.delete_param("machines", key, "own", &root()).unwrap(), json!([1]));
    let missing = o.delete_param("machines", key, "own", &root()).unwrap_err();
    assert_eq!(missing.to_string(), "DELETE: params/own: Not Found");

    let ops =
        json!([{"op": "test", "path": "/ipmi~1mode", "value": "redfish"}, {"op": "add", "path": "/a1", "value": 1}]);
    let patched = o.patch_params("machines", key, &ops, &root()).unwrap();
    assert_eq!(patched["a1"], 1);
    let failed = o
        .patch_params(
            "machines",
            key,
            &json!([{"op": "test", "path": "/a1", "value": 2}]),
            &root(),
        )
        .unwrap_err();
    assert_eq!(
        (failed.code, failed.messages.len(), failed.key.as_str()),
        (409, 2, uuid.as_str())
    );
    assert_eq!(
        Value::Object(o.set_params("machines", key, &json!({"b1": 2}), &root()).unwrap()),
        json!({"b1": 2})
    );
    assert_eq!(
        o.set_params("machines", key, &json!([1]), &root()).unwrap_err().code,
        400
    );
    assert_eq!(
        o.params("machines", "Name:nobody", false, false)
            .unwrap_err()
            .to_string(),
        "GET: machines/Name:nobody: Not Found"
    );
    assert_eq!(o.params("bootenvs", "local", false, false).unwrap_err().code, 404);
}

#[test]
fn the_nearest_value_counts() {
    let (b, uuid) = world();
    let o = &b.objects;
    let all = o.params("machines", &uuid, true, false).unwrap();
    assert_eq!(
        Value::Object(all),
        json!({"own": [1], "from": "outer", "deep": 1, "st": 1, "gl": "global"})
    );
    let resolved = |param: &str| o.resolve(&uuid, param).unwrap().map(|r| r.value);
    assert_eq!(resolved("level"), Some(json!(9)), "the schema's default");
    assert_eq!(resolved("deep"), Some(json!(1)));
    assert_eq!(resolved("unset"), None);
    assert_eq!(o.param("machines", &uuid, "level", false, false).unwrap(), Value::Null);
    assert_eq!(o.param("machines", &uuid, "level", true, false).unwrap(), 9);
    o.set_param("machines", &uuid, "from", &json!("me"), &root()).unwrap();
    assert_eq!(resolved("from"), Some(json!("me")));
}

#[test]
fn declared_params_are_checked_everywhere() {
    let (b, uuid) = world();
    let o = &b.objects;
    let refused = o
        .set_param("machines", &uuid, "level", &json!("high"), &root())
        .unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(
        refused.messages[0].starts_with("Key 'level': invalid val '\"high\"': "),
        "{refused}"
    );
    o.create("profiles", &json!({"Name": "pr-1", "Params": {"level": []}}), &root())
        .unwrap_err();
    o.set_param("profiles", "global", "level", &json!({}), &root())
        .unwrap_err();
    o.patch(
        "machines",
        &uuid,
        &json!([{"op": "add", "path": "/Params/level", "value": null}]),
        false,
        &root(),
    )
    .unwrap_err();
    // A declaration that changes counts from then on.
    let looser = json!([{"op": "replace", "path": "/Schema", "value": {"type": "string"}}]);
    o.patch("params", "level", &looser, false, &root()).unwrap();
    o.set_param("machines", &uuid, "level", &json!("high"), &root())
        .unwrap();
    let secret = o
        .set_param("machines", &uuid, "hush", &json!([CANARY]), &root())
        .unwrap_err();
    assert!(secret.code == 422 && !secret.to_string().contains(CANARY), "{secret}");
    assert_eq!(
        o.set_param("machines", &uuid, "x", &json!(1), &root())
            .unwrap_err()
            .code,
        409,
        "one letter is no name"
    );
}

#[test]
fn secure_params_go_in_boxes() {
    let (b, uuid) = world();
    let o = &b.objects;
    let public = <[u8; 32]>::try_from(BASE64.decode(o.pubkey("machines", "Name:mach-01").unwrap()).unwrap()).unwrap();
    let boxed = serde_json::to_value(seal_for(public, json!(CANARY).to_string().as_bytes())).unwrap();
    assert_eq!(
        o.set_param("machines", &uuid, "hush", &boxed, &root()).unwrap(),
        boxed,
        "stored as it came"
    );
    assert_eq!(o.param("machines", &uuid, "hush", false, false).unwrap(), boxed);
    assert_eq!(o.param("machines", &uuid, "hush", false, true).unwrap(), CANARY);
    assert_eq!(o.params("machines", &uuid, true, true).unwrap()["hush"], CANARY);
    let resolved = o.resolve(&uuid, "hush").unwrap().unwrap();
    assert!(resolved.secure && resolved.value == CANARY && !format!("{resolved:?}").contains(CANARY));
    let machine = o.get("machines", &uuid).unwrap();
    assert!(!serde_json::to_string(machine.as_ref()).unwrap().contains(CANARY));
    assert_eq!(o.decoded("machines", &machine).unwrap()["Params"]["hush"], CANARY);

    // In clear it is boxed by us; a box for somebody else is refused; so is one whose content does not fit.
    let ours = o
        .set_param("machines", &uuid, "hush", &json!("other"), &root())
        .unwrap();
    assert!(ours["Payload"].is_string());
    assert_eq!(o.param("machines", &uuid, "hush", true, true).unwrap(), "other");
    let elsewhere = serde_json::to_value(b.objects.vault().seal_param("machines", "another", b"\"x\"")).unwrap();
    let refused = o.set_param("machines", &uuid, "hush", &elsewhere, &root()).unwrap_err();
    assert!(
        refused.code == 422 && refused.to_string().contains("public key"),
        "{refused}"
    );
    let number = serde_json::to_value(seal_for(public, b"5")).unwrap();
    assert_eq!(
        o.set_param("machines", &uuid, "hush", &number, &root())
            .unwrap_err()
            .code,
        422
    );
    assert_eq!(o.param("machines", &uuid, "hush", true, true).unwrap(), "other");

    // From a profile: the box is the profile's, the value the machine's.
    o.delete_param("machines", &uuid, "hush", &root()).unwrap();
    o.set_param("profiles", "inner", "hush", &json!(CANARY), &root())
        .unwrap();
    assert_eq!(o.resolve(&uuid, "hush").unwrap().unwrap().value, CANARY);
    assert_eq!(o.params("machines", &uuid, true, true).unwrap()["hush"], CANARY);
}

#[test]
fn a_param_that_becomes_secure_takes_its_values_along() {
    let (b, uuid) = world();
    let o = &b.objects;
    o.set_param("machines", &uuid, "late", &json!(CANARY), &root()).unwrap();
    o.set_param("profiles", "inner", "late", &json!(CANARY), &root())
        .unwrap();
    let mut feed = o.store().watch();
    o.create(
        "params",
        &json!({"Name": "late", "Secure": true, "Schema": {"type": "string"}}),
        &root(),
    )
    .unwrap();
    for (noun, key) in [("machines", uuid.as_str()), ("profiles", "inner")] {
        assert!(
            o.param(noun, key, "late", false, false).unwrap()["Payload"].is_string(),
            "{noun}"
        );
        assert_eq!(o.param(noun, key, "late", false, true).unwrap(), CANARY);
    }
    while let Ok(event) = feed.try_recv() {
        assert!(!format!("{:?}", event.event).contains(CANARY));
    }
}

/// A canary is given in every way that there is, and then looked for in all bytes on disk.
#[test]
fn no_secret_is_in_the_database_file() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1_800_000_000));
    let open = || {
        let store = SqliteStore::open(&folder.path().join("isobar.db"), StoreOptions::default()).unwrap();
        let vault = Vault::open(&folder.path().join("vault.key")).unwrap();
        let mut options = options(&clock);
        options.first_user.1 = Some(format!("{CANARY}-first"));
        Objects::open(Arc::new(store), Arc::new(vault), options).unwrap()
    };
    let token = {
        let o = open();
        let machine = json!({"Name": "mach-01", "Params": {"ipmi/password": CANARY}});
        let uuid = text(&o.create("machines", &machine, &root()).unwrap(), "Uuid").to_owned();
        o.set_param(
            "machines",
            &uuid,
            "ipmi/password",
            &json!(format!("{CANARY}-set")),
            &root(),
        )
        .unwrap();
        o.set_params(
            "machines",
            &uuid,
            &json!({"ipmi/password": format!("{CANARY}-all")}),
            &root(),
        )
        .unwrap();
        let ops = json!([{"op": "add", "path": "/Params/ipmi~1password", "value": format!("{CANARY}-patch")}]);
        o.patch("machines", &uuid, &ops, false, &root()).unwrap();
        o.update_with("machines", &uuid, &root(), |m| {
            m["Params"]["ipmi/password"] = CANARY.into();
            Ok(())
        })
        .unwrap();
        o.create(
            "profiles",
            &json!({"Name": "pr-1", "Params": {"ipmi/password": CANARY}}),
            &root(),
        )
        .unwrap();
        o.create(
            "stages",
            &json!({"Name": "st-1", "Params": {"ipmi/password": CANARY}}),
            &root(),
        )
        .unwrap();
        o.set_password("rocketskates", &format!("{CANARY}-second"), &root())
            .unwrap();
        o.set_prefs(&json!({"systemGrantorSecret": CANARY}), &root()).unwrap();
        assert_eq!(o.resolve(&uuid, "ipmi/password").unwrap().unwrap().value, CANARY);
        o.issue_machine_token(&uuid, std::time::Duration::from_secs(60), &root())
            .unwrap()
    };
    // Once more, so that what was in the log only is in the pages, too.
    let o = open();
    assert_eq!(
        o.resolve("Name:mach-01", "ipmi/password").unwrap().unwrap().value,
        CANARY
    );
    let mut searched = 0;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for secret in [CANARY, token.as_str()] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret is in {}", path.display());
        }
        searched += bytes.len();
    }
    assert!(searched > 50_000, "only {searched} bytes looked at");
}

#[test]
fn another_key_file_is_refused() {
    let clock = Arc::new(ManualClock::new(0));
    let store: Arc<dyn isobar_store::Store> = Arc::new(SqliteStore::in_memory().unwrap());
    drop(Objects::open(Arc::clone(&store), Arc::new(Vault::ephemeral()), options(&clock)).unwrap());
    let refused = Objects::open(store, Arc::new(Vault::ephemeral()), options(&clock)).unwrap_err();
    assert!(refused.to_string().contains("put back the vault.key"), "{refused}");
}
