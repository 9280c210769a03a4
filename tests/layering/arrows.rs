//! Imports between files: circles, and arrows from a lower floor to a higher one.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::Tree;

/// Names that one file imports from another, by importing file and imported file.
pub type Arrows = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

pub fn arrows(tree: &Tree) -> Arrows {
    let mut arrows = Arrows::new();
    for (id, module) in tree.modules.iter().enumerate() {
        for path in &module.used {
            let Some(file) = tree.defining_file(id, path).filter(|file| *file != module.file)
            else {
                continue;
            };
            let names = arrows.entry(module.file.clone()).or_default();
            names.entry(file.to_owned()).or_default().insert(path.join("::"));
        }
    }
    arrows
}

/// Returns the sets of files that import each other, directly or indirectly.
pub fn circles(arrows: &Arrows) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, _> =
        arrows.keys().map(|file| (file, reached_from(arrows, file))).collect();
    let mut circles = BTreeSet::new();
    for (file, reached_from_it) in &reached {
        let back = |other: &&String| reached.get(other).is_some_and(|set| set.contains(*file));
        let circle: BTreeSet<String> = reached_from_it.iter().filter(back).cloned().collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

fn reached_from(arrows: &Arrows, file: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![file];
    while let Some(file) = next.pop() {
        for target in arrows.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(target.clone()) {
                next.push(target);
            }
        }
    }
    reached
}

/// The arrows between the files of a circle, one per line.
pub fn ties(arrows: &Arrows, circle: &BTreeSet<String>) -> String {
    let mut lines = String::new();
    for from in circle {
        for (to, names) in arrows.get(from).into_iter().flatten() {
            if circle.contains(to) {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                lines.push_str(&format!("  {from} -> {to}: {}\n", names.join(", ")));
            }
        }
    }
    lines
}

/// The first component of a path below `src/`: a folder, or a file without its extension.
pub fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// Arrows from one folder to another on the same or a higher floor, and folders without a floor.
/// `floors` begins with the lowest.
pub fn upward(arrows: &Arrows, floors: &[&[&str]]) -> Vec<String> {
    let floor = |path: &str| floors.iter().position(|floor| floor.contains(&top(path)));
    let mut wrong = Vec::new();
    for (from, targets) in arrows {
        for (to, names) in targets.iter().filter(|(to, _)| top(from) != top(to)) {
            match (floor(from), floor(to)) {
                (Some(above), Some(below)) if above > below => {}
                (Some(_), Some(_)) => wrong.push(format!("{from} -> {to}: {names:?}")),
                (None, _) => wrong.push(format!("{from} has no floor")),
                (_, None) => wrong.push(format!("{to} has no floor")),
            }
        }
    }
    wrong
}
