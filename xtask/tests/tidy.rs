//! The workspace is tidy, and tidy finds what is not.

use std::path::PathBuf;

use xtask::tidy::{check, check_source};

fn faults(path: &str, text: &str) -> Vec<String> {
    let faults = check_source(PathBuf::from(path), text.to_owned()).expect("the text is Rust");
    faults.into_iter().map(|fault| fault.what).collect()
}

#[test]
fn the_workspace_is_tidy() {
    let faults = check(&xtask::workspace_root().unwrap()).unwrap();
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

#[test]
fn a_file_without_a_head_is_found() {
    assert_eq!(faults("a/src/noun.rs", "fn a() {}\n").len(), 1);
    assert_eq!(faults("a/src/noun.rs", "//! A noun.\nfn a() {}\n").len(), 0);
}

#[test]
fn a_long_function_is_found_outside_of_tests() {
    let body = "    a();\n".repeat(71);
    let long = format!("//! A noun.\nfn a() {{\n{body}}}\n");
    assert_eq!(faults("a/src/noun.rs", &long).len(), 1);
    assert_eq!(faults("a/tests/noun.rs", &long).len(), 0);
    let test = format!("//! A noun.\n#[cfg(test)]\nmod tests {{\nfn a() {{\n{body}}}\n}}\n");
    assert_eq!(faults("a/src/noun.rs", &test).len(), 0);
}

#[test]
fn a_long_file_is_found_without_its_tests() {
    let product = "const A: u8 = 1;\n".repeat(501);
    assert_eq!(
        faults("a/src/noun.rs", &format!("//! A.\n{product}")).len(),
        1
    );
    let tests = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{product}}}\n");
    assert_eq!(faults("a/src/noun.rs", &tests).len(), 0);
}

#[test]
fn a_clock_in_a_pure_crate_is_found_however_it_is_named() {
    for text in [
        "//! A.\nuse std::time::Instant;\n",
        "//! A.\nuse std::{time::{Duration, Instant}};\n",
        "//! A.\nfn a() { std::time::Instant::now(); }\n",
        "//! A.\nuse tokio::sync::mpsc;\n",
        "//! A.\nuse std::fs::*;\n",
        "//! A.\nuse std::time;\nfn a() { time::Instant::now(); }\n",
        "//! A.\nuse std::time::*;\n",
        "//! A.\nfn a() { b!(\"{:?}\", std::time::SystemTime::now()); }\n",
    ] {
        assert_eq!(faults("crates/mesh/src/noun.rs", text).len(), 1, "{text}");
        assert_eq!(faults("ztunnel/src/noun.rs", text).len(), 0, "{text}");
    }
    assert_eq!(
        faults(
            "crates/mesh/src/noun.rs",
            "//! A.\nuse std::time::Duration;\n"
        )
        .len(),
        0
    );
}

#[test]
fn leftovers_and_ignored_tests_are_found() {
    let leftover = format!("//! A.\n// {}: later\n", concat!("TO", "DO"));
    assert_eq!(faults("a/src/noun.rs", &leftover).len(), 1);
    assert_eq!(
        faults("a/tests/noun.rs", "//! A.\n#[ignore]\nfn a() {}\n").len(),
        1
    );
}

#[test]
fn unsafe_outside_of_netio_is_found() {
    let text = "//! A.\nfn a() { unsafe { b() } }\n";
    assert_eq!(faults("ztunnel/src/noun.rs", text).len(), 1);
    assert_eq!(faults("crates/netio/src/noun.rs", text).len(), 0);
}

#[test]
fn a_module_named_after_nothing_is_found() {
    assert_eq!(faults("a/src/util.rs", "//! A.\n").len(), 1);
    assert_eq!(faults("a/src/foo/mod.rs", "//! A.\n").len(), 1);
}
