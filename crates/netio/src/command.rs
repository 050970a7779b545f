//! Where a child process starts: in which network namespace, in which cgroup, and whether it
//! outlives its parent.
//!
//! Works on `std::process::Command`; for tokio's use `as_std_mut()`. It must not know what the
//! program is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
pub use nix::sys::signal::Signal;

use crate::netns::Netns;

/// What is to be true of the child before its program starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Placement<'a> {
    /// The network namespace to start in; `None`: the parent thread's.
    pub netns: Option<&'a Netns>,
    /// Directory of a cgroup2 to start in; `None`: the parent's.
    pub cgroup: Option<&'a Path>,
    /// Sent to the child when the **thread** that spawned it ends (PR_SET_PDEATHSIG), so spawn from
    /// a thread that lives as long as the child should.
    pub parent_death_signal: Option<Signal>,
}

impl Placement<'_> {
    /// Makes every spawn of `command` start as described. The command holds its own descriptors, so
    /// namespace and cgroup may be dropped afterwards. Environment, arguments and streams are
    /// untouched.
    ///
    /// The spawn fails with the kernel's answer when the child cannot be put there; the program has
    /// not run then.
    ///
    /// # Errors
    /// When `cgroup.procs` cannot be opened for writing.
    pub fn apply(&self, command: &mut Command) -> io::Result<()> {
        let netns = self.netns.cloned();
        let mut procs = self.cgroup.map(open_procs).transpose()?;
        let signal = self.parent_death_signal;
        let parent = nix::unistd::getpid();
        let prepare = move || {
            if let Some(signal) = signal {
                nix::sys::prctl::set_pdeathsig(signal)?;
                // The parent may have gone before the line above; then nobody would send the
                // signal.
                if nix::unistd::getppid() != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
            if let Some(procs) = &mut procs {
                // "0" stands for the process that writes (cgroup-v2.rst).
                procs.write_all(b"0")?;
            }
            if let Some(netns) = &netns {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only prctl, getppid, write and setns run: plain system
        // calls on descriptors that the closure owns, no allocation (errors are built from an
        // errno) and no lock.
        unsafe { command.pre_exec(prepare) };
        Ok(())
    }
}

fn open_procs(cgroup: &Path) -> io::Result<File> {
    let path = cgroup.join("cgroup.procs");
    OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Cgroup;
    use std::process::Stdio;

    #[test]
    fn a_child_starts_in_the_namespace() {
        let netns = Netns::anonymous().unwrap();
        let mut command = Command::new("readlink");
        command.arg("/proc/self/ns/net").stdout(Stdio::piped());
        Placement {
            netns: Some(&netns),
            ..Placement::default()
        }
        .apply(&mut command)
        .unwrap();
        let output = command.output().unwrap();
        let seen = String::from_utf8(output.stdout).unwrap();
        assert_eq!(seen.trim(), format!("net:[{}]", netns.id().ino));
    }

    #[test]
    fn a_child_starts_in_the_cgroup() {
        let root = Cgroup::mount_point().unwrap();
        let name = format!("netio-{}-command", std::process::id());
        let cgroup = Cgroup::create(root.join(&name)).unwrap();
        let mut command = Command::new("cat");
        command.arg("/proc/self/cgroup").stdout(Stdio::piped());
        let place = Placement {
            cgroup: Some(cgroup.path()),
            ..Placement::default()
        };
        let output = place.apply(&mut command).and_then(|()| command.output());
        cgroup.remove().unwrap();
        let seen = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(
            seen.lines().any(|line| line == format!("0::/{name}")),
            "{seen}"
        );
    }

    #[test]
    fn a_child_with_a_death_signal_dies_with_the_thread_that_spawned_it() {
        let spawn = || {
            let mut command = Command::new("sleep");
            command.arg("600");
            let signal = Some(Signal::SIGKILL);
            Placement {
                parent_death_signal: signal,
                ..Placement::default()
            }
            .apply(&mut command)
            .unwrap();
            command.spawn().unwrap()
        };
        let mut child = std::thread::scope(|scope| scope.spawn(spawn).join().unwrap());
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGKILL)
        );
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_an_error_before_anything_starts() {
        let mut command = Command::new("true");
        let place = Placement {
            cgroup: Some(Path::new("/no/such/cgroup")),
            ..Placement::default()
        };
        let error = place.apply(&mut command).unwrap_err();
        assert!(error.to_string().contains("/no/such/cgroup"));
    }
}
