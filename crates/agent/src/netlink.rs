//! The few requests of rtnetlink(7) that bring an interface up.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_OIF: u16 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;
const HEADER: usize = 16;

/// A request in the making.
#[derive(Debug)]
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST_ACK | flags).to_ne_bytes());
        // Sequence and port: one request is under way at a time.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        Self(bytes)
    }

    fn link(flags: u16, index: u32, set: u32, change: u32) -> Self {
        // struct ifinfomsg: family, pad, type, index, flags, change
        let mut fixed = vec![0; 4];
        for field in [index, set, change] {
            fixed.extend_from_slice(&field.to_ne_bytes());
        }
        Self::new(RTM_NEWLINK, flags, &fixed)
    }

    fn attribute(mut self, kind: u16, data: &[u8]) -> Self {
        attribute(&mut self.0, kind, data);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, data: &[u8]) {
    let len = u16::try_from(data.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn address_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (
            rustix::net::AddressFamily::INET.as_raw() as u8,
            address.octets().to_vec(),
        ),
        IpAddr::V6(address) => (
            rustix::net::AddressFamily::INET6.as_raw() as u8,
            address.octets().to_vec(),
        ),
    }
}

fn address_message(kind: u16, flags: u16, index: u32, address: IpAddr, prefix: u8) -> Message {
    let (family, bytes) = address_bytes(address);
    // struct ifaddrmsg: family, prefix length, flags, scope, index
    let mut fixed = vec![family, prefix, 0, 0];
    fixed.extend_from_slice(&index.to_ne_bytes());
    let message = Message::new(kind, flags, &fixed)
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes);
    match address {
        IpAddr::V4(address) if prefix < 31 => {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            message.attribute(IFA_BROADCAST, &(address.to_bits() | host).to_be_bytes())
        }
        _ => message,
    }
}

fn vlan_message(name: &str, parent: u32, id: u16) -> Message {
    let mut data = Vec::new();
    attribute(&mut data, IFLA_VLAN_ID, &id.to_ne_bytes());
    let mut info = Vec::new();
    attribute(&mut info, IFLA_INFO_KIND, b"vlan");
    attribute(&mut info, IFLA_INFO_DATA, &data);
    let mut name = name.as_bytes().to_vec();
    name.push(0);
    Message::link(CREATE | EXCLUSIVE, 0, 0, 0)
        .attribute(IFLA_IFNAME, &name)
        .attribute(IFLA_LINK, &parent.to_ne_bytes())
        .attribute(IFLA_LINKINFO, &info)
}

fn default_route_message(index: u32, gateway: IpAddr) -> Message {
    let (family, bytes) = address_bytes(gateway);
    // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags
    let mut fixed = vec![family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST];
    // A gateway outside the subnet is met in practice, and works this way.
    fixed.extend_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    Message::new(RTM_NEWROUTE, CREATE | REPLACE, &fixed)
        .attribute(RTA_GATEWAY, &bytes)
        .attribute(RTA_OIF, &index.to_ne_bytes())
}

/// A socket to the kernel's routing tables.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has no netlink or no file descriptor left.
    pub fn open() -> io::Result<Self> {
        // Without a protocol it is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(10)))?;
        Ok(Self(socket))
    }

    /// Sets an interface up, with an MTU if one is given.
    ///
    /// # Errors
    /// In the kernel's words: no such interface, an MTU that the card cannot do.
    pub fn up(&self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        if let Some(mtu) = mtu {
            self.request(Message::link(0, index, 0, 0).attribute(IFLA_MTU, &mtu.to_ne_bytes()))?;
        }
        self.request(Message::link(0, index, IFF_UP, IFF_UP))
    }

    /// Adds a VLAN interface; one of that name that is there already is good.
    ///
    /// # Errors
    /// When the kernel has no 8021q, or refuses.
    pub fn vlan(&self, name: &str, parent: u32, id: u16) -> io::Result<()> {
        match self.request(vlan_message(name, parent, id)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// In the kernel's words.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        self.request(address_message(RTM_NEWADDR, CREATE | REPLACE, index, address, prefix))
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// In the kernel's words.
    pub fn remove_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        self.request(address_message(RTM_DELADDR, 0, index, address, prefix))
    }

    /// Sets the default route.
    ///
    /// # Errors
    /// In the kernel's words: the network is down or not reachable.
    pub fn default_route(&self, index: u32, gateway: IpAddr) -> io::Result<()> {
        self.request(default_route_message(index, gateway))
    }

    fn request(&self, message: Message) -> io::Result<()> {
        send(&self.0, &message.finish(), SendFlags::empty())?;
        let mut answer = [0; 4096];
        loop {
            let (len, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
            if let Some(result) = acknowledgement(&answer[..len.min(4096)]) {
                return result;
            }
        }
    }
}

/// What the kernel says in an answer, if it is an acknowledgement.
fn acknowledgement(answer: &[u8]) -> Option<io::Result<()>> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then(|| match error.checked_neg() {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_as_the_kernel_wants_them() {
        let bytes = address_message(RTM_NEWADDR, CREATE, 2, "192.168.77.10".parse().unwrap(), 24).finish();
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(bytes[16..24], [2, 24, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[24..32], [8, 0, 2, 0, 192, 168, 77, 10]);
        assert_eq!(bytes[40..48], [8, 0, 4, 0, 192, 168, 77, 255]);
        // A point-to-point link has no broadcast.
        let bytes = address_message(RTM_NEWADDR, CREATE, 2, "10.0.0.0".parse().unwrap(), 31).finish();
        assert_eq!(bytes.len(), 40);
    }

    #[test]
    fn attributes_are_padded_but_their_lengths_are_not() {
        let bytes = vlan_message("eth0.7", 2, 7).finish();
        assert_eq!(bytes.len() % 4, 0);
        // ifinfomsg ends at 32; the name is 4 + 7 bytes, padded to 12.
        assert_eq!(bytes[32..36], [11, 0, 3, 0]);
        assert_eq!(bytes[44..48], [8, 0, 5, 0]);
    }

    #[test]
    fn answers() {
        let answer = |kind: u16, error: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            acknowledgement(&bytes)
        };
        assert!(answer(2, 0).unwrap().is_ok());
        assert_eq!(
            answer(2, -17).unwrap().unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert!(answer(16, 0).is_none());
        assert!(answer(2, i32::MIN).unwrap().is_err());
        assert!(acknowledgement(&[1, 2]).is_none());
    }

    #[test]
    fn the_kernel_knows_the_form() {
        // Interface 0 does not exist: no change is possible, yet a malformed request would be EINVAL for other reasons.
        let error = Netlink::open()
            .unwrap()
            .default_route(0x7fff_ffff, "192.0.2.1".parse().unwrap())
            .unwrap_err();
        let code = error.raw_os_error().unwrap();
        let known = [rustix::io::Errno::NODEV, rustix::io::Errno::PERM].map(|errno| errno.raw_os_error());
        assert!(known.contains(&code), "{error}");
    }
}
