//! Documents that are held in memory: each as text, and the entries of its indexes. So a read waits for no disk, and a
//! commit writes no index: on disk they are rows with a number.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::schema::last_rev;
use crate::{Doc, IndexEntry, Rev};

/// Documents by kind. Kinds that are on disk only ([`super::StoreOptions::cold`]) are not in it.
#[derive(Debug, Default)]
pub(super) struct Held {
    kinds: HashMap<String, Kind>,
    /// Of the last commit, also one without documents.
    rev: u64,
    /// The largest number of a row.
    last_id: i64,
}

#[derive(Debug, Default)]
struct Kind {
    docs: BTreeMap<Arc<str>, Version>,
    /// Who has a value of an index.
    indexes: HashMap<Arc<str>, HashMap<Arc<str>, Holders>>,
    /// Last commit that wrote or removed one of them.
    changed: u64,
}

/// One version of a document.
#[derive(Debug)]
struct Version {
    id: i64,
    rev: u64,
    body: Bytes,
    entries: Box<[Entry]>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    index: Arc<str>,
    value: Arc<str>,
    unique: bool,
}

#[derive(Debug)]
enum Holders {
    One(Arc<str>),
    Many(BTreeSet<Arc<str>>),
}

/// A document as a commit leaves it; none: removed.
pub(super) type Change = Option<Written>;

/// What a commit wrote of a document.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// Number of its row.
    pub(super) id: i64,
    pub(super) rev: u64,
    pub(super) body: Bytes,
    pub(super) entries: Vec<IndexEntry>,
}

impl Holders {
    fn keys(&self) -> Box<dyn Iterator<Item = &Arc<str>> + '_> {
        match self {
            Holders::One(key) => Box::new(std::iter::once(key)),
            Holders::Many(keys) => Box::new(keys.iter()),
        }
    }

    fn add(&mut self, key: &Arc<str>) {
        match self {
            Holders::One(one) if one == key => {}
            Holders::One(one) => *self = Holders::Many([Arc::clone(one), Arc::clone(key)].into()),
            Holders::Many(keys) => {
                keys.insert(Arc::clone(key));
            }
        }
    }

    /// Whether nobody is left.
    fn remove(&mut self, key: &str) -> bool {
        match self {
            Holders::One(one) => **one == *key,
            Holders::Many(keys) => {
                keys.remove(key);
                keys.is_empty()
            }
        }
    }
}

impl Kind {
    fn remove(&mut self, key: &str) {
        let Some((_, old)) = self.docs.remove_entry(key) else {
            return;
        };
        self.leave(key, &old.entries);
    }

    /// Takes a document out of its indexes.
    fn leave(&mut self, key: &str, entries: &[Entry]) {
        for entry in entries {
            if let Some(values) = self.indexes.get_mut(&entry.index)
                && values.get_mut(&entry.value).is_some_and(|holders| holders.remove(key))
            {
                values.remove(&entry.value);
            }
        }
    }

    fn put(&mut self, key: &str, (id, rev, body): (i64, u64, Bytes), entries: &[(&str, &str, bool)]) {
        let old = self.docs.remove_entry(key);
        let same = |old: &Version| {
            let old = old.entries.iter().map(|e| (&*e.index, &*e.value, e.unique));
            old.eq(entries.iter().copied())
        };
        let (key, entries) = match old {
            // Most changes leave the indexes as they are.
            Some((key, old)) if same(&old) => (key, old.entries),
            old => {
                let key = match old {
                    Some((key, old)) => {
                        self.leave(&key, &old.entries);
                        key
                    }
                    None => key.into(),
                };
                let entries = entries
                    .iter()
                    .map(|&(index, value, unique)| self.enter(&key, index, value, unique));
                let entries = entries.collect();
                (key, entries)
            }
        };
        self.docs.insert(key, Version { id, rev, body, entries });
    }

    fn enter(&mut self, key: &Arc<str>, index: &str, value: &str, unique: bool) -> Entry {
        let index = match self.indexes.get_key_value(index) {
            Some((name, _)) => Arc::clone(name),
            None => index.into(),
        };
        let values = self.indexes.entry(Arc::clone(&index)).or_default();
        let value = match values.get_key_value(value) {
            Some((value, _)) => Arc::clone(value),
            None => value.into(),
        };
        values
            .entry(Arc::clone(&value))
            .and_modify(|holders| holders.add(key))
            .or_insert_with(|| Holders::One(Arc::clone(key)));
        Entry { index, value, unique }
    }

    fn doc(kind: &str, key: &str, version: &Version) -> Doc {
        Doc {
            kind: kind.to_owned(),
            key: key.to_owned(),
            rev: Rev(version.rev),
            body: version.body.clone(),
        }
    }
}

