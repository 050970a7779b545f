//! What a CNI runtime hands a plugin: environment variables and the network configuration on
//! stdin, parsed once into what the verbs need.
//!
//! Reads no environment and no stdin itself: the caller gives both.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::message::PodName;
use crate::plugin::CniError;

/// Versions of the CNI specification that are spoken, oldest first.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Default of `agent_socket`.
pub const DEFAULT_AGENT_SOCKET: &str = "/var/run/culvert/cni.sock";

/// Default of `timeout_s`: kubelet gives a sandbox about two minutes, and retries.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Bounds of `timeout_s` in seconds.
const TIMEOUT_RANGE_S: std::ops::RangeInclusive<u64> = 1..=300;

/// The network configuration of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    /// One of [`VERSIONS`].
    pub version: String,
    /// The agent's socket.
    pub agent_socket: PathBuf,
    /// How long a call may take.
    pub timeout: Duration,
    /// Pods of these namespaces pass without an agent: the mesh's own must be able to start.
    pub exclude_namespaces: Vec<String>,
    /// What the plugins before made; kept as it came.
    pub prev_result: Option<Value>,
    /// Container ids of `cni.dev/valid-attachments` (GC only).
    pub valid_attachments: Option<Vec<String>>,
}

impl NetConf {
    /// Parses stdin. Unknown keys are left alone: runtimes add their own.
    ///
    /// # Errors
    /// Code 6 when it is no JSON, 1 when the version is not spoken, 7 when a field is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, CniError> {
        let value: Value = serde_json::from_slice(text).map_err(|error| {
            CniError::new(6, "the network configuration on stdin is not JSON", error)
        })?;
        let version = version_of(&value)?;
        Ok(Self {
            version,
            agent_socket: socket_of(&value)?,
            timeout: timeout_of(&value)?,
            exclude_namespaces: strings(&value, "exclude_namespaces")?,
            prev_result: prev_result_of(&value)?,
            valid_attachments: attachments_of(&value)?,
        })
    }

    /// The addresses in prevResult (the same place in all versions that are spoken).
    ///
    /// # Errors
    /// Code 7 when there is no prevResult or its `ips` are not addresses.
    pub fn ips(&self) -> Result<Vec<IpAddr>, CniError> {
        let Some(result) = &self.prev_result else {
            let hint = "culvert-cni is a chained plugin: list it after the one that makes the \
                        interface";
            return Err(CniError::new(7, "there is no prevResult", hint));
        };
        let list = match result.get("ips") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(wrong("prevResult.ips", "an array")),
        };
        list.iter().map(address_of).collect()
    }
}

/// What the version is, even when the rest of the configuration is wrong: an error object must
/// name one.
pub fn version_for_errors(text: &[u8]) -> String {
    let newest = VERSIONS[VERSIONS.len() - 1].to_owned();
    let value: Value = serde_json::from_slice(text).unwrap_or_default();
    version_of(&value).unwrap_or(newest)
}

fn version_of(value: &Value) -> Result<String, CniError> {
    let spoken = format!("spoken are {}", VERSIONS.join(", "));
    match value.get("cniVersion") {
        Some(Value::String(version)) if VERSIONS.contains(&version.as_str()) => Ok(version.clone()),
        Some(Value::String(version)) => Err(CniError::new(
            1,
            format!("CNI version {version} is not spoken"),
            spoken,
        )),
        None if value.is_object() => Err(CniError::new(
            1,
            "the network configuration names no cniVersion",
            spoken,
        )),
        Some(_) => Err(wrong("cniVersion", "a string")),
        None => Err(wrong("the network configuration", "an object")),
    }
}

fn socket_of(value: &Value) -> Result<PathBuf, CniError> {
    match value.get("agent_socket") {
        None => Ok(DEFAULT_AGENT_SOCKET.into()),
        Some(Value::String(path)) if path.starts_with('/') => Ok(path.into()),
        Some(_) => Err(wrong("agent_socket", "an absolute path")),
    }
}

fn timeout_of(value: &Value) -> Result<Duration, CniError> {
    let Some(field) = value.get("timeout_s") else {
        return Ok(DEFAULT_TIMEOUT);
    };
    match field.as_u64() {
        Some(seconds) if TIMEOUT_RANGE_S.contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong(
            "timeout_s",
            "a whole number of seconds from 1 to 300",
        )),
    }
}

