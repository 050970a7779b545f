//! The addresses of one workload. Knows no network.

use std::net::IpAddr;
use std::ops::Deref;

/// Addresses in their order. Nearly every workload has one, which takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Places);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Places {
    #[default]
    None,
    One(IpAddr),
    /// Two or more.
    Many(Box<[IpAddr]>),
}

impl Addresses {
    /// Keeps those that `is_kept`.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&IpAddr) -> bool) {
        *self = self.iter().copied().filter(|ip| is_kept(ip)).collect();
    }
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Places::None => &[],
            Places::One(ip) => std::slice::from_ref(ip),
            Places::Many(all) => all,
        }
    }
}

impl From<Vec<IpAddr>> for Addresses {
    fn from(all: Vec<IpAddr>) -> Self {
        Self(match all[..] {
            [] => Places::None,
            [ip] => Places::One(ip),
            _ => Places::Many(all.into()),
        })
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(all: I) -> Self {
        all.into_iter().collect::<Vec<_>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_were_made_of_however_many() {
        let all: Vec<IpAddr> = (0..4).map(|n| [10, 0, 0, n].into()).collect();
        for count in 0..4 {
            let some = Addresses::from(all[..count].to_vec());
            assert_eq!(*some, all[..count]);
            assert_eq!(all[..count].iter().copied().collect::<Addresses>(), some);
        }
        let mut kept = Addresses::from(all.clone());
        kept.retain(|ip| *ip == all[2]);
        assert_eq!(kept, Addresses::from(vec![all[2]]));
        assert_eq!(size_of::<Addresses>(), 24);
    }
}
