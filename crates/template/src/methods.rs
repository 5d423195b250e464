//! DRP's methods: what `.Param`, `.Machine.Url`, `.Env.PathFor` and their kin answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::engine::{EngineValue, Run, from_json, map_of, method, object_names, value_method};
use crate::sprig::as_go_writes;
use crate::{Members, Repos, Scope, TokenKind};

/// Names that are called, wherever they end a path. Everything else is looked up.
const METHODS: &[&str] = &[
    "ApiURL",
    "BootParams",
    "BootParamsFor",
    "CallTemplate",
    "ComposeParam",
    "GenerateInfiniteToken",
    "GenerateProfileToken",
    "GenerateToken",
    "InitrdsFor",
    "InstallRepos",
    "InstallUrl",
    "JoinInitrds",
    "JoinInitrdsFor",
    "KernelFor",
    "MacAddr",
    "MachineRepos",
    "NetmaskToCIDR",
    "ObjectExpand",
    "Param",
    "ParamAsJSON",
    "ParamAsYAML",
    "ParamCompose",
    "ParamComposeExpand",
    "ParamExists",
    "ParamExpand",
    "ParseUrl",
    "PathFor",
    "PathForArch",
    "ProvisionerAddress",
    "ProvisionerURL",
    "R",
    "Repos",
    "StringExpand",
    "Url",
    "UrlFor",
    "VersionEq",
];

pub(crate) fn is_method(name: &str) -> bool {
    METHODS.binary_search(&name).is_ok()
}

/// The objects below the render object, fetched once for a rendering.
pub(crate) struct Objects {
    machine: Option<Members>,
    env: Option<Members>,
    stage: Option<Members>,
    task: Option<Members>,
}

type Map = BTreeMap<Arc<str>, EngineValue>;

impl Objects {
    pub(crate) fn fetch(scope: &dyn Scope) -> Objects {
        Objects {
            machine: scope.machine(),
            env: scope.env(),
            stage: scope.stage(),
            task: scope.task(),
        }
    }

    /// Names of the objects that are not there.
    pub(crate) fn absent(&self) -> Vec<&'static str> {
        let there = [
            self.machine.is_some(),
            self.env.is_some(),
            self.stage.is_some(),
            self.task.is_some(),
        ];
        object_names()
            .iter()
            .zip(there)
            .filter(|(_, there)| !there)
            .map(|(name, _)| *name)
            .collect()
    }

    /// The render object.
    pub(crate) fn dot(&self, run: &Arc<Run>) -> EngineValue {
        let mut dot = Map::new();
        let object = |map: Option<Map>| map.map_or(EngineValue::Nil, |map| EngineValue::Map(Arc::new(map)));
        dot.insert(
            "Machine".into(),
            object(self.machine.as_ref().map(|machine| machine_map(run, machine))),
        );
        dot.insert("Env".into(), object(self.env.as_ref().map(|env| env_map(run, env))));
        dot.insert("Stage".into(), object(self.stage.as_ref().map(map_of)));
        dot.insert("Task".into(), object(self.task.as_ref().map(map_of)));
        dot.extend(param_methods(run));
        dot.extend([
            method(run, "ProvisionerAddress", |run, _| {
                run.scope.provisioner_address().map(Json::from)
            }),
            method(run, "ProvisionerURL", |run, _| {
                run.scope.provisioner_url().map(Json::from)
            }),
            method(run, "ApiURL", |run, _| run.scope.api_url().map(Json::from)),
            method(run, "BootParams", |run, _| boot_params(run, None)),
            method(run, "StringExpand", |run, a| {
                run.nested("StringExpand", text(a, 0, "a text")?, None).map(Json::from)
            }),
            method(run, "ObjectExpand", |run, a| {
                expand(run, a.first().ok_or("give it a value")?)
            }),
            method(run, "CallTemplate", |run, a| {
                let id = text(a, 0, "the ID of a template")?;
                let template = run
                    .scope
                    .template(id)
                    .ok_or_else(|| format!("there is no template {id}"))?;
                // The render object cannot travel as a value; passing it on means "the same".
                let data = a.get(1).filter(|data| !is_render_object(data)).cloned();
                run.nested(id, &template, data).map(Json::from)
            }),
            method(run, "ParseUrl", |_, a| {
                parse_url(text(a, 0, "a part of a URL")?, text(a, 1, "a URL")?)
            }),
            method(run, "NetmaskToCIDR", |_, a| {
                netmask_to_cidr(a.first().unwrap_or(&Json::Null))
            }),
            value_method(run, "Repos", |run, a| {
                let tags: Vec<_> = a.iter().filter_map(Json::as_str).collect();
                repos(run, Repos::Tagged(&tags))
            }),
            value_method(run, "MachineRepos", |run, _| repos(run, Repos::Machine)),
            value_method(run, "InstallRepos", |run, _| repos(run, Repos::Install)),
            method(run, "GenerateToken", |run, _| {
                run.scope.token(TokenKind::Short).map(Json::from)
            }),
            method(run, "GenerateInfiniteToken", |run, _| {
                run.scope.token(TokenKind::Long).map(Json::from)
            }),
            method(run, "GenerateProfileToken", |run, a| {
                let seconds = a.get(1).and_then(Json::as_u64).unwrap_or(0);
                run.scope
                    .token(TokenKind::Profile {
                        profile: text(a, 0, "a profile")?,
                        seconds,
                    })
                    .map(Json::from)
            }),
        ]);
        EngineValue::Map(Arc::new(dot))
    }
}

