//! The real live image through the whole product, judged by what nobody here wrote: each firmware boots it beside a
//! disk that tries to be mistaken for it, a guest sums up its CD, machines boot the exported ISO from a USB stick, and
//! xorriso and 7-Zip take it apart.
#![allow(clippy::unwrap_used)]

mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use isobar_image::cpio::{Archive, Kind};
use isobar_image::esp::EspFile;
use isobar_sim::{Firmware, MachineKind, Power, Sim, SimConfig};
use isobar_sledgehammer::{Entry, Manifest, Role, TREE};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stage::{Options, Server};

/// Under emulation on a busy host; an idle one needs a tenth of it.
const PATIENCE: Duration = Duration::from_secs(600);
const SECTOR: usize = 512;
/// Where the decoy's file system begins.
const PARTITION: usize = 1 << 20;
const MAC: &str = "52:54:00:15:0b:a1";

/// A machine, and in which bootenv it boots.
struct Guest {
    name: &'static str,
    firmware: Firmware,
    bootenv: &'static str,
}

const GUESTS: [Guest; 3] = [
    Guest {
        name: "secureboot",
        firmware: Firmware::Secureboot,
        bootenv: "sledgehammer",
    },
    Guest {
        name: "uefi",
        firmware: Firmware::Uefi,
        bootenv: "sledgehammer",
    },
    // The live image, and the driver of CD drives, which it has no use for itself.
    Guest {
        name: "bios",
        firmware: Firmware::Bios,
        bootenv: "with-cd-driver",
    },
];

/// Machines that boot an exported ISO from a USB stick, and their firmware's files where it is not QEMU's own.
const STICKS: [(&str, &[&str]); 2] = [
    ("stick-bios", &[]),
    ("stick-uefi", &["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"]),
];

#[test]
fn the_live_image_boots_past_a_decoy_and_is_what_was_exported() {
    let mut server = Server::new(Options {
        timing: "shutdown_s=1,poll_s=0.5,power_s=120,heartbeat_s=2".to_owned(),
        ..Options::default()
    });
    server.start();
    let bundle = build(&server);
    let tree = bundle.join(TREE);
    let manifest: Manifest = serde_json::from_slice(&fs::read(bundle.join("bundle.json")).unwrap()).unwrap();
    // Every byte goes through a BMC.
    let initrd = manifest.files.iter().find(|file| file.role == Role::Initrd).unwrap();
    assert!(initrd.size < 15 << 20, "stage1.img has {} bytes", initrd.size);
    with_cd_driver(&server, &tree, &manifest);

    let runtime = stage::runtime();
    // Two at a time: more only share the processors.
    let todo = Mutex::new(GUESTS.iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(guest) = todo.lock().unwrap().next() else {
                        return;
                    };
                    let began = Instant::now();
                    play(guest, &server, &tree, &runtime);
                    eprintln!("{}: {:.0} s", guest.name, began.elapsed().as_secs_f64());
                }
            });
        }
    });
    let stick = stick(&server, &export(&server, "uefi"));
    std::thread::scope(|scope| {
        for (name, firmware) in STICKS {
            let (work, stick) = (server.dir().join(name), &stick);
            scope.spawn(move || boot_stick(name, firmware, stick, &work));
        }
        judge(&server, &tree, &manifest);
    });
}

/// The ISO, less its El Torito descriptor: OVMF would look for that on a disk too, others go by its partitions.
fn stick(server: &Server, iso: &Path) -> PathBuf {
    const DESCRIPTOR: usize = 17 * 2048;
    let mut bytes = fs::read(iso).unwrap();
    let name = &mut bytes[DESCRIPTOR + 7..][..9];
    assert_eq!(name, b"EL TORITO");
    name.fill(b'X');
    let stick = server.dir().join("stick.img");
    fs::write(&stick, bytes).unwrap();
    stick
}

