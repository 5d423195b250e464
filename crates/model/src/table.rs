//! The model table: what object types there are, their members, keys, indexes and verbs.

use std::borrow::Cow;

use serde_json::Value;

use crate::Object;
pub use crate::nouns::NOUNS;

/// What the key of an object type is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A lower-case UUID, made by the server when missing.
    Uuid,
    /// The `Name`.
    Name,
    /// The `ID` (templates).
    Id,
    /// The address in upper-case hex (leases, reservations); a dotted one is taken, too.
    Addr,
}

/// Type of a member.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// `true` or `false`.
    Bool,
    /// An integer.
    Int,
    /// Text.
    Str,
    /// An IP address in text form, `""` when unset.
    Ip,
    /// A UUID in text form, `""` when unset.
    Uuid,
    /// Bytes in base64, `null` when unset.
    Bytes,
    /// A moment in RFC 3339 form, the year 1 when unset.
    Time,
    /// Any JSON value, `null` when unset.
    Any,
    /// A list, `[]` when unset.
    List(&'static Type),
    /// A list that shows as `null` when unset.
    NullableList(&'static Type),
    /// A map from text, `{}` when unset.
    Map(&'static Type),
    /// A nested structure; all its members are always there.
    Struct(&'static [Field]),
}

/// What a member holds when the input does not have it.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// The type's empty value.
    Zero,
    /// This text.
    Str(&'static str),
    /// This number.
    Int(i64),
    /// This truth.
    Bool(bool),
}

/// Who may see and write a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody who may see and write the object.
    Open,
    /// The server alone writes it; a client's value is ignored.
    ReadOnly,
    /// Stored but never sent (password hashes). Input may set it.
    Hidden,
}

/// One member of an object or of a structure in it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name, in the only case that is ever sent.
    pub name: &'static str,
    /// Type of its value.
    pub typ: Type,
    /// Value when missing.
    pub default: Default,
    /// Left out of the output when it has its empty value.
    pub omit_if_empty: bool,
    /// Who sees and writes it.
    pub access: Access,
    /// One line for people.
    pub doc: &'static str,
}

impl Field {
    /// An open member with its type's empty value as default.
    pub(crate) const fn new(name: &'static str, typ: Type, doc: &'static str) -> Self {
        Field {
            name,
            typ,
            default: Default::Zero,
            omit_if_empty: false,
            access: Access::Open,
            doc,
        }
    }

    pub(crate) const fn default(self, default: Default) -> Self {
        Field { default, ..self }
    }

    pub(crate) const fn access(self, access: Access) -> Self {
        Field { access, ..self }
    }

    pub(crate) const fn omit_if_empty(self) -> Self {
        Field {
            omit_if_empty: true,
            ..self
        }
    }
}

/// How the values of an index compare, and what text a query may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// Text, by bytes.
    String,
    /// `true` or `false`.
    Bool,
    /// IP addresses, by number.
    Ip,
    /// UUIDs.
    Uuid,
    /// MAC addresses, without regard to case.
    Mac,
    /// Integers.
    Int,
    /// Moments in RFC 3339 form.
    Time,
    /// The same, under the name that leases have for it.
    Expiry,
    /// A network in CIDR form.
    Cidr,
    /// A network or range, asked for by an address in it.
    Holds,
}

impl IndexKind {
    /// Name of the kind in `GET /indexes`.
    pub fn wire_name(self) -> &'static str {
        match self {
            IndexKind::String | IndexKind::Mac => "string",
            IndexKind::Bool => "boolean",
            IndexKind::Ip | IndexKind::Holds => "IP Address",
            IndexKind::Uuid => "UUID string",
            IndexKind::Int => "integer",
            IndexKind::Time => "dateTime",
            IndexKind::Expiry => "Date/Time string",
            IndexKind::Cidr => "CIDR Address",
        }
    }
}

/// An index: usable in filters and sorts, and for lookup (`Name:x`) when unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexDef {
    /// Name in queries.
    pub name: &'static str,
    /// How its values compare.
    pub kind: IndexKind,
    /// No two objects share a value.
    pub unique: bool,
    /// Path of members that leads to the value; a list there means "any of these".
    pub path: &'static [&'static str],
    /// Shown by `GET /indexes`. The rest serve newer clients without surprising older ones.
    pub listed: bool,
}

/// Who makes and changes the objects of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeBy {
    /// Clients, by the usual routes.
    Clients,
    /// Clients ask, and the server decides what is made: creating has a route of its own (jobs).
    Request,
    /// The server alone; clients look and delete (leases).
    Server,
    /// Whatever programs are there; clients look (plugin providers).
    Programs,
}

