//! Worlds made on this machine: plain pods, traffic, captures, and nothing left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use world::capture::Capture;
use world::{Interrupt, Leftovers, Program, Removed, World, WorldError, remove_leftovers};

/// Held by tests that look for abandoned worlds, or make one: they would take it from each other.
static ABANDONED: Mutex<()> = Mutex::new(());

fn leftovers(id: &str) -> Vec<String> {
    let names = |directory: &str| -> Vec<String> {
        fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().to_string_lossy().into_owned())
            .filter(|path| path.contains(id))
            .collect()
    };
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let mut found: Vec<String> = [
        "/run/netns",
        "/run/culvert-worlds",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
    ]
    .iter()
    .flat_map(|directory| names(directory))
    .collect();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(id))
            .map(str::to_owned),
    );
    found
}

#[test]
fn pods_on_two_nodes_reach_each_other_over_both_families_and_a_capture_sees_the_bytes() {
    let mut world = World::new().unwrap();
    let a = world.node("a").unwrap();
    let b = world.node("b").unwrap();
    let client = a.pod("shop/client").unwrap();
    let server = b.pod("shop/server").unwrap();
    fs::write(world.directory().join("page"), "a-rare-marker").unwrap();
    let http = Program::line("/usr/bin/python3 -u -m http.server --bind :: 8080 --directory")
        .arg(world.directory());
    let http = server.start("http", &http).unwrap();
    http.wait_for_line(&["Serving"], Duration::from_secs(60))
        .unwrap();

    let file = world.directory().join("link.pcap");
    let capture = Capture::start(world.router(), &World::link_to("a"), &file).unwrap();
    for address in [server.ipv4().unwrap(), server.ipv6().unwrap()] {
        let url = match address {
            IpAddr::V4(ip) => format!("http://{ip}:8080/page"),
            IpAddr::V6(ip) => format!("http://[{ip}]:8080/page"),
        };
        let got = client
            .place()
            .text(&Program::line("curl -sS -f -g").arg(url))
            .unwrap();
        assert_eq!(got, "a-rare-marker");
    }
    let recording = capture
        .finish()
        .unwrap()
        .between(&client.addresses(), &server.addresses());
    assert_eq!(recording.occurrences(b"a-rare-marker"), 2);
    assert!(recording.only_port(8080));
    assert_eq!(
        recording.opened_ports().into_iter().collect::<Vec<_>>(),
        [8080]
    );
    assert!(
        http.log().contains(&client.ipv4().unwrap().to_string()),
        "{}",
        http.log()
    );

    client.delete().unwrap();
    let id = world.id();
    world.close().unwrap();
    assert_eq!(leftovers(&id), Vec::<String>::new());
    assert!(http.ended().is_some(), "a process outlived its world");
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let panicked = std::panic::catch_unwind(move || {
        let mut world = World::new().unwrap();
        let node = world.node("a").unwrap();
        let pod = node.pod("client").unwrap();
        let sleep = pod.start("sleep", &Program::line("sleep 1000")).unwrap();
        send.send((world.id(), sleep.pid())).unwrap();
        panic!("as a scenario does");
    });
    assert!(panicked.is_err());
    let (id, pid) = receive.recv().unwrap();
    assert_eq!(leftovers(&id), Vec::<String>::new());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn an_interrupt_ends_a_program_that_would_run_on() {
    let world = World::new().unwrap();
    let interrupt = world.interrupt().clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            interrupt.raise();
        });
        let forever = Program::line("sleep 1000").limit(Duration::from_secs(1000));
        let ended = world.router().run(&forever);
        assert!(matches!(ended, Err(WorldError::Interrupted)), "{ended:?}");
    });
}

#[test]
fn a_program_past_its_time_is_killed_with_its_children() {
    let world = World::new().unwrap();
    let program = Program::new("sh").args(["-c", "sleep 1000 & echo $!; wait"]);
    // As long as the shell needs to say a word, which depends on what else the machine does.
    let limits = (0..8).map(|turn| Duration::from_millis(300 << turn));
    let output = limits
        .map(|limit| world.router().run(&program.clone().limit(limit)).unwrap())
        .find(|output| !output.text().is_empty())
        .expect("the shell says a word");
    assert!(output.timed_out);
    let child: u32 = output.text().parse().unwrap();
    assert_goes(child);
}

#[test]
fn a_cni_error_names_the_plugin_and_its_message() {
    let mut world = World::new().unwrap();
    let node = world.node("a").unwrap();
    let conf_dir = node.runtime().unwrap().conf_dir;
    let broken = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[
        {"type":"bridge","bridge":"cni0","ipam":{"type":"host-local"}}]}"#;
    fs::write(conf_dir.join("00-broken.conflist"), broken).unwrap();
    let refused = node
        .pod("client")
        .expect_err("host-local needs ranges")
        .to_string();
    assert!(refused.contains("plugin bridge refused ADD"), "{refused}");
}

