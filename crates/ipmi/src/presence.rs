//! Whether something speaks IPMI at an address, without a login.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::wire::{self, MAX_PACKET, Packet, Request};

/// UDP loses packets.
const TRIES: u32 = 2;

/// Asks for the channel's authentication capabilities (§22.13), which every BMC answers anybody. False: nothing came
/// `within` that time.
pub async fn answers(address: SocketAddr, within: Duration) -> bool {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let Ok(socket) = UdpSocket::bind(any).await else {
        return false;
    };
    // Connected: what others send is not taken for an answer.
    if socket.connect(address).await.is_err() {
        return false;
    }
    let question = wire::plain(&Request::new(0x06, 0x38, 0, &[0x8e, 0x04]).encode());
    let mut buffer = [0; MAX_PACKET];
    for _ in 0..TRIES {
        if socket.send(&question).await.is_err() {
            return false;
        }
        match tokio::time::timeout(within / TRIES, socket.recv(&mut buffer)).await {
            Ok(Ok(count)) => return matches!(wire::parse(&buffer[..count]), Ok(Packet::Plain { .. })),
            // Nobody listens there.
            Ok(Err(_)) => return false,
            Err(_) => {}
        }
    }
    false
}
