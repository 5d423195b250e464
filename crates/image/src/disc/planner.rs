//! Planning: a base and own files become an image.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::base::{Base, BaseDigest, Node};
use super::image::{self, Delta, Image, OwnRegion};
use super::layout::{Cursor, TooLarge, rank};
use super::path::{self, PathError, PathProblem};
use crate::iso9660::descriptor::{self, Volume};
use crate::iso9660::directory::{self, Member};
use crate::iso9660::name::{Identifier, shorten};
use crate::iso9660::{FIRST_DESCRIPTOR, SECTOR_USIZE, Span, path_table, sectors};
use crate::mbr::{self, Mbr};
use crate::vfs::FileRole;
use crate::wire::WireError;

/// A file of one machine: replaces the base's file of that path or is added to the tree.
#[derive(Clone)]
pub struct OwnFile {
    /// Path on the disc.
    pub path: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// What it is for.
    pub role: FileRole,
}

/// Without the bytes: they may hold a boot secret.
impl std::fmt::Debug for OwnFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnFile")
            .field("path", &self.path)
            .field("len", &self.bytes.len())
            .field("role", &self.role)
            .finish()
    }
}

/// Why an image cannot be planned, or its delta not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A path does not fit.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What firmware boots from is shared by all machines of a base.
    #[error("\"{0}\" is a boot image or the boot catalog of the base and cannot be replaced")]
    BootImage(String),
    /// More folders than a path table can number.
    #[error("{0} folders are more than an ISO9660 volume can have ({max})", max = path_table::MAX_ROWS)]
    TooManyFolders(usize),
    /// More than 8 TiB.
    #[error("the disc would be larger than 8 TiB")]
    TooLarge,
    /// Stored bytes that are no delta.
    #[error("these bytes are not an image's delta: {0}")]
    Damaged(&'static str),
    /// Stored by a newer Isobar.
    #[error("this image has format version {0}, which this Isobar does not know: plan it again")]
    Version(u16),
    /// The delta stands on another base.
    #[error("this delta belongs to the base {wanted}, not to {given}")]
    OtherBase {
        /// The base it stands on.
        wanted: BaseDigest,
        /// The base that was given.
        given: BaseDigest,
    },
}

impl From<TooLarge> for PlanError {
    fn from(_: TooLarge) -> Self {
        Self::TooLarge
    }
}

impl From<WireError> for PlanError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Damaged(why) => Self::Damaged(why),
            WireError::Version(version) => Self::Version(version),
        }
    }
}

/// Base + own files -> image. Pure and deterministic; the order of `own` does not matter.
///
/// # Errors
/// A path that does not fit ISO9660 or whose folder is a file.
pub fn plan(base: &Arc<Base>, own: &[OwnFile]) -> Result<Image, PlanError> {
    let mut planner = Planner::new(base, own);
    planner.merge()?;
    let tail = planner.lay_out()?;
    let delta = planner.emit(&tail);
    Ok(Image::from_sealed(Arc::clone(base), delta)?)
}

/// A directory of the image.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum DirRef {
    /// Index into [`Base::dirs`].
    Base(u32),
    /// Index into [`Planner::new_dirs`].
    New(u32),
}

const ROOT: DirRef = DirRef::Base(0);

/// What a name in a directory stands for.
#[derive(Clone, Copy)]
enum Target {
    Dir(DirRef),
    /// Index into [`Base::files`].
    BaseFile(u32),
    /// Index into [`Planner::own`].
    Own(u32),
}

struct NewDir {
    parent: DirRef,
    span: Span,
}

struct Added<'a> {
    name: &'a str,
    target: Target,
}

/// A directory that is written anew.
#[derive(Default)]
struct Touched<'a> {
    added: BTreeMap<Identifier, Added<'a>>,
    shape: Option<directory::Shape>,
}

struct Planner<'a> {
    base: &'a Base,
    /// Sorted by path.
    own: Vec<&'a OwnFile>,
    own_at: Vec<u32>,
    /// In order of creation, which is the order of paths.
    new_dirs: Vec<NewDir>,
    /// Paths that the base does not have.
    new_paths: HashMap<&'a str, Target>,
    /// From the index of a base's file to that of the own file that replaces it.
    replaced: BTreeMap<u32, u32>,
    touched: HashMap<DirRef, Touched<'a>>,
    /// `touched` in the order in which it came to be: no output depends on the order of a hash map.
    order: Vec<DirRef>,
    /// Base directories whose place or length is not the base's.
    respanned: BTreeMap<u32, Span>,
}

