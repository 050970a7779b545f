//! `culvert canary` as a person calls it: what it writes, and what it leaves alone.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::JoinHandle;

/// Every kind of writing that a weight may stand in, between documents that nobody may touch.
const SHOP: &str = "\
# The shop.   \t
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {weight: '95'}}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v1, namespace: shop}
spec: {clusterIP: 10.96.0.5, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {clusterIP: 10.96.0.6, ports: [{port: 80}]}
--- # ä: more than one byte
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: web
  namespace: shop
spec:
  parentRefs: [{group: \"\", kind: Service, name: web}]
  rules:
    - name: beta   # keeps its own
      matches: [{headers: [{name: version, value: v2}]}]
      backendRefs: [{name: web-v2, port: 80, weight: 100}]
    - name: all
      backendRefs:
        # the old one
        - name: web-v1
          port: 80
          weight:   95   # of a hundred
        - weight: 5
          name: web-v2
          port: 80

...
";

/// A directory with manifests, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn with(name: &str, text: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("culvert-canary-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("shop.yaml"), text).unwrap();
        Self(path)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.0.join("shop.yaml")).unwrap()
    }

    fn canary(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command
            .arg("canary")
            .args(words)
            .args(["-n", "shop", "--manifests"]);
        command.arg(&self.0).output().unwrap()
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.canary(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Refused, with nothing written.
    fn refused(&self, words: &[&str]) -> String {
        let before = self.text();
        let output = self.canary(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert_eq!(self.text(), before);
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn set_changes_the_two_numbers_and_no_other_byte() {
    let shop = Directory::with("bytes", SHOP);
    let said = shop.ok(&["set", "web", "v2=25"]);
    assert!(
        said.contains("was: web-v1 95 %, web-v2 5 % (HTTPRoute shop/web rule 1 (all)"),
        "{said}"
    );
    assert!(said.contains("now: web-v1 75 %, web-v2 25 %"), "{said}");
    let wanted = SHOP
        .replace("weight:   95   #", "weight:   75   #")
        .replace("- weight: 5\n", "- weight: 25\n");
    assert_eq!(shop.text(), wanted);
    // And back: byte for byte as it was.
    shop.ok(&["set", "web", "v2=5", "v1=95"]);
    assert_eq!(shop.text(), SHOP);
    assert!(shop.ok(&["set", "web", "v2=5"]).starts_with("unchanged: "));
    let said = shop.ok(&["set", "web", "v1=60", "v2=50"]);
    assert!(said.contains("parts of 110, not of 100"), "{said}");
}

#[test]
fn promote_and_rollback_set_everything_to_one_side() {
    let shop = Directory::with("sides", SHOP);
    shop.ok(&["promote", "web"]);
    let promoted = SHOP
        .replace("  95 ", "  0 ")
        .replace("weight: 5\n", "weight: 100\n");
    assert_eq!(shop.text(), promoted);
    shop.ok(&["rollback", "web"]);
    let back = SHOP
        .replace("  95 ", "  100 ")
        .replace("weight: 5\n", "weight: 0\n");
    assert_eq!(shop.text(), back);
    let said = shop.ok(&["promote", "web", "v1"]);
    assert!(
        said.starts_with("unchanged: web-v1 100 %, web-v2 0 %"),
        "{said}"
    );
}

#[test]
fn a_backend_without_a_weight_gets_one_in_flow_and_block() {
    let flow = SHOP.replace(
        "      backendRefs:\n        # the old one\n        - name: web-v1\n          port: 80\n\
        \x20         weight:   95   # of a hundred\n        - weight: 5\n\
        \x20         name: web-v2\n          port: 80\n",
        "      backendRefs: [{name: web-v1, port: 80}, {name: web-v2, port: 80}]\n",
    );
    assert_ne!(flow, SHOP);
    let shop = Directory::with("flow", &flow);
    shop.ok(&["set", "web", "v2=5"]);
    let wanted = flow.replace(
        "[{name: web-v1, port: 80}, {name: web-v2, port: 80}]",
        "[{name: web-v1, weight: 95, port: 80}, {name: web-v2, weight: 5, port: 80}]",
    );
    assert_eq!(shop.text(), wanted);

    let block = SHOP.replace("          weight:   95   # of a hundred\n", "");
    let shop = Directory::with("block", &block);
    shop.ok(&["set", "web", "v2=1"]);
    let wanted = block
        .replace(
            "web-v1\n          port: 80\n",
            "web-v1\n          weight: 99\n          port: 80\n",
        )
        .replace("- weight: 5\n", "- weight: 1\n");
    assert_eq!(shop.text(), wanted);

    let lines = |text: &str| text.replace('\n', "\r\n");
    let shop = Directory::with("lines", &lines(&block));
    shop.ok(&["set", "web", "v2=1"]);
    assert_eq!(shop.text(), lines(&wanted), "lines end as they did");
}

#[test]
fn what_cannot_be_set_is_refused_with_the_reason_and_nothing_is_written() {
    let shop = Directory::with("refused", SHOP);
    for (words, why) in [
        (
            &["set", "cart", "v2=5"][..],
            "no HTTPRoute or GRPCRoute in the namespace of Service shop/cart",
        ),
        (
            &["set", "web", "v3=5"],
            "two or more backendRefs and among them v3; rule 1 (all) has web-v1, web-v2",
        ),
        (
            &["set", "carrt", "v2=5"],
            "nor is there a Service carrt in namespace shop",
        ),
        (&["set", "web", "v2=500"], "leave nothing for web-v1"),
        (&["set", "web", "v2=x"], "no weight from 0 to 1000000"),
        (&["set", "web", "v2=5", "--rule", "beta"], "no rule"),
        (&["set", "cart", "v1=1", "--create"], "at least two"),
        (
            &["set", "cart", "v1=1", "v2=1", "--create"],
            "no Service cart",
        ),
    ] {
        let said = shop.refused(words);
        assert!(
            said.contains(why),
            "{words:?}: {said:?} does not say {why:?}"
        );
    }
    let mut elsewhere = Command::new(env!("CARGO_BIN_EXE_culvert"));
    elsewhere.args(["canary", "set", "web", "v2=5", "--manifests"]);
    let said = elsewhere.arg(&shop.0).output().unwrap().stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("in namespace shop has: `-n shop`"), "{said}");
    let twice = SHOP.replace(
        "    - name: all\n",
        "    - backendRefs: [{name: web-v1, port: 80}, {name: web-v2, port: 80}]\n\
        \x20   - name: all\n",
    );
    let shop = Directory::with("twice", &twice);
    let said = shop.refused(&["set", "web", "v2=5"]);
    assert!(
        said.contains("rule 1, HTTPRoute shop/web rule 2 (all) all have"),
        "{said}"
    );
    shop.ok(&["set", "web", "v2=6", "--rule", "all"]);
    assert!(shop.text().contains("- weight: 6\n"));
    let anchor = SHOP.replace("weight: 5\n", "weight: &five 5\n");
    let shop = Directory::with("anchor", &anchor);
    let said = shop.refused(&["set", "web", "v2=6"]);
    assert!(said.contains("a weight is no plain number"), "{said}");
    let alias = SHOP
        .replace("weight: 5\n", "weight: *five\n")
        .replace("'95'", "&five 5");
    let shop = Directory::with("alias", &alias);
    let said = shop.refused(&["set", "web", "v2=6"]);
    assert!(said.contains("shop.yaml"), "{said}");
}

#[test]
fn nothing_is_sent_to_a_version_that_is_not_there_and_a_way_back_from_one_is_open() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web-v2, namespace: shop}\n\
                   spec: {clusterIP: 10.96.0.6, ports: [{port: 80}]}\n";
    let gone = SHOP.replace(service, "# gone\n");
    assert_ne!(gone, SHOP);
    let shop = Directory::with("gone", &gone);
    for words in [&["set", "web", "v2=6"][..], &["promote", "web"]] {
        let said = shop.refused(words);
        let wanted = "every request for web-v2 would fail: there is no Service shop/web-v2";
        assert!(said.contains(wanted), "{said}");
    }
    shop.ok(&["set", "web", "v2=4"]);
    shop.ok(&["rollback", "web"]);
    // One of another namespace, that no ReferenceGrant allows.
    let other = "name: web-v2\n          namespace: other\n";
    let shop = Directory::with("ungranted", &SHOP.replace("name: web-v2\n", other));
    let said = shop.refused(&["promote", "web"]);
    assert!(said.contains("no ReferenceGrant in other allows"), "{said}");
}

#[test]
fn create_writes_a_route_that_the_other_commands_know() {
    let (services, _) = SHOP.split_once("--- #").unwrap();
    let shop = Directory::with("create", services);
    let said = shop.ok(&["set", "web", "v2=5", "v1=95", "--create"]);
    assert!(said.starts_with("new: web-v1 95 %, web-v2 5 %"), "{said}");
    assert_eq!(shop.text(), services);
    shop.ok(&["promote", "web"]);
    let said = shop.ok(&["status", "web", "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["backends"][1]["name"], "web-v2");
    assert_eq!(answer["backends"][1]["percent"], 100.0);
    assert_eq!(answer["n"], serde_json::Value::Null);
    let output = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["status", "HTTPRoute", "--manifests"])
        .arg(&shop.0)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("HTTPRoute shop/web") && !said.contains("refused"),
        "{said}"
    );
}

#[test]
fn a_link_is_followed_and_the_file_keeps_its_mode() {
    let shop = Directory::with("link", SHOP);
    let real = shop.0.join("real");
    fs::rename(shop.0.join("shop.yaml"), &real).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&real, shop.0.join("shop.yaml")).unwrap();
    shop.ok(&["set", "web", "v2=7"]);
    assert!(
        fs::symlink_metadata(shop.0.join("shop.yaml"))
            .unwrap()
            .is_symlink()
    );
    let mode = fs::metadata(&real).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert!(shop.text().contains("- weight: 7\n"));
    let names = fs::read_dir(&shop.0).unwrap().count();
    assert_eq!(names, 2, "nothing is left behind");
}

/// A metrics page over real HTTP, once.
fn metrics(v1: u32, v2: u32) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let line = |name: &str, count: u32| {
            format!(
                "istio_requests_total{{reporter=\"waypoint\",\
                 destination_service_namespace=\"shop\",\
                 destination_service_name=\"{name}\"}} {count}\n"
            )
        };
        let page = line("web-v1", v1) + &line("web-v2", v2);
        let length = page.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{page}"
        )
        .unwrap();
    };
    let server = std::thread::Builder::new().name("metrics".into());
    (address, server.spawn(serve).unwrap())
}

/// The text without its columns.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn status_shows_the_split_that_is_set_and_the_one_that_was_seen() {
    let shop = Directory::with("seen", SHOP);
    let (one, two) = (metrics(900, 55), metrics(1000, 45));
    let said = shop.ok(&["status", "web", "--metrics", &one.0, "--metrics", &two.0]);
    assert!(words(&said).contains("web-v2 5 5.0 % 100 5.0 %"), "{said}");
    assert!(
        said.contains("2000 requests fit this split: p = 1.00"),
        "{said}"
    );
    let wrong = metrics(1000, 1000);
    let said = shop.ok(&["status", "web", "--metrics", &wrong.0, "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(answer["p_value"].as_f64().unwrap() < 1e-6, "{said}");
    let said = shop.refused(&["status", "web", "--metrics", "127.0.0.1:1"]);
    assert!(said.contains("metrics of 127.0.0.1:1"), "{said}");
    let said = shop.refused(&["show", "web", "--metrics", "waypoint"]);
    assert!(
        said.contains("metrics of waypoint: it is no HOST:PORT"),
        "{said}"
    );
    for (_, server) in [one, two, wrong] {
        server.join().unwrap();
    }
}