/// Stands for the component in the `UrlFor` of a repository.
const COMPONENT: &str = "{component}";

/// Repositories with what can be asked of them: where a component is, and the render object.
fn repos(run: &Arc<Run>, which: Repos<'_>) -> Result<EngineValue, String> {
    let found = run.scope.repos(which)?;
    let repo = |repo: &Json| {
        let members = repo.as_object().cloned().unwrap_or_default();
        let mut map = map_of(&members);
        let place = member(&members, "UrlFor").to_owned();
        map.extend([
            method(run, "UrlFor", move |_, a| {
                Ok(place.replace(COMPONENT, text(a, 0, "a component")?).into())
            }),
            value_method(run, "R", |run, _| Ok(Objects::fetch(run.scope.as_ref()).dot(run))),
        ]);
        EngineValue::Map(Arc::new(map))
    };
    Ok(EngineValue::List(found.iter().map(repo).collect()))
}

fn is_render_object(value: &Json) -> bool {
    value.get("Machine").is_some() && value.get("Env").is_some() && value.get("ParamExists").is_some()
}

fn text<'a>(arguments: &'a [Json], at: usize, what: &str) -> Result<&'a str, String> {
    arguments
        .get(at)
        .and_then(Json::as_str)
        .ok_or_else(|| format!("argument {} must be {what}", at + 1))
}

fn member<'a>(object: &'a Members, name: &str) -> &'a str {
    object.get(name).and_then(Json::as_str).unwrap_or_default()
}

fn param_methods(run: &Arc<Run>) -> [(Arc<str>, EngineValue); 8] {
    [
        method(run, "Param", |run, a| param(run, a, false)),
        method(run, "ParamExists", |run, a| {
            Ok(run.scope.param(text(a, 0, "the name of a param")?)?.is_some().into())
        }),
        method(run, "ParamExpand", |run, a| expand(run, &param(run, a, false)?)),
        method(run, "ParamAsJSON", |run, a| {
            Ok(as_go_writes(&expand(run, &param(run, a, false)?)?).to_string().into())
        }),
        method(run, "ParamAsYAML", |run, a| {
            let value = as_go_writes(&expand(run, &param(run, a, false)?)?);
            serde_yaml_ng::to_string(&value)
                .map(Json::from)
                .map_err(|err| err.to_string())
        }),
        method(run, "ComposeParam", |run, a| param(run, a, true)),
        method(run, "ParamCompose", |run, a| param(run, a, true)),
        method(run, "ParamComposeExpand", |run, a| expand(run, &param(run, a, true)?)),
    ]
}

