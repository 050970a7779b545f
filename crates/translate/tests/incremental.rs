//! A translator that has seen other inputs before gives what one gives that has not.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::route::{ParentKey, Route, RouteKind};
use proptest::collection::vec;
use proptest::prelude::*;
use translate::{Allocations, Collection, Input, Options, Output, Translator, translate};

/// Objects in a few versions each; every one may be missing too. Each stands in a file of its own.
const OBJECTS: [&[&str]; 15] = [
    &[
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}",
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: \
         {istio.io/use-waypoint: waypoint}}}",
    ],
    // What routes are for, and lead to.
    &[
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop, labels: \
         {istio.io/use-waypoint: waypoint}}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: \
         {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: more, port: 81}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {type: \
         ExternalName, externalName: elsewhere.example}}",
    ],
    &[
        "{apiVersion: v1, kind: Service, metadata: {name: v2, namespace: shop}, spec: {ports: \
         [{port: 80}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: v2, namespace: shop}, spec: \
         {clusterIP: None, ports: [{port: 8080}]}}",
    ],
    &[
        "{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: bank}, spec: \
         {clusterIP: 10.96.0.3, ports: [{port: 80}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: bank}, spec: \
         {clusterIP: 10.96.0.3, ports: [{port: 8080}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: bank, labels: {a: b}}, \
         spec: {type: ExternalName, externalName: elsewhere.example}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, \
         namespace: bank}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, \
         namespace: shop}], to: [{group: '', kind: Service}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, \
         namespace: bank}, spec: {from: [{group: gateway.networking.k8s.io, kind: TCPRoute, \
         namespace: shop}], to: [{group: '', kind: Service, name: pay}]}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint, \
         namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, \
         port: 15008, protocol: HBONE}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint, \
         namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, \
         port: 15008, protocol: HBONE}, {name: web, port: 80, protocol: HTTP, hostname: \
         '*.example'}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint, \
         namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, \
         port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: Selector, selector: \
         {matchLabels: {may: attach}}}}}]}}",
    ],
    // Routes.
    &[
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, \
         namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: \
         [{backendRefs: [{name: v2, port: 80}, {name: pay, namespace: bank, port: 80}]}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, \
         namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}, {name: \
         waypoint}], hostnames: [one.example, two.other], rules: [{matches: [{path: {type: \
         PathPrefix, value: /x}}], backendRefs: [{name: web, port: 81}]}]}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: b, \
         namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {parentRefs: \
         [{name: waypoint, sectionName: web}], hostnames: [one.example], rules: [{backendRefs: \
         [{name: web, port: 80}]}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: b, \
         namespace: bank}, spec: {parentRefs: [{group: '', kind: Service, name: web, namespace: \
         shop, port: 80}], rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a, \
         kind: B, name: c}}], backendRefs: [{name: pay, port: 80}]}]}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: a, \
         namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}, {name: \
         waypoint}], rules: [{backendRefs: [{name: v2, port: 80}]}]}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TLSRoute, metadata: {name: a, \
         namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: pay, namespace: \
         bank}, {name: waypoint}], hostnames: [one.example], rules: [{backendRefs: [{name: web, \
         port: 80}]}]}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {name: a, \
         namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: \
         [{backendRefs: [{name: pay, namespace: bank, port: 80}]}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {name: a, \
         namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: v2}], rules: \
         [{backendRefs: [{name: v2, port: 80, weight: 3}]}]}}",
    ],
    // A route at a Gateway of another namespace, whose labels let it, with a mirror and a backend
    // that a grant lets it have; and a consumer's route with a second parent, which needs one too.
    &[
        "{apiVersion: v1, kind: Namespace, metadata: {name: bank, labels: {may: attach}}}",
        "{apiVersion: v1, kind: Namespace, metadata: {name: bank}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, \
         namespace: shop}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, \
         namespace: bank}], to: [{group: '', kind: Service}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, \
         namespace: shop}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, \
         namespace: bank}], to: [{group: '', kind: Service, name: v2}]}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: c, \
         namespace: bank}, spec: {parentRefs: [{name: waypoint, namespace: shop}], rules: \
         [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, namespace: \
         shop, port: 80}}}], backendRefs: [{name: pay, port: 80}]}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: c, \
         namespace: bank}, spec: {parentRefs: [{name: waypoint, namespace: shop}], rules: \
         [{backendRefs: [{name: web, namespace: shop, port: 80, weight: 2}, {kind: Other, group: \
         a, name: pay, port: 80}]}]}}",
    ],
    &[
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: d, \
         namespace: bank}, spec: {parentRefs: [{group: '', kind: Service, name: web, namespace: \
         shop}], rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: d, \
         namespace: bank}, spec: {parentRefs: [{group: '', kind: Service, name: web, namespace: \
         shop}, {group: '', kind: Service, name: pay}], rules: [{backendRefs: [{name: web, \
         namespace: shop, port: 80}, {name: pay, port: 80}]}]}}",
    ],
];

/// Everything in its first version.
fn everything() -> BTreeMap<usize, usize> {
    (0..OBJECTS.len()).map(|object| (object, 0)).collect()
}

