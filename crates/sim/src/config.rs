//! What a simulator is made of: listener, login, machine, manners.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::SimError;
use crate::manners::{Manners, ReadManner};
use crate::paper::{OsExit, OsUp};

/// Plays the operating system of a paper machine: called when it is up, ends when the OS leaves.
pub type OsHook = Arc<dyn Fn(OsUp) -> BoxFuture<'static, OsExit> + Send + Sync>;

/// Everything that a simulator is started with. [`SimConfig::default`] is an HTTPS BMC on a free
/// port of 127.0.0.1 with a paper machine behind it, user `admin`, password `password`.
#[derive(Clone)]
pub struct SimConfig {
    /// Where the BMC listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// HTTPS with a certificate made at start; plain HTTP when false.
    pub tls: bool,
    /// PEM file with the BMC's certificate and its key; none: one is made at start.
    pub certificate: Option<PathBuf>,
    /// Login.
    pub user: String,
    /// Password. Not shown by `Debug`.
    pub password: String,
    /// UDP address of an IPMI face; port 0 takes a free one.
    pub ipmi: Option<SocketAddr>,
    /// Cipher suites of the IPMI face; empty: 17 and 3.
    pub ipmi_suites: Vec<u8>,
    /// SMBIOS UUID of the machine.
    pub uuid: Uuid,
    /// MAC address of the machine's NIC, `52:54:00:…`.
    pub mac: String,
    /// What is behind the BMC.
    pub machine: MachineKind,
    /// Firmware of the machine.
    pub firmware: Firmware,
    /// Memory of a QEMU machine in MiB.
    pub memory_mib: u32,
    /// Network of a QEMU machine.
    pub net: MachineNet,
    /// Folder for sockets, firmware variables, disk and copied images; a fresh temporary one, removed at the
    /// end, when none is given.
    pub work_dir: Option<PathBuf>,
    /// File that the serial console is appended to.
    pub serial: Option<PathBuf>,
    /// Copy the serial console to our stdout as well.
    pub echo_serial: bool,
    /// Arguments added to QEMU's, for experiments.
    pub qemu_args: Vec<String>,
    /// How the BMC behaves.
    pub manners: Manners,
    /// Folder of a recorded resource tree that Redfish shows instead of the simulator's own.
    pub replay: Option<PathBuf>,
    /// The operating system of a paper machine; none: it comes up and does nothing.
    pub os_up: Option<OsHook>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: true,
            certificate: None,
            user: "admin".into(),
            password: "password".into(),
            ipmi: None,
            ipmi_suites: Vec::new(),
            uuid: Uuid::new_v4(),
            mac: "52:54:00:12:34:56".into(),
            machine: MachineKind::Paper,
            firmware: Firmware::Uefi,
            memory_mib: 1024,
            net: MachineNet::default(),
            work_dir: None,
            serial: None,
            echo_serial: false,
            qemu_args: Vec::new(),
            manners: Manners::default(),
            replay: None,
            os_up: None,
        }
    }
}

impl fmt::Debug for SimConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimConfig")
            .field("listen", &self.listen)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("machine", &self.machine)
            .field("firmware", &self.firmware)
            .field("manners", &self.manners)
            .finish_non_exhaustive()
    }
}

impl SimConfig {
    /// For tests: a paper machine whose every delay is zero, over plain HTTP.
    pub fn quick() -> Self {
        Self {
            tls: false,
            manners: Manners::instant(),
            ..Self::default()
        }
    }

    /// What would otherwise fail late, with QEMU's words.
    pub(crate) fn check(&self) -> Result<(), SimError> {
        let octets: Vec<&str> = self.mac.split(':').collect();
        let hex = |octet: &&str| octet.len() == 2 && octet.bytes().all(|b| b.is_ascii_hexdigit());
        if octets.len() != 6 || !octets.iter().all(hex) {
            return Err(SimError::Config(format!(
                "{:?} is no MAC address: want 52:54:00:12:34:56",
                self.mac
            )));
        }
        Ok(())
    }