fn param(run: &Run, arguments: &[Json], compose: bool) -> Result<Json, String> {
    let name = text(arguments, 0, "the name of a param")?;
    let found = if compose {
        run.scope.compose_param(name)?
    } else {
        run.scope.param(name)?
    };
    found.ok_or_else(|| format!("No such machine parameter {name}"))
}

/// A value with all texts in it rendered.
fn expand(run: &Arc<Run>, value: &Json) -> Result<Json, String> {
    let expanded = match value {
        Json::String(text) => run.nested("expanded text", text, None)?.into(),
        Json::Array(items) => items
            .iter()
            .map(|item| expand(run, item))
            .collect::<Result<Vec<_>, _>>()?
            .into(),
        Json::Object(members) => {
            let expanded = members
                .iter()
                .map(|(name, value)| Ok((name.clone(), expand(run, value)?)));
            expanded.collect::<Result<Members, String>>()?.into()
        }
        other => other.clone(),
    };
    run.bounded(&expanded)?;
    Ok(expanded)
}

fn machine_map(run: &Arc<Run>, machine: &Members) -> Map {
    let mut map = map_of(machine);
    let uuid = member(machine, "Uuid");
    let path = format!("machines/{uuid}");
    let name = member(machine, "Name");
    let hex = member(machine, "Address")
        .parse::<Ipv4Addr>()
        .map(|ip| format!("{:08X}", u32::from(ip)));
    for (key, value) in [
        ("UUID", uuid),
        ("Path", &path),
        ("ShortName", name.split('.').next().unwrap_or_default()),
        ("HexAddress", &hex.unwrap_or_default()),
    ] {
        map.insert(key.into(), from_json(&value.into()));
    }
    map.extend([
        method(run, "Url", move |run, _| {
            Ok(format!("{}/{path}", run.scope.machine_url()?).into())
        }),
        method(run, "MacAddr", |run, a| {
            let mac = run
                .scope
                .mac_addr()
                .ok_or("this file is not rendered for a MAC address")?
                .to_ascii_lowercase();
            Ok(match a.first().and_then(Json::as_str) {
                Some("pxelinux") => format!("01-{}", mac.replace(':', "-")),
                Some("rpi4") => mac.replace(':', "-"),
                _ => mac,
            }
            .into())
        }),
    ]);
    map
}

fn env_map(run: &Arc<Run>, env: &Members) -> Map {
    let mut map = map_of(env);
    let files = run.scope.boot(None).unwrap_or_default();
    map.insert("Kernel".into(), from_json(&files.kernel.into()));
    map.insert("Initrds".into(), from_json(&files.initrds.into()));
    let empty = Members::new();
    let os = env.get("OS").and_then(Json::as_object).unwrap_or(&empty);
    let mut os_map = map_of(os);
    let family = match member(os, "Family") {
        "" => member(os, "Name").split('-').next().unwrap_or_default(),
        family => family,
    };
    os_map.insert("FamilyName".into(), from_json(&family.into()));
    let version = member(os, "Version").to_owned();
    os_map.extend([method(run, "VersionEq", move |_, a| {
        let wanted = text(a, 0, "a version")?;
        let mut parts = version.split('.');
        Ok(wanted.split('.').all(|part| parts.next() == Some(part)).into())
    })]);
    map.insert("OS".into(), EngineValue::Map(Arc::new(os_map)));
    map.extend([
        method(run, "InstallUrl", |run, _| {
            let repos = run.scope.repos(Repos::Install)?;
            let url = repos.first().and_then(|repo| repo.get("URL")).cloned();
            url.ok_or_else(|| "there is no repository to install this operating system from".to_owned())
        }),
        method(run, "KernelFor", |run, a| {
            Ok(run.scope.boot(Some(text(a, 0, "an architecture")?))?.kernel.into())
        }),
        method(run, "InitrdsFor", |run, a| {
            Ok(run.scope.boot(Some(text(a, 0, "an architecture")?))?.initrds.into())
        }),
        method(run, "BootParams", |run, _| boot_params(run, None)),
        method(run, "BootParamsFor", |run, a| {
            boot_params(run, Some(text(a, 0, "an architecture")?))
        }),
        method(run, "PathFor", |run, a| {
            path_for(run, text(a, 0, "tftp or http")?, text(a, 1, "a file")?, None)
        }),
        method(run, "PathForArch", |run, a| {
            let arch = text(a, 2, "an architecture")?;
            path_for(run, text(a, 0, "tftp or http")?, text(a, 1, "a file")?, Some(arch))
        }),
        method(run, "JoinInitrds", |run, a| {
            join_initrds(run, text(a, 0, "tftp or http")?, None)
        }),
        method(run, "JoinInitrdsFor", |run, a| {
            let arch = text(a, 1, "an architecture")?;
            join_initrds(run, text(a, 0, "tftp or http")?, Some(arch))
        }),
    ]);
    map
}

