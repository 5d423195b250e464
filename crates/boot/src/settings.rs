//! What a machine's params say about booting it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use isobar_bmc::{Endpoint, IpmiFace, Mode, Network, Secret};
use isobar_model::Object;
use isobar_objects::{Objects, Resolved};
use isobar_store::Rev;
use serde_json::Value;

use crate::address::Scheme;
use crate::pins;
use crate::reason::Reason;
use crate::state::lock;

/// Params, by name.
pub mod param {
    /// Boot this machine from an ISO through its BMC.
    pub const BOOT_VIRTUAL_ISO: &str = "boot-virtual-iso";
    /// Base URL of image URLs for this machine's BMC.
    pub const BOOT_VIRTUAL_ISO_URL: &str = "boot-virtual-iso-url";
    /// What to do with a machine that is on: `cycle` or `wait`.
    pub const POWER_POLICY: &str = "boot-virtual-iso-power";
    /// How long a running system may take to shut down, in seconds.
    pub const SHUTDOWN: &str = "boot-virtual-iso-shutdown-seconds";
    /// Nobody but the BMC's own address may read the image.
    pub const STRICT: &str = "isobar/strict-image-peer";
    /// Networks that count as the BMC's own when the image is read.
    pub const IMAGE_PEERS: &str = "isobar/image-peers";
    /// How the BMC fetches the image: `http`, `https` or `nfs`; `auto`: by what it takes.
    pub const IMAGE_SCHEME: &str = "isobar/image-scheme";
    /// How the image gets to the machine: `virtual-media`, `uefi-http`; `auto`: by what the BMC has.
    pub const BOOT_METHOD: &str = "isobar/boot-method";
    /// Address of this server as the BMC reaches it.
    pub const SERVER_FOR_BMC: &str = "isobar/server-address-bmc";
    /// Address of this server as the machine reaches it.
    pub const SERVER_FOR_MACHINE: &str = "isobar/server-address-machine";
    /// Static network of the machine.
    pub const NETWORK_DATA: &str = "network-data";
    /// BMC: address, port, login.
    pub const IPMI_ADDRESS: &str = "ipmi/address";
    /// Port of the BMC's web server.
    pub const IPMI_PORT: &str = "ipmi/port-redfish";
    /// UDP port of the BMC's IPMI; 0: its own.
    pub const IPMI_PORT_UDP: &str = "ipmi/port-ipmitool";
    /// How the machine boots, as an inventory found: `uefi` or `legacy-bios`.
    pub const BIOS_MODE: &str = "detected-bios-mode";
    /// Login.
    pub const IPMI_USERNAME: &str = "ipmi/username";
    /// Password; secure.
    pub const IPMI_PASSWORD: &str = "ipmi/password";
    /// Which of a BMC's systems is the machine.
    pub const BMC_SYSTEM: &str = "isobar/bmc-system";
    /// How the BMC's certificate is judged.
    pub const BMC_TLS: &str = "isobar/bmc-tls";
    /// The CA that signs BMCs' certificates; PEM.
    pub const BMC_CA: &str = "isobar/bmc-ca";
    /// The site that the BMC is at: so many conversations at a time.
    pub const BMC_SITE: &str = "isobar/bmc-site";
    /// Rungs of the ladder that may be taken at this BMC.
    pub const BMC_RECOVERY: &str = "isobar/bmc-recovery";
    /// Nothing that changes the BMC is sent.
    pub const SHADOW: &str = "isobar/shadow";
    /// The serial console is followed while the machine boots, for the post-mortem.
    pub const SERIAL_TAIL: &str = "isobar/serial-tail";
    /// How to talk to the BMC.
    pub const IPMI_MODE: &str = "ipmi/mode";
}

/// Rungs that may be taken where [`param::BMC_RECOVERY`] is not set. A reset of the BMC is not among them: who shares it
/// loses their media, too.
pub const RUNGS: [&str; 3] = ["eject", "sessions", "post"];

/// How the image gets to the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// By virtual media; by UEFI HTTP boot where the BMC has none.
    #[default]
    Auto,
    /// The BMC reads it and shows it to the machine as a CD.
    VirtualMedia,
    /// The machine's firmware downloads it from the `HttpBootUri` that the BMC gives it.
    UefiHttp,
}

impl Method {
    fn parse(text: &str) -> Self {
        match text {
            "virtual-media" => Self::VirtualMedia,
            "uefi-http" => Self::UefiHttp,
            _ => Self::Auto,
        }
    }
}

