//! Manifests of an operator: every document is taken or refused at a line that the file has, the
//! mesh that is made of them can be sent to a proxy and is read there as it was meant, and the last
//! good state outlives a restart.

use proto::{Resource, decode, encode};
use translate::document::Outcome;
use translate::{Allocations, Collection, Input, Options, Output, parse, translate};

/// Input: the text of a file.
pub fn holds(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let lines = 1..=text.lines().count().max(1);
    for document in parse(text) {
        assert!(lines.contains(&document.line), "{document:?}");
        if let Outcome::Refused(refusal) = document.outcome {
            assert!(!refusal.reason.is_empty());
            assert!(refusal.line >= document.line, "{refusal:?}");
        }
    }
    let mut collection = Collection::default();
    collection.load("a.yaml", text);
    let output = translated(&collection);
    let restored = Collection::restore(&collection.export());
    assert_eq!(
        translated(&restored),
        output,
        "another mesh after a restart"
    );
    // Broken beyond reading, the file loses nothing of what it had.
    collection.load("a.yaml", "{");
    assert_eq!(
        translated(&collection),
        output,
        "another mesh after a bad edit"
    );
    sent(output);
}

fn translated(collection: &Collection) -> Output {
    let (objects, _) = collection.objects();
    translate(&Input {
        objects: &objects,
        reports: &[],
        vips: &Allocations::new(),
        options: &Options::default(),
    })
}

fn sent(output: Output) {
    let workloads = output.workloads.into_values().map(Resource::Workload);
    let services = output.services.into_values().map(Resource::Service);
    let policies = output.policies.into_values().map(Resource::Policy);
    for resource in workloads.chain(services).chain(policies) {
        let message = encode::discovered(&resource, "1");
        assert_eq!(decode::discovered(&message), Ok(resource));
    }
}