    /// Serial number of the system, from its UUID so that two machines differ.
    pub fn serial_number(&self) -> String {
        self.uuid.simple().to_string()[..12].to_ascii_uppercase()
    }
}

/// What is behind the BMC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineKind {
    /// A virtual machine (`qemu-system-x86_64`).
    Qemu,
    /// A state machine that reads the CD as a boot would and runs nothing.
    Paper,
}

/// Firmware of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF without Secure Boot.
    Uefi,
    /// OVMF with Microsoft's keys enrolled and Secure Boot on.
    Secureboot,
}

impl Firmware {
    /// Redfish's BootSourceOverrideMode.
    pub fn mode(self) -> &'static str {
        match self {
            Self::Bios => "Legacy",
            Self::Uefi | Self::Secureboot => "UEFI",
        }
    }
}

/// What the NIC of a QEMU machine is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineNet {
    /// QEMU's own network.
    User(UserNet),
    /// A tap device that is there.
    Tap(String),
    /// A Unix socket on which somebody listens: frames, each after its length in four bytes, big end first (QEMU's
    /// `-netdev stream`). It reaches into other network namespaces.
    Socket(PathBuf),
}

impl Default for MachineNet {
    fn default() -> Self {
        Self::User(UserNet::default())
    }
}

impl MachineNet {
    /// From `192.168.77.0/24`, `tap:NAME` or `unix:PATH`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Self, SimError> {
        match text.split_once(':') {
            // A comma would begin another option of QEMU's.
            Some(("tap" | "unix", name)) if name.is_empty() || name.contains(',') => Err(SimError::Config(format!(
                "network {text:?}: want tap:NAME or unix:PATH, without a comma"
            ))),
            Some(("tap", name)) => Ok(Self::Tap(name.to_owned())),
            Some(("unix", path)) => Ok(Self::Socket(path.into())),
            _ => UserNet::parse(text).map(Self::User),
        }
    }

    /// For QEMU's `-netdev`.
    pub(crate) fn netdev(&self, id: &str) -> String {
        match self {
            Self::User(net) => format!(
                "user,id={id},ipv6=off,net={}/{},host={},dhcpstart={},dns={}",
                net.net, net.prefix, net.host, net.dhcp_start, net.dns
            ),
            Self::Tap(name) => format!("tap,id={id},ifname={name},script=no,downscript=no"),
            Self::Socket(path) => format!("stream,id={id},server=off,addr.type=unix,addr.path={}", path.display()),
        }
    }
}

/// QEMU's user networking, as the machine sees it. The simulator's own host answers at `host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserNet {
    /// Network.
    pub net: Ipv4Addr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The host, gateway of the machine.
    pub host: Ipv4Addr,
    /// First address that QEMU's DHCP gives out.
    pub dhcp_start: Ipv4Addr,
    /// QEMU's DNS forwarder.
    pub dns: Ipv4Addr,
}

impl Default for UserNet {
    fn default() -> Self {
        Self {
            net: Ipv4Addr::new(192, 168, 77, 0),
            prefix: 24,
            host: Ipv4Addr::new(192, 168, 77, 1),
            dhcp_start: Ipv4Addr::new(192, 168, 77, 100),
            dns: Ipv4Addr::new(192, 168, 77, 3),
        }
    }
}

impl UserNet {
    /// From `192.168.77.0/24`: host is the first address, DNS the third, DHCP starts in the middle.
    ///
    /// # Errors
    /// When it is not an IPv4 network between /8 and /28.
    pub fn parse(cidr: &str) -> Result<Self, SimError> {
        let bad = || {
            SimError::Config(format!(
                "network {cidr:?}: want something like 192.168.77.0/24 (/8 to /28)"
            ))
        };
        let (address, prefix) = cidr.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if !(8..=28).contains(&prefix) {
            return Err(bad());
        }
        let size = 1u32 << (32 - prefix);
        let net = u32::from(address) & !(size - 1);
        let at = |n: u32| Ipv4Addr::from(net + n);
        Ok(Self {
            net: at(0),
            prefix,
            host: at(1),
            dns: at(3),
            dhcp_start: at((size / 2).min(100)),
        })
    }
}

