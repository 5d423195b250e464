//! Laying a base out and writing its canonical form, which [`Base`](super::Base) reads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;

use super::base::{BaseSpec, BuildError, Content, MAGIC, Node, PathTables, VERSION};
use super::layout::{Cursor, rank};
use super::path::{self, PathProblem};
use crate::blob::BlobDir;
use crate::eltorito;
use crate::iso9660::descriptor::{self, Volume};
use crate::iso9660::directory::{self, Member};
use crate::iso9660::name::{Identifier, shorten};
use crate::iso9660::{FIRST_DESCRIPTOR, SECTOR, SECTOR_USIZE, Span, path_table, sectors};
use crate::mbr;
use crate::vfs::FileRole;
use crate::wire::Writer;

/// Sectors that a directory (and the path tables) may grow by before an image has to move it.
const SLACK: u32 = 1;

/// A base on its way from a spec to its canonical form.
pub(super) struct Draft<'a> {
    files: Vec<DraftFile<'a>>,
    dirs: Vec<DraftDir<'a>>,
    path_tables: PathTables,
    sectors: u32,
}

struct DraftFile<'a> {
    path: &'a str,
    role: FileRole,
    lba: u32,
    len: u64,
    /// None: the boot catalog, which is made here.
    content: Option<&'a Content>,
}

struct DraftDir<'a> {
    parent: usize,
    children: Vec<DraftEntry<'a>>,
    shape: directory::Shape,
    lba: u32,
}

struct DraftEntry<'a> {
    name: &'a str,
    identifier: Identifier,
    node: Node,
}

impl<'a> Draft<'a> {
    pub(super) fn new(spec: &'a BaseSpec) -> Result<Self, BuildError> {
        let d_characters = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
        if spec.volume_id.is_empty() || spec.volume_id.len() > 32 || !spec.volume_id.bytes().all(d_characters) {
            return Err(BuildError::VolumeId(spec.volume_id.clone()));
        }
        let mut draft = Self {
            files: Vec::with_capacity(spec.files.len() + 1),
            dirs: Vec::new(),
            path_tables: PathTables {
                l: 0,
                m: 0,
                room: 0,
                len: 0,
            },
            sectors: 0,
        };
        draft.add_files(spec)?;
        // In the order in which they will lie on the disc.
        draft.files.sort_by_key(|file| (rank(file.role), file.path));
        draft.add_dirs()?;
        draft.lay_out(spec.compact)?;
        Ok(draft)
    }

    fn add_files(&mut self, spec: &'a BaseSpec) -> Result<(), BuildError> {
        let is = |image: &Option<String>, path: &str| image.as_deref() == Some(path);
        for file in &spec.files {
            path::check(&file.path)?;
            let role = if is(&spec.bios_image, &file.path) {
                FileRole::BiosImage
            } else if is(&spec.efi_image, &file.path) {
                FileRole::EfiImage
            } else {
                match file.role {
                    // These are ours to give.
                    FileRole::Metadata | FileRole::BootCatalog | FileRole::BiosImage | FileRole::EfiImage => {
                        FileRole::Other
                    }
                    role => role,
                }
            };
            self.files.push(DraftFile {
                path: &file.path,
                role,
                lba: 0,
                len: file.content.len(),
                content: Some(&file.content),
            });
        }
        for (image, path, role) in [
            ("BIOS", &spec.bios_image, FileRole::BiosImage),
            ("EFI", &spec.efi_image, FileRole::EfiImage),
        ] {
            let Some(path) = path else { continue };
            let file = self.files.iter().find(|file| file.path == path && file.role == role);
            let len = file
                .ok_or_else(|| BuildError::NoBootImage {
                    image,
                    path: path.clone(),
                })?
                .len;
            let (min, max) = match role {
                FileRole::BiosImage => (eltorito::INFO_TABLE.end as u64, u64::from(u32::MAX)),
                _ => (1, eltorito::MAX_EFI_IMAGE),
            };
            if len < min || len > max {
                return Err(BuildError::BootImageSize {
                    image,
                    path: path.clone(),
                    len,
                    needs: format!("{min} to {max}"),
                });
            }
        }
        if spec.bios_image.is_some() || spec.efi_image.is_some() {
            path::check(&spec.catalog)?;
            self.files.push(DraftFile {
                path: &spec.catalog,
                role: FileRole::BootCatalog,
                lba: 0,
                len: SECTOR,
                content: None,
            });
        }
        Ok(())
    }

