//! Which names objects may have.

use crate::table::{KeyKind, Noun};

/// Why an object of this type cannot have this name, in DRP's words.
///
/// A name is a letter (for machines also a digit) and at least one more of letters, digits, `-`, `_`, `.`
/// and space; names of params and templates may hold `/` as well.
pub fn refused(noun: &Noun, name: &str) -> Option<String> {
    let label = if noun.key == KeyKind::Id { "ID" } else { "Name" };
    noun.field(label)?;
    let slash = matches!(noun.name, "params" | "templates");
    let mut chars = name.chars();
    let first_fits = chars
        .next()
        .is_some_and(|c| c.is_alphabetic() || (noun.name == "machines" && c.is_numeric()));
    let rest_fits = chars
        .clone()
        .all(|c| c.is_alphanumeric() || "-_. ".contains(c) || (slash && c == '/'));
    let long_enough = chars.next().is_some();
    (!(first_fits && rest_fits && long_enough)).then(|| format!("Invalid {label} `{name}`"))
}

/// Whether a param, declared or not, may have this name.
pub fn is_param_name(name: &str) -> bool {
    crate::noun("params").is_some_and(|params| refused(params, name).is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::noun;

    #[test]
    fn names_follow_the_type() {
        let cases = [
            ("machines", "1name", None),
            ("machines", "mach-01.example.com", None),
            ("machines", "größe 2", None),
            ("bootenvs", "1name", Some("Invalid Name `1name`")),
            ("machines", "{asdgasdg", Some("Invalid Name `{asdgasdg`")),
            ("machines", "x", Some("Invalid Name `x`")),
            ("machines", "", Some("Invalid Name ``")),
            ("params", "ipmi/mode", None),
            ("profiles", "a/b", Some("Invalid Name `a/b`")),
            ("templates", "a\nb", Some("Invalid ID `a\nb`")),
        ];
        for (model, name, want) in cases {
            assert_eq!(refused(noun(model).unwrap(), name).as_deref(), want, "{model} {name}");
        }
        assert!(!is_param_name("x"));
    }
}
