//! The network as the kernel command line asks for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cmdline::Cmdline;
use crate::netlink::Netlink;
use crate::read_text;
use isobar_host::nic::{self, Nic};

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub prefix: u8,
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Name or MAC; none means the first with a link.
    pub interface: Option<String>,
    /// A static address; none means DHCP.
    pub address: Option<Cidr>,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
    /// VLAN, 1 to 4094.
    pub vlan: Option<u16>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

/// An argument that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{argument}={value} is {why}; set the param network-data (section prov) of this machine right and boot it again"
)]
pub struct ConfigError {
    argument: &'static str,
    value: String,
    why: &'static str,
}

impl Config {
    /// Reads `provisioner.{interface,ip,gw,vlan,mtu,dns}`.
    ///
    /// # Errors
    /// The first argument that cannot be what it should be.
    pub fn from_cmdline(cmdline: &Cmdline) -> Result<Self, ConfigError> {
        fn read<T>(
            cmdline: &Cmdline,
            argument: &'static str,
            why: &'static str,
            parse: impl Fn(&str) -> Option<T>,
        ) -> Result<Option<T>, ConfigError> {
            let Some(value) = cmdline.get(argument) else {
                return Ok(None);
            };
            parse(value).map(Some).ok_or_else(|| ConfigError {
                argument,
                value: value.to_owned(),
                why,
            })
        }
        let address = read(
            cmdline,
            "provisioner.ip",
            "no address with prefix such as 192.168.77.10/24",
            parse_cidr,
        )?;
        let gateway = read(cmdline, "provisioner.gw", "no address", |text| {
            text.parse::<IpAddr>().ok()
        })?;
        if let (Some(address), Some(gateway)) = (address, gateway)
            && address.address.is_ipv4() != gateway.is_ipv4()
        {
            return Err(ConfigError {
                argument: "provisioner.gw",
                value: gateway.to_string(),
                why: "of another IP version than provisioner.ip",
            });
        }
        Ok(Self {
            interface: cmdline.get("provisioner.interface").map(str::to_owned),
            address,
            gateway,
            vlan: read(cmdline, "provisioner.vlan", "no VLAN from 1 to 4094", |text| {
                text.parse().ok().filter(|id| (1..=4094).contains(id))
            })?,
            mtu: read(cmdline, "provisioner.mtu", "no MTU from 576 to 65535", |text| {
                text.parse().ok().filter(|mtu| (576..=65_535).contains(mtu))
            })?,
            dns: read(cmdline, "provisioner.dns", "no list of addresses", |text| {
                text.split([',', ' '])
                    .filter(|word| !word.is_empty())
                    .map(|word| word.parse().ok())
                    .collect()
            })?
            .unwrap_or_default(),
        })
    }
}

fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix = match prefix.parse::<u8>() {
        Ok(prefix) => prefix,
        Err(_) => mask_bits(prefix.parse().ok()?)?,
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= most && !address.is_unspecified() && !address.is_multicast()).then_some(Cidr { address, prefix })
}

/// Bits of `255.255.255.0`.
fn mask_bits(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    // No one may follow a zero.
    (bits.count_ones() == ones).then_some(ones as u8)
}

/// What a DHCP server gave.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    address: Cidr,
    router: Option<IpAddr>,
    dns: Vec<IpAddr>,
}

impl Lease {
    /// Reads what `etc/isobar/udhcpc` wrote: `name=value` lines with udhcpc's names.
    fn parse(text: &str) -> Option<Self> {
        let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let list = |name: &str| -> Vec<IpAddr> {
            let words = fields.get(name).copied().unwrap_or_default().split_whitespace();
            words.filter_map(|word| word.parse().ok()).collect()
        };
        let address = fields.get("ip")?.parse().ok()?;
        // udhcpc gives a mask as its number of bits.
        let prefix = match fields.get("mask").copied().unwrap_or_default() {
            "" => 24,
            mask => mask.parse().ok().or_else(|| mask_bits(mask.parse().ok()?))?,
        };
        (prefix <= 32).then(|| Self {
            address: Cidr { address, prefix },
            router: list("router").first().copied(),
            dns: list("dns"),
        })
    }
}

