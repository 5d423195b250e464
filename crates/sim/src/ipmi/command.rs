//! What a BMC is told and asked over IPMI.

use std::time::Instant;

use isobar_ipmi::chassis::{self, BootFlags, Control, device, parameter};
use isobar_ipmi::completion::{INVALID_COMMAND, INVALID_DATA, LENGTH, PRIVILEGE, STATE};
use isobar_ipmi::device::{COLD_RESET, DeviceId, GET_ID};
use isobar_ipmi::rakp::ADMINISTRATOR;
use isobar_ipmi::wire::Request;
use serde_json::json;

use super::{FLAGS, Face};
use crate::bmc::{BootOverride, Power};
use crate::power::Command;

/// Completion code and data.
pub(super) type Answer = (u8, Vec<u8>);

/// Privilege of a session that has been closed and whose last answer is on its way.
pub(super) const CLOSED: u8 = 0;

pub(super) const fn done() -> Answer {
    (0, Vec::new())
}

pub(super) const fn refuse(code: u8) -> Answer {
    (code, Vec::new())
}

/// Boot flags as they were written, and what became of them.
pub(super) struct Flags {
    written: BootFlags,
    means: BootOverride,
    until: Option<Instant>,
}

fn target(code: u8) -> Option<&'static str> {
    Some(match code {
        device::NONE => "None",
        device::PXE => "Pxe",
        device::DISK => "Hdd",
        device::CD | device::REMOTE_CD => "Cd",
        device::SETUP => "BiosSetup",
        device::FLOPPY => "Floppy",
        _ => return None,
    })
}

fn code_of(target: &str) -> u8 {
    match target {
        "Pxe" => device::PXE,
        "Hdd" => device::DISK,
        "Cd" | "UsbCd" | "UefiUsbCd" => device::CD,
        "BiosSetup" => device::SETUP,
        "Floppy" => device::FLOPPY,
        _ => device::NONE,
    }
}

impl Face {
    /// Before a session only this is answered (§6.11.1).
    pub(super) fn before_session(&self, request: &Request<'_>) -> Answer {
        match (request.netfn, request.command) {
            (0x06, 0x38) => self.capabilities(),
            (0x06, 0x54) => self.list_suites(request.data),
            _ => refuse(PRIVILEGE),
        }
    }

    fn capabilities(&self) -> Answer {
        // Channel 1, extended answer, users have names, IPMI 2.0 only (§22.13).
        (0, vec![0x01, 0x80, 0x04, 0x02, 0, 0, 0, 0])
    }

    fn list_suites(&self, data: &[u8]) -> Answer {
        let [_, _, index] = data else { return refuse(LENGTH) };
        let known = self.suites();
        let known = known.iter().filter_map(|id| isobar_ipmi::crypto::Suite::by_id(*id));
        let records: Vec<u8> = known
            .flat_map(|suite| {
                let [authentication, integrity, confidentiality] = suite.algorithms();
                [0xc0, suite.id, authentication, 0x40 | integrity, 0x80 | confidentiality]
            })
            .collect();
        let mut answer = vec![0x01];
        answer.extend(records.chunks(16).nth(usize::from(index & 0x3f)).unwrap_or_default());
        (0, answer)
    }

    /// A request inside of a session.
    pub(super) fn obey(&mut self, session: u32, request: &Request<'_>) -> Answer {
        let privilege = self
            .sessions
            .iter()
            .find(|s| s.id == session)
            .map_or(0, |s| s.privilege);
        let what = (request.netfn, request.command);
        let changes = matches!(
            what,
            (0x00, 0x02 | 0x04 | 0x08) | (0x06, 0x02 | 0x48 | 0x49) | (0x0a, 0x47)
        );
        if changes && privilege < ADMINISTRATOR {
            return refuse(PRIVILEGE);
        }
        if changes {
            let path = format!("netfn {:02x} command {:02x}", what.0, what.1);
            let seq = self.bmc.log.request(0, "IPMI", &path, Some(json!(request.data)));
            self.bmc.log.ended(seq, None);
        }
        match what {
            (0x06, 0x38) => self.capabilities(),
            (0x06, 0x54) => self.list_suites(request.data),
            (0x06, 0x3b) => self.raise(session, request.data),
            (0x06, 0x3c) => self.close(request.data),
            (0x06, 0x48) => self.activate(session, request.data),
            (0x06, 0x49) => self.deactivate(request.data),
            (netfn, code) if (netfn, code) == (GET_ID.netfn, GET_ID.code) => (0, self.device_id().encode()),
            (netfn, code) if (netfn, code) == (COLD_RESET.netfn, COLD_RESET.code) => self.cold_reset(session),
            // System GUID (§22.14).
            (0x06, 0x37) => (0, self.bmc.config.uuid.as_bytes().to_vec()),
            (0x00, 0x01) => self.status(),
            (0x00, chassis::CONTROL) => self.control(request.data),
            (0x00, 0x04) => self.identify(request.data),
            (0x00, 0x08) => self.set_boot(request.data),
            (0x00, 0x09) => self.get_boot(request.data),
            (0x0a | 0x04, _) => self.inventory(request),
            (0x0c, 0x02 | 0x22) => self.configuration(request),
            _ => refuse(INVALID_COMMAND),
        }
    }

    fn device_id(&self) -> DeviceId {
        DeviceId {
            firmware: (1, 0),
            ipmi: (2, 0),
            // Nobody's: reserved by IANA.
            maker: 0,
            product: 1,
        }
    }

