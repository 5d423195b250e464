//! Serial consoles of machines, through their BMCs.
//!
//! Opening one is an exchange as any other. What follows is a session of its own that lasts for hours and carries
//! characters alone: it holds no turn, so boots and actions go on beside it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use isobar_bmc::{Endpoint, ErrorClass, Mode};
pub use isobar_ipmi::sol::Key;
use isobar_model::ApiError;
use isobar_objects::Principal;
use isobar_store::Txn;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::actions::failure;
use crate::gate::{Caller, Rank};
use crate::reason::Reason;
use crate::record::Boot;
use crate::service::Booter;
use crate::settings::Settings;
use crate::state::{Inner, lock, store_error};

/// Consoles that are open at a time, of all machines.
const MOST: usize = 64;
/// Packets between BMC and reader: who reads slowly slows the BMC.
const SCREEN: usize = 32;
/// Requests with keystrokes that wait for the BMC.
const KEYS: usize = 16;

/// An open console.
#[derive(Debug)]
pub struct Console {
    /// Its name, which nobody can guess.
    pub id: String,
    /// What the machine says; an error is the last item. Dropping it closes the console.
    pub screen: mpsc::Receiver<Result<Vec<u8>, String>>,
}

struct Open {
    machine: String,
    keys: mpsc::Sender<Key>,
}

/// Those that are open.
#[derive(Default)]
pub(crate) struct Consoles(
    Mutex<HashMap<String, Open>>,
    Mutex<Tails>,
    Mutex<HashMap<String, Following>>,
);

/// A console that is followed for a boot's post-mortem, by its machine.
struct Following {
    boot: String,
    /// Dropping it ends it; none: it has ended.
    end: Option<oneshot::Sender<()>>,
    /// Whoever wants the console waits here until it is given back.
    over: Arc<Semaphore>,
    /// Why there is nothing of it.
    why: Option<String>,
}

/// Consoles that are followed at a time.
const FOLLOWED: usize = 64;
/// Machines of which it is known why there is no tail.
const WHYS: usize = 1024;

/// Bytes of a console's end that are kept.
const TAIL: usize = 16 * 1024;
/// Machines whose console's end is kept.
const TAILS: usize = 256;

/// The last of what was said on consoles that somebody had open, those that spoke last at the end.
#[derive(Default)]
struct Tails(VecDeque<(String, VecDeque<u8>)>);

impl Tails {
    fn add(&mut self, machine: &str, text: &[u8]) {
        let known = self.0.iter().position(|(of, _)| of == machine);
        let (of, mut tail) = known.and_then(|at| self.0.remove(at)).unwrap_or_default();
        tail.extend(text);
        tail.drain(..tail.len().saturating_sub(TAIL));
        let of = if of.is_empty() { machine.to_owned() } else { of };
        self.0.push_back((of, tail));
        if self.0.len() > TAILS {
            self.0.pop_front();
        }
    }
}

impl Consoles {
    /// Why the console of this machine could not be followed.
    pub(crate) fn why_no_tail(&self, machine: &str) -> Option<String> {
        lock(&self.2).get(machine)?.why.clone()
    }

    /// Nothing that was said in an earlier boot is of this one.
    fn forget(&self, machine: &str) {
        lock(&self.1).0.retain(|(of, _)| of != machine);
    }

    /// The end of what a machine said, where somebody had its console open.
    pub(crate) fn tail(&self, machine: &str) -> Option<String> {
        let tails = lock(&self.1);
        let (_, tail) = tails.0.iter().find(|(of, _)| of == machine)?;
        let (one, other) = tail.as_slices();
        Some(String::from_utf8_lossy(&[one, other].concat()).into_owned())
    }
}

impl Booter {
    /// Opens the serial console of a machine. `take_over`: whoever has it loses it.
    ///
    /// # Errors
    /// In the actions' shapes: no BMC, refused, somebody else has it.
    pub async fn open_console(
        &self,
        machine: &str,
        key: &str,
        take_over: bool,
        by: &Principal,
    ) -> Result<Console, ApiError> {
        let inner = Arc::clone(&self.inner);
        let (uuid, key) = (machine.to_owned(), key.to_owned());
        let by = by.clone();
        let work = self
            .inner
            .runtime
            .spawn(async move { inner.open_console(&uuid, &key, take_over, &by).await });
        // When nobody waits any more, what was opened is dropped, and so closed.
        match work.await {
            Ok(opened) => opened,
            Err(_) => Err(ApiError::new(500, "CONSOLE", "machines", machine, "it was broken off")),
        }
    }

