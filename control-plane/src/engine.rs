//! The one place where the mesh changes: manifests and reports come in, a publication goes out.
//! A task of its own takes changes from a bounded queue, all that wait at once, and translates
//! once for them.
//!
//! Knows no stream and no directory.

mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use process::manifests::Files;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use translate::object::Objects;
use translate::{Collection, Input, Options, PodReport, SourceError, Translator};

use crate::publication::{Made, Published};
use crate::state::StateDir;
use memory::Memory;

/// Changes that wait: one report of each of 1,000 nodes after a restart. More wait at the sender.
const QUEUE: usize = 1024;

/// Name in [`SourceError::file`] for what is wrong with the directory itself.
const DIRECTORY: &str = "(directory)";

/// Why culvertd serves nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing can be served.
    #[error(
        "the manifests directory has no object that can be served, and --allow-empty is not \
         given{0}"
    )]
    Empty(String),
}

enum Change {
    Files(Result<Files, String>),
    Report {
        node: Arc<str>,
        pods: Vec<PodReport>,
        done: oneshot::Sender<u64>,
    },
}

/// Where changes are brought to, and where their result is seen. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    changes: mpsc::Sender<Change>,
    published: watch::Receiver<Arc<Published>>,
}

impl EngineHandle {
    /// Brings all files of the directory, or why it cannot be read.
    pub async fn files(&self, files: Result<Files, String>) {
        // The engine ends only with the process.
        let _ = self.changes.send(Change::Files(files)).await;
    }

    /// Brings all pods of a node; answers with the revision in which they are published, None
    /// when the process is stopping.
    pub async fn report(&self, node: Arc<str>, pods: Vec<PodReport>) -> Option<u64> {
        let (done, revision) = oneshot::channel();
        self.changes
            .send(Change::Report { node, pods, done })
            .await
            .ok()?;
        revision.await.ok()
    }

    /// What is published.
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }

    /// What is published now.
    pub fn now(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }
}

/// How to begin.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Names of the mesh.
    pub options: Options,
    /// Whether a source without any object is meant to be so.
    pub allow_empty: bool,
    /// Where what must outlive the process is kept.
    pub state: StateDir,
}

/// The state of the mesh and what it came from.
pub struct Engine {
    setup: Setup,
    memory: Memory,
    collection: Collection,
    texts: BTreeMap<String, Arc<str>>,
    directory_error: Option<String>,
    objects: Arc<Objects>,
    errors: Vec<SourceError>,
    reports: Arc<BTreeMap<Arc<str>, Vec<PodReport>>>,
    vips: translate::Allocations,
    translator: Translator,
    /// Whether documents changed since they were written to the memory.
    is_unremembered: bool,
    published: watch::Sender<Arc<Published>>,
}

impl Engine {
    /// The engine with the first files read: what is served from the first moment.
    ///
    /// Documents that are bad now and were good before the last restart keep what was good.
    ///
    /// # Errors
    /// There is nothing to serve.
    pub fn load(setup: Setup, files: Files) -> Result<Self, LoadError> {
        let (memory, remembered) = Memory::open(setup.state.clone());
        let (published, _) = watch::channel(Arc::new(Published::default()));
        let mut engine = Self {
            setup,
            memory,
            collection: remembered.collection,
            texts: BTreeMap::new(),
            directory_error: None,
            objects: Arc::default(),
            errors: Vec::new(),
            reports: Arc::new(remembered.reports),
            vips: remembered.vips,
            translator: Translator::default(),
            is_unremembered: false,
            published,
        };
        engine.take_files(files);
        if engine.objects.is_empty() && !engine.setup.allow_empty {
            let reasons = engine.errors.iter().map(|error| format!("\n  {error}"));
            return Err(LoadError::Empty(reasons.collect()));
        }
        engine.publish();
        engine.remember();
        Ok(engine)
    }

