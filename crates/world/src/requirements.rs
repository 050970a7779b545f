//! What this machine must have before a world can be made.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use netio::cgroup::Cgroup;

use crate::error::WorldError;

/// Where Debian's package containernetworking-plugins installs.
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";

/// The distribution's Python, which servers in pods are written for.
const PYTHON: &str = "/usr/bin/python3";

/// Program, Debian package.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx-light"),
    ("tcpdump", "tcpdump"),
    ("iptables-save", "iptables"),
    ("nft", "nftables"),
];

/// PATH with the system directories in it: nginx and nft live in `/usr/sbin`, which a plain
/// user's PATH lacks even under sudo.
pub(crate) fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

/// Fails with every missing part at once; gives the cgroup2 mount point.
pub(crate) fn check() -> Result<PathBuf, WorldError> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("it takes root (network namespaces, mounts, BPF)".to_owned());
    }
    let path = search_path();
    for (program, package) in PROGRAMS {
        if !env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
            missing.push(format!(
                "program {program} is not there (package {package})"
            ));
        }
    }
    // Not from PATH: a shim of a version manager there answers late and wants a home directory.
    if !Path::new(PYTHON).is_file() {
        missing.push(format!("{PYTHON} is not there (package python3)"));
    }
    for plugin in ["bridge", "host-local"] {
        if !Path::new(CNI_PLUGINS).join(plugin).is_file() {
            missing.push(format!(
                "{CNI_PLUGINS}/{plugin} is not there (package containernetworking-plugins)"
            ));
        }
    }
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("\tbpf\n")) {
        missing.push("the kernel has no bpf file system (CONFIG_BPF_SYSCALL)".to_owned());
    }
    if !Path::new("/proc/sys/net/ipv6").exists() {
        missing.push("the kernel has no IPv6 (ipv6.disable=1?)".to_owned());
    }
    let cgroup = Cgroup::mount_point();
    if cgroup.is_err() {
        missing.push("no cgroup2 is mounted (mount -t cgroup2 none /sys/fs/cgroup)".to_owned());
    }
    match cgroup {
        Ok(cgroup) if missing.is_empty() => Ok(cgroup),
        _ => Err(WorldError::Missing(missing)),
    }
}
