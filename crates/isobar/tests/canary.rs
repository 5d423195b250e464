//! A password is used in every way there is, and then looked for everywhere: it may be in no file of the server's in
//! clear, no argument list, no environment, no answer, no error message, no exported disc.
#![allow(clippy::unwrap_used)]

mod stage;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use isobar_api::routes::routes;
use isobar_client::Method;
use isobar_sim::{Fault, FaultKind};
use serde_json::json;
use stage::{MACHINE, Options, Stage};

/// The one answer that does not end; a server that says nothing for so long has said all.
const FEED: &str = "/isobar/v1/events";
const SILENCE: Duration = Duration::from_secs(5);

/// What no escaping touches, within passwords that need escaping everywhere.
const CORE: &str = "Xq7CanaryOfTheBmc";
const WRONG_CORE: &str = "Zk4CanaryThatIsWrong";

fn password(core: &str) -> String {
    format!("p%2B \"{core}\"/+&<'\\$")
}

/// The forms in which a core shows, whatever stands before it.
fn forms(core: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![
        core.as_bytes().to_vec(),
        hex(core).into_bytes(),
        hex(core).to_uppercase().into_bytes(),
    ];
    for before in 0..3 {
        let text = [&vec![b'x'; before][..], core.as_bytes()].concat();
        let encoded = STANDARD_NO_PAD.encode(text);
        // Without the characters that share bits with what stands before and after.
        let inner = &encoded[[0, 2, 3][before]..encoded.len() - 2];
        forms.push(inner.as_bytes().to_vec());
    }
    forms
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

/// Where it was looked for, and where it was found.
#[derive(Default)]
struct Search {
    forms: Vec<Vec<u8>>,
    places: usize,
    found: Vec<String>,
}

impl Search {
    fn look(&mut self, place: &str, bytes: &[u8]) {
        self.places += 1;
        for form in &self.forms {
            if let Some(at) = bytes.windows(form.len()).position(|window| window == form) {
                let near = &bytes[at.saturating_sub(120)..(at + form.len() + 40).min(bytes.len())];
                self.found.push(format!("{place}: …{}…", String::from_utf8_lossy(near)));
            }
        }
    }

    fn look_below(&mut self, folder: &Path) {
        self.places += stage::files_below(folder).len();
        let mut grep = Command::new("grep");
        grep.args(["-raoF", "--null-data"]);
        for form in &self.forms {
            grep.arg("-e").arg(std::str::from_utf8(form).unwrap());
        }
        let output = grep.arg(folder).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        self.found
            .extend(found.split('\0').filter(|line| !line.is_empty()).map(str::to_owned));
    }
}

/// Argument lists and environments of all our processes, taken again and again until it is dropped.
struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<Vec<u8>, String>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn start() -> Self {
        let (stop, seen) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<Mutex<BTreeMap<_, _>>>::default(),
        );
        let (stopped, all) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                for process in std::fs::read_dir("/proc").unwrap().flatten() {
                    let ours = std::fs::read_link(process.path().join("exe"));
                    if ours.is_ok_and(|exe| exe == Path::new(env!("CARGO_BIN_EXE_isobar"))) {
                        for what in ["cmdline", "environ"] {
                            let path = process.path().join(what);
                            // It may have ended by now.
                            let bytes = std::fs::read(&path).unwrap_or_default();
                            all.lock().unwrap().insert(bytes, path.display().to_string());
                        }
                    }
                }
                std::thread::yield_now();
            }
        });
        Self {
            stop,
            seen,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> BTreeMap<Vec<u8>, String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

/// A BMC that sends everybody elsewhere, and puts the password into the address.
fn redirecting(password: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let location: String = password.bytes().map(|b| format!("%{b:02X}")).collect();
    // The core as it is: the search does not see through an encoding of letters.
    let location = location.replace(&CORE.bytes().map(|b| format!("%{b:02X}")).collect::<String>(), CORE);
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://root:{location}@127.0.0.2:1/redfish/v1/\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}")
}

/// Everything that the API answers to a GET, `decode` left out.
fn answers(stage: &Stage, search: &mut Search) {
    let client = stage.client();
    let uuid = stage.machine()["Uuid"].as_str().unwrap().to_owned();
    let boot = stage.last_boot()["id"].as_str().unwrap().to_owned();
    let mut asked = 0;
    for route in routes().iter().filter(|route| route.method == "GET") {
        for key in [
            &uuid[..],
            "Name:mach-01",
            &boot,
            "rocketskates",
            "global",
            "sledgehammer",
        ] {
            let path = route.path.replace("{key}", key);
            let path = path
                .replace("{*param}", "ipmi%2Fpassword")
                .replace("{bootenv}", "sledgehammer");
            let path = path.replace("{*path}", "boot/grub/grub.cfg").replace("{*key}", key);
            if path.contains('{') || path.ends_with("boot.iso") {
                continue;
            }
            let request = client
                .request(Method::GET, &path)
                .query("aggregate", "true")
                .query("wait", "0")
                // The feed of changes: all that is kept of the past, and then it stays open.
                .query("after", "0")
                .patience(if path == FEED { SILENCE } else { stage::PATIENCE });
            match request.send() {
                Ok(answer) => {
                    let mut body = Vec::new();
                    if let Err(error) = answer.reader().read_to_end(&mut body) {
                        assert!(path == FEED && body.len() > 1000, "{path}: {error}");
                    }
                    asked += 1;
                    search.look(&format!("GET {path}"), &body);
                }
                Err(error) => search.look(&format!("GET {path}"), error.to_string().as_bytes()),
            }
            if path == route.path {
                break;
            }
        }
    }
    assert!(asked > 40, "only {asked} answers");
}

#[test]
fn the_password_of_the_bmc_is_found_nowhere() {
    let watch = Watch::start();
    let options = Options {
        log_level: "trace".to_owned(),
        timing: format!("{},bmc_idle_s=0.3", stage::TIMING),
        ..Options::default()
    };
    let right = password(CORE);
    let mut stage = Stage::with(options, |config| config.password.clone_from(&right));
    let mut search = Search {
        forms: [forms(CORE), forms(WRONG_CORE)].concat(),
        ..Search::default()
    };
    let mut say = Vec::new();
    let mut boot = |stage: &Stage, fault: Option<Fault>, ok: bool, reason: &str| {
        for words in [
            &["machines", "workflow", MACHINE, ""][..],
            &["machines", "bootenv", MACHINE, "local"],
        ] {
            // What the boot before has left may be out of reach by now.
            let out = stage.isobar(words);
            say.push((format!("the CLI's words before {reason}"), out.to_string()));
        }
        if fault.is_some() {
            // It is for the boot that follows.
            stage.wait("the BMC is left alone", |s| s.last_boot()["state"] != "running");
            stage.wait("it has to log in", |s| s.sim().sessions() == 0);
        }
        let fault = fault.map(|fault| stage.sim().plant(fault));
        let out = stage.isobar(&["machines", "workflow", MACHINE, "discover-base", "--wait", "agent"]);
        fault.map(|fault| stage.sim().remove_fault(fault));
        assert_eq!(out.ok, ok, "{out}");
        say.push((format!("the CLI's words, {reason}"), out.to_string()));
        if !ok {
            assert_eq!(stage.last_boot()["error"]["reason"], reason);
        }
    };
    stage.import();
    stage.add_machine(&json!({"ipmi/password": right}));
    boot(&stage, None, true, "a good boot");
    let exported = stage.dir().join("exported.iso");
    let out = stage.isobar(&["isos", "export", MACHINE, "-o", exported.to_str().unwrap()]);
    assert!(out.ok, "{out}");

    // A BMC that answers with what it was sent.
    let echo = |path: &str| {
        let kind = FaultKind::Status {
            code: 400,
            retry_after_s: None,
            message_id: Some("Base.1.18.PropertyValueFormatError".to_owned()),
            message: Some(format!(
                "The value {right} of Password is malformed (Basic {}, {})",
                STANDARD_NO_PAD.encode(format!("root:{right}")),
                STANDARD_NO_PAD.encode(&right),
            )),
        };
        Fault::from(kind).on("POST", path)
    };
    for path in ["SessionService/Sessions", "InsertMedia"] {
        boot(&stage, Some(echo(path)), false, "bmc-refused");
    }
    let set_password = |stage: &Stage, text: &str| {
        let file = stage.dir().join("given");
        std::fs::write(&file, text).unwrap();
        stage.set("ipmi/password", &format!("@{}", file.display()));
        std::fs::remove_file(file).unwrap();
    };
    set_password(&stage, &password(WRONG_CORE));
    boot(&stage, None, false, "bmc-password");
    set_password(&stage, &right);
    stage.set("ipmi/address", &redirecting(&right));
    boot(&stage, None, false, "bmc-protocol");

    for (place, words) in say {
        search.look(&place, words.as_bytes());
    }
    answers(&stage, &mut search);
    // As a post-mortem finds it: log, database and its log, blobs, tokens of the CLI, the exported disc.
    stage.kill_server();
    let own = stage.dir().to_path_buf();
    let kept = stage::files_below(&stage.data().join("post-mortems"));
    assert!(kept.len() >= 4, "post-mortems of the boots that failed: {kept:?}");
    search.look_below(&own);
    let processes = watch.end();
    assert!(processes.len() > 8, "the processes were seen");
    for (bytes, place) in processes {
        search.look(&place, &bytes);
    }
    assert!(search.places > 80, "only {} places", search.places);
    assert!(search.found.is_empty(), "found in\n{}", search.found.join("\n"));
}

#[test]
fn the_search_sees_through_what_encodes() {
    let search = |bytes: &[u8]| {
        let mut search = Search {
            forms: forms(CORE),
            ..Search::default()
        };
        search.look("here", bytes);
        search.found.len()
    };
    let secret = password(CORE);
    for user in ["root", "admin", "Administrator"] {
        let basic = STANDARD_NO_PAD.encode(format!("{user}:{secret}"));
        assert_eq!(search(basic.as_bytes()), 1, "{basic}");
    }
    assert_eq!(search(json!({"Password": secret}).to_string().as_bytes()), 1);
    assert_eq!(search(hex(&secret).as_bytes()), 1);
    assert_eq!(search(b"nothing"), 0);
    let folder = tempfile::tempdir().unwrap();
    let mut below = Search {
        forms: forms(CORE),
        ..Search::default()
    };
    std::fs::write(folder.path().join("page"), b"\0\n\xff nothing \0").unwrap();
    below.look_below(folder.path());
    assert!(below.found.is_empty());
    std::fs::write(folder.path().join("page"), format!("\0\n{secret}\0")).unwrap();
    below.look_below(folder.path());
    assert_eq!(below.found.len(), 1);
}
