//! The CNI plugin: short-lived, called by the container runtime, chained after the plugin that
//! makes the interface. It asks the node agent and passes prevResult on unchanged.
//!
//! Knows nothing of steering or of the mesh: every decision is the agent's.

pub mod netconf;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::client::{self, CallError};
use crate::message::{Answer, Failure, Request};
use netconf::{CallEnv, NetConf, VERSIONS};

/// Longest configuration that is read from stdin, in bytes: a prevResult is some KiB, a GC list of
/// 1,000 containers about 100 KiB.
const MAX_STDIN_BYTES: u64 = 4 * 1024 * 1024;

/// How long DEL and GC wait for the agent. A pod's deletion must never hang on us: an agent that is
/// away cleans up when it returns.
const DEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than the agent the plugin waits, so that the agent's own reason arrives.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// CNI error codes of ours and of the specification that are used by name.
pub mod code {
    /// The container is not known.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A necessary environment variable is missing or wrong.
    pub const INVALID_ENV: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// Something could not be decoded.
    pub const DECODE: u32 = 6;
    /// The network configuration is wrong.
    pub const INVALID_NETCONF: u32 = 7;
    /// A transient condition; the runtime should call again.
    pub const TRY_LATER: u32 = 11;
    /// STATUS: an ADD could not succeed now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Ours: the pod could not be captured.
    pub const NOT_CAPTURED: u32 = 100;
    /// Ours: CHECK found the capture broken.
    pub const BROKEN: u32 = 101;
}

/// The error object of the CNI specification, without its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CniError {
    /// Code of the specification, or ours from 100 on.
    pub code: u32,
    /// One sentence.
    pub msg: String,
    /// What an operator needs besides; may be empty.
    pub details: String,
}

impl CniError {
    /// An error object.
    pub fn new(code: u32, msg: impl Into<String>, details: impl ToString) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: details.to_string(),
        }
    }
}

impl From<Failure> for CniError {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code,
            msg: failure.msg,
            details: failure.details,
        }
    }
}

/// One call: environment and stdin in, what belongs on stdout out, and the exit code (0 or 1).
pub fn run(env: &CallEnv, mut stdin: impl Read) -> (String, i32) {
    let mut text = Vec::new();
    let read = stdin.by_ref().take(MAX_STDIN_BYTES).read_to_end(&mut text);
    let outcome = match read {
        Ok(_) => call(env, &text),
        Err(error) => Err(CniError::new(code::IO, "stdin cannot be read", error)),
    };
    match outcome {
        Ok(Some(result)) => (result.to_string(), 0),
        Ok(None) => (String::new(), 0),
        Err(error) => (error_object(&error, &text), 1),
    }
}

/// Runs the call of this process and says what its exit code is.
pub fn main() -> i32 {
    let env = CallEnv::read(|key| std::env::var(key).ok());
    let (output, exit) = run(&env, std::io::stdin());
    match std::io::stdout().write_all(output.as_bytes()) {
        Ok(()) => exit,
        Err(_) => 1,
    }
}

fn error_object(error: &CniError, stdin: &[u8]) -> String {
    json!({
        "cniVersion": netconf::version_for_errors(stdin),
        "code": error.code,
        "msg": error.msg,
        "details": error.details,
    })
    .to_string()
}

fn call(env: &CallEnv, stdin: &[u8]) -> Result<Option<Value>, CniError> {
    match env.command.as_str() {
        "VERSION" => Ok(Some(version(stdin))),
        "ADD" => add(env, &NetConf::parse(stdin)?).map(Some),
        "DEL" => del(env, &NetConf::parse(stdin)?),
        "CHECK" => check(env, &since("0.4.0", NetConf::parse(stdin)?)?),
        "STATUS" => status(&since("1.1.0", NetConf::parse(stdin)?)?),
        "GC" => gc(&since("1.1.0", NetConf::parse(stdin)?)?),
        other => Err(CniError::new(
            code::INVALID_ENV,
            "CNI_COMMAND is unknown",
            other,
        )),
    }
}

/// Answers in the version that was asked in, as libcni expects; any input will do.
fn version(stdin: &[u8]) -> Value {
    json!({
        "cniVersion": netconf::version_for_errors(stdin),
        "supportedVersions": VERSIONS,
    })
}

fn since(first: &str, conf: NetConf) -> Result<NetConf, CniError> {
    let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
    if place(&conf.version) >= place(first) {
        return Ok(conf);
    }
    let why = format!("the verb exists since CNI {first}");
    Err(CniError::new(
        1,
        format!("the configuration is of version {}", conf.version),
        why,
    ))
}