fn file(object: usize) -> String {
    format!("{object}.yaml")
}

/// The source, as culvertd keeps it: only what changes is read again.
#[derive(Default)]
struct Source {
    collection: Collection,
    versions: BTreeMap<usize, usize>,
}

impl Source {
    fn put(&mut self, versions: BTreeMap<usize, usize>) {
        let files: Vec<String> = versions.keys().copied().map(file).collect();
        let keep: BTreeSet<&str> = files.iter().map(String::as_str).collect();
        self.collection.retain(&keep);
        for (object, version) in &versions {
            if self.versions.get(object) != Some(version) {
                self.collection
                    .load(&file(*object), OBJECTS[*object][*version]);
            }
        }
        self.versions = versions;
    }
}

/// Translated by one that knows what was before, and by one that does not.
fn both(
    source: &Source,
    translator: &mut Translator,
    (vips, options): (&Allocations, &Options),
) -> (Output, Output) {
    let (objects, errors) = source.collection.objects();
    assert!(errors.is_empty(), "{errors:?}");
    let input = Input {
        objects: &objects,
        reports: &[],
        vips,
        options,
    };
    (translator.translate(&input), translate(&input))
}

fn http_route(output: &Output, name: &str) -> Arc<Route> {
    let of_services = output
        .routes
        .iter()
        .filter_map(|(parent, at)| match parent {
            ParentKey::Producer(to) if to.port == 80 => Some(&at.http),
            _ => None,
        });
    let mut all = of_services.flatten();
    Arc::clone(
        all.find(|route| &*route.key.name == name && route.key.kind == RouteKind::Http)
            .unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn after_any_edits_the_output_is_that_of_a_first_translation(
        edits in vec((0..OBJECTS.len(), 0..4usize, 0..12u8), 1..25),
    ) {
        let (mut source, mut translator) = (Source::default(), Translator::default());
        let mut options = Options::default();
        let mut vips = Allocations::new();
        source.put(everything());
        for (object, version, other) in edits {
            let mut versions = source.versions.clone();
            match OBJECTS[object].get(version) {
                Some(_) => versions.insert(object, version),
                None => versions.remove(&object),
            };
            source.put(versions);
            if other == 0 {
                let domains = ["cluster.local", "other.local"];
                let is_first = *options.cluster_domain == *domains[0];
                options.cluster_domain = domains[usize::from(is_first)].into();
            }
            let (kept, fresh) = both(&source, &mut translator, (&vips, &options));
            prop_assert_eq!(&kept, &fresh);
            vips = fresh.vips;
        }
    }
}

#[test]
fn a_route_that_did_not_change_is_the_very_same_and_one_that_leads_elsewhere_is_not() {
    let (mut source, mut translator) = (Source::default(), Translator::default());
    let (vips, options) = (Allocations::new(), Options::default());
    let mut versions = everything();
    // A GRPCRoute would take the place of the HTTPRoute.
    versions.remove(&8);
    source.put(versions.clone());
    let (first, _) = both(&source, &mut translator, (&vips, &options));
    let before = http_route(&first, "a");
    // Another route.
    versions.insert(10, 1);
    source.put(versions.clone());
    let (second, fresh) = both(&source, &mut translator, (&vips, &options));
    assert_eq!(second, fresh);
    assert!(Arc::ptr_eq(&before, &http_route(&second, "a")));
    // The grant that it needs.
    versions.remove(&4);
    source.put(versions);
    let (third, fresh) = both(&source, &mut translator, (&vips, &options));
    assert_eq!(third, fresh);
    assert_ne!(before, http_route(&third, "a"));
}

#[test]
fn a_change_of_a_service_makes_the_routes_that_lead_there_anew_and_no_other() {
    let (mut source, mut translator) = (Source::default(), Translator::default());
    let (vips, options) = (Allocations::new(), Options::default());
    let mut versions = everything();
    versions.remove(&8);
    source.put(versions.clone());
    let route = |output: &Output, parent: &str, name: &str| {
        let mut all = output.routes.iter();
        let (_, at) = all.find(|(key, _)| key.to_string() == parent).unwrap();
        let mut routes = at.http.iter();
        Arc::clone(routes.find(|route| &*route.key.name == name).unwrap())
    };
    let web = "service/shop/web.shop.svc.cluster.local/80";
    let consumer = "consumer/bank/shop/web.shop.svc.cluster.local/80";
    let (before, _) = both(&source, &mut translator, (&vips, &options));
    let mut check = |versions: &BTreeMap<usize, usize>, is_kept: [bool; 2]| {
        source.put(versions.clone());
        let (now, fresh) = both(&source, &mut translator, (&vips, &options));
        assert_eq!(now, fresh);
        let routes = [(web, "a"), (consumer, "d")];
        let kept = routes.map(|(parent, name)| {
            Arc::ptr_eq(&route(&before, parent, name), &route(&now, parent, name))
        });
        assert_eq!(kept, is_kept);
    };
    // The parent of both is another object now; only `d` has it as backend.
    versions.insert(1, 1);
    check(&versions, [true, false]);
    versions.insert(1, 0);
    versions.insert(3, 1);
    check(&versions, [false, false]);
}
