//! Trees of files inside one large file: an ISO or a tar that somebody uploaded, served file by file without being
//! unpacked. Both lay each file's bytes down in one run, so an index of runs is all that there is to make.

mod iso;
mod tarball;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use crate::vfs::ReadAt;

/// Entries of one tree; the largest installation media have some tens of thousands.
pub(crate) const MAX_ENTRIES: usize = 400_000;
/// Longest path in bytes.
pub(crate) const MAX_PATH: usize = 1024;
/// Symbolic links that are followed for one path (as Linux does, path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Why there is no tree in a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The file itself.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Neither format, or not one that can be served as it lies.
    #[error("{0}")]
    Format(String),
    /// The end is missing.
    #[error("is cut short: {path} ends at byte {end}, the file has {len}")]
    Short {
        /// What reaches past the end.
        path: String,
        /// Where it would end.
        end: u64,
        /// Where the file ends.
        len: u64,
    },
    /// More than an honest one has.
    #[error("holds more than {0}")]
    TooMuch(String),
}

/// What a path in a tree stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeNode {
    /// A run of bytes of the large file.
    File {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A folder.
    Folder,
    /// A symbolic link.
    Link(String),
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    /// ISO 9660, with or without UDF beside it.
    Iso,
    /// tar.
    Tar,
    /// Anything compressed with gzip.
    Gzip,
    /// Anything compressed with zstd.
    Zstd,
    /// Compressed in a way that is not known here.
    Packed(&'static str),
    /// None of these.
    Other,
}

impl Archive {
    /// Looks at the first bytes of a file.
    ///
    /// # Errors
    /// Of reading it.
    pub fn of(source: &dyn ReadAt) -> io::Result<Self> {
        const MAGIC: &[(u64, &[u8], Archive)] = &[
            (32_769, b"CD001", Archive::Iso),
            (257, b"ustar", Archive::Tar),
            (0, &[0x1f, 0x8b], Archive::Gzip),
            (0, &[0x28, 0xb5, 0x2f, 0xfd], Archive::Zstd),
            (0, &[0xfd, b'7', b'z', b'X', b'Z'], Archive::Packed("xz")),
            (0, b"BZh", Archive::Packed("bzip2")),
        ];
        for (offset, magic, archive) in MAGIC {
            let mut there = [0; 8];
            let there = &mut there[..magic.len()];
            if source.len() >= offset + magic.len() as u64 {
                source.read_at(there, *offset)?;
                if there == *magic {
                    return Ok(*archive);
                }
            }
        }
        Ok(Archive::Other)
    }
}

/// The files of an ISO or tar, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<Box<str>, TreeNode>,
    /// Names are of a disc that knows capitals only: people and installers write them small.
    folded: bool,
}

