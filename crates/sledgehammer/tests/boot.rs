//! A real boot under QEMU: UEFI with Secure Boot on, from the CD, with a disk beside it that tries to be mistaken
//! for it. Everything that signs and verifies is in the way here; BIOS and plain UEFI are the demo's.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use isobar_image::esp::EspFile;
use isobar_image::{Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, OwnFile, plan};
use isobar_sledgehammer::{BuildOptions, Manifest, Role, TREE, build, check};

/// Under emulation on a busy machine; it takes about half a minute on an idle one.
const DEADLINE: Duration = Duration::from_secs(400);

const FIRMWARE: [&str; 2] = [
    "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
    "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
];

/// Tells what GRUB sees before it starts the kernel.
const MENU: &str = "\
echo \"lockdown=$lockdown root=$root\"
search --no-floppy --file --set=found /.disk/info
echo \"/.disk/info is on $found\"
set timeout=0
menuentry \"Sledgehammer\" {
  linux /vmlinuz0 quiet provisioner.ip=10.0.2.20/24 provisioner.gw=10.0.2.2 provisioner.interface=\"52:54:00:12:34:56\" console=tty0 console=ttyS0,115200
  initrd /stage1.img /isobar/own.img
}
";

/// Ends QEMU with the test.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn secure_boot_reaches_the_agent_past_a_decoy_disk() {
    for (file, package) in [
        (FIRMWARE[0], "ovmf"),
        ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ] {
        assert!(Path::new(file).exists(), "no {file}: install {package}");
    }
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("secure-boot");
    fs::create_dir_all(&work).unwrap();
    let options = BuildOptions {
        out: work.join("bundle"),
        agent: agent(),
        // The demo's: one download, one compression.
        cache: target().join("debian"),
        kernel: None,
    };
    let bundle = build(&options, &mut |step| eprintln!("{step}")).unwrap();
    assert_eq!(check(&bundle.dir).unwrap(), bundle.manifest);
    // Every byte goes through a BMC.
    let initrd = bundle.manifest.files.iter().find(|file| file.role == Role::Initrd);
    let size = initrd.unwrap().size;
    assert!(size < 15 << 20, "stage1.img has {size} bytes");

    let disc = work.join("boot.iso");
    write_disc(&bundle.dir, &bundle.manifest, &work.join("blobs"), &disc);
    let decoy = work.join("decoy.img");
    write_decoy(&decoy);
    let variables = work.join("vars.fd");
    fs::copy(FIRMWARE[1], &variables).unwrap();

    let drive = |rest: &str, file: &Path| format!("format=raw,{rest},file={}", file.display());
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35,smm=on", "-accel", "tcg", "-m", "1024"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-global", "driver=cfi.pflash01,property=secure,value=on"])
        .args(["-drive", &drive("if=pflash,unit=0,readonly=on", Path::new(FIRMWARE[0]))])
        .args(["-drive", &drive("if=pflash,unit=1", &variables)])
        .args(["-drive", &drive("if=none,id=cd,media=cdrom,readonly=on", &disc)])
        .args(["-device", "ide-cd,drive=cd,bootindex=0"])
        .args(["-drive", &drive("if=none,id=disk", &decoy)])
        // With an index the firmware makes it known to GRUB.
        .args(["-device", "virtio-blk-pci,drive=disk,bootindex=1"])
        .args(["-netdev", "user,id=n"])
        .args(["-device", "virtio-net-pci,netdev=n,romfile=,mac=52:54:00:12:34:56"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut qemu = Qemu(qemu.spawn().unwrap());
    let console = watch(&mut qemu, "network up: 10.0.2.20/24 on eth0");
    for expected in [
        "lockdown=y root=cd0",
        // The decoy would be taken by whoever searches for that file.
        "/.disk/info is on hd0",
        "isobar: agent: ",
        "there is no boot secret",
    ] {
        assert!(console.contains(expected), "no {expected:?} on the console:\n{console}");
    }
    assert!(!console.contains("DECOY"), "{console}");
}

/// The static agent, made as the demo makes it.
fn agent() -> PathBuf {
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
    target().join(TARGET).join("agent/isobar-agent")
}

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

fn write_disc(bundle: &Path, manifest: &Manifest, blobs: &Path, to: &Path) {
    let blobs = BlobDir::open(blobs).unwrap();
    let files = manifest.files.iter().map(|file| {
        let mut bytes = File::open(bundle.join(TREE).join(&file.path)).unwrap();
        BaseFile {
            path: file.path.clone(),
            content: Content::take_in(&mut bytes, &blobs).unwrap(),
            role: match file.role {
                Role::Kernel => FileRole::Kernel,
                Role::Initrd => FileRole::Initrd,
                Role::BiosImage => FileRole::BiosImage,
                Role::EfiImage => FileRole::EfiImage,
                Role::Other => FileRole::Other,
            },
        }
    });
    let spec = BaseSpec {
        volume_id: manifest.volume_id.clone(),
        files: files.collect(),
        bios_image: Some(manifest.bios_image.clone()),
        efi_image: Some(manifest.efi_image.clone()),
        catalog: manifest.catalog.clone(),
    };
    let base = Arc::new(Base::build(&spec, &blobs).unwrap());
    let own_initrd = isobar_image::cpio::Archive::new().finish();
    let own: Vec<OwnFile> = [
        ("boot/grub/grub.cfg", MENU.as_bytes()),
        ("EFI/BOOT/grub.cfg", MENU.as_bytes()),
        (".disk/info", b"Isobar\n"),
        ("isobar/own.img", own_initrd.as_slice()),
    ]
    .into_iter()
    .map(|(path, bytes)| OwnFile {
        path: path.to_owned(),
        bytes: bytes.to_vec().into(),
        role: FileRole::Other,
    })
    .collect();
    let mut disc = File::create(to).unwrap();
    plan(&base, &own).unwrap().export(&blobs, &mut disc).unwrap();
}

/// A disk with `/.disk/info` and a configuration for each GRUB.
fn write_decoy(to: &Path) {
    const MENU: &[u8] = b"echo DECOY\nsleep 9999\n";
    let file = |path, bytes| EspFile { path, bytes };
    let disk = isobar_image::esp::build(&[
        file(".disk/info", b"x"),
        file("boot/grub/grub.cfg", MENU),
        file("EFI/debian/grub.cfg", MENU),
        file("EFI/BOOT/grub.cfg", MENU),
    ]);
    fs::write(to, disk.unwrap()).unwrap();
}

/// Reads the console until a text appears; fails when QEMU ends or time is up.
fn watch(qemu: &mut Qemu, text: &str) -> String {
    let mut output = qemu.0.stdout.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..len].to_vec()).is_err() {
                break;
            }
        }
    });
    let started = Instant::now();
    let mut bytes = Vec::new();
    while let Ok(more) = receiver.recv_timeout(DEADLINE.saturating_sub(started.elapsed())) {
        bytes.extend(more);
        let console = String::from_utf8_lossy(&bytes);
        if console.contains(text) {
            return console.into_owned();
        }
    }
    panic!(
        "no {text:?} within {DEADLINE:?}; the console:\n{}",
        String::from_utf8_lossy(&bytes)
    );
}
