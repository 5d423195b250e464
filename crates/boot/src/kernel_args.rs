//! Kernel arguments: a bootenv's `BootParams`, rendered for a machine.

use std::net::IpAddr;
use std::sync::Arc;

use isobar_model::Object;
use isobar_model::network::Provisioning;
use isobar_objects::{BootWindow, Objects};
use isobar_template::{BootFiles, Repos, Shown, TemplateError, TokenKind};
use serde_json::Value;

use crate::address::ServerAddr;
use crate::reason::Reason;
use crate::settings::{Settings, param};
use crate::state::member;

/// Machine + bootenv + addresses -> arguments on one line or several. `source` is the bootenv's template for the
/// machine's architecture.
///
/// # Errors
/// Malformed `network-data`, or a template that does not render: both name what to correct.
pub(crate) fn render(
    objects: &Objects,
    machine: &Object,
    bootenv: &Object,
    source: &str,
    settings: &Settings,
    addr: &ServerAddr,
    window: &BootWindow,
) -> Result<String, Reason> {
    let template = format!("{}/BootParams", member(bootenv, "Name"));
    let scope = scope(objects, machine, bootenv, settings, addr, Some(window))?;
    let (name, what) = (member(machine, "Name"), "boot parameters");
    isobar_template::render(&template, source, &scope).map_err(|error| does_not_render(name, what, &error))
}

/// How the machine's BMC is told to reach this server, where the machine chooses: a host or a base URL.
///
/// # Errors
/// A template that does not render.
pub(crate) fn bmc_address(
    objects: &Objects,
    machine: &Object,
    bootenv: &Object,
    settings: &Settings,
    addr: &ServerAddr,
) -> Result<Option<String>, Reason> {
    match &settings.for_bmc {
        Some(source) if source.contains("{{") => {
            let scope = scope(objects, machine, bootenv, settings, addr, None)?;
            let text = isobar_template::render(param::BOOT_VIRTUAL_ISO_URL, source, &scope)
                .map_err(|error| does_not_render(member(machine, "Name"), param::BOOT_VIRTUAL_ISO_URL, &error))?;
            Ok(Some(text.trim().to_owned()))
        }
        plain => Ok(plain.clone()),
    }
}

fn does_not_render(machine: &str, what: &str, error: &TemplateError) -> Reason {
    // The machine is named in front.
    let error = TemplateError {
        machine: String::new(),
        ..error.clone()
    };
    Reason::new(
        "template",
        format!("{what} of {machine}: {error}"),
        "correct the bootenv or the param that it names, then set the bootenv again",
    )
}

fn scope(
    objects: &Objects,
    machine: &Object,
    bootenv: &Object,
    settings: &Settings,
    addr: &ServerAddr,
    window: Option<&BootWindow>,
) -> Result<Arc<dyn isobar_template::Scope>, Reason> {
    let network = network(objects, machine)?;
    let toward = address_of(network.as_ref());
    Ok(Arc::new(Scope {
        objects: objects.clone(),
        machine: machine.clone(),
        bootenv: bootenv.clone(),
        pass: window.map(|window| window.pass.clone()),
        network_data: network.map(|(value, parsed)| parsed.normalise(&value)),
        web: settings.machine_url(toward, |set| addr.machine_files_url(set, toward))?,
        api: settings.machine_url(toward, |set| addr.machine_api_url(set, toward))?,
    }))
}

/// The machine's static address, where it has one.
pub(crate) fn static_address(objects: &Objects, machine: &Object) -> Option<IpAddr> {
    address_of(network(objects, machine).ok()?.as_ref())
}

fn address_of(network: Option<&(Value, Provisioning)>) -> Option<IpAddr> {
    network?.1.address.as_ref().map(|cidr| cidr.address)
}

fn network(objects: &Objects, machine: &Object) -> Result<Option<(Value, Provisioning)>, Reason> {
    let name = member(machine, "Name");
    let bad = |what: String| {
        Reason::new(
            "network-data",
            format!("network-data of {name} cannot be used: {what}"),
            format!(
                "correct it with `isobar machines set Name:{name} param network-data to '{{\"prov\":{{…}}}}'`, then set the bootenv again"
            ),
        )
    };
    let value = objects
        .compose_in("machines", machine, param::NETWORK_DATA)
        .map_err(|e| bad(e.to_string()))?;
    let Some(value) = value.filter(|v| !v.is_null()) else {
        return Ok(None);
    };
    match Provisioning::parse(&value) {
        Ok(parsed) => Ok(Some((value, parsed))),
        Err(error) => Err(bad(error.problems.join("; "))),
    }
}

