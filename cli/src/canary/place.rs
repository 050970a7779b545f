//! Where in a directory of manifests the weights of a Service's backends stand.

use std::path::{Path, PathBuf};

use process::manifests::Directory;
use translate::document::MAX_FILE_BYTES;

use super::error::CanaryError;
use super::yaml::{Bytes, Node, documents};

/// Weight of a backend that says none (HTTPBackendRef.weight).
pub(super) const DEFAULT_WEIGHT: u32 = 1;

/// Which rule is meant.
#[derive(Clone, Debug)]
pub(super) struct Which<'a> {
    /// The parent of the route.
    pub(super) service: &'a str,
    /// Its namespace.
    pub(super) namespace: &'a str,
    /// Name of the route, when several have this parent.
    pub(super) route: Option<&'a str>,
    /// Name or number of the rule, when several fit.
    pub(super) rule: Option<&'a str>,
    /// Backends that it must have, as they were written.
    pub(super) backends: &'a [String],
}

/// A rule with several backends, in its file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The file.
    pub(super) file: PathBuf,
    /// Its text when it was read.
    pub(super) text: String,
    /// `HTTPRoute shop/web`.
    pub(super) route: String,
    /// `rule 0`, `rule 1 (stable)`.
    pub(super) rule: String,
    /// Its number, from 0.
    pub(super) number: usize,
    /// At least two.
    pub(super) backends: Vec<Backend>,
}

/// A backend of a rule, and where its weight is or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    /// Name of the Service.
    pub(super) name: String,
    /// Its namespace.
    pub(super) namespace: String,
    /// As it is now.
    pub(super) weight: u32,
    /// Where the number stands.
    pub(super) at: At,
}

/// Where a weight stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// There.
    Number(Bytes),
    /// It has none: it is written before this byte, where the second key of the backend begins.
    /// `Some`: on a line of its own that is indented like this.
    Before(usize, Option<String>),
}

/// What a directory has.
#[derive(Default)]
struct Found {
    /// Rules that fit.
    places: Vec<Place>,
    /// Routes of the Service.
    routes: Vec<String>,
    /// Rules of theirs with other backends, as a part of a sentence.
    others: Vec<String>,
    /// A file that may have more.
    unreadable: Option<String>,
    /// Another namespace that has a Service of this name with a route.
    elsewhere: Option<String>,
    has_service: bool,
}

