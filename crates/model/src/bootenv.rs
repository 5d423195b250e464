//! What a boot environment boots on an architecture, and where its files are.

use serde_json::Value;

use crate::repos::{self, Repo};
use crate::{Lookup, Object, arch, params, text};

/// The parts of a boot environment that depend on the architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchFiles {
    /// Kernel, as a path within the files of the operating system; never empty.
    pub kernel: String,
    /// Initial RAM disks, in order.
    pub initrds: Vec<String>,
    /// Template of the kernel arguments.
    pub boot_params: String,
}

/// Whether the boot environment boots a kernel at all. `local` and its like do not.
pub fn boots_kernel(bootenv: &Object) -> bool {
    !text(bootenv, "Kernel").is_empty() || architectures(bootenv).next().is_some()
}

/// Kernel, RAM disks and arguments for an architecture; none when it boots no kernel there.
///
/// An entry in `OS.SupportedArchitectures` counts before the flat members, which mean amd64.
pub fn for_arch(bootenv: &Object, arch: &str) -> Option<ArchFiles> {
    let wanted = arch::canonical(arch)?;
    let own = architectures(bootenv)
        .find(|(name, _)| arch::canonical(name) == Some(wanted))
        .map(|(_, files)| files);
    let files = own.or((wanted == "amd64").then_some(bootenv))?;
    let kernel = text(files, "Kernel").to_owned();
    let initrds = files.get("Initrds").and_then(Value::as_array).into_iter().flatten();
    let initrds = initrds.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let boot_params = text(files, "BootParams").to_owned();
    (!kernel.is_empty()).then_some(ArchFiles {
        kernel,
        initrds,
        boot_params,
    })
}

fn architectures(bootenv: &Object) -> impl Iterator<Item = (&String, &Object)> {
    let by_arch = bootenv
        .get("OS")
        .and_then(|os| os.get("SupportedArchitectures"))
        .and_then(Value::as_object);
    by_arch
        .into_iter()
        .flatten()
        .filter_map(|(name, files)| Some((name, files.as_object()?)))
}

/// Name of the operating system, which is also the folder of its files and the name of its base image.
pub fn os_name(bootenv: &Object) -> &str {
    bootenv
        .get("OS")
        .and_then(|os| os.get("Name"))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The ISO that a boot environment's files come from: its name, and its SHA-256 in hex (empty: any).
pub fn iso_for<'a>(bootenv: &'a Object, arch: &str) -> Option<(&'a str, &'a str)> {
    let wanted = arch::canonical(arch)?;
    let own = architectures(bootenv).find(|(name, _)| arch::canonical(name) == Some(wanted));
    let (iso, sum) = match own {
        Some((_, files)) => (text(files, "IsoFile"), text(files, "Sha256")),
        None if wanted == "amd64" => {
            let os = bootenv.get("OS").and_then(Value::as_object)?;
            (text(os, "IsoFile"), text(os, "IsoSha256"))
        }
        None => return None,
    };
    (!iso.is_empty()).then_some((iso, sum))
}

/// Every architecture for which a boot environment names an ISO.
pub fn iso_arches(bootenv: &Object) -> Vec<&'static str> {
    let named = architectures(bootenv).filter_map(|(name, _)| arch::canonical(name));
    let mut arches: Vec<_> = named
        .chain(["amd64"])
        .filter(|arch| iso_for(bootenv, arch).is_some())
        .collect();
    arches.sort_unstable();
    arches.dedup();
    arches
}

/// Path of a boot file in the name space of the static server.
pub fn path_for(bootenv: &Object, arch: &str, file: &str) -> String {
    let mut path = format!("/{}", os_name(bootenv));
    match arch::canonical(arch) {
        Some("amd64") | None => {}
        Some(arch) => path = format!("{path}/{arch}"),
    }
    if text(bootenv, "Name").ends_with("-install") {
        path.push_str("/install");
    }
    format!("{path}/{}", file.trim_start_matches('/'))
}

/// The package repositories of the whole server: those of the profile `global`, else the param's default.
fn repositories(lookup: &dyn Lookup) -> Vec<Repo> {
    let global = lookup.get("profiles", "global");
    let value = global
        .as_ref()
        .and_then(|global| global.get("Params")?.get(repos::PARAM));
    match value {
        Some(value) => Repo::list(value),
        None => params::default(repos::PARAM, lookup)
            .map(|value| Repo::list(&value))
            .unwrap_or_default(),
    }
}

