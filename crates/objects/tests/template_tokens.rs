//! Tokens that templates make: for the machine that boots, for as long as it boots, and for nobody else.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Bench, bench, root, text};
use isobar_model::ApiError;
use isobar_objects::{BootWindow, BootWindows, NextJob, ServedAt};
use serde_json::json;

/// One machine boots.
#[derive(Clone, Default)]
struct Boots(Arc<Mutex<Option<(String, BootWindow)>>>);

impl BootWindows for Boots {
    fn window(&self, machine: &str, pass: Option<&str>) -> Result<Option<BootWindow>, ApiError> {
        let open = self.0.lock().unwrap().clone();
        let open = open.filter(|(of, window)| of == machine && pass.is_none_or(|pass| pass == window.pass));
        Ok(open.map(|(_, window)| window))
    }

    fn is_open(&self, machine: &str, attempt: &str) -> Result<bool, ApiError> {
        Ok(self
            .window(machine, None)?
            .is_some_and(|window| window.attempt == attempt))
    }
}

struct World {
    bench: Bench,
    boots: Boots,
    uuid: String,
}

const PLACE: &str = "http://here:1";

fn at() -> ServedAt {
    ServedAt {
        files: PLACE.to_owned(),
        ..ServedAt::default()
    }
}

fn world() -> World {
    let bench = bench();
    let boots = Boots::default();
    let o = &bench.objects;
    o.set_windows(Arc::new(boots.clone()));
    o.create("profiles", &json!({"Name": "mine"}), &root()).unwrap();
    o.create("profiles", &json!({"Name": "other"}), &root()).unwrap();
    let file = |name: &str, text: &str| json!({"Name": name, "Path": format!("{{{{.Machine.Path}}}}/{name}"), "Contents": text});
    let templates = json!([
        file("short", "{{.GenerateToken}}"),
        file("long", "{{.GenerateInfiniteToken}}"),
        file("profile", "{{.GenerateProfileToken \"mine\" 60}}"),
        file("foreign", "{{.GenerateProfileToken \"other\" 0}}"),
        file("url", "{{.Machine.Url}} {{.ProvisionerURL}}"),
    ]);
    let env = json!({"Name": "env", "OS": {"Name": "env"}, "Templates": templates});
    o.create("bootenvs", &env, &root()).unwrap();
    let task = json!({"Name": "t1", "Templates": [{"Name": "s", "Contents": "{{.GenerateToken}}"}]});
    o.create("tasks", &task, &root()).unwrap();
    let unknown = json!({"Name": "unknown", "OnlyUnknown": true, "OS": {"Name": "u"}, "Templates": [
        {"Name": "ipxe", "Path": "default.ipxe", "Contents": "{{.GenerateToken}}"}]});
    o.create("bootenvs", &unknown, &root()).unwrap();
    let machine = bench.machine(json!({"Name": "mach-01", "BootEnv": "env", "Profiles": ["mine"], "Tasks": ["t1"]}));
    let uuid = text(&machine, "Uuid").to_owned();
    World { bench, boots, uuid }
}

impl World {
    /// The pass of the boot that begins.
    fn boot(&self, attempt: &str) -> String {
        let window = BootWindow::new(attempt, &format!("image token of {attempt}"));
        let pass = window.pass.clone();
        *self.boots.0.lock().unwrap() = Some((self.uuid.clone(), window));
        pass
    }

    fn file(&self, pass: &str, name: &str) -> Result<Option<String>, ApiError> {
        let path = format!("{pass}/machines/{}/{name}", self.uuid);
        self.bench.objects.rendered_file(path.trim_start_matches('/'), &at())
    }

    fn token(&self, pass: &str, name: &str) -> String {
        self.file(pass, name).unwrap().unwrap()
    }

    fn is_good(&self, token: &str) -> bool {
        self.bench.objects.verify(token).is_ok()
    }
}

#[test]
fn a_path_that_can_be_guessed_gives_no_token_even_while_the_machine_boots() {
    let w = world();
    for booting in [false, true] {
        if booting {
            w.boot("a1");
        }
        for name in ["short", "long", "profile"] {
            let said = w.file("", name).unwrap_err().to_string();
            assert!(
                said.contains("this path can be guessed") && said.contains("mach-01"),
                "{said}"
            );
        }
    }
    assert_eq!(w.token("", "url"), format!("{PLACE}/machines/{} {PLACE}", w.uuid));
    // Somebody else's pass, or none of anybody's, is no path at all.
    for pass in ["A".repeat(43), BootWindow::new("a1", "another image").pass] {
        assert_eq!(w.file(&pass, "short").unwrap(), None);
    }
    let pref = json!({"unknownBootEnv": "unknown"});
    w.bench.objects.set_prefs(&pref, &root()).unwrap();
    let said = w
        .bench
        .objects
        .rendered_file("default.ipxe", &at())
        .unwrap_err()
        .to_string();
    assert!(said.contains("tokens are for machines"), "{said}");
}

