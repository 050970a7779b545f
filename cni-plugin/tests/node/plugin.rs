//! The plugin's binary as a runtime calls it: every verb, every version, broken input, no agent.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use cni_plugin::plugin::netconf::VERSIONS;
use serde_json::{Value, json};

use crate::ground::{POD_V4, POD_V6, Tree};
use crate::rig::{FakeControl, Rig};
use crate::ztunnel::Ztunnel;

/// One call: environment as given, nothing else of CNI.
struct Call {
    env: Vec<(&'static str, String)>,
    stdin: String,
}

struct Ended {
    ok: bool,
    stdout: String,
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON ({error}): {:?}", self.stdout))
    }

    fn code(&self) -> u64 {
        assert!(!self.ok, "it succeeded: {}", self.stdout);
        let error = self.json();
        for key in ["cniVersion", "msg", "details"] {
            assert!(error[key].is_string(), "{key}: {error}");
        }
        error["code"].as_u64().unwrap()
    }
}

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=";

impl Call {
    fn new(verb: &str, stdin: &Value) -> Self {
        let env = vec![
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", "sandbox-1".to_owned()),
            ("CNI_NETNS", "/run/netns/no-such".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/usr/lib/cni".to_owned()),
            ("CNI_ARGS", format!("{ARGS}uid-1")),
        ];
        Self {
            env,
            stdin: stdin.to_string(),
        }
    }

    fn set(mut self, key: &'static str, value: &str) -> Self {
        self.env.retain(|(name, _)| *name != key);
        self.env.push((key, value.to_owned()));
        self
    }

    fn text(mut self, stdin: &str) -> Self {
        self.stdin = stdin.to_owned();
        self
    }

    fn run(self) -> Ended {
        let _tree = Tree::get();
        let mut child = Command::new(env!("CARGO_BIN_EXE_culvert-cni"))
            .env_clear()
            .envs(self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A call that fails early may not read it.
        let _ = child.stdin.take().unwrap().write_all(self.stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ended {
            ok: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
        }
    }
}

fn conf(version: &str, socket: &Path) -> Value {
    json!({
        "cniVersion": version,
        "name": "pods",
        "type": "culvert-cni",
        "agent_socket": socket,
        "timeout_s": 20,
        "runtimeConfig": {"anything": [1, 2.5, null]},
        "prevResult": {
            "cniVersion": version,
            "interfaces": [{"name": "eth0", "mac": "00:00:00:00:00:01", "sandbox": "/x"}],
            "ips": [
                {"version": "4", "address": format!("{POD_V4}/24"), "interface": 0},
                {"version": "6", "address": format!("{POD_V6}/64"), "interface": 0}
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.77.0.1", "mtu": 1400}],
            "dns": {}, "zz-unknown": {"b": 1, "a": 12345678901234567890u64}
        }
    })
}

fn nowhere() -> Value {
    conf("1.0.0", Path::new("/nonexistent/agent.sock"))
}

#[test]
fn version_names_all_that_is_spoken_whatever_the_input() {
    for stdin in ["{\"cniVersion\":\"0.4.0\"}", "", "{"] {
        let ended = Call::new("VERSION", &json!({})).text(stdin).run();
        assert!(ended.ok);
        assert_eq!(ended.json()["supportedVersions"], json!(VERSIONS));
    }
}

#[test]
fn broken_input_gets_the_codes_of_the_specification() {
    let good = nowhere();
    let without = |key: &str| {
        let mut conf = good.clone();
        conf.as_object_mut().unwrap().remove(key);
        conf
    };
    assert_eq!(Call::new("ADD", &good).text("{").run().code(), 6);
    assert_eq!(Call::new("ADD", &good).text("").run().code(), 6);
    assert_eq!(Call::new("ADD", &without("cniVersion")).run().code(), 1);
    let mut future = good.clone();
    future["cniVersion"] = json!("9.0.0");
    assert_eq!(Call::new("ADD", &future).run().code(), 1);
    assert_eq!(Call::new("ADD", &without("prevResult")).run().code(), 7);
    for key in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
        assert_eq!(
            Call::new("ADD", &good).set(key, "").run().code(),
            4,
            "{key}"
        );
    }
    assert_eq!(
        Call::new("ADD", &good)
            .set("CNI_CONTAINERID", "a/b")
            .run()
            .code(),
        4
    );
    assert_eq!(Call::new("REBOOT", &good).run().code(), 4);
    assert_eq!(
        Call::new("ADD", &good).run().code(),
        3,
        "the namespace is not there"
    );
    assert_eq!(
        Call::new("DEL", &good)
            .set("CNI_CONTAINERID", "")
            .run()
            .code(),
        4
    );
}

#[test]
fn verbs_that_a_version_does_not_have_are_refused() {
    let socket = Path::new("/nonexistent/agent.sock");
    assert_eq!(Call::new("CHECK", &conf("0.3.1", socket)).run().code(), 1);
    for verb in ["STATUS", "GC"] {
        assert_eq!(
            Call::new(verb, &conf("1.0.0", socket)).run().code(),
            1,
            "{verb}"
        );
    }
}

#[test]
fn without_an_agent_add_fails_for_now_status_says_so_and_deletion_goes_on() {
    let add = Call::new("ADD", &nowhere())
        .set("CNI_NETNS", "/proc/self/ns/net")
        .run();
    assert_eq!(add.code(), 11);
    let msg = add.json()["msg"].as_str().unwrap().to_owned();
    assert!(msg.contains("/nonexistent/agent.sock"), "{msg}");
    for netns in ["", "/run/netns/no-such"] {
        for _ in 0..2 {
            let del = Call::new("DEL", &nowhere()).set("CNI_NETNS", netns).run();
            assert!(del.ok && del.stdout.is_empty());
        }
    }
    let newest = conf("1.1.0", Path::new("/nonexistent/agent.sock"));
    assert_eq!(Call::new("STATUS", &newest).run().code(), 50);
    let mut gc = newest.clone();
    assert_eq!(Call::new("GC", &gc).run().code(), 7, "no list");
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
    assert_eq!(Call::new("GC", &gc).run().code(), 11);
}

#[test]
fn excluded_namespaces_pass_without_an_agent() {
    let mut conf = nowhere();
    conf["exclude_namespaces"] = json!(["kube-system", "shop"]);
    for verb in ["ADD", "CHECK"] {
        let ended = Call::new(verb, &conf).run();
        assert!(ended.ok, "{verb}: {}", ended.stdout);
        if verb == "ADD" {
            assert_eq!(ended.stdout, conf["prevResult"].to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_passes_the_previous_result_on_unchanged() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let netns = rig.network.pod.path().display().to_string();
    let args = format!("{ARGS}{}", rig.pod.uid);
    for version in VERSIONS {
        let conf = conf(version, &rig.cni_socket());
        let call = |verb: &str| {
            Call::new(verb, &conf)
                .set("CNI_NETNS", &netns)
                .set("CNI_ARGS", &args)
        };
        let added = call("ADD").run();
        assert!(added.ok, "{version}: {}", added.stdout);
        assert_eq!(added.stdout, conf["prevResult"].to_string());
        assert_eq!(rig.phase(), "enrolled");
        if version != "0.3.1" {
            assert!(call("CHECK").run().ok, "{version}");
        }
        if version == "1.1.0" {
            assert!(Call::new("STATUS", &conf).run().ok);
            let mut gc = conf.clone();
            gc["cni.dev/valid-attachments"] =
                json!([{"containerID": "sandbox-1", "ifname": "eth0"}]);
            assert!(Call::new("GC", &gc).run().ok);
            assert_eq!(rig.phase(), "enrolled");
        }
        for netns in [netns.as_str(), ""] {
            let deleted = call("DEL").set("CNI_NETNS", netns).run();
            assert!(deleted.ok && deleted.stdout.is_empty());
        }
        assert_eq!(rig.phase(), "");
        if version != "0.3.1" {
            assert_eq!(call("CHECK").run().code(), 3);
        }
    }
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_add_is_an_error_object_with_the_agents_reason() {
    let rig = Rig::start().await;
    let netns = rig.network.pod.path().display().to_string();
    let conf = conf("1.1.0", &rig.cni_socket());
    let add = |netns: &str| Call::new("ADD", &conf).set("CNI_NETNS", netns).run();
    let ended = add(&netns);
    assert_eq!(ended.code(), 11);
    assert_eq!(ended.json()["msg"], "ztunnel is not connected");
    assert_eq!(ended.json()["cniVersion"], "1.1.0");
    assert_eq!(
        add("/proc/self/ns/net").code(),
        4,
        "the node's own namespace"
    );
    assert_eq!(add("/proc/self/ns/mnt").code(), 4, "no network namespace");
    assert_eq!(add("/etc/hostname").code(), 4, "no namespace");
    *rig.control.answer.lock().unwrap() = Err("connection refused".into());
    let ended = add(&netns);
    assert_eq!(ended.code(), 11);
    assert_eq!(
        ended.json()["msg"],
        "the control plane cannot be asked who the pod is"
    );
    assert_eq!(Call::new("STATUS", &conf).run().code(), 50);
    *rig.control.answer.lock().unwrap() = Ok(FakeControl::enrolling(false));
    assert!(
        add(&netns).ok,
        "a pod that is not enrolled needs no ztunnel"
    );
}
