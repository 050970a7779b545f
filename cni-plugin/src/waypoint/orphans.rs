//! Sandboxes that were made here and that no record tells of, since it is lost or cannot be read:
//! nobody reports them, and they would run on for ever beside their successors. Each gets a record
//! that is good for one thing, to take it away.
//!
//! A cgroup in the waypoints' own directory is one of a waypoint, whatever its name; a namespace is
//! one only by an id that an unreadable record is filed under, for other namespaces may begin as
//! ours do.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use netio::netns;

use super::Settings;
use super::record::{Loaded, Record, id_of};

/// Records of what none of `loaded` names, drawn from the cgroups and namespaces that are there.
///
/// # Errors
/// When these are there and cannot be listed.
pub fn find(settings: &Settings, loaded: &Loaded) -> io::Result<Vec<Record>> {
    Ok(of(settings, loaded, &cgroups(settings)?, &netns::names()?))
}

fn of(
    settings: &Settings,
    loaded: &Loaded,
    cgroups: &[String],
    namespaces: &[String],
) -> Vec<Record> {
    let named: BTreeSet<&String> = loaded.records.iter().map(|one| &one.sandbox).collect();
    let mut orphans: Vec<Record> = cgroups
        .iter()
        .filter(|name| !named.contains(name))
        .map(|name| Record::lost(name.clone(), id_of(name)))
        .collect();
    for id in loaded.unreadable.iter().filter_map(|uid| id_of(uid)) {
        if orphans.iter().any(|orphan| orphan.container_id == id) {
            continue;
        }
        let prefix = &settings.netns_prefix;
        let is_its = |name: &&String| {
            name.starts_with(prefix) && id_of(name).as_ref() == Some(&id) && !named.contains(name)
        };
        // After a reboot neither is there: the chain may still keep its address.
        let sandbox = namespaces.iter().find(is_its).cloned();
        let sandbox = sandbox.unwrap_or_else(|| format!("{prefix}lost-{id}"));
        orphans.push(Record::lost(sandbox, Some(id)));
    }
    orphans
}

fn cgroups(settings: &Settings) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(&settings.cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waypoint::tests::{replica, settings};

    fn record(number: u32) -> Record {
        Record::new(replica("gate", 1), number, "culvert-", String::new())
    }

    #[test]
    fn what_no_record_names_is_found_by_its_cgroup_or_by_its_unreadable_record() {
        let base = tempfile::tempdir().unwrap();
        let settings = settings(base.path());
        let [kept, runs, unstarted, gone] = [1, 17, 33, 49].map(record);
        let loaded = Loaded {
            records: vec![kept.clone()],
            unreadable: vec![
                runs.uid.clone(),
                unstarted.uid.clone(),
                gone.uid.clone(),
                "by-hand".into(),
            ],
        };
        let cgroups = [&kept, &runs].map(|one| one.sandbox.clone());
        let mut namespaces = [&kept, &runs, &unstarted].map(|one| one.sandbox.clone());
        namespaces.sort();
        let found = of(&settings, &loaded, &cgroups, &namespaces);
        let sandboxes: Vec<&str> = found.iter().map(|one| one.sandbox.as_str()).collect();
        let lost = format!("culvert-lost-{}", gone.container_id);
        assert_eq!(sandboxes, [&runs.sandbox, &unstarted.sandbox, &lost]);
        for (found, made) in found.iter().zip([&runs, &unstarted, &gone]) {
            assert_eq!(found.container_id, made.container_id);
            assert_eq!(found.uid, made.uid, "the record goes with it");
            assert!(found.draining);
        }
    }

    #[test]
    fn namespaces_of_others_are_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let settings = settings(base.path());
        let other = record(1).sandbox;
        let namespaces = ["culvert-node-1".to_owned(), other];
        let mut loaded = Loaded::default();
        assert_eq!(of(&settings, &loaded, &[], &namespaces), []);
        loaded.unreadable.push("by-hand".into());
        assert_eq!(of(&settings, &loaded, &[], &namespaces), []);
        assert_eq!(find(&settings, &loaded).unwrap(), [], "without a directory");
    }
}
