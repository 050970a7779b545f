#!/usr/bin/env bash
# Installs the Debian packages that the build and the test worlds need, when any is missing.
set -euo pipefail

packages=(
    build-essential             # aws-lc is C
    clang libbpf-dev            # the BPF programs
    iproute2 util-linux procps  # worlds
    containernetworking-plugins # bridge, host-local
    iptables nftables           # only to prove that nothing was written there
    tcpdump                     # the capture of the demo
    curl iperf3 wrk nginx-light # programs in pods
    python3 python3-h2          # servers in pods; second oracle of the tunnel
    ca-certificates
)

[ "$(uname -s)" = Linux ] || { echo "setup: Culvert needs Linux" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "setup: run as root (network namespaces, BPF)" >&2; exit 1; }
command -v cargo >/dev/null || { echo "setup: install Rust first (rustup, 1.95 or newer)" >&2; exit 1; }

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # RUNLEVEL=1: a server that a package brings (nginx) is not started on this host.
    RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done
