//! The labels by which jobs name keys.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::job::KeyIndex;

/// The labels that jobs may name, shared by all tokens. They only ever become more.
pub struct Labels {
    list: ArcSwap<LabelList>,
    /// A label that fits several keys means the first of them.
    pub allow_ambiguous: bool,
    /// A key that is not a private object does not count.
    pub require_private: bool,
    /// The key that probes use.
    pub(super) health_key: Option<KeyIndex>,
    /// Keys that no store names.
    pub(super) storeless: Vec<KeyIndex>,
}

/// The labels as they are at one moment: by [`KeyIndex`], and the way back.
pub struct LabelList {
    labels: Vec<Box<str>>,
    pub(super) indices: HashMap<Box<str>, usize>,
}

impl LabelList {
    fn new(labels: Vec<Box<str>>) -> Self {
        let indices = labels.iter().enumerate().map(|(index, label)| (label.clone(), index));
        Self { indices: indices.collect(), labels }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Box<str>] {
        &self.labels
    }

    /// The index of that label.
    #[must_use]
    pub fn index_of(&self, label: &str) -> Option<KeyIndex> {
        self.indices.get(label).and_then(|index| u32::try_from(*index).ok()).map(KeyIndex)
    }

    /// That of the index.
    #[must_use]
    pub fn get(&self, key: KeyIndex) -> Option<&str> {
        self.labels.get(usize::try_from(key.0).ok()?).map(AsRef::as_ref)
    }
}

impl Labels {
    /// In the order of [`KeyIndex`].
    #[must_use]
    pub fn new(
        labels: Vec<Box<str>>,
        allow_ambiguous: bool,
        health_key: Option<KeyIndex>,
        storeless: Vec<KeyIndex>,
    ) -> Self {
        let list = ArcSwap::from_pointee(LabelList::new(labels));
        Self { list, allow_ambiguous, require_private: false, health_key, storeless }
    }

    /// Restricts the labels to private keys, if `require_private`.
    #[must_use]
    pub fn private_if(self, require_private: bool) -> Self {
        Self { require_private, ..self }
    }

    /// Those that there are now.
    #[must_use]
    pub fn now(&self) -> Arc<LabelList> {
        self.list.load_full()
    }

    /// Appends those of `labels` that are not there yet. The first ones are those that are, in
    /// the same order: an index never comes to mean another label.
    pub(super) fn extend_to(&self, labels: &[Box<str>]) {
        let known = self.now();
        debug_assert!(labels.starts_with(known.all()) || known.all().starts_with(labels));
        if labels.len() > known.all().len() {
            self.list.store(Arc::new(LabelList::new(labels.to_vec())));
        }
    }
}
