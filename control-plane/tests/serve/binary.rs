//! The program itself: its commands, its signals, its words when something is wrong, and what its
//! admin server shows.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::harness::{MESH, directory};

fn culvertd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvertd"));
    command.args(arguments).env_clear();
    command
}

fn run(arguments: &[&str]) -> Output {
    culvertd(arguments).output().unwrap()
}

/// Ended and waited for, also when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn serve(base: &Path, more: &[&str]) -> Command {
    let (manifests, state) = (text(&base.join("manifests")), text(&base.join("state")));
    let mut arguments = vec!["serve", "--manifests", &manifests, "--state", &state];
    arguments.extend(["--listen", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"]);
    arguments.extend(["--server-name", "127.0.0.1", "--log-format", "json"]);
    arguments.extend(more);
    culvertd(&arguments)
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_serves_shows_its_state_and_ends_by_a_signal() {
    let bad = MESH.replace("principals:", "principal:");
    let base = directory(&[("mesh.yaml", &bad)]);
    let mut child = serve(base.path(), &[])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut running = Running(child);
    let serving = lines.find(|line| line.contains("\"serving\"")).unwrap();
    let serving: serde_json::Value = serde_json::from_str(&serving).unwrap();
    let admin = serving["admin"].as_str().unwrap();
    assert!(get(admin, "/healthz/ready").ends_with("ready\n"));
    let status = get(admin, "/debug/status");
    let status = &status[status.find("\r\n\r\n").unwrap()..];
    let status: serde_json::Value = serde_json::from_str(status).unwrap();
    let error = &status["source"]["errors"][0];
    assert_eq!(
        (error["file"].as_str(), error["last_good_kept"].as_bool()),
        (Some("mesh.yaml"), Some(false))
    );
    assert_eq!(error["line"], 26);
    assert!(get(admin, "/metrics").contains("istio_build_info{component=\"culvertd\""));
    assert!(get(admin, "/logging").contains("info"));
    let pid = Pid::from_raw(i32::try_from(running.0.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(running.0.wait().unwrap().success());
}

#[test]
fn the_commands_write_private_files_and_nothing_else() {
    let base = directory(&[]);
    let state = text(&base.path().join("state"));
    let out = base.path().join("token");
    assert!(run(&["init", "--state", &state]).status.success());
    let made = run(&[
        "token",
        "--state",
        &state,
        "--node",
        "node-a",
        "--out",
        &text(&out),
    ]);
    assert!(made.status.success() && made.stdout.is_empty(), "{made:?}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&out), 0o600);
    for (file, expected) in [
        ("ca.json", 0o600),
        ("nodes.json", 0o600),
        ("root.pem", 0o644),
    ] {
        assert_eq!(
            mode(&base.path().join("state").join(file)),
            expected,
            "{file}"
        );
    }
    let bundle = std::fs::read_to_string(base.path().join("state/root.pem")).unwrap();
    assert!(!bundle.contains("PRIVATE"));
    assert!(run(&["rotate-root", "--state", &state]).status.success());
    let again = run(&["rotate-root", "--state", &state]);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(
        !again.status.success() && said.contains("--retire"),
        "{said}"
    );
    assert!(
        run(&["rotate-root", "--state", &state, "--retire"])
            .status
            .success()
    );
}

#[test]
fn mistakes_are_told_in_one_go_and_in_words() {
    let told = |base: &Path, more: &[&str]| {
        let output = serve(base, more).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let base = directory(&[("mesh.yaml", MESH)]);
    let said = told(base.path(), &["--leaf-ttl", "1s", "--trust-domain", "a/b"]);
    assert!(
        said.contains("--leaf-ttl") && said.contains("--trust-domain"),
        "{said}"
    );
    let said = told(directory(&[]).path(), &[]);
    assert!(
        said.contains("--allow-empty") && !said.contains("backtrace"),
        "{said}"
    );
}
