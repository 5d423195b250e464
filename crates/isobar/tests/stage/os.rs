//! Plays the operating system of machines: our agent's own protocol, without a kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use isobar_agent::protocol::{BootFile, Server};
use isobar_client::ClientError;
use isobar_sim::{OsExit, OsHook, OsUp};
use serde_json::{Value, json};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

/// An operating system that came up.
#[derive(Clone, Debug)]
pub struct Os {
    pub command_line: String,
    /// `/etc/isobar/boot.json` of its initramfs.
    pub boot: Value,
}

impl Os {
    /// The static address that the kernel was told.
    fn address(&self) -> String {
        let argument = |word: &str| word.strip_prefix("provisioner.ip=").map(str::to_owned);
        let given = self.command_line.split_whitespace().find_map(argument);
        given.as_deref().and_then(|ip| ip.split('/').next()).unwrap().to_owned()
    }
}

/// Everybody who came up, and what they did.
#[derive(Clone, Default)]
pub struct Players {
    oses: Arc<Mutex<Vec<Os>>>,
    beats: Arc<AtomicUsize>,
    /// Held by whoever sends a heartbeat, and against all of them.
    quiet: Arc<RwLock<()>>,
}

/// While it is held, agents send no heartbeats.
pub type Hush = OwnedRwLockWriteGuard<()>;

impl Players {
    /// For [`isobar_sim::SimConfig::os_up`]: agents that speak to the API on this port.
    pub fn hook(&self, api: u16) -> OsHook {
        self.hook_of(api, Habit::Beats)
    }

    /// [`Players::hook`] for agents that behave so.
    pub fn hook_of(&self, api: u16, habit: Habit) -> OsHook {
        self.hook_at(Place::Loopback(api), habit)
    }

    /// Agents that speak to the API where their disc says, each on a thread that does this first: enter the machine's
    /// network.
    pub fn hook_inside(&self, enter: Arc<dyn Fn() + Send + Sync>) -> OsHook {
        self.hook_at(Place::Network(enter), Habit::Beats)
    }

    fn hook_at(&self, place: Place, habit: Habit) -> OsHook {
        let players = self.clone();
        Arc::new(move |os| Box::pin(play_os(os, place.clone(), habit, players.clone())))
    }

    /// Waits for heartbeats that are under way.
    pub async fn hush(&self) -> Hush {
        Arc::clone(&self.quiet).write_owned().await
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

/// What an operating system does once it has reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Heartbeats, until it is told to reboot.
    Beats,
    /// It is not heard again; it still hears its power button.
    Silent,
}

/// Where the machine's network is.
#[derive(Clone)]
enum Place {
    /// Nowhere: the API is on this port.
    Loopback(u16),
    /// Where a thread gets by this.
    Network(Arc<dyn Fn() + Send + Sync>),
}

/// An operating system whose agent is ours, but for the kernel.
async fn play_os(os: OsUp, place: Place, habit: Habit, players: Players) -> OsExit {
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
    let os = Os { command_line, boot };
    players.oses.lock().unwrap().push(os.clone());
    let (stop, stopped) = mpsc::channel::<()>();
    let agent = tokio::task::spawn_blocking(move || match place {
        Place::Loopback(api) => {
            let api = json!([format!("https://127.0.0.1:{api}")]);
            agent(&os, &api, habit, &stopped, &players)
        }
        Place::Network(enter) => {
            let inside = move || {
                enter();
                agent(&os, &os.boot["api"], habit, &stopped, &players)
            };
            std::thread::spawn(inside).join().unwrap()
        }
    });
    tokio::select! {
        exit = agent => exit.unwrap_or(OsExit::Stay),
        _ = power_button.recv() => {
            drop(stop);
            OsExit::PowerOff
        }
    }
}

/// The power was switched off.
struct Off;

/// Calls until it is answered, as the agent does, with shorter waits.
fn insist<T>(stopped: &mpsc::Receiver<()>, mut call: impl FnMut() -> Result<T, ClientError>) -> Result<T, Off> {
    loop {
        if let Ok(answer) = call() {
            return Ok(answer);
        }
        pause(stopped, Duration::from_millis(200))?;
    }
}

fn pause(stopped: &mpsc::Receiver<()>, time: Duration) -> Result<(), Off> {
    match stopped.recv_timeout(time) {
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(Off),
        _ => Ok(()),
    }
}

fn agent(os: &Os, api: &Value, habit: Habit, stopped: &mpsc::Receiver<()>, players: &Players) -> OsExit {
    let run = tempfile::tempdir().unwrap();
    let mut file = os.boot.clone();
    file["api"] = api.clone();
    let path = run.path().join("boot.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let server = Server::new(BootFile::read(&path).unwrap(), run.path()).unwrap();
    match reports(server, &os.address(), habit, stopped, players) {
        Ok(()) => OsExit::Reboot,
        Err(Off) => OsExit::Stay,
    }
}

/// Exchange, check-in, report, heartbeats until it is told to reboot.
fn reports(
    mut server: Server,
    address: &str,
    habit: Habit,
    stopped: &mpsc::Receiver<()>,
    players: &Players,
) -> Result<(), Off> {
    insist(stopped, || server.log_in())?;
    let mut orders = insist(stopped, || server.check_in(1))?;
    let mut reported = false;
    while !orders.reboot {
        reported = reported || server.set_machine(address, &[]).is_ok();
        if reported && habit == Habit::Silent {
            loop {
                pause(stopped, Duration::from_secs(3600))?;
            }
        }
        pause(stopped, orders.heartbeat)?;
        let _turn = players.quiet.blocking_read();
        orders = insist(stopped, || server.heartbeat(2))?;
        players.beats.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// The JSON in a newc archive that holds one file with some.
fn secret_of(archive: &[u8]) -> Option<Value> {
    let from = archive.iter().position(|b| *b == b'{')?;
    serde_json::Deserializer::from_slice(&archive[from..])
        .into_iter::<Value>()
        .next()?
        .ok()
}
