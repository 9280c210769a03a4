//! The names of keys that jobs may use: labels, or CKA_IDs (see [`crate::key_name`]).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::hsm::usage::{Counters, Usage};
use crate::job::KeyIndex;
use crate::key_name::{KeyName, name_of_id};

/// The names that jobs may use, shared by all tokens. Names are only ever added. Most are labels, so
/// they are called that here.
pub struct Labels {
    list: ArcSwap<LabelList>,
    /// True if a label that several keys share stands for the first of them.
    pub allow_ambiguous: bool,
    /// True if only private objects count as keys.
    pub require_private: bool,
    /// The key that health checks use.
    pub(super) health_key: Option<KeyIndex>,
    /// The keys that no store names.
    pub(super) storeless: Vec<KeyIndex>,
    usage: Counters,
}

/// A snapshot of the labels, with a map from labels to indices.
pub struct LabelList {
    labels: Vec<Box<str>>,
    indices: HashMap<Box<str>, usize>,
    has_ids: bool,
}

impl LabelList {
    fn new(labels: Vec<Box<str>>) -> Self {
        let indices = labels.iter().enumerate().map(|(index, label)| (label.clone(), index));
        let is_id = |label: &str| matches!(KeyName::parse(label), KeyName::CkaId(_));
        Self {
            indices: indices.collect(),
            has_ids: labels.iter().any(|label| is_id(label)),
            labels,
        }
    }

    /// Returns whether any key is named by its CKA_ID.
    #[must_use]
    pub fn has_ids(&self) -> bool {
        self.has_ids
    }

    /// Returns the places of the names of a key with this CKA_LABEL and CKA_ID: up to two.
    pub(super) fn places_of(
        &self,
        label: Option<&str>,
        id: Option<&[u8]>,
    ) -> impl Iterator<Item = usize> {
        // A label that looks like the name of a CKA_ID is not in the list as a label.
        let label = label.filter(|label| matches!(KeyName::parse(label), KeyName::Label(_)));
        let by_label = label.and_then(|label| self.indices.get(label));
        let id = id.filter(|_| self.has_ids);
        let by_id = id.and_then(|id| self.indices.get(name_of_id(id).as_str()));
        by_label.into_iter().chain(by_id).copied()
    }

    /// Returns all labels, in the order of [`KeyIndex`].
    #[must_use]
    pub fn all(&self) -> &[Box<str>] {
        &self.labels
    }

    /// Returns the index of a label.
    #[must_use]
    pub fn index_of(&self, label: &str) -> Option<KeyIndex> {
        self.indices.get(label).and_then(|index| u32::try_from(*index).ok()).map(KeyIndex)
    }

    /// Returns the label of an index.
    #[must_use]
    pub fn get(&self, key: KeyIndex) -> Option<&str> {
        self.labels.get(usize::try_from(key.0).ok()?).map(AsRef::as_ref)
    }
}

impl Labels {
    /// Creates the labels, given in the order of [`KeyIndex`].
    #[must_use]
    pub fn new(
        labels: Vec<Box<str>>,
        allow_ambiguous: bool,
        health_key: Option<KeyIndex>,
        storeless: Vec<KeyIndex>,
    ) -> Self {
        let usage = Counters::new(Arc::default(), &labels);
        let list = ArcSwap::from_pointee(LabelList::new(labels));
        Self { list, allow_ambiguous, require_private: false, health_key, storeless, usage }
    }

    /// Counts the uses of keys there.
    #[must_use]
    pub fn counted_in(self, usage: Arc<Usage>) -> Self {
        let usage = Counters::new(usage, self.now().all());
        Self { usage, ..self }
    }

    /// Returns the counters of the keys' uses.
    #[must_use]
    pub fn usage(&self) -> &Counters {
        &self.usage
    }

    /// Requires keys to be private objects if `require_private`.
    #[must_use]
    pub fn private_if(self, require_private: bool) -> Self {
        Self { require_private, ..self }
    }

    /// Returns the current labels.
    #[must_use]
    pub fn now(&self) -> Arc<LabelList> {
        self.list.load_full()
    }

    /// Appends new labels. `labels` must begin with the current labels, so that an index never
    /// refers to a different label.
    pub(super) fn extend_to(&self, labels: &[Box<str>]) {
        let known = self.now();
        debug_assert!(labels.starts_with(known.all()) || known.all().starts_with(labels));
        if labels.len() > known.all().len() {
            self.usage.extend_to(labels);
            self.list.store(Arc::new(LabelList::new(labels.to_vec())));
        }
    }
}
