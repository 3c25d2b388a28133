//! Rules that need the syntax tree: names, lengths and imports.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::LineColumn;
use syn::{
    Attribute, Block, Ident, ImplItemFn, Item, ItemFn, ItemMod, ItemUse, Signature, TraitItemFn,
    UseTree, Visibility,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::files;

const MAX_FUNCTION_LINES: usize = 70;

/// The parsed sources of a folder, by path.
fn sources(folder: &str) -> BTreeMap<String, syn::File> {
    files(folder)
        .into_iter()
        .filter(|(file, _)| file.ends_with(".rs"))
        .map(|(file, text)| {
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
            (file, parsed)
        })
        .collect()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_test = |list: &syn::MetaList| list.tokens.to_string() == "test";
        attribute.path().is_ident("cfg") && attribute.meta.require_list().is_ok_and(is_test)
    })
}

#[test]
fn functions_have_at_most_70_lines() {
    #[derive(Default)]
    struct Functions(Vec<(String, usize)>);
    impl Functions {
        fn add(&mut self, signature: &Signature, block: &Block) {
            let LineColumn { line: first, .. } = signature.span().start();
            let LineColumn { line: last, .. } = block.span().end();
            self.0.push((signature.ident.to_string(), last - first + 1));
        }
    }
    impl<'f> Visit<'f> for Functions {
        fn visit_item_fn(&mut self, function: &'f ItemFn) {
            self.add(&function.sig, &function.block);
            visit::visit_item_fn(self, function);
        }
        fn visit_impl_item_fn(&mut self, function: &'f ImplItemFn) {
            self.add(&function.sig, &function.block);
            visit::visit_impl_item_fn(self, function);
        }
        fn visit_trait_item_fn(&mut self, function: &'f TraitItemFn) {
            if let Some(block) = &function.default {
                self.add(&function.sig, block);
            }
        }
    }
    let mut long = Vec::new();
    for folder in ["src", "benches", "tests"] {
        for (file, parsed) in sources(folder) {
            let mut functions = Functions::default();
            functions.visit_file(&parsed);
            let too_long = functions.0.into_iter();
            let too_long = too_long.filter(|(_, lines)| *lines > MAX_FUNCTION_LINES);
            long.extend(too_long.map(|(name, lines)| format!("{file}: {name} has {lines} lines")));
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

fn type_name(item: &Item) -> Option<&Ident> {
    match item {
        Item::Struct(item) => Some(&item.ident),
        Item::Enum(item) => Some(&item.ident),
        Item::Trait(item) => Some(&item.ident),
        Item::Type(item) => Some(&item.ident),
        _ => None,
    }
}

/// One name, one meaning. Functions and constants are qualified by their module.
#[test]
fn no_two_types_have_one_name() {
    #[derive(Default)]
    struct Types(Vec<String>);
    impl<'f> Visit<'f> for Types {
        fn visit_item_mod(&mut self, module: &'f ItemMod) {
            if !is_for_tests(&module.attrs) {
                visit::visit_item_mod(self, module);
            }
        }
        fn visit_item(&mut self, item: &'f Item) {
            self.0.extend(type_name(item).map(Ident::to_string));
            visit::visit_item(self, item);
        }
    }
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, parsed) in sources("src") {
        if file.ends_with("tests.rs") {
            continue;
        }
        let mut types = Types::default();
        types.visit_file(&parsed);
        for name in types.0 {
            places.entry(name).or_default().push(file.clone());
        }
    }
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

/// The modules of the crate, by their paths below `crate`.
struct Modules {
    by_path: BTreeMap<Vec<String>, Module>,
}

struct Module {
    file: String,
    /// Every name that is defined here, and every child.
    names: BTreeSet<String>,
    /// Re-exports: the name, and the path of the definition.
    exports: BTreeMap<String, Vec<String>>,
    /// The paths that it uses.
    uses: Vec<Vec<String>>,
}

fn module_path(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut path: Vec<String> = path.split('/').map(str::to_owned).collect();
    if ["mod", "lib"].contains(&path.last().unwrap().as_str()) {
        path.pop();
    }
    path
}

/// The path below `crate` of a path in a module; `None` for another crate's.
fn absolute(
    module: &[String],
    children: &BTreeSet<String>,
    path: &[String],
) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => {
            let (_, parent) = module.split_last()?;
            let mut parent = parent.to_vec();
            let mut rest = rest;
            while let Some((first, more)) = rest.split_first()
                && first == "super"
            {
                parent.pop();
                rest = more;
            }
            Some([&parent, rest].concat())
        }
        child if children.contains(child) => Some([module, path].concat()),
        _ => None,
    }
}

fn leaves(tree: &UseTree, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
    match tree {
        UseTree::Path(path) => {
            let prefix = [prefix, &[path.ident.to_string()]].concat();
            leaves(&path.tree, &prefix, found);
        }
        UseTree::Name(name) if name.ident == "self" => {
            found.push((prefix.to_vec(), prefix.last().unwrap().clone()));
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            found.push(([prefix, std::slice::from_ref(&name)].concat(), name));
        }
        UseTree::Rename(rename) => {
            let path = [prefix, &[rename.ident.to_string()]].concat();
            found.push((path, rename.rename.to_string()));
        }
        UseTree::Glob(_) => found.push((prefix.to_vec(), "*".to_owned())),
        UseTree::Group(group) => {
            for tree in &group.items {
                leaves(tree, prefix, found);
            }
        }
    }
}

/// Collects a module's definitions, re-exports and uses.
struct ModuleReader<'r> {
    path: &'r [String],
    children: BTreeSet<String>,
    module: Module,
}

