//! `files`: ranges of a planned disc from our file plane, against nginx serving the same disc as a file.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::Bench;
use crate::goal::{Bound, Goal, Limit, Source, Unit};
use crate::samples::Samples;
use crate::setup::{Setup, quiet};
use crate::stage::{Program, Stage, free_port};

/// What BMCs ask for at a time, bytes.
const RANGE: u64 = 64 << 10;
/// Ranges of one run, over all readers.
const RANGES: u64 = 8_000;
const READERS: [u64; 2] = [1, 16];
const PATIENCE: Duration = Duration::from_secs(10);
/// Where it is, in a system and in its package.
const NGINX: &str = "usr/sbin/nginx";
const PACKAGE: &str = "nginx";

/// As fast as the file server that everybody takes, less what a busy machine adds.
const OF_NGINX: Bound = Bound::AtLeast(0.8);

const fn ratio(name: &'static str, ours: &'static str, peers: &'static str) -> Goal {
    Goal {
        name,
        unit: Unit::Times,
        bound: OF_NGINX,
        source: Source::Ratio(ours, peers),
        limit: None,
    }
}

const fn speed(name: &'static str, series: &'static str, loopback: &'static str) -> Goal {
    Goal {
        name,
        unit: Unit::BytesPerSecond,
        bound: Bound::Told,
        source: Source::Median(series),
        limit: Some(Limit {
            what: "loopback from memory",
            series: loopback,
        }),
    }
}

pub(crate) const BENCH: Bench = Bench {
    name: "files",
    about: "ranges of 64 KiB of a planned disc, against nginx serving it as a file",
    runs: 5,
    goals: &[
        ratio("ours ÷ nginx, 1 reader", "ours 1", "nginx 1"),
        ratio("ours ÷ nginx, 16 readers", "ours 16", "nginx 16"),
        speed("ours, 1 reader", "ours 1", "loopback 1"),
        speed("nginx, 1 reader", "nginx 1", "loopback 1"),
        speed("ours, 16 readers", "ours 16", "loopback 16"),
        speed("nginx, 16 readers", "nginx 16", "loopback 16"),
    ],
    measure,
};

fn measure(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let folder = setup.fresh("files")?;
    let plane = local(free_port()?);
    let arguments = ["--file-listen", &plane.to_string(), "--address-for-bmc", "127.0.0.1"];
    let stage = Stage::up(setup, &folder, &arguments)?;
    stage.import(setup)?;
    let paper = stage.bmc("paper", &["--machine", "paper", "--plain-http"])?;
    stage.machine("read", &paper, &[])?;
    stage.run(&["machines", "bootenv", "Name:read", "sledgehammer"])?;
    let iso = folder.join("html/boot.iso");
    fs::create_dir_all(folder.join("html"))?;
    stage.run(&["isos", "export", "Name:read", "-o", &iso.display().to_string()])?;
    let url = paper.image()?;
    let (_, path) = url.split_once(&plane.to_string()).context("the image is elsewhere")?;
    let len = fs::metadata(&iso)?.len();

    let (mut nginx, web) = nginx(setup, &folder)?;
    let loopback = from_memory()?;
    let targets = [
        ("ours", plane, path.to_owned()),
        ("nginx", web, "/boot.iso".to_owned()),
        ("loopback", loopback, "/".to_owned()),
    ];
    for run in 1..=setup.runs {
        for readers in READERS {
            for (name, address, path) in &targets {
                let speed = read(*address, path, readers, len).context(*name)?;
                samples.add(&format!("{name} {readers}"), speed);
            }
        }
        eprintln!("files: run {run} of {}", setup.runs);
    }
    nginx.ensure_runs().context("nginx")
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// nginx's program. Its package is unpacked and not installed: it would start a server for everybody.
fn program(setup: &Setup) -> Result<PathBuf> {
    let installed = Path::new("/").join(NGINX);
    if installed.exists() {
        return Ok(installed);
    }
    let unpacked = setup.work.join(PACKAGE);
    if !unpacked.join(NGINX).exists() {
        let downloaded = setup.fresh(PACKAGE)?;
        quiet(
            Command::new("apt-get")
                .args(["download", PACKAGE])
                .current_dir(&downloaded),
        )?;
        let package = fs::read_dir(&downloaded)?
            .next()
            .context("apt-get downloaded nothing")??;
        quiet(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(&unpacked))?;
    }
    Ok(unpacked.join(NGINX))
}

/// nginx with all of its files in `folder`.
fn nginx(setup: &Setup, folder: &Path) -> Result<(Program, SocketAddr)> {
    let address = local(free_port()?);
    let (config, shown) = (folder.join("nginx.conf"), folder.display());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary
        .map(|kind| format!("  {kind}_temp_path {shown}/{kind};\n"))
        .concat();
    fs::write(
        &config,
        format!(
            "daemon off;\nworker_processes auto;\npid {shown}/nginx.pid;\nerror_log {shown}/nginx.error.log;\n\
             events {{ worker_connections 1024; }}\nhttp {{\n{temporary}  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  \
             keepalive_requests 1000000;\n  server {{ listen {address}; root {shown}/html; }}\n}}\n"
        ),
    )?;
    let mut command = Command::new(program(setup)?);
    command.arg("-c").arg(&config).arg("-p").arg(folder);
    command.arg("-e").arg(folder.join("nginx.error.log"));
    let mut program = Program::start(command, &folder.join("nginx.log"))?;
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        program.ensure_runs().context("nginx")?;
        ensure!(Instant::now() < deadline, "nginx does not come up");
        sleep(Duration::from_millis(10));
    }
    Ok((program, address))
}

