//! Package repositories: the param `package-repositories`, which of them a machine uses, and how installers and
//! package managers are told.

use serde_json::{Value, json};
use std::fmt::Write as _;

use crate::arch;

/// The param that lists them.
pub const PARAM: &str = "package-repositories";

/// Operating systems by the package manager that they have; a name counts up to its first `-`.
const YUM: &[&str] = &[
    "redhat",
    "rhel",
    "centos",
    "scientificlinux",
    "fedora",
    "almalinux",
    "rocky",
];
const APT: &[&str] = &["debian", "ubuntu"];

/// Stands for the component in what [`Repo::shown`] has as `UrlFor`.
pub const COMPONENT: &str = "{component}";

/// One repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repo {
    tag: String,
    os: Vec<String>,
    arch: String,
    url: String,
    install_source: bool,
    security_source: bool,
    distribution: String,
    components: Vec<String>,
    whole: Value,
}

impl Repo {
    /// The repositories that a value of the param lists; what is no repository is left out.
    pub fn list(value: &Value) -> Vec<Repo> {
        value.as_array().into_iter().flatten().filter_map(Repo::read).collect()
    }

    fn read(value: &Value) -> Option<Repo> {
        let members = value.as_object()?;
        let member = |name: &str| {
            let found = members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value)
        };
        let text = |name| member(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let texts = |name| {
            let items = member(name).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let flag = |name| member(name).and_then(Value::as_bool).unwrap_or_default();
        Some(Repo {
            tag: text("tag"),
            os: texts("os"),
            arch: text("arch"),
            url: text("url").trim_end_matches('/').to_owned(),
            install_source: flag("installSource"),
            security_source: flag("securitySource"),
            distribution: text("distribution"),
            components: texts("components"),
            whole: value.clone(),
        })
    }

    /// The install tree that this server has itself: of the boot environment `tag`.
    pub fn local(tag: &str, os: &str, arch: &str, url: &str) -> Repo {
        Repo {
            tag: tag.to_owned(),
            os: vec![os.to_owned()],
            arch: arch.to_owned(),
            url: url.trim_end_matches('/').to_owned(),
            install_source: true,
            ..Repo::default()
        }
    }

    /// Whether it bears one of these tags.
    pub fn tagged(&self, tags: &[&str]) -> bool {
        tags.contains(&self.tag.as_str())
    }

    fn fits(&self, os: &str, machine_arch: &str) -> bool {
        let same = arch::canonical(&self.arch).is_some_and(|own| Some(own) == arch::canonical(machine_arch));
        let any = matches!(self.arch.as_str(), "any" | "") && !self.install_source;
        self.os.iter().any(|own| own == os) && (same || any)
    }

    /// As templates see it for an operating system: its members, and what its methods give.
    pub fn shown(&self, os: &str) -> Value {
        json!({
            "Tag": self.tag, "OS": self.os, "Arch": self.arch, "URL": self.url,
            "PackageType": self.whole.get("packageType"), "RepoType": self.whole.get("repoType"),
            "InstallSource": self.install_source, "SecuritySource": self.security_source,
            "Distribution": self.distribution, "Components": self.components,
            "JoinedComponents": self.components.join(" "),
            "Install": self.install(os), "Lines": self.lines(os),
            "Target": os, "UrlFor": self.component_url(os, COMPONENT),
        })
    }

    /// Base URL of one of its components; of apt's, which has them side by side, the repository's own.
    fn component_url(&self, os: &str, component: &str) -> String {
        let (url, release) = (&self.url, &self.distribution);
        if APT.contains(&family(os)) {
            return url.clone();
        }
        // Scientific Linux has the architecture above the component.
        if family(os) == "scientificlinux" {
            format!("{url}/{release}/$basearch/{component}")
        } else {
            format!("{url}/{release}/{component}/$basearch")
        }
    }

    /// Lines for the installer: kickstart, or debian-installer's preseed.
    fn install(&self, os: &str) -> String {
        let (tag, url) = (&self.tag, &self.url);
        if YUM.contains(&family(os)) {
            return match self.install_source {
                true => format!("install\nurl --url {url}\nrepo --name=\"{tag}\" --baseurl={url} --cost=100\n"),
                false => format!("repo --name=\"{tag}\" --baseurl={url} --cost=200\n"),
            };
        }
        if !APT.contains(&family(os)) {
            return String::new();
        }
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        match self.install_source {
            true => format!(
                "d-i mirror/protocol string {scheme}\nd-i mirror/http/hostname string {host}\nd-i mirror/http/directory string {path}\n\n"
            ),
            false => {
                format!("d-i apt-setup/security_host string {host}\nd-i apt-setup/security_path string {path}\n\n")
            }
        }
    }

    /// Lines for the package manager of the installed system.
    fn lines(&self, os: &str) -> String {
        let mut lines = String::new();
        let mut section = |name: &str, title: String, url: &str| {
            let _ = write!(lines, "\n[{name}]\nname={title}\nbaseurl={url}\ngpgcheck=0\n");
        };
        if APT.contains(&family(os)) {
            let (url, components) = (&self.url, self.components.join(" "));
            return format!("deb {url} {} {components}\n", self.distribution);
        }
        if !YUM.contains(&family(os)) {
            return String::new();
        }
        let tag = &self.tag;
        if self.components.is_empty() {
            section(tag, format!("{os} - {tag}"), &self.url);
        }
        for component in &self.components {
            let url = self.component_url(os, component);
            section(&format!("{tag}-{component}"), format!("{tag} - {component}"), &url);
        }
        lines
    }
}

fn family(os: &str) -> &str {
    os.split('-').next().unwrap_or_default()
}

/// The repositories that a machine with this operating system and architecture uses.
pub fn for_machine(all: &[Repo], os: &str, arch: &str) -> Vec<Repo> {
    all.iter().filter(|repo| repo.fits(os, arch)).cloned().collect()
}

/// Whether this operating system has its packages by apt: an installation medium has too few of them to be pointed at.
fn has_apt(os: &str) -> bool {
    APT.contains(&family(os))
}

/// As [`for_machine`], with the install trees that the server has itself: where there is one, nothing else is installed
/// from, but by apt.
pub fn with_local(all: &[Repo], mut local: Vec<Repo>, os: &str, arch: &str) -> Vec<Repo> {
    let mut fitting = for_machine(all, os, arch);
    if has_apt(os) {
        local.clear();
    }
    if !local.is_empty() {
        fitting.retain(|repo| !repo.install_source);
    }
    local.into_iter().chain(fitting).collect()
}

/// Those that it is installed from: the install source, and the first with security updates.
pub fn for_install(all: &[Repo], os: &str, arch: &str) -> Vec<Repo> {
    install_of(None, all, os, arch)
}

/// As [`for_install`], where the server has an install tree itself. With apt it comes second.
pub fn install_of(local: Option<Repo>, all: &[Repo], os: &str, arch: &str) -> Vec<Repo> {
    let fitting = for_machine(all, os, arch);
    let first = |wanted: fn(&Repo) -> bool| fitting.iter().find(|repo| wanted(repo)).cloned();
    let listed = first(|repo| repo.install_source);
    let source = if has_apt(os) {
        listed.or(local)
    } else {
        local.or(listed)
    };
    match source {
        None => Vec::new(),
        Some(source) => std::iter::once(source)
            .chain(first(|repo| repo.security_source))
            .collect(),
    }
}

/// Whether the boot files of this operating system come from a repository's install tree.
pub fn has_install_source(all: &[Repo], os: &str, arch: &str) -> bool {
    !for_install(all, os, arch).is_empty()
}

/// The address of a repository.
pub fn url(repo: &Repo) -> &str {
    &repo.url
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all() -> Vec<Repo> {
        Repo::list(&json!([
            {"tag": "d-install", "os": ["debian-6"], "arch": "amd64", "url": "https://m.example/debian/",
             "distribution": "six", "installSource": true, "components": ["main", "contrib"]},
            {"tag": "d-sec", "os": ["debian-6"], "arch": "any", "url": "https://s.example/sec", "securitySource": true,
             "distribution": "six", "components": ["main"]},
            {"tag": "c-any", "os": ["centos-6"], "arch": "any", "url": "https://c.example/os", "installSource": true},
            {"tag": "c-extras", "os": ["centos-6", "scientificlinux-6"], "arch": "x86_64", "url": "https://c.example",
             "distribution": "6", "components": ["extras"]},
            5
        ]))
    }

    #[test]
    fn an_install_source_is_for_one_architecture() {
        assert!(has_install_source(&all(), "debian-6", "amd64") && !has_install_source(&all(), "debian-6", "arm64"));
        assert!(!has_install_source(&all(), "centos-6", "amd64"));
        assert_eq!(for_machine(&all(), "debian-6", "arm64").len(), 1);
    }

    #[test]
    fn a_local_tree_is_installed_from_first_but_by_apt() {
        let tags = |repos: Vec<Repo>| repos.into_iter().map(|repo| repo.tag).collect::<Vec<_>>();
        let local = |os| Repo::local("here", os, "amd64", "http://h.example/tree");
        let all = Repo::list(&json!([
            {"tag": "d", "os": ["debian-6"], "arch": "amd64", "url": "https://m.example/d", "installSource": true},
            {"tag": "c", "os": ["centos-6"], "arch": "amd64", "url": "https://m.example/c", "installSource": true},
            {"tag": "x", "os": ["centos-6"], "arch": "any", "url": "https://m.example/x"},
        ]));
        let machine = |all: &[Repo], os| tags(with_local(all, vec![local(os)], os, "amd64"));
        let install = |all: &[Repo], os| tags(install_of(Some(local(os)), all, os, "amd64"));
        assert_eq!(machine(&all, "centos-6"), ["here", "x"]);
        assert_eq!(install(&all, "centos-6"), ["here"]);
        assert_eq!(machine(&all, "debian-6"), ["d"]);
        assert_eq!(install(&all, "debian-6"), ["d"]);
        assert_eq!(
            install(&[], "debian-6"),
            ["here"],
            "better than nothing to install from"
        );
    }

    #[test]
    fn installers_and_package_managers_are_told_in_their_own_words() {
        let install: String = for_install(&all(), "debian-6", "amd64")
            .iter()
            .map(|r| r.install("debian-6"))
            .collect();
        let want = "d-i mirror/protocol string https\nd-i mirror/http/hostname string m.example\nd-i mirror/http/directory \
                    string /debian\n\nd-i apt-setup/security_host string s.example\nd-i apt-setup/security_path string /sec\n\n";
        assert_eq!(install, want);
        let debian = &for_machine(&all(), "debian-6", "amd64")[0];
        assert_eq!(
            debian.lines("debian-6"),
            "deb https://m.example/debian six main contrib\n"
        );
        let extras = &for_machine(&all(), "centos-6", "amd64")[0];
        let yum = |url: &str| format!("\n[c-extras-extras]\nname=c-extras - extras\nbaseurl={url}\ngpgcheck=0\n");
        assert_eq!(extras.lines("centos-6"), yum("https://c.example/6/extras/$basearch"));
        assert_eq!(
            extras.lines("scientificlinux-6"),
            yum("https://c.example/6/$basearch/extras")
        );
    }
}
