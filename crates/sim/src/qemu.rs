//! A machine that is a QEMU virtual machine. Every start is a process of its own, so that the boot
//! order of this start is on its command line; a guest's reset ends it (`reboot=shutdown`) and
//! asks for another start, which follows what was set meanwhile.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::accel::{self, Accel, QEMU};
use crate::config::{Firmware, SimConfig};
use crate::console::Console;
use crate::error::SimError;
use crate::log::Log;
use crate::machine::{BootDevice, Ended, Events, Machine, MachineEvent, Start};
use crate::medium::VirtualCd;
use crate::nbd::NbdServer;
use crate::qmp::{Qmp, Shutdown};

const DISK_BYTES: u64 = 64 << 20;
const OVMF: &str = "/usr/share/OVMF";
/// A medium whose size nobody knows by then is put in later.
const SIZE_PATIENCE: Duration = Duration::from_secs(5);
/// QEMU connects to its monitor while it starts; longer means that it never will.
const START_PATIENCE: Duration = Duration::from_secs(30);
const STDERR_MAX: usize = 4096;
/// Longest path of a unix socket (sockaddr_un), less the NUL.
const SOCKET_MAX: usize = 107;

pub(crate) struct QemuMachine {
    /// All arguments but those that change with each start.
    fixed: Vec<String>,
    mac: String,
    sockets: PathBuf,
    nbd: Arc<NbdServer>,
    console: Arc<Console>,
    log: Arc<Log>,
    events: Events,
    run: Option<Run>,
}

struct Run {
    boot: u64,
    drive: Arc<Drive>,
    /// Dropped or sent: QEMU is killed.
    kill: oneshot::Sender<()>,
    over: JoinHandle<()>,
}

/// The CD drive of a running machine.
struct Drive {
    qmp: Arc<Qmp>,
    nbd: Arc<NbdServer>,
    socket: PathBuf,
    /// Export that is in it. Changed under this lock only.
    holds: tokio::sync::Mutex<Option<String>>,
}

impl QemuMachine {
    /// Checks that all is installed and writes the machine's files. `work` is for what outlives a
    /// run, `sockets` a short path.
    pub(crate) async fn new(
        config: &SimConfig,
        work: &Path,
        sockets: &Path,
        log: Arc<Log>,
        console: Arc<Console>,
        events: Events,
    ) -> Result<Self, SimError> {
        let version = Command::new(QEMU)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if !version.is_ok_and(|status| status.success()) {
            return Err(SimError::Missing {
                what: QEMU.into(),
                package: "qemu-system-x86",
            });
        }
        let longest = sockets.join("qmp-4294967296");
        if longest.as_os_str().len() > SOCKET_MAX {
            return Err(SimError::Config(format!(
                "{}: too long for a socket, set TMPDIR",
                sockets.display()
            )));
        }
        let socket = sockets.join("nbd");
        let nbd = NbdServer::listen(&socket).map_err(|e| SimError::io("listen on", &socket, e))?;
        let accel = accel::choose(sockets).await;
        Ok(Self {
            fixed: fixed_arguments(config, accel, work)?,
            mac: config.mac.clone(),
            sockets: sockets.to_owned(),
            nbd: Arc::new(nbd),
            console,
            log,
            events,
            run: None,
        })
    }