    /// A handle, and the engine's task, which ends with `stop`.
    pub fn start(
        self,
        stop: CancellationToken,
    ) -> (EngineHandle, impl Future<Output = ()> + Send + 'static) {
        let (changes, queue) = mpsc::channel(QUEUE);
        let handle = EngineHandle {
            changes,
            published: self.published.subscribe(),
        };
        (handle, self.run(queue, stop))
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Change>, stop: CancellationToken) {
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => return,
                change = queue.recv() => change,
            };
            let Some(first) = first else { return };
            let mut changed = false;
            let mut waiting = Vec::new();
            let mut next = Some(first);
            while let Some(change) = next {
                changed |= self.take(change, &mut waiting);
                next = queue.try_recv().ok();
            }
            if changed {
                self.publish();
            }
            let revision = self.published.borrow().revision;
            for done in waiting {
                // Who asked may have gone.
                let _ = done.send(revision);
            }
            self.remember();
        }
    }

    /// Whether the change changes anything.
    fn take(&mut self, change: Change, waiting: &mut Vec<oneshot::Sender<u64>>) -> bool {
        match change {
            Change::Files(Ok(files)) => self.take_files(files),
            Change::Files(Err(reason)) => self.take_directory_error(Some(reason)),
            Change::Report {
                node,
                mut pods,
                done,
            } => {
                waiting.push(done);
                pods.sort();
                if self.reports.get(&node) == Some(&pods) {
                    return false;
                }
                Arc::make_mut(&mut self.reports).insert(node, pods);
                self.memory.keep_reports(&self.reports);
                true
            }
        }
    }

    fn take_directory_error(&mut self, error: Option<String>) -> bool {
        if self.directory_error == error {
            return false;
        }
        if let Some(reason) = &error {
            tracing::error!(%reason, "the last good manifests go on being served");
        }
        self.directory_error = error;
        true
    }

    fn take_files(&mut self, files: Files) -> bool {
        let mut next = self.collection.clone();
        let keep: BTreeSet<&str> = files.keys().map(String::as_str).collect();
        next.retain(&keep);
        for (name, text) in &files {
            match text {
                Ok(text)
                    if self
                        .texts
                        .get(name)
                        .is_some_and(|known| is_same(known, text)) => {}
                Ok(text) => next.load(name, text),
                Err(reason) => next.refuse(name, reason.clone()),
            }
        }
        let (objects, errors) = next.objects();
        if objects.is_empty() && !self.objects.is_empty() && !self.setup.allow_empty {
            // More likely a lost mount or a wrong copy than the wish to have no mesh.
            let reason = "the directory has no object any more, and --allow-empty is not given";
            return self.take_directory_error(Some(reason.to_owned()));
        }
        for error in errors.iter().filter(|error| !self.errors.contains(error)) {
            tracing::warn!(target: "source", "{error}");
        }
        let changed = objects != *self.objects || errors != self.errors;
        let recovered = self.take_directory_error(None);
        self.texts = files
            .into_iter()
            .filter_map(|(n, text)| Some((n, text.ok()?)))
            .collect();
        self.collection = next;
        self.errors = errors;
        if changed {
            self.objects = Arc::new(objects);
            self.is_unremembered = true;
            tracing::info!(
                objects = self.objects.len(),
                refused = self.errors.len(),
                "manifests read"
            );
        }
        changed || recovered
    }

    /// Writes down the documents if they changed. Behind the publication, since that must not wait
    /// for a disk; a process that ends between the two reads them from their directory again.
    fn remember(&mut self) {
        if std::mem::take(&mut self.is_unremembered) {
            self.memory.keep_documents(&self.collection);
        }
    }

    fn publish(&mut self) {
        let reports: Vec<PodReport> = self.reports.values().flatten().cloned().collect();
        let output = self.translator.translate(&Input {
            objects: &self.objects,
            reports: &reports,
            vips: &self.vips,
            options: &self.setup.options,
        });
        if output.vips != self.vips {
            self.vips = output.vips.clone();
            self.memory.keep_vips(&self.vips);
        }
        let mut errors = self.errors.clone();
        if let Some(reason) = &self.directory_error {
            let (file, reason) = (DIRECTORY.into(), reason.clone());
            errors.push(SourceError {
                file,
                line: 0,
                reason,
                last_good_kept: true,
            });
        }
        let made = Made {
            output,
            objects: self.objects.clone(),
            reports: self.reports.clone(),
            errors,
        };
        let next = Arc::new(self.published.borrow().next(made));
        tracing::debug!(
            revision = next.revision,
            addresses = next.addresses.len(),
            policies = next.policies.len(),
            "published"
        );
        self.published.send_replace(next);
    }
}

/// Whether two texts are equal; nearly always they are the very same, or were read anew.
fn is_same(one: &Arc<str>, other: &Arc<str>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}
