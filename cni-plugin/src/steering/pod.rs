//! Steering of one pod: the program, the rules, the sysctls and the listeners of its namespace,
//! as single steps. Every step may be repeated.
//!
//! Knows nothing of the order beyond what each step needs; `agent::enrol` has it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netio::netns::Netns;
use rtnetlink::IpVersion;
use tokio::time::Instant;

use super::BpfError;
use super::connections::{self, Connection};
use super::fault::{Cause, Fault};
use super::listeners::Slots;
use super::probe::{self, Seen, Way};
use super::program::{self, Program};
use super::routes::{self, Address, RouteError, Sources};
use super::sysctls::{self, Before, SysctlError};

pub use super::listeners::Listeners;

/// How long an IPv6 address may stay tentative before its pod is steered without it: duplicate
/// address detection takes 1 s (RFC 4862, RetransTimer) plus a random delay of 1 s.
const TENTATIVE_WAIT: Duration = Duration::from_secs(3);
/// Pause between two looks at tentative addresses.
const TENTATIVE_PAUSE: Duration = Duration::from_millis(50);

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// With BPF.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// With rules, routes or addresses.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// With a sysctl.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The namespace could not be entered, or a socket of it not be read.
    #[error("in the pod's namespace: {0}")]
    Namespace(#[from] io::Error),
    /// A listener could not be made.
    #[error("the {0} listener cannot be made in the pod: {1}{hint}", hint = hint(.1))]
    Listener(&'static str, #[source] io::Error),
    /// The pod has no address that can be steered.
    #[error("the pod has no global IPv4 or IPv6 address")]
    NoAddress,
    /// A listener is not of the pod's namespace: bpf_sk_assign would not notice.
    #[error("a listener is of namespace {found}, the pod's is {wanted}")]
    ForeignListener {
        /// Cookie of the pod's namespace.
        wanted: u64,
        /// Cookie of the listener's namespace.
        found: u64,
    },
    /// The thread that worked for the step is gone.
    #[error("the step was cut off")]
    CutOff,
}

/// What an error of a listener may mean.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => {
            " (is the family disabled there?)"
        }
        _ => "",
    }
}

/// What steers one pod. Shared by the agent's tasks; the locks are held for system calls only.
#[derive(Debug)]
pub struct PodSteering {
    netns: Netns,
    cookie: u64,
    dir: PathBuf,
    program: Mutex<Program>,
    /// Locked after the program.
    slots: Mutex<Slots>,
}

impl PodSteering {
    /// Loads the pod's program with its pinned maps and puts the listeners into their slots, but
    /// for those in which listeners of another agent live: see [`PodSteering::take_slots`].
    /// Attaches nothing. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`SteerError`] naming the step.
    pub fn load(dir: &Path, netns: &Netns, listeners: &Listeners) -> Result<Self, SteerError> {
        let cookie = netns.cookie()?;
        for listener in listeners.sockets() {
            let found = netio::socket::netns_cookie(listener.as_fd())?;
            if found != cookie {
                return Err(SteerError::ForeignListener {
                    wanted: cookie,
                    found,
                });
            }
        }
        let program = Program::load(dir)?;
        let slots = Slots::adopt(&program, listeners)?;
        Ok(Self {
            netns: netns.clone(),
            cookie,
            dir: dir.to_owned(),
            program: Mutex::new(program),
            slots: Mutex::new(slots),
        })
    }

    /// The pod's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Cookie of the pod's namespace.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Reads the namespace's addresses and fills the program's map with them. Gives the global
    /// ones, `preferred` first.
    ///
    /// # Errors
    /// [`SteerError`]; a namespace without a global address is one.
    pub async fn fill_addresses(&self, preferred: &[IpAddr]) -> Result<Vec<IpAddr>, SteerError> {
        let addresses = routes::addresses(&self.netns).await?;
        self.fill(&addresses)?;
        match global(&addresses, preferred) {
            ips if ips.is_empty() => Err(SteerError::NoAddress),
            ips => Ok(ips),
        }
    }

    /// The same, and makes rules and routes for the addresses that are no longer tentative. Gives
    /// none when there is none: nothing gets into such a namespace or out of it, and the rest of
    /// its steering may be made; its routes come with an address.
    ///
    /// # Errors
    /// [`SteerError`].
    pub async fn route(&self, preferred: &[IpAddr]) -> Result<Vec<IpAddr>, SteerError> {
        let addresses = routes::addresses(&self.netns).await?;
        self.fill(&addresses)?;
        let sources = Sources::choose(&addresses, preferred);
        if sources == Sources::default() {
            return Ok(Vec::new());
        }
        routes::install(&self.netns, sources).await?;
        Ok(global(&addresses, preferred))
    }

