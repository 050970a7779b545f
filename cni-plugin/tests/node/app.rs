//! An ordinary program in a pod (app.py), in the pod's namespace and in a cgroup of applications.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use netio::command::Placement;
use netio::netns::Netns;
use serde_json::{Value, json};

/// The program; killed and reaped when dropped.
pub struct App {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl App {
    pub fn start(netns: &Netns, cgroup: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/app.py");
        let mut command = Command::new("/usr/bin/python3");
        command
            .args(["-u", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let place = Placement {
            netns: Some(netns),
            cgroup: Some(cgroup),
            ..Default::default()
        };
        place.apply(&mut command).unwrap();
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            orders,
            answers,
        }
    }

    pub fn ask(&mut self, order: Value) -> Value {
        writeln!(self.orders, "{order}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn must(&mut self, order: Value) -> Value {
        let answer = self.ask(order.clone());
        assert!(answer.get("error").is_none(), "{order}: {answer}");
        answer
    }

    /// Waits for the address: the kernel shows an IPv6 one that is new a moment before it can be
    /// used.
    pub fn listen(&mut self, addr: &str, port: u16) {
        let order = json!({"do": "listen", "addr": addr, "port": port, "reuse": true});
        let start = Instant::now();
        loop {
            let answer = self.ask(order.clone());
            let why = answer["why"].as_str().unwrap_or_default();
            if answer.get("error").is_none() {
                return;
            }
            let waits = why.contains("Cannot assign requested address");
            let patient = start.elapsed() < Duration::from_secs(60);
            assert!(waits && patient, "{order}: {answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn dial(&mut self, addr: &str, port: u16) -> Dialled {
        let answer = self.must(json!({"do": "dial", "addr": addr, "port": port}));
        Dialled::of(&answer)
    }

    pub fn dial_with(&mut self, addr: &str, port: u16, more: Value) -> Dialled {
        let mut order = json!({"do": "dial", "addr": addr, "port": port});
        for (key, value) in more.as_object().unwrap() {
            order[key] = value.clone();
        }
        let answer = self.must(order);
        Dialled::of(&answer)
    }

    /// The kind of error that the program met; `TimeoutError` when nobody says no for so many
    /// seconds.
    pub fn dial_error(&mut self, addr: &str, port: u16, timeout: u64) -> String {
        let order = json!({"do": "dial", "addr": addr, "port": port, "timeout": timeout});
        let answer = self.ask(order);
        answer["error"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {answer}"))
            .to_owned()
    }

    /// 100,000 bytes there and back.
    pub fn ping(&mut self, id: u64) {
        self.must(json!({"do": "ping", "id": id}));
    }

    pub fn close(&mut self, id: u64) {
        self.must(json!({"do": "close", "id": id}));
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection as the dialling program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialled {
    pub id: u64,
    pub mark: u64,
    pub local: String,
    /// What the server said: whom it saw.
    pub greeting: String,
}

impl Dialled {
    fn of(answer: &Value) -> Self {
        Self {
            id: answer["id"].as_u64().unwrap(),
            mark: answer["mark"].as_u64().unwrap(),
            local: answer["local"].as_str().unwrap().to_owned(),
            greeting: answer["greeting"].as_str().unwrap().to_owned(),
        }
    }

    /// The peer's address that the server saw.
    pub fn seen_as(&self) -> &str {
        self.greeting
            .strip_prefix("peer=")
            .unwrap()
            .split('|')
            .next()
            .unwrap()
    }
}
