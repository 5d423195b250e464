//! A copy of a database that may be in use.

use std::path::Path;

use rusqlite::backup::{Backup, StepResult};

use super::{Place, private, schema};
use crate::{Rev, StoreError};

/// Pages between two looks at how far it is.
const STEP: i32 = 1024;

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its last commit.
    pub rev: Rev,
    /// Its schema version.
    pub schema: u32,
}

/// The newest schema version that this program can open.
pub const SCHEMA: u32 = schema::VERSION;

/// Copies a database, also while another process writes it: the copy is what was committed when it began, whole, and
/// nobody waits for it. `to` must not be there yet; it gets mode 0600 and is synced. `progress` is told the pages done
/// and all of them.
///
/// # Errors
/// Of either file; [`StoreError::TooNew`].
pub fn snapshot(database: &Path, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Snapshot, StoreError> {
    let (from, copy) = (Place::File(database.to_owned()), Place::File(to.to_owned()));
    let unwritable = |e: std::io::Error| StoreError::Backend(format!("{}: {e}", to.display()));
    let source = from.connect(true)?;
    // One read transaction around all steps: what is committed meanwhile is not seen, and starts nothing anew.
    let read = source.unchecked_transaction().map_err(|e| from.failed(&e))?;
    let schema = read
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|e| from.failed(&e))?;
    if schema > SCHEMA {
        let (found, known) = (schema, SCHEMA);
        return Err(StoreError::TooNew { found, known });
    }
    let rev = schema::last_rev(&read).map_err(|e| from.failed(&e))?;
    let file = private(to).map_err(unwritable)?;
    let mut target = copy.connect(false)?;
    let backup = Backup::new(&read, &mut target).map_err(|e| copy.failed(&e))?;
    loop {
        let step = backup.step(STEP).map_err(|e| copy.failed(&e))?;
        let at = backup.progress();
        let (left, all) = (at.remaining.max(0).unsigned_abs(), at.pagecount.max(0).unsigned_abs());
        progress(u64::from(all - left.min(all)), u64::from(all));
        if step == StepResult::Done {
            break;
        }
    }
    drop(backup);
    drop(target);
    file.sync_all().map_err(unwritable)?;
    Ok(Snapshot {
        rev: Rev(rev.cast_unsigned()),
        schema,
    })
}
