//! The BMC's hand on the machine's power.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::bmc::{Bmc, Power};
use crate::config::ms;
use crate::fault::FaultKind;
use crate::machine::{BootDevice, Ended, Machine, MachineEvent, Start};
use crate::medium::VirtualCd;

/// Redfish reset types, and what else reaches the machine.
#[derive(Debug)]
pub(crate) enum Command {
    On,
    ForceOff,
    ForceRestart,
    PowerCycle,
    GracefulShutdown,
    GracefulRestart,
    PushPowerButton,
    MediumChanged,
    GuestReset,
    /// Switch off without delay and end.
    Quit(oneshot::Sender<()>),
}

impl Command {
    /// From a Redfish ResetType.
    pub(crate) fn of_reset_type(text: &str) -> Option<Self> {
        Some(match text {
            "On" | "ForceOn" => Self::On,
            "ForceOff" => Self::ForceOff,
            "ForceRestart" => Self::ForceRestart,
            "PowerCycle" => Self::PowerCycle,
            "GracefulShutdown" => Self::GracefulShutdown,
            "GracefulRestart" => Self::GracefulRestart,
            "PushPowerButton" => Self::PushPowerButton,
            _ => return None,
        })
    }
}

/// The hand on the power: runs commands one after the other and hears when the machine ends.
pub(crate) struct PowerControl {
    bmc: Arc<Bmc>,
    machine: Box<dyn Machine>,
    /// The boot that runs.
    boot: Option<u64>,
    /// GracefulRestart: after the shutdown comes a start.
    restart: bool,
}

impl PowerControl {
    pub(crate) fn new(bmc: Arc<Bmc>, machine: Box<dyn Machine>) -> Self {
        Self {
            bmc,
            machine,
            boot: None,
            restart: false,
        }
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut events: mpsc::Receiver<MachineEvent>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    None => break,
                    Some(Command::Quit(done)) => {
                        self.machine.stop().await;
                        self.ended("power-off");
                        // Nobody waits any more: fine.
                        let _ = done.send(());
                        break;
                    }
                    Some(command) => self.follow(command).await,
                },
                Some(event) = events.recv() => self.hear(event).await,
            }
        }
    }

    async fn follow(&mut self, command: Command) {
        let on = self.boot.is_some();
        match command {
            Command::On if !on => self.on().await,
            Command::PushPowerButton if !on => self.on().await,
            Command::ForceRestart | Command::PowerCycle | Command::GracefulRestart if !on => self.on().await,
            Command::ForceOff if on => self.off().await,
            Command::PowerCycle => {
                self.off().await;
                self.on().await;
            }
            Command::ForceRestart => {
                self.machine.stop().await;
                self.ended("reset");
                self.start().await;
            }
            Command::GracefulShutdown | Command::PushPowerButton if on => self.button(false).await,
            Command::GracefulRestart => self.button(true).await,
            Command::MediumChanged => {
                let cd = self.bmc.cd();
                self.machine.medium_changed(cd).await;
            }
            Command::GuestReset if on => self.machine.guest_reset().await,
            _ => {}
        }
    }

    async fn lag(&mut self, usual: u64) {
        let more = self
            .bmc
            .faults
            .meet_deed(|k| matches!(k, FaultKind::PowerLag { .. }))
            .map(|met| met.kind);
        let more = if let Some(FaultKind::PowerLag { ms }) = more {
            ms
        } else {
            0
        };
        tokio::time::sleep(ms(usual + more)).await;
    }

    async fn on(&mut self) {
        self.bmc.set_power(Power::PoweringOn);
        self.lag(self.bmc.config.manners.power_on_ms).await;
        self.start().await;
    }

    async fn start(&mut self) {
        self.restart = false;
        let (device, boot) = self.bmc.follow_override();
        let cd = self.bmc.cd();
        let http = (device == BootDevice::Network)
            .then(|| self.bmc.http_image(&boot))
            .flatten();
        let number = self.bmc.log.boot(
            match device {
                _ if http.is_some() => "UefiHttp",
                BootDevice::Cd => "Cd",
                BootDevice::Disk => "Hdd",
                BootDevice::Network => "Pxe",
            },
            &boot.enabled,
            match &http {
                Some(image) => Some(image.number()),
                None => cd.as_ref().map(|cd| cd.number()),
            },
        );
        self.boot = Some(number);
        match self
            .machine
            .start(Start {
                boot: number,
                device,
                cd,
                http: http.map(|image| (image, self.bmc.folder.clone())),
            })
            .await
        {
            Ok(()) => self.bmc.set_power(Power::On),
            Err(error) => {
                tracing::error!(%error, "the machine did not start");
                self.ended(&format!("crashed: {error}"));
                self.bmc.set_power(Power::Off);
            }
        }
    }

    async fn off(&mut self) {
        self.bmc.set_power(Power::PoweringOff);
        self.lag(self.bmc.config.manners.power_off_ms).await;
        self.machine.stop().await;
        self.ended("power-off");
        self.bmc.set_power(Power::Off);
    }

    async fn button(&mut self, restart: bool) {
        if self.bmc.faults.meet_deed(|k| *k == FaultKind::ButtonIgnored).is_none() {
            self.restart = restart;
            self.machine.power_button().await;
        }
    }

    fn ended(&mut self, how: &str) {
        if let Some(boot) = self.boot.take() {
            self.bmc.log.amend_boot(boot, |b| b.ended = Some(how.to_owned()));
        }
    }

    async fn hear(&mut self, event: MachineEvent) {
        if self.boot != Some(event.boot) {
            return; // an end that the power was faster than
        }
        match event.ended {
            Ended::Reset => {
                self.ended("reset");
                self.start().await;
            }
            Ended::Shutdown => {
                self.ended("shutdown");
                if self.restart {
                    self.start().await;
                } else {
                    self.bmc.set_power(Power::Off);
                }
            }
            Ended::Crashed(why) => {
                self.ended(&format!("crashed: {why}"));
                self.bmc.set_power(Power::Off);
            }
        }
    }
}
