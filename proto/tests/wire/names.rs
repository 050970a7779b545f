//! Names and aliases in discovery.

use mesh::{NetworkAddress, Snapshot};
use proptest::prelude::*;
use proto::{ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL, ResourceName, names};

use crate::any;

#[test]
fn a_removed_name_is_read_by_its_form() {
    let parse = |name| ResourceName::parse(ADDRESS_TYPE_URL, name).unwrap();
    let pod = names::pod_uid("Kubernetes", "shop", "web-1");
    assert_eq!(pod.to_string(), "Kubernetes//Pod/shop/web-1");
    assert_eq!(
        parse("Kubernetes//Pod/shop/web-1"),
        ResourceName::Workload(pod)
    );
    let service = names::service_key("shop/web.shop.svc").unwrap();
    assert_eq!(parse("shop/web.shop.svc"), ResourceName::Service(service));
    let address = NetworkAddress::new("west", "10.0.0.1".parse().unwrap());
    assert_eq!(parse("west/10.0.0.1"), ResourceName::Address(address));
    let address = NetworkAddress::new("", "fd00::1".parse().unwrap());
    assert_eq!(parse("/fd00::1"), ResourceName::Address(address));
    let policy = ResourceName::parse(AUTHORIZATION_TYPE_URL, "shop/deny").unwrap();
    assert_eq!(
        policy,
        ResourceName::Policy(names::policy_key("shop/deny").unwrap())
    );
}

#[test]
fn what_is_no_name_is_refused() {
    for name in ["", "/x", "x/"] {
        assert!(
            ResourceName::parse(ADDRESS_TYPE_URL, name).is_err(),
            "{name}"
        );
    }
    for name in ["", "x", "a/b/c", "a/"] {
        assert!(
            ResourceName::parse(AUTHORIZATION_TYPE_URL, name).is_err(),
            "{name}"
        );
    }
    for text in ["10.0.0.1", "a/b/10.0.0.1", "a/10.0.0", "a/10.0.0.1/32"] {
        assert!(names::network_address(text).is_err(), "{text}");
    }
    let long = "x".repeat(10_000);
    assert!(names::policy_key(&long).unwrap_err().to_string().len() < 200);
}

#[test]
fn an_alias_that_is_removed_is_absent() {
    let mut snapshot = Snapshot::new();
    let alias = ResourceName::parse(ADDRESS_TYPE_URL, "/10.0.0.1").unwrap();
    assert_eq!(alias.remove_from(&mut snapshot), None);
    assert!(snapshot.is_absent(&names::network_address("/10.0.0.1").unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_name_removes_what_it_names(resource in any::resource()) {
        let url = match resource {
            proto::Resource::Policy(_) => AUTHORIZATION_TYPE_URL,
            _ => ADDRESS_TYPE_URL,
        };
        let name = resource.name();
        let mut snapshot = Snapshot::new();
        resource.insert_into(&mut snapshot);
        let read = ResourceName::parse(url, &name.to_string()).unwrap();
        prop_assert_eq!(&read, &name);
        read.remove_from(&mut snapshot);
        prop_assert_eq!(snapshot, Snapshot::new());
    }
}
