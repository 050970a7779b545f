//! Delta xDS as a client sees it.

use std::collections::BTreeMap;

use proto::{ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL, Resource, WORKLOAD_TYPE_URL, decode};

use super::harness::{CLIENT, Culvertd, WEB, WEB_SERVICE, names, pod, versions};

#[tokio::test]
async fn a_wildcard_stream_gets_everything_then_what_changed_then_what_is_gone() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    let first = stream.take().await;
    assert_eq!(names(&first), [CLIENT, WEB, WEB_SERVICE]);
    for resource in &first.resources {
        decode::discovered(resource).unwrap();
    }
    culvertd.write("more.yaml", &pod("new", "node-a", "10.244.1.9"));
    let second = stream.take().await;
    assert_eq!(names(&second), ["Kubernetes//Pod/shop/new"]);
    assert_eq!(second.removed_resources, [""; 0]);
    std::fs::remove_file(culvertd.path("more.yaml")).unwrap();
    let third = stream.take().await;
    assert_eq!(names(&third), [""; 0]);
    assert_eq!(third.removed_resources, ["Kubernetes//Pod/shop/new"]);
    culvertd.stop().await;
}

#[tokio::test]
async fn policies_are_sent_whatever_the_subscription_says() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(AUTHORIZATION_TYPE_URL, &["*"], &["*"]).await;
    let response = stream.take().await;
    assert_eq!(
        names(&response),
        ["istio-system/istio_converted_static_strict", "shop/allow"]
    );
    let Resource::Policy(policy) = decode::discovered(&response.resources[0]).unwrap() else {
        panic!("no policy");
    };
    assert!(!policy.rules.is_empty());
    culvertd.stop().await;
}

#[tokio::test]
async fn the_type_of_workloads_alone_has_workloads_alone() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(WORKLOAD_TYPE_URL, &[], &[]).await;
    let response = stream.take().await;
    assert_eq!(names(&response), [CLIENT, WEB]);
    let content = response.resources[0].resource.as_ref().unwrap();
    assert_eq!(content.type_url, WORKLOAD_TYPE_URL);
    let workload = decode::workload(&content.value).unwrap();
    assert_eq!(&*workload.uid.0, response.resources[0].name);
    culvertd.stop().await;
}

#[tokio::test]
async fn an_on_demand_stream_gets_its_own_pods_and_what_it_asks_for() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(ADDRESS_TYPE_URL, &["*"], &["*"]).await;
    assert_eq!(names(&stream.take().await), [CLIENT]);
    // A service comes with its endpoints.
    stream.ask(ADDRESS_TYPE_URL, &["/10.96.0.80"], &[]).await;
    let response = stream.take().await;
    assert_eq!(names(&response), [WEB, WEB_SERVICE]);
    let service = response
        .resources
        .iter()
        .find(|r| r.name == WEB_SERVICE)
        .unwrap();
    assert_eq!(service.aliases, ["/10.96.0.80"]);
    // What does not exist is said to be removed, under the name it was asked by.
    stream.ask(ADDRESS_TYPE_URL, &["/10.244.9.9"], &[]).await;
    let response = stream.take().await;
    assert_eq!(names(&response), [""; 0]);
    assert_eq!(response.removed_resources, ["/10.244.9.9"]);
    // Until it does exist.
    culvertd.write("more.yaml", &pod("late", "node-c", "10.244.9.9"));
    let response = stream.take().await;
    assert_eq!(names(&response), ["Kubernetes//Pod/shop/late"]);
    // And again when it is gone.
    std::fs::remove_file(culvertd.path("more.yaml")).unwrap();
    let response = stream.take().await;
    assert_eq!(
        response.removed_resources,
        ["Kubernetes//Pod/shop/late", "/10.244.9.9"]
    );
    culvertd.stop().await;
}

#[tokio::test]
async fn names_and_uids_can_be_asked_for_and_given_up() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-z").await;
    stream
        .ask(ADDRESS_TYPE_URL, &["*", WEB_SERVICE], &["*"])
        .await;
    assert_eq!(names(&stream.take().await), [WEB, WEB_SERVICE]);
    stream
        .ask(ADDRESS_TYPE_URL, &[CLIENT], &[WEB_SERVICE])
        .await;
    let response = stream.take().await;
    assert_eq!(names(&response), [CLIENT]);
    assert_eq!(response.removed_resources, [WEB, WEB_SERVICE]);
    culvertd.stop().await;
}

