//! DRP's methods: what `.Param`, `.Machine.Url`, `.Env.PathFor` and their kin answer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use gotmpl::Value;
use serde_json::Value as Json;

use crate::engine::exec;
use crate::run::{Run, running};
use crate::sprig::as_go_writes;
use crate::value::{Map, from_json, map_of, to_json};
use crate::wanted::Wanted;
use crate::{Members, Repos, Scope, Shown, TokenKind};

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

/// Top-level names that are nothing without what they stand for.
const OBJECTS: &[&str] = &["Machine", "Env", "Stage", "Task"];

type Method = fn(&Arc<Run>, &[Json]) -> Result<Json, String>;
/// As [`Method`], for what has methods itself.
type ValueMethod = fn(&Arc<Run>, &[Json]) -> Result<Value, String>;

/// Methods of the render object.
const ROOT: &[(&str, Method)] = &[
    ("Param", |run, a| param(run, a, false)),
    ("ParamExists", |run, a| {
        Ok(run.scope.param(text(a, 0, "the name of a param")?)?.is_some().into())
    }),
    ("ParamExpand", |run, a| expand(run, &param(run, a, false)?)),
    ("ParamAsJSON", |run, a| {
        Ok(as_go_writes(&expand(run, &param(run, a, false)?)?).to_string().into())
    }),
    ("ParamAsYAML", |run, a| {
        let value = as_go_writes(&expand(run, &param(run, a, false)?)?);
        serde_yaml_ng::to_string(&value)
            .map(Json::from)
            .map_err(|err| err.to_string())
    }),
    ("ComposeParam", |run, a| param(run, a, true)),
    ("ParamCompose", |run, a| param(run, a, true)),
    ("ParamComposeExpand", |run, a| expand(run, &param(run, a, true)?)),
    ("ProvisionerAddress", |run, _| {
        run.scope.provisioner_address().map(Json::from)
    }),
    ("ProvisionerURL", |run, _| run.scope.provisioner_url().map(Json::from)),
    ("ApiURL", |run, _| run.scope.api_url().map(Json::from)),
    ("BootParams", |run, _| boot_params(run, None)),
    ("StringExpand", |run, a| {
        run.nested("StringExpand", text(a, 0, "a text")?, None).map(Json::from)
    }),
    ("ObjectExpand", |run, a| {
        expand(run, a.first().ok_or("give it a value")?)
    }),
    ("CallTemplate", |run, a| {
        let id = text(a, 0, "the ID of a template")?;
        let template = run
            .scope
            .template(id)
            .ok_or_else(|| format!("there is no template {id}"))?;
        // The render object cannot travel as a value; passing it on means "the same".
        let data = a.get(1).filter(|data| !is_render_object(data)).cloned();
        run.nested(id, &template, data).map(Json::from)
    }),
    ("ParseUrl", |_, a| {
        parse_url(text(a, 0, "a part of a URL")?, text(a, 1, "a URL")?)
    }),
    ("NetmaskToCIDR", |_, a| {
        netmask_to_cidr(a.first().unwrap_or(&Json::Null))
    }),
    ("GenerateToken", |run, _| {
        run.scope.token(TokenKind::Short).map(Json::from)
    }),
    ("GenerateInfiniteToken", |run, _| {
        run.scope.token(TokenKind::Long).map(Json::from)
    }),
    ("GenerateProfileToken", |run, a| {
        let seconds = a.get(1).and_then(Json::as_u64).unwrap_or(0);
        run.scope
            .token(TokenKind::Profile {
                profile: text(a, 0, "a profile")?,
                seconds,
            })
            .map(Json::from)
    }),
];

/// Methods of the render object that give what has methods.
const ROOT_VALUES: &[(&str, ValueMethod)] = &[
    ("Repos", |run, a| {
        let tags: Vec<_> = a.iter().filter_map(Json::as_str).collect();
        repos(run, Repos::Tagged(&tags))
    }),
    ("MachineRepos", |run, _| repos(run, Repos::Machine)),
    ("InstallRepos", |run, _| repos(run, Repos::Install)),
];

/// Methods of `.Machine`.
const MACHINE: &[(&str, Method)] = &[("MacAddr", |run, a| {
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
})];