/// Where the parts of the tail lie.
struct Tail {
    /// First sector and number of sectors of moved and new metadata.
    metadata: u32,
    metadata_sectors: u32,
    path_tables: Option<PathTablesAt>,
    /// Indexes into [`Planner::own`] in the order of the disc.
    own_order: Vec<u32>,
    sectors: u32,
}

#[derive(Clone)]
struct PathTablesAt {
    l: u32,
    m: u32,
    len: u32,
}

impl<'a> Planner<'a> {
    fn new(base: &'a Base, own: &'a [OwnFile]) -> Self {
        let mut own: Vec<&OwnFile> = own.iter().collect();
        own.sort_by(|a, b| a.path.cmp(&b.path));
        Self {
            base,
            own_at: vec![0; own.len()],
            own,
            new_dirs: Vec::new(),
            new_paths: HashMap::new(),
            replaced: BTreeMap::new(),
            touched: HashMap::new(),
            order: Vec::new(),
            respanned: BTreeMap::new(),
        }
    }

    fn touch(&mut self, dir: DirRef) -> &mut Touched<'a> {
        let order = &mut self.order;
        self.touched.entry(dir).or_insert_with(|| {
            order.push(dir);
            Touched::default()
        })
    }

    /// Finds where every own file belongs in the tree.
    fn merge(&mut self) -> Result<(), PlanError> {
        for index in 0..self.own.len() {
            let path: &'a str = &self.own[index].path;
            path::check(path)?;
            let fail = |problem| PlanError::Path(path::error(path, problem));
            let (folder, name) = path::split(path);
            match self.base.by_path.get(path) {
                Some(Node::Dir(_)) => return Err(fail(PathProblem::IsFolder)),
                Some(Node::File(file)) => {
                    match self.base.files[*file as usize].role {
                        FileRole::BootCatalog | FileRole::BiosImage | FileRole::EfiImage => {
                            return Err(PlanError::BootImage(path.to_owned()));
                        }
                        _ => {}
                    }
                    if self.replaced.insert(*file, index as u32).is_some() {
                        return Err(fail(PathProblem::Duplicate));
                    }
                    let dir = self.dir(folder, path)?;
                    self.touch(dir);
                }
                None => {
                    match self.new_paths.get(path) {
                        Some(Target::Dir(_)) => return Err(fail(PathProblem::IsFolder)),
                        Some(_) => return Err(fail(PathProblem::Duplicate)),
                        None => {}
                    }
                    let dir = self.dir(folder, path)?;
                    self.add(dir, path, name, Target::Own(index as u32));
                }
            }
        }
        let folders = self.base.dirs.len() + self.new_dirs.len();
        if folders > path_table::MAX_ROWS {
            return Err(PlanError::TooManyFolders(folders));
        }
        Ok(())
    }

    /// The folder `folder` of the file `path`, made if it is not there.
    fn dir(&mut self, folder: &'a str, path: &'a str) -> Result<DirRef, PlanError> {
        if folder.is_empty() {
            return Ok(ROOT);
        }
        let found = match self.base.by_path.get(folder) {
            Some(Node::Dir(dir)) => Some(Target::Dir(DirRef::Base(*dir))),
            Some(Node::File(file)) => Some(Target::BaseFile(*file)),
            None => self.new_paths.get(folder).copied(),
        };
        match found {
            Some(Target::Dir(dir)) => Ok(dir),
            Some(Target::BaseFile(_) | Target::Own(_)) => Err(path::error(path, PathProblem::ParentIsFile).into()),
            None => {
                let (parent, name) = path::split(folder);
                let parent = self.dir(parent, path)?;
                let dir = DirRef::New(self.new_dirs.len() as u32);
                self.new_dirs.push(NewDir {
                    parent,
                    span: Span { lba: 0, len: 0 },
                });
                self.touch(dir);
                self.add(parent, folder, name, Target::Dir(dir));
                Ok(dir)
            }
        }
    }

    fn add(&mut self, dir: DirRef, path: &'a str, name: &'a str, target: Target) {
        self.new_paths.insert(path, target);
        let base = self.base;
        let added = &mut self.touch(dir).added;
        let in_base = |id: &Identifier| match dir {
            DirRef::Base(dir) => base.dirs[dir as usize]
                .entries
                .binary_search_by(|entry| entry.identifier.cmp(id))
                .is_ok(),
            DirRef::New(_) => false,
        };
        let identifier = shorten(name, matches!(target, Target::Dir(_)), |id| {
            added.contains_key(id) || in_base(id)
        });
        added.insert(identifier, Added { name, target });
    }

    /// Every name in a directory, in order of identifiers.
    fn members<'p>(&'p self, dir: DirRef, touched: &'p Touched<'a>) -> Vec<Member<'p, Target>> {
        let old = match dir {
            DirRef::Base(dir) => &self.base.dirs[dir as usize].entries[..],
            DirRef::New(_) => &[],
        };
        let mut members = Vec::with_capacity(old.len() + touched.added.len());
        let mut old = old.iter().peekable();
        let mut new = touched.added.iter().peekable();
        loop {
            let take_old = match (old.peek(), new.peek()) {
                (Some(o), Some((n, _))) => o.identifier < **n,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let (identifier, name, target) = if take_old {
                let Some(entry) = old.next() else { break };
                (&entry.identifier, &*entry.name, self.target(entry.node))
            } else {
                let Some((identifier, added)) = new.next() else { break };
                (identifier, added.name, added.target)
            };
            members.push(Member {
                identifier: identifier.as_bytes(),
                name,
                directory: matches!(target, Target::Dir(_)),
                len: match target {
                    Target::Dir(_) => 0,
                    Target::BaseFile(file) => self.base.files[file as usize].len,
                    Target::Own(own) => self.own[own as usize].bytes.len() as u64,
                },
                target,
            });
        }
        members
    }

    fn target(&self, node: Node) -> Target {
        match node {
            Node::Dir(dir) => Target::Dir(DirRef::Base(dir)),
            Node::File(file) => match self.replaced.get(&file) {
                Some(own) => Target::Own(*own),
                None => Target::BaseFile(file),
            },
        }
    }

    fn dir_span(&self, dir: DirRef) -> Span {
        match dir {
            DirRef::Base(dir) => match self.respanned.get(&dir) {
                Some(span) => *span,
                None => self.base.dirs[dir as usize].span,
            },
            DirRef::New(dir) => self.new_dirs[dir as usize].span,
        }
    }

    fn span(&self, target: Target) -> Span {
        match target {
            Target::Dir(dir) => self.dir_span(dir),
            Target::BaseFile(file) => {
                let file = &self.base.files[file as usize];
                Span {
                    // Below `Base::sectors`, which has 32 bits.
                    lba: (file.offset / SECTOR_USIZE as u64) as u32,
                    len: file.len,
                }
            }
            Target::Own(own) => Span {
                lba: self.own_at[own as usize],
                len: self.own[own as usize].bytes.len() as u64,
            },
        }
    }

    /// Finds a place for directories that do not fit theirs, for path tables and for own files.
    fn lay_out(&mut self) -> Result<Tail, PlanError> {
        let base = self.base;
        let mut moved = Vec::new();
        let mut metadata_sectors = 0_u32;
        for n in 0..self.order.len() {
            let dir = self.order[n];
            let shape = directory::shape(&self.members(dir, &self.touched[&dir]), dir == ROOT);
            let fits = match dir {
                DirRef::Base(dir) => shape.sectors <= base.dirs[dir as usize].room,
                DirRef::New(_) => false,
            };
            if fits {
                if let DirRef::Base(dir) = dir {
                    let old = base.dirs[dir as usize].span;
                    let span = Span {
                        lba: old.lba,
                        len: shape.len(),
                    };
                    if span != old {
                        self.respanned.insert(dir, span);
                    }
                }
            } else {
                moved.push((dir, shape, metadata_sectors));
                metadata_sectors = metadata_sectors.checked_add(shape.sectors).ok_or(PlanError::TooLarge)?;
            }
            self.touch(dir).shape = Some(shape);
        }
        let path_tables_room = self.path_tables_len(&moved);
        let path_tables_sectors = path_tables_room.map_or(0, |len| {
            let needed = sectors(u64::from(len)) as u32;
            if needed > base.path_tables.room { needed } else { 0 }
        });
        let path_tables_offset = metadata_sectors;
        metadata_sectors = path_tables_sectors
            .checked_mul(2)
            .and_then(|n| n.checked_add(metadata_sectors))
            .ok_or(PlanError::TooLarge)?;

        let mut cursor = Cursor::new(base.sectors);
        let mut metadata = 0;
        if metadata_sectors > 0 {
            metadata = cursor.place(FileRole::Metadata, u64::from(metadata_sectors) * SECTOR_USIZE as u64)?;
        }
        for (dir, shape, at) in moved {
            let span = Span {
                lba: metadata + at,
                len: shape.len(),
            };
            match dir {
                DirRef::Base(dir) => {
                    self.respanned.insert(dir, span);
                }
                DirRef::New(dir) => self.new_dirs[dir as usize].span = span,
            }
        }
        let mut own_order: Vec<u32> = (0..self.own.len() as u32).collect();
        // Stable: equal roles stay in order of paths.
        own_order.sort_by_key(|own| rank(self.own[*own as usize].role));
        for own in &own_order {
            let file = self.own[*own as usize];
            self.own_at[*own as usize] = cursor.place(own_role(file), file.bytes.len() as u64)?;
        }
        Ok(Tail {
            metadata,
            metadata_sectors,
            path_tables: path_tables_room.map(|len| {
                let (l, m) = if path_tables_sectors > 0 {
                    let l = metadata + path_tables_offset;
                    (l, l + path_tables_sectors)
                } else {
                    (base.path_tables.l, base.path_tables.m)
                };
                PathTablesAt { l, m, len }
            }),
            own_order,
            sectors: if self.own.is_empty() {
                base.sectors
            } else {
                cursor.end()?
            },
        })
    }

    /// Bytes of a path table, if the base's one does not do.
    fn path_tables_len(&self, moved: &[(DirRef, directory::Shape, u32)]) -> Option<u32> {
        if moved.is_empty() {
            return None;
        }
        let new: usize = self
            .touched
            .values()
            .flat_map(|touched| &touched.added)
            .filter(|(_, added)| matches!(added.target, Target::Dir(_)))
            .map(|(identifier, _)| path_table::row_len(identifier.as_bytes().len()))
            .sum();
        Some(self.base.path_tables.len + new as u32) // at most 65535 rows in all
    }

    /// Writes the sectors and seals them into a delta.
    fn emit(&mut self, tail: &Tail) -> Bytes {
        // A directory that lies elsewhere or has another length: its parent and its children say so.
        let respanned: Vec<u32> = self.respanned.keys().copied().collect();
        for dir in &respanned {
            let parent = DirRef::Base(self.base.dirs[*dir as usize].parent);
            if self.touch(parent).shape.is_none() {
                let shape = directory::shape(&self.members(parent, &self.touched[&parent]), parent == ROOT);
                self.touch(parent).shape = Some(shape);
            }
        }
        let mut out = Sectors {
            base: self.base,
            patches: BTreeMap::new(),
            tail_at: tail.metadata,
            tail: vec![0; tail.metadata_sectors as usize * SECTOR_USIZE],
        };
        let mut buffer = Vec::new();
        for dir in &self.order {
            let touched = &self.touched[dir];
            let Some(shape) = touched.shape else { continue };
            let span = self.dir_span(*dir);
            let parent = match *dir {
                ROOT => None,
                DirRef::Base(dir) => Some(DirRef::Base(self.base.dirs[dir as usize].parent)),
                DirRef::New(dir) => Some(self.new_dirs[dir as usize].parent),
            };
            let members = self.members(*dir, touched);
            buffer.clear();
            directory::emit(
                &mut buffer,
                span.lba,
                shape,
                parent.map(|parent| self.dir_span(parent)),
                &members,
                |target| self.span(target),
            );
            out.write(span.lba, &buffer);
        }
        for dir in &respanned {
            let span = self.respanned[dir];
            for entry in &self.base.dirs[*dir as usize].entries {
                let Node::Dir(child) = entry.node else { continue };
                if self.touched.contains_key(&DirRef::Base(child)) {
                    continue;
                }
                let lba = self.base.dirs[child as usize].span.lba;
                buffer.clear();
                buffer.extend_from_slice(self.base.metadata_sector(lba));
                directory::set_parent(&mut buffer, span);
                out.write(lba, &buffer);
            }
        }
        let old = self.base.path_tables;
        let path_tables = tail.path_tables.clone().unwrap_or(PathTablesAt {
            l: old.l,
            m: old.m,
            len: old.len,
        });
        if !self.new_dirs.is_empty() || !self.respanned.is_empty() {
            let (l, m) = self.path_tables();
            out.write(path_tables.l, &l);
            out.write(path_tables.m, &m);
        }
        let mut primary = [0; SECTOR_USIZE];
        primary.copy_from_slice(self.base.metadata_sector(FIRST_DESCRIPTOR));
        descriptor::set_volume(
            &mut primary,
            &Volume {
                sectors: tail.sectors,
                path_table_len: path_tables.len,
                path_table_l: path_tables.l,
                path_table_m: path_tables.m,
                root: self.dir_span(ROOT),
            },
        );
        out.write(FIRST_DESCRIPTOR, &primary);
        if let Some(sector) = self.system_area(tail.sectors) {
            out.patches.insert(0, sector.to_vec());
        }
        let own = tail.own_order.iter().map(|own| {
            let file = self.own[*own as usize];
            OwnRegion {
                path: &file.path,
                role: own_role(file),
                lba: self.own_at[*own as usize],
                bytes: &file.bytes,
            }
        });
        image::seal(&Delta {
            base: self.base.digest(),
            sectors: tail.sectors,
            replaced: &self.replaced.keys().copied().collect::<Vec<_>>(),
            patches: &out.patches,
            tail_at: out.tail_at,
            tail: &out.tail,
            own: &own.collect::<Vec<_>>(),
        })
    }

    /// The first sector of the disc, if machines boot from it.
    fn system_area(&self, sectors: u32) -> Option<[u8; SECTOR_USIZE]> {
        let base = self.base;
        let image = |role| {
            let index = base.files.iter().position(|file| file.role == role)?;
            Some((&base.files[index], self.span(Target::BaseFile(index as u32))))
        };
        let (bios, efi) = (image(FileRole::BiosImage), image(FileRole::EfiImage));
        if bios.is_none() && efi.is_none() {
            return None;
        }
        let boot_code = bios.and_then(|(bios, _)| {
            let bytes = base.inline_file(&path::sibling(&bios.path, mbr::BOOT_CODE))?;
            mbr::is_boot_code(&bytes, bios.len).then_some(bytes)
        });
        let [a, b, c, d, ..] = base.digest().0;
        let mbr = Mbr {
            boot_code: boot_code.as_deref(),
            bios: bios.map(|(_, span)| span),
            efi: efi.map(|(_, span)| span),
            sectors,
            signature: [a, b, c, d],
        };
        Some(mbr.sector())
    }

    /// Both path tables of the merged tree.
    fn path_tables(&self) -> (Vec<u8>, Vec<u8>) {
        let mut queue: Vec<(DirRef, &[u8], u16)> = vec![(ROOT, &[], 1)];
        let mut next = 0;
        let none = Touched::default();
        while let Some(&(dir, ..)) = queue.get(next) {
            next += 1;
            let number = next as u16; // at most MAX_ROWS
            match (dir, self.touched.get(&dir)) {
                (DirRef::Base(dir), None) => {
                    for entry in &self.base.dirs[dir as usize].entries {
                        if let Node::Dir(child) = entry.node {
                            queue.push((DirRef::Base(child), entry.identifier.as_bytes(), number));
                        }
                    }
                }
                (dir, touched) => {
                    for member in self.members(dir, touched.unwrap_or(&none)) {
                        if let Target::Dir(child) = member.target {
                            queue.push((child, member.identifier, number));
                        }
                    }
                }
            }
        }
        path_table::emit(queue.into_iter().map(|(dir, identifier, parent)| path_table::Row {
            identifier,
            lba: self.dir_span(dir).lba,
            parent,
        }))
    }
}

