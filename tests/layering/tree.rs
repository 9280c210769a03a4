//! The modules of a crate, and the file that defines what a path names.

use std::collections::{BTreeMap, HashMap, HashSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree};

use crate::sources::Source;

/// Index of a module in a tree.
pub type ModuleId = usize;

/// A path by its segments.
pub type Segments = Vec<String>;

/// Imports that lead to one another and no further.
const MAX_HOPS: usize = 16;

/// A file's module, or one written inside a file.
pub struct Module {
    /// Below `src/`.
    pub file: String,
    parent: Option<ModuleId>,
    children: HashMap<String, ModuleId>,
    /// From the name in this module to the path imported.
    imports: HashMap<String, Segments>,
    /// Modules all of whose names are imported.
    globs: Vec<Segments>,
    items: HashSet<String>,
    /// Paths that the code names, private imports included. A re-export alone uses nothing.
    pub used: Vec<Segments>,
}

/// All modules below `lib.rs` and `main.rs`, without tests.
pub struct Tree {
    pub modules: Vec<Module>,
    /// The root of the crate that `main.rs` names as a dependency.
    library: ModuleId,
    library_name: String,
}

/// Target of a path.
enum Found {
    Module(ModuleId),
    /// An item, by the module that defines it.
    Item(ModuleId),
}

impl Tree {
    /// Parses `lib.rs`, `main.rs` if there is one, and all modules that they declare.
    pub fn new(sources: &[Source], library_name: &str) -> Self {
        let texts = sources.iter().map(|source| (source.path.as_str(), source.text.as_str()));
        let texts: BTreeMap<&str, &str> = texts.collect();
        let mut tree = Self { modules: Vec::new(), library: 0, library_name: library_name.into() };
        tree.library = tree.add_file(&texts, "lib.rs", None);
        if texts.contains_key("main.rs") {
            tree.add_file(&texts, "main.rs", None);
        }
        tree
    }

    fn add_file(
        &mut self,
        texts: &BTreeMap<&str, &str>,
        path: &str,
        parent: Option<ModuleId>,
    ) -> ModuleId {
        let text = texts.get(path).unwrap_or_else(|| panic!("no file src/{path}"));
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("src/{path}: {error}"));
        self.add_module(texts, path, children_of(path), parent, &file.items)
    }

    fn add_module(
        &mut self,
        texts: &BTreeMap<&str, &str>,
        path: &str,
        directory: String,
        parent: Option<ModuleId>,
        items: &[Item],
    ) -> ModuleId {
        let mut reader = Reader::default();
        items.iter().for_each(|item| reader.visit_item(item));
        let id = self.modules.len();
        self.modules.push(Module {
            file: path.to_owned(),
            parent,
            children: HashMap::new(),
            imports: reader.imports,
            globs: reader.globs,
            items: items.iter().filter_map(name_of).collect(),
            used: reader.used,
        });
        for module in reader.modules {
            let name = module.ident.to_string();
            let child = match &module.content {
                Some((_, items)) => {
                    let directory = format!("{directory}{name}/");
                    self.add_module(texts, path, directory, Some(id), items)
                }
                None => {
                    let flat = format!("{directory}{name}.rs");
                    let nested = format!("{directory}{name}/mod.rs");
                    let child = if texts.contains_key(&*flat) { flat } else { nested };
                    self.add_file(texts, &child, Some(id))
                }
            };
            self.modules[id].children.insert(name, child);
        }
        id
    }

    /// The file that defines what `path`, written in module `from`, names; `None` for a module (the
    /// paths that go on from it count) and for what is not of this crate.
    pub fn defining_file(&self, from: ModuleId, path: &[String]) -> Option<&str> {
        match self.find(from, path, 0)? {
            Found::Module(_) => None,
            Found::Item(module) => Some(&self.modules[module].file),
        }
    }

    fn find(&self, from: ModuleId, path: &[String], hops: usize) -> Option<Found> {
        let (first, rest) = path.split_first()?;
        let mut module = match first.as_str() {
            "crate" => self.root(from),
            "self" => from,
            "super" => self.modules[from].parent?,
            name if name == self.library_name => self.library,
            name => match self.find_in(from, name, hops)? {
                Found::Module(module) => module,
                item => return Some(item),
            },
        };
        for segment in rest {
            module = match segment.as_str() {
                "super" => self.modules[module].parent?,
                "self" => module,
                // What a macro defines has no item of its name.
                name => match self.find_in(module, name, hops).unwrap_or(Found::Item(module)) {
                    Found::Module(module) => module,
                    item => return Some(item),
                },
            };
        }
        Some(Found::Module(module))
    }

    fn find_in(&self, id: ModuleId, name: &str, hops: usize) -> Option<Found> {
        let module = &self.modules[id];
        if let Some(child) = module.children.get(name) {
            return Some(Found::Module(*child));
        }
        if module.items.contains(name) {
            return Some(Found::Item(id));
        }
        if hops == MAX_HOPS {
            return None;
        }
        if let Some(path) = module.imports.get(name) {
            // An import may bear the name of the crate that it is from.
            return if path[0] == name { None } else { self.find(id, path, hops + 1) };
        }
        module.globs.iter().find_map(|glob| match self.find(id, glob, hops + 1)? {
            Found::Module(module) => self.find_in(module, name, hops + 1),
            Found::Item(_) => None,
        })
    }

    fn root(&self, mut module: ModuleId) -> ModuleId {
        while let Some(parent) = self.modules[module].parent {
            module = parent;
        }
        module
    }
}

