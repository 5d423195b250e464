//! The programs: portmapper (RFC 1833, version 2), MOUNT and NFS (RFC 1813, version 3), of a tree that is `/TOKEN/boot.iso`.
//!
//! A file handle is its path in the tree, so that it means the same after a restart: a medium stays mounted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use isobar_image::vfs::{Denied, ImageResolver, Opened, Read, ReadKind, ReadObserver};
use isobar_image::{AttemptId, Image, Segment};

use super::rpc::{Call, MOUNT, NFS, PORTMAP, Undone};
use super::xdr::{Reader, Writer};
use crate::blobs::OpenBlobs;

/// The one file of a token's folder.
const FILE: &str = "boot.iso";
/// Longest name of a folder: handles have 64 bytes at most (RFC 1813 §2.4).
const TOKEN: usize = 60;
/// Bytes that one READ is answered with at most.
const READ: u32 = 64 * 1024;

// nfsstat3 and mountstat3 (RFC 1813 §2.6, §5.1.5).
const OK: u32 = 0;
const NOENT: u32 = 2;
const IO: u32 = 5;
const ACCES: u32 = 13;
const NOTDIR: u32 = 20;
const INVAL: u32 = 22;
const ROFS: u32 = 30;
const STALE: u32 = 70;
const BADHANDLE: u32 = 10_001;
const JUKEBOX: u32 = 10_008;

// ftype3.
const REGULAR: u32 = 1;
const DIRECTORY: u32 = 2;

/// What is served, and who is told of it.
pub(crate) struct Export {
    pub(crate) resolver: Arc<dyn ImageResolver>,
    pub(crate) observer: Arc<dyn ReadObserver>,
    pub(crate) blobs: OpenBlobs,
    /// Port that the portmapper names.
    pub(crate) port: u16,
}