    fn command(&self, device: BootDevice, monitor: &Path) -> Command {
        let mut command = mortal(QEMU);
        command.args(&self.fixed);
        let (cd_index, disk_index, net_index) = match device {
            BootDevice::Cd => (",bootindex=0", ",bootindex=1", ""),
            BootDevice::Disk => ("", ",bootindex=0", ""),
            BootDevice::Network => ("", "", ",bootindex=0"),
        };
        command.args(["-device", &format!("ide-cd,id=cd,bus=ide.0{cd_index}")]);
        command.args(["-device", &format!("virtio-blk-pci,drive=disk{disk_index}")]);
        command.args([
            "-device",
            &format!("virtio-net-pci,netdev=net,mac={},romfile={net_index}", self.mac),
        ]);
        command
            .arg("-chardev")
            .arg(format!("socket,id=monitor,path={}", monitor.display()));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// A command that the kernel kills when the thread that starts it ends, however it ends. Threads of a
/// runtime end with it.
fn mortal(program: &str) -> Command {
    const SETPRIV: &str = "/usr/bin/setpriv";
    if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", program]);
        return command;
    }
    Command::new(program)
}

/// The block node of a medium.
fn node(socket: &Path, export: &str) -> Value {
    json!({
        "driver": "nbd",
        "node-name": export,
        "read-only": true,
        "server": {"type": "unix", "path": socket},
        "export": export,
    })
}

/// What QEMU is given at every start.
fn fixed_arguments(config: &SimConfig, accel: Accel, work: &Path) -> Result<Vec<String>, SimError> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
    let smm = if config.firmware == Firmware::Secureboot {
        "on"
    } else {
        "off"
    };
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-vga", "std"]);
    add(&["-machine", &format!("q35,smm={smm}")]);
    add(&accel.arguments());
    add(&["-m", &config.memory_mib.to_string(), "-uuid", &config.uuid.to_string()]);
    let manners = &config.manners;
    // A comma in a value is written twice (QemuOpts).
    let value = |text: &str| text.replace(',', ",,");
    let serial = config.serial_number();
    let (maker, model) = (value(&manners.manufacturer), value(&manners.model));
    add(&[
        "-smbios",
        &format!("type=1,manufacturer={maker},product={model},serial={serial}"),
    ]);
    // Only devices with a boot index boot, and a guest's reset ends QEMU.
    add(&["-S", "-boot", "strict=on,menu=off", "-action", "reboot=shutdown"]);
    add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    add(&["-device", "virtio-rng-pci"]);
    add(&["-netdev", &config.net.netdev("net")]);
    let disk = work.join("disk.img");
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&disk)
        .and_then(|file| {
            if file.metadata()?.len() == 0 {
                file.set_len(DISK_BYTES)
            } else {
                Ok(())
            }
        })
        .map_err(|e| SimError::io("make the disk", &disk, e))?;
    let file = |path: &Path| json!({"driver": "file", "filename": path});
    add(&[
        "-blockdev",
        &json!({"driver": "raw", "node-name": "disk", "file": file(&disk)}).to_string(),
    ]);

    let (code, vars) = match config.firmware {
        Firmware::Bios => {
            args.extend(config.qemu_args.iter().cloned());
            return Ok(args);
        }
        Firmware::Uefi => ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        Firmware::Secureboot => ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),
    };
    let (code, template) = (Path::new(OVMF).join(code), Path::new(OVMF).join(vars));
    for path in [&code, &template] {
        if !path.exists() {
            return Err(SimError::Missing {
                what: path.display().to_string(),
                package: "ovmf",
            });
        }
    }
    // The machine's own NVRAM; kept over runs as a real one.
    let vars = work.join(vars);
    if !vars.exists() {
        std::fs::copy(&template, &vars).map_err(|e| SimError::io("copy the firmware's variables to", &vars, e))?;
    }
    let flash = |name: &str, path: &Path, read_only: bool| {
        json!({"driver": "raw", "node-name": name, "read-only": read_only, "file": file(path)}).to_string()
    };
    add(&[
        "-blockdev",
        &flash("code", &code, true),
        "-blockdev",
        &flash("vars", &vars, false),
    ]);
    add(&["-machine", "pflash0=code,pflash1=vars"]);
    if config.firmware == Firmware::Secureboot {
        add(&[
            "-global",
            "driver=cfi.pflash01,property=secure,value=on",
            "-global",
            "ICH9-LPC.disable_s3=1",
        ]);
    }
    args.extend(config.qemu_args.iter().cloned());
    Ok(args)
}