impl Tree {
    /// Finds the files in an ISO or a tar. Reads directories and headers alone, whatever the size.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn read(source: &dyn ReadAt) -> Result<Self, TreeError> {
        let tree = match Archive::of(source)? {
            Archive::Iso => iso::read(source)?,
            Archive::Tar => tarball::read(source)?,
            Archive::Gzip | Archive::Zstd => return Err(TreeError::Format("is compressed".to_owned())),
            Archive::Packed(how) => {
                return Err(TreeError::Format(format!(
                    "is compressed with {how}, which is not known here: unpack it and upload what comes out"
                )));
            }
            Archive::Other => return Err(TreeError::Format("is neither an ISO 9660 disc nor a tar".to_owned())),
        };
        for (path, node) in &tree.nodes {
            if let TreeNode::File { offset, len } = node
                && offset.saturating_add(*len) > source.len()
            {
                return Err(TreeError::Short {
                    path: path.to_string(),
                    end: offset.saturating_add(*len),
                    len: source.len(),
                });
            }
        }
        Ok(tree)
    }

    /// What a path (without leading slash) stands for, symbolic links followed; a link that leads out of the tree leads
    /// nowhere.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&TreeNode> {
        self.resolve(path).map(|(_, node)| node)
    }

    /// The path without links that a path leads to, and what is there.
    fn resolve(&self, path: &str) -> Option<(String, &TreeNode)> {
        let folded;
        let path = if self.folded {
            folded = path.to_ascii_lowercase();
            &folded
        } else {
            path
        };
        let mut todo: Vec<&str> = parts(path).rev().collect();
        let mut at = String::new();
        let mut links = 0;
        let mut node = &TreeNode::Folder;
        while let Some(part) = todo.pop() {
            if part == ".." {
                // Above the root is nothing of this tree.
                let end = if at.is_empty() {
                    return None;
                } else {
                    at.rfind('/').unwrap_or(0)
                };
                at.truncate(end);
                node = &TreeNode::Folder;
                continue;
            }
            if *node != TreeNode::Folder {
                return None;
            }
            let parent = at.len();
            if parent > 0 {
                at.push('/');
            }
            at.push_str(part);
            node = self.nodes.get(at.as_str())?;
            if let TreeNode::Link(target) = node {
                links += 1;
                if links > MAX_LINKS || todo.len() > MAX_PATH {
                    return None;
                }
                // As the medium's root is `/` where it is mounted nowhere.
                at.truncate(if target.starts_with('/') { 0 } else { parent });
                todo.extend(parts(target).rev());
                node = &TreeNode::Folder;
            }
        }
        Some((at, node))
    }

    /// The names in a folder, sorted; folders end in `/`. None when there is no such folder.
    #[must_use]
    pub fn names(&self, folder: &str) -> Option<Vec<String>> {
        let (folder, _) = self.resolve(folder).filter(|(_, node)| **node == TreeNode::Folder)?;
        let prefix = if folder.is_empty() { folder } else { folder + "/" };
        let below = self
            .nodes
            .range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded));
        let inside = below.map_while(|(path, node)| Some((path.strip_prefix(prefix.as_str())?, node)));
        let names = inside.filter(|(name, _)| !name.is_empty() && !name.contains('/'));
        Some(
            names
                .map(|(name, node)| match node {
                    TreeNode::Folder => format!("{name}/"),
                    _ => name.to_owned(),
                })
                .collect(),
        )
    }

    /// How many files, folders and links.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// As text to keep: [`Tree::parse`] reads it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::from(if self.folded { "folded\n" } else { "exact\n" });
        for (path, node) in &self.nodes {
            // Writing to a String does not fail.
            let _ = match node {
                TreeNode::File { offset, len } => writeln!(text, "f {offset} {len} {path}"),
                TreeNode::Folder => writeln!(text, "d {path}"),
                TreeNode::Link(target) => writeln!(text, "l {} {target} {path}", target.len()),
            };
        }
        text
    }

    /// The reverse of [`Tree::to_text`]; none when the text is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut tree = Self {
            nodes: BTreeMap::new(),
            folded: match lines.next()? {
                "folded" => true,
                "exact" => false,
                _ => return None,
            },
        };
        for line in lines {
            let (kind, rest) = line.split_once(' ')?;
            let (path, node) = match kind {
                "f" => {
                    let (offset, rest) = rest.split_once(' ')?;
                    let (len, path) = rest.split_once(' ')?;
                    let (offset, len) = (offset.parse().ok()?, len.parse().ok()?);
                    (path, TreeNode::File { offset, len })
                }
                "d" => (rest, TreeNode::Folder),
                "l" => {
                    let (len, rest) = rest.split_once(' ')?;
                    let (target, path) = rest.split_at_checked(len.parse().ok()?)?;
                    (path.strip_prefix(' ')?, TreeNode::Link(target.to_owned()))
                }
                _ => return None,
            };
            tree.nodes.insert(path.into(), node);
        }
        Some(tree)
    }

    /// Adds an entry and the folders above it. What has a name that no path can have is left out.
    fn add(&mut self, path: &str, node: TreeNode) -> Result<(), TreeError> {
        let clean: Vec<&str> = parts(path).collect();
        let odd = |text: &str| text.len() > MAX_PATH || text.chars().any(char::is_control);
        if clean.is_empty() || clean.contains(&"..") || odd(path) {
            return Ok(());
        }
        if let TreeNode::Link(target) = &node
            && odd(target)
        {
            return Ok(());
        }
        if self.nodes.len() + clean.len() > MAX_ENTRIES {
            return Err(TreeError::TooMuch(format!("{MAX_ENTRIES} files")));
        }
        let mut path = clean.join("/");
        if self.folded {
            path.make_ascii_lowercase();
        }
        for (at, _) in path.match_indices('/') {
            if !self.nodes.contains_key(&path[..at]) {
                self.nodes.insert(path[..at].into(), TreeNode::Folder);
            }
        }
        self.nodes.insert(path.into(), node);
        Ok(())
    }
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}
