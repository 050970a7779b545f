//! Rules of a single file: head, length, functions, names, leftovers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use syn::spanned::Spanned;
use syn::visit::Visit;

use super::{Fault, MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_LINE, MAX_TYPE_PARAMETERS, Source};

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["mod", "util", "utils", "common", "helpers"];

/// The Rust files git knows or would add, relative to `root`.
pub(super) fn rust_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    anyhow::ensure!(
        output.status.success(),
        "git ls-files failed in {}",
        root.display()
    );
    let mut files: Vec<_> = String::from_utf8(output.stdout)?
        .lines()
        .map(PathBuf::from)
        .filter(|path| root.join(path).exists())
        .collect();
    files.sort();
    Ok(files)
}

pub(super) fn check(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    head(source, &mut faults);
    lines(source, &mut faults);
    name(source, &mut faults);
    let mut visitor = Functions {
        source,
        faults: &mut faults,
        in_test: source.is_test(),
    };
    visitor.visit_file(&source.syntax);
    faults
}

fn head(source: &Source, faults: &mut Vec<Fault>) {
    if !source.text.starts_with("//! ") {
        faults.push(source.fault(1, "open with `//!`: what it is and what it must not know"));
    }
}

fn lines(source: &Source, faults: &mut Vec<Fault>) {
    // Spelt in two parts so that this file does not find itself.
    let leftovers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    for (index, line) in source.text.lines().enumerate() {
        if line.chars().count() > MAX_LINE && !line.contains("://") {
            faults.push(source.fault(index + 1, format!("line over {MAX_LINE} characters")));
        }
        if leftovers.iter().any(|word| {
            line.split(|c: char| !c.is_alphanumeric())
                .any(|w| w == *word)
        }) {
            faults.push(source.fault(index + 1, "a leftover: do it, or file an issue"));
        }
    }
    let product = product_lines(source);
    if product > MAX_FILE_LINES && !source.is_test() {
        let what = format!("{product} product lines, at most {MAX_FILE_LINES}: cut at a noun");
        faults.push(source.fault(0, what));
    }
}

/// Lines before the first `#[cfg(test)]` module.
fn product_lines(source: &Source) -> usize {
    let tests = source.syntax.items.iter().find_map(|item| match item {
        syn::Item::Mod(module) if is_cfg_test(&module.attrs) => Some(module.span().start().line),
        _ => None,
    });
    tests.map_or_else(
        || source.text.lines().count(),
        |line| line.saturating_sub(1),
    )
}

fn is_cfg_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|ident| ident == "test")
    })
}

fn name(source: &Source, faults: &mut Vec<Fault>) {
    let stem = source
        .path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        faults.push(source.fault(0, format!("a module is named after its noun, not `{stem}`")));
    }
}

struct Functions<'a> {
    source: &'a Source,
    faults: &'a mut Vec<Fault>,
    in_test: bool,
}

impl Functions<'_> {
    fn function(&mut self, span: proc_macro2::Span, signature: &syn::Signature) {
        let (start, end) = (span.start().line, span.end().line);
        let lines = end - signature.span().start().line.max(start) + 1;
        if lines > MAX_FUNCTION_LINES && !self.in_test {
            let what = format!(
                "fn {} has {lines} lines, at most {MAX_FUNCTION_LINES}: cut at a seam with a name",
                signature.ident
            );
            self.faults.push(self.source.fault(start, what));
        }
        self.generics(&signature.generics, &signature.ident);
    }

    fn generics(&mut self, generics: &syn::Generics, ident: &syn::Ident) {
        let count = generics.type_params().count();
        if count > MAX_TYPE_PARAMETERS {
            let what =
                format!("{ident} has {count} type parameters, at most {MAX_TYPE_PARAMETERS}");
            self.faults
                .push(self.source.fault(ident.span().start().line, what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let before = self.in_test;
        self.in_test |= is_cfg_test(&module.attrs);
        syn::visit::visit_item_mod(self, module);
        self.in_test = before;
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(function.span(), &function.sig);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(function.span(), &function.sig);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.generics(&item.generics, &item.ident);
        syn::visit::visit_item_struct(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let line = attribute.span().start().line;
        if attribute.path().is_ident("ignore") {
            self.faults.push(
                self.source
                    .fault(line, "a test is run or removed, never ignored"),
            );
        }
    }

    fn visit_expr(&mut self, expression: &'ast syn::Expr) {
        if let syn::Expr::Unsafe(block) = expression
            && !self.source.path.starts_with("crates/netio")
        {
            let line = block.span().start().line;
            self.faults
                .push(self.source.fault(line, "unsafe lives in crates/netio only"));
        }
        syn::visit::visit_expr(self, expression);
    }
}