/// The medium's size, when its server says it soon.
async fn size_is_known(cd: &dyn VirtualCd) -> bool {
    matches!(tokio::time::timeout(SIZE_PATIENCE, cd.size()).await, Ok(Ok(_)))
}

impl Drive {
    /// Opens the tray, changes what is in it, closes it: the guest sees a change of medium.
    async fn change(&self, cd: Option<Arc<dyn VirtualCd>>) -> Result<(), String> {
        let mut holds = self.holds.lock().await;
        let export = cd.map(|cd| self.nbd.offer(cd));
        if *holds == export {
            return Ok(());
        }
        self.qmp
            .execute("blockdev-open-tray", json!({"id": "cd", "force": true}))
            .await?;
        let changed = self.swap(&mut holds, export).await;
        self.qmp.execute("blockdev-close-tray", json!({"id": "cd"})).await?;
        changed
    }

    /// With the tray open.
    async fn swap(&self, holds: &mut Option<String>, export: Option<String>) -> Result<(), String> {
        if let Some(old) = holds.take() {
            self.qmp.execute("blockdev-remove-medium", json!({"id": "cd"})).await?;
            self.qmp.execute("blockdev-del", json!({"node-name": old})).await?;
            self.nbd.withdraw(&old);
        }
        let Some(export) = export else { return Ok(()) };
        if let Err(error) = self.qmp.execute("blockdev-add", node(&self.socket, &export)).await {
            self.nbd.withdraw(&export);
            return Err(error);
        }
        self.qmp
            .execute("blockdev-insert-medium", json!({"id": "cd", "node-name": export}))
            .await?;
        *holds = Some(export);
        Ok(())
    }

    /// Puts the medium in now, or as soon as its size is known.
    async fn put_in(self: Arc<Self>, cd: Option<Arc<dyn VirtualCd>>, log: Arc<Log>, boot: u64) {
        let late = match &cd {
            Some(cd) => !size_is_known(&**cd).await,
            None => false,
        };
        if late {
            log.stage(
                boot,
                "failed: the image cannot be read; the CD drive stays empty for now",
            );
        }
        let change = async move {
            if let Some(cd) = cd.as_ref().filter(|_| late) {
                // An error: ejected before anybody knew.
                if cd.size().await.is_err() {
                    return;
                }
            }
            if let Err(error) = self.change(cd).await {
                log.stage(boot, format!("failed: CD drive: {error}"));
            }
        };
        if late {
            tokio::spawn(change);
        } else {
            change.await;
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    async fn start(&mut self, start: Start) -> Result<(), String> {
        self.stop().await;
        let monitor = self.sockets.join(format!("qmp-{}", start.boot));
        let listener = UnixListener::bind(&monitor).map_err(|e| format!("{}: {e}", monitor.display()))?;
        let mut command = self.command(start.device, &monitor);
        let mut child = command.spawn().map_err(|e| format!("{QEMU}: {e}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            let mut keys = self.console.keyboard();
            tokio::spawn(async move {
                // Ends with the machine, or with the next one's start.
                while let Some(typed) = keys.recv().await
                    && stdin.write_all(&typed).await.is_ok()
                {}
            });
        }
        let console = Arc::clone(&self.console);
        if let Some(mut stdout) = child.stdout.take() {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stdout.read(&mut bytes).await {
                    console.say(&bytes[..count]);
                }
            });
        }
        let complaints = tokio::spawn(complaints(child.stderr.take()));
        let connected = tokio::select! {
            stream = listener.accept() => stream.map_err(|e| e.to_string()),
            status = child.wait() => Err(format!("ended at once ({})", status.map_or_else(|e| e.to_string(), |s| s.to_string()))),
            () = tokio::time::sleep(START_PATIENCE) => Err("its monitor does not come up".into()),
        };
        // The path served its purpose; left behind it goes with the folder.
        let _ = std::fs::remove_file(&monitor);
        let opened = match connected {
            Ok((stream, _)) => Qmp::open(stream).await,
            Err(error) => Err(error),
        };
        let (qmp, shutdown) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                drop(child);
                let said = complaints.await.unwrap_or_default();
                return Err(format!("{QEMU} {error}: {}", said.trim()));
            }
        };
        let (kill, killed) = oneshot::channel();
        let end = MachineEnd {
            child,
            shutdown,
            complaints,
            events: self.events.clone(),
            boot: start.boot,
        };
        let over = tokio::spawn(end.watch(killed));
        let drive = Arc::new(Drive {
            qmp,
            nbd: Arc::clone(&self.nbd),
            socket: self.sockets.join("nbd"),
            holds: tokio::sync::Mutex::new(None),
        });
        // The machine waits (-S): the disc is in before its firmware looks.
        Arc::clone(&drive)
            .put_in(start.cd, Arc::clone(&self.log), start.boot)
            .await;
        let running = drive.qmp.execute("cont", json!({})).await;
        self.run = Some(Run {
            boot: start.boot,
            drive,
            kill,
            over,
        });
        if let Err(error) = running {
            self.stop().await;
            return Err(format!("{QEMU}: {error}"));
        }
        self.log.stage(start.boot, "firmware");
        Ok(())
    }

    async fn stop(&mut self) {
        let Some(run) = self.run.take() else { return };
        // An error: it has ended by itself.
        let _ = run.kill.send(());
        let _ = run.over.await;
        if let Some(export) = run.drive.holds.lock().await.take() {
            self.nbd.withdraw(&export);
        }
    }

    async fn power_button(&mut self) {
        self.tell("system_powerdown").await;
    }

    async fn medium_changed(&mut self, cd: Option<Arc<dyn VirtualCd>>) {
        if let Some(run) = &self.run {
            Arc::clone(&run.drive).put_in(cd, Arc::clone(&self.log), run.boot).await;
        }
    }

    async fn guest_reset(&mut self) {
        self.tell("system_reset").await;
    }
}

