//! A machine on paper: its firmware, GRUB and kernel are one small routine that reads the CD in
//! the order and in the pieces of a real boot, and whose operating system is a hook of the caller.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::config::{Firmware, OsHook, ms};
use crate::console::Console;
use crate::iso::{Disc, DiscError};
use crate::log::Log;
use crate::machine::{BootDevice, Ended, Events, Machine, MachineEvent, Start};
use crate::manners::Manners;
use crate::medium::{Medium, VirtualCd};

/// Largest initrd that is handed to the hook; a machine's own initrd has a few KB.
const OWN_INITRD_MAX: u64 = 1 << 20;
const GRUB_CFG_MAX: u64 = 1 << 20;

/// What the operating system of a paper machine finds when it is up.
#[derive(Debug)]
pub struct OsUp {
    /// SMBIOS UUID of the machine.
    pub uuid: Uuid,
    /// MAC address of its NIC.
    pub mac: String,
    /// Arguments of the kernel.
    pub command_line: String,
    /// Initrds of at most 1 MiB, by path on the disc: the machine's own is among them.
    pub initrds: Vec<(String, Vec<u8>)>,
    /// The power button; an operating system that ignores it stays up.
    pub power_button: mpsc::Receiver<()>,
}

/// How the operating system left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OsExit {
    /// It reboots.
    Reboot,
    /// It switches off.
    PowerOff,
    /// It has nothing more to do and stays up, listening to the power button.
    Stay,
}

pub(crate) struct PaperMachine {
    uuid: Uuid,
    mac: String,
    firmware: Firmware,
    manners: Manners,
    os_up: Option<OsHook>,
    log: Arc<Log>,
    console: Arc<Console>,
    events: Events,
    run: Option<Run>,
}

struct Run {
    boot: u64,
    task: JoinHandle<()>,
    button: mpsc::Sender<()>,
    cd: tokio::sync::watch::Sender<Option<Arc<dyn VirtualCd>>>,
}

impl PaperMachine {
    pub(crate) fn new(config: &crate::SimConfig, log: Arc<Log>, console: Arc<Console>, events: Events) -> Self {
        Self {
            uuid: config.uuid,
            mac: config.mac.clone(),
            firmware: config.firmware,
            manners: config.manners.clone(),
            os_up: config.os_up.clone(),
            log,
            console,
            events,
            run: None,
        }
    }
}

#[async_trait]
impl Machine for PaperMachine {
    async fn start(&mut self, start: Start) -> Result<(), String> {
        self.stop().await;
        let (button, pressed) = mpsc::channel(1);
        let cd = tokio::sync::watch::Sender::new(start.cd);
        let firmware = Boot {
            boot: start.boot,
            uuid: self.uuid,
            mac: self.mac.clone(),
            firmware: self.firmware,
            manners: self.manners.clone(),
            os_up: self.os_up.clone(),
            log: Arc::clone(&self.log),
            console: Arc::clone(&self.console),
            cd: cd.subscribe(),
            http: start.http,
        };
        // A terminal on paper: it shows what is typed.
        let (console, mut keys) = (Arc::clone(&self.console), self.console.keyboard());
        tokio::spawn(async move {
            while let Some(typed) = keys.recv().await {
                let shown: Vec<u8> = typed.iter().flat_map(shown).copied().collect();
                console.say(&shown);
            }
        });
        let (events, boot) = (self.events.clone(), start.boot);
        let task = tokio::spawn(async move {
            let ended = firmware.run(start.device, pressed).await;
            // The receiver goes only with the whole simulator.
            let _ = events.send(MachineEvent { boot, ended }).await;
        });
        self.run = Some(Run { boot, task, button, cd });
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(run) = self.run.take() {
            run.task.abort();
            // Cancelled or done: either way it is over.
            let _ = run.task.await;
        }
    }

    async fn power_button(&mut self) {
        if let Some(run) = &self.run {
            // Full: it was pressed already.
            let _ = run.button.try_send(());
        }
    }

    async fn medium_changed(&mut self, cd: Option<Arc<dyn VirtualCd>>) {
        if let Some(run) = &self.run {
            run.cd.send_replace(cd);
        }
    }

    async fn guest_reset(&mut self) {
        if let Some(run) = self.run.take() {
            run.task.abort();
            let _ = run.task.await;
            // As in `start`.
            let _ = self.events.try_send(MachineEvent {
                boot: run.boot,
                ended: Ended::Reset,
            });
        }
    }
}

fn shown(key: &u8) -> &[u8] {
    match key {
        b'\r' => b"\r\n",
        key => std::slice::from_ref(key),
    }
}

/// One boot on paper.
struct Boot {
    boot: u64,
    uuid: Uuid,
    mac: String,
    firmware: Firmware,
    manners: Manners,
    os_up: Option<OsHook>,
    log: Arc<Log>,
    console: Arc<Console>,
    cd: tokio::sync::watch::Receiver<Option<Arc<dyn VirtualCd>>>,
    http: Option<(Arc<Medium>, PathBuf)>,
}

/// What GRUB loaded.
struct Loaded {
    command_line: String,
    initrds: Vec<(String, Vec<u8>)>,
}

impl Boot {
    fn stage(&self, stage: impl Into<String>) {
        let stage = stage.into();
        self.console.say(format!("paper machine: {stage}\r\n").as_bytes());
        self.log.stage(self.boot, stage);
    }