    /// Types into a console that the same caller has opened on this machine.
    ///
    /// # Errors
    /// 404: it is not open, or not this machine's.
    pub async fn type_into(&self, machine: &str, id: &str, key: Key) -> Result<(), ApiError> {
        let gone = || ApiError::new(404, "CONSOLE", "machines", machine, format!("No open console {id}"));
        let keys = {
            let open = lock(&self.inner.consoles.0);
            let console = open
                .get(id)
                .filter(|console| console.machine == machine)
                .ok_or_else(gone)?;
            console.keys.clone()
        };
        // Waits while the BMC takes nothing: the sender is the one who is slowed.
        keys.send(key).await.map_err(|_| gone())
    }
}

impl Inner {
    async fn open_console(
        self: Arc<Self>,
        machine: &str,
        key: &str,
        take_over: bool,
        by: &Principal,
    ) -> Result<Console, ApiError> {
        let failed = |reason: &Reason| failure(machine, reason);
        let uuid = machine.to_owned();
        let settings = self
            .objects
            .run(move |objects| {
                let machine = objects.get("machines", &uuid)?;
                Settings::of(objects, &machine).map_err(|reason| failure(&uuid, &reason))
            })
            .await?;
        let endpoint = settings.endpoint.map_err(|reason| failed(&reason))?;
        if endpoint.mode == Mode::Redfish {
            let text = "Action console not supported on ipmi driver: redfish";
            let mut error = ApiError::new(404, "CONSOLE", "machines", key, text);
            error
                .messages
                .push("a BMC's console is IPMI's: set ipmi/mode to auto or ipmitool".to_owned());
            return Err(error);
        }
        self.end_tail(machine).await;
        if lock(&self.consoles.0).len() >= MOST {
            return Err(ApiError::new(
                409,
                "CONSOLE",
                "machines",
                key,
                format!("{MOST} consoles are open already"),
            ));
        }
        let audit = by.audit(
            "console",
            "machines",
            machine,
            if take_over { "taken over" } else { "" },
        );
        let told = Txn {
            audit: vec![audit],
            ..Txn::default()
        };
        self.store.submit(told).await.map_err(|e| store_error(&e))?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let caller = Caller {
            endpoint: &endpoint,
            site: settings.site.as_deref(),
            who: &id,
            rank: Rank::Asked,
        };
        let opened = self.gate.turn(caller).await.console(take_over).await;
        let console = opened.map_err(|error| {
            let mut refused = failed(&Reason::of_bmc(&error));
            if error.class == ErrorClass::Busy {
                refused.code = 409;
            }
            refused
        })?;
        let (keys, typed) = mpsc::channel(KEYS);
        let (shown, screen) = mpsc::channel(SCREEN);
        let (text, mut said) = mpsc::channel(1);
        let open = Open {
            machine: machine.to_owned(),
            keys,
        };
        lock(&self.consoles.0).insert(id.clone(), open);
        tracing::info!(machine, by = by.name(), "console opened");
        let (inner, name, machine) = (Arc::clone(&self), id.clone(), machine.to_owned());
        self.runtime.spawn(async move {
            let run = console.run(typed, text);
            let carry = async {
                loop {
                    tokio::select! {
                        () = shown.closed() => break,
                        text = said.recv() => match text {
                            Some(text) => {
                                lock(&inner.consoles.1).add(&machine, &text);
                                if shown.send(Ok(text)).await.is_err() { break }
                            }
                            None => break,
                        },
                    }
                }
                // `said` goes, and with it the console.
                drop(said);
            };
            let (ended, ()) = tokio::join!(run, carry);
            lock(&inner.consoles.0).remove(&name);
            if let Err(error) = &ended {
                // Nobody looks any more: fine.
                let _ = shown.send(Err(error.to_string())).await;
            }
            tracing::info!(machine, error = ended.err().map(|e| e.to_string()), "console closed");
        });
        Ok(Console { id, screen })
    }
}

