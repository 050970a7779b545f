//! All routes that a waypoint may need, by parent, and whose routes count for a client. Cloning one
//! is cheap, and a change of one parent touches that parent alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::parent::{GatewayKey, ParentKey, ServicePort};
use super::stream::Streams;
use super::table::Table;
use crate::policy::targeted::Targeted;

/// All routes by parent, and the policies that are for services and gateways.
#[derive(Clone, Debug, Default)]
pub struct Book {
    services: imbl::HashMap<ServicePort, AtPort>,
    gateways: imbl::HashMap<GatewayKey, Attached>,
    /// Policies with `targetRefs`.
    pub policies: Targeted,
}

#[derive(Clone, Debug, Default)]
struct AtPort {
    producer: Attached,
    consumers: BTreeMap<Arc<str>, Attached>,
}

/// What is attached to one parent. At a port of a service only one kind of route is.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    /// HTTPRoutes or GRPCRoutes.
    pub http: Arc<Table>,
    /// TLSRoutes and TCPRoutes.
    pub streams: Arc<Streams>,
}

impl Attached {
    /// Whether there is no route at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.streams.is_empty()
    }
}

/// What a client addressed, and who it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addressed<'a> {
    /// The port of a service; None: a workload itself.
    pub service: Option<&'a ServicePort>,
    /// Namespace of the client's identity; None: nobody knows it, and no consumer route counts.
    pub client_namespace: Option<&'a str>,
    /// The waypoint.
    pub gateway: Option<&'a GatewayKey>,
}

/// Whose routes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Of the client's namespace.
    Consumer,
    /// Of the service's namespace.
    Producer,
    /// Of the waypoint.
    Gateway,
}

impl Level {
    /// For people and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Producer => "producer",
            Self::Gateway => "gateway",
        }
    }
}

impl Book {
    /// The HTTP routes that count: the consumer's, else the producer's, else the waypoint's. None:
    /// there is no route, and the request goes to the service as ever.
    #[must_use]
    pub fn for_request(&self, addressed: &Addressed<'_>) -> Option<(Level, &Arc<Table>)> {
        let mut levels = self.levels(addressed);
        let (level, attached) = levels.find(|(_, attached)| !attached.http.is_empty())?;
        Some((level, &attached.http))
    }

    /// The TCP and TLS routes that count, by the same order.
    #[must_use]
    pub fn for_stream(&self, addressed: &Addressed<'_>) -> Option<(Level, &Arc<Streams>)> {
        let mut levels = self.levels(addressed);
        let (level, attached) = levels.find(|(_, attached)| !attached.streams.is_empty())?;
        Some((level, &attached.streams))
    }

