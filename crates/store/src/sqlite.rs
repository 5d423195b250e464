//! SQLite.

/// One file, one writer thread, group commit, WAL, synchronous=FULL.
#[derive(Debug)]
pub struct SqliteStore {}
