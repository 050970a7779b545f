//! A publication after another says what a first one says.

use translate::{Allocations, Collection, Input, Options, Translator};

use super::*;

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, \
                       spec: {clusterIP: 10.96.0.1, ports: [PORTS]}}";

/// Names with versions, aliases and contents.
fn told(table: &Table) -> Vec<(&str, &WireResource)> {
    let entries = table.iter();
    entries
        .map(|(name, entry)| (&**name, &entry.resource))
        .collect()
}

fn service(ports: &str) -> (&'static str, String) {
    ("service.yaml", SERVICE.replace("PORTS", ports))
}

/// Route `number` of five, leading to the service's port 80 by this path.
fn route(number: usize, path: &str) -> (&'static str, String) {
    const FILES: [&str; 5] = ["r0.yaml", "r1.yaml", "r2.yaml", "r3.yaml", "r4.yaml"];
    let text = format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, \
         metadata: {{name: r{number}, namespace: shop}}, spec: {{\
         parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], \
         rules: [{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], \
         backendRefs: [{{name: web, port: 80}}]}}]}}}}"
    );
    (FILES[number], text)
}

#[derive(Default)]
struct Engine {
    collection: Collection,
    translator: Translator,
    published: Published,
}

impl Engine {
    /// Publishes the source with a file changed; what is not of one file is the same in a first
    /// publication of the same source.
    fn publish(&mut self, (file, text): (&str, String)) {
        self.collection.load(file, &text);
        let (objects, errors) = self.collection.objects();
        assert!(errors.is_empty(), "{errors:?}");
        let objects = Arc::new(objects);
        let input = Input {
            objects: &objects,
            reports: &[],
            vips: &Allocations::new(),
            options: &Options::default(),
        };
        let made = |output| Made {
            output,
            objects: objects.clone(),
            reports: Arc::default(),
            errors: Vec::new(),
        };
        let output = self.translator.translate(&input);
        self.published = self.published.next(made(output));
        let first = Published::default().next(made(translate::translate(&input)));
        for table in [
            |p: &Published| p.addresses.clone(),
            |p: &Published| p.routes.clone(),
        ] {
            assert_eq!(told(&table(&self.published)), told(&table(&first)));
        }
        assert_eq!(self.published.statuses, first.statuses);
        assert_eq!(self.published.index.by_alias, first.index.by_alias);
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.published.routes.values().cloned().collect()
    }
}

/// How many stand at the same place in both as the very same.
fn same(a: &[Arc<Entry>], b: &[Arc<Entry>]) -> usize {
    let pairs = a.iter().zip(b);
    pairs.filter(|(a, b)| Arc::ptr_eq(a, b)).count()
}

#[test]
fn one_changed_route_makes_one_entry_anew_whatever_else_changed_before() {
    let mut engine = Engine::default();
    engine.publish(service("{name: http, port: 80}"));
    for number in 0..5 {
        engine.publish(route(number, "/a"));
    }
    let before = engine.entries();
    engine.publish(route(3, "/b"));
    let after = engine.entries();
    assert_eq!((before.len(), same(&before, &after)), (5, 4));
    // The same text, and another that says the same.
    engine.publish(route(3, "/b"));
    engine.publish(route(3, "'/b'"));
    assert_eq!(told(&engine.published.routes).len(), 5);
    // All routes are made anew, and are equal.
    engine.publish(service("{name: http, port: 80}, {name: more, port: 81}"));
    let before = engine.entries();
    engine.publish(route(0, "/c"));
    assert_eq!(same(&before, &engine.entries()), 4);
    // And lead nowhere.
    engine.publish(service("{name: more, port: 81}"));
    assert!(engine.entries().is_empty());
    engine.publish(service("{name: http, port: 80}"));
    assert_eq!(engine.entries().len(), 5);
}
