//! Where BMCs are: addresses as operators write them, and the networks that may be talked to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BmcError, Endpoint, ErrorClass, IpmiFace, Mode, Secret, TlsTrust};

const WHAT: &str = "read the BMC's address";

impl Endpoint {
    /// From a machine's `ipmi/*` params.
    ///
    /// `address` is `ipmi/address`: a host name, an IPv4 or IPv6 address, either with a port
    /// (`10.0.0.5:8443`, `[fd00::5]:8443`), or a URL with scheme and port. A port in it wins over
    /// `port`, which is `ipmi/port-redfish`; without both it is the scheme's. The scheme is `https`
    /// unless the address names another. `::ffff:10.0.0.5` is `10.0.0.5`.
    ///
    /// # Errors
    /// [`ErrorClass::Unreachable`] when the address cannot be one.
    pub fn from_params(
        address: &str,
        port: Option<u16>,
        username: &str,
        password: Secret<String>,
        tls: TlsTrust,
        system: Option<&str>,
    ) -> Result<Self, BmcError> {
        Ok(Self {
            url: parse_address(address, port)?,
            username: username.to_owned(),
            password,
            tls,
            system: system.map(str::to_owned),
            machine_uuid: None,
            mode: Mode::default(),
            ipmi: IpmiFace::default(),
            shadow: false,
        })
    }

    /// Host and IPMI port, as messages name the BMC.
    #[must_use]
    pub fn ipmi_name(&self) -> String {
        format!("{}:{}/udp", self.url.host_str().unwrap_or_default(), self.ipmi.port)
    }

    /// Host and port, as messages name the BMC.
    #[must_use]
    pub fn name(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

fn parse_address(address: &str, port: Option<u16>) -> Result<url::Url, BmcError> {
    let address = address.trim();
    let wrong = |why: &str| {
        // What is refused may hold a password, so it is not repeated then.
        let shown = if address.contains('@') { "the value" } else { address };
        BmcError::new(ErrorClass::Unreachable, WHAT, format!("ipmi/address: {shown}: {why}"))
            .hinted("set ipmi/address to HOST, HOST:PORT or https://HOST:PORT")
    };
    if address.is_empty() {
        return Err(wrong("is empty"));
    }
    let text = match address.split_once("://") {
        Some(_) => address.to_owned(),
        None if address.parse::<std::net::Ipv6Addr>().is_ok() => format!("https://[{address}]"),
        None => format!("https://{address}"),
    };
    let mut url = url::Url::parse(&text).map_err(|err| wrong(&err.to_string()))?;
    if let Some(url::Host::Ipv6(long)) = url.host()
        && let Some(short) = long.to_ipv4_mapped()
    {
        // One BMC has one name, by which it has one turn, one pin and one held login.
        url.set_ip_host(short.into()).map_err(|()| wrong("is no address"))?;
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("only http and https are known"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("the login belongs into ipmi/username and ipmi/password"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("only scheme, host and port belong there"));
    }
    // `Url` forgets a port that is the scheme's own, so the text is asked whether there was one.
    let authority = text
        .split_once("://")
        .map_or("", |(_, rest)| rest)
        .trim_end_matches('/');
    let named = authority.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
    if let (false, Some(port)) = (named, port) {
        url.set_port(Some(port)).map_err(|()| wrong("cannot have a port"))?;
    }
    Ok(url)
}

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is no network: write ADDRESS/BITS, such as 10.20.0.0/16")]
pub struct NotANetwork(String);

impl Network {
    /// Whether an address lies in it. `::ffff:10.0.0.1` is 10.0.0.1.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |a: IpAddr| match a {
            IpAddr::V4(a) => (u128::from(a.to_bits()) << 96, 32),
            IpAddr::V6(a) => (a.to_bits(), 128),
        };
        let ((ours, width), (theirs, other)) = (bits(self.address), bits(address.to_canonical()));
        let shift = 128 - u32::from(self.prefix);
        width == other && ours.checked_shr(shift).unwrap_or(0) == theirs.checked_shr(shift).unwrap_or(0)
    }

    /// Addresses that hosts may have in it, if there are `most` at most: without those of the network itself and of its
    /// broadcast.
    #[must_use]
    pub fn hosts(&self, most: u32) -> Option<Vec<IpAddr>> {
        let (width, first) = match self.address {
            IpAddr::V4(a) => (32, u128::from(a.to_bits())),
            IpAddr::V6(a) => (128, a.to_bits()),
        };
        let count = 1u128
            .checked_shl(width - u32::from(self.prefix))
            .filter(|_| width < 128 || self.prefix > 0)?;
        let (first, ends) = (first & !(count - 1), u128::from(width == 32 && count > 2));
        if count > u128::from(most) + 2 * ends {
            return None;
        }
        let address = |n: u128| match self.address {
            IpAddr::V4(_) => u32::try_from(n).map_or(self.address, |n| IpAddr::from(Ipv4Addr::from_bits(n))),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::from_bits(n)),
        };
        Some((first + ends..first + count - ends).map(address).collect())
    }
}