#[tokio::test]
async fn a_client_that_comes_back_gets_the_difference_and_the_removals() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    let mut known = versions(&stream.take().await);
    drop(stream);
    // The versions are those of the content, so they outlive the process.
    let culvertd = culvertd.restart().await;
    let mut same = culvertd.discovery("node-a").await;
    same.ask_with_versions(ADDRESS_TYPE_URL, &known).await;
    let response = same.take().await;
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    known.insert(WEB.to_owned(), "another".to_owned());
    known.insert("Kubernetes//Pod/shop/gone".to_owned(), "one".to_owned());
    let mut changed = culvertd.discovery("node-b").await;
    changed.ask_with_versions(ADDRESS_TYPE_URL, &known).await;
    let response = changed.take().await;
    assert_eq!(names(&response), [WEB]);
    assert_eq!(response.removed_resources, ["Kubernetes//Pod/shop/gone"]);
    // One that knows nothing gets everything.
    let mut fresh = culvertd.discovery("node-c").await;
    fresh
        .ask_with_versions(ADDRESS_TYPE_URL, &BTreeMap::new())
        .await;
    assert_eq!(names(&fresh.take().await).len(), 3);
    culvertd.stop().await;
}

#[tokio::test]
async fn a_slow_client_gets_the_latest_state_and_no_queue_of_old_ones() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    let first = stream.next().await.unwrap();
    // Three states while the first is not acknowledged; what came and went is never sent.
    let has = |name: &'static str| {
        move |p: &control_plane::publication::Published| {
            p.addresses
                .contains_key(format!("Kubernetes//Pod/shop/{name}").as_str())
        }
    };
    culvertd.write("more.yaml", &pod("one", "node-a", "10.244.1.11"));
    culvertd.published(has("one")).await;
    culvertd.write("more.yaml", &pod("two", "node-a", "10.244.1.12"));
    culvertd.published(has("two")).await;
    culvertd.write("even-more.yaml", &pod("three", "node-a", "10.244.1.13"));
    culvertd.published(has("three")).await;
    stream.ack(&first).await;
    let second = stream.take().await;
    assert_eq!(
        names(&second),
        ["Kubernetes//Pod/shop/three", "Kubernetes//Pod/shop/two"]
    );
    assert_eq!(second.removed_resources, [""; 0]);
    culvertd.stop().await;
}

#[tokio::test]
async fn a_rejected_response_is_not_sent_again_and_does_not_end_the_stream() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    let first = stream.next().await.unwrap();
    stream
        .reject(
            &first,
            "workload `x`: addresses[0]: 5 bytes are no IP address",
        )
        .await;
    culvertd.write("more.yaml", &pod("new", "node-a", "10.244.1.9"));
    let second = stream.take().await;
    assert_eq!(names(&second), ["Kubernetes//Pod/shop/new"]);
    culvertd.stop().await;
}

#[tokio::test]
async fn an_answer_to_an_older_response_acknowledges_nothing() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(ADDRESS_TYPE_URL, &[], &[]).await;
    let first = stream.take().await;
    culvertd.write("more.yaml", &pod("one", "node-a", "10.244.1.11"));
    let second = stream.next().await.unwrap();
    stream.ack(&first).await;
    culvertd.write("even-more.yaml", &pod("two", "node-a", "10.244.1.12"));
    culvertd
        .published(|p| p.addresses.contains_key("Kubernetes//Pod/shop/two"))
        .await;
    stream.ack(&first).await;
    stream.ack(&second).await;
    let third = stream.take().await;
    assert_eq!(names(&third), ["Kubernetes//Pod/shop/two"]);
    culvertd.stop().await;
}

#[tokio::test]
async fn a_type_that_is_not_served_ends_the_stream_with_its_name() {
    let culvertd = Culvertd::mesh().await;
    let mut stream = culvertd.discovery("node-a").await;
    stream
        .ask(
            "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            &[],
            &[],
        )
        .await;
    let status = stream.next().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("v3.Cluster"), "{status}");
    culvertd.stop().await;
}