fn prev_result_of(value: &Value) -> Result<Option<Value>, CniError> {
    match value.get("prevResult") {
        None | Some(Value::Null) => Ok(None),
        Some(result @ Value::Object(_)) => Ok(Some(result.clone())),
        Some(_) => Err(wrong("prevResult", "an object")),
    }
}

fn attachments_of(value: &Value) -> Result<Option<Vec<String>>, CniError> {
    let key = "cni.dev/valid-attachments";
    let list = match value.get(key) {
        None => return Ok(None),
        Some(Value::Null) => return Ok(Some(Vec::new())),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong(key, "an array")),
    };
    let id = |entry: &Value| match entry.get("containerID") {
        Some(Value::String(id)) => Ok(id.clone()),
        _ => Err(wrong(key, "an array of objects with containerID")),
    };
    list.iter().map(id).collect::<Result<_, _>>().map(Some)
}

fn strings(value: &Value, key: &str) -> Result<Vec<String>, CniError> {
    let list = match value.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong(key, "an array of strings")),
    };
    let text = |entry: &Value| entry.as_str().map(str::to_owned);
    list.iter()
        .map(text)
        .collect::<Option<_>>()
        .ok_or_else(|| wrong(key, "an array of strings"))
}

fn address_of(entry: &Value) -> Result<IpAddr, CniError> {
    let text = entry
        .get("address")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let host = text.split('/').next().unwrap_or_default();
    host.parse()
        .map_err(|_| wrong("prevResult.ips[].address", "an address with prefix length"))
}

fn wrong(what: &str, wanted: &str) -> CniError {
    CniError::new(7, format!("{what} is not {wanted}"), "")
}

/// The environment of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallEnv {
    /// CNI_COMMAND.
    pub command: String,
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS; may be empty on DEL.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
}

impl CallEnv {
    /// Reads the variables through `get`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let text = |key| get(key).unwrap_or_default();
        Self {
            command: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
        }
    }

    /// Checks what the specification requires of ADD, DEL and CHECK.
    ///
    /// # Errors
    /// Code 4 naming every variable that is missing or malformed.
    pub fn require(&self, netns_too: bool) -> Result<(), CniError> {
        let mut wrong = Vec::new();
        if self.container_id.is_empty() {
            wrong.push("CNI_CONTAINERID is missing".to_owned());
        } else if !is_container_id(&self.container_id) {
            wrong.push(format!(
                "CNI_CONTAINERID {:?} is no container id",
                self.container_id
            ));
        }
        if self.ifname.is_empty() {
            wrong.push("CNI_IFNAME is missing".to_owned());
        }
        if netns_too && self.netns.is_empty() {
            wrong.push("CNI_NETNS is missing".to_owned());
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(CniError::new(
            4,
            "the environment is incomplete",
            wrong.join("; "),
        ))
    }

    /// The pod that CNI_ARGS names.
    ///
    /// # Errors
    /// Code 4 when CNI_ARGS is malformed or names no pod.
    pub fn pod(&self) -> Result<PodName, CniError> {
        let mut pod = PodName {
            uid: self.container_id.clone(),
            namespace: String::new(),
            name: String::new(),
        };
        for pair in self.args.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CniError::new(
                    4,
                    "CNI_ARGS is not KEY=VALUE;…",
                    format!("{pair:?}"),
                ));
            };
            match key {
                "K8S_POD_NAMESPACE" => pod.namespace = value.to_owned(),
                "K8S_POD_NAME" => pod.name = value.to_owned(),
                "K8S_POD_UID" if !value.is_empty() => pod.uid = value.to_owned(),
                _ => {}
            }
        }
        match pod.mistake() {
            None => Ok(pod),
            Some(mistake) => Err(CniError::new(4, "CNI_ARGS does not name a pod", mistake)),
        }
    }
}

