//! Compiles the .proto files with protox, so that no protoc need be on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "workload",
        "authorization",
        "zds",
        "ca",
        "discovery",
        "agent",
        "route",
    ]
    .map(|name| format!("proto/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(true)
        // Sorted, so that equal workloads have equal bytes: discovery versions are a hash of them.
        .btree_map(".istio.workload.Workload.services")
        .compile_fds(descriptors)?;
    Ok(())
}
