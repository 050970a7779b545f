//! Which waypoints to run, asked as an agent asks.

use proto::wire::agent::agent_service_client::AgentServiceClient;
use proto::wire::agent::{
    FollowWaypointsRequest, FollowWaypointsResponse, PodReport, ReportPodsRequest, WaypointReport,
};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::harness::{Bearer, Culvertd, soon};

pub fn gateway(annotations: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: gate, namespace: shop, annotations: {{{annotations}}}}}\n\
         spec:\n  gatewayClassName: culvert-waypoint\n  \
         listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]\n"
    )
}

pub struct Agent {
    client: AgentServiceClient<InterceptedService<Channel, Bearer>>,
    lists: Streaming<FollowWaypointsResponse>,
}

impl Agent {
    pub async fn follow(culvertd: &Culvertd, node: &str) -> Self {
        let mut client = AgentServiceClient::new(culvertd.as_node(node).await);
        let lists = client.follow_waypoints(FollowWaypointsRequest {}).await;
        Self {
            client,
            lists: lists.unwrap().into_inner(),
        }
    }

    /// The first list with those replicas of `gate`, and its revision.
    pub async fn told(&mut self, replicas: &[u32]) -> String {
        loop {
            let list = soon("a list", self.lists.message()).await.unwrap().unwrap();
            let told: Vec<u32> = list.replicas.iter().map(|r| r.replica).collect();
            if told == replicas {
                return list
                    .replicas
                    .first()
                    .map_or(String::new(), |r| r.revision.clone());
            }
        }
    }

    pub async fn report(&mut self, replica: u32) {
        let waypoint = WaypointReport {
            gateway: "gate".into(),
            replica,
            ready: true,
            ..Default::default()
        };
        let pod = PodReport {
            uid: "u".into(),
            namespace: "shop".into(),
            name: format!("gate-{replica}"),
            ips: vec!["10.244.1.9".into()],
            enrolled: false,
            waypoint: Some(waypoint),
        };
        let pods = ReportPodsRequest {
            pods: vec![pod],
            wait_for_acks: false,
        };
        self.client.report_pods(pods).await.unwrap();
    }
}

fn believed(culvertd: &Culvertd, node: &str) -> Option<bool> {
    let published = culvertd.serving.engine.now();
    let pod = published.reports.get(node)?.first()?;
    pod.waypoint.as_ref().map(|waypoint| waypoint.draining)
}

#[tokio::test]
async fn a_gateway_is_run_by_the_node_whose_agent_follows_until_it_is_gone() {
    let culvertd = Culvertd::mesh().await;
    let mut first = Agent::follow(&culvertd, "node-a").await;
    first.told(&[]).await;
    culvertd.write("gate.yaml", &gateway(""));
    let revision = first.told(&[0]).await;
    let mut second = Agent::follow(&culvertd, "node-b").await;
    second.told(&[]).await;
    culvertd.write("gate.yaml", &gateway("culvert.io/replicas: '2'"));
    assert_eq!(second.told(&[1]).await, revision);
    culvertd.write("gate.yaml", &gateway("culvert.io/restartedAt: now"));
    second.told(&[]).await;
    assert_ne!(first.told(&[0]).await, revision);
    std::fs::remove_file(culvertd.path("gate.yaml")).unwrap();
    first.told(&[]).await;
    culvertd.stop().await;
}

#[tokio::test]
async fn a_waypoint_stays_on_its_node_over_a_restart_of_culvertd() {
    let culvertd = Culvertd::mesh().await;
    culvertd.write("gate.yaml", &gateway(""));
    Agent::follow(&culvertd, "node-b").await.told(&[0]).await;
    let culvertd = culvertd.restart().await;
    let mut other = Agent::follow(&culvertd, "node-a").await;
    let mut owner = Agent::follow(&culvertd, "node-b").await;
    let list = soon("a list", owner.lists.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(list.replicas.len(), 1, "already in the first list");
    other.told(&[]).await;
    culvertd.stop().await;
}

#[tokio::test]
async fn only_the_node_that_was_given_a_replica_is_believed_about_it() {
    let culvertd = Culvertd::mesh().await;
    culvertd.write("gate.yaml", &gateway("culvert.io/replicas: '2'"));
    let mut owner = Agent::follow(&culvertd, "node-a").await;
    owner.told(&[0, 1]).await;
    let mut stranger = Agent::follow(&culvertd, "node-b").await;
    stranger.report(0).await;
    assert_eq!(believed(&culvertd, "node-b"), None);
    owner.report(1).await;
    assert_eq!(believed(&culvertd, "node-a"), Some(false));
    culvertd.write("gate.yaml", &gateway(""));
    owner.told(&[0]).await;
    let drains = |p: &control_plane::publication::Published| {
        let pod = p.reports.get("node-a").and_then(|pods| pods.first());
        pod.and_then(|pod| pod.waypoint.as_ref())
            .is_some_and(|w| w.draining)
    };
    culvertd.published(drains).await;
    culvertd.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_the_token_it_was_opened_with() {
    let culvertd = Culvertd::mesh().await;
    let mut agent = Agent::follow(&culvertd, "node-a").await;
    agent.told(&[]).await;
    culvertd.token("node-a");
    let end = soon("the end", agent.lists.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::Unauthenticated);
    culvertd.stop().await;
}
