//! Addresses, rules and routes of a pod's network namespace, over rtnetlink.
//!
//! A netlink socket belongs to the namespace it was made in, so that only its making happens
//! inside. Knows no BPF and no pods.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;

use futures::TryStreamExt;
use futures::future::{Either, select};
use netio::netns::Netns;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::abi::{LOOPBACK_IFINDEX, MARK_CAPTURE, MARK_MASK, TABLE};

/// Metric of the IPv6 capture route: named, since 0 would become the kernel's 1024.
const CAPTURE_METRIC: u32 = 1;
/// Metric of the routes that block, worse than any other.
const BLOCKING_METRIC: u32 = u32::MAX;

/// What the kernel refused, or the socket lost.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No netlink socket in the namespace.
    #[error("no netlink socket in the pod's namespace: {0}")]
    Socket(#[from] io::Error),
    /// A request was refused.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
}

fn refused(what: &'static str) -> impl Fn(rtnetlink::Error) -> RouteError {
    move |source| RouteError::Refused { what, source }
}

/// An address of an interface other than lo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Duplicate address detection still runs: it cannot be a route's source yet.
    pub tentative: bool,
}

impl Address {
    /// Whether it is one that other hosts use: not link-local, not loopback.
    pub fn is_global(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_loopback(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_loopback(),
        }
    }
}

/// The sources of the capture routes: the pod's first address of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Mandatory for IPv4, else connect() fails with ENETUNREACH.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Sources {
    /// Those of `addresses`, with `preferred` (what the runtime said) before others.
    pub fn choose(addresses: &[Address], preferred: &[IpAddr]) -> Self {
        let usable = |ip: &&IpAddr| {
            addresses
                .iter()
                .any(|address| address.ip == **ip && !address.tentative)
        };
        let found = addresses
            .iter()
            .filter(|address| address.is_global())
            .map(|a| &a.ip);
        let candidates: Vec<IpAddr> = preferred
            .iter()
            .chain(found)
            .filter(usable)
            .copied()
            .collect();
        let v4 = candidates.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let v6 = candidates.iter().find_map(|ip| match ip {
            IpAddr::V6(ip) => Some(*ip),
            IpAddr::V4(_) => None,
        });
        Self { v4, v6 }
    }
}

/// Runs `work` with a netlink handle of the namespace.
async fn with_handle<T>(
    netns: &Netns,
    work: impl AsyncFnOnce(Handle) -> Result<T, RouteError>,
) -> Result<T, RouteError> {
    let (connection, handle, _events) = netns.enter(rtnetlink::new_connection)??;
    match select(pin!(work(handle)), pin!(connection)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
    }
}

/// All addresses of the namespace but those of lo's own kind.
///
/// # Errors
/// [`RouteError`].
pub async fn addresses(netns: &Netns) -> Result<Vec<Address>, RouteError> {
    with_handle(netns, async |handle| {
        let messages: Vec<AddressMessage> = handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(refused("listing the addresses"))?;
        Ok(messages.iter().filter_map(address_of).collect())
    })
    .await
}

fn address_of(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the peer's, `Local` the own.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    let ip = local.or(address)?;
    let tentative = message.header.flags.contains(AddressHeaderFlags::Tentative);
    (!ip.is_loopback()).then_some(Address { ip, tentative })
}

/// Makes the routes of table 100 and the rules to it. What is there already is kept or corrected.
///
/// Beside the capture route of a family stands an unreachable one of the worst metric: the kernel
/// removes the first together with its source address, and without the second the marked packets
/// would leave by the main table, past the proxy.
///
/// # Errors
/// [`RouteError`]; what was made stays, for [`remove`]. A family without a source is no error when
/// its kernel part is missing or disabled.
pub async fn install(netns: &Netns, sources: Sources) -> Result<(), RouteError> {
    with_handle(netns, async |handle| {
        let v4 = sources.v4.map(capture_route_v4);
        install_family(&handle, IpVersion::V4, v4, blocking_route_v4()).await?;
        let v6 = sources.v6.map(capture_route_v6);
        let has_v6 = v6.is_some();
        match install_family(&handle, IpVersion::V6, v6, blocking_route_v6()).await {
            Err(error) if !has_v6 => {
                tracing::debug!(%error, "no IPv6 in the pod's namespace");
                Ok(())
            }
            result => result,
        }
    })
    .await
}

async fn install_family(
    handle: &Handle,
    family: IpVersion,
    capture: Option<RouteMessage>,
    blocking: RouteMessage,
) -> Result<(), RouteError> {
    let added = handle.route().add(blocking).replace().execute().await;
    added.map_err(refused("adding the unreachable route of table 100"))?;
    if let Some(route) = capture {
        let added = handle.route().add(route).replace().execute().await;
        added.map_err(refused("adding the capture route of table 100"))?;
    }
    add_rule(handle, family).await
}

fn capture_route_v4(source: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .output_interface(LOOPBACK_IFINDEX)
        .table_id(TABLE)
        .protocol(RouteProtocol::Static)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .pref_source(source)
        .build()
}

fn capture_route_v6(source: Ipv6Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
        .output_interface(LOOPBACK_IFINDEX)
        .table_id(TABLE)
        .protocol(RouteProtocol::Static)
        .kind(RouteType::Local)
        .priority(CAPTURE_METRIC)
        .pref_source(source)
        .build()
}

fn blocking_route_v4() -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .table_id(TABLE)
        .protocol(RouteProtocol::Static)
        .kind(RouteType::Unreachable)
        .priority(BLOCKING_METRIC)
        .build()
}

