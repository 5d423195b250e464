//! The chassis: power, boot device, identify light (IPMI 2.0 §28).

use isobar_bmc::{BmcError, BootTarget};

use crate::completion;
use crate::session::{Command, Session};
use crate::wire::Malformed;

/// Get Chassis Status (§28.2).
pub const STATUS: Command = Command::new(0x00, 0x01, "read the power state");
/// Chassis Control (§28.3); some of what it does must not be done twice.
pub const CONTROL: u8 = 0x02;
/// Chassis Identify (§28.5).
pub const IDENTIFY: Command = Command::new(0x00, 0x04, "switch the identify light");
/// Set System Boot Options (§28.12).
pub const SET_BOOT: Command = Command::new(0x00, 0x08, "set the one-time boot");
/// Get System Boot Options (§28.13).
pub const GET_BOOT: Command = Command::new(0x00, 0x09, "read the boot flags");

/// What Chassis Control does (§28.3, table 28-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Control {
    /// Power down.
    Off = 0,
    /// Power up.
    On = 1,
    /// Off and on, where it is on.
    Cycle = 2,
    /// Hard reset.
    Reset = 3,
    /// Diagnostic interrupt.
    Interrupt = 4,
    /// Shutdown by the operating system (ACPI).
    Soft = 5,
}

impl Control {
    /// By its number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        use Control::{Cycle, Interrupt, Off, On, Reset, Soft};
        [Off, On, Cycle, Reset, Interrupt, Soft]
            .into_iter()
            .find(|control| *control as u8 == number & 0x0f)
    }
}

/// Parameters of the boot options (§28.13, table 28-14).
pub mod parameter {
    /// Set in progress.
    pub const PROGRESS: u8 = 0;
    /// What clears the boot flags.
    pub const CLEARING: u8 = 3;
    /// Who has seen the boot flags.
    pub const ACKNOWLEDGE: u8 = 4;
    /// Boot flags.
    pub const FLAGS: u8 = 5;
}

/// With this in [`parameter::CLEARING`], flags do not go after 60 s without a reset (bit 3).
pub const NO_EXPIRY: u8 = 0x08;

/// Boot devices (§28.13, boot flags data 2).
pub mod device {
    /// None: as the firmware is set up.
    pub const NONE: u8 = 0x00;
    /// PXE.
    pub const PXE: u8 = 0x04;
    /// Disk.
    pub const DISK: u8 = 0x08;
    /// CD or DVD.
    pub const CD: u8 = 0x14;
    /// Firmware setup.
    pub const SETUP: u8 = 0x18;
    /// Remotely connected (virtual) CD or DVD.
    pub const REMOTE_CD: u8 = 0x20;
    /// Floppy, or primary removable medium.
    pub const FLOPPY: u8 = 0x3c;
}

/// Boot flags (§28.13, parameter 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootFlags {
    /// They hold for the next boot.
    pub valid: bool,
    /// And for all that follow.
    pub persistent: bool,
    /// UEFI rather than legacy.
    pub uefi: bool,
    /// One of [`device`].
    pub device: u8,
}

impl BootFlags {
    /// The five bytes.
    #[must_use]
    pub fn encode(self) -> [u8; 5] {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let first = bit(self.valid, 0x80) | bit(self.persistent, 0x40) | bit(self.uefi, 0x20);
        [first, self.device & 0x3c, 0, 0, 0]
    }

    /// From the five bytes.
    ///
    /// # Errors
    /// There are fewer than two.
    pub fn parse(data: &[u8]) -> Result<Self, Malformed> {
        match data {
            [first, second, ..] => Ok(Self {
                valid: first & 0x80 != 0,
                persistent: first & 0x40 != 0,
                uefi: first & 0x20 != 0,
                device: second & 0x3c,
            }),
            _ => Err(Malformed),
        }
    }
}

impl Session {
    /// Whether the machine is on (§28.2, current power state bit 0).
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn is_on(&mut self) -> Result<bool, BmcError> {
        let data = self.call(STATUS, &[]).await?;
        Ok(data.first().is_some_and(|state| state & 1 != 0))
    }