/// Kills its process when it goes.
struct Mortal(Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        // An error: it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine that has nothing but the ISO, as a USB stick: GRUB, the kernel and the agent start.
fn boot_stick(name: &str, firmware: &[&str], stick: &Path, work: &Path) {
    let began = Instant::now();
    fs::create_dir(work).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-vga",
        "std",
    ]);
    command.args(["-machine", "q35", "-m", "768"]);
    command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    for (n, file) in firmware.iter().enumerate() {
        let copy = work.join(file);
        fs::copy(Path::new("/usr/share/OVMF").join(file), &copy).unwrap();
        let file = copy.display();
        command.args(["-drive", &format!("if=pflash,unit={n},format=raw,file={file}")]);
    }
    let drive = format!("if=none,id=stick,format=raw,readonly=on,file={}", stick.display());
    command.args(["-drive", &drive, "-device", "qemu-xhci"]);
    command.args(["-device", "usb-storage,drive=stick"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = Mortal(command.spawn().unwrap());
    let mut console = machine.0.stdout.take().unwrap();
    let (say, heard) = mpsc::channel();
    let listener = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut bytes) {
            // An error: it has been heard enough.
            let _ = say.send(bytes[..count].to_vec());
        }
    });
    let mut said = Vec::new();
    for wanted in ["isobar: loading kernel", "isobar: agent: "] {
        while !String::from_utf8_lossy(&said).contains(wanted) {
            let left = PATIENCE.saturating_sub(began.elapsed());
            match heard.recv_timeout(left) {
                Ok(more) => said.extend(more),
                Err(e) => panic!(
                    "{name}: no {wanted:?} ({e}); its console:\n{}",
                    String::from_utf8_lossy(&said)
                ),
            }
        }
    }
    eprintln!("{name}: {:.0} s", began.elapsed().as_secs_f64());
    drop(machine);
    listener.join().unwrap();
}