/// The options of `isobar sim`, as a config file or a command line gives them; all have defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SimOptions {
    /// A post-mortem whose exchanges are replayed instead.
    pub replay_boot: Option<PathBuf>,
    /// Address and port of the BMC (`127.0.0.1:8443`).
    pub listen: Option<SocketAddr>,
    /// Plain HTTP instead of HTTPS.
    pub plain_http: bool,
    /// UDP address and port of an IPMI face; none: there is none.
    pub ipmi: Option<SocketAddr>,
    /// Login (`admin`).
    pub user: Option<String>,
    /// File with the password; without one a random password is written to `password` (mode 0600) in the
    /// work folder.
    pub password_file: Option<PathBuf>,
    /// `bios`, `uefi` or `secureboot`.
    pub firmware: Option<Firmware>,
    /// Memory in MiB.
    pub memory: Option<u32>,
    /// `lazy`, `at-insert`, `read-ahead` or `copy-all`.
    pub read_manner: Option<ReadManner>,
    /// Speed limit of reading the image, bytes a second.
    pub rate: Option<u64>,
    /// File for the serial console.
    pub serial: Option<PathBuf>,
    /// Copy the serial console to stdout.
    pub echo_serial: bool,
    /// MAC address of the machine.
    pub mac: Option<String>,
    /// SMBIOS UUID of the machine.
    pub uuid: Option<Uuid>,
    /// The machine's network: `192.168.77.0/24`, `tap:NAME` or `unix:PATH`.
    pub net: Option<String>,
    /// Folder for what the simulator keeps.
    pub work_dir: Option<PathBuf>,
    /// `qemu` (the default here) or `paper`.
    pub machine: Option<MachineKind>,
    /// A vendor whose manners the BMC has: one of [`Manners::profiles`].
    pub profile: Option<String>,
    /// All delays are divided by this.
    pub time_scale: Option<u32>,
    /// So many BMCs, on ports that follow each other.
    pub count: Option<u16>,
    /// Folder of a recorded resource tree to serve.
    pub replay: Option<PathBuf>,
    /// All manners; `profile`, `read-manner` and `rate` win over it.
    pub manners: Option<Manners>,
}

impl SimOptions {
    /// Reads the password (or makes one) and fills in the defaults.
    ///
    /// # Errors
    /// When the password file cannot be read or written, or a value is not usable.
    pub fn into_config(self) -> Result<SimConfig, SimError> {
        let mut config = SimConfig {
            machine: self.machine.unwrap_or(MachineKind::Qemu),
            ..SimConfig::default()
        };
        config.listen = self.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8443)));
        config.tls = !self.plain_http;
        config.ipmi = self.ipmi;
        config.password = match (&self.password_file, &self.work_dir) {
            (Some(path), _) => read_password(path)?,
            (None, Some(folder)) => make_password(folder)?,
            (None, None) => {
                return Err(SimError::Config(
                    "give --password-file, or --work-dir to make one in".into(),
                ));
            }
        };
        if config.ipmi.is_some() && config.password.len() > IPMI_PASSWORD {
            return Err(SimError::Config(format!(
                "IPMI carries passwords of {IPMI_PASSWORD} bytes at most: a shorter one in the password file, or no --ipmi"
            )));
        }
        if let Some(user) = self.user {
            config.user = user;
        }
        if let Some(firmware) = self.firmware {
            config.firmware = firmware;
        }
        if let Some(memory) = self.memory {
            config.memory_mib = memory;
        }
        if let Some(manners) = self.manners {
            config.manners = manners;
        }
        if let Some(name) = &self.profile {
            config.manners = config.manners.clone().with_profile(name).ok_or_else(|| {
                let known: Vec<&str> = Manners::profiles().collect();
                SimError::Config(format!("profile {name:?}: there are {}", known.join(", ")))
            })?;
            config.manners = config.manners.with_delays_of(name);
        }
        if let Some(read) = self.read_manner {
            config.manners.read = read;
        }
        if self.rate.is_some() {
            config.manners.rate_bps = self.rate;
        }
        if let Some(scale) = self.time_scale {
            config.manners = config.manners.scaled(scale);
        }
        if let Some(mac) = self.mac {
            config.mac = mac;
        }
        if let Some(uuid) = self.uuid {
            config.uuid = uuid;
        }
        if let Some(net) = &self.net {
            config.net = MachineNet::parse(net)?;
        }
        config.replay = self.replay;
        config.serial = self.serial;
        config.echo_serial = self.echo_serial;
        config.work_dir = self.work_dir;
        Ok(config)
    }
}

