//! Puts the plugin into a node's CNI configuration, and takes it out again, byte for byte.
//!
//! The original stands beside the configuration as `<name>.culvert-original`, an ending that no
//! runtime reads. Every write goes to a temporary file, is synced and renamed, so that a runtime
//! that reads at any moment sees a whole configuration. Knows no sockets and no agent.

mod configuration;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use configuration::{Configuration, as_list, has_entry, parse, render, with_entry, without_entry};

/// The plugin's type in the list, and the name of its binary.
pub const PLUGIN_TYPE: &str = "culvert-cni";

/// Where and what to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The runtime's configuration directory, usually /etc/cni/net.d.
    pub conf_dir: PathBuf,
    /// The file in it; without one, the first by name, as runtimes choose.
    pub conf_name: Option<String>,
    /// The runtime's plugin directory, usually /opt/cni/bin.
    pub bin_dir: PathBuf,
    /// The agent's socket, for the plugin's entry.
    pub agent_socket: PathBuf,
    /// Namespaces whose pods never ask the agent.
    pub exclude_namespaces: Vec<String>,
    /// The program to copy; normally the running one.
    pub program: PathBuf,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Files were written.
    Done,
    /// All was as wanted already.
    Nothing,
    /// Uninstall: the configuration was changed by others since; only our entry was taken out.
    EntryRemoved,
}

/// Why an installation failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no configuration to extend.
    #[error("{0} has no .conflist, .conf or .json: install the cluster's CNI first")]
    NoConfiguration(PathBuf),
    /// The configuration is not one.
    #[error("{path} is no CNI configuration: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Copies the program and extends the configuration. Idempotent.
///
/// A single-plugin `.conf` becomes a `.conflist` beside it, and the `.conf` is renamed to its
/// `.culvert-original`, so that the runtime reads the list.
///
/// # Errors
/// [`InstallError`]; the configuration is then as it was.
pub fn install(target: &Target) -> Result<Change, InstallError> {
    let copied = install_program(target)?;
    let file = Configuration::find(target)?;
    let current = read(&file.list)?;
    let original = match (&current, &file.single) {
        (Some(text), _) => file.original_for(text)?,
        (None, Some(single)) => read(single)?.unwrap_or_default(),
        (None, None) => return Err(InstallError::NoConfiguration(target.conf_dir.clone())),
    };
    let wanted = with_entry(&file.list, &original, target)?;
    let unchanged = current.as_deref() == Some(wanted.as_slice());
    if unchanged && file.single.is_none() {
        return Ok(if copied {
            Change::Done
        } else {
            Change::Nothing
        });
    }
    if file.single.is_none() {
        replace(&file.backup(), &original, mode_of(&file.list))?;
    }
    replace(
        &file.list,
        &wanted,
        mode_of(file.single.as_ref().unwrap_or(&file.list)),
    )?;
    if let Some(single) = &file.single {
        rename(single, &file.backup())?;
    }
    Ok(Change::Done)
}

/// Restores the configuration and removes the program. Idempotent.
///
/// # Errors
/// [`InstallError`].
pub fn uninstall(target: &Target) -> Result<Change, InstallError> {
    let change = match Configuration::find(target) {
        Ok(file) => restore(&file, target)?,
        Err(InstallError::NoConfiguration(_)) => Change::Nothing,
        Err(error) => return Err(error),
    };
    let removed = remove_program(target)?;
    match change {
        Change::Nothing if removed => Ok(Change::Done),
        change => Ok(change),
    }
}

fn restore(file: &Configuration, target: &Target) -> Result<Change, InstallError> {
    let Some(current) = read(&file.list)? else {
        return Ok(Change::Nothing);
    };
    let entries = parse(&file.list, &current)?;
    let backup = read(&file.backup())?;
    if !has_entry(&entries) {
        if backup.is_some() && file.single.is_none() && file.backup_of_single().is_none() {
            remove(&file.backup())?;
        }
        return Ok(Change::Nothing);
    }
    let stripped = without_entry(entries);
    if let Some(original) = backup {
        if as_list(&file.list, &original)? == stripped {
            return file.put_back(&original, target).map(|()| Change::Done);
        }
        remove(&file.backup())?;
    }
    replace(&file.list, &render(&stripped), mode_of(&file.list))?;
    Ok(Change::EntryRemoved)
}