#[test]
fn a_kept_world_stands_until_it_is_removed() {
    let _alone = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new().unwrap();
    let node = world.node("a").unwrap();
    let _others = ["longer-name", "longest-name"].map(|name| world.host(name).unwrap());
    let sleep = node
        .place()
        .start("sleep", &Program::line("sleep 1000"))
        .unwrap();
    let id = world.id();
    let kept = world.keep().unwrap();
    assert!(sleep.ended().is_none());
    assert!(
        remove_leftovers(Leftovers::Abandoned)
            .unwrap()
            .iter()
            .all(|removed| !names(removed, &id))
    );
    assert_ne!(leftovers(&id), Vec::<String>::new());
    let entered = |name: &str| {
        let mut enter = std::process::Command::new(&kept.enter);
        let output = enter.args([name, "ip", "route"]).output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert!(entered("a").0, "by its name");
    assert!(entered("longer").0, "by the beginning of its name");
    let (is_entered, said) = entered("nobody");
    assert!(
        !is_entered && said.contains("no pod or node is nobody"),
        "{said}"
    );
    let (is_entered, said) = entered("long");
    assert!(
        !is_entered && said.contains("the beginning of several"),
        "{said}"
    );
    kept.remove().unwrap();
    assert_eq!(leftovers(&id), Vec::<String>::new());
}

#[test]
fn a_world_whose_process_crashed_is_removed_by_its_record() {
    const CRASHING: &str = "CULVERT_TEST_CRASHES";
    if std::env::var_os(CRASHING).is_some() {
        let mut world = World::new().unwrap();
        let pod = world.node("a").unwrap().pod("client").unwrap();
        let sleep = pod.start("sleep", &Program::line("sleep 1000")).unwrap();
        println!("<{}>", world.id());
        println!("[{}]", sleep.pid());
        std::process::abort();
    }
    let _alone = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_world_whose_process_crashed_is_removed_by_its_record",
            "--nocapture",
        ])
        .env(CRASHING, "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let inside = |open, close| {
        text.split(open)
            .nth(1)
            .unwrap()
            .split(close)
            .next()
            .unwrap()
    };
    let id = inside('<', '>');
    assert_ne!(
        leftovers(id),
        Vec::<String>::new(),
        "the crash left nothing, it proves nothing"
    );
    let removed = remove_leftovers(Leftovers::Abandoned).unwrap();
    assert!(
        removed.contains(&Removed::Gone(id.to_owned())),
        "{removed:?}"
    );
    assert_eq!(leftovers(id), Vec::<String>::new());
    assert_goes(inside('[', ']').parse().unwrap());
}

#[test]
fn a_signal_removes_the_worlds_of_a_process_whatever_it_waits_for() {
    const WAITING: &str = "CULVERT_TEST_WAITS";
    if let Ok(how) = std::env::var(WAITING) {
        let mut world = World::new().unwrap();
        let node = world.node("a").unwrap();
        let pod = node.pod("client").unwrap();
        let sleep = pod.start("sleep", &Program::line("sleep 1000")).unwrap();
        println!("<{}>[{}]", world.id(), sleep.pid());
        if how == "itself" {
            // No wait of a world: nothing looks at the flag.
            std::thread::sleep(Duration::from_secs(1000));
        }
        let forever = Program::line("sleep 1000").limit(Duration::from_secs(1000));
        let ended = node.place().run(&forever);
        drop(world);
        // No panic: its message would stand among those of tests that failed. 0 is the failure.
        std::process::exit(matches!(ended, Err(WorldError::Interrupted)).into());
    }
    for (how, signal) in [("itself", "TERM"), ("itself", "INT"), ("program", "TERM")] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_signal_removes_the_worlds_of_a_process_whatever_it_waits_for",
                "--nocapture",
            ])
            .env(WAITING, how)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains("]")));
        let line = line.expect("the world is up");
        let (id, pid) = line[line.find('<').unwrap() + 1..line.len() - 1]
            .split_once(">[")
            .unwrap();
        assert_ne!(leftovers(id), Vec::<String>::new(), "this proves nothing");
        let signalled = std::process::Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status();
        assert!(signalled.unwrap().success());
        // Its output is read to its end, so that it may say what it likes.
        lines.for_each(drop);
        let status = child.wait().unwrap();
        assert!(!status.success(), "{how} {signal}: {status}");
        if how == "itself" {
            let number = if signal == "TERM" { 15 } else { 2 };
            assert_eq!(status.code(), Some(128 + number));
        }
        assert_eq!(leftovers(id), Vec::<String>::new(), "{how} {signal}");
        assert_goes(pid.parse().unwrap());
    }
}

/// A killed orphan is a zombie until process 1 reaps it.
fn assert_goes(pid: u32) {
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
    };
    Interrupt::default()
        .wait_for("a process to go", Duration::from_secs(60), gone)
        .expect("a killed process goes");
}

fn names(removed: &Removed, id: &str) -> bool {
    match removed {
        Removed::Gone(other) | Removed::InUse(other, _) => other == id,
    }
}

#[test]
fn a_process_does_not_answer_for_an_earlier_one_of_its_name() {
    let world = World::new().unwrap();
    let program = |word: &str| Program::new("sh").args(["-c", &format!("echo {word}; sleep 1000")]);
    let within = Duration::from_secs(60);
    let first = world.router().start("twice", &program("first")).unwrap();
    first.wait_for_line(&["first"], within).unwrap();
    drop(first);
    let second = world.router().start("twice", &program("second")).unwrap();
    second.wait_for_line(&["second"], within).unwrap();
    assert_eq!(second.log(), "second\n");
    assert_eq!(
        fs::read_to_string(second.log_path()).unwrap(),
        "first\nsecond\n"
    );
}
