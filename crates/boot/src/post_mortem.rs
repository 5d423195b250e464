//! What is kept of a boot that failed: one file without secrets, to be looked at elsewhere, and to be replayed by the
//! simulator.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use isobar_bmc::Redactor;
use isobar_model::Object;
use isobar_objects::Objects;
use isobar_store::StoreError;
use serde_json::{Map, Value, json};

use crate::gate;
use crate::record::{Boot, rfc3339};
use crate::service::Booter;
use crate::settings::{Settings, param};
use crate::state::{Inner, lock};
use crate::view::BootView;

/// Form of the file.
const FORMAT: &str = "isobar-post-mortem/1";
/// Files that are kept; the oldest go first.
const KEPT: usize = 500;
/// Longest file: a conversation, a console's tail and a history are bounded, each well below.
const LONGEST: usize = 1024 * 1024;
/// Params that say how a machine boots, and hold no secret.
const PARAMS: &[&str] = &[
    param::BOOT_VIRTUAL_ISO,
    param::BOOT_VIRTUAL_ISO_URL,
    param::POWER_POLICY,
    param::SHUTDOWN,
    param::STRICT,
    param::IMAGE_PEERS,
    param::IMAGE_SCHEME,
    param::SERVER_FOR_BMC,
    param::SERVER_FOR_MACHINE,
    param::NETWORK_DATA,
    param::IPMI_ADDRESS,
    param::IPMI_PORT,
    param::IPMI_PORT_UDP,
    param::BIOS_MODE,
    param::BMC_SYSTEM,
    param::BMC_TLS,
    param::BMC_SITE,
    param::BMC_RECOVERY,
    param::SERIAL_TAIL,
    param::IPMI_MODE,
];

/// Boots that failed in the change that began them and whose commit is still to come, at most: those of a rolling boot.
const EARLY: usize = 10_000;

/// The folder of these files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    /// Boots that failed before there was anything to send, by their machines, until the change is committed.
    early: Arc<Mutex<HashMap<String, String>>>,
}

impl Files {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            early: Arc::default(),
        }
    }

    /// A boot cannot be planned: it has a file once it is committed.
    pub(crate) fn expect(&self, machine: &str, boot: &str) {
        let mut early = lock(&self.early);
        if early.len() < EARLY {
            early.insert(machine.to_owned(), boot.to_owned());
        }
    }

    fn expected(&self, machine: &str) -> Option<String> {
        lock(&self.early).remove(machine)
    }

    fn path(&self, boot: &str) -> Option<PathBuf> {
        // Ids are UUIDs; nothing that a client writes is a path.
        let id = uuid::Uuid::parse_str(boot).ok()?;
        Some(self.folder.join(format!("{id}.json")))
    }

    /// On disk when this returns. The oldest make room.
    pub(crate) fn write(&self, boot: &str, document: &Value) -> io::Result<()> {
        let path = self.path(boot).ok_or(io::ErrorKind::InvalidInput)?;
        let text = serde_json::to_vec_pretty(document)?;
        if text.len() > LONGEST {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "a post-mortem that is too long",
            ));
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        self.collect(KEPT - 1)?;
        let half = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&half)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&half, &path)?;
        std::fs::File::open(&self.folder)?.sync_all()
    }

    /// One more member, of a file that is there.
    pub(crate) fn add(&self, boot: &str, member: &str, value: Value) -> io::Result<()> {
        let Some(text) = self.read(boot)? else { return Ok(()) };
        let mut document: Value = serde_json::from_slice(&text)?;
        document[member] = value;
        self.write(boot, &document)
    }

    fn read(&self, boot: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = self.path(boot) else {
            return Ok(None);
        };
        match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// Leaves so many.
    fn collect(&self, keep: usize) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let written = entry.metadata().and_then(|data| data.modified());
            files.push((written.unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
        }
        files.sort_unstable();
        let surplus = files.len().saturating_sub(keep);
        files.iter().take(surplus).for_each(|(_, path)| remove(path));
        Ok(())
    }
}

/// Somebody else may have been faster.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "an old post-mortem cannot be removed");
    }
}

/// What of a machine's params is told.
fn params(objects: &Objects, machine: &Object) -> Value {
    let mut told = Map::new();
    for name in PARAMS {
        if let Ok(Some(found)) = objects.resolve_in("machines", machine, name) {
            told.insert((*name).to_owned(), found.value);
        }
    }
    told.into()
}

impl Inner {
    /// Why there is nothing of the machine's serial console.
    fn no_serial(&self, boot: &Boot, settings: Option<&Settings>) -> String {
        if boot.attempt.is_none() {
            return "the machine was not switched on".to_owned();
        }
        if let Some(why) = self.consoles.why_no_tail(&boot.machine) {
            return why;
        }
        match settings {
            Some(settings) if settings.serial_tail => "its console said nothing".to_owned(),
            _ => format!("nobody had its console open, and {} is not true", param::SERIAL_TAIL),
        }
    }