    /// Makes the tree, with its folders in the order of the path table.
    fn add_dirs(&mut self) -> Result<(), BuildError> {
        #[derive(Default)]
        struct Folder<'a> {
            children: BTreeMap<&'a str, Node>,
        }
        let mut folders = vec![Folder::default()];
        for (index, file) in self.files.iter().enumerate() {
            let fail = |problem| path::error(file.path, problem);
            let (folder, name) = path::split(file.path);
            let mut at = 0;
            for component in folder.split('/').filter(|c| !c.is_empty()) {
                let new = folders.len();
                match *folders[at].children.entry(component).or_insert(Node::Dir(new as u32)) {
                    Node::Dir(dir) if dir as usize == new => {
                        folders.push(Folder::default());
                        at = new;
                    }
                    Node::Dir(dir) => at = dir as usize,
                    Node::File(_) => return Err(fail(PathProblem::ParentIsFile).into()),
                }
            }
            // Index 0 is the metadata.
            match folders[at].children.insert(name, Node::File(index as u32 + 1)) {
                None => {}
                Some(Node::File(_)) => return Err(fail(PathProblem::Duplicate).into()),
                Some(Node::Dir(_)) => return Err(fail(PathProblem::IsFolder).into()),
            }
        }
        if folders.len() > path_table::MAX_ROWS {
            return Err(BuildError::TooManyFolders(folders.len()));
        }
        // Breadth first; `queue[n]` is the folder that gets number n.
        let mut queue = vec![(0_usize, 0_usize)];
        let mut next = 0;
        while next < queue.len() {
            let (folder, parent) = queue[next];
            let mut taken = BTreeSet::new();
            let mut children: Vec<DraftEntry<'a>> = folders[folder]
                .children
                .iter()
                .map(|(name, node)| {
                    let identifier = shorten(name, matches!(node, Node::Dir(_)), |id| taken.contains(id));
                    taken.insert(identifier.clone());
                    DraftEntry {
                        name,
                        identifier,
                        node: *node,
                    }
                })
                .collect();
            children.sort_by(|a, b| a.identifier.cmp(&b.identifier));
            for child in &mut children {
                if let Node::Dir(dir) = &mut child.node {
                    queue.push((*dir as usize, next));
                    *dir = queue.len() as u32 - 1;
                }
            }
            self.dirs.push(DraftDir {
                parent,
                children,
                shape: directory::Shape { records: 0, sectors: 0 },
                lba: 0,
            });
            next += 1;
        }
        Ok(())
    }

    fn lay_out(&mut self, compact: bool) -> Result<(), BuildError> {
        let bootable = self.files.iter().any(|file| file.role == FileRole::BootCatalog);
        // Primary descriptor, boot record, terminator.
        let mut next = FIRST_DESCRIPTOR + 2 + u32::from(bootable);
        let len: usize = std::iter::once(1)
            .chain(self.dirs.iter().flat_map(|dir| {
                dir.children
                    .iter()
                    .filter(|child| matches!(child.node, Node::Dir(_)))
                    .map(|child| child.identifier.as_bytes().len())
            }))
            .map(path_table::row_len)
            .sum();
        let room = sectors(len as u64) as u32 + SLACK;
        self.path_tables = PathTables {
            l: next,
            m: next + room,
            room,
            len: len as u32, // at most 65535 rows
        };
        next += 2 * room;
        for n in 0..self.dirs.len() {
            let shape = directory::shape(&self.members(n), n == 0);
            self.dirs[n].shape = shape;
            self.dirs[n].lba = next;
            next = next.checked_add(shape.sectors + SLACK).ok_or(BuildError::TooLarge)?;
        }
        let mut cursor = if compact {
            Cursor::compact(next)
        } else {
            Cursor::new(next)
        };
        for file in &mut self.files {
            file.lba = cursor.place(file.role, file.len)?;
        }
        self.sectors = cursor.end()?;
        Ok(())
    }

    fn members(&self, dir: usize) -> Vec<Member<'_, Node>> {
        self.dirs[dir]
            .children
            .iter()
            .map(|child| Member {
                identifier: child.identifier.as_bytes(),
                name: child.name,
                directory: matches!(child.node, Node::Dir(_)),
                len: match child.node {
                    Node::Dir(_) => 0,
                    Node::File(file) => self.files[file as usize - 1].len,
                },
                target: child.node,
            })
            .collect()
    }

    fn span(&self, node: Node) -> Span {
        match node {
            Node::Dir(dir) => self.dirs[dir as usize].span(),
            Node::File(file) => {
                let file = &self.files[file as usize - 1];
                Span {
                    lba: file.lba,
                    len: file.len,
                }
            }
        }
    }

    fn boot_image(&self, role: FileRole) -> Option<&DraftFile<'a>> {
        self.files.iter().find(|file| file.role == role)
    }

    /// Whether boot code that loads this BIOS image lies beside it.
    fn has_boot_code(&self, bios: &DraftFile<'_>) -> bool {
        let path = path::sibling(bios.path, mbr::BOOT_CODE);
        self.files.iter().any(|file| {
            file.path == path
                && matches!(file.content, Some(Content::Bytes(bytes)) if mbr::is_boot_code(bytes, bios.len))
        })
    }

    /// The sectors of descriptors, path tables and directories.
    fn metadata(&self, spec: &BaseSpec) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&descriptor::primary(
            &spec.volume_id,
            &Volume {
                sectors: self.sectors,
                path_table_len: self.path_tables.len,
                path_table_l: self.path_tables.l,
                path_table_m: self.path_tables.m,
                root: self.dirs[0].span(),
            },
        ));
        if let Some(catalog) = self.boot_image(FileRole::BootCatalog) {
            out.extend_from_slice(&descriptor::boot_record(catalog.lba));
        }
        out.extend_from_slice(&descriptor::terminator());
        let mut identifiers = vec![&[][..]; self.dirs.len()];
        for child in self.dirs.iter().flat_map(|dir| &dir.children) {
            if let Node::Dir(dir) = child.node {
                identifiers[dir as usize] = child.identifier.as_bytes();
            }
        }
        let rows = self
            .dirs
            .iter()
            .zip(identifiers)
            .map(|(dir, identifier)| path_table::Row {
                identifier,
                lba: dir.lba,
                parent: dir.parent as u16 + 1, // at most MAX_ROWS
            });
        let (l, m) = path_table::emit(rows);
        for (table, lba) in [(l, self.path_tables.l), (m, self.path_tables.m)] {
            pad_to(&mut out, lba);
            out.extend_from_slice(&table);
        }
        for (n, dir) in self.dirs.iter().enumerate() {
            pad_to(&mut out, dir.lba);
            let parent = (n > 0).then(|| self.dirs[dir.parent].span());
            directory::emit(&mut out, dir.lba, dir.shape, parent, &self.members(n), |node| {
                self.span(node)
            });
        }
        if let Some(last) = self.dirs.last() {
            pad_to(&mut out, last.lba + last.shape.sectors + SLACK);
        }
        out
    }

    /// The canonical form.
    pub(super) fn write(&self, spec: &BaseSpec, blobs: &BlobDir) -> Result<Bytes, BuildError> {
        let metadata = self.metadata(spec);
        let mut w = Writer::new(MAGIC, VERSION, metadata.len() + 128 * self.files.len());
        w.u32(self.sectors);
        for n in [
            self.path_tables.l,
            self.path_tables.m,
            self.path_tables.room,
            self.path_tables.len,
        ] {
            w.u32(n);
        }
        w.count(self.files.len() + 1);
        w.u8(rank(FileRole::Metadata));
        w.u32(0);
        w.count(2);
        write_zero(&mut w, u64::from(FIRST_DESCRIPTOR) * SECTOR);
        write_inline(&mut w, &metadata);
        for file in &self.files {
            w.u8(rank(file.role));
            w.u32(file.lba);
            match (file.content, file.role) {
                (None, _) => {
                    let span = |role| self.boot_image(role).map(|f| Span { lba: f.lba, len: f.len });
                    let catalog = eltorito::catalog(span(FileRole::BiosImage), span(FileRole::EfiImage));
                    w.count(1);
                    // The file is there only when a boot image is.
                    write_inline(&mut w, &catalog.unwrap_or([0; SECTOR_USIZE]));
                }
                (Some(content), FileRole::BiosImage) => {
                    let pointer = self.has_boot_code(file).then(|| mbr::second_pointer(file.lba));
                    let table = info_table(file, content, pointer, blobs).map_err(|source| BuildError::Blob {
                        path: file.path.to_owned(),
                        source,
                    })?;
                    let mut patches = vec![(eltorito::INFO_TABLE, &table[..])];
                    patches.extend(pointer.as_ref().map(|pointer| (mbr::SECOND_POINTER, &pointer[..])));
                    write_patched(&mut w, content, &patches);
                }
                (Some(_), _) if file.len == 0 => w.count(0),
                (Some(content), _) => {
                    w.count(1);
                    write_part(&mut w, content, 0, file.len);
                }
            }
        }
        w.count(self.dirs.len());
        for dir in &self.dirs {
            w.u32(dir.lba);
            w.u32(dir.shape.records * SECTOR as u32);
            w.u32(dir.shape.sectors + SLACK);
            w.count(dir.children.len());
            for child in &dir.children {
                w.sized(child.name.as_bytes());
                w.sized(child.identifier.as_bytes());
                let (kind, index) = match child.node {
                    Node::Dir(dir) => (0, dir),
                    Node::File(file) => (1, file),
                };
                w.u8(kind);
                w.u32(index);
            }
        }
        Ok(w.seal())
    }
}

