//! The directory as it changes, goes bad, and goes away.

use std::os::unix::fs::PermissionsExt;

use super::harness::{CLIENT, Culvertd, MESH, WEB, directory, pod, refusal};

#[tokio::test]
async fn a_bad_document_keeps_its_last_good_version_while_all_else_changes() {
    let culvertd = Culvertd::mesh().await;
    // The policy goes bad, the web pod moves, and a pod is new: one file, one write.
    let bad = MESH
        .replace("principals:", "principal:")
        .replace("10.244.2.2", "10.244.2.3");
    culvertd.write(
        "mesh.yaml",
        &format!("{bad}---\n{}", pod("new", "node-a", "10.244.1.9")),
    );
    let published = culvertd.published(|p| !p.errors.is_empty()).await;
    let [error] = &published.errors[..] else {
        panic!("{:?}", published.errors)
    };
    assert_eq!((&*error.file, error.last_good_kept), ("mesh.yaml", true));
    assert!(error.line >= 25, "{error}");
    assert!(
        error.reason.contains("unknown field `principal`"),
        "{error}"
    );
    assert!(published.policies.contains_key("shop/allow"));
    assert!(published.addresses.contains_key("Kubernetes//Pod/shop/new"));
    let web = published.addresses.get(WEB).unwrap();
    assert_eq!(web.resource.aliases, ["/10.244.2.3"]);
    // Good again.
    culvertd.write("mesh.yaml", MESH);
    let published = culvertd.published(|p| p.errors.is_empty()).await;
    assert!(!published.addresses.contains_key("Kubernetes//Pod/shop/new"));
    culvertd.stop().await;
}

#[tokio::test]
async fn a_file_that_is_no_yaml_at_all_loses_nothing() {
    let culvertd = Culvertd::mesh().await;
    culvertd.write("mesh.yaml", "{{{ not yaml");
    let published = culvertd.published(|p| !p.errors.is_empty()).await;
    assert!(published.addresses.contains_key(WEB) && published.policies.contains_key("shop/allow"));
    culvertd.stop().await;
}

#[tokio::test]
async fn the_last_good_version_outlives_a_restart() {
    let culvertd = Culvertd::mesh().await;
    culvertd.write("mesh.yaml", &MESH.replace("principals:", "principal:"));
    culvertd.published(|p| !p.errors.is_empty()).await;
    let culvertd = culvertd.restart().await;
    let now = culvertd.serving.engine.now();
    assert!(
        now.policies.contains_key("shop/allow"),
        "a policy vanished: {:?}",
        now.errors
    );
    assert!(now.errors[0].last_good_kept);
    culvertd.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_emptied_or_removed_goes_on_being_served_until_it_is_back() {
    let culvertd = Culvertd::mesh().await;
    std::fs::remove_file(culvertd.path("mesh.yaml")).unwrap();
    let published = culvertd.published(|p| !p.errors.is_empty()).await;
    assert!(published.addresses.contains_key(CLIENT));
    assert!(
        published.errors[0].reason.contains("--allow-empty"),
        "{:?}",
        published.errors
    );
    culvertd.write("other.yaml", &pod("only", "node-a", "10.244.1.9"));
    let published = culvertd.published(|p| p.errors.is_empty()).await;
    assert!(!published.addresses.contains_key(CLIENT));
    culvertd.stop().await;
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_at_the_start_with_the_reason() {
    let empty = directory(&[]);
    let error = refusal(&empty).await.to_string();
    assert!(error.contains("--allow-empty"), "{error}");
    let bad = directory(&[("a.yaml", "kind: Pod\n")]);
    let error = refusal(&bad).await.to_string();
    assert!(
        error.contains("a.yaml:1:") && error.contains("apiVersion"),
        "{error}"
    );
    let missing = directory(&[]);
    std::fs::remove_dir(missing.path().join("manifests")).unwrap();
    let error = refusal(&missing).await.to_string();
    assert!(
        error.contains("manifests") && error.contains("No such file"),
        "{error}"
    );
    let broken = directory(&[("mesh.yaml", MESH)]);
    let state = broken.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(state.join("ca.json"), "{}").unwrap();
    let error = refusal(&broken).await.to_string();
    assert!(error.contains("ca.json"), "{error}");
}