impl Held {
    /// Reads all of them.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut held = Self {
            rev: last_rev(conn)?.cast_unsigned(),
            ..Self::default()
        };
        let mut rows = conn.prepare("SELECT id, kind, key, rev, body, entries FROM held ORDER BY id")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (id, kind, key): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (rev, body) = (row.get::<_, i64>(3)?.cast_unsigned(), row.get::<_, Vec<u8>>(4)?);
            let entries = decoded(row.get_ref(5)?.as_str()?)?;
            let entries: Vec<_> = entries.iter().map(|(i, v, u)| (i.as_str(), v.as_str(), *u)).collect();
            let kind = held.kinds.entry(kind).or_default();
            kind.put(&key, (id, rev, body.into()), &entries);
            kind.changed = kind.changed.max(rev);
            held.last_id = id;
        }
        Ok(held)
    }

    /// What commits up to `rev` did.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = ((String, String), Change)>, rev: u64) {
        self.rev = rev;
        for ((kind, key), change) in changes {
            let kind = self.kinds.entry(kind).or_default();
            kind.changed = rev;
            match change {
                Some(Written { id, rev, body, entries }) => {
                    let entries: Vec<_> = entries.iter().map(|e| (e.name, e.value.as_str(), e.unique)).collect();
                    kind.put(&key, (id, rev, body), &entries);
                    self.last_id = self.last_id.max(id);
                }
                None => kind.remove(&key),
            }
        }
    }

    pub(super) fn rev(&self) -> Rev {
        Rev(self.rev)
    }

    /// The last commit that touched documents of a kind.
    pub(super) fn changed(&self, kind: &str) -> Rev {
        Rev(self.kinds.get(kind).map_or(0, |kind| kind.changed))
    }

    pub(super) fn get(&self, kind: &str, key: &str) -> Option<Doc> {
        let version = self.kinds.get(kind)?.docs.get(key)?;
        Some(Kind::doc(kind, key, version))
    }

    /// Number of its row, and revision, of a document.
    fn row(&self, kind: &str, key: &str) -> Option<(i64, u64)> {
        let version = self.kinds.get(kind)?.docs.get(key)?;
        Some((version.id, version.rev))
    }

    pub(super) fn last_id(&self) -> i64 {
        self.last_id
    }

    /// Keys of the documents that have a value.
    pub(super) fn holders<'a>(
        &'a self,
        kind: &str,
        index: &str,
        value: &str,
    ) -> Box<dyn Iterator<Item = &'a Arc<str>> + 'a> {
        let holders = self
            .kinds
            .get(kind)
            .and_then(|kind| kind.indexes.get(index)?.get(value));
        match holders {
            Some(holders) => holders.keys(),
            None => Box::new(std::iter::empty()),
        }
    }

    /// Key of the document to which a unique value belongs.
    pub(super) fn owner(&self, kind: &str, index: &str, value: &str) -> Option<&Arc<str>> {
        let docs = &self.kinds.get(kind)?.docs;
        self.holders(kind, index, value).find(|key| {
            let entries = docs.get(&***key).map(|version| &version.entries);
            let owns = |entry: &Entry| entry.unique && *entry.index == *index && *entry.value == *value;
            entries.is_some_and(|entries| entries.iter().any(owns))
        })
    }

    pub(super) fn find(&self, kind: &str, index: &str, value: &str) -> Vec<Doc> {
        let keys = self.holders(kind, index, value);
        keys.filter_map(|key| self.get(kind, key)).collect()
    }

    pub(super) fn list(&self, kind: &str) -> Vec<Doc> {
        let docs = self.kinds.get(kind).into_iter().flat_map(|kind| &kind.docs);
        docs.map(|(key, version)| Kind::doc(kind, key, version)).collect()
    }

    pub(super) fn count(&self, kind: &str) -> u64 {
        self.kinds.get(kind).map_or(0, |kind| kind.docs.len() as u64)
    }

    /// The first `len` bytes of each document, each different one once.
    pub(super) fn heads(&self, kind: &str, len: usize) -> Vec<Bytes> {
        let docs = self.kinds.get(kind).into_iter().flat_map(|kind| kind.docs.values());
        let heads: BTreeSet<Bytes> = docs
            .map(|version| version.body.slice(..version.body.len().min(len)))
            .collect();
        heads.into_iter().collect()
    }
}

