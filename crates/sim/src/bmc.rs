//! The BMC itself: its sessions, its virtual media, its boot override. Redfish is one face of it,
//! the control API and [`crate::Sim`] are others; the machine's power is in [`crate::power`].

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use url::Url;

use crate::config::{SimConfig, ms};
use crate::console::Console;
use crate::fault::{Fault, FaultKind, Faults};
use crate::log::Log;
use crate::machine::BootDevice;
use crate::manners::{Manners, ReadManner};
use crate::medium::{Medium, ReadError, VirtualCd};
use crate::power::Command;
use crate::redfish::replay::Tree;

/// PowerState of the machine (DSP2046 Resource.PowerState).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// On.
    On,
    /// Off.
    Off,
    /// On its way up.
    PoweringOn,
    /// On its way down.
    PoweringOff,
}

/// The boot override, with Redfish's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOverride {
    /// `Once`, `Continuous`, `Disabled`.
    pub enabled: String,
    /// `Cd`, `Pxe`, `Hdd`, `None` …
    pub target: String,
    /// `UEFI` or `Legacy`.
    pub mode: String,
    /// What target `UefiHttp` downloads; stays after the boot.
    #[serde(default)]
    pub http_uri: String,
}

/// What a virtual media slot says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    /// URL of the image.
    pub image: Option<String>,
    /// Whether it says that something is in.
    pub inserted: bool,
    /// Whether something really is in.
    pub mounted: bool,
}

/// Which slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotId {
    /// A decoy: takes images, boots nothing.
    Floppy,
    /// The CD.
    Cd,
}

#[derive(Default)]
struct Slot {
    view: SlotView,
    medium: Option<Arc<Medium>>,
    /// Changes with every insert and eject, so that a late timer does not touch a newer medium.
    turn: u64,
}

pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) user: String,
    used: Instant,
}

struct State {
    power: Power,
    boot: BootOverride,
    floppy: Slot,
    cd: Slot,
    sessions: Vec<Session>,
    session_seq: u64,
    medium_seq: u64,
    asset_tag: String,
    /// Remote media is switched on.
    media_enabled: bool,
    /// Inserts that have failed for no reason.
    flaky: u32,
    /// Whether each task worked.
    tasks: Vec<bool>,
    /// Host and path of an image that is to be mounted.
    share: (String, String),
    /// What was in the CD slot last.
    last_image: Option<String>,
    /// A configuration profile wants the next boot to be the virtual CD's.
    profile_boot: bool,
    /// A BMC that restarts is deaf until then.
    deaf_until: Option<Instant>,
}

/// Tasks that are remembered.
const TASKS_MAX: usize = 1000;

/// Why a deed was not done.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Something is in the slot.
    Occupied,
    /// The image could not be read.
    Image(ReadError),
    /// The machine has more to do than it can remember.
    Busy,
}

pub(crate) struct Bmc {
    pub(crate) config: SimConfig,
    pub(crate) log: Arc<Log>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) folder: PathBuf,
    pub(crate) console: Arc<Console>,
    state: Mutex<State>,
    commands: mpsc::Sender<Command>,
    images: reqwest::Client,
    /// What Redfish shows instead of our own resources.
    pub(crate) replay: Option<Tree>,
    /// One insert or eject at a time, as in a BMC.
    media_line: tokio::sync::Mutex<()>,
    /// Logins over IPMI that were taken.
    pub(crate) ipmi_logins: AtomicUsize,
}