/// What a handle means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node<'a> {
    Root,
    /// A token's folder.
    Folder(&'a str),
    /// Its image.
    Image(&'a str),
}

fn is_token(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (22..=TOKEN).contains(&name.len()) && name.bytes().all(fits)
}

impl<'a> Node<'a> {
    fn of_handle(handle: &'a [u8]) -> Option<Self> {
        let (kind, name) = handle.split_first()?;
        let name = std::str::from_utf8(name).ok()?;
        match kind {
            b'r' => name.is_empty().then_some(Self::Root),
            b'd' => is_token(name).then_some(Self::Folder(name)),
            b'f' => is_token(name).then_some(Self::Image(name)),
            _ => None,
        }
    }

    fn handle(self) -> Vec<u8> {
        let (kind, name) = match self {
            Self::Root => ('r', ""),
            Self::Folder(token) => ('d', token),
            Self::Image(token) => ('f', token),
        };
        format!("{kind}{name}").into_bytes()
    }

    /// From a path that is mounted.
    fn of_path(path: &'a str) -> Option<Self> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => Some(Self::Root),
            (Some(token), None, _) => is_token(token).then_some(Self::Folder(token)),
            // Some mount the file itself, as the kernel's client may.
            (Some(token), Some(FILE), None) => is_token(token).then_some(Self::Image(token)),
            _ => None,
        }
    }

    fn id(self) -> u64 {
        // FNV-1a: a number for each handle, the same everywhere.
        self.handle().iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| {
            (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

type Opening = (Arc<Image>, Option<AttemptId>);

impl Export {
    /// Answers one message; none: it is no call. `stream`: it came over TCP.
    pub(crate) fn answer(&self, message: &[u8], peer: IpAddr, stream: bool) -> Option<Vec<u8>> {
        let mut call = Call::parse(message)?;
        let mut reply = call.reply();
        let mut arguments = std::mem::replace(&mut call.arguments, Reader(&[]));
        let done = match (call.program, call.version) {
            (PORTMAP, 2) => self.portmap(call.procedure, &mut arguments, &mut reply),
            (PORTMAP, _) => Err(Undone::Version(2, 2)),
            (MOUNT, 1..=3) => self.mount(call.procedure, call.version, &mut arguments, peer, &mut reply),
            (MOUNT, _) => Err(Undone::Version(3, 3)),
            // Over UDP a small question from anywhere would have a large answer.
            (NFS, 3) if stream => self.nfs(call.procedure, &mut arguments, peer, &mut reply),
            (NFS, _) if stream => Err(Undone::Version(3, 3)),
            _ => Err(Undone::NoProgram),
        };
        Some(done.err().map_or(reply, |why| call.refuse(why)).0)
    }

    fn portmap(&self, procedure: u32, arguments: &mut Reader<'_>, reply: &mut Writer) -> Result<(), Undone> {
        const GETPORT: u32 = 3;
        const DUMP: u32 = 4;
        let known = [
            (MOUNT, 3, 6),
            (MOUNT, 3, 17),
            (MOUNT, 1, 6),
            (MOUNT, 1, 17),
            (NFS, 3, 6),
        ];
        match procedure {
            0 => {}
            GETPORT => {
                let mut next = || arguments.u32().ok_or(Undone::Garbage);
                let wanted = (next()?, next()?, next()?);
                reply.u32(if known.contains(&wanted) { self.port.into() } else { 0 });
            }
            DUMP => {
                for (program, version, protocol) in known {
                    reply.u32s(&[1, program, version, protocol, self.port.into()]);
                }
                reply.u32(0);
            }
            _ => return Err(Undone::NoProcedure),
        }
        Ok(())
    }

    fn mount(
        &self,
        procedure: u32,
        version: u32,
        arguments: &mut Reader<'_>,
        peer: IpAddr,
        reply: &mut Writer,
    ) -> Result<(), Undone> {
        match procedure {
            // Version 1 is there for those who ask before they unmount; its handles are of NFS 2.
            1 if version != 3 => return Err(Undone::Version(3, 3)),
            1 => {
                let path = arguments.opaque(1024).ok_or(Undone::Garbage)?;
                let node = std::str::from_utf8(path).ok().and_then(Node::of_path).ok_or(NOENT);
                match node.and_then(|node| self.look(node, peer).map(|_| node)) {
                    Ok(node) => reply.u32(OK).opaque(&node.handle()).u32s(&[2, 0, 1]),
                    Err(status @ (NOENT | ACCES)) => reply.u32(status),
                    Err(STALE) => reply.u32(NOENT),
                    Err(_) => reply.u32(IO),
                };
            }
            // Nobody is remembered: NULL, UMNT and UMNTALL have no result, DUMP and EXPORT an empty list.
            0 | 3 | 4 => {}
            2 | 5 => drop(reply.u32(0)),
            _ => return Err(Undone::NoProcedure),
        }
        Ok(())
    }

    fn nfs(&self, procedure: u32, arguments: &mut Reader<'_>, peer: IpAddr, reply: &mut Writer) -> Result<(), Undone> {
        if procedure == 0 {
            return Ok(());
        }
        if procedure > 21 {
            return Err(Undone::NoProcedure);
        }
        let handle = arguments.opaque(64).ok_or(Undone::Garbage)?;
        let node = Node::of_handle(handle).ok_or(BADHANDLE);
        let found = node.and_then(|node| Ok((node, self.look(node, peer)?)));
        let (node, opening) = match found {
            Ok(found) => found,
            Err(status) => {
                reply.u32(status);
                fail(procedure, reply);
                return Ok(());
            }
        };
        let image = opening.as_ref().map(|(image, _)| image);
        match procedure {
            1 => attributes(reply.u32(OK), node, image),
            3 => {
                let name = arguments.opaque(255).ok_or(Undone::Garbage)?;
                self.lookup(node, name, peer, reply);
            }
            4 => {
                let wanted = arguments.u32().ok_or(Undone::Garbage)?;
                // READ and, of folders, LOOKUP; EXECUTE of folders (RFC 1813 §3.3.4).
                let granted = if image.is_some() { 0x01 } else { 0x03 | 0x20 };
                post(reply.u32(OK), node, image);
                reply.u32(wanted & granted);
            }
            6 => {
                let (offset, count) = (arguments.u64(), arguments.u32());
                let (Some(offset), Some(count)) = (offset, count) else {
                    return Err(Undone::Garbage);
                };
                match opening {
                    Some(opening) => self.read(node, &opening, offset, count, peer, reply),
                    None => {
                        reply.u32(INVAL);
                        post(reply, node, None);
                    }
                }
            }
            16 | 17 => self.list(node, procedure == 17, arguments, reply)?,
            18 => {
                post(reply.u32(OK), node, image);
                let size = image.map_or(0, |image| image.len());
                reply.u64(size).u64(0).u64(0).u64(1).u64(0).u64(0).u32(0);
            }
            19 => {
                post(reply.u32(OK), node, image);
                // Clients refuse a server that would take no bytes at all, though they never write any.
                reply.u32s(&[READ, READ, 4096, READ, READ, 4096, 4096]);
                reply.u64(u64::MAX >> 1);
                // Times are exact to a second; the same of every file.
                reply.u32s(&[1, 0, 0x08]);
            }
            20 => {
                post(reply.u32(OK), node, image);
                reply.u32s(&[1, 255, 1, 1, 0, 1]);
            }
            5 => {
                reply.u32(INVAL);
                fail(procedure, reply);
            }
            _ => {
                reply.u32(ROFS);
                fail(procedure, reply);
            }
        }
        Ok(())
    }

    /// The image of a node, if it is one; an error where it is not there for this peer.
    fn look(&self, node: Node<'_>, peer: IpAddr) -> Result<Option<Opening>, u32> {
        let (token, is_image) = match node {
            Node::Root => return Ok(None),
            Node::Folder(token) => (token, false),
            Node::Image(token) => (token, true),
        };
        match self.resolver.open(&format!("/{token}/{FILE}"), peer) {
            Ok(Opened::Image { image, attempt }) => Ok(is_image.then_some((image, attempt))),
            Ok(_) | Err(Denied::NotFound) => Err(NOENT),
            Err(Denied::Gone) => Err(STALE),
            Err(Denied::Forbidden) => Err(ACCES),
            Err(Denied::Unavailable) => Err(JUKEBOX),
        }
    }

    fn lookup(&self, node: Node<'_>, name: &[u8], peer: IpAddr, reply: &mut Writer) {
        let found = match (node, std::str::from_utf8(name)) {
            (Node::Image(_), _) => Err(NOTDIR),
            (node, Ok(".")) => Ok(node),
            (_, Ok("..")) => Ok(Node::Root),
            (Node::Root, Ok(token)) if is_token(token) => Ok(Node::Folder(token)),
            (Node::Folder(token), Ok(FILE)) => Ok(Node::Image(token)),
            _ => Err(NOENT),
        };
        match found.and_then(|found| Ok((found, self.look(found, peer)?))) {
            Ok((found, opening)) => {
                reply.u32(OK).opaque(&found.handle());
                post(reply, found, opening.as_ref().map(|(image, _)| image));
            }
            Err(status) => drop(reply.u32(status)),
        }
        post(reply, node, None);
    }

    fn read(&self, node: Node<'_>, opening: &Opening, offset: u64, count: u32, peer: IpAddr, reply: &mut Writer) {
        let (image, attempt) = opening;
        let start = offset.min(image.len());
        let end = image.len().min(start + u64::from(count.min(READ)));
        let mut bytes = Vec::with_capacity(usize::try_from(end - start).unwrap_or_default());
        let read = self.copy(image, start..end, &mut bytes);
        if let Err(error) = read {
            tracing::error!(%error, "cannot read an image that is read by NFS");
            reply.u32(IO);
            post(reply, node, Some(image));
            return;
        }
        reply.u32(OK);
        post(reply, node, Some(image));
        let count = u32::try_from(bytes.len()).unwrap_or_default();
        reply.u32s(&[count, u32::from(end == image.len())]).opaque(&bytes);
        if let Some(attempt) = attempt {
            self.observer.seen(Read {
                attempt: *attempt,
                peer,
                offset: start,
                len: end - start,
                kind: ReadKind::Range,
                at: SystemTime::now(),
            });
        }
    }

    fn copy(&self, image: &Image, range: std::ops::Range<u64>, into: &mut Vec<u8>) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        for piece in image.pieces(range) {
            let from = into.len();
            let end = from + usize::try_from(piece.segment.len()).unwrap_or_default();
            match &piece.segment {
                Segment::Bytes(bytes) => into.extend_from_slice(bytes),
                Segment::Zero { .. } => into.resize(end, 0),
                Segment::Blob { id, offset, .. } => {
                    into.resize(end, 0);
                    self.blobs.get(id)?.read_exact_at(&mut into[from..], *offset)?;
                }
            }
        }
        Ok(())
    }

    /// A folder's image; which tokens there are, nobody is told.
    fn list(&self, node: Node<'_>, plus: bool, arguments: &mut Reader<'_>, reply: &mut Writer) -> Result<(), Undone> {
        let cookie = arguments.u64().ok_or(Undone::Garbage)?;
        if let Node::Image(_) = node {
            reply.u32(NOTDIR);
            post(reply, node, None);
            return Ok(());
        }
        post(reply.u32(OK), node, None);
        reply.u64(0);
        let mut entries = vec![(node, "."), (Node::Root, "..")];
        if let Node::Folder(token) = node {
            entries.push((Node::Image(token), FILE));
        }
        for ((entry, name), place) in entries.into_iter().zip(1..).filter(|(_, place)| *place > cookie) {
            reply.u32(1).u64(entry.id()).opaque(name.as_bytes()).u64(place);
            if plus {
                // No attributes: who wants them asks; the handle.
                reply.u32s(&[0, 1]).opaque(&entry.handle());
            }
        }
        reply.u32s(&[0, 1]);
        Ok(())
    }
}

/// Attributes that follow a result where there are some.
fn post(reply: &mut Writer, node: Node<'_>, image: Option<&Arc<Image>>) {
    match (node, image) {
        // An image whose length is not at hand: the caller asks for it.
        (Node::Image(_), None) => drop(reply.u32(0)),
        _ => attributes(reply.u32(1), node, image),
    }
}

/// fattr3 (RFC 1813 §2.5).
fn attributes(reply: &mut Writer, node: Node<'_>, image: Option<&Arc<Image>>) {
    let (kind, mode, links) = match node {
        Node::Image(_) => (REGULAR, 0o444, 1),
        Node::Root | Node::Folder(_) => (DIRECTORY, 0o555, 2),
    };
    let size = image.map_or(4096, |image| image.len());
    reply.u32s(&[kind, mode, links, 0, 0]).u64(size).u64(size);
    reply.u32s(&[0, 0]).u64(1).u64(node.id());
    // Nothing of it ever changes: all times are the same.
    reply.u32s(&[1, 0, 1, 0, 1, 0]);
}

/// What follows a status that is not OK: no attributes, of as many things as the procedure is about.
fn fail(procedure: u32, reply: &mut Writer) {
    let absent = match procedure {
        1 => 0,
        // wcc_data is two optional ones.
        2 | 7..=13 | 21 => 2,
        14 => 4,
        15 => 3,
        _ => 1,
    };
    for _ in 0..absent {
        reply.u32(0);
    }
}
