//! NFS, asked by a client of others.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Fixed, Seen, export, noise, noisy, planned, until};
use isobar_files::{Denied, NfsConfig, NfsPlane, Opened};
use isobar_image::{AttemptId, BlobDir, FileRole};
use nfs3_client::nfs3_types::nfs3::{
    ACCESS3args, FSINFO3args, FSSTAT3args, GETATTR3args, LOOKUP3args, Nfs3Result, PATHCONF3args, READ3args,
    READDIR3args, READDIRPLUS3args, REMOVE3args, cookieverf3, diropargs3, nfs_fh3, nfsstat3,
};
use nfs3_client::nfs3_types::portmap::IPPROTO_TCP;
use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{Nfs3Client, Nfs3ConnectionBuilder, PortmapperClient};

const TOKEN: &str = "A-token-of-this-boot-0123456789";
const GONE: &str = "A-token-that-is-over-0123456789";
const OTHERS: &str = "A-token-of-another-0123456789abc";

struct Rig {
    plane: NfsPlane,
    portmap: SocketAddr,
    seen: Arc<Seen>,
    whole: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn start(config: NfsConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Arc::new(BlobDir::open(folder.path()).unwrap());
        let kernel = noisy(&blobs, "vmlinuz0", (1, 3_000_001), FileRole::Kernel);
        let image = planned(&blobs, vec![kernel], &[]);
        let whole = export(&image, &blobs);
        let attempt = Some(AttemptId(7));
        let path = |token: &str| format!("/{token}/boot.iso");
        let paths = HashMap::from([
            (path(TOKEN), Ok(Opened::Image { image, attempt })),
            (path(GONE), Err(Denied::Gone)),
            (path(OTHERS), Err(Denied::Forbidden)),
        ]);
        let seen = Arc::new(Seen(Mutex::default()));
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let portmap = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(portmap).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let resolver = Arc::new(Fixed(paths));
        let plane = NfsPlane::start(listener, Some((tcp, udp)), config, resolver, seen.clone(), blobs).unwrap();
        Self {
            plane,
            portmap,
            seen,
            whole,
            _folder: folder,
        }
    }

    fn port(&self) -> u16 {
        self.plane.local_addr().port()
    }

    async fn mount(&self, path: &str) -> Result<(Nfs3Client<TokioIo<tokio::net::TcpStream>>, nfs_fh3), String> {
        let mounted = Nfs3ConnectionBuilder::new(TokioConnector, "127.0.0.1", path)
            .connect_from_privileged_port(false)
            .portmapper_port(self.portmap.port())
            .mount()
            .await
            .map_err(|error| error.to_string())?;
        let root = mounted.root_nfs_fh3();
        Ok((mounted.into_nfs3_client(), root))
    }
}

fn name<'a>(dir: &nfs_fh3, name: &'a str) -> diropargs3<'a> {
    diropargs3 {
        dir: dir.clone(),
        name: name.as_bytes().into(),
    }
}

fn status<T, E>(result: Nfs3Result<T, E>) -> nfsstat3 {
    match result {
        Nfs3Result::Ok(_) => nfsstat3::NFS3_OK,
        Nfs3Result::Err((status, _)) => status,
    }
}

#[tokio::test]
async fn an_image_is_found_and_read_and_every_read_is_told() {
    let rig = Rig::start(NfsConfig::default());
    let (mut client, folder) = rig.mount(&format!("/{TOKEN}")).await.unwrap();
    let what = name(&folder, "boot.iso");
    let file = client.lookup(&LOOKUP3args { what }).await.unwrap().unwrap().object;
    let object = file.clone();
    let attributes = client.getattr(&GETATTR3args { object }).await.unwrap().unwrap();
    assert_eq!(attributes.obj_attributes.size, rig.whole.len() as u64);
    let mut told = 0;
    for (offset, count) in [
        (0, 1),
        (2047, 65_536),
        (100_000, 1 << 20),
        (rig.whole.len() - 10, 100),
        (1 << 40, 4096),
    ] {
        let args = READ3args {
            file: file.clone(),
            offset: offset as u64,
            count,
        };
        let read = client.read(&args).await.unwrap().unwrap();
        let start = offset.min(rig.whole.len());
        let want = &rig.whole[start..rig.whole.len().min(start + count.min(65_536) as usize)];
        assert!(
            read.data.as_ref() == want && read.count as usize == want.len(),
            "{offset}+{count}"
        );
        assert_eq!(read.eof, start + want.len() == rig.whole.len());
        told += want.len() as u64;
    }
    let seen = rig.seen.0.lock().unwrap();
    assert_eq!(seen.iter().map(|read| read.len).sum::<u64>(), told);
    assert!(
        seen.iter()
            .all(|r| r.attempt == AttemptId(7) && r.peer == rig.plane.local_addr().ip())
    );
}

