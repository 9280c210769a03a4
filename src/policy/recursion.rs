//! Detection of recursion, and of too deep nesting, among the rules of a Rego module.
//!
//! Rego forbids recursion. The interpreter detects it in rules when it evaluates them, but not in
//! functions, where it recurses until the stack overflows. This check compares names: a rule that
//! names another counts as using it.

use std::collections::HashMap;

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead};

use super::remark::Remark;
use crate::limits::MAX_POLICY_NESTING;

/// All definitions of one name.
#[derive(Default)]
struct Definitions<'m> {
    is_function: bool,
    line: u32,
    /// The text after each definition's head.
    bodies: Vec<&'m str>,
}

/// Returns the first mistake, if any.
pub(super) fn check(modules: &[Ref<Module>]) -> Option<Remark> {
    let mut by_name: HashMap<&str, Definitions<'_>> = HashMap::new();
    for rule in modules.iter().flat_map(|module| &module.policy) {
        let Rule::Spec { span, head, .. } = rule.as_ref() else { continue };
        let (refr, is_function) = match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } => (refr, false),
            RuleHead::Func { refr, .. } => (refr, true),
        };
        let name = first_word(refr);
        let definitions = by_name.entry(name).or_default();
        definitions.is_function |= is_function;
        definitions.line = span.line;
        let text = span.text();
        definitions.bodies.push(text.get(name.len()..).unwrap_or_default());
    }
    let mut walk = Walk { by_name: &by_name, depths: HashMap::new() };
    let mut names: Vec<&str> = by_name.keys().copied().collect();
    names.sort_unstable();
    names.into_iter().find_map(|name| walk.depth(name, 1).err())
}

struct Walk<'w, 'm> {
    by_name: &'w HashMap<&'m str, Definitions<'m>>,
    /// Depth of the rules below each name; `None` while it is being computed.
    depths: HashMap<&'m str, Option<usize>>,
}

impl<'m> Walk<'_, 'm> {
    fn depth(&mut self, name: &'m str, above: usize) -> Result<usize, Remark> {
        let Some(definitions) = self.by_name.get(name) else { return Ok(0) };
        let place = usize::try_from(definitions.line).ok().map(|line| (line, 1));
        match self.depths.get(name) {
            Some(Some(depth)) => return Ok(*depth),
            Some(None) if definitions.is_function => {
                let problem =
                    format!("the function {name} calls itself, directly or through others");
                return Err(Remark::mistake(place, problem, "Rego has no recursion"));
            }
            // If this is recursion, the evaluation detects it.
            Some(None) => return Ok(0),
            None => {}
        }
        let mut below = 0;
        self.depths.insert(name, None);
        for word in definitions.bodies.iter().flat_map(|body| words(body)) {
            if above <= MAX_POLICY_NESTING {
                below = below.max(self.depth(word, above + 1)?);
            }
        }
        let depth = below + 1;
        if depth > MAX_POLICY_NESTING || above > MAX_POLICY_NESTING {
            let problem = format!(
                "rules use one another more than {MAX_POLICY_NESTING} deep, beginning with {name}"
            );
            return Err(Remark::mistake(place, problem, "use fewer rules within one another"));
        }
        self.depths.insert(name, Some(depth));
        Ok(depth)
    }
}

fn first_word(refr: &Ref<Expr>) -> &str {
    words(refr.span().text()).next().unwrap_or_default()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric() && character != '_')
        .filter(|word| !word.is_empty())
}