impl Bmc {
    pub(crate) fn new(
        config: SimConfig,
        folder: PathBuf,
        log: Arc<Log>,
        console: Arc<Console>,
        commands: mpsc::Sender<Command>,
        images: reqwest::Client,
        replay: Option<Tree>,
    ) -> Arc<Self> {
        let boot = replay.as_ref().and_then(Tree::boot).unwrap_or_else(|| BootOverride {
            enabled: "Disabled".into(),
            target: "None".into(),
            mode: config.firmware.mode().into(),
            http_uri: String::new(),
        });
        let state = State {
            power: Power::Off,
            boot,
            floppy: Slot::default(),
            cd: Slot::default(),
            sessions: Vec::new(),
            session_seq: 0,
            medium_seq: 0,
            asset_tag: String::new(),
            media_enabled: false,
            flaky: 0,
            tasks: Vec::new(),
            share: Default::default(),
            last_image: None,
            profile_boot: false,
            deaf_until: None,
        };
        Arc::new(Self {
            config,
            faults: Arc::new(Faults::new(Arc::clone(&log))),
            log,
            folder,
            console,
            state: Mutex::new(state),
            commands,
            images,
            replay,
            media_line: tokio::sync::Mutex::default(),
            ipmi_logins: AtomicUsize::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Sessions.

    /// Logs in; none when all sessions are taken.
    pub(crate) fn open_session(&self, user: &str) -> Option<(String, String)> {
        let mut state = self.lock();
        self.expire(&mut state);
        if state.sessions.len() >= self.config.manners.session_limit {
            return None;
        }
        state.session_seq += 1;
        let (id, token) = (state.session_seq.to_string(), hex::encode(rand::random::<[u8; 16]>()));
        state.sessions.push(Session {
            id: id.clone(),
            token: token.clone(),
            user: user.to_owned(),
            used: Instant::now(),
        });
        Some((id, token))
    }

    fn expire(&self, state: &mut State) {
        let timeout = Duration::from_secs(self.config.manners.session_timeout_s);
        state.sessions.retain(|s| s.used.elapsed() < timeout);
    }

    /// Whether the token belongs to a session, which is then in use.
    pub(crate) fn check_token(&self, token: &str) -> bool {
        let mut state = self.lock();
        self.expire(&mut state);
        match state.sessions.iter_mut().find(|s| s.token == token) {
            Some(session) => {
                session.used = Instant::now();
                true
            }
            None => false,
        }
    }

    pub(crate) fn close_session(&self, id: &str) -> bool {
        let mut state = self.lock();
        let before = state.sessions.len();
        state.sessions.retain(|s| s.id != id);
        state.sessions.len() != before
    }

    pub(crate) fn close_all_sessions(&self) {
        self.lock().sessions.clear();
    }

    /// Id and user of each session.
    pub(crate) fn sessions(&self) -> Vec<(String, String)> {
        let mut state = self.lock();
        self.expire(&mut state);
        state.sessions.iter().map(|s| (s.id.clone(), s.user.clone())).collect()
    }

    // System.

    pub(crate) fn power(&self) -> Power {
        self.lock().power
    }

    pub(crate) fn set_power(&self, power: Power) {
        self.lock().power = power;
        self.log.touch();
    }

    pub(crate) fn boot_override(&self) -> BootOverride {
        self.lock().boot.clone()
    }

    pub(crate) fn set_boot_override(&self, boot: BootOverride) {
        self.lock().boot = boot;
        self.log.touch();
    }

    pub(crate) fn asset_tag(&self) -> String {
        self.lock().asset_tag.clone()
    }

    pub(crate) fn set_asset_tag(&self, tag: &str) {
        tag.clone_into(&mut self.lock().asset_tag);
    }

    /// Hands a command to the power control.
    pub(crate) fn command(&self, command: Command) -> Result<(), Refusal> {
        self.commands.try_send(command).map_err(|_| Refusal::Busy)
    }

    /// Follows a reset type, unless a fault swallows it.
    pub(crate) fn reset(&self, command: Command) -> Result<(), Refusal> {
        if self.faults.meet_deed(|k| *k == FaultKind::PowerIgnored).is_some() {
            return Ok(());
        }
        self.command(command)
    }

    pub(crate) async fn quit(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Quit(done)).await.is_ok() {
            // An error: the control is gone, and the machine with it.
            let _ = ended.await;
        }
    }

    // Media.

    fn slot(state: &mut State, id: SlotId) -> &mut Slot {
        match id {
            SlotId::Floppy => &mut state.floppy,
            SlotId::Cd => &mut state.cd,
        }
    }

    pub(crate) fn slot_view(&self, id: SlotId) -> SlotView {
        let mut state = self.lock();
        let slot = Self::slot(&mut state, id);
        if slot.medium.as_ref().is_some_and(|medium| medium.is_closed()) {
            // Lost under the machine.
            (slot.view, slot.medium) = Default::default();
        }
        slot.view.clone()
    }

    pub(crate) fn occupy(&self, image: &str) {
        let mut state = self.lock();
        state.cd.view = SlotView {
            image: Some(image.to_owned()),
            inserted: true,
            mounted: false,
        };
        state.cd.turn += 1;
    }

    pub(crate) async fn insert(&self, id: SlotId, url: &Url) -> Result<(), Refusal> {
        let _line = self.media_line.lock().await;
        tokio::time::sleep(ms(self.config.manners.insert_ms)).await;
        let view = self.slot_view(id);
        if view.mounted || (view.inserted && view.image.is_some()) {
            if !self.config.manners.insert_replaces {
                return Err(Refusal::Occupied);
            }
            self.take_out(id);
        }
        if id == SlotId::Floppy {
            let mut state = self.lock();
            state.floppy.view = SlotView {
                image: Some(url.to_string()),
                inserted: true,
                mounted: false,
            };
            state.floppy.turn += 1;
            return Ok(());
        }
        if let Some(met) = self.faults.meet_deed(|k| matches!(k, FaultKind::NoMount { .. })) {
            let mut state = self.lock();
            let inserted = matches!(met.kind, FaultKind::NoMount { inserted: true });
            state.cd.view = SlotView {
                image: inserted.then(|| url.to_string()),
                inserted,
                mounted: false,
            };
            state.cd.turn += 1;
            return Ok(());
        }
        let number = {
            let mut state = self.lock();
            state.medium_seq += 1;
            state.medium_seq
        };
        let medium = Medium::new(
            number,
            url.clone(),
            self.images.clone(),
            self.config.manners.clone(),
            Arc::clone(&self.log),
            Arc::clone(&self.faults),
        );
        medium.inserted(&self.folder).await.map_err(Refusal::Image)?;
        {
            let mut state = self.lock();
            state.cd.view = SlotView {
                image: Some(url.to_string()),
                inserted: true,
                mounted: true,
            };
            state.cd.medium = Some(medium);
            state.cd.turn += 1;
        }
        self.log.touch();
        self.command(Command::MediumChanged)
    }

    /// Empties the slot; what it showed before.
    fn take_out(&self, id: SlotId) -> SlotView {
        let (before, medium) = {
            let mut state = self.lock();
            let slot = Self::slot(&mut state, id);
            slot.turn += 1;
            let (before, medium) = (std::mem::take(&mut slot.view), slot.medium.take());
            if id == SlotId::Cd && before.image.is_some() {
                state.last_image.clone_from(&before.image);
            }
            (before, medium)
        };
        if let Some(medium) = medium {
            medium.close();
            // Full: the machine learns it with what is before it; the medium gives no bytes any more.
            let _ = self.command(Command::MediumChanged);
        }
        self.log.touch();
        before
    }

    pub(crate) async fn eject(self: &Arc<Self>, id: SlotId) {
        let _line = self.media_line.lock().await;
        let before = self.take_out(id);
        if before.image.is_none() {
            return;
        }
        let met = self.faults.meet_deed(|k| matches!(k, FaultKind::StaleInserted { .. }));
        let usual = self.config.manners.stale_inserted_ms;
        if met.is_none() && usual == 0 {
            return;
        }
        let turn = {
            let mut state = self.lock();
            let slot = Self::slot(&mut state, id);
            slot.view = SlotView {
                mounted: false,
                ..before
            };
            slot.turn
        };
        let bmc = Arc::clone(self);
        tokio::spawn(async move {
            match met {
                None => tokio::time::sleep(ms(usual)).await,
                Some(met) if let FaultKind::StaleInserted { for_ms: Some(time) } = met.kind => {
                    tokio::time::sleep(ms(time)).await;
                }
                Some(mut met) => met.released().await,
            }
            {
                let mut state = bmc.lock();
                let slot = Self::slot(&mut state, id);
                if slot.turn == turn {
                    slot.view = SlotView::default();
                }
            }
            bmc.log.touch();
        });
    }

    pub(crate) fn last_image(&self) -> Option<String> {
        self.lock().last_image.clone()
    }

    pub(crate) fn media_enabled(&self) -> bool {
        self.lock().media_enabled
    }

    pub(crate) fn enable_media(&self) {
        self.lock().media_enabled = true;
    }

    /// Whether this insert is one that fails for no reason.
    pub(crate) fn is_flaky(&self) -> bool {
        let mut state = self.lock();
        let fails = state.flaky < self.config.manners.flaky_inserts;
        state.flaky += u32::from(fails);
        fails
    }

    pub(crate) fn share(&self) -> (String, String) {
        self.lock().share.clone()
    }

    pub(crate) fn set_share(&self, host: String, path: String) {
        self.lock().share = (host, path);
    }

    // Tasks.

    /// Its number, from 1.
    pub(crate) fn new_task(&self, worked: bool) -> usize {
        let mut state = self.lock();
        if state.tasks.len() >= TASKS_MAX {
            state.tasks.clear();
        }
        state.tasks.push(worked);
        state.tasks.len()
    }

    pub(crate) fn task(&self, number: usize) -> Option<bool> {
        self.lock().tasks.get(number.checked_sub(1)?).copied()
    }

    pub(crate) fn tasks(&self) -> usize {
        self.lock().tasks.len()
    }

    // The BMC itself.

    pub(crate) fn boot_virtual_cd_once(&self) {
        self.lock().profile_boot = true;
        self.log.touch();
    }

    /// It forgets who was logged in and what was in its slots, and is deaf for a while.
    pub(crate) fn restart(&self) {
        self.close_all_sessions();
        self.lose_medium();
        self.faults.end_lock_ups();
        self.lock().deaf_until = Some(Instant::now() + ms(self.config.manners.bmc_reset_ms));
    }

    pub(crate) fn is_deaf(&self) -> bool {
        self.lock().deaf_until.is_some_and(|until| Instant::now() < until)
    }

    /// What firmware that boots by HTTP is to download; it takes no certificate to heart.
    pub(crate) fn http_image(&self, boot: &BootOverride) -> Option<Arc<Medium>> {
        let url = (boot.target == "UefiHttp").then(|| Url::parse(&boot.http_uri).ok())??;
        let number = {
            let mut state = self.lock();
            state.medium_seq += 1;
            state.medium_seq
        };
        let manners = Manners {
            read: ReadManner::CopyAll,
            ..self.config.manners.clone()
        };
        let (images, log, faults) = (self.images.clone(), Arc::clone(&self.log), Arc::clone(&self.faults));
        Some(Medium::new(number, url, images, manners, log, faults))
    }

    pub(crate) fn lose_medium(&self) {
        self.take_out(SlotId::Cd);
    }

    pub(crate) fn cd(&self) -> Option<Arc<dyn VirtualCd>> {
        self.lock().cd.medium.clone().map(|medium| medium as Arc<dyn VirtualCd>)
    }

    // Faults.

    /// Plants a fault; those that need no request happen now.
    pub(crate) fn plant(&self, fault: Fault) -> u64 {
        if !fault.has_matcher() {
            match fault.kind {
                FaultKind::LoseSessions => {
                    self.close_all_sessions();
                    return 0;
                }
                FaultKind::MediaLost => {
                    self.lose_medium();
                    return 0;
                }
                _ => {}
            }
        }
        self.faults.plant(fault)
    }

    /// Chooses what the next boot boots, and uses a one-time override up.
    pub(crate) fn follow_override(&self) -> (BootDevice, BootOverride) {
        let ignored = self.faults.meet_deed(|k| *k == FaultKind::OverrideIgnored).is_some();
        let mut state = self.lock();
        let mut boot = state.boot.clone();
        let by_profile = self.config.manners.boot_by_profile;
        if std::mem::take(&mut state.profile_boot) && !ignored {
            boot.enabled = "Once".into();
            return (BootDevice::Cd, boot);
        }
        let set = boot.enabled != "Disabled" && boot.target != "None";
        if set && boot.enabled == "Once" && !self.faults.has(|k| *k == FaultKind::OverrideKept) {
            state.boot.enabled = "Disabled".into();
            state.boot.target = "None".into();
        }
        let device = match boot.target.as_str() {
            _ if ignored || !set => BootDevice::Disk,
            // Of a drive in the machine, which is empty.
            "Cd" if by_profile => BootDevice::Disk,
            "Cd" | "UsbCd" | "UefiUsbCd" => BootDevice::Cd,
            "Pxe" | "UefiHttp" => BootDevice::Network,
            _ => BootDevice::Disk,
        };
        (device, boot)
    }
}
