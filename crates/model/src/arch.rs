//! Processor architectures and their many names.

/// Names that machines may have.
pub const CANONICAL: &[&str] = &[
    "amd64", "386", "arm64", "arm", "ppc64le", "ppc64", "mips64le", "mips64", "mipsle", "mips", "riscv64", "s390x",
];

const ALIASES: &[(&str, &str)] = &[
    ("x86_64", "amd64"),
    ("i386", "386"),
    ("i486", "386"),
    ("i586", "386"),
    ("i686", "386"),
    ("aarch64", "arm64"),
    ("armel", "arm"),
    ("armhfp", "arm"),
    ("armv7l", "arm"),
    ("powerpc64le", "ppc64le"),
    ("powerpc64", "ppc64"),
    ("mips64el", "mips64le"),
    ("mipsel", "mipsle"),
];

/// The canonical name for a name or alias.
pub fn canonical(name: &str) -> Option<&'static str> {
    let alias = || {
        ALIASES
            .iter()
            .find(|(alias, _)| *alias == name)
            .map(|(_, canonical)| *canonical)
    };
    CANONICAL
        .iter()
        .find(|canonical| **canonical == name)
        .copied()
        .or_else(alias)
}

/// Why a machine cannot have this architecture.
pub fn refused(name: &str) -> Option<String> {
    match canonical(name) {
        Some(canonical) if canonical == name => None,
        Some(canonical) => Some(format!("Please use {canonical} for Arch instead of {name}")),
        None => Some(format!("Unsupported arch {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_point_to_canonical_names() {
        assert!(ALIASES.iter().all(|(_, canonical)| CANONICAL.contains(canonical)));
        assert_eq!(refused("amd64"), None);
        assert_eq!(
            refused("x86_64").as_deref(),
            Some("Please use amd64 for Arch instead of x86_64")
        );
        assert_eq!(refused("foo").as_deref(), Some("Unsupported arch foo"));
    }
}