/// Why there is no network yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No card at all.
    #[error(
        "no network card is known to this kernel: its driver may not be in the image; look at `dmesg` in the shell on this console"
    )]
    NoCard,
    /// No card of that name.
    #[error(
        "no interface {wanted}; there are: {there}. Set interface in the param network-data (section prov) to one of these names or MACs"
    )]
    NoSuchInterface {
        /// As the command line has it.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// None has a link.
    #[error("no interface has a link: {there}. Check cables and switch ports; waiting")]
    NoLink {
        /// What there is.
        there: String,
    },
    /// No DHCP server answers.
    #[error(
        "no DHCP server answers on {interface}; still asking. Give the machine a static address with the param network-data if there is none"
    )]
    NoLease {
        /// Where was asked.
        interface: String,
    },
    /// The kernel refuses.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A file or program of the initramfs.
    #[error("cannot start the DHCP client: {0}")]
    Dhcp(#[source] io::Error),
}

/// The network as it is up.
#[derive(Debug)]
pub struct Network {
    /// The card.
    pub nic: Nic,
    /// The interface with the address: the card's or a VLAN on it.
    pub interface: String,
    /// The address.
    pub address: Cidr,
    config: Config,
    netlink: Netlink,
    index: u32,
    dhcp: Option<Dhcp>,
}

/// Where things are; other places in tests.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/sys`
    pub sys: PathBuf,
    /// `/run/isobar`
    pub run: PathBuf,
    /// `/etc/resolv.conf`
    pub resolv_conf: PathBuf,
}

/// How long one try waits for links, and for a lease on one interface.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

