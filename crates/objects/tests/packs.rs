//! Content packs: each comes, changes and goes as a whole or not at all.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{bench, options, root, text};
use isobar_model::ApiError;
use isobar_objects::{Objects, ServedAt};
use isobar_store::{ManualClock, SqliteStore, Store, Vault};
use serde_json::{Value, json};

fn pack(meta: Value, sections: Value) -> Value {
    json!({ "meta": meta, "sections": sections })
}

fn put(objects: &Objects, pack: &Value) -> Result<Value, ApiError> {
    objects.put_content(pack, None, &root())
}

fn task(name: &str, prerequisites: &[&str]) -> Value {
    json!({ "Name": name, "Prerequisites": prerequisites })
}

#[test]
fn a_pack_is_added_replaced_and_removed() {
    let b = bench();
    let o = &b.objects;
    let one = pack(
        json!({"Name": "p1", "Version": "1.0.0"}),
        json!({"tasks": {"t1": task("t1", &[])}}),
    );
    let summary = put(o, &one).unwrap();
    assert_eq!(
        (&summary["Counts"], &summary["meta"]["Type"]),
        (&json!({"tasks": 1}), &json!("dynamic"))
    );
    assert_eq!(
        put(o, &one).unwrap_err().to_string(),
        "POST: contents/p1: Content p1 already exists"
    );
    let there = o.get("tasks", "t1").unwrap();
    assert_eq!((&there["ReadOnly"], text(&there, "Bundle")), (&json!(true), "p1"));
    assert_eq!(
        o.delete("tasks", "t1", &root()).unwrap_err().to_string(),
        "DELETE: readonly: t1"
    );

    // A user's object may come to use it; then it stays.
    o.create("stages", &json!({"Name": "s1", "Tasks": ["t1"]}), &root())
        .unwrap();
    let in_use = o.remove_content("p1", &root()).unwrap_err();
    assert_eq!(
        (in_use.code, in_use.messages.as_slice()),
        (409, &["Task t1 in use by Stage s1".to_owned()][..])
    );
    let two = pack(
        json!({"Name": "p1"}),
        json!({"tasks": {"t1": task("t1", &["t2"]), "t2": task("t2", &[])}}),
    );
    o.put_content(&two, Some("p1"), &root()).unwrap();
    assert_eq!(
        o.content_pack("p1", false).unwrap()["sections"]["tasks"]["t1"]["Prerequisites"],
        json!(["t2"])
    );
    o.delete("stages", "s1", &root()).unwrap();
    o.remove_content("p1", &root()).unwrap();
    assert!(o.find("tasks", "t1").unwrap().is_none());
    let gone = o.remove_content("p1", &root()).unwrap_err();
    assert_eq!(gone.to_string(), "DELETE: contents/p1: No such content store");
    assert_eq!(o.remove_content("BasicStore", &root()).unwrap_err().code, 400);
}

#[test]
fn a_pack_that_does_not_load_changes_nothing_and_says_all_that_is_wrong() {
    let b = bench();
    let o = &b.objects;
    o.create("tasks", &task("mine", &[]), &root()).unwrap();
    let meta = |extra: Value| {
        let mut meta = json!({"Name": "bad"});
        meta.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        meta
    };
    let tasks = |tasks: Value| json!({ "tasks": tasks });
    let cases = [
        (
            pack(
                meta(json!({})),
                tasks(json!({"ab": task("ab", &["cd"]), "cd": task("cd", &["ab"])})),
            ),
            "Failed to load backing objects from cache\n  Task ab depends on itself!\n  ab: cd: ab (cycle at 0)\n  \
             Task cd depends on itself!\n  cd: ab: cd (cycle at 0)",
        ),
        (
            pack(meta(json!({})), tasks(json!({"mine": task("mine", &[])}))),
            "POST: contents/bad: New layer violates key restrictions: keysCannotBeOverridden: mine is already in layer \
             BackingStore",
        ),
        (
            pack(meta(json!({})), json!({"stages": {"none": {"Name": "none"}}})),
            "POST: contents/bad: New layer violates key restrictions: keysCannotBeOverridden: none is already in layer \
             BasicStore",
        ),
        (
            pack(meta(json!({"RequiredFeatures": "workflows, teleport"})), json!({})),
            "POST: contents/bad: Content layer bad requires feature teleport, but dr-provision does not provide it",
        ),
        (
            pack(meta(json!({"Prerequisites": "foo"})), json!({})),
            "POST: contents/bad: Layer bad has foo as a prerequisite, but foo does not exist!",
        ),
        (
            pack(meta(json!({"Prerequisites": "BasicStore: >=99.0.0"})), json!({})),
            "POST: contents/bad: Layer bad prerequisite test on BasicStore failed",
        ),
        (
            pack(meta(json!({})), json!({"plugin_providers": {"evil": {"Name": "evil"}}})),
            "POST: contents/bad: plugin providers are programs and no content",
        ),
    ];
    let before = o.contents();
    for (pack, want) in cases {
        assert_eq!(put(o, &pack).unwrap_err().to_string(), want);
        assert_eq!(o.contents(), before);
    }
    assert!(o.find("tasks", "ab").unwrap().is_none());
    // What a pack stands on does not go.
    put(o, &pack(json!({"Name": "base", "Version": "1.2.3"}), json!({}))).unwrap();
    put(
        o,
        &pack(json!({"Name": "top", "Prerequisites": "base: >=1.0.0"}), json!({})),
    )
    .unwrap();
    assert_eq!(o.remove_content("base", &root()).unwrap_err().code, 422);
}