/// Own files are never what the base alone has.
fn own_role(file: &OwnFile) -> FileRole {
    match file.role {
        FileRole::Metadata | FileRole::BootCatalog | FileRole::BiosImage | FileRole::EfiImage => FileRole::Other,
        role => role,
    }
}

/// Sectors of metadata on their way into a delta.
struct Sectors<'a> {
    base: &'a Base,
    /// Sectors of the base that differ, and the system area.
    patches: BTreeMap<u32, Vec<u8>>,
    tail_at: u32,
    tail: Vec<u8>,
}

impl Sectors<'_> {
    fn write(&mut self, lba: u32, bytes: &[u8]) {
        if !self.tail.is_empty() && lba >= self.tail_at {
            let at = (lba - self.tail_at) as usize * SECTOR_USIZE;
            self.tail[at..at + bytes.len()].copy_from_slice(bytes);
            return;
        }
        for (n, chunk) in bytes.chunks(SECTOR_USIZE).enumerate() {
            let lba = lba + n as u32;
            let old = self.base.metadata_sector(lba);
            if old[..chunk.len()] == *chunk && old[chunk.len()..].iter().all(|b| *b == 0) {
                continue;
            }
            let mut sector = chunk.to_vec();
            sector.resize(SECTOR_USIZE, 0);
            self.patches.insert(lba, sector);
        }
    }
}
