//! `info.features`: clients switch their behaviour on these, so each is shown to work.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Reply, Rig};
use serde_json::{Value, json};

/// A server with a machine, and what is asked of it.
struct World {
    rig: Rig,
    machine: String,
}

impl World {
    async fn get(&self, path: &str) -> Value {
        self.rig.get(&format!("/api/v3/{path}")).await.json()
    }

    async fn made(&self, noun: &str, object: Value) -> Value {
        let reply = self.rig.post(&format!("/api/v3/{noun}"), object).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()
    }

    async fn set(&self, member: &str, value: Value) -> Reply {
        let ops = json!([{"op": "replace", "path": format!("/{member}"), "value": value}]);
        let path = format!("/api/v3/machines/{}", self.machine);
        self.rig.ask("PATCH", &path).json(&ops).send().await
    }

    async fn param(&self, name: &str, value: Value) {
        let path = format!("/api/v3/machines/{}/params/{name}", self.machine);
        assert_eq!(self.rig.post(&path, value).await.status, 200);
    }

    async fn machine(&self) -> Value {
        self.get(&format!("machines/{}", self.machine)).await
    }

    /// What a template with these words comes to in a task of the machine.
    async fn rendered(&self, words: &str) -> String {
        self.rig.ask("DELETE", "/api/v3/stages/renders").send().await;
        self.rig.ask("DELETE", "/api/v3/tasks/renders").send().await;
        let template = json!([{"Name": "words", "Contents": words}]);
        self.made("tasks", json!({"Name": "renders", "Templates": template}))
            .await;
        self.made("stages", json!({"Name": "renders", "Tasks": ["renders"]}))
            .await;
        assert_eq!(self.set("Stage", "renders".into()).await.status, 200);
        let job = self.made("jobs", json!({"Machine": self.machine})).await;
        let actions = self
            .get(&format!("jobs/{}/actions", job["Uuid"].as_str().unwrap()))
            .await;
        actions[0]["Content"]
            .as_str()
            .unwrap_or_else(|| panic!("{actions}"))
            .to_owned()
    }

    async fn next_job(&self) -> Reply {
        self.rig.post("/api/v3/jobs", json!({"Machine": self.machine})).await
    }
}