#[test]
fn machines_follow_the_packs_that_they_depend_on() {
    let b = bench();
    let o = &b.objects;
    o.create("workflows", &json!({"Name": "wf1", "Stages": ["coming"]}), &root())
        .unwrap();
    assert_eq!(o.get("workflows", "wf1").unwrap()["Available"], json!(false));
    put(
        o,
        &pack(json!({"Name": "p1"}), json!({"stages": {"coming": {"Name": "coming"}}})),
    )
    .unwrap();
    assert_eq!(o.get("workflows", "wf1").unwrap()["Available"], json!(true));
}

#[test]
fn packs_and_their_secrets_survive_a_restart_in_boxes() {
    let clock = Arc::new(ManualClock::new(1_800_000_000));
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
    let vault = Arc::new(Vault::ephemeral());
    let open = || Objects::open(store.clone(), vault.clone(), options(&clock)).unwrap();
    let sections = json!({
        "params": {"pass": {"Name": "pass", "Secure": true}},
        "profiles": {"prof": {"Name": "prof", "Params": {"pass": "hunter2", "open": 1}}},
    });
    put(&open(), &pack(json!({"Name": "p1"}), sections)).unwrap();
    let stored = store.list("_contents").unwrap();
    assert!(!String::from_utf8_lossy(&stored[0].body).contains("hunter2"));
    let o = open();
    let shown = o.content_pack("p1", false).unwrap();
    assert!(!shown.to_string().contains("hunter2") && shown.to_string().contains("Payload"));
    assert_eq!(
        o.content_pack("p1", true).unwrap()["sections"]["profiles"]["prof"]["Params"]["pass"],
        "hunter2"
    );
    assert_eq!(
        o.param("profiles", "prof", "pass", false, true).unwrap(),
        json!("hunter2")
    );
}

#[test]
fn files_are_rendered_for_the_machine_that_a_path_names() {
    let b = bench();
    let o = &b.objects;
    let templates = json!([
        {"Name": "ipxe", "Path": "{{.Machine.Path}}/hello", "Contents": "{{.Machine.Name}} at {{.ProvisionerURL}}"},
        {"Name": "mac", "Path": "pxelinux.cfg/{{.Machine.MacAddr \"pxelinux\"}}", "Contents": "mac"},
        {"Name": "hex", "Path": "pxelinux.cfg/{{.Machine.HexAddress}}", "Contents": "hex"},
        {"Name": "leak", "Path": "{{.Machine.Path}}/leak", "Contents": "{{.Param \"ipmi/password\"}}"},
    ]);
    o.create(
        "bootenvs",
        &json!({"Name": "env", "OS": {"Name": "env"}, "Templates": templates}),
        &root(),
    )
    .unwrap();
    let machine = b.machine(json!({
        "Name": "mach-01", "BootEnv": "env", "Address": "10.0.0.5", "HardwareAddrs": ["52:54:00:00:00:01"],
        "Params": {"ipmi/password": "hunter2"},
    }));
    let uuid = text(&machine, "Uuid");
    let at = ServedAt {
        files: "http://here:1".to_owned(),
        ..ServedAt::default()
    };
    let file = |path: &str| o.rendered_file(path, &at);
    assert_eq!(
        file(&format!("machines/{uuid}/hello")).unwrap().as_deref(),
        Some("mach-01 at http://here:1")
    );
    assert_eq!(
        file("pxelinux.cfg/01-52-54-00-00-00-01").unwrap().as_deref(),
        Some("mac")
    );
    assert_eq!(file("pxelinux.cfg/0A000005").unwrap().as_deref(), Some("hex"));
    assert_eq!(file("pxelinux.cfg/0A000006").unwrap(), None);
    // For hosts that nobody knows.
    assert!(file("default.ipxe").unwrap().unwrap().contains("chain http://here:1/"));
    // The plane asks nobody who they are.
    let leak = file(&format!("machines/{uuid}/leak")).unwrap_err().to_string();
    assert!(leak.contains("secure") && !leak.contains("hunter2"), "{leak}");
    // Out of the environment, its files are gone in the same step.
    b.set(uuid, "BootEnv", json!("local")).unwrap();
    assert_eq!(file(&format!("machines/{uuid}/hello")).unwrap(), None);
}

