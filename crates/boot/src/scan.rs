//! Which BMCs there are in a network, and what they are.
//!
//! First each address is asked what anybody may ask; only what answers as a BMC is sent a login, through the gate: one
//! conversation at a time, logins that are held are not sent, and one that is refused is held from then on. Nothing is
//! sent to addresses where no BMC may be.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use isobar_bmc::redfish::{self, Greeting};
use isobar_bmc::{Endpoint, ErrorClass, IpmiFace, Mode, Network, NoRecorder, Part, Probe, Recorder, Secret, TlsTrust};
use isobar_ipmi::presence;
use isobar_model::ApiError;
use isobar_objects::Principal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::gate::{Answer, Caller, Rank, Verb, authority};
use crate::service::Booter;
use crate::state::Inner;

/// Addresses of one scan: a /20.
const MOST: u32 = 4096;
/// Ports that are looked at, at each.
const PORTS: usize = 16;
/// Logins that are tried, of BMCs that lock accounts after a few.
const LOGINS: usize = 4;
/// Addresses looked at, at one time.
const AT_ONCE: usize = 64;
/// To a connection: a BMC that is there answers at once.
const CONNECT: Duration = Duration::from_secs(3);
/// To the end of the first answer.
const GREET: Duration = Duration::from_secs(15);
/// To an answer over IPMI.
const PING: Duration = Duration::from_millis(1500);
/// Rows that wait for whoever asked.
const ROWS: usize = 64;

/// A login that may be a BMC's.
#[derive(Clone, Debug, Deserialize)]
pub struct Login {
    /// User.
    pub username: String,
    /// Password.
    pub password: Secret<String>,
}

/// Where Redfish may be.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Port {
    /// TCP port.
    pub port: u16,
    /// Without TLS.
    #[serde(default)]
    pub plain: bool,
}

/// `POST /isobar/v1/bmcs/scan`.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// Networks, or single addresses.
    pub networks: Vec<Network>,
    /// Logins, tried in this order, each once; none: only what anybody may read.
    #[serde(default)]
    pub logins: Vec<Login>,
    /// Ports of Redfish; none: 443.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// UDP port of IPMI; 0: it is not asked.
    #[serde(default = "ipmi_port")]
    pub ipmi_port: u16,
}

fn ipmi_port() -> u16 {
    IpmiFace::default().port
}

/// What was found at an address.
#[derive(Clone, Debug, Default, Serialize)]
struct Found {
    address: String,
    port: u16,
    /// What `ipmi/address` has to be.
    bmc: String,
    redfish: String,
    ipmi: bool,
    /// `ok`, `refused`, `held`, `not tried`, `failed`.
    login: &'static str,
    username: Option<String>,
    /// Which of the given logins was taken.
    with: Option<usize>,
    vendor: String,
    model: String,
    firmware: String,
    uuid: Option<String>,
    macs: Vec<String>,
    /// What went wrong, for people.
    error: Option<String>,
}