    /// A change is committed: a boot that failed in it gets its file.
    pub(crate) fn post_mortem_of_early(self: &Arc<Self>, machine: &str) {
        let Some(id) = self.post_mortems.expected(machine) else {
            return;
        };
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            let (of, boot) = (Arc::clone(&inner), id.clone());
            let written = inner.objects.run(move |_| {
                // The change may have been prepared again, and this boot be none.
                let Some(row) = of.boot_row(&boot).map_err(io::Error::other)? else {
                    return Ok(());
                };
                let document = of.post_mortem(&row.boot, (Vec::new(), 0)).map_err(io::Error::other)?;
                of.post_mortems.write(&boot, &document)
            });
            if let Err(error) = written.await {
                tracing::error!(boot = id, %error, "the post-mortem cannot be written");
            }
        });
    }

    /// The file of a boot that fails; `conversation` is what was said to its BMC, and how much of it is lost.
    pub(crate) fn post_mortem(&self, boot: &Boot, conversation: (Vec<Value>, usize)) -> Result<Value, StoreError> {
        let machine = self.objects.find("machines", &boot.machine).ok().flatten();
        let settings = self.settings(&boot.machine).ok();
        let endpoint = settings.as_ref().and_then(|settings| settings.endpoint.as_ref().ok());
        let attempt = boot
            .attempt
            .as_deref()
            .map(|id| self.attempt(id))
            .transpose()?
            .flatten();
        let mut redactor = Redactor::default();
        if let Some(endpoint) = endpoint {
            redactor.hide_login(&endpoint.username, endpoint.password.reveal());
        }
        if let Some(token) = attempt
            .as_ref()
            .and_then(|a| self.attempts.unseal(&a.id, &a.token_sealed))
        {
            redactor.hide(&token);
        }
        let reads = attempt.as_ref().and_then(|attempt| self.book.get(attempt.attempt_id()));
        let (exchanges, lost) = conversation;
        let serial = self.consoles.tail(&boot.machine);
        let serial_missing = serial.is_none().then(|| self.no_serial(boot, settings.as_ref()));
        let shown = BootView::new(boot, None, false, 0);
        let document = json!({
            "format": FORMAT,
            "isobar": env!("CARGO_PKG_VERSION"),
            "at": rfc3339(self.now_ms()),
            "reason": boot.error,
            "boot": serde_json::to_value(&shown).unwrap_or_default(),
            "step": boot.step,
            "way": boot.way,
            "bmc": endpoint.map(|endpoint| json!({
                "name": endpoint.name(),
                "authority": gate::authority(endpoint),
                "scheme": endpoint.url.scheme(),
                "mode": endpoint.mode,
                "tls": endpoint.tls,
                "system": endpoint.system,
            })),
            "image": attempt.as_ref().map(|attempt| json!({
                "url": attempt.authority,
                "size": attempt.size,
                "bmc_addresses": attempt.bmc_ips,
                "peers": attempt.peers,
                "strict": attempt.strict,
                "first_read": attempt.first_read_ms.map(rfc3339),
                "elsewhere": attempt.elsewhere,
                "api": attempt.api,
            })),
            "reads": reads.map(|reads| reads.timeline(self.now())),
            "serial": serial,
            "serial_missing": serial_missing,
            "settings": { "timing": self.timing },
            "machine": machine.as_ref().map(|machine| json!({
                "Arch": machine.get("Arch"),
                "Profiles": machine.get("Profiles"),
                "Stage": machine.get("Stage"),
                "Workflow": machine.get("Workflow"),
                "params": params(&self.objects, machine),
            })),
            "exchanges": exchanges,
            "exchanges_lost": lost,
            "survey": null,
        });
        Ok(redactor.value(&document))
    }
}

impl Booter {
    /// The file of a boot that failed, as JSON; none: it did not fail, or the file is gone.
    ///
    /// # Errors
    /// Of the disk.
    pub fn post_mortem(&self, boot: &str) -> io::Result<Option<Vec<u8>>> {
        self.inner.post_mortems.read(boot)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_are_kept_and_no_name_is_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("post-mortems"));
        let ids: Vec<String> = (0..KEPT + 3).map(|_| uuid::Uuid::new_v4().to_string()).collect();
        for id in &ids {
            files.write(id, &json!({ "id": id })).unwrap();
        }
        assert_eq!(std::fs::read_dir(&files.folder).unwrap().count(), KEPT);
        let newest: Value = serde_json::from_slice(&files.read(&ids[KEPT + 2]).unwrap().unwrap()).unwrap();
        assert_eq!(newest["id"], ids[KEPT + 2].as_str());
        assert!(files.read("../../etc/passwd").unwrap().is_none());
        assert!(files.write("../x", &json!({})).is_err());
        assert!(files.write(&ids[0], &json!("x".repeat(LONGEST))).is_err());
    }
}
