//! A route at a parent: what one resource of type [`ROUTE_TYPE_URL`](crate::ROUTE_TYPE_URL) says.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mesh::route::stream::StreamRoute;
use mesh::route::{ParentKey, Route, RouteKey, RouteKind};

use crate::names::NameError;

/// A route at a parent.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// What it is attached to.
    pub parent: ParentKey,
    /// The route, as that parent sees it.
    pub route: AnyRoute,
}

/// A route of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyRoute {
    /// HTTPRoute or GRPCRoute.
    Http(Arc<Route>),
    /// TLSRoute or TCPRoute.
    Stream(Arc<StreamRoute>),
}

/// Name of a [`Routed`]: `<parent>/<kind>/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct RoutedName {
    pub parent: ParentKey,
    pub key: RouteKey,
}

impl Routed {
    /// Its name in discovery.
    pub fn name(&self) -> RoutedName {
        let key = match &self.route {
            AnyRoute::Http(route) => &route.key,
            AnyRoute::Stream(route) => &route.key,
        };
        RoutedName {
            parent: self.parent.clone(),
            key: key.clone(),
        }
    }
}

impl fmt::Display for RoutedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteKey {
            kind,
            namespace,
            name,
        } = &self.key;
        write!(f, "{}/{kind}/{namespace}/{name}", self.parent)
    }
}

impl FromStr for RoutedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError {
            text: text.chars().take(128).collect(),
            form: "parent/kind/namespace/name",
        };
        let mut parts = text.rsplitn(4, '/');
        let (Some(name), Some(namespace), Some(kind), Some(parent)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error());
        };
        if name.is_empty() || namespace.is_empty() {
            return Err(error());
        }
        Ok(Self {
            parent: parent.parse().map_err(|_| error())?,
            key: RouteKey {
                kind: kind_of(kind).ok_or_else(error)?,
                namespace: namespace.into(),
                name: name.into(),
            },
        })
    }
}

/// The kind of that name.
pub(crate) fn kind_of(name: &str) -> Option<RouteKind> {
    use RouteKind::{Grpc, Http, Tcp, Tls};
    let all = [Grpc, Http, Tls, Tcp];
    all.into_iter().find(|kind| kind.to_string() == name)
}
