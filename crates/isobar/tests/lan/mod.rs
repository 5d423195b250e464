//! Networks of a test's own: namespaces, cables between them, and programs and threads inside.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

pub mod site;
pub mod switch;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace; removed with all that is in it.
pub struct Netns {
    name: String,
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether namespaces can be made here. Where not, the test is left out, loudly; not in CI.
pub fn available() -> bool {
    let name = format!(
        "isobar-{}-probe-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::SeqCst)
    );
    let failed = match Command::new("ip").args(["netns", "add", &name]).output() {
        Ok(done) if done.status.success() => {
            ip(&["netns", "del", &name]);
            return true;
        }
        Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        Err(error) => format!("ip (package iproute2): {error}"),
    };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "network namespaces cannot be made: {failed}"
    );
    eprintln!("\n  LEFT OUT: network namespaces cannot be made here (root is needed): {failed}\n");
    false
}

fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().unwrap();
    assert!(
        done.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Moves this thread, and what it starts, into a namespace.
pub fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

impl Netns {
    pub fn new(role: &str) -> Self {
        let name = format!(
            "isobar-{}-{}-{role}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::SeqCst)
        );
        ip(&["netns", "add", &name]);
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in here.
    pub fn ip(&self, args: &str) {
        let words: Vec<&str> = ["-n", &self.name].into_iter().chain(args.split(' ')).collect();
        ip(&words);
    }

    /// A cable: `ours` here, `theirs` there, up, each with its addresses.
    pub fn cable(&self, ours: &str, our: &[&str], other: &Self, theirs: &str, their: &[&str]) {
        self.ip(&format!(
            "link add {ours} type veth peer name {theirs} netns {}",
            other.name
        ));
        for (netns, device, addresses) in [(self, ours, our), (other, theirs, their)] {
            for address in addresses {
                netns.address(device, address);
            }
            netns.ip(&format!("link set {device} up"));
        }
    }

    /// One more address, `10.0.0.1/24`.
    pub fn address(&self, device: &str, address: &str) {
        let at_once = if address.contains("::") { " nodad" } else { "" };
        self.ip(&format!("addr add {address} dev {device}{at_once}"));
    }

    /// What a command line begins with that is to run in here.
    pub fn wrapper(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// `/etc/hosts` of what is started by [`Netns::wrapper`].
    pub fn hosts(&self, lines: &str) {
        std::fs::create_dir_all(self.etc()).unwrap();
        std::fs::write(self.etc().join("hosts"), format!("127.0.0.1 localhost\n{lines}")).unwrap();
    }

    fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }

    /// Runs this on a thread in here; what it starts lives in here as well.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            enter(&self.name);
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// All threads of it live in here. What has to happen in here has to be spawned: `block_on` runs where it is called.
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let name = self.name.clone();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || enter(&name))
            .enable_all()
            .build()
            .unwrap()
    }

    /// Status of a GET of the first bytes, from in here, from any address or this one; an error when there is no connection.
    pub fn get(&self, url: &str, from: Option<IpAddr>) -> std::io::Result<u16> {
        self.run(|| status_of(url, from))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        if self.etc().exists() {
            let _ = std::fs::remove_dir_all(self.etc());
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

fn status_of(url: &str, from: Option<IpAddr>) -> std::io::Result<u16> {
    let (authority, path) = url.split_once("://").unwrap().1.split_once('/').unwrap();
    let to: SocketAddr = authority.parse().unwrap();
    let mut stream = match from {
        None => TcpStream::connect_timeout(&to, PATIENCE)?,
        Some(from) => connect_from(from, to)?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=0-2047\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[9..12]).parse().unwrap())
}

/// The standard library cannot bind before it connects.
fn connect_from(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = match from {
            IpAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            IpAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.bind((from, 0).into())?;
        let stream = socket.connect(to).await?.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    })
}
