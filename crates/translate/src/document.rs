//! Text of a file to documents: split, read, checked, each with the line it starts on and, when it
//! is refused, the line and the reason. Knows no directory and no history.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_norway::Value;

use crate::admit::{self, Reason};
use crate::object::{Kind, Object, ObjectKey};

/// Longest file in bytes; a larger one is refused whole. etcd takes 1.5 MiB an object, so this is
/// a directory export of thousands of objects.
pub const MAX_FILE_BYTES: usize = 32 * 1024 * 1024;

/// Most documents in a file (list items counted), so that a file of separators costs nothing.
pub const MAX_FILE_DOCUMENTS: usize = 100_000;

/// One document of a file, or one item of a `List` in it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Line of the file the document starts on, from 1.
    pub line: usize,
    /// The document's own text.
    pub text: Arc<str>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A valid object.
    Accepted(Arc<Object>),
    /// Not read, and why.
    Refused(Refusal),
}

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Line of the file, from 1: of the mistake where known, else of the document.
    pub line: usize,
    /// Sentence without the line.
    pub reason: String,
    /// Which object it would have been.
    pub subject: Subject,
}

/// Which object a refused document would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// This one.
    Known(ObjectKey),
    /// It cannot be told: the text is broken, or has no name.
    Unknown,
    /// Of a kind that is not read, so none of ours.
    Foreign,
}

/// All documents of a file, in their order; empty documents are left out.
pub fn parse(text: &str) -> Vec<Document> {
    if text.len() > MAX_FILE_BYTES {
        let reason = format!("{} bytes are more than {MAX_FILE_BYTES}", text.len());
        return vec![refused(1, "", (1, reason, Subject::Unknown))];
    }
    let mut documents = Vec::new();
    for (line, text) in split(text) {
        if documents.len() >= MAX_FILE_DOCUMENTS {
            let reason = format!("the file has more than {MAX_FILE_DOCUMENTS} documents");
            documents.push(refused(line, text, (line, reason, Subject::Unknown)));
            break;
        }
        read(line, text, &mut documents);
    }
    documents
}

/// The parts between document markers (YAML 1.2.2, 9.1.2), each with its first line.
///
/// A marker at the start of a line ends a document wherever it stands, so no scalar can hold one.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.trim_end();
        if rest == "---" || rest == "..." || rest.starts_with("--- ") {
            parts.push((first_line, &text[start..offset]));
            // `--- {a: b}` has content on the marker's own line.
            start = offset + 3;
            first_line = index + 1;
        }
        offset += line.len();
    }
    parts.push((first_line, &text[start..]));
    parts
        .into_iter()
        .filter_map(|(line, text)| from_content(line, text))
        .collect()
}

/// A part from its first line with content on, None when it has only blank lines and comments.
fn from_content(first_line: usize, text: &str) -> Option<(usize, &str)> {
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let content = line.trim();
        if !content.is_empty() && !content.starts_with('#') {
            return Some((first_line + index, &text[offset..]));
        }
        offset += line.len();
    }
    None
}

/// Why not: line, sentence, and of which object.
type Refused = (usize, Reason, Subject);

fn refused(line: usize, text: &str, (at, reason, subject): Refused) -> Document {
    let outcome = Outcome::Refused(Refusal {
        line: at,
        reason,
        subject,
    });
    Document {
        line,
        text: text.into(),
        outcome,
    }
}

fn read(line: usize, text: &str, documents: &mut Vec<Document>) {
    let value: Value = match serde_norway::from_str(text) {
        Ok(Value::Null) => return,
        Ok(value) => value,
        Err(error) => {
            let (at, reason) = located(line, &error);
            documents.push(refused(line, text, (at, reason, Subject::Unknown)));
            return;
        }
    };
    // `kubectl get -o yaml` writes a List; its items have no lines of their own.
    if value.get("kind").and_then(Value::as_str) == Some("List") {
        for item in value
            .get("items")
            .and_then(Value::as_sequence)
            .into_iter()
            .flatten()
        {
            let text = serde_norway::to_string(item).unwrap_or_default();
            documents.push(one(Given::Item { line, value: item }, &text));
        }
        return;
    }
    documents.push(one(
        Given::Text {
            line,
            text,
            value: &value,
        },
        text,
    ));
}

