//! The sandbox of a waypoint: a network namespace, wired by the node's CNI chain as a runtime would
//! do it for a pod. Knows no process.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use chain::{Call, Chain, CniError, Ran, Runner, Sandbox};
use futures::future::{Either, select};
use netio::cgroup::Cgroup;
use netio::netns::{self, Netns};
use rtnetlink::LinkUnspec;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::runtime::Handle;

use super::Settings;
use super::record::Record;

/// Time for one plugin. Our own waits for the agent 30 s, so that its own error is seen.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Most bytes of a plugin's output that are kept, of each stream.
const MAX_OUTPUT_BYTES: u64 = 1024 * 1024;
/// Index of the loopback interface in every namespace.
const LOOPBACK: u32 = 1;
/// The address comes from the chain's IPAM: waiting 1 to 2 s for another owner of it is no use.
const NO_DAD: [&str; 2] = [
    "/proc/sys/net/ipv6/conf/all/accept_dad",
    "/proc/sys/net/ipv6/conf/default/accept_dad",
];

/// What could not be done to a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The namespace, or the cgroup.
    #[error("its network namespace or cgroup: {0}")]
    Netns(#[from] io::Error),
    /// The interface `lo`.
    #[error("its loopback interface: {0}")]
    Loopback(#[source] rtnetlink::Error),
    /// The chain.
    #[error("the node's CNI chain: {0}")]
    Chain(#[from] CniError),
}

/// The namespace of a record, if it is there.
pub fn netns(record: &Record) -> Option<Netns> {
    Netns::open(netns::path_of(&record.sandbox)).ok()
}

/// The addresses that the chain gave it, while it has them.
pub fn addresses(record: &Record) -> Vec<IpAddr> {
    match netns(record) {
        Some(_) => record.addresses(),
        None => Vec::new(),
    }
}

/// Makes the namespace and calls ADD; the chain's result. Blocks. After an error the caller has to
/// [`remove`] what there is.
///
/// # Errors
/// [`SandboxError`].
pub fn make(settings: &Settings, record: &Record) -> Result<Value, SandboxError> {
    // First: by it the next agent finds the rest, should it have lost the record.
    Cgroup::create(settings.cgroup.join(&record.sandbox))?;
    let netns = netns::create(&record.sandbox)?;
    // A kernel without IPv6 has no such files, and needs none.
    netns.enter(|| NO_DAD.iter().for_each(|path| drop(fs::write(path, "0"))))?;
    Handle::current().block_on(raise_loopback(&netns))?;
    let chain = Chain::read(&settings.cni_conf_dir, &settings.cni_bin_dirs)?;
    Ok(chain.add(&sandbox(record, true), &Plugins)?)
}

/// Calls DEL, then removes the namespace; what is gone already is fine. Blocks.
///
/// # Errors
/// [`SandboxError`]; everything is as it was then, but what the chain has undone.
pub fn remove(settings: &Settings, record: &Record) -> Result<(), SandboxError> {
    let there = netns(record).is_some();
    let chain = Chain::read(&settings.cni_conf_dir, &settings.cni_bin_dirs)?;
    chain.del(&sandbox(record, there), record.added.as_ref(), &Plugins)?;
    Ok(remove_netns(record)?)
}

/// Removes the namespace alone.
///
/// # Errors
/// The kernel's answer.
pub fn remove_netns(record: &Record) -> io::Result<()> {
    match netns::delete(&record.sandbox) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn sandbox(record: &Record, there: bool) -> Sandbox {
    let netns = match there {
        true => netns::path_of(&record.sandbox),
        false => PathBuf::new(),
    };
    let (id, name) = (&record.container_id, record.name());
    Sandbox {
        container_id: id.clone(),
        netns,
        args: chain::pod_args(&record.replica.namespace, &name, id, &record.uid),
    }
}

async fn raise_loopback(netns: &Netns) -> Result<(), SandboxError> {
    let (connection, handle, _events) = netns.enter(rtnetlink::new_connection)??;
    let up = LinkUnspec::new_with_index(LOOPBACK).up().build();
    let raised = handle.link().set(up).execute();
    match select(pin!(raised), pin!(connection)).await {
        Either::Left((result, _)) => result.map_err(SandboxError::Loopback),
        Either::Right(_) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
    }
}

/// Plugins run where the agent does: on the node.
struct Plugins;

impl Runner for Plugins {
    fn run(&self, call: Call) -> Result<Ran, String> {
        Handle::current()
            .block_on(run(call))
            .map_err(|error| error.to_string())
    }
}

async fn run(call: Call) -> io::Result<Ran> {
    let mut command = Command::new(call.program);
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(call.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut input) = input {
            // A plugin that does not read says why in its output.
            let _ = input.write_all(&call.stdin).await;
        }
    };
    let talk = async {
        let ((), output, errors) = tokio::join!(write, read(output), read(errors));
        Ok::<_, io::Error>((child.wait().await?, output?, errors?))
    };
    match tokio::time::timeout(CALL_LIMIT, talk).await {
        Ok(ended) => {
            let (status, stdout, stderr) = ended?;
            Ok(Ran {
                ok: status.success(),
                timed_out: false,
                status: status.to_string(),
                stdout,
                stderr: String::from_utf8_lossy(&stderr).into_owned(),
            })
        }
        Err(_) => Ok(Ran {
            ok: false,
            timed_out: true,
            status: format!("it did not end within {CALL_LIMIT:?}"),
            stdout: Vec::new(),
            stderr: String::new(),
        }),
    }
}

async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream
            .take(MAX_OUTPUT_BYTES)
            .read_to_end(&mut bytes)
            .await?;
    }
    Ok(bytes)
}