fn add(env: &CallEnv, conf: &NetConf) -> Result<Value, CniError> {
    env.require(true)?;
    let ips = conf.ips()?;
    let pod = env.pod()?;
    let result = conf.prev_result.clone().unwrap_or_default();
    if conf.exclude_namespaces.contains(&pod.namespace) {
        return Ok(result);
    }
    let netns = open_netns(&env.netns)?;
    let request = Request::Add {
        pod,
        container_id: env.container_id.clone(),
        netns: env.netns.clone(),
        ips,
        timeout_ms: conf.timeout.as_millis() as u64,
    };
    ask(conf, &request, Some(&netns), conf.timeout + ANSWER_MARGIN)?;
    Ok(result)
}

fn open_netns(path: &str) -> Result<File, CniError> {
    File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CniError::new(
            code::UNKNOWN_CONTAINER,
            format!("the network namespace {path} does not exist"),
            error,
        ),
        _ => CniError::new(code::IO, format!("{path} cannot be opened"), error),
    })
}

/// Succeeds whatever the agent says: it forgets what is gone by itself, now or when it starts, and
/// a pod's deletion must not wait for the mesh.
fn del(env: &CallEnv, conf: &NetConf) -> Result<Option<Value>, CniError> {
    env.require(false)?;
    let request = Request::Del {
        container_id: env.container_id.clone(),
    };
    if let Err(error) = ask(conf, &request, None, DEL_TIMEOUT) {
        note("DEL", &error);
    }
    Ok(None)
}

/// For the runtime's log: stdout belongs to the specification.
fn note(verb: &str, error: &CniError) {
    let line = format!(
        "culvert-cni: {verb} goes on: {} ({})\n",
        error.msg, error.details
    );
    // A closed stderr is no reason to fail a deletion.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn check(env: &CallEnv, conf: &NetConf) -> Result<Option<Value>, CniError> {
    env.require(true)?;
    let pod = env.pod()?;
    if conf.exclude_namespaces.contains(&pod.namespace) {
        return Ok(None);
    }
    let request = Request::Check {
        container_id: env.container_id.clone(),
    };
    ask(conf, &request, None, conf.timeout).map(|()| None)
}

fn status(conf: &NetConf) -> Result<Option<Value>, CniError> {
    match ask(conf, &Request::Ready, None, conf.timeout) {
        Ok(()) => Ok(None),
        Err(error) => Err(CniError {
            code: code::NOT_AVAILABLE,
            ..error
        }),
    }
}

fn gc(conf: &NetConf) -> Result<Option<Value>, CniError> {
    let Some(keep) = conf.valid_attachments.clone() else {
        let missing = "cni.dev/valid-attachments is missing";
        return Err(CniError::new(code::INVALID_NETCONF, missing, ""));
    };
    ask(conf, &Request::Gc { keep }, None, DEL_TIMEOUT).map(|()| None)
}

fn ask(
    conf: &NetConf,
    request: &Request,
    netns: Option<&File>,
    timeout: Duration,
) -> Result<(), CniError> {
    let fd = netns.map(File::as_fd);
    match client::ask(&conf.agent_socket, request, fd, timeout) {
        Ok(Answer::Done { .. }) => Ok(()),
        Ok(Answer::Failed(failure)) => Err(failure.into()),
        Ok(other) => Err(CniError::new(
            code::DECODE,
            "the node agent's answer makes no sense",
            format!("{other:?}"),
        )),
        Err(error) => Err(unanswered(conf, &error)),
    }
}

fn unanswered(conf: &NetConf, error: &CallError) -> CniError {
    let socket = conf.agent_socket.display();
    let (code, msg) = match error {
        CallError::Connect(_) => (
            code::TRY_LATER,
            format!("the node agent (culvert-cni agent) is not at {socket}"),
        ),
        CallError::Timeout => (
            code::TRY_LATER,
            format!("the node agent at {socket} did not answer in time"),
        ),
        CallError::Io(_) => (
            code::TRY_LATER,
            format!("the node agent at {socket} went away"),
        ),
        CallError::TooLong(_) => (code::IO, "the call does not fit one datagram".to_owned()),
        CallError::Refused(_) | CallError::Decode(_) => (
            code::DECODE,
            "the node agent's answer cannot be read".to_owned(),
        ),
    };
    CniError::new(code, msg, error)
}
