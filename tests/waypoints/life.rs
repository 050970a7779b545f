//! What the agents do, whatever the program does.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use world::Program;

use super::bed::{Bed, GATEWAY, Told, leases};

/// Longer than the agent's report of all pods, 5 s.
const REPORTED: Duration = Duration::from_secs(7);

pub fn appears(bed: &mut Bed) -> anyhow::Result<()> {
    ensure!(
        bed.told()?.is_empty() && bed.real()?.is_empty(),
        "nothing is there before"
    );
    bed.gateway("")?;
    let told = bed.wait_serving(&["shop/gate-0"])?.remove(0);
    ensure!(!told.enrolled, "{told:?}");
    let v4 = told.ips.iter().filter(|ip| ip.is_ipv4()).count();
    ensure!(
        (v4, told.ips.len()) == (1, 2),
        "an address of each family: {told:?}"
    );
    let real = bed.real_of("gate-0")?;
    ensure!(
        bed.parts[real.node].node.name() == told.node,
        "{real:?} {told:?}"
    );
    ensure!(real.pids.len() == 1, "in a cgroup of its own: {real:?}");
    ensure!(
        netns_of(real.pids[0])? == netns_named(&real.sandbox)?,
        "in its own namespace"
    );
    let status = bed
        .control
        .agent_command(&bed.parts[real.node].node, &["status"])?;
    ensure!(
        !status.contains("gate-0"),
        "the agent captures no waypoint: {status}"
    );
    // Reached by its address from another pod: the chain wired it.
    let v6 = told
        .ips
        .iter()
        .find(|ip| ip.is_ipv6())
        .context("an IPv6 address")?;
    for ip in [
        v6,
        told.ips
            .iter()
            .find(|ip| ip.is_ipv4())
            .context("an IPv4 address")?,
    ] {
        ask(bed, *ip)?;
    }
    Ok(())
}

pub fn killed(bed: &mut Bed) -> anyhow::Result<()> {
    let before = bed.real_of("gate-0")?;
    kill(before.pids[0])?;
    let after = bed.wait("another process", || {
        let now = bed.real_of("gate-0").ok()?;
        let other = now.pids.first().is_some_and(|pid| *pid != before.pids[0]);
        other.then_some(now)
    })?;
    ensure!(after.sandbox == before.sandbox, "in the same sandbox");
    bed.wait_serving(&["shop/gate-0"]).map(drop)
}

pub fn outlives(bed: &mut Bed) -> anyhow::Result<()> {
    let before = bed.real_of("gate-0")?;
    bed.kill_agent(before.node);
    ensure!(
        bed.real_of("gate-0")?.pids == before.pids,
        "it runs without its agent"
    );
    bed.start_agent(before.node)?;
    // Nobody may be told in between that it does not serve: that would cost connections.
    let until = Instant::now() + REPORTED;
    while Instant::now() < until {
        let told = bed.told()?;
        ensure!(told.len() == 1 && told[0].serves(), "{told:?}");
        bed.world.interrupt().sleep(Duration::from_millis(50))?;
    }
    let after = bed.real_of("gate-0")?;
    ensure!((after.pids, after.sandbox) == (before.pids, before.sandbox.clone()));
    // The next agent is no parent of it, and notices its end all the same.
    killed(bed)
}

pub fn spread(bed: &mut Bed) -> anyhow::Result<()> {
    bed.gateway("culvert.io/replicas: '2'")?;
    let told = bed.wait_serving(&["shop/gate-0", "shop/gate-1"])?;
    ensure!(told[0].node != told[1].node, "{told:?}");
    Ok(())
}

pub fn replaced(bed: &mut Bed) -> anyhow::Result<()> {
    bed.gateway("culvert.io/replicas: '2', culvert.io/restartedAt: today")?;
    let mut least = usize::MAX;
    bed.wait("others in their place", || {
        let told = bed.told().ok()?;
        let serving = |replica: u32| {
            let of_it = |pod: &&Told| pod.waypoint.as_ref().is_some_and(|w| w.replica == replica);
            told.iter().filter(of_it).filter(|pod| pod.serves()).count()
        };
        least = least.min(serving(0)).min(serving(1));
        let names: Vec<&str> = told.iter().map(|pod| pod.pod.as_str()).collect();
        (names.len() == 2 && names.contains(&"shop/gate-16") && names.contains(&"shop/gate-17"))
            .then_some(())
    })?;
    ensure!(least >= 1, "a replica was without a waypoint for a time");
    bed.wait_serving(&["shop/gate-16", "shop/gate-17"])?;
    let real = bed.real()?;
    ensure!(real.len() == 2, "the first ones are gone: {real:?}");
    Ok(())
}

pub fn never(bed: &mut Bed) -> anyhow::Result<()> {
    let before = [bed.real_of("gate-16")?, bed.real_of("gate-17")?];
    bed.mode("never")?;
    bed.put_program(include_bytes!("stand_in.py"))?;
    bed.wait(
        "the reason of one that does not get ready, in its own words",
        || {
            let told = bed.told().ok()?;
            let words = told.iter().filter_map(|pod| pod.waypoint.as_ref());
            let mut failed =
                words.filter(|word| !word.ready && word.problem.contains("told never to be"));
            failed.next().map(drop)
        },
    )?;
    // A look of the agent may miss an answer of a machine that is busy.
    bed.wait("those that serve to stay", || {
        let told = bed.told().ok()?;
        let serves = |name: &str| {
            told.iter()
                .any(|pod| pod.pod.ends_with(name) && pod.serves())
        };
        before.iter().all(|one| serves(&one.name)).then_some(())
    })?;
    for before in &before {
        ensure!(
            bed.real_of(&before.name)?.pids == before.pids,
            "the same processes"
        );
    }
    // The next program is ready: it replaces both the old one and the failed one.
    bed.mode("")?;
    bed.put_program(include_bytes!("stand_in.py"))?;
    bed.wait("the failed and the old ones to be gone", || {
        let told = bed.told().ok()?;
        let all = told.len() == 2 && told.iter().all(Told::serves);
        let old = told
            .iter()
            .any(|pod| before.iter().any(|b| pod.pod.ends_with(&b.name)));
        (all && !old).then_some(())
    })
}

