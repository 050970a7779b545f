//! What tests let a pod and an outsider do, and what they look at in the pod.

use crate::app::App;
use crate::ground::{OUTSIDE_V4, OUTSIDE_V6, POD_V4, POD_V6, Space, ip_text};
use crate::rig::Rig;

/// Connections of both families and directions, by who dialled.
pub struct Connections {
    pub outbound: Vec<u64>,
    pub inbound: Vec<u64>,
}

impl Connections {
    pub fn open(app: &mut App, outside: &mut App) -> Self {
        let outbound = [OUTSIDE_V4, OUTSIDE_V6]
            .map(|ip| app.dial(ip, 7000).id)
            .to_vec();
        let inbound = [POD_V4, POD_V6]
            .map(|ip| outside.dial(ip, 8080).id)
            .to_vec();
        Self { outbound, inbound }
    }

    pub fn work(&self, app: &mut App, outside: &mut App) {
        self.outbound.iter().for_each(|id| app.ping(*id));
        self.inbound.iter().for_each(|id| outside.ping(*id));
    }

    pub fn close(self, app: &mut App, outside: &mut App) {
        self.outbound.into_iter().for_each(|id| app.close(id));
        self.inbound.into_iter().for_each(|id| outside.close(id));
    }
}

pub fn servers(rig: &Rig) -> (App, App) {
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    for ip in [POD_V4, POD_V6] {
        app.listen(ip, 8080);
    }
    for ip in [OUTSIDE_V4, OUTSIDE_V6] {
        outside.listen(ip, 7000);
    }
    (app, outside)
}

/// All rules and routes but those of link-local addresses, which come when the link pleases.
pub fn rules(space: &Space) -> Vec<String> {
    let name = &space.name;
    let text = ["-4", "-6"].map(|family| {
        ip_text(&format!("-n {name} {family} rule"))
            + &ip_text(&format!("-n {name} {family} route show table all"))
    });
    text.concat()
        .lines()
        .filter(|line| !line.contains("fe80"))
        .map(str::to_owned)
        .collect()
}

const SYSCTLS: [&str; 3] = [
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv4/fwmark_reflect",
    "net/ipv6/fwmark_reflect",
];

pub fn sysctls(space: &Space) -> Vec<String> {
    SYSCTLS.map(|key| space.read_sysctl(key)).to_vec()
}
