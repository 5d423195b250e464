//! `slow-readers`: how fast the API answers while a thousand BMCs read cold discs slowly, against how fast it is alone.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use isobar_client::{Auth, Client, Login, Secret, TlsTrust};
use rustix::fs::Advice;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Bench;
use crate::goal::{Bound, Goal, Source, Unit, told};
use crate::samples::Samples;
use crate::setup::{Setup, quiet};

/// Readers at once.
const READERS: usize = 1_000;
/// Bytes that a reader takes each time, and that its kernel takes for it.
const SIP: usize = 8 << 10;
/// Between two sips of one reader.
const PAUSE: Duration = Duration::from_millis(250);
/// The sips of all readers are spread over a pause in this many parts: BMCs do not read in step.
const PARTS: usize = 50;
/// Requests to the API in one phase: enough for a 99th percentile.
const REQUESTS: usize = 5_000;
/// Between two of them.
const BREATH: Duration = Duration::from_millis(1);
/// Bytes of one range request.
const PIECE: usize = 64 << 10;
/// What is read, bytes. What sockets hold stays in memory, however often the page cache is told to forget: much more
/// than a piece for every reader.
const INITRD: usize = 3 << 30;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// The page cache is made to forget the disc this often.
const FORGET: Duration = Duration::from_millis(200);

pub(crate) const BENCH: Bench = Bench {
    name: "slow-readers",
    about: "the API's 99th percentile under 1,000 slow readers of a cold disc, against the same server idle",
    runs: 5,
    goals: &[
        Goal {
            name: "p99_ratio",
            unit: Unit::Times,
            bound: Bound::AtMost(3.0),
            source: Source::Ratio("loaded p99", "idle p99"),
            limit: None,
        },
        told("p99 idle", Unit::Seconds, "idle p99"),
        told("p99 loaded", Unit::Seconds, "loaded p99"),
        told("median idle", Unit::Seconds, "idle p50"),
        told("median loaded", Unit::Seconds, "loaded p50"),
        told("all readers together", Unit::BytesPerSecond, "read"),
        told("from the disk", Unit::BytesPerSecond, "disk"),
    ],
    measure,
};

fn measure(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let work = setup.fresh("slow-readers")?;
    let mut server = Server::start(setup, &work)?;
    let url = server.disc(&work)?;
    raise_open_files()?;
    server.answers(REQUESTS / 4)?;
    for _ in 0..setup.runs {
        let (p50, p99) = server.answers(REQUESTS)?;
        samples.add("idle p50", p50);
        samples.add("idle p99", p99);
        let readers = Readers::start(server.files, &url, &server.blobs()?)?;
        let (began, from_disk) = (Instant::now(), server.read_bytes()?);
        let (p50, p99) = server.answers(REQUESTS)?;
        let took = began.elapsed().as_secs_f64();
        samples.add("loaded p50", p50);
        samples.add("loaded p99", p99);
        samples.add("disk", (server.read_bytes()? - from_disk) as f64 / took);
        samples.add("read", readers.end()? as f64 / took);
    }
    Ok(())
}

struct Server {
    child: Child,
    data: PathBuf,
    files: u16,
    client: Client,
    machine: String,
}