/// A text for each boot file that is not there for an architecture, and what to do about it.
pub fn missing_files(bootenv: &Object, arch: &str, lookup: &dyn Lookup) -> Vec<String> {
    let Some(files) = for_arch(bootenv, arch) else {
        return Vec::new();
    };
    if repos::has_install_source(&repositories(lookup), os_name(bootenv), arch) {
        return Vec::new();
    }
    let name = text(bootenv, "Name");
    let kernel = std::iter::once(("kernel", &files.kernel));
    let initrds = files.initrds.iter().map(|initrd| ("initrd", initrd));
    let mut missing: Vec<_> = kernel
        .chain(initrds)
        .filter(|(_, file)| !lookup.boot_file_present(bootenv, arch, file))
        // Two blanks: DRP has an empty part there, and its users grep for the text.
        .map(|(what, file)| {
            format!(
                "bootenv: {name}: missing {what}  ({}) for arch {arch}",
                path_for(bootenv, arch, file)
            )
        })
        .collect();
    if !missing.is_empty() {
        missing.extend(
            lookup
                .boot_file_hint(bootenv)
                .map(|hint| format!("bootenv: {name}: {hint}")),
        );
    }
    missing
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::lookup::tests::World;
    use crate::noun;

    fn bootenv(value: Value) -> Object {
        noun("bootenvs").unwrap().canonical(&value).unwrap()
    }

    #[test]
    fn paths_follow_arch_and_kind() {
        let sledgehammer = bootenv(json!({"Name": "sledgehammer", "OS": {"Name": "sledgehammer"}}));
        let install = bootenv(json!({"Name": "debian-12-install", "OS": {"Name": "debian-12"}}));
        assert_eq!(path_for(&sledgehammer, "amd64", "vmlinuz0"), "/sledgehammer/vmlinuz0");
        assert_eq!(
            path_for(&sledgehammer, "aarch64", "/vmlinuz0"),
            "/sledgehammer/arm64/vmlinuz0"
        );
        assert_eq!(path_for(&install, "amd64", "linux"), "/debian-12/install/linux");
    }

    #[test]
    fn architectures_override_the_flat_members() {
        let flat = bootenv(json!({"Name": "be", "Kernel": "k", "Initrds": ["i"], "BootParams": "p"}));
        let want = ArchFiles {
            kernel: "k".into(),
            initrds: vec!["i".into()],
            boot_params: "p".into(),
        };
        assert_eq!(for_arch(&flat, "amd64"), Some(want));
        assert_eq!(for_arch(&flat, "arm64"), None);
        let many = bootenv(json!({"Name": "be", "Kernel": "k",
            "OS": {"SupportedArchitectures": {"x86_64": {"Kernel": "k64"}, "aarch64": {"Kernel": "karm"}}}}));
        assert_eq!(for_arch(&many, "amd64").unwrap().kernel, "k64");
        assert_eq!(for_arch(&many, "arm64").unwrap().kernel, "karm");
        assert!(boots_kernel(&many) && boots_kernel(&flat) && !boots_kernel(&bootenv(json!({"Name": "local"}))));
    }

    #[test]
    fn each_architecture_may_have_an_iso_of_its_own() {
        let be = bootenv(json!({"Name": "be", "OS": {"IsoFile": "flat.iso", "IsoSha256": "f",
            "SupportedArchitectures": {"aarch64": {"IsoFile": "arm.iso", "Sha256": "a"}, "ppc64le": {"Kernel": "k"}}}}));
        assert_eq!(iso_for(&be, "amd64"), Some(("flat.iso", "f")));
        assert_eq!(iso_for(&be, "arm64"), Some(("arm.iso", "a")));
        assert_eq!((iso_for(&be, "ppc64le"), iso_for(&be, "s390x")), (None, None));
        assert_eq!(iso_arches(&be), ["amd64", "arm64"]);
    }

    #[test]
    fn each_missing_file_is_named() {
        let be = bootenv(
            json!({"Name": "sledgehammer", "OS": {"Name": "sledgehammer"}, "Kernel": "vmlinuz0", "Initrds": ["stage1.img"]}),
        );
        let world = World::default().without_file("vmlinuz0");
        let want = ["bootenv: sledgehammer: missing kernel  (/sledgehammer/vmlinuz0) for arch amd64"];
        assert_eq!(missing_files(&be, "amd64", &world), want);
        assert_eq!(missing_files(&be, "amd64", &world.without_file("stage1.img")).len(), 2);
    }
}
