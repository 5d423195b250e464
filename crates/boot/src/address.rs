//! Two addresses: how a BMC reaches us and how a machine does. The networks are seldom the same.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Addresses of this server that are set, and its ports.
#[derive(Clone, Debug, Default)]
pub struct ServerAddr {
    /// For BMCs: host or address of image URLs. None: the address that routes toward the BMC.
    pub for_bmc: Option<String>,
    /// For machines: host or address of `provisioner.web` and the API. None: the address that routes toward the machine.
    pub for_machine: Option<String>,
    /// Port of the file plane.
    pub file_port: u16,
    /// Port of the API.
    pub api_port: u16,
}

impl ServerAddr {
    /// `http://HOST:PORT` for image URLs. `set` is the machine's (or profile's) own choice: a host, or a whole URL.
    #[must_use]
    pub fn bmc_url(&self, set: Option<&str>, bmc: Option<IpAddr>) -> String {
        let host = set.map(str::to_owned).or_else(|| self.for_bmc.clone());
        base_url("http", host, self.file_port, bmc)
    }

    /// `http://HOST:PORT` of the file plane for the machine.
    #[must_use]
    pub fn machine_files_url(&self, set: Option<&str>, machine: Option<IpAddr>) -> String {
        let host = set.map(str::to_owned).or_else(|| self.for_machine.clone());
        base_url("http", host, self.file_port, machine)
    }

    /// `https://HOST:PORT` of the API for the machine.
    #[must_use]
    pub fn machine_api_url(&self, set: Option<&str>, machine: Option<IpAddr>) -> String {
        let host = set.map(str::to_owned).or_else(|| self.for_machine.clone());
        base_url("https", host.map(|h| host_only(&h)), self.api_port, machine)
    }
}

fn base_url(scheme: &str, host: Option<String>, port: u16, toward: Option<IpAddr>) -> String {
    match host {
        Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
        Some(host) if has_port(&host) => format!("{scheme}://{host}"),
        Some(host) => format!("{scheme}://{}:{port}", bracketed(&host)),
        None => format!("{scheme}://{}:{port}", bracketed(&local_toward(toward).to_string())),
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
#[must_use]
pub fn local_toward(to: Option<IpAddr>) -> IpAddr {
    // A documentation address (RFC 5737) stands for "anywhere": it picks the default route.
    let to = to.unwrap_or(IpAddr::from([192, 0, 2, 1]));
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    UdpSocket::bind(any)
        .and_then(|socket| socket.connect((to, 9)).and_then(|()| socket.local_addr()))
        .map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_wins_and_else_the_route_decides() {
        let server = ServerAddr {
            for_bmc: None,
            for_machine: Some("192.168.77.1".into()),
            file_port: 8091,
            api_port: 8092,
        };
        let loopback = Some(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(server.bmc_url(None, loopback), "http://127.0.0.1:8091");
        assert_eq!(server.bmc_url(Some("10.0.0.1"), loopback), "http://10.0.0.1:8091");
        assert_eq!(
            server.bmc_url(Some("http://10.0.0.1:80/"), loopback),
            "http://10.0.0.1:80"
        );
        assert_eq!(server.bmc_url(Some("iso.example:81"), None), "http://iso.example:81");
        assert_eq!(server.bmc_url(Some("fd00::1"), None), "http://[fd00::1]:8091");
        assert_eq!(server.machine_files_url(None, loopback), "http://192.168.77.1:8091");
        assert_eq!(server.machine_api_url(None, loopback), "https://192.168.77.1:8092");
        assert_eq!(
            server.machine_api_url(Some("http://10.9.9.9:80"), None),
            "https://10.9.9.9:8092"
        );
    }
}