/// Answers every request with the same bytes: what loopback and the reader allow.
fn from_memory() -> Result<SocketAddr> {
    let listener = TcpListener::bind(local(0))?;
    let address = listener.local_addr()?;
    let mut answer = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {RANGE}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + usize::try_from(RANGE)?, 0);
    // It lives as long as the program.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || -> Result<()> {
                stream.set_nodelay(true)?;
                let mut reader = BufReader::new(&stream);
                while head(&mut reader)?.is_some() {
                    (&stream).write_all(&answer)?;
                }
                Ok(())
            });
        }
    });
    Ok(address)
}

/// Reads ranges at offsets that no cache foresees; bytes a second over all readers.
fn read(address: SocketAddr, path: &str, readers: u64, len: u64) -> Result<f64> {
    let began = Instant::now();
    let each = RANGES / readers;
    scope(|threads| {
        let reader = |n: u64| move || reader(address, path, n, each, len);
        let all: Vec<_> = (0..readers).map(|n| threads.spawn(reader(n))).collect();
        all.into_iter().try_for_each(|one| {
            one.join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a reader broke off")))
        })
    })?;
    Ok((each * readers * RANGE) as f64 / began.elapsed().as_secs_f64())
}

fn reader(address: SocketAddr, path: &str, seed: u64, ranges: u64, len: u64) -> Result<()> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(&stream);
    let mut body = vec![0; usize::try_from(RANGE)?];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..ranges {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let start = (state >> 33) % (len / RANGE) * RANGE;
        let end = start + RANGE - 1;
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nRange: bytes={start}-{end}\r\n\r\n");
        (&stream).write_all(request.as_bytes())?;
        let lines = head(&mut answers)?.context("the connection was closed")?;
        ensure!(
            lines.starts_with("HTTP/1.1 206") && lines.to_lowercase().contains(&format!("content-length: {RANGE}\r\n")),
            "answered: {lines}"
        );
        answers.read_exact(&mut body)?;
    }
    Ok(())
}

/// The lines of a message up to the empty one; none at the end of the connection.
fn head(reader: &mut impl std::io::BufRead) -> Result<Option<String>> {
    const HEAD_MAX: usize = 16 << 10;
    let mut lines = String::new();
    while !lines.ends_with("\r\n\r\n") {
        ensure!(lines.len() < HEAD_MAX, "a message without end");
        if reader.read_line(&mut lines)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(lines))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_range_is_read_and_an_error_is_one() {
        let address = from_memory().unwrap();
        assert!(reader(address, "/", 1, 20, 10 * RANGE).is_ok());
        let listener = TcpListener::bind(local(0)).unwrap();
        let refusing = listener.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        });
        let error = reader(refusing, "/", 1, 1, RANGE).unwrap_err().to_string();
        answering.join().unwrap();
        assert!(error.contains("404"), "{error}");
    }
}