/// The folder of the modules that the file at `path` declares.
fn children_of(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => folder,
        name => format!("{folder}{}/", name.trim_end_matches(".rs")),
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Returns whether the attributes restrict the code to tests.
pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let has_test = |tokens: TokenStream| {
                tokens.into_iter().any(|it| matches!(it, TokenTree::Ident(it) if it == "test"))
            };
            let mut tokens = list.tokens.clone().into_iter();
            match (tokens.next(), tokens.next()) {
                (Some(TokenTree::Ident(it)), None) => it == "test",
                (Some(TokenTree::Ident(it)), Some(TokenTree::Group(group))) => {
                    it == "all" && has_test(group.stream())
                }
                _ => false,
            }
        }
        _ => false,
    })
}

/// The attributes of an item that may be left to tests.
pub fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Reads one module's imports and paths; modules inside it are left to the caller.
#[derive(Default)]
struct Reader<'a> {
    imports: HashMap<String, Segments>,
    globs: Vec<Segments>,
    modules: Vec<&'a syn::ItemMod>,
    used: Vec<Segments>,
}

impl Reader<'_> {
    fn import(&mut self, before: &Segments, tree: &UseTree, is_reexport: bool) {
        let join = |name: &syn::Ident| {
            let mut path = before.clone();
            path.push(name.to_string());
            path
        };
        let (name, mut path) = match tree {
            UseTree::Path(it) => return self.import(&join(&it.ident), &it.tree, is_reexport),
            UseTree::Group(it) => {
                return it.items.iter().for_each(|tree| self.import(before, tree, is_reexport));
            }
            UseTree::Glob(_) => return self.globs.push(before.clone()),
            UseTree::Name(it) => (&it.ident, join(&it.ident)),
            UseTree::Rename(it) => (&it.rename, join(&it.ident)),
        };
        let mut name = name.to_string();
        if name == "self" {
            path.pop();
            name = path.last().expect("a module").clone();
        }
        if !is_reexport {
            self.used.push(path.clone());
        }
        self.imports.insert(name, path);
    }

    /// Paths in the arguments of a macro, which are not parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Segments::new();
        let mut colons = 0;
        for token in tokens {
            match &token {
                TokenTree::Punct(it) if it.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(it) if colons == 2 || path.is_empty() => path.push(it.to_string()),
                _ => {
                    self.used.extend((!path.is_empty()).then(|| std::mem::take(&mut path)));
                    match token {
                        TokenTree::Ident(it) => path.push(it.to_string()),
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        self.used.extend((!path.is_empty()).then_some(path));
    }
}

impl<'a> Visit<'a> for Reader<'a> {
    fn visit_item(&mut self, item: &'a Item) {
        if !is_for_tests(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        self.modules.push(module);
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let is_reexport = !matches!(item.vis, syn::Visibility::Inherited);
        self.import(&Segments::new(), &item.tree, is_reexport);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.used.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}