    fn fill(&self, addresses: &[Address]) -> Result<(), SteerError> {
        let all: BTreeSet<IpAddr> = addresses.iter().map(|address| address.ip).collect();
        Ok(self.program().set_addresses(&all)?)
    }

    /// Waits until no global address is tentative, up to 3 s.
    ///
    /// # Errors
    /// [`SteerError`].
    pub async fn settle(&self) -> Result<(), SteerError> {
        let deadline = Instant::now() + TENTATIVE_WAIT;
        loop {
            let addresses = routes::addresses(&self.netns).await?;
            let waits = addresses
                .iter()
                .any(|address| address.tentative && address.is_global());
            if !waits || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(TENTATIVE_PAUSE).await;
        }
    }

    /// The sysctls as they are.
    ///
    /// # Errors
    /// [`SteerError`].
    pub fn read_sysctls(&self) -> Result<Before, SteerError> {
        Ok(self.netns.enter(sysctls::read)??)
    }

    /// Sets the sysctls. What they were before is the caller's to remember first.
    ///
    /// # Errors
    /// [`SteerError`].
    pub fn set_sysctls(&self) -> Result<(), SteerError> {
        Ok(self.netns.enter(sysctls::set)??)
    }

    /// Inbound connections go to the listeners from now on.
    ///
    /// # Errors
    /// [`SteerError`].
    pub fn attach(&self) -> Result<(), SteerError> {
        Ok(self.program().attach(&self.netns)?)
    }

    /// What the program did so far, by name.
    ///
    /// # Errors
    /// [`SteerError`].
    pub fn counters(&self) -> Result<BTreeMap<String, u64>, SteerError> {
        Ok(self.program().counters()?)
    }

    /// What is missing of a full capture; empty when all parts are in place.
    ///
    /// # Errors
    /// [`SteerError`] when it cannot be seen.
    pub async fn faults(&self, listeners: &Listeners) -> Result<Vec<Fault>, SteerError> {
        let addresses = routes::addresses(&self.netns).await?;
        let mut faults = self.program_faults(listeners, &addresses)?;
        if !self.netns.enter(sysctls::are_set)? {
            faults.push(Fault::new(Cause::Sysctl, "a sysctl was changed"));
        }
        let sources = Sources::choose(&addresses, &[]);
        let families = [
            (IpVersion::V4, "IPv4", sources.v4.is_some()),
            (IpVersion::V6, "IPv6", sources.v6.is_some()),
        ];
        for (family, name, _) in families.into_iter().filter(|(_, _, used)| *used) {
            let found = routes::installed(&self.netns, family).await?;
            if !found.rule {
                let what = format!("the {name} rule of the capture mark is gone");
                faults.push(Fault::new(Cause::Rule, what));
            }
            if !found.capture {
                let what = format!("the {name} capture route of table 100 is gone");
                faults.push(Fault::new(Cause::Route, what));
            }
            if !found.blocking {
                let what = format!("the {name} unreachable route of table 100 is gone");
                faults.push(Fault::new(Cause::Route, what));
            }
        }
        Ok(faults)
    }

    fn program_faults(
        &self,
        listeners: &Listeners,
        addresses: &[Address],
    ) -> Result<Vec<Fault>, SteerError> {
        let mut faults = Vec::new();
        let program = self.program();
        if !program.is_pinned() {
            faults.push(Fault::new(Cause::Link, "a map is not pinned any more"));
        }
        if !program.is_attached(self.netns.id().ino) {
            faults.push(Fault::new(
                Cause::Link,
                "the sk_lookup link is not in force",
            ));
        }
        for slot in self.slots().misplaced(&program, listeners)? {
            let what = format!("slot {slot} does not hold the agent's listener");
            faults.push(Fault::new(Cause::Listener, what));
        }
        let wanted: BTreeSet<IpAddr> = addresses.iter().map(|address| address.ip).collect();
        let known = program.addresses();
        if known != wanted {
            let what = format!("the program knows {known:?}, the pod has {wanted:?}");
            faults.push(Fault::new(Cause::Address, what));
        }
        Ok(faults)
    }