impl std::str::FromStr for Network {
    type Err = NotANetwork;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, prefix) = text
            .trim()
            .split_once('/')
            .map_or((text.trim(), None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(width), |p| p.parse().map_err(|_| wrong()))?;
        if prefix > width {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Network {
    type Error = NotANetwork;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Which addresses may be BMCs. The default allows every unicast address, loopback included (simulated
/// BMCs live there): whoever can set `ipmi/address` can then make this server connect anywhere it has a
/// route to. Name the BMC networks where that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AddressPolicy {
    /// Networks; empty: no limit.
    pub allowed: Vec<Network>,
}

impl AddressPolicy {
    /// Whether this server may connect to `address`.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast());
        !address.is_unspecified()
            && !address.is_multicast()
            && !broadcast
            && (self.allowed.is_empty() || self.allowed.iter().any(|n| n.contains(address)))
    }
}

/// The addresses of the BMC that may be talked to; none is an error. What was checked here is what is
/// connected to, so that a name cannot mean another address a moment later.
///
/// # Errors
/// The name means nothing within `patience`, or none of its addresses is allowed ([`ErrorClass::Refused`]).
pub async fn resolve(
    endpoint: &Endpoint,
    port: u16,
    allowed: &AddressPolicy,
    patience: Duration,
) -> Result<Vec<SocketAddr>, BmcError> {
    const WHAT: &str = "connect";
    let name = endpoint.name();
    let found: Vec<SocketAddr> = match endpoint.url.host() {
        Some(url::Host::Ipv4(address)) => vec![(address, port).into()],
        Some(url::Host::Ipv6(address)) => vec![(address, port).into()],
        Some(url::Host::Domain(domain)) => {
            let lookup = tokio::time::timeout(patience, tokio::net::lookup_host((domain, port))).await;
            let fail = |why: String| BmcError::new(ErrorClass::Unreachable, WHAT, format!("BMC {name}: {why}"));
            match lookup {
                Ok(Ok(found)) => found.collect(),
                Ok(Err(err)) => return Err(fail(format!("the name cannot be resolved: {err}"))),
                Err(_) => return Err(fail("the name service does not answer".into())),
            }
        }
        None => Vec::new(),
    };
    let usable: Vec<SocketAddr> = found.iter().copied().filter(|a| allowed.allows(a.ip())).collect();
    if usable.is_empty() {
        let shown: Vec<String> = found.iter().map(|a| a.ip().to_string()).collect();
        let text = format!(
            "BMC {name}: {} is not in the networks where BMCs may be; nothing was sent",
            shown.join(", ")
        );
        return Err(BmcError::new(ErrorClass::Refused, WHAT, text)
            .hinted("correct ipmi/address, or add the network to the server's list of BMC networks"));
    }
    Ok(usable)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_as_operators_write_them() {
        for (address, port, want) in [
            ("10.0.0.5", None, "https://10.0.0.5/"),
            (" bmc-1.example ", None, "https://bmc-1.example/"),
            ("10.0.0.5", Some(8443), "https://10.0.0.5:8443/"),
            ("10.0.0.5:444", Some(8443), "https://10.0.0.5:444/"),
            ("10.0.0.5:443", Some(8443), "https://10.0.0.5/"),
            ("fd00::5", Some(8443), "https://[fd00::5]:8443/"),
            ("[fd00::5]", None, "https://[fd00::5]/"),
            ("[fd00::5]:444", Some(8443), "https://[fd00::5]:444/"),
            ("http://10.0.0.5:8000/", None, "http://10.0.0.5:8000/"),
            ("http://10.0.0.5", Some(8000), "http://10.0.0.5:8000/"),
            ("https://bmc:443", Some(8000), "https://bmc/"),
            ("::ffff:10.0.0.5", None, "https://10.0.0.5/"),
            ("[::ffff:a00:5]:444", Some(8443), "https://10.0.0.5:444/"),
            ("http://[::ffff:10.0.0.5]", Some(8000), "http://10.0.0.5:8000/"),
        ] {
            assert_eq!(parse_address(address, port).unwrap().as_str(), want, "{address}");
        }
        for address in [
            "",
            "ftp://x",
            "https://",
            "a b",
            "http://x/redfish",
            "http://x?y",
            "10.0.0.5:99999",
            "[fd00::5",
        ] {
            assert!(parse_address(address, None).is_err(), "{address}");
        }
        let err = parse_address("https://root:calvin@10.0.0.5", None).unwrap_err();
        assert!(!format!("{err} {err:?}").contains("calvin"));
    }

    #[test]
    fn networks() {
        let policy = AddressPolicy {
            allowed: vec!["10.20.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
        };
        for (address, allowed) in [
            ("10.20.3.4", true),
            ("::ffff:10.20.3.4", true),
            ("10.21.0.1", false),
            ("::ffff:10.21.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(policy.allows(address.parse().unwrap()), allowed, "{address}");
        }
        let any = AddressPolicy::default();
        assert!(any.allows("127.0.0.1".parse().unwrap()));
        for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "::ffff:0.0.0.0"] {
            assert!(!any.allows(address.parse().unwrap()), "{address}");
        }
        assert!(
            "10.0.0.0/0"
                .parse::<Network>()
                .unwrap()
                .contains("1.2.3.4".parse().unwrap())
        );
        let hosts = |network: &str, most: u32| network.parse::<Network>().unwrap().hosts(most);
        let all = hosts("10.0.0.9/24", 254).unwrap();
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!((texts.len(), &*texts[0], &*texts[253]), (254, "10.0.0.1", "10.0.0.254"));
        assert_eq!(hosts("10.0.0.7", 1).unwrap().len(), 1);
        assert_eq!(hosts("255.255.255.254/31", 2).unwrap().len(), 2);
        assert_eq!(hosts("fd00::/126", 4).unwrap().len(), 4);
        for large in ["10.0.0.0/23", "0.0.0.0/0", "::/0", "fd00::/64"] {
            assert_eq!(hosts(large, 254), None, "{large}");
        }
        for text in ["10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