impl SimConfig {
    /// The `number`th of a fleet: the next port, addresses and UUIDs that follow from the first one's.
    pub(crate) fn sibling(&self, number: u16) -> Result<Self, SimError> {
        let mut config = self.clone();
        if number == 0 {
            return Ok(config);
        }
        for address in [Some(&mut config.listen), config.ipmi.as_mut()].into_iter().flatten() {
            if address.port() != 0 {
                let none = || SimError::Config(format!("no port {number} places after {}", address.port()));
                let port = address.port().checked_add(number).ok_or_else(none)?;
                address.set_port(port);
            }
        }
        // The last two octets count on.
        let octets = self
            .mac
            .split(':')
            .filter_map(|octet| u8::from_str_radix(octet, 16).ok());
        if let [a, b, c, d, e, f] = octets.collect::<Vec<u8>>()[..] {
            let [e, f] = u16::from_be_bytes([e, f]).wrapping_add(number).to_be_bytes();
            config.mac = [a, b, c, d, e, f].map(|octet| format!("{octet:02x}")).join(":");
        }
        config.uuid = Uuid::from_u128(self.uuid.as_u128().wrapping_add(number.into()));
        config.work_dir = self.work_dir.as_ref().map(|folder| folder.join(format!("{number:05}")));
        Ok(config)
    }
}

/// Bytes of a password that IPMI 2.0 carries (§22.30).
const IPMI_PASSWORD: usize = 20;

fn read_password(path: &Path) -> Result<String, SimError> {
    let text = std::fs::read_to_string(path).map_err(|source| SimError::io("read the password file", path, source))?;
    let password = text.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        return Err(SimError::Config(format!("password file {} is empty", path.display())));
    }
    Ok(password)
}

fn make_password(folder: &Path) -> Result<String, SimError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = folder.join("password");
    if path.exists() {
        return read_password(&path);
    }
    std::fs::create_dir_all(folder).map_err(|source| SimError::io("make the work folder", folder, source))?;
    // As long as IPMI takes one.
    let password = hex::encode(rand::random::<[u8; IPMI_PASSWORD / 2]>());
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(&path)
        .and_then(|mut file| writeln!(file, "{password}"))
        .map_err(|source| SimError::io("write the password file", &path, source))?;
    Ok(password)
}

