//! Compiles bpf/*.bpf.c with clang into OUT_DIR, so that the agent carries its programs inside.

use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 2] = ["steer", "hook"];

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in PROGRAMS {
        if let Err(message) = compile(name, &out) {
            println!("cargo::error={message}");
            std::process::exit(1);
        }
    }
}

fn compile(name: &str, out: &Path) -> Result<(), String> {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    if !Path::new("/usr/include/bpf/bpf_helpers.h").exists() {
        return Err("/usr/include/bpf/bpf_helpers.h is missing (libbpf-dev): `make setup`".into());
    }
    let source = format!("bpf/{name}.bpf.c");
    let result = Command::new(&clang)
        .args([
            "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-I", "bpf",
        ])
        .args(["-I", &multiarch_include(), "-c", &source, "-o"])
        .arg(out.join(format!("{name}.bpf.o")))
        .output()
        .map_err(|error| format!("`{clang}` cannot be run ({error}): `make setup` installs it"))?;
    if result.status.success() {
        return Ok(());
    }
    eprintln!("{}", String::from_utf8_lossy(&result.stderr));
    Err(format!(
        "{source} does not compile with `{clang}`; its output is above"
    ))
}

/// Debian keeps asm/types.h in a directory per architecture that `-target bpf` does not search.
fn multiarch_include() -> String {
    let arch = std::env::var("HOST").unwrap_or_default();
    let arch = arch.split('-').next().unwrap_or("x86_64");
    format!("/usr/include/{arch}-linux-gnu")
}