/// One object type.
#[derive(Clone, Copy, Debug)]
pub struct Noun {
    /// Type prefix: route, command and `Model` of errors.
    pub name: &'static str,
    /// Singular, as in `Deleted machine x`.
    pub singular: &'static str,
    /// What the key is.
    pub key: KeyKind,
    /// Members, in the order they are sent.
    pub fields: &'static [Field],
    /// Indexes besides [`COMMON_INDEXES`].
    pub indexes: &'static [IndexDef],
    /// Has `Params` and the routes below `/params`.
    pub has_params: bool,
    /// Has `Profiles` that give it further params.
    pub has_profiles: bool,
    /// Has the routes below `/actions`.
    pub has_actions: bool,
    /// Who makes and changes them.
    pub made_by: MadeBy,
    /// Members that a table of such objects shows; a dot leads to members of members.
    pub columns: &'static [&'static str],
    /// Verbs of the command line beyond those that every noun of its kind has.
    pub extra_verbs: &'static [&'static str],
    /// What it is, for help and manual.
    pub doc: &'static str,
}

/// Indexes of every object type. `Key` stands for whatever the key is.
pub const COMMON_INDEXES: &[IndexDef] = &[
    IndexDef {
        name: "Key",
        kind: IndexKind::String,
        unique: true,
        path: &[],
        listed: true,
    },
    IndexDef {
        name: "Available",
        kind: IndexKind::Bool,
        unique: false,
        path: &["Available"],
        listed: true,
    },
    IndexDef {
        name: "Valid",
        kind: IndexKind::Bool,
        unique: false,
        path: &["Validated"],
        listed: true,
    },
    IndexDef {
        name: "ReadOnly",
        kind: IndexKind::Bool,
        unique: false,
        path: &["ReadOnly"],
        listed: true,
    },
    IndexDef {
        name: "Bundle",
        kind: IndexKind::String,
        unique: false,
        path: &["Bundle"],
        listed: true,
    },
];

/// The row of an object type, by its prefix.
pub fn noun(name: &str) -> Option<&'static Noun> {
    NOUNS.iter().find(|noun| noun.name == name)
}

impl Noun {
    /// Name of the member that holds the key.
    pub fn key_field(&self) -> &'static str {
        match self.key {
            KeyKind::Uuid => "Uuid",
            KeyKind::Name => "Name",
            KeyKind::Id => "ID",
            KeyKind::Addr => "Addr",
        }
    }

    /// The key of an object of this type, `""` when it has none.
    pub fn key_of<'a>(&self, object: &'a Object) -> Cow<'a, str> {
        let key = object.get(self.key_field()).and_then(Value::as_str).unwrap_or_default();
        match self.key {
            KeyKind::Addr => Cow::Owned(self.canonical_key(key)),
            KeyKind::Uuid | KeyKind::Name | KeyKind::Id => Cow::Borrowed(key),
        }
    }

    /// A member, by its exact name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// All indexes: the common ones and its own.
    pub fn all_indexes(&self) -> impl Iterator<Item = &'static IndexDef> + use<> {
        COMMON_INDEXES.iter().chain(self.indexes)
    }

    /// An index, by its exact name.
    pub fn index(&self, name: &str) -> Option<&'static IndexDef> {
        self.all_indexes().find(|index| index.name == name)
    }

    /// The body of `GET /indexes/NOUN`.
    pub fn indexes_body(&self) -> Object {
        let mut listed: Vec<_> = self.all_indexes().filter(|index| index.listed).collect();
        listed.sort_by_key(|index| index.name);
        let entry = |index: &IndexDef| serde_json::json!({ "Type": index.kind.wire_name(), "Unique": index.unique });
        listed
            .into_iter()
            .map(|index| (index.name.to_owned(), entry(index)))
            .collect()
    }

    /// The values of an object under an index, in text form; more than one where the member is a list.
    pub fn index_values(&self, index: &IndexDef, object: &Object) -> Vec<String> {
        let path = if index.path.is_empty() {
            &[self.key_field()][..]
        } else {
            index.path
        };
        let mut value = object.get(path[0]);
        for step in &path[1..] {
            value = value.and_then(|v| v.get(step));
        }
        match value {
            Some(_) if index.path.is_empty() => vec![self.key_of(object).into_owned()],
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(items)) => items
                .iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect(),
            Some(Value::Null) | None => Vec::new(),
            Some(other) => vec![other.to_string()],
        }
    }

    /// Verbs of the command line for this noun, sorted.
    pub fn verbs(&self) -> Vec<&'static str> {
        let mut verbs = vec!["count", "etag", "exists", "indexes", "list", "show", "wait"];
        if matches!(self.made_by, MadeBy::Clients | MadeBy::Request) {
            verbs.extend(["create", "patch", "update"]);
        }
        verbs.push("destroy");
        if self.field("Meta").is_some() && self.made_by != MadeBy::Programs {
            verbs.push("meta");
        }
        if self.has_params {
            verbs.extend(["add", "get", "params", "remove", "set"]);
        }
        if self.has_profiles {
            verbs.extend(["addprofile", "removeprofile"]);
        }
        if self.has_actions {
            verbs.extend(["action", "actions", "runaction"]);
        }
        verbs.extend(self.extra_verbs);
        verbs.sort_unstable();
        verbs
    }
}