    /// Connects as an application of the pod would, in every family that it has an address of, and
    /// tells what did not go to the listeners. `hooked`: whether the connect hook sees this
    /// process; else its part is not tested. Nothing is accepted, see [`probe`].
    ///
    /// # Errors
    /// [`SteerError`] when it cannot be tried.
    pub async fn try_connections(&self, hooked: bool) -> Result<Vec<Fault>, SteerError> {
        let addresses = routes::addresses(&self.netns).await?;
        let sources = Sources::choose(&addresses, &[]);
        let own = sources.v4.map(IpAddr::from).into_iter();
        let own = own.chain(sources.v6.map(IpAddr::from));
        let mut faults = Vec::new();
        for ip in own {
            for way in [Way::Outbound, Way::Inbound] {
                let to = way.destination(ip);
                let before = self.counters()?;
                let netns = self.netns.clone();
                let work = move || netns.enter(|| probe::connect(to, !hooked));
                let seen = tokio::task::spawn_blocking(work)
                    .await
                    .map_err(|_| SteerError::CutOff)???;
                let moved = self.counters()?.get(way.counter()) > before.get(way.counter());
                faults.extend(fault_of(&seen, to, moved));
            }
        }
        Ok(faults)
    }

    /// Puts the listeners back into slots that do not hold them, nor a living one of the agent
    /// before.
    ///
    /// # Errors
    /// [`SteerError`].
    pub fn restore_listeners(&self, listeners: &Listeners) -> Result<(), SteerError> {
        let program = self.program();
        self.slots().fill(&program, listeners)
    }

    /// Whether slots may still hold listeners of the agent before.
    pub fn has_left_slots(&self) -> bool {
        self.slots().are_left()
    }

    /// Puts the listeners into all slots: whoever accepted from the older ones has these now.
    ///
    /// # Errors
    /// [`SteerError`].
    pub fn take_slots(&self, listeners: &Listeners) -> Result<(), SteerError> {
        let program = self.program();
        self.slots().take(&program, listeners)
    }

    /// Whether the link is in force.
    pub fn is_attached(&self) -> bool {
        self.program().is_attached(self.netns.id().ino)
    }

    /// Stops to steer by the link that the agent holds itself, in favour of another one; what is
    /// pinned stays as it is.
    ///
    /// # Errors
    /// [`SteerError`].
    pub fn give_way(&self) -> Result<(), SteerError> {
        Ok(self.program().detach_held()?)
    }

    /// Stops to steer; the maps stay.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn detach(&self) -> Result<(), BpfError> {
        self.program().detach_held()?;
        program::detach(&self.dir)
    }

    /// Whether all maps are pinned. Without them only a new program with new listeners helps.
    pub fn is_pinned(&self) -> bool {
        self.program().is_pinned()
    }

    fn program(&self) -> MutexGuard<'_, Program> {
        // A panic in the middle of a step leaves maps that the next step completes.
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // A panic leaves slots that the next verification looks at.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a probe says, and whether the program has counted it.
fn fault_of(seen: &Seen, to: SocketAddr, counted: bool) -> Option<Fault> {
    if !seen.marked {
        let what = format!("the connect hook left a connection to {to} alone");
        return Some(Fault::new(Cause::Hook, what));
    }
    match &seen.answered {
        Err(error) => {
            let what = format!("a connection to {to} was not answered by the listener: {error}");
            Some(Fault::new(Cause::Connection, what))
        }
        Ok(()) if !counted => {
            let what = format!("something other than the steering program answered for {to}");
            Some(Fault::new(Cause::Connection, what))
        }
        Ok(()) => None,
    }
}

/// Removes rules, routes and sysctls from a namespace. What is not there is fine.
///
/// # Errors
/// [`SteerError`].
pub async fn unroute(netns: &Netns, before: &Before) -> Result<(), SteerError> {
    routes::remove(netns).await?;
    netns.enter(|| sysctls::restore(before))??;
    Ok(())
}

/// TCP connections of the namespace that still live by the capture rules.
///
/// # Errors
/// [`SteerError`].
pub fn captured_connections(netns: &Netns) -> Result<usize, SteerError> {
    Ok(netns.enter(connections::captured)??)
}

/// The connections with other hosts of a namespace that is not captured yet; `own` are its
/// addresses.
///
/// # Errors
/// [`SteerError`].
pub fn existing_connections(netns: &Netns, own: &[IpAddr]) -> Result<Vec<Connection>, SteerError> {
    Ok(netns.enter(|| connections::existing(own))??)
}

/// Closes connections of the namespace; gives how many there still were.
///
/// # Errors
/// [`SteerError`].
pub fn close_connections(netns: &Netns, which: &[Connection]) -> Result<usize, SteerError> {
    Ok(netns.enter(|| connections::close(which))??)
}

fn global(addresses: &[Address], preferred: &[IpAddr]) -> Vec<IpAddr> {
    let found: Vec<IpAddr> = addresses
        .iter()
        .filter(|address| address.is_global())
        .map(|a| a.ip)
        .collect();
    let mut ips: Vec<IpAddr> = preferred
        .iter()
        .filter(|ip| found.contains(ip))
        .copied()
        .collect();
    for ip in found {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}