fn one(given: Given<'_>, text: &str) -> Document {
    let line = given.line();
    match object(&given) {
        Ok(object) => {
            let outcome = Outcome::Accepted(Arc::new(object));
            Document {
                line,
                text: text.into(),
                outcome,
            }
        }
        Err(why) => refused(line, text, why),
    }
}

/// A document to be read as a typed object; only a text knows the line of a mistake.
enum Given<'a> {
    Text {
        line: usize,
        text: &'a str,
        value: &'a Value,
    },
    Item {
        line: usize,
        value: &'a Value,
    },
}

impl Given<'_> {
    fn line(&self) -> usize {
        match self {
            Self::Text { line, .. } | Self::Item { line, .. } => *line,
        }
    }

    fn value(&self) -> &Value {
        match self {
            Self::Text { value, .. } | Self::Item { value, .. } => value,
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, (usize, Reason)> {
        match self {
            Self::Text { line, text, .. } => {
                serde_norway::from_str(text).map_err(|error| located(*line, &error))
            }
            Self::Item { line, value } => {
                serde_norway::from_value((*value).clone()).map_err(|e| (*line, e.to_string()))
            }
        }
    }

    fn admit<T: DeserializeOwned>(
        &self,
        admit: impl FnOnce(T) -> Result<Object, Reason>,
    ) -> Result<Object, (usize, Reason)> {
        admit(self.read()?).map_err(|reason| (self.line(), reason))
    }
}

/// Line in the file and sentence of a YAML error, whose own line counts from the document's start.
fn located(line: usize, error: &serde_norway::Error) -> (usize, Reason) {
    let text = error.to_string();
    match error.location() {
        None => (line, text),
        Some(at) => {
            let suffix = format!(" at line {} column {}", at.line(), at.column());
            let reason = in_file(line, &text.replace(&suffix, ""));
            (
                line + at.line().saturating_sub(1),
                format!("{reason} (column {})", at.column()),
            )
        }
    }
}

/// The sentence with the lines that it names itself ("while parsing ... at line 4") as lines of
/// the file, too.
fn in_file(first_line: usize, text: &str) -> Reason {
    let mut parts = text.split(" at line ");
    let mut reason = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(part.len());
        let (number, rest) = part.split_at(digits);
        let number: usize = number.parse().unwrap_or(1);
        reason += &format!(" at line {}{rest}", first_line + number.saturating_sub(1));
    }
    reason
}

fn object(given: &Given<'_>) -> Result<Object, Refused> {
    let value = given.value();
    let line = given.line();
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let reason = "no Kubernetes object: apiVersion or kind is missing".to_owned();
        return Err((line, reason, Subject::Unknown));
    };
    let Some(kind) = Kind::of(api_version, kind) else {
        let reason = format!("kind {kind} of {api_version} is not read");
        return Err((line, reason, Subject::Foreign));
    };
    let meta = |field: &str| value.get("metadata").and_then(|m| m.get(field)?.as_str());
    let subject = match admit::name(kind, meta("namespace"), meta("name")) {
        Ok(name) => Subject::Known(ObjectKey { kind, name }),
        Err(reason) => return Err((line, reason, Subject::Unknown)),
    };
    let read = match kind {
        Kind::Namespace => given.admit::<core::Namespace>(admit::namespace),
        Kind::Node => given.admit::<core::Node>(admit::node),
        Kind::ServiceAccount => given.admit::<core::ServiceAccount>(admit::service_account),
        Kind::Pod => given.admit::<core::Pod>(admit::pod),
        Kind::Service => given.admit::<core::Service>(admit::service),
        Kind::EndpointSlice => given.admit::<discovery::EndpointSlice>(admit::endpoint_slice),
        Kind::AuthorizationPolicy => given.admit(admit::authorization_policy),
        Kind::PeerAuthentication => given.admit(admit::peer_authentication),
        Kind::GatewayClass => given.admit(admit::gateway_class),
        Kind::Gateway => given.admit(admit::gateway),
        Kind::HTTPRoute => given.admit(admit::http_route),
        Kind::GRPCRoute => given.admit(admit::grpc_route),
        Kind::TLSRoute => given.admit(admit::tls_route),
        Kind::TCPRoute => given.admit(admit::tcp_route),
        Kind::ReferenceGrant => given.admit(admit::reference_grant),
    };
    read.map_err(|(line, reason)| (line, reason, subject))
}