impl QemuMachine {
    async fn tell(&self, command: &str) {
        if let Some(run) = &self.run
            && let Err(error) = run.drive.qmp.execute(command, json!({})).await
        {
            // It ended meanwhile, or hangs: the power switch is what is left.
            tracing::warn!(%error, "QEMU");
        }
    }
}

/// The end of what QEMU has to say for itself.
async fn complaints(stderr: Option<tokio::process::ChildStderr>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut kept, mut bytes) = (Vec::new(), [0; 1024]);
    while let Ok(count @ 1..) = stderr.read(&mut bytes).await {
        tracing::debug!(text = %String::from_utf8_lossy(&bytes[..count]).trim(), "QEMU");
        kept.extend_from_slice(&bytes[..count]);
        let over = kept.len().saturating_sub(STDERR_MAX);
        kept.drain(..over);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

struct MachineEnd {
    child: Child,
    shutdown: Shutdown,
    complaints: JoinHandle<String>,
    events: Events,
    boot: u64,
}

impl MachineEnd {
    /// Waits for the process, or kills it; tells how it ended when it did so by itself.
    async fn watch(mut self, killed: oneshot::Receiver<()>) {
        tokio::select! {
            _ = self.child.wait() => {}
            _ = killed => {
                // Fails only for a process that ended already.
                let _ = self.child.kill().await;
                return;
            }
        }
        let ended = match self.shutdown.await.ok().flatten().as_deref() {
            Some("guest-reset" | "host-qmp-system-reset" | "subsystem-reset") => Ended::Reset,
            Some(_) => Ended::Shutdown,
            None => Ended::Crashed(self.complaints.await.unwrap_or_default().trim().to_owned()),
        };
        // The receiver goes only with the whole simulator.
        let _ = self.events.send(MachineEvent { boot: self.boot, ended }).await;
    }
}