    async fn run(self, device: BootDevice, mut pressed: mpsc::Receiver<()>) -> Ended {
        self.stage("firmware");
        tokio::select! {
            () = tokio::time::sleep(ms(self.manners.post_ms)) => {}
            Some(()) = pressed.recv() => return Ended::Shutdown,
        }
        let loaded = if device == BootDevice::Cd || self.http.is_some() {
            tokio::select! {
                loaded = self.load() => loaded,
                Some(()) = pressed.recv() => return Ended::Shutdown,
            }
        } else {
            None
        };
        let Some(loaded) = loaded else {
            self.stage("no-bootable-device");
            // Firmware listens to the button while it shows its complaint.
            return self.wait_for_button(pressed).await;
        };
        tokio::time::sleep(ms(self.manners.kernel_ms)).await;
        self.stage("os-up");
        let Some(hook) = &self.os_up else {
            return self.wait_for_button(pressed).await;
        };
        let (forward, power_button) = mpsc::channel(1);
        let os = OsUp {
            uuid: self.uuid,
            mac: self.mac.clone(),
            command_line: loaded.command_line,
            initrds: loaded.initrds,
            power_button,
        };
        let mut os = std::pin::pin!(hook(os));
        let exit = loop {
            tokio::select! {
                exit = &mut os => break exit,
                Some(()) = pressed.recv() => {
                    // A hook that dropped its end does not care for the button: then the kernel shuts down.
                    if forward.send(()).await.is_err() {
                        return self.shut_down().await;
                    }
                }
            }
        };
        match exit {
            OsExit::Reboot => Ended::Reset,
            OsExit::PowerOff => Ended::Shutdown,
            OsExit::Stay => self.wait_for_button(pressed).await,
        }
    }

    async fn wait_for_button(&self, mut pressed: mpsc::Receiver<()>) -> Ended {
        if pressed.recv().await.is_none() {
            // The machine is being stopped; this task is about to be aborted.
            std::future::pending::<()>().await;
        }
        self.shut_down().await
    }

    async fn shut_down(&self) -> Ended {
        tokio::time::sleep(ms(self.manners.shutdown_ms)).await;
        Ended::Shutdown
    }

    async fn load(&self) -> Option<Loaded> {
        let cd = match &self.http {
            // A RAM disk of the whole image, as UEFI makes one (UEFI 2.10 §24.7).
            Some((image, folder)) => {
                if let Err(error) = image.inserted(folder).await {
                    self.stage(format!("failed: {error}"));
                    return None;
                }
                self.stage("ram-disk");
                Some(Arc::clone(image) as Arc<dyn VirtualCd>)
            }
            None => self.cd.borrow().clone(),
        };
        let Some(cd) = cd else {
            self.stage("failed: no medium in the CD drive");
            return None;
        };
        match self.load_from(cd).await {
            Ok(loaded) => Some(loaded),
            Err(error) => {
                self.stage(format!("failed: {error}"));
                None
            }
        }
    }

    async fn load_from(&self, cd: Arc<dyn VirtualCd>) -> Result<Loaded, DiscError> {
        let disc = Disc::open(cd).await?;
        let image = disc
            .boot_image(if self.firmware == Firmware::Bios { 0 } else { 0xEF })
            .await?;
        disc.read(image, 64 << 10, 0).await?;
        self.stage("loader");

        let menu = disc.find("/boot/grub/grub.cfg").await?;
        let menu = disc.read(menu, 2048, GRUB_CFG_MAX).await?;
        let menu = parse_menu(&String::from_utf8_lossy(&menu)).map_err(DiscError::Disc)?;
        self.stage("menu");

        let kernel = disc.find(&menu.kernel).await?;
        disc.read(kernel, 128 << 10, 0).await?;
        self.stage("kernel");

        let mut initrds = Vec::new();
        for path in menu.initrds {
            let extent = disc.find(&path).await?;
            let bytes = disc.read(extent, 128 << 10, OWN_INITRD_MAX).await?;
            if extent.length <= OWN_INITRD_MAX {
                initrds.push((path, bytes));
            }
        }
        self.stage("initrd");
        self.log
            .amend_boot(self.boot, |b| b.command_line = Some(menu.arguments.clone()));
        self.stage("kernel-started");
        Ok(Loaded {
            command_line: menu.arguments,
            initrds,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Menu {
    kernel: String,
    arguments: String,
    initrds: Vec<String>,
}

/// The first `linux` and the `initrd` after it: all that this GRUB understands of a menu.
fn parse_menu(text: &str) -> Result<Menu, String> {
    let mut menu: Option<Menu> = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), &mut menu) {
            (Some("linux" | "linuxefi"), None) => {
                let kernel = words.next().ok_or("grub.cfg: linux without a file")?.to_owned();
                let arguments = words.map(unquote).collect::<Vec<_>>().join(" ");
                menu = Some(Menu {
                    kernel,
                    arguments,
                    initrds: Vec::new(),
                });
            }
            (Some("initrd" | "initrdefi"), Some(menu)) if menu.initrds.is_empty() => {
                menu.initrds = words.map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    menu.ok_or_else(|| "grub.cfg has no linux line".into())
}

fn unquote(word: &str) -> &str {
    word.strip_prefix(['"', '\''])
        .and_then(|w| w.strip_suffix(['"', '\'']))
        .unwrap_or(word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_menu_gives_kernel_arguments_and_initrds() {
        let text = "set timeout=1\nmenuentry 'x' {\n  linux /vmlinuz0 console=ttyS0 \"rs.uuid=1\"\n  \
                    initrd /stage1.img /isobar/own.img\n}\nmenuentry y {\n linux /other\n}\n";
        assert_eq!(
            parse_menu(text).unwrap(),
            Menu {
                kernel: "/vmlinuz0".into(),
                arguments: "console=ttyS0 rs.uuid=1".into(),
                initrds: vec!["/stage1.img".into(), "/isobar/own.img".into()],
            }
        );
        assert!(parse_menu("echo nothing").unwrap_err().contains("no linux line"));
    }
}
