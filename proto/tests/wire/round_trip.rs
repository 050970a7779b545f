//! Domain to wire to domain is the identity.

use proptest::prelude::*;
use prost::Message;
use proto::{Resource, decode, encode};

use crate::any;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_resource_comes_back_as_it_went(resource in any::resource()) {
        let wire = encode::discovered(&resource, "7");
        prop_assert_eq!(&wire.version, "7");
        prop_assert_eq!(&wire.name, &resource.name().to_string());
        let bytes = wire.encode_to_vec();
        let read = proto::wire::discovery::Resource::decode(&bytes[..]).unwrap();
        prop_assert_eq!(decode::discovered(&read).unwrap(), resource);
    }

    #[test]
    fn a_workload_alone_comes_back_as_it_went(workload in any::workload()) {
        let bytes = encode::workload(&workload).encode_to_vec();
        prop_assert_eq!(decode::workload(&bytes).unwrap(), workload.clone());
        let url = proto::WORKLOAD_TYPE_URL;
        prop_assert_eq!(decode::resource(url, &bytes).unwrap(), Resource::Workload(workload));
    }

    #[test]
    fn equal_resources_have_equal_bytes(resource in any::resource()) {
        let bytes = |r: &Resource| encode::discovered(r, "").encode_to_vec();
        let again = decode::discovered(&encode::discovered(&resource, "")).unwrap();
        prop_assert_eq!(bytes(&resource), bytes(&again));
    }
}