impl Which<'_> {
    /// The rule in the directory.
    ///
    /// # Errors
    /// No route has it, several have, or what is there cannot be edited.
    pub(super) fn find(&self, directory: &Path) -> Result<Place, CanaryError> {
        let files = Directory::new(directory, MAX_FILE_BYTES).read_changed()?;
        let mut found = Found::default();
        for (name, text) in files.unwrap_or_default() {
            let file = directory.join(&name);
            let documents = text.and_then(|text| match documents(&text) {
                Ok(documents) => Ok((text, documents)),
                Err(error) => Err(error.to_string()),
            });
            let (text, documents) = match documents {
                Ok(read) => read,
                Err(reason) => {
                    let unreadable = format!("{}: {reason}", file.display());
                    found.unreadable.get_or_insert(unreadable);
                    continue;
                }
            };
            for object in documents.iter().flat_map(objects) {
                found.has_service |= self.is_service(object);
                let Some((kind, name, namespace)) = self.route_of(object) else {
                    continue;
                };
                if namespace != self.namespace {
                    found.elsewhere.get_or_insert(namespace.to_owned());
                    continue;
                }
                let route = format!("{kind} {namespace}/{name}");
                self.rules(object, &route, (&file, &text), &mut found)?;
                found.routes.push(route);
            }
        }
        found.routes.dedup();
        self.only(found)
    }

    fn is_service(&self, object: &Node) -> bool {
        let metadata = object.get("metadata");
        let text = |name: &str| metadata.and_then(|metadata| metadata.text_of(name));
        object.text_of("kind") == Some("Service")
            && text("name") == Some(self.service)
            && text("namespace").unwrap_or("default") == self.namespace
    }

    /// What to do when there is no route.
    fn hint(&self, found: &Found) -> String {
        let Which {
            service, namespace, ..
        } = self;
        match found {
            Found {
                elsewhere: Some(namespace),
                ..
            } => format!("one in namespace {namespace} has: `-n {namespace}`"),
            Found {
                unreadable: Some(file),
                ..
            } => format!("it may be in what cannot be read: {file}"),
            Found {
                has_service: false, ..
            } => format!("nor is there a Service {service} in namespace {namespace}"),
            Found { .. } => "`culvert canary set ... --create` writes one".to_owned(),
        }
    }

    fn only(&self, mut found: Found) -> Result<Place, CanaryError> {
        let service = format!("{}/{}", self.namespace, self.service);
        match (found.places.len(), &found.routes[..]) {
            (1, _) => Ok(found.places.remove(0)),
            (0, []) => Err(CanaryError::NoRoute {
                service,
                route: self.route.map(|name| format!(" of the name {name}")),
                hint: self.hint(&found),
            }),
            (0, routes) => Err(CanaryError::NoRule {
                service,
                routes: routes.join(", "),
                backends: self.backends.join(" and "),
                others: found.others.concat(),
            }),
            _ => Err(CanaryError::Several {
                service,
                rules: found
                    .places
                    .iter()
                    .map(|place| format!("{} {}", place.route, place.rule))
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// Kind, name and namespace when the object is a route of a Service of this name in the
    /// route's own namespace: a consumer's route in another one is another story, and its owner's.
    fn route_of<'o>(&self, object: &'o Node) -> Option<(&'o str, &'o str, &'o str)> {
        let kind = object.text_of("kind")?;
        let group = object.text_of("apiVersion")?.split('/').next();
        if !matches!(kind, "HTTPRoute" | "GRPCRoute") || group != Some("gateway.networking.k8s.io")
        {
            return None;
        }
        let metadata = object.get("metadata")?;
        let name = metadata.text_of("name")?;
        let namespace = metadata.text_of("namespace").unwrap_or("default");
        let is_parent = |parent: &Node| {
            parent.text_of("kind") == Some("Service")
                && parent.text_of("name") == Some(self.service)
                && parent.text_of("namespace").unwrap_or(namespace) == namespace
        };
        let parents = object.get("spec")?.items_of("parentRefs");
        let wanted = self.route.is_none_or(|wanted| wanted == name);
        (wanted && parents.iter().any(is_parent)).then_some((kind, name, namespace))
    }

    fn rules(
        &self,
        object: &Node,
        route: &str,
        (file, text): (&Path, &str),
        found: &mut Found,
    ) -> Result<(), CanaryError> {
        let rules = object.get("spec").map(|spec| spec.items_of("rules"));
        for (number, rule) in rules.unwrap_or_default().iter().enumerate() {
            let name = rule.text_of("name");
            let named = name.map(|name| format!(" ({name})")).unwrap_or_default();
            let label = format!("rule {number}{named}");
            let is_wanted = self
                .rule
                .is_none_or(|wanted| name == Some(wanted) || wanted == number.to_string());
            let backends = rule.items_of("backendRefs");
            if !is_wanted || backends.len() < 2 {
                continue;
            }
            let uneditable = |why: &str| CanaryError::Uneditable {
                rule: format!("{route} {label}"),
                file: file.to_owned(),
                why: why.to_owned(),
            };
            let backends = backends
                .iter()
                .map(|backend| Backend::read(backend, self.namespace, text).map_err(uneditable));
            let backends: Vec<Backend> = backends.collect::<Result<_, _>>()?;
            let has = |wanted: &String| backends.iter().any(|b| b.is(wanted, self.service));
            if !self.backends.iter().all(has) {
                let names: Vec<&str> = backends.iter().map(|b| b.name.as_str()).collect();
                found
                    .others
                    .push(format!("; {label} has {}", names.join(", ")));
            } else {
                found.places.push(Place {
                    file: file.to_owned(),
                    text: text.to_owned(),
                    route: route.to_owned(),
                    rule: label,
                    number,
                    backends,
                });
            }
        }
        Ok(())
    }
}

/// A document, or the items of a `List`.
fn objects(document: &Node) -> Vec<&Node> {
    match document.text_of("kind") {
        Some("List") => document.items_of("items").iter().collect(),
        _ => vec![document],
    }
}

impl Backend {
    fn read(node: &Node, namespace: &str, text: &str) -> Result<Self, &'static str> {
        let name = node.text_of("name").ok_or("a backend has no name")?;
        let (weight, at) = match node.get("weight") {
            Some(Node::Scalar {
                text,
                at,
                plain: true,
            }) => {
                let weight = text.parse().map_err(|_| "a weight is no number")?;
                (weight, At::Number(at.clone()))
            }
            Some(_) => return Err("a weight is no plain number"),
            None => (DEFAULT_WEIGHT, gap(node, text)?),
        };
        Ok(Self {
            name: name.to_owned(),
            namespace: node.text_of("namespace").unwrap_or(namespace).to_owned(),
            weight,
            at,
        })
    }

    /// Whether a person means this one: by its name, or by what follows the service's name.
    pub(super) fn is(&self, word: &str, service: &str) -> bool {
        let rest = self.name.strip_prefix(service);
        self.name == word || rest.and_then(|rest| rest.strip_prefix('-')) == Some(word)
    }
}

/// Where the weight of a backend without one is written: before its second key.
fn gap(node: &Node, text: &str) -> Result<At, &'static str> {
    let start = |node: &Node| match node {
        Node::Scalar { at, .. } => Some(at.start),
        _ => None,
    };
    let mut keys = node.entries().filter_map(|(key, _)| start(key));
    let (_, Some(second)) = (keys.next(), keys.next()) else {
        return Err("a backend has neither weight nor port");
    };
    let line = &text[..second];
    let before = &line[line.rfind('\n').map_or(0, |at| at + 1)..];
    let own_line = before.chars().all(|c| c == ' ');
    Ok(At::Before(second, own_line.then(|| before.to_owned())))
}