#[test]
fn a_machine_that_boots_gets_tokens_that_end_with_the_boot() {
    let w = world();
    let pass = w.boot("a1");
    let (short, long) = (w.token(&pass, "short"), w.token(&pass, "long"));
    assert_ne!(short, long);
    for token in [&short, &long] {
        let who = w.bench.objects.verify(token).unwrap();
        assert_eq!(who.machine(), Some(w.uuid.as_str()));
        let may = |scope, action, key: &str| who.allows(scope, action, key);
        assert!(may("machines", "update", &w.uuid) && may("jobs", "create", ""));
        for (scope, action) in [
            ("machines", "getSecure"),
            ("machines", "action:powercycle"),
            ("users", "list"),
        ] {
            assert!(!may(scope, action, &w.uuid), "{scope} {action}");
        }
        assert!(!may("machines", "get", "another"));
    }
    // Fetched again it is the same one; and the files' own addresses have the pass.
    assert_eq!(w.token(&pass, "short"), short);
    assert_eq!(
        w.token(&pass, "url"),
        format!("{PLACE}/{pass}/machines/{} {PLACE}", w.uuid)
    );
    // The short one ends by itself, and comes again while the boot goes on.
    w.bench.clock.advance(3601);
    assert!(!w.is_good(&short) && w.is_good(&long));
    assert!(w.is_good(&w.token(&pass, "short")));
    // What it gets for itself with such a token ends with the boot as well.
    let who = w.bench.objects.verify(&long).unwrap();
    let more = w
        .bench
        .objects
        .issue_machine_token(&w.uuid, Duration::from_secs(60), &who)
        .unwrap();
    assert!(w.is_good(more.as_str()));
    let next = w.boot("a2");
    for old in [&short, &long, &more.as_str().to_owned()] {
        assert!(!w.is_good(old), "a newer boot of the machine has tokens of its own");
    }
    assert_eq!(w.file(&pass, "short").unwrap(), None);
    assert!(w.is_good(&w.token(&next, "long")));
    *w.boots.0.lock().unwrap() = None;
    assert_eq!(w.file(&next, "long").unwrap(), None);
}

#[test]
fn a_profiles_token_reads_that_profile_alone() {
    let w = world();
    let pass = w.boot("a1");
    let who = w.bench.objects.verify(&w.token(&pass, "profile")).unwrap();
    assert!(who.allows("profiles", "get", "mine"));
    // Not more than its agent may, whatever the reference says.
    for (scope, action, key) in [
        ("profiles", "update", "mine"),
        ("profiles", "get", "other"),
        ("machines", "get", w.uuid.as_str()),
    ] {
        assert!(!who.allows(scope, action, key), "{scope} {action} {key}");
    }
    let said = w.file(&pass, "foreign").unwrap_err().to_string();
    assert!(said.contains("the machine does not have the profile other"), "{said}");
    w.bench.clock.advance(61);
    assert!(w.bench.objects.verify(&w.token(&pass, "profile")).is_ok());
}

#[test]
fn a_tasks_token_is_for_the_agent_that_runs_it() {
    let w = world();
    let o = &w.bench.objects;
    let patch = |member: &str, value| w.bench.set(&w.uuid, member, value).unwrap();
    patch("Runnable", json!(true));
    let agent = o
        .issue_machine_token(&w.uuid, Duration::from_secs(60), &root())
        .unwrap();
    let agent = o.verify(agent.as_str()).unwrap();
    let NextJob::Made(job) = o.next_job(&json!({"Machine": w.uuid}), &agent).unwrap() else {
        panic!()
    };
    let actions = |by| o.job_actions(text(&job, "Uuid"), "", &at(), by);
    let said = actions(&agent).unwrap_err().to_string();
    assert!(said.contains("has a token already, in RS_TOKEN"), "{said}");
    w.boot("a1");
    let token = actions(&agent).unwrap()[0]["Content"].as_str().unwrap().to_owned();
    assert_eq!(o.verify(&token).unwrap().machine(), Some(w.uuid.as_str()));
    // Whoever looks at the job from outside sees where it would stand.
    assert_eq!(
        actions(&root()).unwrap()[0]["Content"],
        "THE-TOKEN-IS-FOR-THE-MACHINE-ALONE"
    );
}
