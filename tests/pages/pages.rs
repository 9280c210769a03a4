//! The pages, and their Markdown.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Markdown file of the repository.
pub struct Page {
    /// Path relative to the root.
    pub path: PathBuf,
    pub text: String,
}

/// A line of a page outside of code blocks, or a block of code.
pub enum Part<'p> {
    Line(&'p str),
    Code { language: &'p str, text: String },
}

impl Page {
    pub fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).expect(path);
        Self { path: path.into(), text }
    }

    /// Splits the page at its fenced blocks of code. The lines of a block lose its indentation.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            let indent = line.len() - line.trim_start().len();
            let Some(language) = line.trim_start().strip_prefix("```") else {
                parts.push(Part::Line(line));
                continue;
            };
            let block = lines.by_ref().take_while(|line| line.trim() != "```");
            let text =
                block.map(|line| line.get(indent..).unwrap_or("").to_owned() + "\n").collect();
            parts.push(Part::Code { language, text });
        }
        parts
    }

    /// The anchors of its headings, as GitHub derives them.
    pub fn anchors(&self) -> Vec<String> {
        let headings = self.parts().into_iter().filter_map(|part| match part {
            Part::Line(line) if line.starts_with('#') => Some(line.trim_start_matches('#').trim()),
            _ => None,
        });
        headings.map(anchor).collect()
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// All pages of the repository.
pub fn all() -> Vec<Page> {
    let mut pages: Vec<Page> = files(&["md"])
        .into_iter()
        .map(|path| Page { text: fs::read_to_string(root().join(&path)).unwrap(), path })
        .collect();
    pages.sort_by(|one, other| one.path.cmp(&other.path));
    pages
}

/// Files with one of these extensions, relative to the root, without what builds and runs leave
/// behind.
pub fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                let is_source = !name.starts_with('.')
                    && !["target", "out", "corpus", "artifacts", "node_modules"].contains(&name);
                directories.extend(is_source.then_some(path));
            } else if path.extension().is_some_and(|it| extensions.iter().any(|one| it == *one)) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found
}
