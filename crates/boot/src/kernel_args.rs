//! Kernel arguments: a bootenv's `BootParams`, rendered for a machine.

use std::net::IpAddr;
use std::sync::Arc;

use isobar_model::Object;
use isobar_model::network::{Provisioning, prefix_length};
use isobar_objects::{Objects, Resolved};
use isobar_template::{Dot, Limits, NoLibrary};
use serde_json::{Value, json};

use crate::address::ServerAddr;
use crate::reason::Reason;
use crate::service::member;
use crate::settings::{Settings, param};

/// Machine + bootenv + addresses -> arguments on one line or several.
///
/// # Errors
/// Malformed `network-data`, or a template that does not render: both name what to correct.
pub(crate) fn render(
    objects: &Objects,
    machine: &Object,
    bootenv: &Object,
    settings: &Settings,
    addr: &ServerAddr,
) -> Result<String, Reason> {
    let name = member(machine, "Name");
    let network = network(objects, machine)?;
    let web = addr.machine_files_url(settings.for_machine.as_deref(), address_of(network.as_ref()));
    let api = addr.machine_api_url(settings.for_machine.as_deref(), address_of(network.as_ref()));
    let plain = network.map(|(value, parsed)| parsed.normalise(&value));
    let scope = Arc::new(Scope {
        objects: objects.clone(),
        machine: machine.clone(),
        network_data: plain,
    });
    let mut shown = machine.clone();
    // Other params are read through `.Param`, which refuses secrets.
    shown.remove("Params");
    let uuid = member(machine, "Uuid").to_owned();
    shown.insert("UUID".to_owned(), json!(uuid));
    let (of_param, of_exists, of_compose) = (Arc::clone(&scope), Arc::clone(&scope), scope);
    let dot = Dot::new()
        .data("Machine", Value::Object(shown))
        .data("Machine.Path", json!(format!("machines/{uuid}")))
        .data("Machine.Url", json!(format!("{web}/machines/{uuid}")))
        .data("Env", Value::Object(bootenv.clone()))
        .data("ProvisionerURL", json!(web))
        .data("ApiURL", json!(api))
        .method("Param", move |args| {
            let name = first(args)?;
            of_param
                .value(name)?
                .ok_or_else(|| format!("No such machine parameter {name}"))
        })
        .method("ParamExists", move |args| {
            Ok(json!(of_exists.value(first(args)?)?.is_some()))
        })
        .method("ComposeParam", move |args| {
            let name = first(args)?;
            of_compose
                .value(name)?
                .ok_or_else(|| format!("No such machine parameter {name}"))
        })
        .method("NetmaskToCIDR", |args| {
            let netmask = first(args)?;
            let width = if netmask.contains(':') { 128 } else { 32 };
            prefix_length(netmask, width)
                .map(Value::from)
                .ok_or_else(|| format!("{netmask} is no netmask"))
        });
    let template = format!("{}/BootParams", member(bootenv, "Name"));
    let source = member(bootenv, "BootParams");
    isobar_template::render(&template, source, &dot, &NoLibrary, Limits::default()).map_err(|error| {
        Reason::new(
            "template",
            format!("the boot parameters for {name} do not render: {error}"),
            "correct the bootenv or the param that it names, then set the bootenv again",
        )
    })
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
        .resolve_in("machines", machine, param::NETWORK_DATA)
        .map_err(|e| bad(e.to_string()))?;
    let Some(Resolved { value, .. }) = value.filter(|v| !v.value.is_null()) else {
        return Ok(None);
    };
    match Provisioning::parse(&value) {
        Ok(parsed) => Ok(Some((value, parsed))),
        Err(error) => Err(bad(error.problems.join("; "))),
    }
}

fn first(args: &[Value]) -> Result<&str, String> {
    args.first()
        .and_then(Value::as_str)
        .ok_or_else(|| "wants a name".to_owned())
}

struct Scope {
    objects: Objects,
    machine: Object,
    network_data: Option<Value>,
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
