//! A node's CNI configuration: which files it is made of, and the entry in it. Knows no program.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    InstallError, PLUGIN_TYPE, Target, at, mode_of, read, remove, rename, replace, suffixed,
    sync_dir,
};

/// Ending of the file that keeps the original bytes.
const ORIGINAL: &str = "culvert-original";

/// Endings that runtimes read, in the order of libcni's `ConfFiles`.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// The files of one configuration.
#[derive(Debug)]
pub(super) struct Configuration {
    /// The list that carries our entry, there or yet to be written.
    pub(super) list: PathBuf,
    /// A single-plugin file that is in force and must become a list.
    pub(super) single: Option<PathBuf>,
}

impl Configuration {
    pub(super) fn find(target: &Target) -> Result<Self, InstallError> {
        let name = match &target.conf_name {
            Some(name) => name.clone(),
            None => first_by_name(&target.conf_dir)?,
        };
        let path = target.conf_dir.join(name);
        if path.extension().is_some_and(|ending| ending == "conflist") {
            return Ok(Self {
                list: path,
                single: None,
            });
        }
        let list = path.with_extension("conflist");
        let single = path.exists().then_some(path);
        Ok(Self { list, single })
    }

    pub(super) fn backup(&self) -> PathBuf {
        let of = match &self.single {
            Some(single) => single.clone(),
            None => self.backup_of_single().unwrap_or_else(|| self.list.clone()),
        };
        suffixed(&of, ORIGINAL)
    }

    /// The `.conf` (or `.json`) that this list was made of, when its backup is there.
    pub(super) fn backup_of_single(&self) -> Option<PathBuf> {
        let singles = ["conf", "json"].map(|ending| self.list.with_extension(ending));
        singles
            .into_iter()
            .find(|single| suffixed(single, ORIGINAL).exists())
    }

    /// The bytes to extend: the kept original while it still says what the list says without us.
    pub(super) fn original_for(&self, current: &[u8]) -> Result<Vec<u8>, InstallError> {
        let entries = parse(&self.list, current)?;
        if !has_entry(&entries) {
            return Ok(current.to_vec());
        }
        let stripped = without_entry(entries);
        match read(&self.backup())? {
            Some(original) if as_list(&self.list, &original)? == stripped => Ok(original),
            _ => Ok(render(&stripped)),
        }
    }

    pub(super) fn put_back(&self, original: &[u8], target: &Target) -> Result<(), InstallError> {
        match self.backup_of_single() {
            Some(single) => {
                rename(&suffixed(&single, ORIGINAL), &single)?;
                remove(&self.list)
            }
            None => {
                replace(&self.list, original, mode_of(&self.list))?;
                remove(&suffixed(&self.list, ORIGINAL))
            }
        }?;
        sync_dir(&target.conf_dir)
    }
}

/// The file that runtimes choose.
fn first_by_name(dir: &Path) -> Result<String, InstallError> {
    let entries = fs::read_dir(dir).map_err(at(dir))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            let ending = Path::new(name)
                .extension()
                .and_then(|ending| ending.to_str());
            ending.is_some_and(|ending| ENDINGS.contains(&ending))
        })
        .collect();
    names.sort();
    names
        .into_iter()
        .next()
        .ok_or_else(|| InstallError::NoConfiguration(dir.to_owned()))
}

pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Value, InstallError> {
    let malformed = |why: String| InstallError::Malformed {
        path: path.to_owned(),
        why,
    };
    let value: Value =
        serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
    match (value.get("plugins"), value.get("type")) {
        (Some(Value::Array(list)), _) if !list.is_empty() => Ok(value),
        (Some(_), _) => Err(malformed("`plugins` is no list of plugins".into())),
        (None, Some(Value::String(_))) => Ok(value),
        (None, _) => Err(malformed("it has neither `plugins` nor `type`".into())),
    }
}

/// A single plugin's configuration as a list of one.
pub(super) fn as_list(path: &Path, text: &[u8]) -> Result<Value, InstallError> {
    let value = parse(path, text)?;
    if value.get("plugins").is_some() {
        return Ok(value);
    }
    let mut list = serde_json::Map::new();
    for key in ["cniVersion", "name"] {
        if let Some(field) = value.get(key) {
            list.insert(key.into(), field.clone());
        }
    }
    list.insert("plugins".into(), json!([value]));
    Ok(Value::Object(list))
}

pub(super) fn with_entry(
    path: &Path,
    text: &[u8],
    target: &Target,
) -> Result<Vec<u8>, InstallError> {
    let mut value = as_list(path, text)?;
    let mut entry = json!({ "type": PLUGIN_TYPE, "agent_socket": target.agent_socket });
    if !target.exclude_namespaces.is_empty() {
        entry["exclude_namespaces"] = json!(target.exclude_namespaces);
    }
    if let Some(Value::Array(plugins)) = value.get_mut("plugins") {
        plugins.push(entry);
    }
    Ok(render(&value))
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN_TYPE)
}

pub(super) fn has_entry(value: &Value) -> bool {
    value
        .get("plugins")
        .and_then(Value::as_array)
        .is_some_and(|list| list.iter().any(is_ours))
}

pub(super) fn without_entry(mut value: Value) -> Value {
    if let Some(Value::Array(plugins)) = value.get_mut("plugins") {
        plugins.retain(|plugin| !is_ours(plugin));
    }
    value
}

pub(super) fn render(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
