//! A scenario as it is written: `cases/<name>/manifests.yaml` and `cases/<name>/requests.yaml`.
//! Knows how they are read, not how they are asked.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Deserializer};
use serde_norway::Value;

/// Where a client is when its pair does not say.
const CLIENT: &str = "shop/client";

/// Every directory of `cases/`, in the order of names.
pub fn all() -> anyhow::Result<Vec<Case>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/cases");
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    paths.sort();
    let cases = paths.iter().map(|path| {
        let case = Case::read(path);
        case.with_context(|| format!("{}", path.display()))
    });
    cases.collect()
}

/// The manifests of the world that all cases share, by file name.
pub fn world() -> anyhow::Result<Vec<(String, String)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/world");
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((name, fs::read_to_string(entry.path())?));
    }
    Ok(files)
}

/// A scenario.
pub struct Case {
    /// Of its directory.
    pub name: String,
    /// Kubernetes manifests.
    pub manifests: String,
    /// What is asked and what is expected.
    pub requests: Requests,
    /// Cluster addresses of its Services by `name.namespace`.
    services: BTreeMap<String, IpAddr>,
}

/// `requests.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// One sentence: what is true when all pairs are as expected.
    pub about: String,
    /// Conditions that are not as they should be, on purpose: `ResolvedRefs BackendNotFound`.
    #[serde(default)]
    pub conditions: Vec<String>,
    /// Asked one after the other, in HTTP/1.1 and HTTP/2.
    pub pairs: Vec<Pair>,
}

/// A request and what is expected of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// `GET http://web.shop/cart`.
    pub ask: String,
    /// Pod that asks.
    #[serde(default = "client")]
    pub from: String,
    /// The Service whose address is asked, when it is not the URL's host; `pod/shop/v1`,
    /// `pod6/shop/v1`: an address of this pod.
    pub at: Option<String>,
    /// `name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// What the server is asked to do.
    pub echo: Option<String>,
    /// Body of the request.
    pub body: Option<String>,
    /// What of the first answer the others send back: `cookie`, or the name of a header.
    pub keep: Option<String>,
    /// Seconds between the first answer of which something is kept and the second request.
    #[serde(default)]
    pub pause: u64,
    /// How often.
    #[serde(default = "once")]
    pub times: u32,
    /// HTTP versions: `[1]`, `[2]`, `[1, 2]`.
    #[serde(default = "both")]
    pub http: Vec<u8>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
}

/// What must come of a pair. What is not written may be anything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Status of the answer; 200 when nothing is said. Not looked at when `split` is given.
    pub status: Option<u16>,
    /// Pods one of which answered.
    #[serde(default, deserialize_with = "one_or_more")]
    pub by: Vec<String>,
    /// As the server saw it: with its query.
    pub path: Option<String>,
    /// As the server saw it: `Host` or `:authority`.
    pub host: Option<String>,
    /// As the server saw it.
    pub method: Option<String>,
    /// Port that the server was reached on.
    pub port: Option<u16>,
    /// Body as the server saw it.
    pub body: Option<String>,
    /// Headers of the request as the server saw them; null: none of that name.
    #[serde(default)]
    pub saw: BTreeMap<String, Option<String>>,
    /// Headers of the answer; null: none of that name; `*`: any text.
    #[serde(default)]
    pub headers: BTreeMap<String, Option<String>>,
    /// Text that the answer's body contains.
    pub says: Option<String>,
    /// Weights of the pods that answer, or of statuses other than 200.
    #[serde(default)]
    pub split: BTreeMap<String, f64>,
    /// Requests that came to pods, for each one asked: exactly.
    #[serde(default)]
    pub counted: BTreeMap<String, u64>,
    /// Percent of the requests that came to pods too (mirrors).
    #[serde(default)]
    pub copied: BTreeMap<String, f64>,
    /// The answer breaks off.
    #[serde(default)]
    pub cut: bool,
    /// All requests after the first are answered by the pod of the first.
    #[serde(default)]
    pub same: bool,
}

impl Expect {
    /// What the answers alone show: nothing of what came to pods.
    pub fn of_answers(&self) -> Self {
        Expect {
            counted: BTreeMap::new(),
            copied: BTreeMap::new(),
            ..self.clone()
        }
    }
}

fn client() -> String {
    CLIENT.to_owned()
}

fn once() -> u32 {
    1
}

fn both() -> Vec<u8> {
    vec![1, 2]
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        More(Vec<String>),
    }
    Ok(match Words::deserialize(deserializer)? {
        Words::One(word) => vec![word],
        Words::More(words) => words,
    })
}

impl Case {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name().context("a name")?;
        let manifests = fs::read_to_string(path.join("manifests.yaml"))?;
        let requests = fs::read_to_string(path.join("requests.yaml"))?;
        let requests: Requests = serde_norway::from_str(&requests)?;
        ensure!(!requests.pairs.is_empty(), "no pair");
        Ok(Case {
            name: name.to_string_lossy().into_owned(),
            services: services(&manifests)?,
            manifests,
            requests,
        })
    }

    /// The address of the host of a request: of a Service of the case, or written as one.
    pub fn address(&self, host: &str) -> anyhow::Result<IpAddr> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Ok(address);
        }
        let mut labels = host.split('.');
        let name = labels.next().unwrap_or_default();
        let namespace = labels.next().unwrap_or("shop");
        let address = self.services.get(&format!("{name}.{namespace}"));
        address
            .copied()
            .with_context(|| format!("{}: no Service is {host}", self.name))
    }
}

/// The cluster addresses of the Services of some manifests.
pub fn services(manifests: &str) -> anyhow::Result<BTreeMap<String, IpAddr>> {
    let mut services = BTreeMap::new();
    for document in serde_norway::Deserializer::from_str(manifests) {
        let object = Value::deserialize(document)?;
        if object["kind"] != "Service" {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let key = format!(
            "{}.{}",
            text(&metadata["name"]),
            text(&metadata["namespace"])
        );
        if let Ok(address) = text(&object["spec"]["clusterIP"]).parse() {
            services.insert(key, address);
        }
    }
    Ok(services)
}