/// Moves documents to the table that they belong to: those of older databases, and of kinds that were cold or become so.
pub(super) fn adopt(conn: &mut Connection, cold: &HashSet<String>) -> rusqlite::Result<()> {
    let kinds = |conn: &Connection, table: &str| -> rusqlite::Result<Vec<String>> {
        conn.prepare(&format!("SELECT DISTINCT kind FROM {table}"))?
            .query_map([], |row| row.get(0))?
            .collect()
    };
    let tx = conn.transaction()?;
    for kind in kinds(&tx, "documents")?.iter().filter(|kind| !cold.contains(*kind)) {
        tx.execute(
            "INSERT INTO held (kind, key, rev, body, entries)
             SELECT kind, key, rev, body, ifnull((SELECT json_group_array(json_array(i.name, i.value,
                json(CASE WHEN i.uniq THEN 'true' ELSE 'false' END)))
                FROM indexes i WHERE i.kind = d.kind AND i.key = d.key), '') FROM documents d WHERE kind = ?1",
            [kind],
        )?;
        for table in ["documents", "indexes"] {
            tx.execute(&format!("DELETE FROM {table} WHERE kind = ?1"), [kind])?;
        }
    }
    for kind in kinds(&tx, "held")?.iter().filter(|kind| cold.contains(*kind)) {
        let mut rows = tx.prepare("SELECT key, rev, body, entries FROM held WHERE kind = ?1")?;
        let mut rows = rows.query([kind])?;
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            tx.prepare_cached("INSERT INTO documents (kind, key, rev, body) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![kind, key, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?])?;
            for (name, value, unique) in decoded(row.get_ref(3)?.as_str()?)? {
                tx.prepare_cached("INSERT INTO indexes (kind, key, name, value, uniq) VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute(params![kind, key, name, value, unique])?;
            }
        }
        tx.execute("DELETE FROM held WHERE kind = ?1", [kind])?;
    }
    tx.commit()
}

/// Index entries as their column has them: JSON, `[[index, value, unique] …]`; nothing for none.
pub(super) fn encoded<'a>(entries: impl Iterator<Item = (&'a str, &'a str, bool)>) -> String {
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() {
        return String::new();
    }
    // Texts and truths: this cannot fail.
    serde_json::to_string(&entries).unwrap_or_default()
}

fn decoded(text: &str) -> rusqlite::Result<Vec<(String, String, bool)>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(e)))
}

/// What a group of commits has done so far that is not on disk yet.
#[derive(Debug, Default)]
pub(super) struct Staged {
    changes: HashMap<(String, String), Change>,
    /// Unique values that were given away: kind, index, value, and to whom. Who has lost it again is still there.
    owners: HashMap<(String, &'static str, String), String>,
}

impl Staged {
    pub(super) fn change(&mut self, kind: &str, key: &str, change: Change) {
        for entry in change.iter().flat_map(|written| &written.entries).filter(|e| e.unique) {
            let value = (kind.to_owned(), entry.name, entry.value.clone());
            self.owners.insert(value, key.to_owned());
        }
        self.changes.insert((kind.to_owned(), key.to_owned()), change);
    }

    pub(super) fn take(&mut self, later: Staged) {
        self.changes.extend(later.changes);
        self.owners.extend(later.owners);
    }

    pub(super) fn into_changes(self) -> HashMap<(String, String), Change> {
        self.changes
    }
}

/// The documents as a commit of a group finds them: those held, with what the group did, with what it did itself.
pub(super) struct Seen<'a> {
    pub(super) held: &'a Held,
    pub(super) layers: [&'a Staged; 2],
}

impl Seen<'_> {
    fn change(&self, kind: &str, key: &str) -> Option<&Change> {
        let id = (kind.to_owned(), key.to_owned());
        self.layers.iter().rev().find_map(|staged| staged.changes.get(&id))
    }

    /// Number of its row, and revision, of a document.
    pub(super) fn row(&self, kind: &str, key: &str) -> Option<(i64, u64)> {
        match self.change(kind, key) {
            Some(change) => change.as_ref().map(|written| (written.id, written.rev)),
            None => self.held.row(kind, key),
        }
    }

    /// Key of the document to which a unique value belongs.
    pub(super) fn owner(&self, kind: &str, index: &'static str, value: &str) -> Option<String> {
        let id = (kind.to_owned(), index, value.to_owned());
        let staged = self.layers.iter().rev().filter_map(|staged| staged.owners.get(&id));
        let owns = |key: &str| match self.change(kind, key) {
            Some(Some(written)) => {
                let mut entries = written.entries.iter();
                entries.any(|e| e.unique && e.name == index && e.value == value)
            }
            Some(None) => false,
            None => true,
        };
        let held = self.held.owner(kind, index, value).map(|key| &**key);
        staged
            .map(String::as_str)
            .chain(held)
            .find(|key| owns(key))
            .map(str::to_owned)
    }
}
