//! Two addresses: how a BMC reaches us and how a machine does. The networks are seldom the same.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// How a BMC fetches an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// NFS version 3.
    Nfs,
}

impl Scheme {
    /// From the param `isobar/image-scheme`; none: whichever the BMC takes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https, Self::Nfs]
            .into_iter()
            .find(|scheme| scheme.name() == text)
    }

    /// As URLs have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Nfs => "nfs",
        }
    }

    fn usual_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Nfs => 2049,
        }
    }
}

/// Addresses of this server that are set, and its ports.
#[derive(Clone, Debug, Default)]
pub struct ServerAddr {
    /// For BMCs: host or address of image URLs. None: the address that routes toward the BMC.
    pub for_bmc: Option<String>,
    /// For machines: host or address of `provisioner.web` and the API. None: the address that routes toward the machine.
    pub for_machine: Option<String>,
    /// Port of the file plane.
    pub file_port: u16,
    /// Port on which the file plane speaks TLS; none: on none.
    pub tls_port: Option<u16>,
    /// Port on which images are served by NFS; none: they are not.
    pub nfs_port: Option<u16>,
    /// Port of the API.
    pub api_port: u16,
}

impl ServerAddr {
    /// `http://HOST:PORT` for image URLs, where somebody has set it. `set` is the machine's (or profile's) own choice: a
    /// host, or a whole URL.
    #[must_use]
    pub fn bmc_url(&self, set: Option<&str>) -> Option<String> {
        let host = set.or(self.for_bmc.as_deref())?;
        Some(base_url("http", host, self.file_port))
    }

    /// `http://HOST:PORT` for image URLs, with the address that routes toward the BMC.
    ///
    /// # Errors
    /// There is no route.
    pub fn bmc_url_toward(&self, bmc: IpAddr) -> io::Result<String> {
        let local = local_toward(bmc)?;
        Ok(base_url("http", &local.to_string(), self.file_port))
    }

    /// All places where a BMC may find what is served at `base`, best first, or the one that was forced.
    ///
    /// `base` is what [`ServerAddr::bmc_url`] gives; one that is https already is not undercut by http.
    #[must_use]
    pub fn places(&self, base: &str, forced: Option<Scheme>) -> Vec<String> {
        let host = bracketed(&host_only(base));
        let at = |scheme: Scheme, port: u16| match port == scheme.usual_port() {
            true => format!("{}://{host}", scheme.name()),
            false => format!("{}://{host}:{port}", scheme.name()),
        };
        let mut places = vec![base.to_owned()];
        if base.starts_with("http://") {
            places.extend(self.tls_port.map(|port| at(Scheme::Https, port)));
        } else if forced == Some(Scheme::Http) {
            places.push(at(Scheme::Http, self.file_port));
        }
        places.extend(self.nfs_port.map(|port| at(Scheme::Nfs, port)));
        if let Some(forced) = forced {
            let begin = format!("{}://", forced.name());
            places.retain(|place| place.starts_with(&begin));
        }
        places
    }

    /// `http://HOST:PORT` of the file plane for the machine. Without any `machine`, the default route decides.
    ///
    /// # Errors
    /// Nothing is set, and there is no route.
    pub fn machine_files_url(&self, set: Option<&str>, machine: Option<IpAddr>) -> io::Result<String> {
        let host = self.machine_host(set, machine)?;
        Ok(base_url("http", &host, self.file_port))
    }

    /// `https://HOST:PORT` of the API for the machine.
    ///
    /// # Errors
    /// As above.
    pub fn machine_api_url(&self, set: Option<&str>, machine: Option<IpAddr>) -> io::Result<String> {
        let host = self.machine_host(set, machine)?;
        Ok(base_url("https", &host_only(&host), self.api_port))
    }

    fn machine_host(&self, set: Option<&str>, machine: Option<IpAddr>) -> io::Result<String> {
        if let Some(host) = set.or(self.for_machine.as_deref()) {
            return Ok(host.to_owned());
        }
        let local = machine.map_or_else(default_address, local_toward)?;
        Ok(local.to_string())
    }
}

fn base_url(scheme: &str, host: &str, port: u16) -> String {
    match host {
        url if url.contains("://") => url.trim_end_matches('/').to_owned(),
        host if has_port(host) => format!("{scheme}://{host}"),
        host => format!("{scheme}://{}:{port}", bracketed(host)),
    }
}

