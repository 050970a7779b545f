//! `mesh`, `hbone` and `translate` are pure: no sockets, files, clocks, threads or async crates.

use cargo_metadata::{DependencyKind, Metadata};
use syn::spanned::Spanned;
use syn::visit::Visit;

use super::{Fault, Source};

/// Crates whose `src/` must be pure.
const PURE: [&str; 3] = [
    "crates/mesh/src",
    "crates/hbone/src",
    "crates/translate/src",
];

/// Paths (joined by `::`) whose use, or the use of anything below them, is an act on the world.
const IMPURE: [&str; 26] = [
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::time::Instant",
    "std::time::SystemTime",
    // A module taken by name hides what is taken from it.
    "std::time::*",
    "std::net::*",
    "time::Instant",
    "time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "tokio",
    "tokio_uring",
    "futures",
    "socket2",
    "nix",
    "libc",
    "rand",
];

pub(super) fn check(source: &Source) -> Vec<Fault> {
    if !PURE.iter().any(|root| source.path.starts_with(root)) {
        return Vec::new();
    }
    let mut uses = Uses {
        source,
        faults: Vec::new(),
        in_test: false,
    };
    uses.visit_file(&source.syntax);
    uses.faults
}

struct Uses<'a> {
    source: &'a Source,
    faults: Vec<Fault>,
    in_test: bool,
}

impl Uses<'_> {
    fn path(&mut self, path: &str, line: usize) {
        let below = |impure: &str| {
            path.strip_prefix(impure)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        if let Some(impure) = IMPURE.iter().find(|impure| below(impure))
            && !self.in_test
        {
            let what = format!("`{impure}` in a crate that is pure: act at the edges");
            self.faults.push(self.source.fault(line, what));
        }
    }

    fn tree(&mut self, prefix: &str, tree: &syn::UseTree) {
        let join = |ident: &syn::Ident| {
            if prefix.is_empty() {
                ident.to_string()
            } else {
                format!("{prefix}::{ident}")
            }
        };
        match tree {
            syn::UseTree::Path(path) => self.tree(&join(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.path(&join(&name.ident), name.span().start().line),
            syn::UseTree::Rename(name) => self.path(&join(&name.ident), name.span().start().line),
            syn::UseTree::Glob(glob) => {
                self.path(&format!("{prefix}::*"), glob.span().start().line);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(prefix, tree);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Uses<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let before = self.in_test;
        self.in_test |= module.ident == "tests";
        syn::visit::visit_item_mod(self, module);
        self.in_test = before;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree("", &item.tree);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // The compiler knows what a macro's tokens mean, we only see them.
        let tokens: String = item.tokens.to_string().split_whitespace().collect();
        let line = item.span().start().line;
        for word in tokens.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            self.path(word, line);
        }
        syn::visit::visit_macro(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.path(&segments.join("::"), path.span().start().line);
        syn::visit::visit_path(self, path);
    }
}

/// What pure crates may depend on besides ours: crates without I/O, clock, thread or executor.
const PURE_DEPENDENCIES: [&str; 15] = [
    "aws-lc-rs",
    "bytes",
    "foldhash",
    "imbl",
    "ipnet",
    "k8s-openapi",
    "regex",
    "rustls",
    "rustls-webpki",
    "serde",
    "serde_json",
    "serde_norway",
    "slab",
    "thiserror",
    "x509-parser",
];

/// Dependencies of the pure crates that are not known to be pure.
pub(super) fn check_dependencies(metadata: &Metadata) -> Vec<Fault> {
    let mut faults = Vec::new();
    for package in metadata.workspace_packages() {
        let source = package.manifest_path.with_file_name("src");
        if !PURE.iter().any(|root| source.ends_with(root)) {
            continue;
        }
        let foreign = package.dependencies.iter().filter(|d| {
            d.path.is_none()
                && d.kind == DependencyKind::Normal
                && !PURE_DEPENDENCIES.contains(&d.name.as_str())
        });
        for dependency in foreign {
            let what = format!("{} is not known to be pure", dependency.name);
            faults.push(Fault {
                file: package.manifest_path.clone().into(),
                line: 0,
                what,
            });
        }
    }
    faults
}
