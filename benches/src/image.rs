//! `image`: planning a machine's disc against writing it with the tools that write discs.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use isobar_image::cpio::{Archive, Kind};
use isobar_image::{Base, BaseFile, BaseSpec, BlobDir, Content, FileRole, Image, OwnFile, plan};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::Bench;
use crate::goal::{Bound, Goal, Limit, Source, Unit, goal, told};
use crate::samples::Samples;
use crate::setup::{Setup, quiet};

/// Length of the disc, bytes: the live image, and a file that fills it up.
const DISC: u64 = 350_000_000;
/// Machines planned in one run.
const MACHINES: usize = 1_000;
/// Fleets whose images are all held at one time.
const FLEETS: [(usize, &str, &str); 3] = [
    (100, "plan of 100", "memory of 100"),
    (1_000, "plan of 1000", "memory of 1000"),
    (10_000, "plan of 10000", "memory of 10000"),
];
const FILLER: &str = "filler.img";

pub(crate) const BENCH: Bench = Bench {
    name: "image",
    about: "planning a machine's disc of 350 MB, against genisoimage and xorriso",
    runs: 5,
    goals: &[
        Goal {
            limit: Some(Limit {
                what: "SHA-256 of the delta",
                series: "hash",
            }),
            ..goal(
                "planning, CPU a machine",
                Unit::Seconds,
                Bound::AtMost(200e-6),
                Source::Median("plan cpu"),
            )
        },
        goal(
            "genisoimage ÷ planning",
            Unit::Times,
            Bound::AtLeast(1000.0),
            Source::Ratio("genisoimage", "plan"),
        ),
        goal(
            "xorriso ÷ planning",
            Unit::Times,
            Bound::Told,
            Source::Ratio("xorriso", "plan"),
        ),
        goal(
            "largest delta",
            Unit::Bytes,
            Bound::AtMost(48.0 * 1024.0),
            Source::Median("delta"),
        ),
        told("planning, 100 machines", Unit::Seconds, "plan of 100"),
        told("planning, 1000 machines", Unit::Seconds, "plan of 1000"),
        told("planning, 10000 machines", Unit::Seconds, "plan of 10000"),
        told("memory, 100 machines", Unit::Bytes, "memory of 100"),
        told("memory, 1000 machines", Unit::Bytes, "memory of 1000"),
        told("memory, 10000 machines", Unit::Bytes, "memory of 10000"),
        goal("genisoimage", Unit::Seconds, Bound::Told, Source::Median("genisoimage")),
        Goal {
            limit: Some(Limit {
                what: "cp of the same file",
                series: "cp",
            }),
            ..goal("export", Unit::BytesPerSecond, Bound::Told, Source::Median("export"))
        },
    ],
    measure,
};

