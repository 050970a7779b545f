#!/bin/sh
# Runs fuzz targets: fuzz/run.sh SECONDS [target...]
#
# Builds all targets once, with the coverage counters that libFuzzer steers by (stable Rust has
# them; sanitizers would need nightly), then runs each for SECONDS from its committed seeds and
# from what earlier runs found. Writes target/fuzz/report.json; ends with 1 after a crash.
set -eu

# One input may take so many seconds, and the process so many MiB, before it counts as a crash.
INPUT_TIMEOUT_S=10
RSS_LIMIT_MIB=1024

seconds=${1:?usage: fuzz/run.sh SECONDS [target...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
[ $# -gt 0 ] || set -- $(cd seeds && ls)
for target; do
    [ -d "seeds/$target" ] || { echo "no target $target: there are" $(ls seeds) >&2; exit 2; }
done

# --locked: a crate of the workspace that gains a dependency changes the lock file here too. When cargo
# says so: (cd fuzz && cargo metadata --offline >/dev/null), and commit it.
# A host triple of its own keeps the flags away from build scripts and procedural macros.
host=$(rustc -vV | sed -n 's/^host: //p')
level="-Cllvm-args=-sanitizer-coverage-level=4"
counters="-Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
table="-Cllvm-args=-sanitizer-coverage-pc-table"
compares="-Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS="-Cpasses=sancov-module $level $counters $table $compares --cfg=fuzzing" \
    CARGO_TARGET_DIR="$here/target" cargo build --locked --bins --target "$host"

# Longest input in bytes: what the bounds of each format need to be passed.
longest() {
    case $1 in
        manifests) echo 16384 ;;
        frames | handshake) echo 8192 ;;
        *) echo 4096 ;;
    esac
}

report=$here/../target/fuzz/report.json
mkdir -p "$(dirname "$report")" artifacts
entries=
failed=0
for target; do
    corpus=corpus/$target
    mkdir -p "$corpus"
    log=$here/target/$target.log
    binary=target/$host/debug/$target
    started=$(date +%s)
    code=0
    "$binary" "$corpus" "seeds/$target" -max_total_time="$seconds" -max_len="$(longest "$target")" \
        -rss_limit_mb="$RSS_LIMIT_MIB" -timeout="$INPUT_TIMEOUT_S" -print_final_stats=1 \
        -artifact_prefix="artifacts/$target-" >"$log" 2>&1 || code=$?
    ran=$(($(date +%s) - started))
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    inputs=$(find "$corpus" -type f | wc -l)
    crashes=0
    if [ "$code" -ne 0 ]; then
        crashes=1
        failed=1
        artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        grep -A 3 -m 1 -E 'panicked at|ERROR: libFuzzer' "$log" >&2 || tail -n 20 "$log" >&2
        echo "$target: crash, $here/${artifact:-(no artifact, see $log)}" >&2
        echo "repeat it with: (cd $here && $binary $artifact)" >&2
    fi
    echo "$target: ${executions:-0} executions in $ran s, $crashes crashes, $inputs inputs kept"
    entries="$entries${entries:+,}
  {\"name\": \"$target\", \"seconds\": $ran, \"executions\": ${executions:-0}, \"crashes\": $crashes, \"corpus\": $inputs}"
done
printf '{"targets": [%s\n]}\n' "$entries" >"$report"
exit "$failed"
