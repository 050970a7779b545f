//! Who asks for discovery, in the words that control planes of the ecosystem expect.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::wire::discovery as wire;

/// The asking proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// First part of the id: `ztunnel`.
    pub role: String,
    /// Address of the proxy; 1.1.1.1 stands for "unknown" in the ecosystem.
    pub ip: Option<IpAddr>,
    /// Kubernetes name of the proxy's pod.
    pub name: String,
    /// Kubernetes namespace of the proxy's pod.
    pub namespace: String,
    /// Name of the node it runs on.
    pub node_name: String,
    /// Name of the cluster.
    pub cluster_id: String,
    /// Further metadata (`ISTIO_META_*` with the prefix stripped).
    pub extra: BTreeMap<String, String>,
}

impl Node {
    /// The proxy of role `ztunnel` on a node, with the ecosystem's defaults.
    pub fn ztunnel(node_name: &str, cluster_id: &str) -> Self {
        Self {
            role: "ztunnel".to_owned(),
            ip: None,
            name: format!("ztunnel-{node_name}"),
            namespace: "istio-system".to_owned(),
            node_name: node_name.to_owned(),
            cluster_id: cluster_id.to_owned(),
            extra: BTreeMap::new(),
        }
    }

    pub(super) fn to_wire(&self) -> wire::Node {
        let ip = self
            .ip
            .map_or_else(|| "1.1.1.1".to_owned(), |ip| ip.to_string());
        let Self {
            role,
            name,
            namespace,
            ..
        } = self;
        let own = [
            ("NAME", name),
            ("NAMESPACE", namespace),
            ("INSTANCE_IPS", &ip),
            ("NODE_NAME", &self.node_name),
            ("CLUSTER_ID", &self.cluster_id),
        ];
        let extra = self.extra.iter().map(|(key, value)| (key.as_str(), value));
        // Own words last: nothing extra may take their place.
        let fields = extra.chain(own).map(|(key, text)| {
            let kind = Some(Kind::StringValue(text.clone()));
            (key.to_owned(), Value { kind })
        });
        wire::Node {
            id: format!("{role}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local"),
            cluster: String::new(),
            metadata: Some(Struct {
                fields: fields.collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_has_the_four_parts_of_the_ecosystem() {
        let wire = Node::ztunnel("node-1", "Kubernetes").to_wire();
        assert_eq!(
            wire.id,
            "ztunnel~1.1.1.1~ztunnel-node-1.istio-system~istio-system.svc.cluster.local"
        );
        let fields = wire.metadata.unwrap().fields;
        let text = Some(Kind::StringValue("node-1".to_owned()));
        assert_eq!(fields["NODE_NAME"].kind, text);
    }

    #[test]
    fn extra_metadata_cannot_replace_the_nodes_own() {
        let mut node = Node::ztunnel("node-1", "Kubernetes");
        node.extra
            .insert("NODE_NAME".to_owned(), "node-2".to_owned());
        node.extra
            .insert("DNS_CAPTURE".to_owned(), "true".to_owned());
        let fields = node.to_wire().metadata.unwrap().fields;
        assert_eq!(
            fields["NODE_NAME"].kind,
            Some(Kind::StringValue("node-1".to_owned()))
        );
        assert_eq!(
            fields["DNS_CAPTURE"].kind,
            Some(Kind::StringValue("true".to_owned()))
        );
    }
}