impl Network {
    /// Tries to bring the network up. On an error all may be tried again.
    ///
    /// # Errors
    /// Any [`NetworkError`]; what to do is in its text.
    pub fn bring_up(config: &Config, places: &Places, say: &dyn Fn(&str)) -> Result<Self, NetworkError> {
        let netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        if let Some(lo) = nic::index(&places.sys, "lo") {
            netlink.up(lo, None).map_err(kernel("set lo up"))?;
        }
        let nics = nic::list(&places.sys);
        if nics.is_empty() {
            return Err(NetworkError::NoCard);
        }
        let candidates = match &config.interface {
            Some(wanted) => {
                let nic =
                    nics.iter()
                        .find(|nic| nic.is_called(wanted))
                        .ok_or_else(|| NetworkError::NoSuchInterface {
                            wanted: wanted.clone(),
                            there: listed(&nics),
                        })?;
                vec![nic.clone()]
            }
            None => nics,
        };
        for nic in &candidates {
            netlink
                .up(nic.index, config.mtu)
                .map_err(kernel(format!("set {} up", nic.name)))?;
        }
        let linked = wait_for_link(&candidates, &places.sys);
        if linked.is_empty() {
            return Err(NetworkError::NoLink {
                there: listed(&nic::list(&places.sys)),
            });
        }
        let mut last = None;
        for nic in linked {
            match Self::set_up(nic, config, places, say) {
                Ok(network) => return Ok(network),
                // Another interface with a link may be on the network with the DHCP server.
                Err(error @ NetworkError::NoLease { .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(NetworkError::NoCard))
    }

    fn set_up(nic: Nic, config: &Config, places: &Places, say: &dyn Fn(&str)) -> Result<Self, NetworkError> {
        let netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        let (interface, index) = match config.vlan {
            None => (nic.name.clone(), nic.index),
            Some(id) => {
                let name = format!("vlan{id}");
                netlink
                    .vlan(&name, nic.index, id)
                    .map_err(kernel(format!("make VLAN {id} on {}", nic.name)))?;
                let index = nic::index(&places.sys, &name).ok_or_else(|| NetworkError::Kernel {
                    what: format!("find {name}"),
                    source: io::ErrorKind::NotFound.into(),
                })?;
                netlink
                    .up(index, config.mtu)
                    .map_err(kernel(format!("set {name} up")))?;
                (name, index)
            }
        };
        let (address, dhcp) = match config.address {
            Some(address) => (address, None),
            None => {
                say(&format!("asking for an address by DHCP on {interface} ({})", nic.mac));
                let dhcp = Dhcp::start(&interface, &places.run)?;
                let lease = dhcp.wait()?;
                (lease.address, Some(dhcp))
            }
        };
        let mut network = Self {
            nic,
            interface,
            address,
            config: config.clone(),
            netlink,
            index,
            dhcp,
        };
        network.apply(places)?;
        Ok(network)
    }

    /// Takes over what the DHCP server changed; true when the address is another one now.
    ///
    /// # Errors
    /// [`NetworkError::Kernel`].
    pub fn refresh(&mut self, places: &Places) -> Result<bool, NetworkError> {
        let Some(lease) = self.dhcp.as_ref().and_then(Dhcp::lease) else {
            return Ok(false);
        };
        if lease.address == self.address {
            return Ok(false);
        }
        // An address that is gone already is no trouble.
        let _ = self
            .netlink
            .remove_address(self.index, self.address.address, self.address.prefix);
        self.address = lease.address;
        self.apply(places)?;
        Ok(true)
    }

    fn apply(&mut self, places: &Places) -> Result<(), NetworkError> {
        let Cidr { address, prefix } = self.address;
        let lease = self.dhcp.as_ref().and_then(Dhcp::lease);
        self.netlink
            .add_address(self.index, address, prefix)
            .map_err(kernel(format!("set address {address}/{prefix} on {}", self.interface)))?;
        let gateway = self.config.gateway.or_else(|| lease.as_ref()?.router);
        if let Some(gateway) = gateway {
            self.netlink
                .default_route(self.index, gateway)
                .map_err(kernel(format!("set the route over gateway {gateway}")))?;
        }
        let dns = match &lease {
            Some(lease) if self.config.dns.is_empty() => &lease.dns,
            _ => &self.config.dns,
        };
        std::fs::write(&places.resolv_conf, resolv_conf(dns)).map_err(kernel("write resolv.conf"))
    }
}

fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Kernel { what, source }
}

fn listed(nics: &[Nic]) -> String {
    nics.iter().map(Nic::to_string).collect::<Vec<_>>().join(", ")
}

/// Those that have a link, waiting for the first; once there is one, the others get a moment more, so that the
/// order does not depend on which is faster.
fn wait_for_link(nics: &[Nic], sys: &Path) -> Vec<Nic> {
    let linked = || -> Vec<Nic> {
        let up = |nic: &&Nic| nic::carrier(sys, &nic.name) == Some(true);
        nics.iter().filter(up).cloned().collect()
    };
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if !linked().is_empty() {
            if nics.len() > 1 {
                std::thread::sleep(Duration::from_secs(1));
            }
            return linked();
        }
        std::thread::sleep(POLL);
    }
    Vec::new()
}

fn resolv_conf(dns: &[IpAddr]) -> String {
    dns.iter().fold(String::new(), |mut text, server| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "nameserver {server}");
        text
    })
}

/// busybox's DHCP client, which keeps the lease alive.
#[derive(Debug)]
struct Dhcp {
    interface: String,
    file: PathBuf,
    child: Child,
}

impl Dhcp {
    fn start(interface: &str, run: &Path) -> Result<Self, NetworkError> {
        let file = run.join(format!("lease.{interface}"));
        // A lease of an earlier try is not ours.
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(NetworkError::Dhcp(error)),
            _ => {}
        }
        let child = Command::new("/bin/busybox")
            .args([
                "udhcpc",
                "-f",
                "-s",
                "/etc/isobar/udhcpc",
                "-t",
                "3",
                "-T",
                "2",
                "-A",
                "3",
                "-i",
                interface,
            ])
            .env_clear()
            .env("PATH", "/bin:/sbin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(NetworkError::Dhcp)?;
        Ok(Self {
            interface: interface.to_owned(),
            file,
            child,
        })
    }

    fn lease(&self) -> Option<Lease> {
        Lease::parse(&read_text(&self.file)?)
    }