impl Inner {
    /// Follows the serial console of a machine while it boots, where the operator wants that (`isobar/serial-tail`): never
    /// taken from somebody, given back to whoever opens it through this server, and over with the boot. Returns when it is open,
    /// so that nothing is missed, or cannot be.
    pub(crate) async fn follow_console(self: &Arc<Self>, boot: &Boot, settings: &Settings) {
        let Ok(endpoint) = settings.endpoint.clone() else {
            return;
        };
        if !settings.serial_tail || boot.shadow {
            return;
        }
        let (machine, id) = (boot.machine.clone(), boot.id.clone());
        let (end, ended) = oneshot::channel();
        let (ready, opened) = oneshot::channel();
        let over = Arc::new(Semaphore::new(0));
        {
            let mut all = lock(&self.consoles.2);
            if all.get(&machine).is_some_and(|one| one.boot == id) {
                return;
            }
            if all.len() >= WHYS {
                all.retain(|_, one| one.end.is_some());
            }
            let open = all.values().filter(|one| one.end.is_some()).count();
            let why = match endpoint.mode {
                Mode::Redfish => Some("a console is IPMI's, and ipmi/mode is redfish".to_owned()),
                _ if open >= FOLLOWED => Some(format!("{FOLLOWED} consoles of other boots were followed already")),
                _ => None,
            };
            let refused = why.is_some();
            let following = Following {
                boot: id.clone(),
                end: (!refused).then_some(end),
                over: Arc::clone(&over),
                why,
            };
            all.insert(machine.clone(), following);
            if refused {
                return;
            }
        }
        let watched = lock(&self.consoles.0).values().any(|open| open.machine == machine);
        if !watched {
            self.consoles.forget(&machine);
        }
        let (inner, site) = (Arc::clone(self), settings.site.clone());
        self.runtime.spawn(async move {
            let why = match watched {
                // Somebody has it open through this server: what they see is kept anyway.
                true => None,
                false => inner
                    .carry_tail(&machine, &endpoint, site.as_deref(), ready, ended)
                    .await
                    .err(),
            };
            let mut all = lock(&inner.consoles.2);
            if let Some(one) = all.get_mut(&machine).filter(|one| one.boot == id) {
                (one.end, one.why) = (None, why);
            }
            over.close();
        });
        let _ = tokio::time::timeout(self.timing.settle(), opened).await;
    }

    async fn carry_tail(
        &self,
        machine: &str,
        endpoint: &Endpoint,
        site: Option<&str>,
        ready: oneshot::Sender<()>,
        ended: oneshot::Receiver<()>,
    ) -> Result<(), String> {
        let caller = Caller {
            endpoint,
            site,
            who: "serial-tail",
            rank: Rank::Asked,
        };
        let opened = self.gate.turn(caller).await.console(false).await;
        let console = opened.map_err(|error| format!("its console could not be followed: {error}"))?;
        drop(ready);
        // Nothing is typed: the sender only has to live.
        let (_keys, typed) = mpsc::channel(1);
        let (text, mut said) = mpsc::channel(1);
        let run = console.run(typed, text);
        let carry = async {
            let mut ended = ended;
            loop {
                tokio::select! {
                    _ = &mut ended => break,
                    text = said.recv() => match text {
                        Some(text) => lock(&self.consoles.1).add(machine, &text),
                        None => break,
                    },
                }
            }
            drop(said);
        };
        let (ran, ()) = tokio::join!(run, carry);
        ran.map_err(|error| format!("its console was lost: {error}"))
    }

    /// The boot is over.
    pub(crate) fn unfollow_console(&self, boot: &Boot) {
        let mut all = lock(&self.consoles.2);
        if let Some(one) = all.get_mut(&boot.machine).filter(|one| one.boot == boot.id) {
            one.end = None;
        }
    }

    /// Somebody wants the console for themselves.
    async fn end_tail(&self, machine: &str) {
        let over = {
            let mut all = lock(&self.consoles.2);
            let Some(one) = all.get_mut(machine) else { return };
            one.end = None;
            Arc::clone(&one.over)
        };
        // It is closed when it is over; a BMC that does not answer is no reason to wait for ever.
        let _ = tokio::time::timeout(self.timing.log_out(), over.acquire()).await;
    }
}