fn boot_params(run: &Arc<Run>, arch: Option<&str>) -> Result<Json, String> {
    let files = run.scope.boot(arch)?;
    let arguments = run.nested("BootParams", &files.boot_params, None)?;
    let for_ipxe = run.scope.path().is_some_and(|path| path.ends_with(".ipxe"));
    let initrd = files
        .initrds
        .first()
        .map(|initrd| initrd.rsplit('/').next().unwrap_or(initrd));
    Ok(match initrd {
        // iPXE knows its images by name; EFI kernels have to be told which one is the initrd.
        Some(initrd) if for_ipxe => format!("initrd={initrd} {arguments}").into(),
        _ => arguments.into(),
    })
}

fn path_for(run: &Run, protocol: &str, file: &str, arch: Option<&str>) -> Result<Json, String> {
    let path = run.scope.boot_path(file, arch)?;
    match protocol {
        "tftp" => Ok(path.trim_start_matches('/').into()),
        "http" => Ok(format!("{}{path}", run.scope.provisioner_url()?).into()),
        other => Err(format!("protocol {other} is not known: use tftp or http")),
    }
}

fn join_initrds(run: &Run, protocol: &str, arch: Option<&str>) -> Result<Json, String> {
    let initrds = run.scope.boot(arch)?.initrds;
    let paths = initrds.iter().map(|initrd| path_for(run, protocol, initrd, arch));
    let paths: Vec<_> = paths.collect::<Result<_, _>>()?;
    Ok(paths
        .iter()
        .filter_map(Json::as_str)
        .collect::<Vec<_>>()
        .join(" ")
        .into())
}

fn parse_url(part: &str, given: &str) -> Result<Json, String> {
    let url = url::Url::parse(given).map_err(|err| format!("{given} is no URL: {err}"))?;
    let host = url.host_str().unwrap_or_default();
    match part {
        "scheme" => Ok(url.scheme().into()),
        "host" => Ok(url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
            .into()),
        "path" => Ok(url.path().into()),
        other => Err(format!("{other} is no part of a URL: use scheme, host or path")),
    }
}

fn netmask_to_cidr(netmask: &Json) -> Result<Json, String> {
    let text = match netmask {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        _ => return Err("argument 1 must be a netmask such as 255.255.255.0".to_owned()),
    };
    let wrong = || format!("{text} is no netmask: write 255.255.255.0 or 24");
    if let Ok(bits) = text.trim_start_matches('/').parse::<u8>() {
        return if bits <= 128 { Ok(bits.into()) } else { Err(wrong()) };
    }
    let (ones, count) = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(mask)) => (u32::from(mask).leading_ones(), u32::from(mask).count_ones()),
        Ok(IpAddr::V6(mask)) => (u128::from(mask).leading_ones(), u128::from(mask).count_ones()),
        Err(_) => return Err(wrong()),
    };
    if ones == count { Ok(ones.into()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_sorted_for_the_search() {
        assert!(METHODS.is_sorted());
    }
}