impl Server {
    fn start(setup: &Setup, work: &Path) -> Result<Self> {
        let free = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
        let (api, files, data) = (free()?, free()?, work.join("data"));
        let log = File::create(work.join("serve.log"))?;
        let child = Command::new(&setup.isobar)
            .args(["serve", "--open-isos", "--address-for-bmc", "127.0.0.1"])
            .args(["--api-listen", &format!("127.0.0.1:{api}")])
            .args(["--file-listen", &format!("127.0.0.1:{files}")])
            .arg("--data-dir")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", setup.isobar.display()))?;
        let nobody = Client::new(&format!("https://127.0.0.1:{api}"), Auth::None, TlsTrust::Insecure)?;
        let mut server = Self {
            child,
            data,
            files,
            client: nobody.clone(),
            machine: String::new(),
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let password = server.data.join("rocketskates.password");
        server.client = loop {
            if let Ok(password) = fs::read_to_string(&password)
                && let Ok(login) = Login::with_password(&nobody, "rocketskates", &Secret::new(password.trim()), None)
            {
                break login.client;
            }
            ensure!(
                Instant::now() < deadline,
                "the server does not come up: see {}",
                work.display()
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        Ok(server)
    }

    /// Takes in a large live image and plans a machine's disc on it, whose BMC nobody is; path on the file plane.
    fn disc(&mut self, work: &Path) -> Result<String> {
        let tree = work.join("bundle/tree");
        fs::create_dir_all(&tree)?;
        let mut listed = Vec::new();
        for (path, role, len) in [("vmlinuz0", "kernel", 8 << 20), ("stage1.img", "initrd", INITRD)] {
            let bytes = noise(len);
            fs::write(tree.join(path), &bytes)?;
            let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            listed.push(json!({"path": path, "sha256": sum, "size": len, "role": role}));
        }
        let bundle = json!({
            "format": 1, "name": "sledgehammer", "version": "1", "arch": "amd64", "volume_id": "SLEDGEHAMMER",
            "bios_image": null, "efi_image": null, "catalog": "boot.catalog", "kernel": "vmlinuz0",
            "initrd": "stage1.img", "marker": "", "files": listed,
        });
        fs::write(work.join("bundle/bundle.json"), bundle.to_string())?;
        let tar = work.join("bundle.tar");
        quiet(
            Command::new("tar")
                .arg("-C")
                .arg(work.join("bundle"))
                .arg("-cf")
                .arg(&tar)
                .args(["bundle.json", "tree"]),
        )?;
        let (len, mut tar) = (fs::metadata(&tar)?.len(), File::open(&tar)?);
        let bases = "/isobar/v1/bases/sledgehammer";
        self.client
            .upload::<Value>(bases, "application/x-tar", Some(len), &mut tar)?;
        let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let machine = json!({"Name": "mach-01", "Workflow": "discover-base", "Params": {
            "ipmi/address": format!("http://{nobody}"), "ipmi/username": "root", "ipmi/password": "password",
            "boot-virtual-iso": true,
        }});
        let machine: Value = self.client.post("/api/v3/machines", &machine)?;
        machine["Uuid"]
            .as_str()
            .context("the machine has no UUID")?
            .clone_into(&mut self.machine);
        Ok(format!("/dynamic_isos/{}/sledgehammer/boot.iso", self.machine))
    }

    /// Median and 99th percentile of so many answers, seconds.
    fn answers(&self, count: usize) -> Result<(f64, f64)> {
        let path = format!("/api/v3/machines/{}", self.machine);
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            self.client.get::<Value>(&path)?;
            took.push(began.elapsed().as_secs_f64());
            std::thread::sleep(BREATH);
        }
        took.sort_unstable_by(f64::total_cmp);
        Ok((took[count / 2], took[count * 99 / 100]))
    }

    fn blobs(&self) -> Result<Vec<File>> {
        let mut blobs = Vec::new();
        for shard in fs::read_dir(self.data.join("blobs/sha256"))? {
            for blob in fs::read_dir(shard?.path())? {
                blobs.push(File::open(blob?.path())?);
            }
        }
        Ok(blobs)
    }

    /// What the server has had read from disks.
    fn read_bytes(&self) -> Result<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        Ok(line.context("no read_bytes")?.trim().parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One BMC: asks for a piece of the disc anywhere, takes it slowly, asks for the next one.
struct Reader {
    socket: TcpStream,
    path: Arc<str>,
    places: u64,
    /// Of the answer, as far as it came.
    head: Vec<u8>,
    /// Of the answer's body.
    left: usize,
}

impl Reader {
    fn connect(port: u16, path: Arc<str>, number: usize) -> Result<Self> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        // Before it connects, so that the window that it offers is as small.
        sockopt::set_socket_recv_buffer_size(&socket, SIP)?;
        rustix::net::connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port)))?;
        let mut reader = Self {
            socket: TcpStream::from(socket),
            path,
            places: number as u64,
            head: Vec::new(),
            left: 0,
        };
        reader.ask()?;
        Ok(reader)
    }