impl DraftDir<'_> {
    fn span(&self) -> Span {
        Span {
            lba: self.lba,
            len: self.shape.len(),
        }
    }
}

/// Pads sectors that begin at [`FIRST_DESCRIPTOR`] up to `lba`.
fn pad_to(out: &mut Vec<u8>, lba: u32) {
    out.resize((lba - FIRST_DESCRIPTOR) as usize * SECTOR_USIZE, 0);
}

fn write_zero(w: &mut Writer, len: u64) {
    w.u8(0);
    w.u64(len);
}

fn write_inline(w: &mut Writer, bytes: &[u8]) {
    w.u8(1);
    w.sized(bytes);
}

/// `len` bytes of `content` from `offset`; the caller has checked that they are there.
fn write_part(w: &mut Writer, content: &Content, offset: u64, len: u64) {
    match content {
        Content::Bytes(bytes) => write_inline(w, &bytes[offset as usize..][..len as usize]),
        Content::Blob { id, .. } => {
            w.u8(2);
            w.u64(len);
            w.raw(&id.0);
            w.u64(offset);
        }
    }
}

/// `content` with some of its bytes replaced; the patches are in order and lie within it.
fn write_patched(w: &mut Writer, content: &Content, patches: &[(Range<usize>, &[u8])]) {
    let last = patches.last().map_or(0, |(at, _)| at.end as u64);
    let rest = content.len() - last;
    w.count(2 * patches.len() + usize::from(rest > 0));
    let mut from = 0;
    for (at, bytes) in patches {
        write_part(w, content, from, at.start as u64 - from);
        write_inline(w, bytes);
        from = at.end as u64;
    }
    if rest > 0 {
        write_part(w, content, last, rest);
    }
}

/// The boot information table of a BIOS image that gets `pointer`.
fn info_table(
    file: &DraftFile<'_>,
    content: &Content,
    pointer: Option<[u8; 8]>,
    blobs: &BlobDir,
) -> io::Result<[u8; 56]> {
    let span = Span {
        lba: file.lba,
        len: file.len,
    };
    match content {
        Content::Bytes(bytes) => with_pointer(span, &bytes[..], pointer),
        Content::Blob { id, len } => {
            let mut blob = blobs.file(id)?;
            let found = blob.seek(SeekFrom::End(0))?;
            if found != *len {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the blob {id} has {found} bytes instead of {len}"),
                ));
            }
            blob.rewind()?;
            with_pointer(span, blob, pointer)
        }
    }
}

fn with_pointer(span: Span, mut image: impl Read, pointer: Option<[u8; 8]>) -> io::Result<[u8; 56]> {
    let Some(pointer) = pointer else {
        return eltorito::info_table(span, image);
    };
    let mut head = [0; mbr::SECOND_POINTER.end];
    image.read_exact(&mut head)?;
    head[mbr::SECOND_POINTER].copy_from_slice(&pointer);
    eltorito::info_table(span, head.chain(image))
}
