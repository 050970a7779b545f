//! Which of the two back ends a process gets: io_uring or epoll, and why.
//!
//! Whether a ring works it asks the kernel by doing the operation, not by version numbers:
//! container runtimes forbid io_uring by seccomp, distributions by a sysctl. It must not know what
//! the back end is used for.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::str::FromStr;

use io_uring::{IoUring, cqueue, opcode, types};

use crate::driver::ring::{self, buffers::Buffers};

/// The way a worker does its socket I/O. Both behave alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Completions of an io_uring.
    IoUring,
    /// Readiness by epoll, then system calls.
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Choice {
    /// epoll: the bench shows it ahead in new connections and in memory at rest, and nowhere
    /// behind beyond the noise (docs/decisions/0001). It needs nothing of kernel or profile.
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// epoll, without a look at io_uring.
    Epoll,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// A word that names no back end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, io_uring, epoll")]
pub struct UnknownChoice(pub String);

impl FromStr for Choice {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "io_uring" => Ok(Self::IoUring),
            "epoll" => Ok(Self::Epoll),
            other => Err(UnknownChoice(other.to_owned())),
        }
    }
}

/// io_uring was demanded where it cannot be had. The operator's to mend.
#[derive(Debug, thiserror::Error)]
#[error("io_uring was asked for, but {cause} ({source}); {fix}, or choose epoll")]
pub struct ProbeError {
    /// What stands in the way, as far as it can be told.
    pub cause: &'static str,
    /// What would remove it.
    pub fix: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Chooses the back end, with a sentence that says why, for one log line at the start.
///
/// # Errors
/// Only for [`Choice::IoUring`]: the ring could not be made or did not do its operation.
pub fn probe(choice: Choice) -> Result<(Backend, String), ProbeError> {
    match choice {
        Choice::Epoll => Ok((Backend::Epoll, "asked for".to_owned())),
        Choice::IoUring => {
            try_ring()?;
            Ok((
                Backend::IoUring,
                "asked for, and a ring answered".to_owned(),
            ))
        }
        Choice::Auto => Ok((
            Backend::Epoll,
            "preferred; io_uring has to be asked for".to_owned(),
        )),
    }
}

/// Makes a ring as the executor does and receives one byte through it as streams do.
fn try_ring() -> Result<(), ProbeError> {
    let uring = ring::builder().build(ring::RING_ENTRIES).map_err(explain)?;
    let too_old = |source| ProbeError {
        cause: "this kernel's ring lacks an operation (multishot receive into provided buffers, \
                poll, send or cancel)",
        fix: "use Linux 6.1 or newer",
        source,
    };
    match ring::knows_operations(&uring) {
        Ok(true) => {}
        Ok(false) => return Err(too_old(io::Error::from_raw_os_error(libc::EOPNOTSUPP))),
        Err(error) => return Err(explain(error)),
    }
    let buffers = Buffers::register(&uring).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => too_old(error),
        _ => explain(error),
    })?;
    receive_one_byte(uring, &buffers).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => too_old(error),
        _ => explain(error),
    })
}

fn receive_one_byte(mut uring: IoUring, buffers: &Buffers) -> io::Result<()> {
    let (mut near, far) = UnixStream::pair()?;
    near.write_all(b"?")?;
    drop(near);
    let entry = opcode::RecvMulti::new(types::Fd(far.as_raw_fd()), 0).build();
    // SAFETY: the descriptor and the buffers outlive the ring, which is dropped below, and with it
    // the request.
    unsafe { uring.submission().push(&entry) }.map_err(io::Error::other)?;
    let waited = uring.submit_and_wait(1);
    let result = uring.completion().next().map(|completion| {
        (
            completion.result(),
            cqueue::buffer_select(completion.flags()),
        )
    });
    drop(uring);
    waited?;
    match result {
        Some((1, Some(number))) if buffers.bytes(number, 1) == b"?" => Ok(()),
        Some((errno, _)) if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::other("the ring lost its first operation")),
    }
}

fn explain(source: io::Error) -> ProbeError {
    let (cause, fix) = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => why_forbidden(),
        Some(libc::ENOSYS) => (
            "the kernel has no io_uring, or a seccomp profile hides it",
            "use Linux 6.1 or newer and a profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register",
        ),
        // The flags of its set-up are what is newest about it.
        Some(libc::EINVAL) => (
            "the kernel's io_uring is too old (IORING_SETUP_DEFER_TASKRUN is missing)",
            "use Linux 6.1 or newer",
        ),
        Some(libc::ENOMEM) => (
            "there is no memory for the ring, or RLIMIT_MEMLOCK is too small for it",
            "raise the memory limit or `ulimit -l`",
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            ("no descriptor is left for the ring", "raise `ulimit -n`")
        }
        _ => ("the ring did not work", "see the kernel's answer"),
    };
    ProbeError { cause, fix, source }
}

fn why_forbidden() -> (&'static str, &'static str) {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match sysctl.trim() {
        "2" => (
            "the sysctl kernel.io_uring_disabled=2 forbids it to every process",
            "set kernel.io_uring_disabled=0 on the node",
        ),
        "1" => (
            "the sysctl kernel.io_uring_disabled=1 forbids it to this process",
            "set kernel.io_uring_disabled=0 or put the process into kernel.io_uring_group",
        ),
        _ => (
            "a seccomp profile or a security module forbids it",
            "run under a profile that allows io_uring_setup, io_uring_enter and io_uring_register",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_words_are_read_and_written_alike() {
        for text in ["auto", "io_uring", "epoll"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        assert!(
            "uring"
                .parse::<Choice>()
                .unwrap_err()
                .to_string()
                .contains("\"uring\"")
        );
    }

    #[test]
    fn auto_takes_epoll_and_io_uring_is_there_for_who_asks() {
        let (backend, why) = probe(Choice::Auto).unwrap();
        assert_eq!(backend, Backend::Epoll);
        assert!(why.contains("has to be asked for"), "{why}");
        assert_eq!(probe(Choice::IoUring).unwrap().0, Backend::IoUring);
        assert_eq!(probe(Choice::Epoll).unwrap().0, Backend::Epoll);
    }

    #[test]
    fn under_a_seccomp_profile_auto_works_and_force_names_cause_and_fix() {
        std::thread::scope(|scope| {
            let look = || {
                forbid_io_uring_on_this_thread();
                (probe(Choice::Auto), probe(Choice::IoUring))
            };
            let (auto, forced) = scope.spawn(look).join().unwrap();
            assert_eq!(auto.unwrap().0, Backend::Epoll);
            let text = forced.unwrap_err().to_string();
            assert!(
                text.contains("seccomp") && text.contains("profile that allows"),
                "{text}"
            );
            assert!(text.contains("choose epoll"), "{text}");
        });
    }

    /// What docker's and containerd's default profiles do since 2023: io_uring_setup answers EPERM.
    fn forbid_io_uring_on_this_thread() {
        let load_number = libc::sock_filter {
            code: 0x20,
            jt: 0,
            jf: 0,
            k: 0,
        };
        let is_setup = libc::sock_filter {
            code: 0x15,
            jt: 0,
            jf: 1,
            k: u32::try_from(libc::SYS_io_uring_setup).unwrap(),
        };
        let refuse = libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap(),
        };
        let allow = libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        };
        let mut filter = [load_number, is_setup, refuse, allow];
        let program = libc::sock_fprog {
            len: 4,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the kernel copies the four instructions during the call; the filter binds this
        // thread only.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            let mode = libc::SECCOMP_SET_MODE_FILTER;
            assert_eq!(
                libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program),
                0
            );
        }
    }
}
