//! Who is behind a service: the pods that its selector selects, or, where EndpointSlices are given
//! for it, what those say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::service::{PortMapping, ServiceKey};

use super::{key, port};
use crate::object::{Endpoint, EndpointSlice, Exposure, Name, Objects, Pod, Service, TargetPort};
use crate::policies::selects;
use crate::translation::Options;

/// Services of a pod or address with the target port of each service port.
pub(crate) type Memberships = BTreeMap<ServiceKey, Vec<PortMapping>>;

/// The endpoints of all services.
#[derive(Default)]
pub(crate) struct Endpoints {
    pub(crate) pods: BTreeMap<Name, Memberships>,
    /// Addresses of slices with no pod behind them.
    pub(crate) addresses: BTreeMap<(Name, IpAddr), SliceEndpoint>,
}

/// An address that a slice gives without a pod.
pub(crate) struct SliceEndpoint {
    pub(crate) ready: bool,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) services: Memberships,
}

impl Endpoints {
    pub(crate) fn of(objects: &Objects, options: &Options) -> Self {
        let mut slices: BTreeMap<Name, Vec<&EndpointSlice>> = BTreeMap::new();
        for (name, slice) in &objects.endpoint_slices {
            if let Some(service) = &slice.service {
                let service = Name::new(&name.namespace, service);
                slices.entry(service).or_default().push(slice);
            }
        }
        let mut pods: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for (name, pod) in &objects.pods {
            pods.entry(&name.namespace).or_default().push(pod);
        }
        let mut endpoints = Self::default();
        for (name, service) in &objects.services {
            if service.exposure == Exposure::External {
                continue;
            }
            let key = key(name, options);
            match slices.get(name) {
                Some(slices) => endpoints.add_slices(&key, service, slices),
                None if service.selector.is_empty() => {}
                None => {
                    let candidates = pods.get(&*name.namespace).into_iter().flatten();
                    endpoints.add_selected(&key, service, candidates.copied());
                }
            }
        }
        endpoints
    }

    fn add_selected<'a>(
        &mut self,
        key: &ServiceKey,
        service: &Service,
        pods: impl Iterator<Item = &'a Pod>,
    ) {
        for pod in pods.filter(|pod| selects(&service.selector, &pod.meta.labels)) {
            let target = |to: &TargetPort| match to {
                TargetPort::Number(port) => Some(*port),
                TargetPort::Name(name) => pod.ports.get(name).copied(),
            };
            let mapped = service
                .ports
                .iter()
                .filter_map(|p| Some(port(p, target(&p.target)?)));
            self.add_pod(&pod.meta.name, key, mapped.collect());
        }
    }

    fn add_slices(&mut self, key: &ServiceKey, service: &Service, slices: &[&EndpointSlice]) {
        for slice in slices {
            let mapped = service.ports.iter();
            let mapped = mapped.filter_map(|p| Some(port(p, *slice.ports.get(&p.name)?)));
            let mapped: Vec<PortMapping> = mapped.collect();
            for endpoint in &slice.endpoints {
                match &endpoint.pod {
                    // The pod's own readiness decides too; a slice can only withhold it.
                    Some(_) if !endpoint.ready && !service.publish_not_ready => {}
                    Some(pod) => {
                        let pod = Name::new(&slice.meta.name.namespace, pod);
                        self.add_pod(&pod, key, mapped.clone());
                    }
                    None => self.add_addresses(&slice.meta.name, endpoint, (key, &mapped)),
                }
            }
        }
    }

    fn add_pod(&mut self, pod: &Name, key: &ServiceKey, mapped: Vec<PortMapping>) {
        // A pod with none of the ports is no endpoint.
        if mapped.is_empty() {
            return;
        }
        let of_pod = self.pods.entry(pod.clone()).or_default();
        let ports = of_pod.entry(key.clone()).or_default();
        for port in mapped {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
    }

    fn add_addresses(
        &mut self,
        slice: &Name,
        endpoint: &Endpoint,
        (key, mapped): (&ServiceKey, &[PortMapping]),
    ) {
        for ip in endpoint.addresses.iter().filter(|_| !mapped.is_empty()) {
            let made = SliceEndpoint {
                ready: endpoint.ready,
                node: endpoint.node.clone(),
                zone: endpoint.zone.clone(),
                services: Memberships::from([(key.clone(), mapped.to_vec())]),
            };
            self.addresses.insert((slice.clone(), *ip), made);
        }
    }
}
