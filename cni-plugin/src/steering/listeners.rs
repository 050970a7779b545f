//! The listeners of one pod, and the slots of its steering program that they belong into.
//!
//! A slot may still hold a listener of the agent before, which lives because a ztunnel accepts
//! from it: then that is where connections are served, until a ztunnel has the new one. Knows no
//! ztunnel; the agent says when that is.

use std::os::fd::{AsFd, OwnedFd};

use netio::netns::Netns;
use netio::socket::{Family, transparent_listener};

use super::abi::LISTENERS;
use super::pod::SteerError;
use super::program::Program;

/// The listeners of a pod, in the order of their slots.
#[derive(Debug)]
pub struct Listeners {
    sockets: [OwnedFd; LISTENERS],
}

impl Listeners {
    /// Makes them in the namespace. Blocks for microseconds.
    ///
    /// # Errors
    /// When one cannot be made. A kernel without IPv6 is an error too.
    pub fn make(netns: &Netns) -> Result<Self, SteerError> {
        let mut made = Vec::with_capacity(LISTENERS);
        for slot in 0..LISTENERS {
            let (family, name) = match slot.is_multiple_of(2) {
                true => (Family::V4, "IPv4"),
                false => (Family::V6, "IPv6"),
            };
            let listener = transparent_listener(netns, family)
                .map_err(|error| SteerError::Listener(name, error))?;
            made.push(OwnedFd::from(listener));
        }
        let sockets = made.try_into().map_err(|_| SteerError::CutOff)?;
        Ok(Self { sockets })
    }

    /// By slot.
    pub fn sockets(&self) -> &[OwnedFd; LISTENERS] {
        &self.sockets
    }
}

/// The slots of a program that are left to the listeners of the agent before.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Cookies of these listeners, by slot.
    left: [Option<u64>; LISTENERS],
}

impl Slots {
    /// Leaves the slots that hold a living socket as they are, and fills the others.
    ///
    /// # Errors
    /// When a slot cannot be read or filled.
    pub(super) fn adopt(program: &Program, listeners: &Listeners) -> Result<Self, SteerError> {
        let slots = Self {
            left: program.slot_cookies()?,
        };
        slots.fill(program, listeners)?;
        Ok(slots)
    }

    /// Whether a slot may still hold an older listener.
    pub(super) fn are_left(&self) -> bool {
        self.left.iter().any(Option::is_some)
    }

    /// Fills all slots with the listeners.
    ///
    /// # Errors
    /// When a slot cannot be read or filled.
    pub(super) fn take(
        &mut self,
        program: &Program,
        listeners: &Listeners,
    ) -> Result<(), SteerError> {
        *self = Self::default();
        self.fill(program, listeners)
    }

    /// Puts listeners into slots that hold neither them nor what was left there: a socket that
    /// ends leaves its slot by itself.
    ///
    /// # Errors
    /// When a slot cannot be read or filled.
    pub(super) fn fill(&self, program: &Program, listeners: &Listeners) -> Result<(), SteerError> {
        for slot in self.misplaced(program, listeners)? {
            program.set_listener(slot, &listeners.sockets[slot])?;
        }
        Ok(())
    }

    /// The slots that hold another socket, or none.
    ///
    /// # Errors
    /// When a slot cannot be read.
    pub(super) fn misplaced(
        &self,
        program: &Program,
        listeners: &Listeners,
    ) -> Result<Vec<usize>, SteerError> {
        let mut slots = Vec::new();
        for (slot, found) in program.slot_cookies()?.into_iter().enumerate() {
            let wanted = netio::socket::cookie(listeners.sockets[slot].as_fd())?;
            if found.is_none() || (found != Some(wanted) && found != self.left[slot]) {
                slots.push(slot);
            }
        }
        Ok(slots)
    }
}