#[tokio::test]
async fn whatever_a_client_asks_has_an_answer_and_nothing_can_be_changed() {
    let rig = Rig::start(NfsConfig::default());
    let (mut client, root) = rig.mount("/").await.unwrap();
    client.null().await.unwrap();
    let what = name(&root, TOKEN);
    let folder = client.lookup(&LOOKUP3args { what }).await.unwrap().unwrap().object;
    let list = |dir: &nfs_fh3| READDIR3args {
        dir: dir.clone(),
        cookie: 0,
        cookieverf: cookieverf3::default(),
        count: 4096,
    };
    let listed = |entries: Vec<Vec<u8>>| {
        entries
            .iter()
            .map(|e| String::from_utf8_lossy(e).into_owned())
            .collect::<Vec<_>>()
    };
    let entries = client.readdir(&list(&root)).await.unwrap().unwrap().reply.entries.0;
    let names = listed(entries.iter().map(|e| e.name.0.to_vec()).collect());
    assert_eq!(names, [".", ".."], "who does not know a token is told none");
    let entries = client.readdir(&list(&folder)).await.unwrap().unwrap().reply.entries.0;
    let names = listed(entries.iter().map(|e| e.name.0.to_vec()).collect());
    assert_eq!(names, [".", "..", "boot.iso"]);
    let plus = READDIRPLUS3args {
        dir: folder.clone(),
        cookie: 2,
        cookieverf: cookieverf3::default(),
        dircount: 4096,
        maxcount: 4096,
    };
    let entries = client.readdirplus(&plus).await.unwrap().unwrap().reply.entries.0;
    assert_eq!(entries.len(), 1);
    let fsroot = root.clone();
    assert!(client.fsinfo(&FSINFO3args { fsroot }).await.unwrap().unwrap().rtmax >= 4096);
    let fsroot = root.clone();
    client.fsstat(&FSSTAT3args { fsroot }).await.unwrap().unwrap();
    let object = folder.clone();
    client.pathconf(&PATHCONF3args { object }).await.unwrap().unwrap();
    let object = folder.clone();
    let granted = client
        .access(&ACCESS3args { object, access: 0x3f })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(granted.access & 0x1c, 0, "nothing to modify, extend or delete");
    let object = name(&folder, "boot.iso");
    let removed = client.remove(&REMOVE3args { object }).await.unwrap();
    assert_eq!(status(removed), nfsstat3::NFS3ERR_ROFS);
    for (token, want) in [
        (GONE, nfsstat3::NFS3ERR_STALE),
        (OTHERS, nfsstat3::NFS3ERR_ACCES),
        ("A-token-nobody-issued-0123456789", nfsstat3::NFS3ERR_NOENT),
        ("etc", nfsstat3::NFS3ERR_NOENT),
    ] {
        let what = name(&root, token);
        assert_eq!(
            status(client.lookup(&LOOKUP3args { what }).await.unwrap()),
            want,
            "{token}"
        );
        assert!(rig.mount(&format!("/{token}")).await.is_err(), "{token}");
    }
    for odd in ["", "x", "d../../etc", "f"] {
        let object = nfs_fh3 {
            data: nfs3_client::nfs3_types::xdr_codec::Opaque::owned(odd.as_bytes().to_vec()),
        };
        let got = client.getattr(&GETATTR3args { object }).await.unwrap();
        assert_eq!(status(got), nfsstat3::NFS3ERR_BADHANDLE, "{odd}");
    }
}

