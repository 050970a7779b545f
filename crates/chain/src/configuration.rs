//! A configuration as read from its file, and the calls it stands for.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Call, CniError, Ran, Runner, Sandbox};

/// Endings that runtimes read, in the order of libcni's `ConfFiles`.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// The interface that runtimes ask for in a pod.
const INTERFACE: &str = "eth0";

/// The plugins of a node, in the order of ADD.
#[derive(Clone, Debug)]
pub struct Chain {
    version: Value,
    name: Value,
    plugins: Vec<Value>,
    /// Where it was read.
    directory: PathBuf,
    bin_dirs: Vec<PathBuf>,
}

impl Chain {
    /// The first configuration by name, as runtimes choose; its plugins are looked for in
    /// `bin_dirs`, in that order.
    ///
    /// # Errors
    /// [`CniError::NoConfiguration`].
    pub fn read(directory: &Path, bin_dirs: &[PathBuf]) -> Result<Self, CniError> {
        let wrong = |why: String| CniError::NoConfiguration(directory.to_owned(), why);
        let entries = fs::read_dir(directory).map_err(|error| wrong(error.to_string()))?;
        let is_read = |path: &PathBuf| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|ending| ENDINGS.contains(&ending))
        };
        let files = entries.flatten().map(|entry| entry.path());
        let file = files.filter(is_read).min();
        let file = file.ok_or_else(|| wrong("no .conflist, .conf or .json".to_owned()))?;
        let value: Value = fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
            .map_err(|why| wrong(format!("{}: {why}", file.display())))?;
        let plugins = match value.get("plugins") {
            Some(plugins) => plugins.as_array().cloned().unwrap_or_default(),
            // A file of a single plugin.
            None => vec![value.clone()],
        };
        if plugins.is_empty() {
            return Err(wrong(format!("{} has no plugins", file.display())));
        }
        Ok(Self {
            version: value["cniVersion"].clone(),
            name: value["name"].clone(),
            plugins,
            directory: directory.to_owned(),
            bin_dirs: bin_dirs.to_vec(),
        })
    }

    /// ADD through the whole chain; the last result. After a failure the caller must DEL.
    ///
    /// # Errors
    /// The first plugin's that failed.
    pub fn add(&self, sandbox: &Sandbox, runner: &impl Runner) -> Result<Value, CniError> {
        let mut previous = None;
        for plugin in &self.plugins {
            previous = Some(self.call("ADD", plugin, (sandbox, previous.as_ref()), runner)?);
        }
        let none = || "it has no plugins".to_owned();
        previous.ok_or_else(|| CniError::NoConfiguration(self.directory.clone(), none()))
    }

    /// DEL through the chain in reverse order, with the result of ADD if there was one.
    ///
    /// # Errors
    /// The first plugin's that failed; the rest has not run then.
    pub fn del(
        &self,
        sandbox: &Sandbox,
        added: Option<&Value>,
        runner: &impl Runner,
    ) -> Result<(), CniError> {
        for plugin in self.plugins.iter().rev() {
            self.call("DEL", plugin, (sandbox, added), runner)?;
        }
        Ok(())
    }

    fn call(
        &self,
        command: &str,
        plugin: &Value,
        (sandbox, previous): (&Sandbox, Option<&Value>),
        runner: &impl Runner,
    ) -> Result<Value, CniError> {
        let kind = plugin["type"].as_str().unwrap_or_default().to_owned();
        let call = Call {
            program: self.program(&kind),
            env: self.env(command, sandbox),
            stdin: self.stdin(plugin, previous),
        };
        let ran = runner.run(call).map_err(|why| CniError::NotRun {
            plugin: kind.clone(),
            why,
        })?;
        outcome(command, kind, &ran)
    }

    fn program(&self, kind: &str) -> PathBuf {
        let paths = self.bin_dirs.iter().map(|directory| directory.join(kind));
        let mut paths = paths.filter(|path| path.is_file());
        // The error of starting it then names the plugin.
        paths.next().unwrap_or_else(|| PathBuf::from(kind))
    }

    fn env(&self, command: &str, sandbox: &Sandbox) -> Vec<(&'static str, OsString)> {
        // Directories come from a command line; one with a colon in it finds no plugin anyway.
        let path = env::join_paths(&self.bin_dirs).unwrap_or_default();
        vec![
            ("CNI_COMMAND", command.into()),
            ("CNI_CONTAINERID", sandbox.container_id.clone().into()),
            ("CNI_NETNS", sandbox.netns.clone().into()),
            ("CNI_IFNAME", INTERFACE.into()),
            ("CNI_ARGS", sandbox.args.clone().into()),
            ("CNI_PATH", path),
        ]
    }

    /// The plugin's own configuration with the list's name and version and the previous result.
    fn stdin(&self, plugin: &Value, previous: Option<&Value>) -> Vec<u8> {
        let mut stdin = plugin.clone();
        stdin["cniVersion"] = self.version.clone();
        stdin["name"] = self.name.clone();
        if let Some(previous) = previous {
            stdin["prevResult"] = json!(previous);
        }
        stdin.to_string().into_bytes()
    }
}