/// Milliseconds of the manners as a duration.
pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_network_gives_its_addresses() {
        assert_eq!(UserNet::parse("192.168.77.0/24").unwrap(), UserNet::default());
        let small = UserNet::parse("10.1.2.33/28").unwrap();
        assert_eq!(small.net, Ipv4Addr::new(10, 1, 2, 32));
        assert_eq!(small.dhcp_start, Ipv4Addr::new(10, 1, 2, 40));
        for bad in ["10.0.0.0", "10.0.0.0/30", "10.0.0/24", "10.0.0.0/x", ""] {
            assert!(
                UserNet::parse(bad).unwrap_err().to_string().contains("192.168.77.0/24"),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_machine_is_connected_to_what_was_named() {
        for (text, netdev) in [
            (
                "10.9.0.0/16",
                "user,id=n,ipv6=off,net=10.9.0.0/16,host=10.9.0.1,dhcpstart=10.9.0.100,dns=10.9.0.3",
            ),
            ("tap:tap0", "tap,id=n,ifname=tap0,script=no,downscript=no"),
            (
                "unix:/run/port",
                "stream,id=n,server=off,addr.type=unix,addr.path=/run/port",
            ),
        ] {
            assert_eq!(MachineNet::parse(text).unwrap().netdev("n"), netdev);
        }
        for bad in ["tap:", "unix:", "tap:a,script=/x", "veth:x", ""] {
            assert!(MachineNet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_read_a_password_or_make_one_for_good() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let options: SimOptions = serde_json::from_str(
            r#"{"listen":"127.0.0.1:9443","firmware":"secureboot","read-manner":"copy-all","net":"10.9.0.0/16"}"#,
        )
        .unwrap();
        assert!(options.clone().into_config().is_err(), "no place for a password");
        let made = SimOptions {
            work_dir: Some(folder.path().to_owned()),
            ..options.clone()
        };
        let config = made.clone().into_config().unwrap();
        assert_eq!(
            (config.machine, config.firmware),
            (MachineKind::Qemu, Firmware::Secureboot)
        );
        assert_eq!(config.manners.read, ReadManner::CopyAll);
        assert_eq!(config.net, MachineNet::parse("10.9.0.0/16").unwrap());
        assert_eq!(config.password.len(), 20, "IPMI carries no more");
        assert!(!format!("{config:?}").contains(&config.password));
        assert_eq!(
            made.into_config().unwrap().password,
            config.password,
            "the same at the next start"
        );
        let file = folder.path().join("password");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "calvin\n").unwrap();
        let given = SimOptions {
            password_file: Some(file.clone()),
            ..options.clone()
        };
        assert_eq!(given.clone().into_config().unwrap().password, "calvin");
        std::fs::write(&file, "longer than IPMI can carry\n").unwrap();
        let over_ipmi = SimOptions {
            ipmi: Some("127.0.0.1:6230".parse().unwrap()),
            ..given.clone()
        };
        assert!(over_ipmi.into_config().unwrap_err().to_string().contains("20 bytes"));
        assert!(given.into_config().is_ok());
        std::fs::write(&file, "\n").unwrap();
        let empty = SimOptions {
            password_file: Some(file),
            ..options
        };
        assert!(empty.into_config().unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn siblings_differ_in_port_and_names() {
        let first = SimConfig {
            listen: "127.0.0.1:20000".parse().unwrap(),
            mac: "52:54:00:12:ff:ff".into(),
            work_dir: Some("/tmp/fleet".into()),
            ..SimConfig::default()
        };
        let next = first.sibling(2).unwrap();
        assert_eq!(next.listen.port(), 20_002);
        assert_eq!((next.mac.as_str(), next.check().is_ok()), ("52:54:00:12:00:01", true));
        assert_ne!(next.uuid, first.uuid);
        assert_ne!(next.work_dir, first.work_dir);
        assert!(first.sibling(50_000).unwrap_err().to_string().contains("no port"));
    }

    #[test]
    fn a_mac_that_is_none_is_refused() {
        assert!(SimConfig::default().check().is_ok());
        for bad in ["", "52:54:00:12:34", "52:54:00:12:34:5g", "52:54:00:12:34:56,romfile=x"] {
            assert!(
                SimConfig {
                    mac: bad.into(),
                    ..SimConfig::default()
                }
                .check()
                .is_err(),
                "{bad}"
            );
        }
    }
}