impl<'f> Visit<'f> for ModuleReader<'_> {
    fn visit_item_mod(&mut self, module: &'f ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'f ItemUse) {
        let mut found = Vec::new();
        leaves(&item.tree, &[], &mut found);
        for (path, name) in found {
            let Some(path) = absolute(self.path, &self.children, &path) else {
                continue;
            };
            if matches!(item.vis, Visibility::Inherited) {
                self.module.uses.push(path);
            } else {
                self.module.exports.insert(name, path);
            }
        }
    }

    fn visit_path(&mut self, path: &'f syn::Path) {
        let names = path.segments.iter();
        let names: Vec<String> = names.map(|it| it.ident.to_string()).collect();
        if names.len() > 1
            && let Some(path) = absolute(self.path, &self.children, &names)
        {
            self.module.uses.push(path);
        }
        visit::visit_path(self, path);
    }
}

impl Module {
    fn read(file: &str, path: &[String], parsed: &syn::File) -> Self {
        let children = parsed.items.iter().filter_map(|item| match item {
            Item::Mod(item) if !is_for_tests(&item.attrs) => Some(item.ident.to_string()),
            _ => None,
        });
        let names = parsed.items.iter().filter_map(|item| match item {
            Item::Const(item) => Some(&item.ident),
            Item::Fn(item) => Some(&item.sig.ident),
            Item::Static(item) => Some(&item.ident),
            item => type_name(item),
        });
        let module = Self {
            file: file.to_owned(),
            names: names.map(Ident::to_string).collect(),
            exports: BTreeMap::new(),
            uses: Vec::new(),
        };
        let children = children.collect();
        let mut reader = ModuleReader {
            path,
            children,
            module,
        };
        reader.visit_file(parsed);
        reader.module
    }
}

impl Modules {
    fn read() -> Self {
        let by_path = sources("src")
            .into_iter()
            .filter(|(file, _)| file != "src/main.rs" && !file.ends_with("tests.rs"))
            .map(|(file, parsed)| {
                let path = module_path(&file);
                let module = Module::read(&file, &path, &parsed);
                (path, module)
            })
            .collect();
        Self { by_path }
    }

    /// The file that defines a path.
    fn file(&self, path: &[String]) -> Option<&str> {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| self.by_path.contains_key(&path[..*depth]))?;
        let module = &self.by_path[&path[..depth]];
        let Some(name) = path.get(depth) else {
            return Some(&module.file);
        };
        match module.exports.get(name) {
            Some(export) if !module.names.contains(name) => self.file(export),
            _ => Some(&module.file),
        }
    }

    /// The files that each file uses.
    fn edges(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let edges = self.by_path.values().map(|module| {
            let used = module.uses.iter().filter_map(|path| self.file(path));
            let used = used.filter(|file| *file != module.file).collect();
            (module.file.as_str(), used)
        });
        edges.collect()
    }
}

fn reaches(edges: &BTreeMap<&str, BTreeSet<&str>>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        for used in &edges[file] {
            if reached.insert((*used).to_owned()) {
                next.push(used);
            }
        }
    }
    reached
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let modules = Modules::read();
    let edges = modules.edges();
    let reached: BTreeMap<&str, BTreeSet<String>> = edges
        .keys()
        .map(|file| (*file, reaches(&edges, file)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, theirs) in &reached {
        if theirs.contains(*file) {
            let circle = theirs
                .iter()
                .filter(|other| reached[other.as_str()].contains(*file));
            circles.insert(circle.cloned().collect::<Vec<_>>());
        }
    }
    // The reader has found what is there.
    assert!(edges["src/server/mod.rs"].contains("src/ledger/mod.rs"));
    assert!(circles.is_empty(), "{circles:#?}");
}