fn play(guest: &Guest, server: &Server, tree: &Path, runtime: &tokio::runtime::Runtime) {
    let name = guest.name;
    let work = server.dir().join(name);
    fs::create_dir(&work).unwrap();
    fs::write(work.join("disk.img"), decoy(guest.firmware, tree, &work)).unwrap();
    let socket = work.join("shell");
    let config = SimConfig {
        machine: MachineKind::Qemu,
        firmware: guest.firmware,
        mac: MAC.to_owned(),
        memory_mib: 768,
        work_dir: Some(work.clone()),
        // A second serial line, for the shell that the live image has on each console.
        qemu_args: [
            "-chardev",
            &format!("socket,id=shell,path={},server=on,wait=off", socket.display()),
            "-serial",
            "chardev:shell",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..stage::sim_config()
    };
    let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
    let seen = |what: &str, is: &(dyn Fn(&Sim) -> bool + Sync)| {
        let held = runtime.block_on(sim.wait_until(PATIENCE, is));
        assert!(held, "{name}: never {what}; its console:\n{}", sim.serial());
    };
    let network = json!({"prov": {
        "address": "192.168.77.10", "netmask": "255.255.255.0", "gateway": "192.168.77.1", "interface": MAC,
    }});
    let params = json!({
        "network-data": network, "kernel-console": "console=ttyS1,115200 console=ttyS0,115200",
    });
    server.create_machine(name, sim.url().as_str(), &params);
    let machine = format!("Name:{name}");

    // Alone, the disk boots: it could be mistaken.
    let on = server.isobar(&["machines", "runaction", &machine, "poweron"]);
    assert!(on.ok, "{on}");
    seen("the decoy", &|sim| sim.serial().contains("DECOY"));
    let decoys = sim.serial().matches("DECOY").count();
    assert_eq!(sim.power(), Power::On);

    let limit = PATIENCE.as_secs().to_string();
    let out = server.isobar(&[
        "machines",
        "bootenv",
        &machine,
        guest.bootenv,
        "--wait",
        "agent",
        "--wait-at-most",
        &limit,
    ]);
    assert!(out.ok, "{name}: {out}\nits console:\n{}", sim.serial());
    assert_eq!(
        sim.serial().matches("DECOY").count(),
        decoys,
        "{name}: {}",
        sim.serial()
    );
    let shown = server.machine_named(name);
    let uuid = shown["Uuid"].as_str().unwrap();
    let boot = server.last_boot_of(name);
    assert_eq!(boot["phase"], "agent-up", "{boot}");

    let mut shell = Shell::on(&socket);
    let arguments = shell.run("cat /proc/cmdline");
    assert!(arguments.contains(&format!(" rs.uuid={uuid} ")), "{arguments}");
    // The agent writes to the same console, and not at moments of our choosing.
    let read = |_| serde_json::from_str(&shell.run("cat /etc/isobar/boot.json")).ok();
    let secret: Value = (0..5).find_map(read).unwrap();
    assert_eq!(secret["machine"], uuid);
    let firmware = shell.run("dmesg | grep -i secureboot; ls -d /sys/firmware/efi");
    let (efi, secure) = (
        firmware.contains("/sys/firmware/efi\n"),
        firmware.contains("Secure boot enabled"),
    );
    let wanted = match guest.firmware {
        Firmware::Bios => (false, false),
        Firmware::Uefi => (true, false),
        Firmware::Secureboot => (true, true),
    };
    assert_eq!((efi, secure), wanted, "{firmware}");
    let disk = shell.run("head -c 446 /dev/vda | tail -c 6");
    assert!(disk.contains("decoy"), "the decoy is there: {disk:?}");

    if guest.bootenv == "with-cd-driver" {
        let export = export(server, name);
        let sum =
            shell.run("insmod /probe/cdrom.ko; insmod /probe/sr_mod.ko; cat /sys/block/sr0/size; sha256sum /dev/sr0");
        let bytes = fs::read(&export).unwrap();
        assert!(
            sum.contains(&format!("{}\n", bytes.len() / SECTOR)),
            "{sum}: {} bytes",
            bytes.len()
        );
        assert!(sum.contains(&hex(&bytes)), "the guest reads what was exported: {sum}");
    }
    runtime.block_on(sim.shutdown());
}

/// `isobar sledgehammer build`, with what the demo has downloaded and compressed.
fn build(server: &Server) -> PathBuf {
    let bundle = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bundle");
    let words = ["sledgehammer", "build", "--agent"].map(str::to_owned).to_vec();
    let paths = [
        agent(),
        Path::new("--out"),
        &bundle,
        Path::new("--cache"),
        &target().join("debian"),
    ]
    .map(|path| path.to_str().unwrap().to_owned());
    let words: Vec<String> = words.into_iter().chain(paths).collect();
    let out = server.isobar(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(out.ok, "{out}");
    bundle
}

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// The static agent, made as the demo makes it.
fn agent() -> &'static Path {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let mut command = Command::new(env!("CARGO"));
    // Said about this test, and heard by ring's build script: it would be built anew for the demo.
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("CARGO_MANIFEST_") || n.starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    let status = command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .args(["build", "--quiet", "-p", "isobar-agent", "--profile", "agent"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target())
        .status()
        .unwrap();
    assert!(status.success(), "the agent does not build");
    Box::leak(target().join(TARGET).join("agent/isobar-agent").into_boxed_path())
}

/// A bootenv like `sledgehammer` whose guest can read CDs, imported as a base of its own.
fn with_cd_driver(server: &Server, tree: &Path, manifest: &Manifest) {
    let (_, release) = manifest.version.split_once('+').unwrap();
    let cache = fs::read_dir(target().join("debian")).unwrap();
    let package = cache
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(&format!("linux-image-{release}_"))
        })
        .unwrap();
    let mut archive = Archive::new();
    archive.add("probe", Kind::Dir, 0o755, &[]);
    for (folder, name) in [("cdrom", "cdrom.ko"), ("scsi", "sr_mod.ko")] {
        let path = format!("./lib/modules/{release}/kernel/drivers/{folder}/{name}");
        let pick = format!("dpkg-deb --fsys-tarfile \"$0\" | tar -xO {path}");
        let out = Command::new("sh").args(["-c", &pick]).arg(&package).output().unwrap();
        assert!(out.status.success() && out.stdout.len() > 10_000, "{path}: {out:?}");
        archive.add(&format!("probe/{name}"), Kind::File, 0o644, &out.stdout);
    }
    let probe = archive.finish();
    let mut manifest = manifest.clone();
    manifest.files.push(Entry {
        path: "probe.img".to_owned(),
        sha256: hex(&probe),
        size: probe.len() as u64,
        role: Role::Initrd,
    });
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add("bundle.json", &serde_json::to_vec(&manifest).unwrap());
    add("tree/probe.img", &probe);
    for file in manifest.files.iter().filter(|file| file.path != "probe.img") {
        add(
            &format!("tree/{}", file.path),
            &fs::read(tree.join(&file.path)).unwrap(),
        );
    }
    let tar = tar.into_inner().unwrap();
    let client = server.client();
    let len = Some(tar.len() as u64);
    let _: Value = client
        .upload(
            "/isobar/v1/bases/with-cd-driver",
            "application/x-tar",
            len,
            &mut &tar[..],
        )
        .unwrap();
    let ours: Value = client.get("/api/v3/bootenvs/sledgehammer").unwrap();
    let bootenv = json!({
        "Name": "with-cd-driver", "OS": {"Name": "with-cd-driver"}, "Kernel": ours["Kernel"],
        "Initrds": ["stage1.img", "probe.img"], "BootParams": ours["BootParams"], "OptionalParams": ours["OptionalParams"],
        "Templates": ours["Templates"],
    });
    let _: Value = client.post("/api/v3/bootenvs", &bootenv).unwrap();
}