/// A machine as a boot sees it.
#[derive(Clone)]
pub struct Settings {
    /// UUID.
    pub uuid: String,
    /// Name.
    pub name: String,
    /// Whether it boots from a virtual ISO.
    pub virtual_iso: bool,
    /// It must not be touched.
    pub locked: bool,
    /// Nothing that changes its BMC is sent.
    pub shadow: bool,
    /// Its serial console is followed while it boots.
    pub serial_tail: bool,
    /// Policy `wait`: the power of a machine that is on is the operator's.
    pub leave_power: bool,
    /// Time for a graceful shutdown, where the machine (or a profile) sets it.
    pub shutdown: Option<Duration>,
    /// Nobody but the BMC's own address may read the image.
    pub strict: bool,
    /// Networks from which the BMC's reads come where that is not its own address: NAT, a proxy.
    pub image_peers: Vec<Network>,
    /// Its BMC, or what is missing to talk to it.
    pub endpoint: Result<Endpoint, Reason>,
    /// Site of its BMC.
    pub site: Option<String>,
    /// Rungs of the ladder of recovery that may be taken at its BMC.
    pub rungs: Vec<String>,
    /// Own choice of the address for BMCs: a host or a base URL; may be a template.
    pub for_bmc: Option<String>,
    /// The one scheme by which the image is offered; none: by all, the BMC has the choice.
    pub scheme: Option<Scheme>,
    /// How the image gets to the machine.
    pub method: Method,
    /// Own choice of the address for machines.
    pub for_machine: Option<String>,
}

/// Kinds that a machine's settings come from, beside itself and content packs.
const FROM: [&str; 3] = ["profiles", "stages", "params"];
/// Settings that are known at one time: those of boots that are at their BMCs. When there are more, all are forgotten,
/// which costs no more than to look for the oldest.
const MOST: usize = 1024;
/// What is known is looked up again after this time, whatever it came from.
const LONGEST: Duration = Duration::from_secs(60);

/// What settings were concluded from: the machine's own revision, those of the kinds, and the content in force.
type Basis = (Rev, [Rev; FROM.len()], u64);

/// Settings of machines, for a boot that asks for them at every step.
#[derive(Default)]
pub(crate) struct KnownSettings(Mutex<HashMap<String, (Basis, Instant, Settings)>>);

impl KnownSettings {
    /// As they are now.
    ///
    /// # Errors
    /// Of `read`, or of the store.
    pub(crate) fn of(
        &self,
        objects: &Objects,
        machine: &str,
        read: impl FnOnce() -> Result<Settings, Reason>,
    ) -> Result<Settings, Reason> {
        // Before anything is read.
        let (store, content) = (objects.store(), objects.content_changes());
        let kinds = FROM.map(|kind| store.changed(kind));
        let Ok(Some(doc)) = store.get("machines", machine) else {
            return read();
        };
        let basis = (doc.rev, kinds, content);
        if let Some((then, since, settings)) = lock(&self.0).get(machine)
            && *then == basis
            && since.elapsed() < LONGEST
        {
            return Ok(settings.clone());
        }
        let settings = read()?;
        let mut known = lock(&self.0);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(machine.to_owned(), (basis, Instant::now(), settings.clone()));
        Ok(settings)
    }
}

fn text(value: Option<Resolved>) -> Option<String> {
    match value?.value {
        Value::String(s) if !s.trim().is_empty() => Some(s.trim().to_owned()),
        _ => None,
    }
}

