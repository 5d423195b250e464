//! Plays the operating system of machines: what our agent does, without a kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isobar_client::{Auth, Client, Secret, TlsTrust};
use isobar_sim::{OsExit, OsHook, OsUp};
use serde_json::{Value, json};

/// An operating system that came up.
#[derive(Clone, Debug)]
pub struct Os {
    pub command_line: String,
    /// `/etc/isobar/boot.json` of its initramfs.
    pub boot: Value,
}

/// Everybody who came up, and what they did.
#[derive(Clone, Default)]
pub struct Players {
    oses: Arc<Mutex<Vec<Os>>>,
    beats: Arc<AtomicUsize>,
}

impl Players {
    /// For [`isobar_sim::SimConfig::os_up`]: agents that speak to the API on this port.
    pub fn hook(&self, api: u16) -> OsHook {
        let (oses, beats) = (Arc::clone(&self.oses), Arc::clone(&self.beats));
        Arc::new(move |os| Box::pin(play_os(os, api, Arc::clone(&oses), Arc::clone(&beats))))
    }

    pub fn all(&self) -> Vec<Os> {
        self.oses.lock().unwrap().clone()
    }

    /// How often each machine (by UUID) came up.
    pub fn by_machine(&self) -> HashMap<String, usize> {
        let mut count = HashMap::new();
        for os in self.all() {
            *count
                .entry(os.boot["machine"].as_str().unwrap().to_owned())
                .or_insert(0) += 1;
        }
        count
    }

    /// Heartbeats that agents have sent.
    pub fn heartbeats(&self) -> usize {
        self.beats.load(Ordering::SeqCst)
    }
}

/// The agent's side: exchange, check-in, report, heartbeats until it is told to reboot.
async fn play_os(os: OsUp, api: u16, oses: Arc<Mutex<Vec<Os>>>, beats: Arc<AtomicUsize>) -> OsExit {
    let OsUp {
        command_line,
        initrds,
        mut power_button,
        ..
    } = os;
    let boot = initrds
        .iter()
        .find_map(|(_, bytes)| secret_of(bytes))
        .expect("an initrd with the boot secret");
    oses.lock().unwrap().push(Os {
        command_line,
        boot: boot.clone(),
    });
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let agent = tokio::task::spawn_blocking(move || agent(&boot, api, &stopped, &beats));
    tokio::select! {
        exit = agent => exit.unwrap_or(OsExit::Stay),
        _ = power_button.recv() => {
            drop(stop);
            OsExit::PowerOff
        }
    }
}

fn agent(boot: &Value, api: u16, stopped: &std::sync::mpsc::Receiver<()>, beats: &AtomicUsize) -> OsExit {
    let text = |name: &str| boot[name].as_str().unwrap().to_owned();
    let (machine, attempt) = (text("machine"), text("attempt"));
    // The machine's own network does not exist here; the pin is the one that it was given.
    let trust = TlsTrust::Pinned(text("fingerprint"));
    let nobody = Client::new(&format!("https://127.0.0.1:{api}"), Auth::None, trust).unwrap();
    let nonce = format!("nonce-of-{attempt}");
    let exchange = json!({"machine": machine, "attempt": attempt, "secret": text("secret"), "nonce": nonce});
    let mut client = None;
    let mut pause = Duration::from_millis(200);
    let ended = |r: Result<(), std::sync::mpsc::RecvTimeoutError>| {
        r.is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected)
    };
    loop {
        if client.is_none() {
            // As after a lost reply: asked twice with one nonce, the same token comes twice.
            let first = nobody.post::<_, Value>("/isobar/v1/agent/exchange", &exchange);
            let second = nobody.post::<_, Value>("/isobar/v1/agent/exchange", &exchange);
            if let (Ok(first), Ok(second)) = (first, second) {
                assert_eq!(first["token"], second["token"]);
                let token = first["token"].as_str().unwrap();
                let mine = nobody.with_auth(Auth::Token(Secret::new(token)));
                let checkin = json!({"machine": machine, "attempt": attempt, "version": "test", "uptime_s": 1, "root_in_memory": true});
                let report = [json!({"op": "replace", "path": "/Address", "value": "192.168.77.10"})];
                let checked_in = mine.post::<_, Value>("/isobar/v1/agent/checkin", &checkin);
                let reported = mine.patch::<_, Value>(&format!("/api/v3/machines/{machine}"), &report);
                if let (Ok(answer), Ok(_)) = (checked_in, reported) {
                    pause = Duration::from_secs(answer["heartbeat_s"].as_u64().unwrap());
                    client = Some(mine);
                }
            }
        } else if let Some(client) = &client {
            let beat = json!({"machine": machine, "attempt": attempt, "uptime_s": 2});
            if let Ok(answer) = client.post::<_, Value>("/isobar/v1/agent/heartbeat", &beat) {
                beats.fetch_add(1, Ordering::SeqCst);
                if answer["command"] == "reboot" {
                    return OsExit::Reboot;
                }
            }
        }
        if ended(stopped.recv_timeout(pause)) {
            return OsExit::Stay;
        }
    }
}

/// The JSON in a newc archive that holds one file with some.
fn secret_of(archive: &[u8]) -> Option<Value> {
    let from = archive.iter().position(|b| *b == b'{')?;
    serde_json::Deserializer::from_slice(&archive[from..])
        .into_iter::<Value>()
        .next()?
        .ok()
}
