//! The node agent's client.

use process::grpc::agent::{AgentClient, Described, PodReport};
use process::tasks::Tasks;

use super::server::{SOON, Site, soon};

#[tokio::test]
async fn a_pod_is_described_and_the_token_goes_with_the_question() {
    let tasks = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&tasks).await;
    let client = AgentClient::new(site.control_plane());
    let described = soon("an answer", client.describe_pod("shop", "web", "u1"))
        .await
        .unwrap();
    let Described::Pod(pod) = described else {
        panic!("{described:?}")
    };
    assert_eq!((pod.enrol, pod.service_account.as_str()), (true, "web"));
    assert_eq!(pod.labels["app"], "web");
    let call = served.next_call().await;
    assert_eq!(call.authorization.as_deref(), Some("Bearer f00d"));
    assert_eq!(call.cluster.as_deref(), Some("Kubernetes"));
    assert!(call.what.contains("u1"), "{call:?}");
    // The token is read at each call.
    site.write_token("beef", 0o600);
    let described = soon("an answer", client.describe_pod("shop", "ghost", "u2"))
        .await
        .unwrap();
    assert!(
        matches!(described, Described::Unknown { .. }),
        "{described:?}"
    );
    assert_eq!(
        served.next_call().await.authorization.as_deref(),
        Some("Bearer beef")
    );
    tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn pods_are_reported_with_their_addresses() {
    let tasks = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&tasks).await;
    let client = AgentClient::new(site.control_plane());
    let pod = PodReport {
        uid: "u1".to_owned(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        ips: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        enrolled: true,
        waypoint: None,
    };
    assert!(
        soon("an answer", client.report_pods(&[pod], true))
            .await
            .unwrap()
    );
    let call = served.next_call().await;
    assert!(
        call.what.contains("10.244.1.5") && call.what.contains("fd00::5"),
        "{call:?}"
    );
    tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn a_control_plane_that_is_not_there_yet_is_found_by_the_next_call() {
    let tasks = Tasks::new();
    let site = Site::new();
    let client = AgentClient::new(site.control_plane());
    let error = soon("an error", client.describe_pod("shop", "web", "u1"))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&site.address.to_string()), "{text}");
    assert!(text.contains("nothing listens there"), "{text}");
    let _served = site.serve(&tasks).await;
    soon("an answer", client.describe_pod("shop", "web", "u1"))
        .await
        .unwrap();
    tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn a_control_plane_that_was_restarted_is_found_again() {
    let first = Tasks::new();
    let site = Site::new();
    let served = site.serve(&first).await;
    let client = AgentClient::new(site.control_plane());
    soon("an answer", client.describe_pod("shop", "web", "u1"))
        .await
        .unwrap();
    first.shutdown(SOON).await;
    drop(served);
    soon("an error", client.describe_pod("shop", "web", "u1"))
        .await
        .unwrap_err();
    let second = Tasks::new();
    let _served = site.serve(&second).await;
    soon("an answer", client.describe_pod("shop", "web", "u1"))
        .await
        .unwrap();
    second.shutdown(SOON).await;
}

#[tokio::test]
async fn the_waypoints_of_the_node_come_as_whole_lists_until_the_stream_ends() {
    let tasks = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&tasks).await;
    let client = AgentClient::new(site.control_plane());
    let mut lists = soon("a stream", client.follow_waypoints()).await.unwrap();
    let first = soon("a list", lists.next()).await.unwrap();
    assert_eq!(
        (
            first[0].namespace.as_str(),
            first[0].gateway.as_str(),
            first[0].replica
        ),
        ("shop", "gate", 3)
    );
    assert_eq!(soon("a list", lists.next()).await.unwrap(), []);
    assert!(soon("an end", lists.next()).await.is_err());
    assert_eq!(
        served.next_call().await.authorization.as_deref(),
        Some("Bearer f00d")
    );
    tasks.shutdown(SOON).await;
}
