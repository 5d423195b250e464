//! Keys as callers write them: bare, or `Index:value`.

use std::net::IpAddr;

use crate::table::{IndexDef, KeyKind, Noun};

/// What a key in a path or argument stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRef {
    /// The key itself.
    Key(String),
    /// The one object with this value under a unique index.
    Index {
        /// Name of the index, never `Key`.
        index: &'static str,
        /// Value looked for.
        value: String,
    },
}

impl Noun {
    /// Reads a key: `Name:mach-01`, `Key:x`, or the bare key. Only the first `:` counts, and a prefix that
    /// is no unique index of this type is part of a bare key.
    pub fn parse_key(&self, text: &str) -> KeyRef {
        let found = text
            .split_once(':')
            .and_then(|(name, value)| Some((self.index(name).filter(|i| i.unique || self.is_key(i))?, value)));
        match found {
            Some((index, value)) if self.is_key(index) => KeyRef::Key(self.canonical_key(value)),
            Some((index, value)) => KeyRef::Index {
                index: index.name,
                value: value.to_owned(),
            },
            None => KeyRef::Key(self.canonical_key(text)),
        }
    }

    fn is_key(&self, index: &IndexDef) -> bool {
        index.path.is_empty() || index.path == [self.key_field()]
    }

    /// The one spelling of a key: UUIDs in lower case, everything else as it is.
    pub fn canonical_key(&self, key: &str) -> String {
        match self.key {
            KeyKind::Uuid => uuid::Uuid::try_parse(key).map_or_else(|_| key.to_owned(), |u| u.hyphenated().to_string()),
            KeyKind::Addr => key.parse::<IpAddr>().map_or_else(|_| key.to_ascii_uppercase(), hex_of),
            KeyKind::Name | KeyKind::Id => key.to_owned(),
        }
    }
}

/// An address as DRP writes it into keys: its bytes in upper-case hex.
pub fn hex_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{:08X}", u32::from(v4)),
        IpAddr::V6(v6) => format!("{:032X}", u128::from(v6)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::noun;

    #[test]
    fn only_unique_indexes_are_prefixes_and_only_the_first_colon_counts() {
        const UUID: &str = "3e7031fe-3062-45f1-835c-92541bc9cbd3";
        let key = |k: &str| KeyRef::Key(k.to_owned());
        let by_name = |v: &str| KeyRef::Index {
            index: "Name",
            value: v.to_owned(),
        };
        let cases = [
            ("machines", "Name:mach-01", by_name("mach-01")),
            ("machines", "Name:a:b", by_name("a:b")),
            ("machines", "Key:john", key("john")),
            ("machines", UUID, key(UUID)),
            ("machines", "Uuid:3E7031FE-3062-45F1-835C-92541BC9CBD3", key(UUID)),
            ("machines", "Stage:none", key("Stage:none")),
            ("machines", "john", key("john")),
            ("bootenvs", "Name:local", key("local")),
            ("params", "ipmi/mode", key("ipmi/mode")),
            ("templates", "ID:x.tmpl", key("x.tmpl")),
            ("leases", "192.168.100.100", key("C0A86464")),
            ("leases", "Addr:192.168.100.100", key("C0A86464")),
            ("reservations", "c0a86464", key("C0A86464")),
            ("machines", ":", key(":")),
            ("machines", "", key("")),
        ];
        for (model, text, want) in cases {
            assert_eq!(noun(model).unwrap().parse_key(text), want, "{model} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_some_key(text in ".*") {
            for noun in crate::table::NOUNS {
                noun.parse_key(&text);
            }
        }
    }
}