impl Settings {
    /// Reads them from a machine and all that it inherits.
    ///
    /// # Errors
    /// A param that cannot be read at all (its secret was made for another key).
    pub fn of(objects: &Objects, machine: &Object) -> Result<Self, Reason> {
        let member = |name: &str| machine.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (uuid, name) = (member("Uuid"), member("Name"));
        let unreadable = |param: &str, error: &dyn std::fmt::Display| {
            Reason::new(
                "param-unreadable",
                format!("param {param} of {name}: {error}"),
                "set the param again",
            )
        };
        let params = objects
            .params_in("machines", machine)
            .map_err(|error| unreadable("", &error))?;
        let get = |param: &str| params.resolve(param).map_err(|error| unreadable(param, &error));
        let flag = |param: &str| Ok::<_, Reason>(get(param)?.is_some_and(|v| v.value == Value::Bool(true)));
        let leave_power = text(get(param::POWER_POLICY)?).is_some_and(|policy| policy == "wait");
        let port = get(param::IPMI_PORT)?
            .and_then(|v| v.value.as_u64())
            .and_then(|p| u16::try_from(p).ok());
        let endpoint = endpoint(
            &name,
            text(get(param::IPMI_ADDRESS)?),
            port,
            text(get(param::IPMI_USERNAME)?),
            get(param::IPMI_PASSWORD)?,
            text(get(param::BMC_TLS)?).as_deref(),
            text(get(param::BMC_CA)?).as_deref(),
        );
        let system = text(get(param::BMC_SYSTEM)?);
        let mode = mode(text(get(param::IPMI_MODE)?).as_deref());
        let udp = get(param::IPMI_PORT_UDP)?.and_then(|v| v.value.as_u64());
        let udp = udp.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        let ipmi = IpmiFace {
            port: udp.unwrap_or(IpmiFace::default().port),
            uefi: text(get(param::BIOS_MODE)?).is_none_or(|mode| mode != "legacy-bios"),
        };
        let shadow = flag(param::SHADOW)?;
        let endpoint = endpoint.map(|endpoint| Endpoint {
            shadow,
            system,
            machine_uuid: Some(uuid.clone()),
            mode,
            ipmi,
            ..endpoint
        });
        Ok(Self {
            virtual_iso: flag(param::BOOT_VIRTUAL_ISO)?,
            locked: machine.get("Locked") == Some(&Value::Bool(true)),
            shadow,
            serial_tail: flag(param::SERIAL_TAIL)?,
            leave_power,
            shutdown: get(param::SHUTDOWN)?
                .and_then(|v| v.value.as_u64())
                .map(Duration::from_secs),
            strict: flag(param::STRICT)?,
            image_peers: get(param::IMAGE_PEERS)?.map_or(Ok(Vec::new()), |v| image_peers(&name, v.value))?,
            site: text(get(param::BMC_SITE)?),
            rungs: match get(param::BMC_RECOVERY)?.and_then(|v| serde_json::from_value(v.value).ok()) {
                Some(rungs) => rungs,
                None => RUNGS.map(str::to_owned).to_vec(),
            },
            for_bmc: text(get(param::BOOT_VIRTUAL_ISO_URL)?).or(text(get(param::SERVER_FOR_BMC)?)),
            scheme: text(get(param::IMAGE_SCHEME)?).as_deref().and_then(Scheme::parse),
            method: text(get(param::BOOT_METHOD)?).map_or(Method::Auto, |method| Method::parse(&method)),
            for_machine: text(get(param::SERVER_FOR_MACHINE)?),
            endpoint,
            uuid,
            name,
        })
    }

    /// A URL of this server for the machine; `toward` is the machine's static address.
    pub(crate) fn machine_url(
        &self,
        toward: Option<IpAddr>,
        url: impl FnOnce(Option<&str>) -> io::Result<String>,
    ) -> Result<String, Reason> {
        url(self.for_machine.as_deref()).map_err(|error| {
            let to = match toward {
                Some(address) => format!("to {address}"),
                None => "by default".to_owned(),
            };
            Reason::new(
                "server-address",
                format!("which address of this server {} reaches is unknown: no route {to} ({error})", self.name),
                format!(
                    "set --address-for-machine, or param {} on the machine or a profile, or add a route; then set the bootenv again",
                    param::SERVER_FOR_MACHINE
                ),
            )
        })
    }

    /// Address of the BMC, where it is given as an address.
    #[must_use]
    pub fn bmc_ip(&self) -> Option<IpAddr> {
        let endpoint = self.endpoint.as_ref().ok()?;
        match endpoint.url.host()? {
            url::Host::Ipv4(ip) => Some(ip.into()),
            url::Host::Ipv6(ip) => Some(IpAddr::from(ip).to_canonical()),
            url::Host::Domain(_) => None,
        }
    }
}

/// `ipmi/mode`. A boot whose machine is set to a driver that is not here goes as without one; actions refuse.
fn mode(mode: Option<&str>) -> Mode {
    match mode {
        Some("ipmitool") => Mode::Ipmi,
        Some("redfish") => Mode::Redfish,
        _ => Mode::Auto,
    }
}