/// The specification's pattern for a container id.
fn is_container_id(text: &str) -> bool {
    let tail = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.len() <= crate::message::MAX_ID_BYTES
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> u32 {
        NetConf::parse(text.as_bytes()).unwrap_err().code
    }

    #[test]
    fn defaults_stand_when_nothing_is_said() {
        let conf = NetConf::parse(br#"{"cniVersion":"1.0.0","name":"n","type":"culvert-cni"}"#);
        let conf = conf.unwrap();
        assert_eq!(conf.agent_socket, PathBuf::from(DEFAULT_AGENT_SOCKET));
        assert_eq!(conf.timeout, DEFAULT_TIMEOUT);
        assert!(conf.exclude_namespaces.is_empty() && conf.prev_result.is_none());
    }

    #[test]
    fn each_mistake_has_the_code_of_the_specification() {
        assert_eq!(code("{"), 6);
        assert_eq!(code(""), 6);
        assert_eq!(code("[]"), 7);
        assert_eq!(code("{}"), 1);
        assert_eq!(code(r#"{"cniVersion":"0.2.0"}"#), 1);
        assert_eq!(code(r#"{"cniVersion":"2.0.0"}"#), 1);
        assert_eq!(code(r#"{"cniVersion":1}"#), 7);
        assert_eq!(code(r#"{"cniVersion":"1.0.0","agent_socket":5}"#), 7);
        assert_eq!(
            code(r#"{"cniVersion":"1.0.0","agent_socket":"relative"}"#),
            7
        );
        assert_eq!(code(r#"{"cniVersion":"1.0.0","timeout_s":0}"#), 7);
        assert_eq!(code(r#"{"cniVersion":"1.0.0","timeout_s":"9"}"#), 7);
        assert_eq!(
            code(r#"{"cniVersion":"1.0.0","exclude_namespaces":["a",1]}"#),
            7
        );
        assert_eq!(code(r#"{"cniVersion":"1.0.0","prevResult":"x"}"#), 7);
        assert_eq!(
            code(r#"{"cniVersion":"1.1.0","cni.dev/valid-attachments":[{}]}"#),
            7
        );
    }

    #[test]
    fn addresses_come_from_the_previous_result_in_every_version() {
        for version in VERSIONS {
            let text = format!(
                r#"{{"cniVersion":"{version}","prevResult":{{"cniVersion":"{version}","ips":[
                {{"version":"4","address":"10.1.0.5/24"}},{{"address":"fd00::5/64"}}]}}}}"#
            );
            let ips = NetConf::parse(text.as_bytes()).unwrap().ips().unwrap();
            let want: Vec<IpAddr> = vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
            assert_eq!(ips, want);
        }
        let conf = NetConf::parse(br#"{"cniVersion":"1.0.0","prevResult":{"ips":[{}]}}"#).unwrap();
        assert_eq!(conf.ips().unwrap_err().code, 7);
        let conf = NetConf::parse(br#"{"cniVersion":"1.0.0"}"#).unwrap();
        assert_eq!(conf.ips().unwrap_err().code, 7);
    }

    fn env(pairs: &[(&str, &str)]) -> CallEnv {
        CallEnv::read(|key| {
            pairs
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let error = env(&[("CNI_COMMAND", "ADD")]).require(true).unwrap_err();
        assert_eq!(error.code, 4);
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            assert!(error.details.contains(name), "{}", error.details);
        }
        let bad = env(&[("CNI_CONTAINERID", "../x"), ("CNI_IFNAME", "eth0")]);
        assert_eq!(bad.require(false).unwrap_err().code, 4);
    }

    #[test]
    fn the_container_id_stands_in_for_a_missing_uid() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";
        let call = env(&[("CNI_CONTAINERID", "abc"), ("CNI_ARGS", args)]);
        let pod = call.pod().unwrap();
        assert_eq!((pod.uid.as_str(), pod.name.as_str()), ("abc", "web"));
        let with_uid = format!("{args};K8S_POD_UID=u-1");
        let call = env(&[("CNI_CONTAINERID", "abc"), ("CNI_ARGS", &with_uid)]);
        assert_eq!(call.pod().unwrap().uid, "u-1");
    }

    #[test]
    fn broken_arguments_are_an_invalid_environment() {
        for args in [
            "",
            "nonsense",
            "K8S_POD_NAME=x",
            "K8S_POD_NAMESPACE=a;K8S_POD_NAME=B!",
        ] {
            let call = env(&[("CNI_CONTAINERID", "abc"), ("CNI_ARGS", args)]);
            assert_eq!(call.pod().unwrap_err().code, 4, "{args}");
        }
    }
}