impl Booter {
    /// Begins to look; what is found comes as it is found, and last `{"done":true,"scanned":N,"answered":N}`. It ends when
    /// nobody takes it.
    ///
    /// # Errors
    /// 400: too many addresses, ports or logins.
    pub fn scan(&self, request: Request, by: &Principal) -> Result<mpsc::Receiver<Value>, ApiError> {
        let bad = |text: String| ApiError::new(400, "POST", "bmcs", "scan", text);
        let mut addresses: Vec<IpAddr> = Vec::new();
        for network in &request.networks {
            let left = MOST.saturating_sub(u32::try_from(addresses.len()).unwrap_or(MOST));
            match network.hosts(left) {
                Some(hosts) => addresses.extend(hosts),
                None => {
                    return Err(bad(format!(
                        "{network}: {MOST} addresses are looked at in one scan, at most: scan it in smaller networks, one after the other"
                    )));
                }
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(bad("say which networks".to_owned()));
        }
        if request.ports.len() > PORTS || request.logins.len() > LOGINS {
            return Err(bad(format!("{PORTS} ports and {LOGINS} logins at most")));
        }
        let names: Vec<String> = request.networks.iter().map(ToString::to_string).collect();
        let detail = format!("{} logins={}", names.join(","), request.logins.len());
        self.inner.objects.note(by.audit("action:scan", "machines", "", detail));
        let (tell, found) = mpsc::channel(ROWS);
        let inner = Arc::clone(&self.inner);
        self.inner.runtime.spawn(inner.scan(request, addresses, tell));
        Ok(found)
    }
}

impl Inner {
    async fn scan(self: Arc<Self>, mut request: Request, addresses: Vec<IpAddr>, tell: mpsc::Sender<Value>) {
        if request.ports.is_empty() {
            request.ports.push(Port {
                port: 443,
                plain: false,
            });
        }
        let request = Arc::new(request);
        let (policy, room) = (self.gate.addresses(), Arc::new(Semaphore::new(AT_ONCE)));
        let (mut scanned, mut answered) = (0_u32, 0_u32);
        let mut looks = JoinSet::new();
        for address in addresses {
            if !policy.allows(address) {
                let text = "not inside the networks where BMCs may be (bmc-networks): nothing was sent";
                if tell.send(json!({"address": address, "refused": text})).await.is_err() {
                    return;
                }
                continue;
            }
            scanned += 1;
            let Ok(room) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let (inner, request, found) = (Arc::clone(&self), Arc::clone(&request), tell.clone());
            looks.spawn(async move {
                let _room = room;
                tokio::select! {
                    count = inner.look_at(address, &request, &found) => count,
                    () = found.closed() => 0,
                }
            });
            while let Some(Ok(found)) = looks.try_join_next() {
                answered += found;
            }
            if tell.is_closed() {
                return;
            }
        }
        while let Some(found) = looks.join_next().await {
            answered += found.unwrap_or(0);
        }
        let _ = tell
            .send(json!({"done": true, "scanned": scanned, "answered": answered}))
            .await;
    }

    /// One address, its ports one after the other; how many BMCs answered.
    async fn look_at(&self, address: IpAddr, request: &Request, tell: &mpsc::Sender<Value>) -> u32 {
        let mut found = Vec::new();
        for port in &request.ports {
            let Some(endpoint) = endpoint(address, *port, request.ipmi_port) else {
                continue;
            };
            match self.greet(&endpoint).await {
                Ok(greeting) => found.push((endpoint, greeting)),
                Err(error) if error.class == ErrorClass::Tls => {
                    // Something is there, and may well be a BMC: too old a one.
                    let row = Found {
                        error: Some(format!("{}; {}", error.message, error.hint)),
                        ..Found::at(address, &endpoint, "not tried")
                    };
                    let _ = tell.send(json!(row)).await;
                }
                Err(_) => {}
            }
        }
        let ipmi = request.ipmi_port != 0 && presence::answers(SocketAddr::new(address, request.ipmi_port), PING).await;
        if found.is_empty() && ipmi {
            let port = Port {
                port: 443,
                plain: false,
            };
            if let Some(endpoint) = endpoint(address, port, request.ipmi_port) {
                let endpoint = Endpoint {
                    mode: Mode::Ipmi,
                    ..endpoint
                };
                found.push((endpoint, Greeting::default()));
            }
        }
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        for (endpoint, greeting) in found {
            let mut row = Found {
                redfish: greeting.version,
                vendor: greeting.vendor,
                model: greeting.product,
                ipmi,
                ..Found::at(address, &endpoint, "not tried")
            };
            if endpoint.mode == Mode::Ipmi {
                row.port = endpoint.ipmi.port;
            }
            self.log_in(&endpoint, &request.logins, &mut row).await;
            if tell.send(json!(row)).await.is_err() {
                return 0;
            }
        }
        count
    }

    async fn greet(&self, endpoint: &Endpoint) -> Result<Greeting, isobar_bmc::BmcError> {
        let options = redfish::Options {
            connect_timeout: CONNECT,
            request_timeout: GREET,
            call_deadline: GREET,
            addresses: self.gate.addresses(),
            ..redfish::Options::default()
        };
        redfish::greet(endpoint.clone(), Arc::new(NoRecorder), options).await
    }