/// Methods of `.Env`.
const ENV: &[(&str, Method)] = &[
    ("InstallUrl", |run, _| {
        let repos = run.scope.repos(Repos::Install)?;
        let url = repos.first().and_then(|repo| repo.get("URL")).cloned();
        url.ok_or_else(|| "there is no repository to install this operating system from".to_owned())
    }),
    ("KernelFor", |run, a| {
        Ok(run.scope.boot(Some(text(a, 0, "an architecture")?))?.kernel.into())
    }),
    ("InitrdsFor", |run, a| {
        Ok(run.scope.boot(Some(text(a, 0, "an architecture")?))?.initrds.into())
    }),
    ("BootParams", |run, _| boot_params(run, None)),
    ("BootParamsFor", |run, a| {
        boot_params(run, Some(text(a, 0, "an architecture")?))
    }),
    ("PathFor", |run, a| {
        path_for(run, text(a, 0, "tftp or http")?, text(a, 1, "a file")?, None)
    }),
    ("PathForArch", |run, a| {
        let arch = text(a, 2, "an architecture")?;
        path_for(run, text(a, 0, "tftp or http")?, text(a, 1, "a file")?, Some(arch))
    }),
    ("JoinInitrds", |run, a| {
        join_initrds(run, text(a, 0, "tftp or http")?, None)
    }),
    ("JoinInitrdsFor", |run, a| {
        let arch = text(a, 1, "an architecture")?;
        join_initrds(run, text(a, 0, "tftp or http")?, Some(arch))
    }),
];

/// A method for a map of the engine.
fn method(
    name: &'static str,
    body: impl Fn(&Arc<Run>, &[Json]) -> Result<Json, String> + Send + Sync + 'static,
) -> (Arc<str>, Value) {
    value_method(name, move |run, arguments| {
        body(run, arguments).map(|json| from_json(&json))
    })
}

/// As [`method`], for what has methods itself.
fn value_method(
    name: &'static str,
    body: impl Fn(&Arc<Run>, &[Json]) -> Result<Value, String> + Send + Sync + 'static,
) -> (Arc<str>, Value) {
    let call = move |arguments: &[Value]| {
        let run = running()?;
        run.spend().map_err(exec)?;
        let arguments = arguments
            .iter()
            .map(to_json)
            .collect::<Result<Vec<_>, _>>()
            .map_err(exec)?;
        body(&run, &arguments).map_err(|reason| exec(format!(".{name}: {reason}")))
    };
    (name.into(), Value::Function(Arc::new(call)))
}