    fn raise(&mut self, session: u32, data: &[u8]) -> Answer {
        let Some(wanted @ 0..=ADMINISTRATOR) = data.first().copied() else {
            return refuse(INVALID_DATA);
        };
        let Some(session) = self.sessions.iter_mut().find(|s| s.id == session) else {
            return refuse(INVALID_DATA);
        };
        if wanted != 0 {
            session.privilege = wanted;
        }
        (0, vec![session.privilege])
    }

    fn close(&mut self, data: &[u8]) -> Answer {
        let id = data.first_chunk().map(|id| u32::from_le_bytes(*id));
        match self.sessions.iter_mut().find(|s| Some(s.id) == id) {
            Some(session) => {
                session.privilege = CLOSED;
                done()
            }
            // Invalid session ID (§22.19).
            None => refuse(0x87),
        }
    }

    /// A BMC that restarts has no sessions and no media.
    fn cold_reset(&mut self, session: u32) -> Answer {
        self.bmc.close_all_sessions();
        self.bmc.lose_medium();
        self.sol = None;
        self.sessions.retain_mut(|s| {
            s.privilege = CLOSED;
            s.id == session
        });
        done()
    }

    fn status(&self) -> Answer {
        let on = matches!(self.bmc.power(), Power::On | Power::PoweringOff);
        let light = self.identify.is_some_and(|until| until > Instant::now());
        // Power restore policy unknown (bits 6:5); identify supported, and on (§28.2, table 28-3).
        (0, vec![0x60 | u8::from(on), 0, 0x40 | u8::from(light) << 4, 0])
    }

    fn control(&mut self, data: &[u8]) -> Answer {
        let Some(control) = data.first().and_then(|number| Control::of(*number)) else {
            return refuse(INVALID_DATA);
        };
        let on = matches!(self.bmc.power(), Power::On | Power::PoweringOff);
        let command = match control {
            Control::On => Command::On,
            Control::Off => Command::ForceOff,
            // Not where it is off (§28.3).
            _ if !on => return refuse(STATE),
            Control::Cycle => Command::PowerCycle,
            Control::Reset => Command::ForceRestart,
            Control::Soft => Command::GracefulShutdown,
            Control::Interrupt => return refuse(INVALID_DATA),
        };
        self.note_power(control);
        match self.bmc.reset(command) {
            Ok(()) => done(),
            Err(_) => refuse(isobar_ipmi::completion::BUSY),
        }
    }

    fn identify(&mut self, data: &[u8]) -> Answer {
        let seconds = match data {
            [_, force, ..] if force & 1 != 0 => u64::from(u32::MAX),
            [seconds, ..] => u64::from(*seconds),
            [] => 15,
        };
        self.identify = Some(Instant::now() + std::time::Duration::from_secs(seconds));
        done()
    }

    fn set_boot(&mut self, data: &[u8]) -> Answer {
        match data {
            [parameter::CLEARING, bits] => {
                self.keep_flags = bits & chassis::NO_EXPIRY != 0;
                done()
            }
            [parameter::PROGRESS | parameter::ACKNOWLEDGE, ..] => done(),
            [parameter::FLAGS, flags @ ..] => match BootFlags::parse(flags) {
                Ok(flags) => self.set_flags(flags),
                Err(_) => refuse(LENGTH),
            },
            // Parameter not supported (§28.12).
            [_, ..] => refuse(0x80),
            [] => refuse(LENGTH),
        }
    }

    fn set_flags(&mut self, flags: BootFlags) -> Answer {
        let Some(target) = target(flags.device) else {
            return refuse(INVALID_DATA);
        };
        let enabled = match (flags.valid && flags.device != device::NONE, flags.persistent) {
            (false, _) => "Disabled",
            (true, false) => "Once",
            (true, true) => "Continuous",
        };
        let means = BootOverride {
            enabled: enabled.into(),
            target: if enabled == "Disabled" { "None" } else { target }.into(),
            mode: if flags.uefi { "UEFI" } else { "Legacy" }.into(),
            http_uri: self.bmc.boot_override().http_uri,
        };
        self.bmc.set_boot_override(means.clone());
        let until = (!self.keep_flags).then(|| Instant::now() + FLAGS);
        self.flags = Some(Flags {
            written: flags,
            means,
            until,
        });
        done()
    }

    pub(super) fn expire_flags(&mut self, now: Instant) {
        let due = self
            .flags
            .as_ref()
            .is_some_and(|flags| flags.until.is_some_and(|until| until <= now));
        if let Some(flags) = self.flags.take_if(|_| due)
            && self.bmc.boot_override() == flags.means
        {
            self.bmc.set_boot_override(BootOverride {
                enabled: "Disabled".into(),
                target: "None".into(),
                ..flags.means
            });
        }
    }

    fn get_boot(&self, data: &[u8]) -> Answer {
        let clearing = if self.keep_flags { chassis::NO_EXPIRY } else { 0 };
        let value = match data.first() {
            Some(&parameter::PROGRESS) => vec![0],
            Some(&parameter::CLEARING) => vec![clearing],
            Some(&parameter::ACKNOWLEDGE) => vec![0, 0],
            Some(&parameter::FLAGS) => self.flags().encode().to_vec(),
            Some(_) => return refuse(0x80),
            None => return refuse(LENGTH),
        };
        let mut answer = vec![0x01, data.first().copied().unwrap_or(0)];
        answer.extend(value);
        (0, answer)
    }

    /// Boot flags as they are: Redfish may have changed them, or a boot used them up.
    fn flags(&self) -> BootFlags {
        let now = self.bmc.boot_override();
        match &self.flags {
            Some(flags) if flags.means == now => flags.written,
            _ => BootFlags {
                valid: now.enabled != "Disabled",
                persistent: now.enabled == "Continuous",
                uefi: now.mode == "UEFI",
                device: code_of(&now.target),
            },
        }
    }
}