/// Shows that a feature works.
async fn shown(w: &World, feature: &str) {
    match feature {
        "api-v3" => assert_eq!(w.get("machines").await[0]["Uuid"], w.machine),
        "profileless-machine" => {
            w.param("mine", json!(1)).await;
            let machine = w.machine().await;
            assert_eq!((&machine["Params"]["mine"], machine.get("Profile")), (&json!(1), None));
        }
        "sane-exit-codes" => {
            let task = w.made("tasks", json!({"Name": "sane"})).await;
            assert_eq!(task["Meta"]["feature-flags"], "sane-exit-codes");
        }
        // What the runner makes of exit codes is tested in crates/host.
        "job-exit-states" | "fsm-runner" => {
            w.made("tasks", json!({"Name": "task"})).await;
            w.made("stages", json!({"Name": "stage", "Tasks": ["task"]})).await;
            assert_eq!(w.set("Stage", "stage".into()).await.status, 200);
            for exit in ["reboot", "poweroff", "stop", "complete", "failed"] {
                let (job, again) = (w.next_job().await, w.next_job().await);
                assert_eq!((job.status, again.status), (201, 409), "{job:?} {again:?}");
                let path = format!("/api/v3/jobs/{}", job.json()["Uuid"].as_str().unwrap());
                let ops = json!([
                    {"op": "replace", "path": "/State", "value": "failed"},
                    {"op": "replace", "path": "/ExitState", "value": exit},
                ]);
                let patched = w.rig.ask("PATCH", &path).json(&ops).send().await;
                assert_eq!(patched.json()["ExitState"], exit);
            }
        }
        "common-blob-size" => {
            for (path, shown) in [("files/a/b.txt", "/a/b.txt"), ("isos/b.iso", "b.iso")] {
                let ask = w.rig.ask("POST", &format!("/api/v3/{path}"));
                let made = ask.body("application/octet-stream", "12345").send().await;
                assert_eq!(made.json(), json!({"Path": shown, "Size": 5}));
            }
        }
        // Following the map is the runner's part, tested in crates/host.
        "change-stage-map" => {
            w.made("stages", json!({"Name": "here"})).await;
            w.made("workflows", json!({"Name": "flow", "Stages": ["here"]})).await;
            w.param("change-stage/map", json!({"here": "none:Success"})).await;
            assert_eq!(w.set("Workflow", "flow".into()).await.status, 200);
            assert_eq!(w.set("Workflow", "".into()).await.status, 200);
            assert_eq!(w.machine().await["Params"].get("change-stage/map"), None);
        }
        "package-repository-handling" => {
            let repo = json!([{"tag": "debian", "arch": "amd64", "os": ["debian-12"], "url": "http://192.0.2.9/debian", "installSource": true,
                "distribution": "bookworm", "components": ["main"]}]);
            w.param("package-repositories", repo).await;
            assert_eq!(w.set("OS", "debian-12".into()).await.status, 200);
            let lines = w.rendered("{{range .MachineRepos}}{{.Lines}}{{end}}").await;
            assert!(lines.contains("deb http://192.0.2.9/debian bookworm main"), "{lines}");
        }
        "separate-meta-api" => {
            let path = format!("/api/v3/meta/machines/{}", w.machine);
            let ops = json!([{"op": "add", "path": "/color", "value": "red"}]);
            assert_eq!(w.rig.ask("PATCH", &path).json(&ops).send().await.status, 200);
            assert_eq!(w.machine().await["Meta"]["color"], "red");
        }
        "multiarch" => {
            let arm = json!({"Kernel": "vmlinuz-arm", "Initrds": ["initrd-arm"], "BootParams": "on={{.Machine.Arch}}"});
            let os = json!({"Name": "many", "SupportedArchitectures": {"aarch64": arm}});
            let env = json!({"Name": "many", "OS": os, "Kernel": "vmlinuz", "Initrds": ["initrd"], "BootParams": "flat",
                "Templates": [{"Name": "ipxe", "Path": "{{.Machine.Path}}/ipxe", "Contents": "#!ipxe"}]});
            w.made("bootenvs", env).await;
            assert_eq!(w.set("Arch", "arm64".into()).await.status, 200);
            let entered = w.set("BootEnv", "many".into()).await;
            assert_eq!(entered.status, 200, "{entered:?}");
            assert_eq!(w.set("Runnable", true.into()).await.status, 200);
            let words = "{{.Env.KernelFor \"arm64\"}} {{.Env.Kernel}} {{.BootParams}} {{.Env.PathFor \"tftp\" \"x\"}}";
            assert_eq!(w.rendered(words).await, "vmlinuz-arm vmlinuz-arm on=arm64 many/arm64/x");
        }
        "sprig" => assert_eq!(w.rendered("{{list 1 2 | join \"-\" | upper}}").await, "1-2"),
        "tenants" => {
            w.made("users", json!({"Name": "jane", "Roles": ["superuser"]})).await;
            w.made(
                "tenants",
                json!({"Name": "red", "Members": {"machines": []}, "Users": ["jane"]}),
            )
            .await;
            let token = w.get("users/jane/token").await["Token"].as_str().unwrap().to_owned();
            let seen = w.rig.bare("GET", "/api/v3/machines").token(&token).send().await;
            assert_eq!(seen.json(), json!([]));
        }
        // Kept and checked, as docs/drp-differences.md says.
        "overridable-bootloaders" => {
            let env = json!({"Name": "loads", "OS": {"Name": "loads"}, "Loaders": {"amd64-uefi": "shimx64.efi"}});
            assert_eq!(w.made("bootenvs", env).await["Loaders"]["amd64-uefi"], "shimx64.efi");
        }
        "centos-8" => {
            let pack =
                json!({"meta": {"Name": "eight", "Version": "1.0.0", "RequiredFeatures": "centos-8"}, "sections": {}});
            w.made("contents", pack).await;
        }
        "workflows" => {
            w.made("tasks", json!({"Name": "does"})).await;
            w.made(
                "stages",
                json!({"Name": "first", "BootEnv": "local", "Tasks": ["does"]}),
            )
            .await;
            w.made("workflows", json!({"Name": "all", "Stages": ["first"]})).await;
            let machine = w.set("Workflow", "all".into()).await.json();
            assert_eq!(machine["Tasks"], json!(["stage:first", "bootenv:local", "does"]));
        }
        "default-workflow" => {
            w.made("workflows", json!({"Name": "usual", "Stages": ["none"]})).await;
            assert_eq!(
                w.rig
                    .post("/api/v3/prefs", json!({"defaultWorkflow": "usual"}))
                    .await
                    .status,
                201
            );
            assert_eq!(
                w.made("machines", json!({"Name": "mach-02"})).await["Workflow"],
                "usual"
            );
        }
        "http-range-header" => {
            let ask = w.rig.ask("POST", "/api/v3/files/range");
            ask.body("application/octet-stream", "hello").send().await;
            let part = w
                .rig
                .ask("GET", "/api/v3/files/range")
                .header("range", "bytes=-2")
                .send()
                .await;
            assert_eq!((part.status, &part.body[..]), (206, &b"lo"[..]));
        }
        "roles" => {
            let claims = json!([{"scope": "machines", "action": "list", "specific": "*"}]);
            w.made("roles", json!({"Name": "looks", "Claims": claims})).await;
            w.made("users", json!({"Name": "joe", "Roles": ["looks"]})).await;
            let token = w.get("users/joe/token").await["Token"].as_str().unwrap().to_owned();
            let may = async |path: &str| w.rig.bare("GET", path).token(&token).send().await.status;
            assert_eq!((may("/api/v3/machines").await, may("/api/v3/prefs").await), (200, 403));
        }
        "secure-params" => {
            w.made("params", json!({"Name": "secret", "Secure": true})).await;
            w.param("secret", json!("s3cret")).await;
            let path = format!("machines/{}/params/secret", w.machine);
            assert!(w.get(&path).await["Payload"].is_string());
            assert_eq!(w.get(&(path + "?decode=true")).await, "s3cret");
        }
        "secure-param-upgrade" => {
            w.param("later", json!("s3cret")).await;
            w.made("params", json!({"Name": "later", "Secure": true})).await;
            assert!(w.machine().await["Params"]["later"]["Payload"].is_string());
        }
        "slim-objects" => {
            w.param("mine", json!(1)).await;
            let slim = w.get("machines?slim=Params,Meta").await;
            assert_eq!((&slim[0]["Params"], &slim[0]["Meta"]), (&json!({}), &json!({})));
        }
        "bundle-objects" => {
            let section = json!({"tasks": {"packed": {"Name": "packed"}}});
            w.made(
                "contents",
                json!({"meta": {"Name": "pack", "Version": "1.0.0"}, "sections": section}),
            )
            .await;
            let task = w.get("tasks/packed").await;
            assert_eq!((&task["Bundle"], &task["ReadOnly"]), (&json!("pack"), &json!(true)));
        }
        "task-prerequisites" => {
            w.made("tasks", json!({"Name": "before"})).await;
            w.made("tasks", json!({"Name": "after", "Prerequisites": ["before"]}))
                .await;
            w.made("stages", json!({"Name": "both", "Tasks": ["after"]})).await;
            assert_eq!(
                w.set("Stage", "both".into()).await.json()["Tasks"],
                json!(["before", "after"])
            );
        }
        // The booting side is tested in crates/isobar.
        "virtual-media-boot" => {
            w.param("boot-virtual-iso", json!(true)).await;
            let refused = format!("/api/v3/machines/{}/params/boot-virtual-iso", w.machine);
            assert_eq!(w.rig.post(&refused, json!("yes")).await.status, 422);
        }
        other => panic!("{other} is claimed, and nothing here shows that it works"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_feature_that_is_claimed_works() {
    let claimed = Rig::start().await.get("/api/v3/info").await.json()["features"].clone();
    for feature in claimed.as_array().unwrap() {
        let rig = Rig::start().await;
        let machine = rig.machine("mach-01").await;
        shown(&World { rig, machine }, feature.as_str().unwrap()).await;
    }
}
