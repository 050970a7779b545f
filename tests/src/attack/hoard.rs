//! A pod that takes the ports from which its proxy would connect to it: listeners on a client's
//! address, which needs no privilege (IP_FREEBIND).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use anyhow::ensure;
use socket2::{Domain, Protocol, Socket, Type};

/// Takes every port of the range on `address`, and prints `holding N`. What is returned holds them.
///
/// # Errors
/// A port cannot be taken for another reason than that somebody has it.
pub fn hoard(address: IpAddr, ports: RangeInclusive<u16>) -> anyhow::Result<Vec<Socket>> {
    let mut held = Vec::new();
    for port in ports.clone() {
        match take(SocketAddr::new(address, port)) {
            Ok(socket) => held.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(!held.is_empty(), "no port of {ports:?} is free");
    println!("holding {}", held.len());
    Ok(held)
}

fn take(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    match address.ip() {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket)
}