fn has_port(host: &str) -> bool {
    host.parse::<IpAddr>().is_err()
        && host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

fn host_only(host: &str) -> String {
    match url::Url::parse(host) {
        Ok(url) if url.has_host() => url.host_str().unwrap_or(host).to_owned(),
        _ if has_port(host) => host.rsplit_once(':').map_or(host, |(h, _)| h).to_owned(),
        _ => host.to_owned(),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The local address that packets to `to` leave from. Connecting a UDP socket asks the routing table and sends nothing.
///
/// # Errors
/// There is no route to it.
pub fn local_toward(to: IpAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = match to {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect((to, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The local address of the default route.
///
/// # Errors
/// There is none.
pub fn default_address() -> io::Result<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849) stand for "anywhere".
    local_toward(Ipv4Addr::new(192, 0, 2, 1).into())
        .or_else(|_| local_toward(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_set_wins_and_else_the_route_decides() {
        let server = ServerAddr {
            for_bmc: None,
            for_machine: Some("192.168.77.1".into()),
            file_port: 8091,
            tls_port: Some(8091),
            nfs_port: None,
            api_port: 8092,
        };
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(server.bmc_url(None), None);
        assert_eq!(server.bmc_url_toward(loopback).unwrap(), "http://127.0.0.1:8091");
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(server.bmc_url_toward(v6).unwrap(), "http://[::1]:8091");
        for (set, url) in [
            ("10.0.0.1", "http://10.0.0.1:8091"),
            ("http://10.0.0.1:80/", "http://10.0.0.1:80"),
            ("iso.example:81", "http://iso.example:81"),
            ("fd00::1", "http://[fd00::1]:8091"),
            ("[fd00::1]", "http://[fd00::1]:8091"),
            ("[fd00::1]:81", "http://[fd00::1]:81"),
        ] {
            assert_eq!(server.bmc_url(Some(set)).as_deref(), Some(url));
        }
        let files = |set| server.machine_files_url(set, Some(loopback)).unwrap();
        let api = |set| server.machine_api_url(set, Some(loopback)).unwrap();
        assert_eq!(files(None), "http://192.168.77.1:8091");
        assert_eq!(api(None), "https://192.168.77.1:8092");
        assert_eq!(api(Some("http://10.9.9.9:80")), "https://10.9.9.9:8092");
        assert_eq!(api(Some("http://[fd00::1]:80")), "https://[fd00::1]:8092");
        let by_route = ServerAddr {
            for_machine: None,
            ..server
        };
        let url = by_route.machine_api_url(None, Some(loopback)).unwrap();
        assert_eq!(url, "https://127.0.0.1:8092");
    }

    #[test]
    fn an_image_has_a_place_for_each_scheme() {
        let all = ServerAddr {
            file_port: 8091,
            tls_port: Some(443),
            nfs_port: Some(2049),
            ..ServerAddr::default()
        };
        let bare = ServerAddr {
            file_port: 8091,
            tls_port: Some(8091),
            ..ServerAddr::default()
        };
        for (addr, base, forced, want) in [
            (
                &all,
                "http://10.0.0.1:8091",
                None,
                "http://10.0.0.1:8091 https://10.0.0.1 nfs://10.0.0.1",
            ),
            (
                &bare,
                "http://10.0.0.1:8091",
                None,
                "http://10.0.0.1:8091 https://10.0.0.1:8091",
            ),
            (
                &all,
                "http://[fd00::1]:8091",
                None,
                "http://[fd00::1]:8091 https://[fd00::1] nfs://[fd00::1]",
            ),
            (
                &all,
                "https://iso.example:81",
                None,
                "https://iso.example:81 nfs://iso.example",
            ),
            (
                &all,
                "https://iso.example:81",
                Some(Scheme::Http),
                "http://iso.example:8091",
            ),
            (&all, "http://10.0.0.1:8091", Some(Scheme::Https), "https://10.0.0.1"),
            (&all, "http://10.0.0.1:8091", Some(Scheme::Nfs), "nfs://10.0.0.1"),
            (&bare, "http://10.0.0.1:8091", Some(Scheme::Nfs), ""),
        ] {
            assert_eq!(addr.places(base, forced).join(" "), want, "{base} {forced:?}");
        }
    }
}