    fn levels<'a>(
        &'a self,
        addressed: &Addressed<'_>,
    ) -> impl Iterator<Item = (Level, &'a Attached)> {
        let port = addressed.service.and_then(|to| self.services.get(to));
        let from = addressed.client_namespace;
        let consumer = port.and_then(|port| port.consumers.get(from?));
        let producer = port.map(|port| &port.producer);
        let gateway = addressed.gateway.and_then(|key| self.gateways.get(key));
        let consumer = consumer.map(|attached| (Level::Consumer, attached));
        let producer = producer.map(|attached| (Level::Producer, attached));
        let gateway = gateway.map(|attached| (Level::Gateway, attached));
        consumer.into_iter().chain(producer).chain(gateway)
    }

    /// What is attached to a parent; None: nothing.
    #[must_use]
    pub fn attached(&self, parent: &ParentKey) -> Option<&Attached> {
        match parent {
            ParentKey::Producer(to) => self.services.get(to).map(|port| &port.producer),
            ParentKey::Consumer(from, to) => self.services.get(to)?.consumers.get(from),
            ParentKey::Gateway(gateway) => self.gateways.get(gateway),
        }
        .filter(|attached| !attached.is_empty())
    }

    /// All parents with what is attached to them, in no order.
    pub fn parents(&self) -> impl Iterator<Item = (ParentKey, &Attached)> {
        let services = self.services.iter().flat_map(|(to, port)| {
            let consumers = port.consumers.iter();
            let consumers = consumers
                .map(|(from, attached)| (ParentKey::Consumer(from.clone(), to.clone()), attached));
            consumers.chain([(ParentKey::Producer(to.clone()), &port.producer)])
        });
        let gateways = self.gateways.iter();
        let gateways = gateways.map(|(key, attached)| (ParentKey::Gateway(key.clone()), attached));
        let all = services.chain(gateways);
        all.filter(|(_, attached)| !attached.is_empty())
    }

    /// Attaches; what was there before is gone. Nothing attached takes the parent out.
    pub fn attach(&mut self, parent: ParentKey, attached: Attached) {
        match parent {
            ParentKey::Gateway(gateway) if attached.is_empty() => {
                self.gateways.remove(&gateway);
            }
            ParentKey::Gateway(gateway) => {
                self.gateways.insert(gateway, attached);
            }
            ParentKey::Producer(to) => self.at_port(to, |port| port.producer = attached),
            ParentKey::Consumer(from, to) => self.at_port(to, |port| {
                match attached.is_empty() {
                    true => port.consumers.remove(&from),
                    false => port.consumers.insert(from, attached),
                };
            }),
        }
    }

    fn at_port(&mut self, to: ServicePort, change: impl FnOnce(&mut AtPort)) {
        let mut port = self.services.get(&to).cloned().unwrap_or_default();
        change(&mut port);
        match port.producer.is_empty() && port.consumers.is_empty() {
            true => self.services.remove(&to),
            false => self.services.insert(to, port),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Route, RouteKey, RouteKind};

    fn attached(name: &str) -> Attached {
        let route = Route {
            key: RouteKey {
                kind: RouteKind::Http,
                namespace: "shop".into(),
                name: name.into(),
            },
            created: None,
            hostnames: Vec::new(),
            rules: Vec::new(),
        };
        Attached {
            http: Arc::new(Table::new([Arc::new(route)])),
            ..Attached::default()
        }
    }

    fn key(text: &str) -> ParentKey {
        text.parse().unwrap()
    }

    #[test]
    fn the_consumers_routes_count_before_the_producers_and_those_before_the_waypoints() {
        let mut book = Book::default();
        let (producer, consumer) = ("service/shop/web/80", "consumer/bank/shop/web/80");
        book.attach(key(producer), attached("p"));
        book.attach(key(consumer), attached("c"));
        book.attach(key("gateway/shop/wp"), attached("g"));
        let at = |port| match key(&format!("service/shop/web/{port}")) {
            ParentKey::Producer(to) => to,
            other => panic!("{other}"),
        };
        let gateway = GatewayKey {
            namespace: "shop".into(),
            name: "wp".into(),
        };
        let found = |book: &Book, from: Option<&str>, port: u16| {
            let addressed = Addressed {
                service: Some(&at(port)),
                client_namespace: from,
                gateway: Some(&gateway),
            };
            let (level, table) = book.for_request(&addressed)?;
            Some((level, table.routes().next()?.key.name.to_string()))
        };
        let is = |level, name: &str| Some((level, name.to_owned()));
        assert_eq!(found(&book, Some("bank"), 80), is(Level::Consumer, "c"));
        assert_eq!(found(&book, Some("shop"), 80), is(Level::Producer, "p"));
        assert_eq!(found(&book, None, 80), is(Level::Producer, "p"));
        assert_eq!(found(&book, Some("bank"), 81), is(Level::Gateway, "g"));
        book.attach(key(consumer), Attached::default());
        assert_eq!(found(&book, Some("bank"), 80), is(Level::Producer, "p"));
        book.attach(key(producer), Attached::default());
        assert_eq!(found(&book, Some("bank"), 80), is(Level::Gateway, "g"));
        book.attach(key("gateway/shop/wp"), Attached::default());
        assert_eq!(found(&book, Some("bank"), 80), None);
        assert!(book.services.is_empty() && book.gateways.is_empty());
    }
}
