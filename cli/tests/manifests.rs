//! `culvert route explain` and `culvert status` as a person calls them.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::JoinHandle;

const SHOP: &str = include_str!("shop.yaml");

/// A directory with manifests, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn with(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("culvert-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("shop.yaml"), text).unwrap();
        Self(path)
    }

    fn culvert(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        let words = words.iter().filter(|word| !word.is_empty());
        command.args(words).arg("--manifests").arg(&self.0);
        command.output().unwrap()
    }

    fn explain(&self, words: &[&str]) -> String {
        let output = self.culvert(&[&["route", "explain"], words].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_explanation_shows_the_clause_that_fails_and_the_split() {
    let shop = Directory::with("split", SHOP);
    let text = shop.explain(&["http://web.shop/cart/7"]);
    for line in [
        "HTTPRoute shop/web rule 0 (beta)\n",
        "  no  header version is v2 (the request has none)\n",
        "HTTPRoute shop/web rule 1  <- takes the request\n",
        "   95.0 %  shop/v1.shop.svc.cluster.local port 80\n",
        "    5.0 %  shop/v2.shop.svc.cluster.local port 80\n",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    assert!(!text.contains("No waypoint"), "{text}");
}

#[test]
fn a_service_is_found_by_every_name_its_client_may_use() {
    let shop = Directory::with("names", SHOP);
    for (url, from) in [
        ("http://web/", "shop"),
        ("http://web.shop/", "bank"),
        ("http://web.shop.svc/", "bank"),
        ("http://web.shop.svc.cluster.local/", "bank"),
        ("http://10.96.0.1/", "bank"),
    ] {
        let text = shop.explain(&[url, "--from", from]);
        assert!(text.contains("service shop/web.shop.svc"), "{url}: {text}");
    }
    let output = shop.culvert(&["route", "explain", "http://web/", "--from", "bank"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no service is `web` for a client in namespace bank"),
        "{said}"
    );
}

#[test]
fn a_port_that_the_service_has_not_is_named_with_those_that_it_has() {
    let shop = Directory::with("ports", SHOP);
    for (url, port) in [("http://web.shop:81/", 81), ("https://web.shop/", 443)] {
        let output = shop.culvert(&["route", "explain", url]);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        let wanted = format!("has no port {port}; it has 80:");
        assert!(said.contains(&wanted), "{said}");
    }
}

#[test]
fn a_client_with_routes_of_its_own_namespace_has_these_instead() {
    let shop = Directory::with("consumer", SHOP);
    let url = ["GET http://web.shop/", "--from", "bank", "--output", "json"];
    let answer: serde_json::Value = serde_json::from_str(&shop.explain(&url)).unwrap();
    assert_eq!(answer["routes"], "consumer");
    assert_eq!(answer["rules"][0]["route"], "HTTPRoute bank/ours");
    assert_eq!(answer["outcome"]["action"], "redirect");
    assert_eq!(answer["outcome"]["location"], "https://web.shop/");
}

#[test]
fn a_service_without_routes_has_those_of_its_waypoints_gateway() {
    // The Service of the one waypoint was made by hand and has another name; the other has none.
    let gateways = include_str!("gateways.yaml");
    let shop = Directory::with("gateways", &format!("{SHOP}---\n{gateways}"));
    for (url, routes, takes) in [
        ("http://plain.shop/a", "gateway", "HTTPRoute shop/all"),
        ("http://other.depot/a", "gateway", "HTTPRoute depot/all"),
        ("http://web.shop/a", "producer", "HTTPRoute shop/web"),
    ] {
        let answer = shop.explain(&[url, "--output", "json"]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["routes"], routes, "{url}");
        let rules = answer["rules"].as_array().unwrap();
        let taking = rules.iter().find(|rule| rule["takes"] == true).unwrap();
        assert_eq!(taking["route"], takes, "{url}");
    }
    let text = shop.explain(&["http://plain.shop/a"]);
    assert!(
        text.contains("routes of its waypoint's Gateway\n"),
        "{text}"
    );
    let text = shop.explain(&["http://plain.shop/b"]);
    assert!(text.contains("It is answered with 404: no rule"), "{text}");
    let text = shop.explain(&["http://without.depot/a"]);
    assert!(text.contains(": no route\n"), "not behind it: {text}");
}

#[test]
fn headers_and_methods_are_those_of_the_command_line() {
    let shop = Directory::with("headers", SHOP);
    let text = shop.explain(&["POST http://web.shop/cart/7?a=b", "-H", "Version: v2"]);
    assert!(
        text.starts_with("POST http://web.shop/cart/7?a=b\n"),
        "{text}"
    );
    assert!(
        text.contains("rule 0 (beta)  <- takes the request\n"),
        "{text}"
    );
    assert!(text.contains("with the path /v2/7\n"), "{text}");
    assert!(text.contains("and a copy of 10 % to shop/v1."), "{text}");
}

#[test]
fn a_status_with_something_wrong_says_so_and_gives_1() {
    let fine = Directory::with("fine", SHOP);
    let output = fine.culvert(&["status"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("HTTPRoute shop/web"), "{said}");

    let wrong = Directory::with(
        "wrong",
        &SHOP.replace("name: v2, port: 80", "name: v3, port: 80"),
    );
    let output = wrong.culvert(&["status", "HTTPRoute", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let conditions = page["objects"]["HTTPRoute shop/web"].as_array().unwrap();
    let resolved = conditions
        .iter()
        .find(|c| c["type"] == "ResolvedRefs")
        .unwrap();
    assert_eq!(resolved["reason"], "BackendNotFound");
    assert_eq!(resolved["parent"], "Service shop/web");
}

#[test]
fn what_waits_for_a_pod_to_run_is_told_and_gives_0() {
    const POD: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\n\
        spec: {nodeName: n, containers: [{name: c, image: none}]}\n";
    let shop = Directory::with("pod", &format!("{SHOP}{POD}"));
    let output = shop.culvert(&["status"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("Unknown  NoAddress"), "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn of_a_directory_alone_it_is_not_known_whether_a_waypoint_runs() {
    let gateways = include_str!("gateways.yaml");
    let shop = Directory::with("alone", &format!("{SHOP}---\n{gateways}"));
    let output = shop.culvert(&["status", "Gateway"]);
    let said = String::from_utf8(output.stdout).unwrap();
    for words in [
        "Programmed    Unknown  Pending",
        "of the directory alone: no replica runs yet, 1 wanted",
        "The directory alone was looked at: whether pods and waypoints run is not known.",
        "culvert status --culvertd",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    let output = shop.culvert(&["status", "Gateway depot/made", "-o", "json"]);
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let conditions = page["objects"]["Gateway depot/made"].as_array().unwrap();
    let programmed = conditions.iter().filter(|c| c["type"] == "Programmed");
    assert_eq!(
        programmed.clone().count(),
        2,
        "the Gateway's and its listener's"
    );
    for condition in programmed {
        assert_eq!(condition["status"], "Unknown", "{condition}");
    }
}

#[test]
fn a_status_shows_listeners_with_their_kinds_and_routes_and_those_in_conflict() {
    const GATE: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
        metadata: {name: gate, namespace: shop}\nspec:\n  gatewayClassName: culvert-waypoint\n  \
        listeners:\n  - {name: mesh, port: 15008, protocol: HBONE}\n  \
        - {name: one, port: 80, protocol: HTTP, hostname: a.example}\n  \
        - {name: two, port: 80, protocol: HTTP, hostname: a.example}\n  \
        - {name: web, port: 81, protocol: HTTP}\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
        metadata: {name: at-gate, namespace: shop}\nspec: {parentRefs: [{name: gate, port: 81}]}\n";
    let shop = Directory::with("listeners", &format!("{SHOP}{GATE}"));
    let output = shop.culvert(&["status", "Gateway shop/gate"]);
    assert_eq!(output.status.code(), Some(1), "two of them are in conflict");
    let said = String::from_utf8(output.stdout).unwrap();
    let line = |words: &[&str]| {
        let mut lines = said.lines();
        let has = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(lines.any(has), "{words:?}\n{said}");
    };
    line(&[
        "listener one",
        "Conflicted",
        "True",
        "HostnameConflict",
        "listener two",
    ]);
    line(&["listener two", "Accepted", "False", "HostnameConflict"]);
    line(&[
        "ListenersNotValid",
        "one (conflicted), two (conflicted)",
        "served: mesh, web",
    ]);
    line(&["GATEWAY", "LISTENER", "ROUTES", "KINDS OF ROUTES"]);
    line(&["shop/gate", "web", "1", "HTTPRoute, GRPCRoute"]);
    let output = shop.culvert(&["status", "Gateway shop/gate", "-o", "json"]);
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let web = &page["listeners"]["Gateway shop/gate"][3];
    assert_eq!(
        (&web["name"], &web["attachedRoutes"]),
        (&"web".into(), &1.into())
    );
    let kind = &web["supportedKinds"][0];
    assert_eq!(kind["kind"], "HTTPRoute");
    assert_eq!(kind["group"], "gateway.networking.k8s.io");
}

#[test]
fn a_route_with_too_much_is_told_what_of_and_how_much() {
    let rules = "  - {name: web}\n"
        .repeat(17)
        .replace("name: web", "backendRefs: []");
    let many = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: many, namespace: shop}}\nspec:\n  rules:\n{rules}"
    );
    let shop = Directory::with("many", &format!("{SHOP}{many}"));
    let said = String::from_utf8(shop.culvert(&["status"]).stdout).unwrap();
    let wanted = "spec.rules has 17 entries, 1 more than the 16 that there may be";
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn a_status_of_nothing_is_an_error_that_says_what_was_asked_for() {
    let shop = Directory::with("nothing", SHOP);
    let output = shop.culvert(&["status", "HTPRoute"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("contains `HTPRoute`"), "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .arg("status")
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    for flag in ["--manifests", "--culvertd"] {
        assert!(said.contains(flag), "{said}");
    }
}

#[test]
fn an_empty_directory_is_an_error_that_names_it() {
    let empty = Directory::with("empty", "# nothing\n");
    let output = empty.culvert(&["status"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&*empty.0.to_string_lossy()), "{said}");
}

/// A culvertd that answers one request with this page.
fn culvertd(page: String) -> (String, JoinHandle<()>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 1024];
        let length = stream.read(&mut asked).unwrap();
        assert!(asked[..length].starts_with(b"GET /debug/status "));
        let length = page.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + &page).as_bytes()).unwrap();
    };
    let server = std::thread::Builder::new().name("culvertd".into());
    (address, server.spawn(serve).unwrap())
}

#[test]
fn status_asks_a_running_culvertd() {
    let status = |address: &str, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        let command = command.args(["status", "--culvertd", address]).args(words);
        command.output().unwrap()
    };
    let page = r#"{"revision": 3, "source": {"objects": 2, "errors": []}, "objects": {
        "Gateway shop/wp": [{"type": "Programmed", "status": "True", "reason": "Programmed",
            "message": "1 of 1 replicas ready"}],
        "HTTPRoute shop/r": [{"type": "PartiallyInvalid", "status": "True",
            "reason": "UnsupportedValue", "message": "Dropped Rule", "parent": "Gateway shop/wp"}]
        }, "listeners": {"Gateway shop/wp": [{"name": "mesh", "attachedRoutes": 7,
            "supportedKinds": [{"group": "gateway.networking.k8s.io", "kind": "TCPRoute"}]}]}}"#;
    let (address, server) = culvertd(page.to_owned());
    let output = status(&address, &[]);
    server.join().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("1 of 1 replicas ready") && said.contains("Dropped Rule"),
        "{said}"
    );
    assert!(said.contains("mesh      7       TCPRoute"), "{said}");
    assert!(!said.contains("directory alone"), "{said}");
    assert_eq!(output.status.code(), Some(1), "a rule is dropped");
    let (address, server) = culvertd(page.to_owned());
    let output = status(&address, &["Gateway", "-o", "json"]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        !String::from_utf8(output.stdout)
            .unwrap()
            .contains("HTTPRoute")
    );
    let output = status("127.0.0.1:1", &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("culvertd at 127.0.0.1:1 does not say"),
        "{said}"
    );
}
