//! Routes: as a stream carries them, and as the feed of a waypoint has them.

use mesh::route::book::Addressed;
use mesh::route::{Book, ServicePort, Table, Target};
use mesh::service::ServiceKey;
use process::admin::Readiness;
use process::metrics::XdsMetrics;
use process::tasks::Tasks;
use process::xds::{self, Config, Feed, Node, Scope};
use prometheus_client::registry::Registry;
use proto::{ROUTE_TYPE_URL, decode};

use super::harness::{Culvertd, LIMIT, names, soon, versions};
use super::own_clients::control_plane;

fn route(name: &str, backend: &str, weight: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: shop}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], \
         rules: [{{backendRefs: [{{name: {backend}, port: 80, weight: {weight}}}]}}]}}\n"
    )
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: v2, namespace: shop}\n\
                       spec: {clusterIP: 10.96.0.82, ports: [{port: 80}]}\n---\n";

const OF_WEB: &str = "service/shop/web.shop.svc.cluster.local/80/HTTPRoute/shop";

#[tokio::test]
async fn a_stream_gets_all_routes_then_the_one_that_changed() {
    let culvertd = Culvertd::mesh().await;
    culvertd.write("a.yaml", &route("a", "web", 1));
    culvertd.write("b.yaml", &route("b", "web", 1));
    culvertd.published(|p| p.routes.len() == 2).await;
    let mut stream = culvertd.discovery("node-a").await;
    stream.ask(ROUTE_TYPE_URL, &[], &[]).await;
    let first = stream.take().await;
    assert_eq!(
        names(&first),
        [format!("{OF_WEB}/a"), format!("{OF_WEB}/b")]
    );
    for resource in &first.resources {
        decode::routed(resource).unwrap();
    }
    culvertd.write("b.yaml", &route("b", "web", 2));
    let second = stream.take().await;
    assert_eq!(names(&second), [format!("{OF_WEB}/b")]);
    std::fs::remove_file(culvertd.path("a.yaml")).unwrap();
    let third = stream.take().await;
    assert_eq!(third.removed_resources, [format!("{OF_WEB}/a")]);
    // A client that comes back with what it has is sent nothing of it again.
    let mut again = culvertd.discovery("node-a").await;
    again
        .ask_with_versions(ROUTE_TYPE_URL, &versions(&second))
        .await;
    let nothing = again.take().await;
    assert!(nothing.resources.is_empty() && nothing.removed_resources.is_empty());
    culvertd.stop().await;
}

fn table(book: &Book) -> Option<&Table> {
    let web = ServicePort {
        service: ServiceKey {
            namespace: "shop".into(),
            hostname: "web.shop.svc.cluster.local".into(),
        },
        port: 80,
    };
    let addressed = Addressed {
        service: Some(&web),
        ..Addressed::default()
    };
    book.for_request(&addressed).map(|(_, table)| &**table)
}

/// The only backend of the only route.
fn backend(book: &Book) -> Option<(String, u32)> {
    let route = table(book)?.routes().next()?;
    let backend = &route.rules[0].backends[0];
    let Target::Service { service, .. } = &backend.target else {
        return None;
    };
    Some((service.hostname.to_string(), backend.weight))
}

async fn book(feed: &Feed, right: impl Fn(&Book) -> bool) {
    let mut books = feed.subscribe_book();
    let found = books.wait_for(|book| right(book));
    soon("the book", found).await.unwrap();
}

#[tokio::test]
async fn a_feed_with_routes_has_a_route_only_when_it_knows_the_service_it_leads_to() {
    let culvertd = Culvertd::mesh().await;
    let tasks = Tasks::new();
    let readiness = Readiness::new();
    let config = Config {
        node: Node::ztunnel("node-a", "Kubernetes"),
        scope: Scope::Wildcard,
        carried: None,
        routes: true,
    };
    let metrics = XdsMetrics::register(&mut Registry::default());
    let control_plane = control_plane(&culvertd, "node-a");
    let feed = xds::start(&tasks, control_plane, config, metrics, &readiness);
    let ready = async {
        while !readiness.is_ready() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon("readiness", ready).await;
    assert!(table(&feed.book()).is_none());
    let text = format!("{SERVICE}{}", route("a", "v2", 3));
    culvertd.write("a.yaml", &text);
    book(&feed, |book| table(book).is_some()).await;
    let v2 = "v2.shop.svc.cluster.local";
    assert_eq!(backend(&feed.book()), Some((v2.to_owned(), 3)));
    let key = ServiceKey {
        namespace: "shop".into(),
        hostname: v2.into(),
    };
    assert!(feed.snapshot().service(&key).is_some());
    culvertd.write("a.yaml", &format!("{SERVICE}{}", route("a", "v2", 5)));
    book(&feed, |book| {
        backend(book).is_some_and(|(_, weight)| weight == 5)
    })
    .await;
    std::fs::remove_file(culvertd.path("a.yaml")).unwrap();
    book(&feed, |book| table(book).is_none()).await;
    tasks.shutdown(LIMIT).await;
    culvertd.stop().await;
}