fn outcome(command: &str, plugin: String, ran: &Ran) -> Result<Value, CniError> {
    let answer: Option<Value> = serde_json::from_slice(&ran.stdout).ok();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match answer {
        Some(result) if ran.ok => Ok(result),
        None if ran.ok && command != "ADD" => Ok(Value::Null),
        Some(error) if error["code"].is_u64() && !ran.timed_out => Err(CniError::Refused {
            plugin,
            command: command.to_owned(),
            code: error["code"].as_u64().unwrap_or_default(),
            msg: text(&error["msg"]),
            details: text(&error["details"]),
        }),
        _ => Err(CniError::Broken {
            plugin,
            command: command.to_owned(),
            why: format!(
                "{}, stdout {:?}, stderr {:?}",
                ran.status,
                String::from_utf8_lossy(&ran.stdout).trim(),
                ran.stderr.trim()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "pods",
        "plugins": [{"type": "first", "mtu": 1400}, {"type": "second"}]}"#;

    /// Answers with the number of the call as result, or the same answer always.
    #[derive(Default)]
    struct Recorded {
        calls: RefCell<Vec<(String, String, Value)>>,
        answer: Option<Ran>,
    }

    impl Runner for Recorded {
        fn run(&self, call: Call) -> Result<Ran, String> {
            let mut calls = self.calls.borrow_mut();
            let command = call.env[0].1.to_string_lossy().into_owned();
            let stdin = serde_json::from_slice(&call.stdin).unwrap();
            calls.push((command, call.program.display().to_string(), stdin));
            let result = json!({ "call": calls.len() }).to_string();
            Ok(self.answer.clone().unwrap_or(ran(true, &result)))
        }
    }

    fn ran(ok: bool, stdout: &str) -> Ran {
        Ran {
            ok,
            timed_out: false,
            status: "exit status: 1".into(),
            stdout: stdout.into(),
            stderr: "of no use".into(),
        }
    }

    fn chain(files: &[(&str, &str)]) -> Result<Chain, CniError> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Chain::read(directory.path(), &[directory.path().join("bin")])
    }

    fn sandbox() -> Sandbox {
        Sandbox {
            container_id: "c".into(),
            netns: "/run/netns/c".into(),
            args: crate::pod_args("shop", "web", "c", "u"),
        }
    }

    #[test]
    fn add_hands_each_result_to_the_next_plugin_and_del_goes_back() {
        let chain = chain(&[("10.conflist", LIST)]).unwrap();
        let runner = Recorded::default();
        let added = chain.add(&sandbox(), &runner).unwrap();
        assert_eq!(added, json!({ "call": 2 }));
        chain.del(&sandbox(), Some(&added), &runner).unwrap();
        let calls = runner.calls.into_inner();
        let order: Vec<(&str, &str)> = calls
            .iter()
            .map(|(command, program, _)| (&**command, &**program))
            .collect();
        assert_eq!(
            order,
            [
                ("ADD", "first"),
                ("ADD", "second"),
                ("DEL", "second"),
                ("DEL", "first")
            ]
        );
        assert_eq!(
            calls[0].2,
            json!({ "type": "first", "mtu": 1400, "cniVersion": "1.0.0", "name": "pods" })
        );
        let previous: Vec<&Value> = calls[1..]
            .iter()
            .map(|(.., stdin)| &stdin["prevResult"])
            .collect();
        assert_eq!(previous, [&json!({ "call": 1 }), &added, &added]);
    }

    #[test]
    fn the_first_file_by_name_is_read_and_a_single_plugin_is_a_chain() {
        let single = r#"{"cniVersion": "0.4.0", "name": "one", "type": "alone"}"#;
        let chain = chain(&[
            ("10.conflist.bak", "{"),
            ("15.conf", single),
            ("20.conflist", LIST),
        ]);
        let runner = Recorded::default();
        chain.unwrap().add(&sandbox(), &runner).unwrap();
        let calls = runner.calls.into_inner();
        assert_eq!((calls.len(), &*calls[0].1), (1, "alone"));
        assert_eq!(calls[0].2["cniVersion"], "0.4.0");
    }

    #[test]
    fn a_directory_without_a_usable_configuration_is_an_error_that_says_why() {
        let why = |files: &[(&str, &str)]| match chain(files) {
            Err(CniError::NoConfiguration(_, why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(why(&[]).contains("no .conflist"));
        assert!(why(&[("a.conflist", "{")]).contains("a.conflist"));
        assert!(why(&[("a.conflist", r#"{"plugins": []}"#)]).contains("no plugins"));
    }

    #[test]
    fn a_plugin_that_fails_is_named_with_what_it_said() {
        let chain = chain(&[("10.conflist", LIST)]).unwrap();
        let add = |ok: bool, stdout: &str| {
            let runner = Recorded {
                answer: Some(ran(ok, stdout)),
                ..Recorded::default()
            };
            chain.add(&sandbox(), &runner).unwrap_err()
        };
        let refused = add(false, r#"{"code": 11, "msg": "later", "details": "busy"}"#);
        let CniError::Refused {
            plugin, code, msg, ..
        } = refused
        else {
            panic!("{refused}");
        };
        assert_eq!((&*plugin, code, &*msg), ("first", 11, "later"));
        for broken in [add(false, "oops"), add(true, "")] {
            assert!(matches!(broken, CniError::Broken { .. }), "{broken}");
        }
    }
}