pub fn deaf(bed: &mut Bed) -> anyhow::Result<()> {
    bed.mode("deaf")?;
    bed.put_program(include_bytes!("stand_in.py"))?;
    let before: Vec<String> = bed.told()?.into_iter().map(|pod| pod.pod).collect();
    let deaf = bed.wait("deaf ones to serve alone", || {
        let told = bed.told().ok()?;
        let all = told.len() == 2 && told.iter().all(Told::serves);
        let old = told.iter().any(|pod| before.contains(&pod.pod));
        (all && !old).then(|| bed.real().ok())?
    })?;
    bed.gateway("culvert.io/replicas: '1', culvert.io/restartedAt: today")?;
    bed.wait("the second replica to be gone", || {
        let told = bed.told().ok()?;
        (told.len() == 1 && bed.real().ok()?.len() == 1).then_some(())
    })?;
    let left = bed.real()?;
    let ended = deaf
        .iter()
        .find(|real| real.name != left[0].name)
        .context("one that ended")?;
    ensure!(!alive(ended.pids[0]), "{ended:?} was killed");
    bed.mode("")
}

pub fn unreadable(bed: &mut Bed) -> anyhow::Result<()> {
    let pids = |bed: &Bed| -> anyhow::Result<Vec<Vec<u32>>> {
        Ok(bed.real()?.into_iter().map(|real| real.pids).collect())
    };
    let before = pids(bed)?;
    bed.gateway("culvert.io/replicas: '17', culvert.io/restartedAt: today")?;
    bed.wait("a condition that names the bound", || {
        bed.conditions().ok()?.contains("0 to 16").then_some(())
    })?;
    bed.gateway("culvert.io/restartedAt: today")?;
    bed.wait("no such condition, and one replica", || {
        let told = bed.told().ok()?;
        let is_read = !bed.conditions().ok()?.contains("0 to 16");
        (is_read && told.len() == 1 && told[0].serves()).then_some(())
    })?;
    ensure!(pids(bed)? == before, "it is the same process all the time");
    Ok(())
}

pub fn nothing_left(bed: &mut Bed) -> anyhow::Result<()> {
    let before = bed.real()?;
    let node = before.first().context("one runs")?.node;
    bed.manifests.remove(GATEWAY)?;
    gone(bed)?;
    for part in &bed.parts {
        let leases = leases(&part.node)?;
        for real in &before {
            let lease = leases
                .iter()
                .find(|lease| lease.contains(&real.container_id));
            ensure!(lease.is_none(), "a lease is left: {lease:?}");
        }
        // The kernel takes links and pins away a moment after what held them.
        bed.wait("only the node's own pod on the bridge", || {
            let program = Program::line("ip -o link show master cni0");
            let links = part.node.place().text(&program).ok()?;
            (links.lines().count() == 1).then_some(())
        })?;
    }
    bed.wait("only the node's own pins and its pod's", || {
        // What the kernel itself shows in every bpffs ends so.
        let pins = fs::read_dir(bed.parts[node].node.bpffs()).ok()?.flatten();
        let names = pins.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let own = names.filter(|name| !name.ends_with(".debug")).count();
        (own == 2).then_some(())
    })
}

/// No record, namespace, process or cgroup of a waypoint is there any more.
pub fn gone(bed: &Bed) -> anyhow::Result<()> {
    bed.wait("nothing to be known", || {
        (bed.real().ok()?.is_empty() && bed.told().ok()?.is_empty()).then_some(())
    })?;
    let names = netio::netns::names()?;
    let prefix = format!("{}-gate-", bed.world.id());
    let left: Vec<&String> = names
        .iter()
        .filter(|name| name.starts_with(&prefix))
        .collect();
    ensure!(left.is_empty(), "namespaces are left: {left:?}");
    for node in 0..bed.parts.len() {
        let directories = fs::read_dir(bed.cgroups(node))
            .into_iter()
            .flatten()
            .flatten();
        let left: Vec<_> = directories
            .filter(|e| e.path().is_dir())
            .map(|e| e.path())
            .collect();
        ensure!(left.is_empty(), "cgroups are left: {left:?}");
    }
    Ok(())
}

fn ask(bed: &Bed, ip: IpAddr) -> anyhow::Result<()> {
    let url = match ip {
        IpAddr::V4(ip) => format!("http://{ip}:15021/healthz/ready"),
        IpAddr::V6(ip) => format!("http://[{ip}]:15021/healthz/ready"),
    };
    world::stack::get(bed.world.router(), &url)
        .map(drop)
        .context(url)
}

pub fn kill(pid: u32) -> anyhow::Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    Ok(nix::sys::signal::kill(
        pid,
        nix::sys::signal::Signal::SIGKILL,
    )?)
}

pub fn alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn netns_of(pid: u32) -> anyhow::Result<netio::netns::Netns> {
    Ok(netio::netns::Netns::open(format!("/proc/{pid}/ns/net"))?)
}

pub fn netns_named(name: &str) -> anyhow::Result<netio::netns::Netns> {
    Ok(netio::netns::Netns::open(netio::netns::path_of(name))?)
}