    fn ask(&mut self) -> Result<()> {
        // Knuth's MMIX generator: its high bits are good enough to read here and there.
        self.places = self
            .places
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let from = (self.places >> 32) as usize % (INITRD / PIECE) * PIECE;
        let (path, to) = (&self.path, from + PIECE - 1);
        write!(
            self.socket,
            "GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes={from}-{to}\r\n\r\n"
        )?;
        self.head.clear();
        self.left = PIECE;
        Ok(())
    }

    /// Takes what is there, at most a sip; answers how much of the disc that was.
    fn sip(&mut self) -> Result<usize> {
        let mut bytes = [0; SIP];
        let taken = match rustix::net::recv(&self.socket, &mut bytes, rustix::net::RecvFlags::DONTWAIT) {
            Ok((taken, _)) => taken,
            Err(Errno::AGAIN) => return Ok(0),
            Err(err) => return Err(err.into()),
        };
        ensure!(taken > 0, "the server hung up on a reader");
        let mut body = &bytes[..taken];
        let head = &mut self.head;
        if !head.ends_with(END_OF_HEAD) {
            while !body.is_empty() && !head.ends_with(END_OF_HEAD) {
                head.push(body[0]);
                body = &body[1..];
            }
            let expected = b"HTTP/1.1 206".as_slice();
            ensure!(
                head.len() < expected.len() || head.starts_with(expected),
                "{}",
                String::from_utf8_lossy(head)
            );
        }
        self.left -= body.len();
        if self.left == 0 {
            self.ask()?;
        }
        Ok(body.len())
    }
}

/// The readers, and somebody who makes the page cache forget what they read.
struct Readers {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Readers {
    fn start(port: u16, path: &str, blobs: &[File]) -> Result<Self> {
        forget(blobs)?;
        let path = Arc::from(path);
        let mut readers = (0..READERS)
            .map(|number| Reader::connect(port, Arc::clone(&path), number))
            .collect::<Result<Vec<_>>>()?;
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&taken));
        let sip = move || -> Result<()> {
            behind_the_measured();
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                for part in readers.chunks_mut(READERS / PARTS) {
                    for reader in part {
                        count.fetch_add(reader.sip()? as u64, Ordering::Relaxed);
                    }
                    next += PAUSE / PARTS as u32;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }
            Ok(())
        };
        let blobs: Vec<File> = blobs.iter().map(File::try_clone).collect::<Result<_, _>>()?;
        let stopped = Arc::clone(&stop);
        let make_forget = move || -> Result<()> {
            behind_the_measured();
            while !stopped.load(Ordering::Relaxed) {
                forget(&blobs)?;
            }
            Ok(())
        };
        Ok(Self {
            stop,
            taken,
            threads: vec![std::thread::spawn(sip), std::thread::spawn(make_forget)],
        })
    }

    /// Bytes that they took.
    fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(self.taken.load(Ordering::Relaxed))
    }
}

/// Makes the page cache forget the blobs, over the time of [`FORGET`]: in one go it would hold a processor for longer
/// than an answer takes.
fn forget(blobs: &[File]) -> Result<()> {
    const PART: u64 = 16 << 20;
    for blob in blobs {
        let parts = blob.metadata()?.len().div_ceil(PART);
        for part in 0..parts {
            rustix::fs::fadvise(blob, part * PART, NonZeroU64::new(PART), Advice::DontNeed)?;
            if parts > 1 {
                std::thread::sleep(FORGET / u32::try_from(parts)?);
            }
        }
    }
    Ok(())
}

/// The calling thread gives way to the server and its client: BMCs and whoever else fills a host's memory take no
/// processor from the server, or none that it could do something about.
fn behind_the_measured() {
    // On Linux a thread's id is what setpriority(2) takes; a refusal makes the figures worse, not better.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
}

fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current, ..limit })?)
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u64 | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