/// Whether the program had to be copied.
fn install_program(target: &Target) -> Result<bool, InstallError> {
    let destination = target.bin_dir.join(PLUGIN_TYPE);
    if same_file(&target.program, &destination) {
        return Ok(false);
    }
    let program = fs::read(&target.program).map_err(at(&target.program))?;
    if read(&destination)?.as_deref() == Some(program.as_slice()) {
        return Ok(false);
    }
    fs::create_dir_all(&target.bin_dir).map_err(at(&target.bin_dir))?;
    replace(&destination, &program, 0o755)?;
    Ok(true)
}

/// Never the running program itself: that one belongs to whoever put it there.
fn remove_program(target: &Target) -> Result<bool, InstallError> {
    let installed = target.bin_dir.join(PLUGIN_TYPE);
    if !installed.exists() || same_file(&target.program, &installed) {
        return Ok(false);
    }
    remove(&installed).map(|()| true)
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(InstallError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Permission bits of a file; those of a new configuration when there is none.
fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o644, |meta| meta.permissions().mode() & 0o7777)
}

/// Writes beside, syncs, renames, syncs the directory: a reader sees the old or the new file.
fn replace(path: &Path, text: &[u8], mode: u32) -> Result<(), InstallError> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let beside = suffixed(path, "culvert-new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(at(&beside))?;
    rename(&beside, path)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

fn rename(from: &Path, to: &Path) -> Result<(), InstallError> {
    fs::rename(from, to).map_err(at(to))
}

fn remove(path: &Path) -> Result<(), InstallError> {
    fs::remove_file(path).map_err(at(path))
}

fn sync_dir(dir: &Path) -> Result<(), InstallError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(at(dir))
}

