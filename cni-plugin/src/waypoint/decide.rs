//! What to do about the instances of one replica: pure.
//!
//! One that is outdated runs until one that is not has been made known to all proxies; so there is
//! always one to connect to, and an instance that never becomes ready replaces nothing.

/// Most instances of a replica at a time: the one that serves, its successor, and those that drain.
/// A successor of a successor waits for a place.
pub const MAX_INSTANCES: usize = 4;

/// An instance as it is looked at here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// UID.
    pub uid: &'a str,
    /// Made of what one would be made of now.
    pub current: bool,
    /// Ready, and the proxies know it.
    pub advertised: bool,
    /// Told to end.
    pub draining: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start another instance.
    Start,
    /// Let the one with that UID drain and end.
    Drain(String),
}

/// What brings the instances of a replica nearer to what is wanted.
pub fn decide(wanted: bool, instances: &[View<'_>]) -> Vec<Action> {
    let running = || instances.iter().filter(|instance| !instance.draining);
    let drain = |instance: &View<'_>| Action::Drain(instance.uid.to_owned());
    if !wanted {
        return running().map(drain).collect();
    }
    // The best of each kind stays: advertised before not yet so, then the first by UID.
    let best = |current: bool| {
        let of_kind = running().filter(move |instance| instance.current == current);
        of_kind.min_by_key(|instance| (!instance.advertised, instance.uid))
    };
    let successor = best(true);
    let outdated = best(false).filter(|_| !successor.is_some_and(|one| one.advertised));
    let stays = |instance: &&View<'_>| {
        [successor, outdated]
            .into_iter()
            .flatten()
            .any(|kept| kept.uid == instance.uid)
    };
    let mut actions: Vec<Action> = running().filter(|one| !stays(one)).map(drain).collect();
    if successor.is_none() && instances.len() < MAX_INSTANCES {
        actions.push(Action::Start);
    }
    actions
}

/// The first number for a pod of `replica` that no instance has.
pub fn number(replica: u32, replicas: u32, taken: &[u32]) -> u32 {
    let mut number = replica;
    while taken.contains(&number) {
        number += replicas;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: View<'static> = View {
        uid: "old",
        current: false,
        advertised: true,
        draining: false,
    };
    const NEW: View<'static> = View {
        uid: "new",
        current: true,
        advertised: false,
        draining: false,
    };

    fn known(view: View<'static>) -> View<'static> {
        View {
            advertised: true,
            ..view
        }
    }

    fn leaving(view: View<'static>) -> View<'static> {
        View {
            draining: true,
            ..view
        }
    }

    fn drain(uid: &str) -> Action {
        Action::Drain(uid.to_owned())
    }

    #[test]
    fn a_replica_that_is_wanted_is_started_once() {
        assert_eq!(decide(true, &[]), [Action::Start]);
        assert_eq!(decide(true, &[NEW]), []);
        assert_eq!(decide(true, &[known(NEW)]), []);
        assert_eq!(decide(false, &[]), []);
    }

    #[test]
    fn an_outdated_instance_leaves_only_when_its_successor_is_known() {
        assert_eq!(decide(true, &[OLD]), [Action::Start]);
        assert_eq!(decide(true, &[OLD, NEW]), []);
        assert_eq!(decide(true, &[OLD, known(NEW)]), [drain("old")]);
        assert_eq!(decide(true, &[leaving(OLD), known(NEW)]), []);
    }

    #[test]
    fn a_successor_that_is_outdated_itself_gives_way_to_the_one_that_serves() {
        let failed = View {
            uid: "failed",
            advertised: false,
            ..OLD
        };
        assert_eq!(
            decide(true, &[OLD, failed]),
            [drain("failed"), Action::Start]
        );
        assert_eq!(decide(true, &[OLD, failed, NEW]), [drain("failed")]);
        assert_eq!(
            decide(true, &[failed]),
            [Action::Start],
            "and may become ready"
        );
    }

    #[test]
    fn what_is_not_wanted_leaves_and_what_leaves_already_is_left_alone() {
        assert_eq!(decide(false, &[OLD, NEW]), [drain("old"), drain("new")]);
        assert_eq!(decide(false, &[leaving(OLD)]), []);
        assert_eq!(
            decide(true, &[leaving(OLD)]),
            [Action::Start],
            "it is wanted again"
        );
    }

    #[test]
    fn instances_are_bounded() {
        let full = [leaving(OLD); MAX_INSTANCES];
        assert_eq!(decide(true, &full), []);
    }

    #[test]
    fn of_two_that_are_current_one_stays() {
        let twin = View { uid: "twin", ..NEW };
        assert_eq!(decide(true, &[NEW, known(twin)]), [drain("new")]);
        assert_eq!(decide(true, &[NEW, twin]), [drain("twin")]);
    }

    #[test]
    fn numbers_of_a_replica_never_meet_those_of_another() {
        assert_eq!(number(3, 16, &[]), 3);
        assert_eq!(number(3, 16, &[3, 19]), 35);
        assert_eq!(number(3, 16, &[19]), 3);
    }
}