#[tokio::test]
async fn the_portmapper_knows_where_over_both_protocols() {
    let rig = Rig::start(NfsConfig::default());
    let stream = tokio::net::TcpStream::connect(rig.portmap).await.unwrap();
    let mut portmapper = PortmapperClient::new(TokioIo::new(stream));
    for program in [100_003, 100_005] {
        assert_eq!(portmapper.getport(program, 3, IPPROTO_TCP).await.unwrap(), rig.port());
    }
    assert!(
        portmapper.getport(100_021, 3, IPPROTO_TCP).await.is_err(),
        "there is no lock manager"
    );
    let call: Vec<u8> = [1, 0, 2, 100_000, 2, 3, 0, 0, 0, 0, 100_003, 3, 6, 0]
        .iter()
        .flat_map(|word: &u32| word.to_be_bytes())
        .collect();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.send_to(&call, rig.portmap).unwrap();
    let mut reply = [0; 64];
    let (length, _) = socket.recv_from(&mut reply).unwrap();
    assert_eq!(reply[length - 4..length], u32::from(rig.port()).to_be_bytes());
    // Reading is TCP's.
    let call: Vec<u8> = [2, 0, 2, 100_003, 3, 0, 0, 0, 0, 0]
        .iter()
        .flat_map(|w: &u32| w.to_be_bytes())
        .collect();
    socket.send_to(&call, rig.plane.local_addr()).unwrap();
    let (length, _) = socket.recv_from(&mut reply).unwrap();
    assert_eq!(reply[length - 4..length], 1_u32.to_be_bytes(), "PROG_UNAVAIL");
}

/// libnfs, which more programs are made with.
#[test]
fn another_client_copies_the_whole_image() {
    let rig = Rig::start(NfsConfig::default());
    let port = rig.port();
    let url = |path: &str| format!("nfs://127.0.0.1/{path}?version=3&nfsport={port}&mountport={port}");
    let run = |program: &str, url: String| {
        let output = std::process::Command::new(program).arg(url).output();
        let output =
            output.unwrap_or_else(|e| panic!("cannot run {program}: {e}: install the Debian package libnfs-utils"));
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    let listing = String::from_utf8(run("nfs-ls", url(TOKEN))).unwrap();
    assert!(
        listing.contains("boot.iso") && listing.contains(&rig.whole.len().to_string()),
        "{listing}"
    );
    assert!(run("nfs-cat", url(&format!("{TOKEN}/boot.iso"))) == rig.whole);
}

#[test]
fn arbitrary_bytes_and_too_many_connections_harm_nobody_else() {
    let rig = Rig::start(NfsConfig {
        max_of_peer: 3,
        ..NfsConfig::default()
    });
    let connect = || {
        let socket = TcpStream::connect(rig.plane.local_addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket
    };
    for odd in [
        &[0x80, 0, 0, 4, 1, 2, 3, 4][..],
        &[0xff; 64],
        &[0, 0, 0, 0, 0, 0, 0, 0],
        &[0x80, 0, 0xff, 0xff],
    ] {
        let mut socket = connect();
        socket.write_all(odd).unwrap();
        let ended = matches!(socket.read(&mut [0; 16]), Ok(0) | Err(_));
        assert!(ended, "{odd:?}");
    }
    let mut random = noise(3, 1 << 16);
    for (i, chunk) in random.chunks_mut(512).enumerate() {
        // A length that is right, so that the message is looked at; a call, so that its arguments are.
        let length = 508_u32 | 0x8000_0000;
        chunk[..4].copy_from_slice(&length.to_be_bytes());
        let head = [0, 2, [100_003, 100_005, 100_000][i % 3], 3, (i % 24) as u32, 0, 0, 0, 0];
        for (at, word) in head.iter().enumerate() {
            chunk[8 + at * 4..12 + at * 4].copy_from_slice(&u32::to_be_bytes(*word));
        }
        let mut socket = connect();
        socket.write_all(chunk).unwrap();
        let mut header = [0; 4];
        socket.read_exact(&mut header).unwrap();
        drop(socket);
        until("it is gone", || rig.plane.connections() == 0);
    }
    let held: Vec<TcpStream> = (0..3).map(|_| connect()).collect();
    until("they are there", || rig.plane.connections() == 3);
    assert_eq!(connect().read(&mut [0; 1]).unwrap(), 0, "one too many is closed");
    drop(held);
    until("there is room again", || rig.plane.connections() == 0);
    drop(connect());
}