    /// Each login once, until one is taken.
    async fn log_in(&self, endpoint: &Endpoint, logins: &[Login], row: &mut Found) {
        for (number, login) in logins.iter().enumerate() {
            let endpoint = Endpoint {
                username: login.username.clone(),
                password: login.password.clone(),
                ..endpoint.clone()
            };
            if self.gate.login_refused(&endpoint) {
                (row.login, row.error) = ("held", Some("refused before, and not sent again".to_owned()));
                continue;
            }
            match self.scan_exchange(&endpoint, &Verb::Probe).await {
                Ok(Answer::Probe(probe)) => {
                    row.take(probe);
                    (row.login, row.username, row.error) = ("ok", Some(login.username.clone()), None);
                    row.with = Some(number);
                    if let Ok(Answer::Inventory(ports)) = self
                        .scan_exchange(&endpoint, &Verb::Inventory(Part::EthernetInterfaces))
                        .await
                    {
                        row.macs = macs(&ports);
                    }
                    return;
                }
                Ok(_) => return,
                Err(error) if error.class == ErrorClass::Auth => {
                    (row.login, row.error) = ("refused", Some(error.message));
                }
                // A login that was not judged is not followed by another.
                Err(error) => {
                    (row.login, row.error) = ("failed", Some(format!("{}; {}", error.message, error.hint)));
                    return;
                }
            }
        }
    }

    async fn scan_exchange(&self, endpoint: &Endpoint, verb: &Verb) -> Result<Answer, isobar_bmc::BmcError> {
        let who = format!("scan {}", authority(endpoint));
        let caller = Caller {
            endpoint,
            site: None,
            who: &who,
            // Of hundreds of BMCs: boots and what people ask for go first.
            rank: Rank::Idle,
        };
        let recorder = Arc::new(NoRecorder) as Arc<dyn Recorder>;
        self.gate.exchange(caller, recorder, verb).await
    }
}

impl Found {
    fn at(address: IpAddr, endpoint: &Endpoint, login: &'static str) -> Self {
        let usual = endpoint.url.scheme() == "https" && endpoint.url.port_or_known_default() == Some(443);
        Self {
            address: address.to_string(),
            port: endpoint.url.port_or_known_default().unwrap_or_default(),
            bmc: match usual {
                true => address.to_string(),
                false => endpoint.url.to_string(),
            },
            login,
            ..Self::default()
        }
    }

    fn take(&mut self, probe: Probe) {
        let better = |old: &mut String, new: String| {
            if !new.is_empty() {
                *old = new;
            }
        };
        better(&mut self.vendor, probe.vendor);
        better(&mut self.model, probe.model);
        better(&mut self.firmware, probe.firmware);
        self.uuid = probe.system_uuid;
    }
}

fn endpoint(address: IpAddr, port: Port, ipmi_port: u16) -> Option<Endpoint> {
    let scheme = if port.plain { "http" } else { "https" };
    let url = format!("{scheme}://{}/", SocketAddr::new(address, port.port));
    Some(Endpoint {
        url: url.parse().ok()?,
        username: String::new(),
        password: Secret::new(String::new()),
        tls: TlsTrust::FirstUse,
        system: None,
        machine_uuid: None,
        mode: Mode::Redfish,
        ipmi: IpmiFace {
            port: if ipmi_port == 0 {
                IpmiFace::default().port
            } else {
                ipmi_port
            },
            ..IpmiFace::default()
        },
        shadow: false,
    })
}

/// Hardware addresses of a machine's ports, as DRP writes them.
fn macs(ports: &Value) -> Vec<String> {
    let of = |port: &Value| {
        let names = ["PermanentMACAddress", "MACAddress"];
        let mac = names.iter().find_map(|name| port[*name].as_str())?.to_ascii_lowercase();
        let good = mac.len() == 17 && mac.split(':').all(|o| u8::from_str_radix(o, 16).is_ok());
        (good && mac != "00:00:00:00:00:00").then_some(mac)
    };
    let mut found: Vec<String> = ports.as_array().into_iter().flatten().filter_map(of).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_those_of_the_ports() {
        let ports = json!([
            {"MACAddress": "AA:BB:CC:00:00:02"}, {"MACAddress": "aa:bb:cc:00:00:01", "PermanentMACAddress": "AA:BB:CC:00:00:09"},
            {"MACAddress": "aa:bb:cc:00:00:02"}, {"MACAddress": "00:00:00:00:00:00"}, {"MACAddress": null}, {"MACAddress": "x"},
        ]);
        assert_eq!(macs(&ports), ["aa:bb:cc:00:00:02", "aa:bb:cc:00:00:09"]);
        assert!(macs(&json!({})).is_empty());
    }
}
