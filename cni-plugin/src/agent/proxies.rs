//! Which cgroups proxies run in: the connect hook leaves sockets marked 0x539 alone only when
//! their maker is in one of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netio::cgroup::Cgroup;

use crate::steering::hook::Hook;

/// Cgroups that stay believed, counted from the newest. An older ztunnel that drains needs its
/// entry for as long as it opens connections; every upgrade leaves one behind.
const KEPT: usize = 16;

/// Admits ztunnels.
pub struct Proxies {
    hook: Arc<Mutex<Hook>>,
    mount: PathBuf,
    root: PathBuf,
    allow_shared: bool,
    /// Cgroup ids by the turn in which they were seen last.
    seen: Mutex<BTreeMap<u64, u64>>,
}

impl Proxies {
    /// For the hook that is attached to the cgroup directory `root`; with `allow_shared`, a ztunnel
    /// that has no cgroup of its own is believed too.
    ///
    /// # Errors
    /// When no cgroup2 is mounted, or the hook's map cannot be read.
    pub fn new(hook: Arc<Mutex<Hook>>, root: &Path, allow_shared: bool) -> std::io::Result<Self> {
        let mount = Cgroup::mount_point()?;
        let known = hook
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .proxies();
        let known = known.map_err(std::io::Error::other)?;
        let seen = known.into_iter().map(|id| (id, 0)).collect();
        Ok(Self {
            hook,
            mount,
            root: root.to_owned(),
            allow_shared,
            seen: Mutex::new(seen),
        })
    }

    /// Believes the cgroup of a process.
    ///
    /// # Errors
    /// A sentence, when it cannot be found: such a ztunnel's own connections would be captured. Or
    /// when others are in it, whose marked connections would then not be.
    pub fn admit(&self, pid: i32) -> Result<(), String> {
        let visible = u32::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(
            "its process id is not visible: the agent must run in the host's pid namespace",
        )?;
        let cgroup = Cgroup::of_pid(&self.mount, visible)
            .map_err(|error| format!("the cgroup of process {pid} cannot be found: {error}"))?;
        if let Some(who) = self.sharers(visible, &cgroup) {
            let path = cgroup.path().display();
            let why = format!(
                "{who} in its cgroup {path}: every process there that may set marks escapes \
                 outbound capture; run ztunnel in a cgroup of its own"
            );
            if !self.allow_shared {
                return Err(format!("{why}, or the agent with --allow-shared-cgroup"));
            }
            tracing::warn!(pid, "{why}");
        }
        let mut hook = self.hook();
        hook.add_proxy(cgroup.id())
            .map_err(|error| error.to_string())?;
        self.prune(&mut hook, cgroup.id());
        Ok(())
    }

    /// Who else is, or can be expected, in a proxy's cgroup. Programs of its own name are not
    /// counted: during an upgrade two of them live, and after a restart of the agent it does not
    /// know the older one.
    fn sharers(&self, pid: u32, cgroup: &Cgroup) -> Option<String> {
        if self.root.starts_with(cgroup.path()) {
            return Some("all processes of the node that have no other are".into());
        }
        let own = name(pid);
        let others = cgroup.pids().unwrap_or_default();
        let other = others.into_iter().find(|other| {
            // Ended since the list was made: nobody.
            *other != pid && name(*other).is_some_and(|name| Some(name) != own)
        })?;
        let name = name(other).unwrap_or_default();
        Some(format!("process {other} ({name}) is"))
    }

    fn prune(&self, hook: &mut Hook, newest: u64) {
        // Nothing that can panic runs under this lock.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = seen.values().max().map_or(0, |last| last + 1);
        seen.insert(newest, turn);
        while seen.len() > KEPT {
            let Some((&oldest, _)) = seen.iter().min_by_key(|(_, turn)| **turn) else {
                return;
            };
            seen.remove(&oldest);
            if let Err(error) = hook.remove_proxy(oldest) {
                tracing::warn!(%error, "a proxy's cgroup stays believed");
            }
        }
    }

    fn hook(&self) -> MutexGuard<'_, Hook> {
        // A panic under this lock leaves maps, which are always whole.
        self.hook.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a process' program, as the kernel has it; None when it is gone.
fn name(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}