fn image_peers(machine: &str, value: Value) -> Result<Vec<Network>, Reason> {
    serde_json::from_value(value).map_err(|error| {
        Reason::new(
            "image-peers",
            format!("{} of {machine} is no list of networks: {error}", param::IMAGE_PEERS),
            r#"set it to a list such as ["10.20.0.0/16"], then set the bootenv again"#,
        )
    })
}

fn endpoint(
    machine: &str,
    address: Option<String>,
    port: Option<u16>,
    username: Option<String>,
    password: Option<Resolved>,
    tls: Option<&str>,
    ca: Option<&str>,
) -> Result<Endpoint, Reason> {
    let missing = |param: &str, how: &str| {
        Reason::new(
            "bmc-not-configured",
            format!("{machine} has no {param}: isobar does not know how to reach its BMC"),
            format!("isobar machines set Name:{machine} param {param} to {how}"),
        )
    };
    let address = address.ok_or_else(|| missing(param::IPMI_ADDRESS, "10.0.0.5"))?;
    let username = username.ok_or_else(|| missing(param::IPMI_USERNAME, "root"))?;
    let password = text(password).ok_or_else(|| missing(param::IPMI_PASSWORD, "@FILE (the password in a file)"))?;
    let (password, tls) = (Secret::new(password), pins::trust(machine, tls, ca)?);
    Endpoint::from_params(&address, port.filter(|p| *p != 0), &username, password, tls, None)
        .map_err(|error| Reason::new("bmc-address", format!("{machine}: {}", error.message), error.hint))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;
    use std::sync::Arc;

    use isobar_objects::{Options, Principal};
    use isobar_store::{Expect, SqliteStore, Txn, Vault};
    use serde_json::json;

    use super::*;
    use crate::record;

    /// A boot writes rows of its own at every step: those are no reason to read its settings again.
    #[test]
    fn settings_are_read_again_when_what_they_come_from_has_changed_and_then_only() {
        let (store, by) = (Arc::new(SqliteStore::in_memory().unwrap()), Principal::system());
        let options = Options {
            first_user: ("rocketskates".to_owned(), Some("x".to_owned())),
            ..Options::default()
        };
        let objects = Objects::open(store, Arc::new(Vault::ephemeral()), options).unwrap();
        let create = |noun: &str, body: Value| objects.create(noun, &body, &by).unwrap();
        let machine = create("machines", json!({"Name": "m1"}));
        let uuid = machine["Uuid"].as_str().unwrap();
        let (known, reads) = (KnownSettings::default(), Cell::new(0));
        let look = || {
            let read = || {
                reads.set(reads.get() + 1);
                Settings::of(&objects, &objects.get("machines", uuid).unwrap())
            };
            (known.of(&objects, uuid, read).unwrap().site, reads.take())
        };
        assert_eq!([look().1, look().1], [1, 0]);
        for kind in [record::kind::BOOTS, record::kind::EXCHANGES, "jobs"] {
            let puts = vec![record::put(kind, "x", &json!({}), Expect::Any, &[])];
            objects.store().commit(Txn { puts, ..Txn::default() }).unwrap();
            assert_eq!(look().1, 0, "{kind}");
        }
        let named = |name: &str, site: &str| json!({"Name": name, "Params": {"isobar/bmc-site": site}});
        let pack = json!({
            "meta": {"Name": "pack"},
            "sections": {"profiles": {"of-a-pack": named("of-a-pack", "pack")}},
        });
        objects.put_content(&pack, None, &by).unwrap();
        assert_eq!([look().1, look().1], [1, 0]);
        create("profiles", named("own", "profile"));
        create("stages", named("stage", "stage"));
        assert_eq!([look().1, look().1], [1, 0]);
        let patch = |path: &str, value: Value| {
            let patch = json!([{"op": "replace", "path": path, "value": value}]);
            objects.patch("machines", uuid, &patch, false, &by).unwrap();
        };
        for (path, value, site) in [
            ("/Stage", json!("stage"), "stage"),
            ("/Profiles", json!(["own"]), "profile"),
            ("/Profiles", json!(["of-a-pack"]), "pack"),
        ] {
            patch(path, value);
            assert_eq!(
                [look(), look()],
                [(Some(site.to_owned()), 1), (Some(site.to_owned()), 0)]
            );
        }
        let other = json!({
            "meta": {"Name": "pack"},
            "sections": {"profiles": {"of-a-pack": named("of-a-pack", "other")}},
        });
        objects.put_content(&other, Some("pack"), &by).unwrap();
        assert_eq!(look(), (Some("other".to_owned()), 1));
    }
}
