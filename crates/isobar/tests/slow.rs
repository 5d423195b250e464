//! Slow clients: a thousand BMCs that read a few bytes now and then, people who do not take what they asked for, and more
//! connections than are allowed. They slow themselves and nobody else. (How fast the API is meanwhile:
//! `cargo xtask bench slow-readers`.)
#![allow(clippy::unwrap_used)]

mod stage;

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isobar_sim::Sim;
use rustix::net::{AddressFamily, SocketType, sockopt};
use serde_json::{Value, json};
use stage::{Options, Players, Server};

/// Readers at once.
const READERS: usize = 1_000;
/// Bytes that a reader's own kernel takes for it.
const RECEIVE_BUFFER: usize = 4 << 10;
/// Bytes that a reader takes each time it comes by.
const SIP: usize = 2 << 10;
/// Memory of the server for each of them, generously; its socket's buffer is the kernel's.
const KIB_A_READER: u64 = 32;
/// API connections that the server is told to serve.
const MAX_CONNECTIONS: usize = 96;
/// Downloads of a disc over the API that nobody takes; more than the API has threads of any kind.
const STUCK_DOWNLOADS: usize = 72;

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
}

fn connect(port: u16) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    // Before it connects, so that the window that it offers is as small.
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER).unwrap();
    rustix::net::connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    TcpStream::from(socket)
}

/// Readers of an image, kept going by one thread.
struct Readers {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Vec<usize>>>,
}

impl Readers {
    fn start(port: u16, url: &str) -> Self {
        let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
        let mut sockets: Vec<TcpStream> = (0..READERS).map(|_| connect(port)).collect();
        for socket in &mut sockets {
            write!(socket, "GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut taken = vec![0; sockets.len()];
            let mut sip = [0; SIP];
            while !stopped.load(Ordering::SeqCst) {
                for (socket, taken) in sockets.iter_mut().zip(&mut taken) {
                    let n = socket.read(&mut sip).unwrap();
                    assert!(n > 0, "cut off after {taken} bytes");
                    if *taken == 0 {
                        assert!(
                            sip.starts_with(b"HTTP/1.1 200"),
                            "{}",
                            String::from_utf8_lossy(&sip[..n])
                        );
                    }
                    *taken += n;
                }
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
            }
            taken
        });
        Self {
            stop,
            rounds,
            thread: Some(thread),
        }
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::SeqCst)
    }

    /// Bytes that each of them took.
    fn end(mut self) -> Vec<usize> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn boot(server: &Server, name: &str) {
    let out = server.isobar(&[
        "machines",
        "workflow",
        &format!("Name:{name}"),
        "discover-base",
        "--wait",
        "agent",
    ]);
    assert!(out.ok, "{out}");
}

#[test]
fn a_thousand_slow_readers_slow_nobody_else() {
    raise_open_files();
    let runtime = stage::runtime();
    let players = Players::default();
    let mut server = Server::new(Options::default());
    let sim = || -> Sim {
        let mut config = stage::sim_config();
        config.os_up = Some(players.hook(server.api_port()));
        runtime.block_on(isobar_sim::start(config)).unwrap()
    };
    let (first, second) = (sim(), sim());
    server.start();
    server.import();
    server.create_machine("mach-01", first.url().as_str(), &json!({}));
    server.create_machine("mach-02", second.url().as_str(), &json!({}));
    boot(&server, "mach-01");
    let url = first.cd().image.clone().unwrap();
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let names: Vec<String> = threads
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .collect();
    for wanted in ["boots\n", "isobar\n", "files-0\n", "files-disk-0\n"] {
        assert!(
            names.iter().any(|name| name == wanted),
            "{wanted} has threads of its own: {names:?}"
        );
    }

    let before = resident_kib(&server);
    let readers = Readers::start(server.files_port(), &url);
    server.wait("each reader has something", |_| readers.rounds() > 0);
    boot(&server, "mach-02");
    let out = server.isobar(&["machines", "list"]);
    assert!(out.ok, "{out}");
    let round = readers.rounds();
    server.wait("the readers go on", |_| readers.rounds() > round);
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(
        grown < KIB_A_READER * READERS as u64,
        "{grown} KiB for {READERS} readers"
    );
    let taken = readers.end();
    assert!(
        taken.iter().all(|bytes| *bytes > SIP),
        "everybody got more than one sip"
    );
    runtime.block_on(async {
        first.shutdown().await;
        second.shutdown().await;
    });
}

#[test]
fn downloads_that_nobody_takes_hold_nobody_up() {
    raise_open_files();
    let runtime = stage::runtime();
    let players = Players::default();
    let mut server = Server::new(Options {
        args: vec!["--max-connections".to_owned(), MAX_CONNECTIONS.to_string()],
        ..Options::default()
    });
    let mut config = stage::sim_config();
    config.os_up = Some(players.hook(server.api_port()));
    let sim = runtime.block_on(isobar_sim::start(config)).unwrap();
    server.start();
    server.import();
    server.create_machine("mach-01", sim.url().as_str(), &json!({}));
    boot(&server, "mach-01");
    let client = server.client();
    let machine: Value = client.get("/api/v3/machines/Name:mach-01").unwrap();
    let disc = format!(
        "/isobar/v1/isos/{}/sledgehammer/boot.iso",
        machine["Uuid"].as_str().unwrap()
    );
    let downloads: Vec<_> = (0..STUCK_DOWNLOADS)
        .map(|_| {
            // A connection of its own each.
            let mut body = Box::new(client.download(&disc, 0).unwrap().reader());
            body.read_exact(&mut [0; 1]).unwrap();
            body
        })
        .collect();
    for words in [
        &["machines", "list"][..],
        &["machines", "runaction", "Name:mach-01", "powerstatus"],
    ] {
        let out = server.isobar(words);
        assert!(out.ok, "{words:?}: {out}");
    }
    assert!(sim.cd().image.is_some());

    // Those beyond what is allowed are told so, and whoever goes makes room.
    let mute = RefCell::new(Vec::new());
    server.wait("there is no room", |s| {
        // Again where that takes long: who says nothing is sent away by and by.
        let more = (0..MAX_CONNECTIONS - STUCK_DOWNLOADS).map(|_| TcpStream::connect(("127.0.0.1", s.api_port())));
        mute.borrow_mut().extend(more.map(Result::unwrap));
        let out = s.isobar(&["machines", "list"]);
        !out.ok && out.stderr.contains("max-connections")
    });
    drop((mute, downloads));
    server.wait("there is room again", |s| s.isobar(&["machines", "list"]).ok);
    runtime.block_on(sim.shutdown());
}