/// A disk that boots under this firmware, and has everything that our disc has but for the file that only it has.
fn decoy(firmware: Firmware, tree: &Path, work: &Path) -> Vec<u8> {
    const MENU: &[u8] = b"echo \"DECOY: this is the disk\"\nsleep 9999\n";
    let mut files: Vec<(String, Vec<u8>)> = [
        (".disk/info", &b"Isobar sledgehammer\n"[..]),
        ("boot/grub/grub.cfg", MENU),
        ("EFI/debian/grub.cfg", MENU),
        ("EFI/BOOT/grub.cfg", MENU),
        ("vmlinuz0", b"no kernel"),
        ("stage1.img", b"no initrd"),
        ("isobar/own.img", b"no secret"),
    ]
    .map(|(path, bytes)| (path.to_owned(), bytes.to_vec()))
    .to_vec();
    for loader in ["BOOTX64.EFI", "grubx64.efi", "mmx64.efi"] {
        let path = format!("EFI/BOOT/{loader}");
        let bytes = fs::read(tree.join(&path)).unwrap();
        files.push((path, bytes));
    }
    let listed: Vec<EspFile<'_>> = files.iter().map(|(path, bytes)| EspFile { path, bytes }).collect();
    let system = isobar_image::esp::build(&listed).unwrap();
    let mut disk = vec![0; PARTITION];
    if firmware == Firmware::Bios {
        let early = work.join("early.cfg");
        fs::write(&early, "serial --unit=0 --speed=115200\nterminal_output serial\n").unwrap();
        let core = work.join("core.img");
        let made = Command::new("grub-mkimage")
            .args(["--format", "i386-pc", "--prefix", "(hd0,msdos1)/boot/grub", "--config"])
            .arg(&early)
            .arg("--output")
            .arg(&core)
            .args([
                "biosdisk",
                "part_msdos",
                "fat",
                "normal",
                "configfile",
                "serial",
                "terminal",
                "echo",
                "sleep",
            ])
            .status()
            .unwrap();
        assert!(made.success(), "grub-mkimage (package grub-common)");
        // The first sector of GRUB's core lies behind it, as boot.img expects where nobody says otherwise.
        let boot = fs::read("/usr/lib/grub/i386-pc/boot.img").unwrap();
        disk[..440].copy_from_slice(&boot[..440]);
        let core = fs::read(core).unwrap();
        disk[SECTOR..SECTOR + core.len()].copy_from_slice(&core);
    }
    // One active partition: an EFI system partition.
    let entry = &mut disk[446..462];
    entry[0] = 0x80;
    entry[4] = 0xEF;
    entry[8..12].copy_from_slice(&((PARTITION / SECTOR) as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&((system.len() / SECTOR) as u32).to_le_bytes());
    disk[440..446].copy_from_slice(b"decoy\n");
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    disk.extend(system);
    disk
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The shell of a live image, on a serial line.
struct Shell(UnixStream);

impl Shell {
    fn on(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It waits for Enter; then nothing that is typed comes back.
        stream.write_all(b"\nstty -echo; dmesg -n 1\n").unwrap();
        Self(stream)
    }

    /// What a command says: its lines alone, since the agent writes to the same console at moments of its own.
    fn run(&mut self, command: &str) -> String {
        // Not in this form in what is typed.
        writeln!(
            self.0,
            "echo SA''YS; {{ {command}; }} 2>&1 | sed 's/^/:> /'; echo DO''NE"
        )
        .unwrap();
        let (mut said, mut bytes) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&said).replace('\r', "");
            if let Some((_, rest)) = text.split_once("SAYS\n")
                && let Some((answer, _)) = rest.split_once("DONE\n")
            {
                let own = answer.lines().filter_map(|line| line.split_once(":> "));
                return own.map(|(_, line)| format!("{line}\n")).collect();
            }
            let count = self
                .0
                .read(&mut bytes)
                .unwrap_or_else(|e| panic!("{command}: {e}; so far: {text}"));
            assert!(count > 0, "{command}: the machine is off; so far: {text}");
            said.extend(&bytes[..count]);
        }
    }
}