fn suffixed(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Odd spacing, key order and numbers on purpose: all of it must come back.
    const LIST: &str = "{ \"cniVersion\":\"1.0.0\",\n\t\"name\": \"pods\", \"plugins\": [\n \
        {\"type\":\"bridge\",\"mtu\":1.50e3,\"ipam\":{\"type\":\"host-local\"}} ]\n}";

    struct Node {
        dir: tempfile::TempDir,
        target: Target,
    }

    impl Node {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let conf_dir = dir.path().join("net.d");
            fs::create_dir(&conf_dir).unwrap();
            for (name, text) in files {
                fs::write(conf_dir.join(name), text).unwrap();
            }
            let program = dir.path().join("built");
            fs::write(&program, b"\x7fELF program").unwrap();
            let target = Target {
                conf_dir,
                conf_name: None,
                bin_dir: dir.path().join("bin"),
                agent_socket: "/run/x.sock".into(),
                exclude_namespaces: vec![],
                program,
            };
            Self { dir, target }
        }

        fn files(&self) -> Vec<(String, Vec<u8>)> {
            let mut files: Vec<_> = fs::read_dir(&self.target.conf_dir)
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|entry| {
                    let name = entry.file_name().into_string().unwrap();
                    (name, fs::read(entry.path()).unwrap())
                })
                .collect();
            files.sort();
            files
        }

        fn list(&self, name: &str) -> Value {
            let text = fs::read(self.target.conf_dir.join(name)).unwrap();
            serde_json::from_slice(&text).unwrap()
        }
    }

    #[test]
    fn the_entry_is_appended_to_the_first_list_and_the_program_copied() {
        let node = Node::new(&[("10-pods.conflist", LIST), ("99-loopback.conf", "{}")]);
        assert_eq!(install(&node.target).unwrap(), Change::Done);
        let list = node.list("10-pods.conflist");
        let plugins = list["plugins"].as_array().unwrap();
        assert_eq!(plugins.len(), 2);
        assert_eq!(plugins[0]["type"], "bridge");
        assert_eq!(
            plugins[1],
            json!({"type": PLUGIN_TYPE, "agent_socket": "/run/x.sock"})
        );
        let program = node.target.bin_dir.join(PLUGIN_TYPE);
        assert_eq!(
            fs::metadata(program).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert!(node.dir.path().exists());
    }

    #[test]
    fn installing_twice_changes_nothing_the_second_time() {
        let node = Node::new(&[("10-pods.conflist", LIST)]);
        install(&node.target).unwrap();
        let once = node.files();
        assert_eq!(install(&node.target).unwrap(), Change::Nothing);
        assert_eq!(node.files(), once);
    }

    #[test]
    fn uninstalling_restores_every_byte_and_the_mode_and_can_be_repeated() {
        let node = Node::new(&[("10-pods.conflist", LIST)]);
        let path = node.target.conf_dir.join("10-pods.conflist");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let before = node.files();
        install(&node.target).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(uninstall(&node.target).unwrap(), Change::Done);
        assert_eq!(node.files(), before);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!node.target.bin_dir.join(PLUGIN_TYPE).exists());
        assert_eq!(uninstall(&node.target).unwrap(), Change::Nothing);
        assert_eq!(node.files(), before);
    }

    #[test]
    fn a_changed_socket_rewrites_the_entry_and_keeps_the_original() {
        let mut node = Node::new(&[("10-pods.conflist", LIST)]);
        let before = node.files();
        install(&node.target).unwrap();
        node.target.agent_socket = "/run/other.sock".into();
        node.target.exclude_namespaces = vec!["kube-system".into()];
        assert_eq!(install(&node.target).unwrap(), Change::Done);
        let list = node.list("10-pods.conflist");
        assert_eq!(list["plugins"].as_array().unwrap().len(), 2);
        assert_eq!(list["plugins"][1]["agent_socket"], "/run/other.sock");
        assert_eq!(list["plugins"][1]["exclude_namespaces"][0], "kube-system");
        uninstall(&node.target).unwrap();
        assert_eq!(node.files(), before);
    }

    #[test]
    fn a_single_plugin_becomes_a_list_and_comes_back_byte_for_byte() {
        let single = "{\"cniVersion\":\"0.4.0\",  \"name\":\"one\",\"type\":\"ptp\"}\n";
        let node = Node::new(&[("10-one.conf", single)]);
        let before = node.files();
        install(&node.target).unwrap();
        let list = node.list("10-one.conflist");
        assert_eq!(list["name"], "one");
        assert_eq!(list["plugins"][0]["type"], "ptp");
        assert_eq!(list["plugins"][1]["type"], PLUGIN_TYPE);
        assert!(!node.target.conf_dir.join("10-one.conf").exists());
        assert_eq!(install(&node.target).unwrap(), Change::Nothing);
        assert_eq!(uninstall(&node.target).unwrap(), Change::Done);
        assert_eq!(node.files(), before);
    }

    #[test]
    fn a_list_that_others_changed_since_loses_only_our_entry() {
        let node = Node::new(&[("10-pods.conflist", LIST)]);
        install(&node.target).unwrap();
        let mut list = node.list("10-pods.conflist");
        list["plugins"][0]["mtu"] = json!(9000);
        fs::write(
            node.target.conf_dir.join("10-pods.conflist"),
            list.to_string(),
        )
        .unwrap();
        assert_eq!(uninstall(&node.target).unwrap(), Change::EntryRemoved);
        let list = node.list("10-pods.conflist");
        assert_eq!(list["plugins"].as_array().unwrap().len(), 1);
        assert_eq!(list["plugins"][0]["mtu"], 9000);
        assert_eq!(node.files().len(), 1);
    }

    #[test]
    fn nothing_to_extend_and_no_configuration_are_errors_that_leave_all_as_it_was() {
        let node = Node::new(&[]);
        assert!(matches!(
            install(&node.target),
            Err(InstallError::NoConfiguration(_))
        ));
        for text in [
            "{",
            "[]",
            "{\"plugins\":[]}",
            "{\"plugins\":3}",
            "{\"name\":\"x\"}",
        ] {
            let node = Node::new(&[("10-x.conflist", text)]);
            let before = node.files();
            let result = install(&node.target);
            assert!(
                matches!(result, Err(InstallError::Malformed { .. })),
                "{text}"
            );
            assert_eq!(node.files(), before);
        }
    }
}