fn blocking_route_v6() -> RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
        .table_id(TABLE)
        .protocol(RouteProtocol::Static)
        .kind(RouteType::Unreachable)
        .priority(BLOCKING_METRIC)
        .build()
}

async fn add_rule(handle: &Handle, family: IpVersion) -> Result<(), RouteError> {
    if !our_rules(handle, &family).await?.is_empty() {
        return Ok(());
    }
    let mut request = handle
        .rule()
        .add()
        .table_id(TABLE)
        .action(RuleAction::ToTable)
        .priority(TABLE)
        .fw_mark(MARK_CAPTURE);
    request
        .message_mut()
        .attributes
        .push(RuleAttribute::FwMask(MARK_MASK));
    let added = match family {
        IpVersion::V4 => request.v4().execute().await,
        IpVersion::V6 => request.v6().execute().await,
    };
    added.map_err(refused("adding the rule of the capture mark"))
}

async fn our_rules(handle: &Handle, family: &IpVersion) -> Result<Vec<RuleMessage>, RouteError> {
    let rules: Vec<RuleMessage> = handle
        .rule()
        .get(family.clone())
        .execute()
        .try_collect()
        .await
        .map_err(refused("listing the rules"))?;
    Ok(rules.into_iter().filter(is_ours).collect())
}

fn is_ours(rule: &RuleMessage) -> bool {
    let has = |wanted: RuleAttribute| rule.attributes.contains(&wanted);
    has(RuleAttribute::Priority(TABLE))
        && has(RuleAttribute::FwMark(MARK_CAPTURE))
        && has(RuleAttribute::FwMask(MARK_MASK))
}

/// Removes rules and routes. What is not there is fine.
///
/// # Errors
/// [`RouteError`] of the first that could not be removed.
pub async fn remove(netns: &Netns) -> Result<(), RouteError> {
    with_handle(netns, async |handle| {
        for family in [IpVersion::V4, IpVersion::V6] {
            for rule in our_rules(&handle, &family).await? {
                let removed = handle.rule().del(rule).execute().await;
                removed.map_err(refused("removing the rule of the capture mark"))?;
            }
        }
        for route in our_routes(&handle).await? {
            let removed = handle.route().del(route).execute().await;
            removed.map_err(refused("removing a route of table 100"))?;
        }
        Ok(())
    })
    .await
}

async fn our_routes(handle: &Handle) -> Result<Vec<RouteMessage>, RouteError> {
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut found = Vec::new();
    for query in [v4, v6] {
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(refused("listing the routes"))?;
        let in_table = |route: &RouteMessage| {
            u32::from(route.header.table) == TABLE
                || route.attributes.contains(&RouteAttribute::Table(TABLE))
        };
        let ours = |route: &RouteMessage| is_capture_route(route) || is_blocking_route(route);
        found.extend(routes.into_iter().filter(in_table).filter(ours));
    }
    Ok(found)
}

fn is_capture_route(route: &RouteMessage) -> bool {
    let lo = RouteAttribute::Oif(LOOPBACK_IFINDEX);
    route.header.kind == RouteType::Local && route.attributes.contains(&lo)
}

fn is_blocking_route(route: &RouteMessage) -> bool {
    let metric = RouteAttribute::Priority(BLOCKING_METRIC);
    route.header.kind == RouteType::Unreachable && route.attributes.contains(&metric)
}

/// What is there of one family's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The rule of the capture mark.
    pub rule: bool,
    /// The route to lo.
    pub capture: bool,
    /// The route that blocks when the other is gone.
    pub blocking: bool,
}

/// What is there of a family that the pod has an address of.
///
/// # Errors
/// [`RouteError`].
pub async fn installed(netns: &Netns, family: IpVersion) -> Result<Installed, RouteError> {
    with_handle(netns, async |handle| {
        let rules = our_rules(&handle, &family).await?;
        let wanted = match family {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        };
        let mut routes = our_routes(&handle).await?;
        routes.retain(|route| route.header.address_family == wanted);
        Ok(Installed {
            rule: !rules.is_empty(),
            capture: routes.iter().any(is_capture_route),
            blocking: routes.iter().any(is_blocking_route),
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str) -> Address {
        Address {
            ip: ip.parse().unwrap(),
            tentative: false,
        }
    }

    #[test]
    fn the_runtimes_addresses_come_first_and_link_local_never() {
        let addresses = ["fe80::1", "10.0.0.9", "10.0.0.5", "fd00::9", "fd00::5"]
            .map(address)
            .to_vec();
        let preferred: Vec<IpAddr> = ["10.0.0.5", "fd00::5", "10.9.9.9"]
            .map(|ip| ip.parse().unwrap())
            .to_vec();
        let sources = Sources::choose(&addresses, &preferred);
        assert_eq!(sources.v4, Some("10.0.0.5".parse().unwrap()));
        assert_eq!(sources.v6, Some("fd00::5".parse().unwrap()));
        let sources = Sources::choose(&addresses, &[]);
        assert_eq!(sources.v4, Some("10.0.0.9".parse().unwrap()));
        assert_eq!(sources.v6, Some("fd00::9".parse().unwrap()));
        assert_eq!(Sources::choose(&addresses[..1], &[]), Sources::default());
    }

    #[test]
    fn a_tentative_address_is_no_source() {
        let mut v6 = address("fd00::5");
        v6.tentative = true;
        assert_eq!(Sources::choose(&[v6], &[v6.ip]), Sources::default());
    }
}
