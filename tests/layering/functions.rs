//! The length of functions.

use proc_macro2::Span;
use syn::visit::{self, Visit};
use syn::{Block, ImplItem, Item, Signature, Visibility};

use crate::tree::{attributes_of, is_for_tests};

/// A function and its number of lines, from the signature to the closing brace.
#[derive(Debug, PartialEq, Eq)]
pub struct Length {
    pub name: String,
    pub lines: usize,
}

/// Returns all functions and methods in `text` except tests; a method's name includes its type.
pub fn lengths(text: &str) -> Vec<Length> {
    let file = syn::parse_file(text).expect("Rust");
    let mut lengths = Lengths::default();
    lengths.visit_file(&file);
    lengths.found
}

#[derive(Default)]
struct Lengths {
    found: Vec<Length>,
    /// The type whose methods are being visited.
    owner: Option<String>,
}

impl Lengths {
    fn add(&mut self, visibility: Option<&Visibility>, signature: &Signature, block: &Block) {
        let begin = match visibility {
            Some(Visibility::Public(public)) => public.span,
            Some(Visibility::Restricted(restricted)) => restricted.pub_token.span,
            _ => begin_of(signature),
        };
        let lines = block.brace_token.span.close().end().line + 1 - begin.start().line;
        let name = match &self.owner {
            Some(owner) => format!("{owner}::{}", signature.ident),
            None => signature.ident.to_string(),
        };
        self.found.push(Length { name, lines });
    }
}

fn begin_of(signature: &Signature) -> Span {
    let constness = signature.constness.as_ref().map(|token| token.span);
    let asyncness = signature.asyncness.as_ref().map(|token| token.span);
    constness.or(asyncness).unwrap_or(signature.fn_token.span)
}

impl Visit<'_> for Lengths {
    fn visit_item(&mut self, item: &Item) {
        if is_for_tests(attributes_of(item)) {
            return;
        }
        let owner = match item {
            Item::Impl(item) => match &*item.self_ty {
                syn::Type::Path(path) => path.path.segments.last().map(|it| it.ident.to_string()),
                _ => None,
            },
            Item::Trait(item) => Some(item.ident.to_string()),
            _ => None,
        };
        let outer = std::mem::replace(&mut self.owner, owner);
        visit::visit_item(self, item);
        self.owner = outer;
    }

    fn visit_impl_item(&mut self, item: &ImplItem) {
        let is_test = matches!(item, ImplItem::Fn(method) if is_for_tests(&method.attrs));
        if !is_test {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        self.add(Some(&item.vis), &item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        self.add(Some(&item.vis), &item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(None, &item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}