fn measure(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let bundle = setup.bundle()?;
    let folder = setup.fresh("image")?;
    let disc = Disc::prepare(&bundle, &folder)?;
    disc.fleets(samples)?;
    for run in 0..setup.runs {
        eprintln!("image: run {} of {}", run + 1, setup.runs);
        disc.plan(run, samples)?;
        disc.write(run, Writer::GENISOIMAGE, samples)?;
        disc.write(run, Writer::XORRISO, samples)?;
        disc.export(run, samples)?;
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// The live image, filled up, as a base of ours and as a folder for the others.
struct Disc {
    folder: PathBuf,
    tree: PathBuf,
    blobs: BlobDir,
    base: Arc<Base>,
    bios_image: String,
    efi_image: String,
    /// Of a disc of ours.
    len: u64,
}

/// A program that writes discs.
struct Writer {
    program: &'static str,
    args: &'static [&'static str],
}

impl Writer {
    const GENISOIMAGE: Self = Self {
        program: "genisoimage",
        args: &[],
    };
    /// As `grub-mkrescue` calls it.
    const XORRISO: Self = Self {
        program: "xorriso",
        args: &["-as", "mkisofs"],
    };
}

impl Disc {
    fn prepare(bundle: &Path, folder: &Path) -> Result<Self> {
        let manifest = fs::read(bundle.join("bundle.json")).context("the bundle")?;
        let manifest: Value = serde_json::from_slice(&manifest).context("the bundle's manifest")?;
        let text = |member: &str| {
            let text = manifest[member].as_str();
            text.map(str::to_owned)
                .with_context(|| format!("the bundle's manifest has no {member}"))
        };
        let tree = folder.join("tree");
        let blobs = BlobDir::open(&folder.join("blobs"))?;
        let mut files = Vec::new();
        let mut total = 0;
        let listed = manifest["files"].as_array().context("the bundle lists no files")?;
        for path in listed.iter().filter_map(|file| file["path"].as_str()) {
            let to = tree.join(path);
            make_parent(&to)?;
            total += fs::copy(bundle.join("tree").join(path), &to).with_context(|| path.to_owned())?;
            files.push(path.to_owned());
        }
        let filler = tree.join(FILLER);
        io::copy(
            &mut Noise::new(1).take(DISC.saturating_sub(total)),
            &mut File::create(&filler)?,
        )?;
        files.push(FILLER.to_owned());
        let (kernel, initrd) = (text("kernel")?, text("initrd")?);
        let base_file = |path: String| -> Result<BaseFile> {
            let content = Content::take_in(&mut File::open(tree.join(&path))?, &blobs)?;
            let role = match &path {
                path if *path == kernel => FileRole::Kernel,
                path if *path == initrd => FileRole::Initrd,
                _ => FileRole::Other,
            };
            Ok(BaseFile { path, content, role })
        };
        let (bios_image, efi_image) = (text("bios_image")?, text("efi_image")?);
        let spec = BaseSpec {
            volume_id: text("volume_id")?,
            files: files.into_iter().map(base_file).collect::<Result<_>>()?,
            bios_image: Some(bios_image.clone()),
            efi_image: Some(efi_image.clone()),
            catalog: text("catalog")?,
            compact: false,
        };
        let base = Arc::new(Base::build(&spec, &blobs)?);
        Ok(Self {
            folder: folder.to_owned(),
            tree,
            blobs,
            len: plan(&base, &own_files(0))?.len(),
            base,
            bios_image,
            efi_image,
        })
    }

    /// Plans the discs of many machines, whose own files all differ.
    fn plan(&self, run: usize, samples: &mut Samples) -> Result<()> {
        let first = (run + 1) * MACHINES;
        let own: Vec<Vec<OwnFile>> = (first..first + MACHINES).map(own_files).collect();
        let (cpu, wall) = (thread_cpu(), Instant::now());
        let mut images = Vec::with_capacity(MACHINES);
        for own in &own {
            images.push(plan(&self.base, own)?);
        }
        let (cpu, wall) = (thread_cpu() - cpu, wall.elapsed().as_secs_f64());
        samples.add("plan cpu", cpu / MACHINES as f64);
        samples.add("plan", wall / MACHINES as f64);
        let largest = images.iter().map(|image| image.delta().len()).max();
        samples.add("delta", largest.unwrap_or_default() as f64);
        // A delta is named by its hash: nothing that plans can be faster than that.
        let cpu = thread_cpu();
        for image in &images {
            black_box(Sha256::digest(black_box(image.delta())));
        }
        samples.add("hash", (thread_cpu() - cpu) / MACHINES as f64);
        Ok(())
    }

    /// All discs of a fleet at one time: what one costs must not grow with their number.
    fn fleets(&self, samples: &mut Samples) -> Result<()> {
        let largest = FLEETS.iter().map(|(count, ..)| *count).max().unwrap_or_default();
        let mut images: Vec<Image> = Vec::with_capacity(largest);
        let (before, mut spent) = (resident()?, 0.0);
        for (count, time, memory) in FLEETS {
            while images.len() < count {
                let own = own_files(images.len());
                let cpu = thread_cpu();
                images.push(plan(&self.base, &own)?);
                spent += thread_cpu() - cpu;
            }
            samples.add(time, spent / count as f64);
            samples.add(memory, (resident()? - before) / count as f64);
        }
        Ok(())
    }

    /// The same disc, written by a program that writes discs.
    fn write(&self, run: usize, writer: Writer, samples: &mut Samples) -> Result<()> {
        for own in own_files(run) {
            let to = self.tree.join(&own.path);
            make_parent(&to)?;
            fs::write(to, &own.bytes)?;
        }
        let iso = self.folder.join("written.iso");
        let mut command = Command::new(writer.program);
        command
            .args(writer.args)
            .args(["-quiet", "-R", "-J", "-V", "SLEDGEHAMMER"]);
        command.args(["-b", &self.bios_image, "-c", "boot.catalog", "-no-emul-boot"]);
        command.args(["-boot-load-size", "4", "-boot-info-table", "-eltorito-alt-boot"]);
        command.args(["-e", &self.efi_image, "-no-emul-boot"]);
        command.arg("-o").arg(&iso).arg(&self.tree);
        let began = Instant::now();
        quiet(&mut command)?;
        samples.add(writer.program, began.elapsed().as_secs_f64());
        let written = fs::metadata(&iso)?.len();
        ensure!(
            written.abs_diff(self.len) < self.len / 50,
            "{} wrote a disc of {written} bytes, ours has {}",
            writer.program,
            self.len
        );
        Ok(fs::remove_file(&iso)?)
    }

    /// Our disc as a file, against copying that file.
    fn export(&self, run: usize, samples: &mut Samples) -> Result<()> {
        let image = plan(&self.base, &own_files(run))?;
        let (ours, copy) = (self.folder.join("exported.iso"), self.folder.join("copied.iso"));
        let began = Instant::now();
        let mut file = File::create(&ours)?;
        image.export(&self.blobs, &mut file)?;
        file.flush()?;
        samples.add("export", self.len as f64 / began.elapsed().as_secs_f64());
        let began = Instant::now();
        quiet(Command::new("cp").arg("--reflink=never").arg(&ours).arg(&copy))?;
        samples.add("cp", self.len as f64 / began.elapsed().as_secs_f64());
        fs::remove_file(&ours)?;
        Ok(fs::remove_file(&copy)?)
    }
}

/// What a boot adds for a machine, in shape and length; the numbers of machines have as many digits as they have.
fn own_files(machine: usize) -> Vec<OwnFile> {
    let (a, b, c) = (machine >> 16 & 0xff, machine >> 8 & 0xff, machine & 0xff);
    let uuid = format!("{machine:08x}-4b5e-46a7-a577-{:012x}", machine * 0x9e37_79b9);
    let config = format!(
        "set timeout=0\nset default=0\nmenuentry \"sledgehammer\" {{\n  echo \"isobar: loading kernel\"\n  linux /vmlinuz0 \
         BOOTIF=discovery ro rd.neednet=0 rootflags=loop net.ifnames=0 vga=normal rs.uuid={uuid} \
         provisioner.web=http://192.168.77.1:8091 provisioner.file=http://192.168.77.1:8091 \
         rs.api=https://192.168.77.1:8092 provisioner.ip=10.{a}.{b}.{c}/24 provisioner.gw=10.{a}.{b}.254 \
         provisioner.interface=52:54:00:{a:02x}:{b:02x}:{c:02x} provisioner.dns=10.{a}.0.53 console=tty0 \
         console=ttyS0,115200 -- console=ttyS0,115200\n  echo \"isobar: loading initrd\"\n  initrd /stage1.img \
         /isobar/own.img\n  boot\n}}\n"
    );
    let secret = serde_json::json!({
        "version": 1,
        "machine": uuid,
        "attempt": format!("{machine:032x}"),
        "secret": format!("{machine:043}"),
        "api": ["https://192.168.77.1:8092"],
        "fingerprint": format!("{machine:064x}"),
    });
    let mut archive = Archive::new();
    archive.add("etc", Kind::Dir, 0o755, &[]);
    archive.add("etc/isobar", Kind::Dir, 0o700, &[]);
    archive.add("etc/isobar/boot.json", Kind::File, 0o600, secret.to_string().as_bytes());
    let own = |path: &str, bytes: Vec<u8>, role| OwnFile {
        path: path.to_owned(),
        bytes: bytes.into(),
        role,
    };
    vec![
        own("boot/grub/grub.cfg", config.clone().into(), FileRole::GrubConfig),
        own("EFI/BOOT/grub.cfg", config.clone().into(), FileRole::GrubConfig),
        own("EFI/BOOT/BOOT.conf", config.into(), FileRole::GrubConfig),
        own("isobar/own.img", archive.finish(), FileRole::OwnInitrd),
        own(".disk/info", format!("sledgehammer {uuid}\n").into(), FileRole::Other),
    ]
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(())
}

/// CPU time of this thread, seconds.
fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Memory of this process, bytes.
fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    Ok(kib.context("/proc/self/status has no VmRSS")? * 1024.0)
}

/// Bytes that no file system and no packer makes smaller.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
}

impl io::Read for Noise {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        for chunk in bytes.chunks_mut(8) {
            // Xorshift, Marsaglia 2003.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_differ_from_machine_to_machine() {
        let (one, other) = (own_files(1), own_files(2));
        assert!(
            one.iter()
                .zip(&other)
                .all(|(a, b)| a.path == b.path && a.bytes != b.bytes)
        );
    }
}