fn export(server: &Server, name: &str) -> PathBuf {
    let iso = server.dir().join(format!("{name}.iso"));
    let out = server.isobar(&["isos", "export", &format!("Name:{name}"), "-o", iso.to_str().unwrap()]);
    assert!(out.ok, "{out}");
    iso
}

/// Other people's programs on the exported ISO: what a firmware sees, and every file.
fn judge(server: &Server, tree: &Path, manifest: &Manifest) {
    let folder = server.dir();
    let xorriso = |words: &[&str]| tool(folder, "xorriso", words);
    let torito = xorriso(&["-indev", "uefi.iso", "-report_el_torito", "plain"]);
    for said in [
        "El Torito boot img :   1  BIOS  y   none",
        "El Torito boot img :   2  UEFI  y   none",
        "El Torito img path :   1  /boot/grub/i386-pc/eltorito.img",
        "El Torito img path :   2  /boot/grub/efi.img",
        "El Torito img opts :   1  boot-info-table grub2-boot-info",
        "El Torito cat path : /boot.catalog",
    ] {
        assert!(torito.contains(said), "no {said:?} in\n{torito}");
    }
    assert!(!torito.contains("WARNING") && !torito.contains("FAILURE"), "{torito}");
    let area = xorriso(&["-indev", "uefi.iso", "-report_system_area", "plain"]);
    let sectors = fs::metadata(folder.join("uefi.iso")).unwrap().len() / SECTOR as u64;
    let whole = format!("MBR partition      :   1   0x80  0x00            0 {sectors:>12}");
    for said in [
        "System area summary: MBR grub2-mbr",
        &whole,
        "MBR partition      :   2   0x00  0xef",
        "MBR partition path :   2  /boot/grub/efi.img",
    ] {
        assert!(area.contains(said), "no {said:?} in\n{area}");
    }
    assert!(!area.contains("WARNING") && !area.contains("FAILURE"), "{area}");

    let mut expected: BTreeMap<String, String> = manifest
        .files
        .iter()
        .map(|file| (file.path.clone(), file.sha256.clone()))
        .collect();
    let uuid = server.machine_named("uefi")["Uuid"].as_str().unwrap().to_owned();
    for own in [
        "boot/grub/grub.cfg",
        "EFI/BOOT/grub.cfg",
        "EFI/BOOT/BOOT.conf",
        "isobar/own.img",
        ".disk/info",
    ] {
        let answer = server
            .client()
            .download(&format!("/isobar/v1/isos/{uuid}/sledgehammer/files/{own}"), 0)
            .unwrap();
        let mut bytes = Vec::new();
        answer.reader().read_to_end(&mut bytes).unwrap();
        expected.insert(own.to_owned(), hex(&bytes));
    }
    xorriso(&["-osirrox", "on", "-indev", "uefi.iso", "-extract", "/", "by-xorriso"]);
    tool(folder, "7z", &["x", "-oby-7z", "uefi.iso"]);
    for by in ["by-xorriso", "by-7z"] {
        let root = folder.join(by);
        for (path, sum) in &expected {
            let mut bytes = fs::read(root.join(path)).unwrap_or_else(|e| panic!("{by}: {path}: {e}"));
            if *path == manifest.bios_image {
                // What says where it lies is the disc's: the boot information table, GRUB's first block list.
                let built = fs::read(tree.join(path)).unwrap();
                for place in [8..64, 2548..2556] {
                    bytes[place.clone()].copy_from_slice(&built[place]);
                }
            }
            assert_eq!(hex(&bytes), *sum, "{by}: {path}");
        }
        let found = stage::files_below(&root)
            .into_iter()
            .filter(|path| !path.to_str().unwrap().contains("[BOOT]"));
        assert_eq!(
            found.count(),
            expected.len() + 1,
            "{by}: all files and the boot catalog"
        );
    }
}

fn tool(folder: &Path, program: &str, words: &[&str]) -> String {
    let out = Command::new(program).args(words).current_dir(folder).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {words:?}: {text}");
    text
}