    /// Chassis Control; what changes with each time is sent once only.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn control(&mut self, control: Control, what: &'static str) -> Result<(), BmcError> {
        let command = match control {
            Control::On | Control::Off => Command::new(0x00, CONTROL, what),
            _ => Command::once(0x00, CONTROL, what),
        };
        self.call(command, &[control as u8]).await.map(drop)
    }

    /// The identify light: on for so many seconds, on until it is switched off (none), off (0).
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn identify(&mut self, seconds: Option<u8>) -> Result<(), BmcError> {
        match seconds {
            Some(seconds) => self.call(IDENTIFY, &[seconds]).await.map(drop),
            None => self.call(IDENTIFY, &[0, 1]).await.map(drop),
        }
    }

    async fn set_boot(&mut self, parameter: u8, data: &[u8]) -> Result<(), BmcError> {
        let mut body = vec![parameter];
        body.extend(data);
        self.call(SET_BOOT, &body).await.map(drop)
    }

    /// Parameters 0, 3 and 4 are expected by some and not known to others.
    async fn set_boot_if_known(&mut self, parameter: u8, data: &[u8]) -> Result<(), BmcError> {
        match self.set_boot(parameter, data).await {
            Err(error) if error.message_id.is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// The boot flags.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn boot_flags(&mut self) -> Result<BootFlags, BmcError> {
        let data = self.call(GET_BOOT, &[parameter::FLAGS, 0, 0]).await?;
        let flags = data.get(2..).map_or(Err(Malformed), BootFlags::parse);
        flags.map_err(|Malformed| {
            self.error(
                isobar_bmc::ErrorClass::Protocol,
                GET_BOOT.what,
                "its boot flags are cut",
            )
        })
    }

    /// Sets the boot flags, with their expiry switched off: BMCs drop them when no reset follows within 60 s.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn set_boot_flags(&mut self, flags: BootFlags) -> Result<(), BmcError> {
        self.set_boot_if_known(parameter::PROGRESS, &[1]).await?;
        self.set_boot_if_known(parameter::CLEARING, &[NO_EXPIRY]).await?;
        // Written for the firmware (bit 0): it has not seen these yet.
        self.set_boot_if_known(parameter::ACKNOWLEDGE, &[1, 1]).await?;
        let set = self.set_boot(parameter::FLAGS, &flags.encode()).await;
        self.set_boot_if_known(parameter::PROGRESS, &[0]).await?;
        set
    }

    /// One-time boot, read back. The virtual CD is tried as such, then as any CD: what the BMC refuses, or takes and does
    /// not show, is followed by the next. The last one counts as taken when the BMC says so: some (virtualbmc) show what
    /// the running machine was started with.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn boot_once(&mut self, target: BootTarget, uefi: bool) -> Result<(), BmcError> {
        self.boot_from(target, uefi, false).await
    }

    /// The same, from now on.
    ///
    /// # Errors
    /// As [`Session::boot_once`].
    pub async fn boot_always(&mut self, target: BootTarget, uefi: bool) -> Result<(), BmcError> {
        self.boot_from(target, uefi, true).await
    }

    async fn boot_from(&mut self, target: BootTarget, uefi: bool, persistent: bool) -> Result<(), BmcError> {
        let devices: &[u8] = match target {
            BootTarget::Cd => &[device::REMOTE_CD, device::CD],
            BootTarget::Pxe => &[device::PXE],
            BootTarget::Disk => &[device::DISK],
        };
        let (mut refused, mut taken) = (None, false);
        for device in devices {
            let flags = BootFlags {
                valid: true,
                persistent,
                uefi,
                device: *device,
            };
            match self.set_boot_flags(flags).await {
                Ok(()) => match self.boot_flags().await {
                    // Bits that some BMCs do not keep are no reason to fail; another device is.
                    Ok(kept) if kept.device != *device => {
                        let shown = format!("{:02X}h", kept.device);
                        tracing::warn!(
                            set = format!("{device:02X}h"),
                            shown,
                            "a BMC shows other boot flags than it took"
                        );
                        taken = true;
                    }
                    Ok(_) => return Ok(()),
                    // It cannot say: then it took them.
                    Err(error) if is_unknown(&error) => return Ok(()),
                    Err(error) => return Err(error),
                },
                Err(error) if error.message_id.is_some() => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        if taken {
            return Ok(());
        }
        Err(refused.unwrap_or_else(|| self.completed(SET_BOOT, completion::INVALID_DATA)))
    }
}

fn is_unknown(error: &BmcError) -> bool {
    error.class == isobar_bmc::ErrorClass::Unsupported
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_the_specification() {
        let once = BootFlags {
            valid: true,
            persistent: false,
            uefi: true,
            device: device::REMOTE_CD,
        };
        assert_eq!(once.encode(), [0xa0, 0x20, 0, 0, 0]);
        assert_eq!(BootFlags::parse(&once.encode()), Ok(once));
        let kept = BootFlags {
            persistent: true,
            ..once
        };
        assert_eq!(kept.encode()[0], 0xe0);
        assert_eq!(BootFlags::parse(&[0x80]), Err(Malformed));
        assert_eq!(Control::of(5), Some(Control::Soft));
        assert_eq!(Control::of(6), None);
    }
}
