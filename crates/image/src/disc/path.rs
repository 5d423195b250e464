//! Which paths can be on a disc.

use crate::iso9660::MAX_LEVELS;

/// Longest component in bytes: what Linux's `NAME_MAX` allows.
const MAX_NAME: usize = 255;

/// A path that cannot be on the disc.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{path}\" cannot be on the disc: {problem}")]
pub struct PathError {
    /// The path as it was given.
    pub path: String,
    /// What is wrong with it.
    pub problem: PathProblem,
}

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathProblem {
    /// Empty, or `a//b`, or a slash at its start or end.
    #[error("it has an empty component (paths have no slash at the start or end)")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("it has a component \".\" or \"..\"")]
    Dots,
    /// A NUL byte.
    #[error("it has a NUL byte")]
    Nul,
    /// A component is longer than 255 bytes.
    #[error("a component is longer than {MAX_NAME} bytes")]
    LongName,
    /// ECMA-119 §6.8.2.1 allows eight levels.
    #[error("it lies deeper than {} folders", MAX_LEVELS - 1)]
    TooDeep,
    /// Two files have this path.
    #[error("two files have this path")]
    Duplicate,
    /// Some parent of it is a file.
    #[error("one of its parents is a file")]
    ParentIsFile,
    /// There is a folder of this name.
    #[error("there is a folder of this name")]
    IsFolder,
}

pub(super) fn error(path: &str, problem: PathProblem) -> PathError {
    PathError {
        path: path.to_owned(),
        problem,
    }
}

/// Checks a path by itself.
pub(super) fn check(path: &str) -> Result<(), PathError> {
    let mut components = 0;
    for component in path.split('/') {
        components += 1;
        let problem = match component {
            "" => PathProblem::EmptyComponent,
            "." | ".." => PathProblem::Dots,
            name if name.len() > MAX_NAME => PathProblem::LongName,
            name if name.contains('\0') => PathProblem::Nul,
            _ => continue,
        };
        return Err(error(path, problem));
    }
    // The root is the first level, and a file's own name is in the last.
    if components > MAX_LEVELS {
        return Err(error(path, PathProblem::TooDeep));
    }
    Ok(())
}

/// Folder and name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The path of another file in the folder of `path`.
pub(super) fn sibling(path: &str, name: &str) -> String {
    match split(path).0 {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}