    fn wait(&self) -> Result<Lease, NetworkError> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(lease) = self.lease() {
                return Ok(lease);
            }
            std::thread::sleep(POLL);
        }
        Err(NetworkError::NoLease {
            interface: self.interface.clone(),
        })
    }
}

impl Drop for Dhcp {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn config(text: &str) -> Result<Config, ConfigError> {
        Config::from_cmdline(&Cmdline::parse(text))
    }

    #[test]
    fn a_static_address() {
        let config = config(
            "provisioner.ip=192.168.77.10/24 provisioner.gw=192.168.77.1 provisioner.interface=\"eth10\" \
             provisioner.vlan=1020 provisioner.mtu=9000 provisioner.dns=192.168.77.1,8.8.8.8",
        );
        let expected = Config {
            interface: Some("eth10".to_owned()),
            address: parse_cidr("192.168.77.10/24"),
            gateway: Some("192.168.77.1".parse().unwrap()),
            vlan: Some(1020),
            mtu: Some(9000),
            dns: vec!["192.168.77.1".parse().unwrap(), "8.8.8.8".parse().unwrap()],
        };
        assert_eq!(config.unwrap(), expected);
    }

    #[test]
    fn blanks_mean_dhcp() {
        let config = config("BOOTIF=discovery provisioner.ip=  provisioner.interface= x").unwrap();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("provisioner.ip=192.168.77.10", "provisioner.ip"),
            ("provisioner.ip=192.168.77.10/33", "/33"),
            ("provisioner.ip=0.0.0.0/0", "prefix"),
            ("provisioner.gw=gateway", "provisioner.gw=gateway"),
            ("provisioner.vlan=4095", "4094"),
            ("provisioner.mtu=10", "576"),
            ("provisioner.dns=a,b", "provisioner.dns"),
            ("provisioner.ip=10.0.0.1/8 provisioner.gw=fe80::1", "IP version"),
        ] {
            let error = config(text).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("network-data"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn masks() {
        assert_eq!(parse_cidr("10.0.0.1/255.255.240.0").unwrap().prefix, 20);
        assert_eq!(parse_cidr("10.0.0.1/255.0.255.0"), None);
        assert_eq!(parse_cidr("fd00::2/64").unwrap().to_string(), "fd00::2/64");
    }

    #[test]
    fn a_lease() {
        let text =
            "ip=10.0.2.15\nmask=24\nrouter=10.0.2.2 10.0.2.9\ndns=10.0.2.3\nmtu=\nlease=86400\nserverid=10.0.2.2\n";
        let lease = Lease::parse(text).unwrap();
        assert_eq!(lease.address.to_string(), "10.0.2.15/24");
        assert_eq!(lease.router, Some("10.0.2.2".parse().unwrap()));
        assert_eq!(resolv_conf(&lease.dns), "nameserver 10.0.2.3\n");
        assert_eq!(Lease::parse("mask=24\n"), None);
        assert_eq!(Lease::parse("ip=10.0.0.1\nmask=99\n"), None);
    }

    #[test]
    fn an_interface_that_is_not_there_is_answered_with_those_that_are() {
        let error = NetworkError::NoSuchInterface {
            wanted: "eth10".to_owned(),
            there: "eth0 (52:54:00:aa:bb:01, e1000e, link)".to_owned(),
        };
        let text = error.to_string();
        assert!(text.contains("eth10") && text.contains("52:54:00:aa:bb:01") && text.contains("network-data"));
    }

    proptest! {
        #[test]
        fn every_address_comes_through(address: Ipv4Addr, prefix in 0u8..=32) {
            prop_assume!(!address.is_unspecified() && !address.is_multicast());
            let config = config(&format!("provisioner.ip={address}/{prefix}")).unwrap();
            prop_assert_eq!(config.address, Some(Cidr { address: address.into(), prefix }));
        }

        #[test]
        fn nothing_is_fatal(
            name in "provisioner\\.(ip|gw|vlan|mtu|dns|interface)", value in "[0-9a-f:./, é-]{0,30}", lease in any::<String>(),
        ) {
            let _ = config(&format!("{name}=\"{value}\""));
            let _ = Lease::parse(&lease);
        }
    }
}