fn methods(table: &[(&'static str, Method)]) -> Map {
    table.iter().map(|(name, body)| method(name, *body)).collect()
}

/// What is wanted of a map that is there already.
fn take(map: &mut Map, wanted: &Wanted, from: &Map) {
    let wanted = from.iter().filter(|(name, _)| wanted.of(name).is_some());
    map.extend(wanted.map(|(name, value)| (Arc::clone(name), value.clone())));
}

/// What is wanted of an object.
fn members_of(object: &Shown<'_>, wanted: &Wanted) -> Map {
    let one = |(name, value): (&str, &Json)| (name.into(), from_json(value));
    match wanted {
        Wanted::All => object.iter().map(one).collect(),
        Wanted::Members(members) => {
            let named = members
                .keys()
                .filter_map(|name| Some((name.as_str(), object.get(name)?)));
            named.map(one).collect()
        }
    }
}

/// A map that is as true as the whole of it: only whether it is there may be asked.
fn value_of(mut map: Map, whole_is_empty: bool) -> Value {
    if map.is_empty() && !whole_is_empty {
        map.insert("".into(), Value::Nil);
    }
    Value::Map(Arc::new(map))
}

/// The objects below the render object.
pub(crate) struct Objects<'a> {
    machine: Option<Shown<'a>>,
    env: Option<Shown<'a>>,
    stage: Option<Shown<'a>>,
    task: Option<Shown<'a>>,
}

impl<'a> Objects<'a> {
    pub(crate) fn fetch(scope: &'a dyn Scope) -> Self {
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
        OBJECTS
            .iter()
            .zip(there)
            .filter(|(_, there)| !there)
            .map(|(name, _)| *name)
            .collect()
    }

    /// The render object, as far as it is wanted.
    pub(crate) fn dot(&self, run: &Arc<Run>, wanted: &Wanted) -> Value {
        static METHODS: LazyLock<Map> = LazyLock::new(|| {
            let mut all = methods(ROOT);
            all.extend(ROOT_VALUES.iter().map(|(name, body)| value_method(name, *body)));
            all
        });
        let mut dot = Map::new();
        take(&mut dot, wanted, &METHODS);
        let plain =
            |object: &Shown<'_>, wanted: &Wanted| value_of(members_of(object, wanted), object.iter().next().is_none());
        let mut put = |name: &str, make: &dyn Fn(&Wanted) -> Option<Value>| {
            if let Some(wanted) = wanted.of(name) {
                dot.insert(name.into(), make(wanted).unwrap_or(Value::Nil));
            }
        };
        put("Machine", &|wanted| Some(machine(self.machine.as_ref()?, wanted)));
        put("Env", &|wanted| Some(env(run, self.env.as_ref()?, wanted)));
        put("Stage", &|wanted| Some(plain(self.stage.as_ref()?, wanted)));
        put("Task", &|wanted| Some(plain(self.task.as_ref()?, wanted)));
        Value::Map(Arc::new(dot))
    }
}

/// Stands for the component in the `UrlFor` of a repository.
const COMPONENT: &str = "{component}";

/// Repositories with what can be asked of them: where a component is, and the render object.
fn repos(run: &Arc<Run>, which: Repos<'_>) -> Result<Value, String> {
    let found = run.scope.repos(which)?;
    let repo = |repo: &Json| {
        let members = repo.as_object().cloned().unwrap_or_default();
        let mut map = map_of(&members);
        let place = repo.get("UrlFor").and_then(Json::as_str).unwrap_or_default().to_owned();
        map.extend([
            method("UrlFor", move |_, a| {
                Ok(place.replace(COMPONENT, text(a, 0, "a component")?).into())
            }),
            value_method("R", |run, _| {
                Ok(Objects::fetch(run.scope.as_ref()).dot(run, &Wanted::All))
            }),
        ]);
        Value::Map(Arc::new(map))
    };
    Ok(Value::List(found.iter().map(repo).collect()))
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

fn member<'a>(object: &'a Shown<'_>, name: &str) -> &'a str {
    object.get(name).and_then(Json::as_str).unwrap_or_default()
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

fn machine(machine: &Shown<'_>, wanted: &Wanted) -> Value {
    static METHODS: LazyLock<Map> = LazyLock::new(|| methods(MACHINE));
    let mut map = members_of(machine, wanted);
    let uuid = member(machine, "Uuid");
    let path = || format!("machines/{uuid}");
    let mut put = |name: &str, make: &dyn Fn() -> String| {
        if wanted.of(name).is_some() {
            map.insert(name.into(), Value::String(make().into()));
        }
    };
    put("UUID", &|| uuid.to_owned());
    put("Path", &path);
    put("ShortName", &|| {
        let name = member(machine, "Name");
        name.split('.').next().unwrap_or_default().to_owned()
    });
    put("HexAddress", &|| {
        let address = member(machine, "Address").parse::<Ipv4Addr>();
        address.map(|ip| format!("{:08X}", u32::from(ip))).unwrap_or_default()
    });
    if wanted.of("Url").is_some() {
        let path = path();
        map.extend([method("Url", move |run, _| {
            Ok(format!("{}/{path}", run.scope.machine_url()?).into())
        })]);
    }
    take(&mut map, wanted, &METHODS);
    value_of(map, false)
}

fn env(run: &Run, env: &Shown<'_>, wanted: &Wanted) -> Value {
    static METHODS: LazyLock<Map> = LazyLock::new(|| methods(ENV));
    let mut map = members_of(env, wanted);
    let wants = |name: &str| wanted.of(name).is_some();
    if wants("Kernel") || wants("Initrds") {
        let files = run.scope.boot(None).unwrap_or_default();
        let members = [("Kernel", files.kernel.into()), ("Initrds", files.initrds.into())];
        let members = members.iter().filter(|(name, _)| wants(name));
        map.extend(members.map(|(name, value)| ((*name).into(), from_json(value))));
    }
    if wants("OS") {
        map.insert("OS".into(), operating_system(env.get("OS").and_then(Json::as_object)));
    }
    take(&mut map, wanted, &METHODS);
    value_of(map, false)
}

/// `.Env.OS`.
fn operating_system(os: Option<&Members>) -> Value {
    let empty = Members::new();
    let os = os.unwrap_or(&empty);
    let mut map = map_of(os);
    let member = |name: &str| os.get(name).and_then(Json::as_str).unwrap_or_default();
    let family = match member("Family") {
        "" => member("Name").split('-').next().unwrap_or_default(),
        family => family,
    };
    map.insert("FamilyName".into(), Value::String(family.into()));
    let version = member("Version").to_owned();
    map.extend([method("VersionEq", move |_, a| {
        let wanted = text(a, 0, "a version")?;
        let mut parts = version.split('.');
        Ok(wanted.split('.').all(|part| parts.next() == Some(part)).into())
    })]);
    Value::Map(Arc::new(map))
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
