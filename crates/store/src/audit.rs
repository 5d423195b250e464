//! The audit log: who did what, when, from where. Rows are appended and never changed; what they say is names, not
//! values.

/// Who caused an entry: each kind has room of its own, so that many entries of one do not push out those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditClass {
    /// A user.
    User,
    /// The server itself, or a machine's token.
    Program,
    /// Somebody who was not let in.
    Refused,
}

/// What an audit row says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audit {
    /// Whose room it takes.
    pub class: AuditClass,
    /// Who: `user:NAME`, `machine:UUID`, `system`; empty where nobody knows.
    pub principal: String,
    /// Address that the request came from; empty for what the server does on its own account.
    pub source: String,
    /// What: `create`, `update`, `delete`, `action:NAME`, `getSecure`, `login`, `grant`, `revoke` …
    pub action: String,
    /// On what: a type prefix, or `tokens`.
    pub kind: String,
    /// Key of the object.
    pub key: String,
    /// More, such as the names of the members that changed. Never the value of a secret.
    pub detail: String,
}

/// An audit row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Grows from row to row.
    pub seq: u64,
    /// When it was written, nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// How often it happened since the row before it of the same content ([`crate::Store::note`]).
    pub times: u32,
    /// What it says.
    pub entry: Audit,
}

/// Which audit rows to read.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Rows after this one, oldest first. Without it: newest first.
    pub after: Option<u64>,
    /// Rows before this one.
    pub before: Option<u64>,
    /// Written at this time or later, nanoseconds since the Unix epoch.
    pub since_ns: Option<i64>,
    /// Written before this time.
    pub until_ns: Option<i64>,
    /// These members have to be equal.
    pub principal: Option<String>,
    /// Also.
    pub source: Option<String>,
    /// Also; `action` stands for all `action:NAME`.
    pub action: Option<String>,
    /// Also.
    pub kind: Option<String>,
    /// Also.
    pub key: Option<String>,
    /// So many at most.
    pub limit: usize,
}
