//! Addresses as an idle connection keeps them: small where they are IPv4, on the heap where they
//! are not. Knows of no connection.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

/// A socket address in 16 bytes, where the standard library's takes 32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(match address {
            SocketAddr::V4(address) => Form::V4(address),
            SocketAddr::V6(address) => Form::V6(Box::new(address)),
        })
    }
}

impl Address {
    /// The address.
    pub fn get(&self) -> SocketAddr {
        match &self.0 {
            Form::V4(address) => (*address).into(),
            Form::V6(address) => (**address).into(),
        }
    }
}

/// Where a connection came from and what it was made to, in 16 bytes.
#[derive(Clone, Debug)]
pub struct Ends(Both);

#[derive(Clone, Debug)]
enum Both {
    V4(SocketAddrV4, SocketAddrV4),
    Any(Box<(SocketAddr, SocketAddr)>),
}

impl Ends {
    /// Of both addresses.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self(match (source, destination) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => Both::V4(source, destination),
            both => Both::Any(Box::new(both)),
        })
    }

    /// Where it came from.
    pub fn source(&self) -> SocketAddr {
        match &self.0 {
            Both::V4(source, _) => (*source).into(),
            Both::Any(both) => both.0,
        }
    }

    /// What it was made to.
    pub fn destination(&self) -> SocketAddr {
        match &self.0 {
            Both::V4(_, destination) => (*destination).into(),
            Both::Any(both) => both.1,
        }
    }
}

/// An `:authority`: nearly always an IPv4 address and port, then without a text of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(Written);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Written {
    V4(SocketAddrV4),
    Otherwise(Box<Arc<str>>),
}

impl From<&str> for Authority {
    fn from(text: &str) -> Self {
        // A port may be written with zeros in front: then it is kept as it was written.
        let plain = |port: &str| !port.starts_with('0');
        let is_plain = text.rsplit_once(':').is_some_and(|(_, port)| plain(port));
        Self(match text.parse() {
            Ok(address) if is_plain => Written::V4(address),
            _ => Written::Otherwise(Box::new(text.into())),
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Written::V4(address) => address.fmt(f),
            Written::Otherwise(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["10.0.0.1:80", "[fd00::1]:443", "[::ffff:10.0.0.1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).get(), address);
            let other: SocketAddr = "10.0.0.2:9".parse().unwrap();
            let ends = Ends::new(address, other);
            assert_eq!((ends.source(), ends.destination()), (address, other));
        }
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 7, 3).into();
        assert_eq!(Address::from(scoped).get(), scoped);
    }

    #[test]
    fn an_authority_shows_as_it_was_written() {
        for text in [
            "10.0.0.1:80",
            "10.0.0.1:080",
            "10.0.0.1:00",
            "[fd00::1]:80",
            "web.shop:80",
            "10.0.0.1",
            "",
        ] {
            assert_eq!(Authority::from(text).to_string(), text);
        }
    }

    #[test]
    fn each_takes_16_bytes() {
        assert_eq!(size_of::<Option<Address>>(), 16);
        assert_eq!(size_of::<Ends>(), 16);
        assert_eq!(size_of::<Option<Authority>>(), 16);
    }
}