/// What kernel arguments may ask for.
struct Scope {
    objects: Objects,
    machine: Object,
    bootenv: Object,
    /// `network-data` in its plain form.
    network_data: Option<Value>,
    web: String,
    api: String,
    /// Of the boot that the arguments are for.
    pass: Option<String>,
}

impl isobar_template::Scope for Scope {
    fn machine(&self) -> Option<Shown<'_>> {
        // Params are read through `.Param`, which refuses secrets.
        Some(Shown::without(&["Params", "Secret"], &self.machine))
    }

    fn env(&self) -> Option<Shown<'_>> {
        Some(Shown::all(&self.bootenv))
    }

    fn provisioner_address(&self) -> Result<String, String> {
        let url = url::Url::parse(&self.web).map_err(|e| format!("{}: {e}", self.web))?;
        Ok(url.host_str().unwrap_or_default().to_owned())
    }

    fn provisioner_url(&self) -> Result<String, String> {
        Ok(self.web.clone())
    }

    fn machine_url(&self) -> Result<String, String> {
        Ok(match &self.pass {
            Some(pass) => format!("{}/{pass}", self.web),
            None => self.web.clone(),
        })
    }

    fn repos(&self, which: Repos<'_>) -> Result<Vec<Value>, String> {
        let listed = isobar_template::Scope::param(self, isobar_model::repos::PARAM)?;
        let (machine, env) = (Some(&self.machine), Some(&self.bootenv));
        self.objects
            .template_repos(listed.as_ref(), machine, env, &self.web, which)
    }

    fn token(&self, _kind: TokenKind<'_>) -> Result<String, String> {
        let reason = "every process of a machine can read its kernel arguments: have the token in a file of the bootenv's \
                      Templates, and the arguments say {{.Machine.Url}}/… for its address";
        Err(reason.to_owned())
    }

    fn api_url(&self) -> Result<String, String> {
        Ok(self.api.clone())
    }

    fn param(&self, name: &str) -> Result<Option<Value>, String> {
        self.value(name)
    }

    fn compose_param(&self, name: &str) -> Result<Option<Value>, String> {
        if name == param::NETWORK_DATA {
            return Ok(self.network_data.clone());
        }
        self.objects
            .compose_in("machines", &self.machine, name)
            .map_err(|e| e.to_string())
    }

    fn template(&self, id: &str) -> Option<String> {
        let template = self.objects.find("templates", id).ok()??;
        Some(member(&template, "Contents").to_owned())
    }

    fn boot(&self, arch: Option<&str>) -> Result<BootFiles, String> {
        let arch = arch.unwrap_or_else(|| member(&self.machine, "Arch"));
        let files = isobar_model::bootenv::for_arch(&self.bootenv, arch)
            .ok_or_else(|| format!("{} boots nothing on {arch}", member(&self.bootenv, "Name")))?;
        Ok(BootFiles {
            kernel: files.kernel,
            initrds: files.initrds,
            boot_params: files.boot_params,
        })
    }

    fn boot_path(&self, file: &str, arch: Option<&str>) -> Result<String, String> {
        let arch = arch.unwrap_or_else(|| member(&self.machine, "Arch"));
        Ok(isobar_model::bootenv::path_for(&self.bootenv, arch, file))
    }
}

impl Scope {
    fn value(&self, name: &str) -> Result<Option<Value>, String> {
        if name == param::NETWORK_DATA {
            return Ok(self.network_data.clone());
        }
        match self
            .objects
            .resolve_in("machines", &self.machine, name)
            .map_err(|e| e.to_string())?
        {
            Some(resolved) if resolved.secure => Err(format!(
                "{name} is secure: kernel arguments can be read by everybody on the machine"
            )),
            other => Ok(other.map(|resolved| resolved.value)),
        }
    }
}