#[test]
fn a_pack_gets_what_it_asks_for_or_is_refused_whole() {
    let b = bench();
    let o = &b.objects;
    let pack = |name: &str, meta: serde_json::Value| {
        let mut pack = json!({"meta": {"Name": name}, "sections": {"tasks": {format!("{name}-task"): {"Name": format!("{name}-task")}}}});
        for (member, value) in meta.as_object().unwrap() {
            pack["meta"][member] = value.clone();
        }
        pack
    };
    let there = || {
        let packs = o.contents();
        packs
            .iter()
            .map(|pack| pack["meta"]["Name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let before = there();
    o.put_content(&pack("base", json!({"Version": "v1.4.0"})), None, &root())
        .unwrap();
    for (meta, want) in [
        (
            json!({"RequiredFeatures": "workflows,teleport"}),
            "requires feature teleport, but dr-provision does not provide it",
        ),
        (
            json!({"Prerequisites": "gone"}),
            "Layer p has gone as a prerequisite, but gone does not exist!",
        ),
        (
            json!({"Prerequisites": "base: >=2.0.0"}),
            "Layer p prerequisite test on base failed",
        ),
        (
            json!({"Prerequisites": "base: >=1.0.0 <1.4.0"}),
            "Layer p prerequisite test on base failed",
        ),
    ] {
        let error = o.put_content(&pack("p", meta.clone()), None, &root()).unwrap_err();
        assert!(error.code == 422 && error.to_string().contains(want), "{meta}: {error}");
        assert!(o.find("tasks", "p-task").unwrap().is_none(), "{meta}");
    }
    // All that is wrong at once.
    let both = json!({"RequiredFeatures": "teleport", "Prerequisites": "gone,base: <1.0.0"});
    assert_eq!(
        o.put_content(&pack("p", both), None, &root())
            .unwrap_err()
            .messages
            .len(),
        3
    );
    let fits = json!({"RequiredFeatures": "sane-exit-codes, virtual-media-boot", "Prerequisites": "BasicStore, base: >=1.2.3 <2.0.0"});
    o.put_content(&pack("p", fits.clone()), None, &root()).unwrap();
    // What is wanted stays, in a version that will do.
    assert_eq!(o.remove_content("base", &root()).unwrap_err().code, 422);
    assert!(
        o.put_content(&pack("base", json!({"Version": "v3.0.0"})), Some("base"), &root())
            .is_err()
    );
    assert_eq!(o.content_pack("base", false).unwrap()["meta"]["Version"], "v1.4.0");
    // A replacement that fails leaves the old one with all that it had.
    let mut broken = pack("p", fits);
    broken["sections"]["bootenvs"] = json!({"be": {"Name": "be", "OS": {"Name": "be"}, "BootParams": "{{if}}"}});
    assert!(o.put_content(&broken, Some("p"), &root()).is_err());
    assert!(o.find("tasks", "p-task").unwrap().is_some() && o.find("bootenvs", "be").unwrap().is_none());
    o.remove_content("p", &root()).unwrap();
    o.remove_content("base", &root()).unwrap();
    assert_eq!(there(), before);
}
