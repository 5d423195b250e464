//! The seam between a BMC and the machine that it manages.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::medium::{Medium, VirtualCd};

/// What the firmware boots, this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootDevice {
    /// The virtual CD, then the disk.
    Cd,
    /// The disk only.
    Disk,
    /// The network: what [`Start::http`] is; else there is nothing that answers.
    Network,
}

/// One start of the machine.
#[derive(Clone)]
pub(crate) struct Start {
    /// Number of the boot in the log; events carry it.
    pub(crate) boot: u64,
    /// What to boot.
    pub(crate) device: BootDevice,
    /// The medium that is in the CD drive.
    pub(crate) cd: Option<Arc<dyn VirtualCd>>,
    /// What the firmware downloads and boots, and where to.
    pub(crate) http: Option<(Arc<Medium>, PathBuf)>,
}

/// How a run of the machine ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The guest asked for a reset: the machine wants to be started again.
    Reset,
    /// The guest switched itself off.
    Shutdown,
    /// It broke.
    Crashed(String),
}

/// The end of a boot, told by the machine.
#[derive(Clone, Debug)]
pub(crate) struct MachineEvent {
    /// The boot that ended.
    pub(crate) boot: u64,
    /// How.
    pub(crate) ended: Ended,
}

/// Where a machine sends its events. Bounded: a machine ends at most once per start.
pub(crate) type Events = mpsc::Sender<MachineEvent>;

/// A machine behind a BMC. All calls come one at a time, from the BMC's power control.
#[async_trait]
pub(crate) trait Machine: Send {
    /// Switches it on; returns when the firmware runs.
    async fn start(&mut self, start: Start) -> Result<(), String>;
    /// Cuts its power; returns when it is off. Sends no event.
    async fn stop(&mut self);
    /// Presses the power button shortly (ACPI): an operating system that hears it shuts down.
    async fn power_button(&mut self);
    /// Another medium (or none) is in the CD drive of the running machine.
    async fn medium_changed(&mut self, cd: Option<Arc<dyn VirtualCd>>);
    /// Resets it as its own operating system would; it answers with [`Ended::Reset`].
    async fn guest_reset(&mut self);
}
