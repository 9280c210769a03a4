//! Witnesses: one ciphertext for each key, with which a token proves that it holds the same key.
//!
//! Two tokens that hold different keys under one label would each produce ciphertexts that the
//! other cannot decrypt, which would go unnoticed until one of them is gone. So the first token
//! that encrypts with a key makes a ciphertext of a fixed plaintext, the key's witness, and every
//! other token must decrypt it before it encrypts with its own key under that label.
//!
//! A new witness is provisional until every token in use has been tested with it; then it is
//! settled, and a token that disagrees later is excluded. If a token disagrees with a provisional
//! witness, it is unknown which of the two keys is right: the key is disputed until an operator
//! decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use super::backend::Identity;
use super::signal::Signal;
use super::token_set::TokenSet;
use crate::job::{Iv, TokenIndex};

/// The plaintext of every witness.
pub const WITNESS_PLAINTEXT: [u8; 32] = *b"the witness of an xks-proxy key\n";
/// The additional authenticated data of every witness. A request's begins with the two-byte length
/// of the caller's AAD and, unless that is zero, has at least 35 bytes (see
/// [`crate::job::HsmAad`]). So 19 bytes that do not begin with two zeros cannot be a request's.
pub const WITNESS_AAD: [u8; 19] = *b"xks-proxy witness 1";

/// A ciphertext of [`WITNESS_PLAINTEXT`] under [`WITNESS_AAD`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The IV: 12 or 16 bytes.
    pub iv: Iv,
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
    /// Serial number or label of the token that made the witness.
    pub made_by: String,
    /// Time at which the witness was made, in seconds since 1970.
    pub made_unix_secs: u64,
}

/// The consequence of a token's disagreement with a witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// The witness is settled: the token must not encrypt with the key.
    Excluded,
    /// The witness is provisional: it is unknown which key is right.
    Disputed {
        /// Serial number or label of the token that made the witness.
        maker: String,
    },
    /// The witness was removed or replaced; the token may make another one.
    Dropped,
}

/// A token of one of the fleets since the start: a reload may create another fleet while the former
/// one is still at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Number of the fleet: see [`Witnesses::begin_fleet`].
    pub fleet: u32,
    /// Index of the token in the fleet.
    pub index: TokenIndex,
}

struct Entry {
    witness: Arc<Witness>,
    /// Tokens that were tested with the witness, with any result.
    tried: TokenSet,
    /// Tokens that disagree with the witness.
    disagreeing: TokenSet,
    is_settled: bool,
}

impl Entry {
    fn settled(witness: Witness) -> Self {
        let witness = Arc::new(witness);
        Self { witness, tried: TokenSet::EMPTY, disagreeing: TokenSet::EMPTY, is_settled: true }
    }

    /// Returns whether the witness is provisional and no token disagrees with it.
    fn is_undecided(&self) -> bool {
        !self.is_settled && self.disagreeing.is_empty()
    }
}

/// The witnesses of all keys, by label.
pub struct Witnesses {
    entries: RwLock<HashMap<Box<str>, Entry>>,
    /// Incremented when a witness with which tokens were proven is replaced or disputed, which
    /// invalidates all proofs.
    era: AtomicU32,
    /// The fleet whose tokens decide about provisional witnesses.
    fleet: AtomicU32,
    unsettled: AtomicUsize,
    /// Number of witnesses settled since the start.
    revision: AtomicU32,
    is_changed: Signal,
    trusted: RwLock<Option<String>>,
}

impl Default for Witnesses {
    fn default() -> Self {
        Self::new(HashMap::new(), None)
    }
}

impl Witnesses {
    /// Creates the collection with the witnesses in `known`, which are settled. `trusted` is the
    /// label or serial number of the token that is right if tokens disagree and no witness is
    /// settled.
    #[must_use]
    pub fn new(known: HashMap<Box<str>, Witness>, trusted: Option<String>) -> Self {
        let entries = known.into_iter().map(|(label, witness)| (label, Entry::settled(witness)));
        Self {
            entries: RwLock::new(entries.collect()),
            era: AtomicU32::new(1),
            fleet: AtomicU32::new(0),
            unsettled: AtomicUsize::new(0),
            revision: AtomicU32::new(0),
            is_changed: Signal::default(),
            trusted: RwLock::new(trusted),
        }
    }

    /// Returns the current era, which is never 0. Proofs made in another era are invalid.
    #[must_use]
    pub fn era(&self) -> u32 {
        self.era.load(Ordering::Acquire)
    }

    /// Returns the number of witnesses settled since the start.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.revision.load(Ordering::Acquire)
    }

    /// Waits until the revision differs from `revision`, or until `end`. For a single thread.
    pub fn wait_for_change(&self, end: Instant, revision: u32) {
        if self.revision() == revision {
            self.is_changed.wait_until(end);
        }
    }

    /// Sets the trusted token, which decides all disputes.
    pub fn trust(&self, trusted: Option<String>) {
        if std::mem::replace(&mut *self.trusted.write(), trusted.clone()) != trusted {
            self.forget_unsettled();
        }
    }

    /// Starts a new fleet and returns its number. From now on, only its tokens decide about
    /// provisional witnesses. Existing provisional witnesses are removed.
    pub fn begin_fleet(&self) -> u32 {
        let fleet = self.fleet.fetch_add(1, Ordering::AcqRel) + 1;
        self.forget_unsettled();
        fleet
    }

    /// Returns to a former fleet, because the latest one does not replace it after all.
    pub fn resume_fleet(&self, fleet: u32) {
        self.fleet.store(fleet, Ordering::Release);
        self.forget_unsettled();
    }

    fn forget_unsettled(&self) {
        let mut entries = self.entries.write();
        entries.retain(|_, entry| entry.is_settled);
        self.unsettled.store(0, Ordering::Release);
        self.era.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns whether the token belongs to the fleet that decides about provisional witnesses.
    fn is_current(&self, member: Member) -> bool {
        member.fleet == self.fleet.load(Ordering::Acquire)
    }

    /// Returns whether the settings name a trusted token.
    #[must_use]
    pub fn has_trust(&self) -> bool {
        self.trusted.read().is_some()
    }

    /// Returns whether the settings trust this token.
    #[must_use]
    pub fn is_trusted(&self, token: &Identity) -> bool {
        let names = |trusted: &String| *trusted == token.id || *trusted == token.label;
        self.trusted.read().as_ref().is_some_and(names)
    }

    /// Returns the key's witness, if there is one.
    #[must_use]
    pub fn get(&self, label: &str) -> Option<Arc<Witness>> {
        self.entries.read().get(label).map(|entry| Arc::clone(&entry.witness))
    }

    /// Returns whether the key has a witness.
    #[must_use]
    pub fn has(&self, label: &str) -> bool {
        self.entries.read().contains_key(label)
    }

    /// Returns whether tokens disagree about the key and no witness is settled.
    #[must_use]
    pub fn is_disputed(&self, label: &str) -> bool {
        let entries = self.entries.read();
        entries.get(label).is_some_and(|entry| !entry.is_settled && !entry.disagreeing.is_empty())
    }

    /// Adds a witness made by a token. Returns false if the key already has one; the token must
    /// then be proven with that one.
    pub fn offer(
        &self,
        label: &str,
        witness: Witness,
        member: Member,
        identity: &Identity,
    ) -> bool {
        let mut entries = self.entries.write();
        if entries.contains_key(label) {
            return false;
        }
        let mut entry = Entry {
            witness: Arc::new(witness),
            tried: TokenSet::EMPTY,
            disagreeing: TokenSet::EMPTY,
            is_settled: false,
        };
        if self.is_current(member) {
            entry.tried.insert(member.index);
        }
        self.unsettled.fetch_add(1, Ordering::AcqRel);
        if self.is_trusted(identity) {
            self.settle_one(&mut entry);
        }
        entries.insert(label.into(), entry);
        true
    }

    /// Records that a token has decrypted the witness.
    pub fn agrees(&self, label: &str, member: Member) {
        if let Some(entry) = self.entries.write().get_mut(label)
            && self.is_current(member)
        {
            entry.tried.insert(member.index);
            entry.disagreeing.remove(member.index);
        }
    }

    /// Records that a token cannot be tested with the witness for now.
    pub fn unproven(&self, label: &str, member: Member) {
        if self.unsettled.load(Ordering::Acquire) > 0
            && let Some(entry) = self.entries.write().get_mut(label)
            && self.is_current(member)
        {
            entry.tried.insert(member.index);
        }
    }

    /// Records that a token does not hold the key with which `witness` was made.
    pub fn disagrees(
        &self,
        label: &str,
        witness: &Witness,
        member: Member,
        identity: &Identity,
    ) -> Disagreement {
        let mut entries = self.entries.write();
        let Some(entry) = entries.get_mut(label).filter(|entry| *entry.witness == *witness) else {
            // The witness has been removed or replaced.
            return Disagreement::Dropped;
        };
        // A token of a former fleet does not decide about a provisional witness.
        if entry.is_settled || !self.is_current(member) {
            return Disagreement::Excluded;
        }
        entry.tried.insert(member.index);
        if self.is_trusted(identity) {
            entries.remove(label);
            self.unsettled.fetch_sub(1, Ordering::AcqRel);
            self.era.fetch_add(1, Ordering::AcqRel);
            return Disagreement::Dropped;
        }
        if entry.disagreeing.is_empty() {
            // From now on, the token that made it must not encrypt with the key either.
            self.era.fetch_add(1, Ordering::AcqRel);
        }
        entry.disagreeing.insert(member.index);
        Disagreement::Disputed { maker: entry.witness.made_by.clone() }
    }

    /// Settles the witnesses with which no token disagrees, once all `usable` tokens of the fleet
    /// have been tested with them, except those that `cannot_tell` returns for the label.
    pub fn settle(&self, fleet: u32, usable: TokenSet, cannot_tell: &dyn Fn(&str) -> TokenSet) {
        let is_former = fleet != self.fleet.load(Ordering::Acquire);
        if is_former || self.unsettled.load(Ordering::Acquire) == 0 {
            return;
        }
        // `cannot_tell` may make tokens ask for witnesses, so no lock is held while it runs.
        let waiting: Vec<_> = {
            let entries = self.entries.read();
            let waiting = entries.iter().filter(|(_, entry)| entry.is_undecided());
            waiting.map(|(label, entry)| (label.clone(), usable.difference(entry.tried))).collect()
        };
        let waiting = waiting.into_iter().map(|(label, untried)| {
            let silent = match untried.is_empty() {
                true => TokenSet::EMPTY,
                false => untried.intersection(cannot_tell(&label)),
            };
            (silent, label)
        });
        let waiting: Vec<_> = waiting.collect();
        let mut entries = self.entries.write();
        for (silent, label) in waiting {
            if let Some(entry) = entries.get_mut(&label)
                && entry.is_undecided()
                && usable.difference(entry.tried).difference(silent).is_empty()
            {
                self.settle_one(entry);
            }
        }
    }

    fn settle_one(&self, entry: &mut Entry) {
        entry.is_settled = true;
        self.unsettled.fetch_sub(1, Ordering::AcqRel);
        self.revision.fetch_add(1, Ordering::AcqRel);
        self.is_changed.notify();
    }

    /// Adds settled witnesses from another source, replacing those that differ.
    pub fn adopt(&self, known: impl IntoIterator<Item = (Box<str>, Witness)>) {
        let mut entries = self.entries.write();
        for (label, witness) in known {
            match entries.get(&label) {
                Some(entry) if *entry.witness == witness && entry.is_settled => continue,
                Some(entry) => {
                    if !entry.is_settled {
                        self.unsettled.fetch_sub(1, Ordering::AcqRel);
                    }
                    if *entry.witness != witness {
                        self.era.fetch_add(1, Ordering::AcqRel);
                    }
                }
                None => {}
            }
            entries.insert(label, Entry::settled(witness));
        }
    }

    /// Returns the settled witnesses.
    #[must_use]
    pub fn settled(&self) -> Vec<(Box<str>, Arc<Witness>)> {
        let entries = self.entries.read();
        let settled = entries.iter().filter(|(_, entry)| entry.is_settled);
        settled.map(|(label, entry)| (label.clone(), Arc::clone(&entry.witness))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Member = Member { fleet: 0, index: TokenIndex(0) };
    const B: Member = Member { fleet: 0, index: TokenIndex(1) };
    const C: Member = Member { fleet: 0, index: TokenIndex(2) };

    fn witness(by: &str) -> Witness {
        let iv = Iv::from_slice(by.as_bytes()).unwrap_or_default();
        Witness { iv, ciphertext: vec![0; 48], made_by: by.to_owned(), made_unix_secs: 0 }
    }

    /// Returns the first tokens of the fleet.
    fn first(tokens: u16) -> TokenSet {
        (0..tokens).map(TokenIndex).collect()
    }

    fn named(name: &str) -> Identity {
        Identity { id: name.to_owned(), ..Identity::default() }
    }

    fn disagrees(witnesses: &Witnesses, member: Member, name: &str) -> Disagreement {
        let against = witnesses.get("key").map_or_else(|| witness("gone"), |it| (*it).clone());
        witnesses.disagrees("key", &against, member, &named(name))
    }

    /// A witness's AAD cannot be a request's.
    #[test]
    fn no_request_has_this_aad() {
        assert_eq!(WITNESS_AAD.len(), 19);
        assert_ne!(WITNESS_AAD[..2], [0, 0], "the length of an absent AAD");
        assert!(WITNESS_AAD.len() < 2 + 32 + 1, "the length with the digest of an AAD");
    }

    /// The first witness offered becomes the key's, and is settled once all tokens in use have been
    /// tested with it.
    #[test]
    fn counts_when_all_were_asked() {
        let witnesses = Witnesses::default();
        assert!(witnesses.offer("key", witness("a"), A, &named("a")));
        assert!(!witnesses.offer("key", witness("b"), B, &named("b")));
        witnesses.settle(0, first(2), &|_| TokenSet::EMPTY);
        assert!(witnesses.settled().is_empty(), "the other has not been tested yet");
        witnesses.unproven("key", B);
        witnesses.settle(0, first(2), &|_| TokenSet::EMPTY);
        assert_eq!((witnesses.settled().len(), witnesses.revision()), (1, 1));
        assert_eq!(disagrees(&witnesses, B, "b"), Disagreement::Excluded);
        assert!(!witnesses.is_disputed("key"));
    }

    /// Settling does not wait for a token that lacks the key.
    #[test]
    fn who_cannot_tell_is_not_waited_for() {
        let witnesses = Witnesses::default();
        witnesses.offer("key", witness("a"), A, &named("a"));
        witnesses.settle(0, first(3), &|_| TokenSet::of(B.index));
        assert!(witnesses.settled().is_empty(), "there is a third one");
        witnesses.agrees("key", C);
        witnesses.settle(0, first(3), &|label| {
            if label == "key" { TokenSet::of(B.index) } else { TokenSet::EMPTY }
        });
        assert_eq!(witnesses.settled().len(), 1);
    }

    /// A provisional witness stays disputed until the token that disagrees with it holds the same
    /// key.
    #[test]
    fn a_dispute_and_its_end() {
        let witnesses = Witnesses::default();
        witnesses.offer("key", witness("a"), A, &named("a"));
        let era = witnesses.era();
        let disputed = Disagreement::Disputed { maker: "a".to_owned() };
        assert_eq!(disagrees(&witnesses, B, "b"), disputed);
        assert!(witnesses.is_disputed("key") && witnesses.era() != era);
        witnesses.agrees("key", C);
        witnesses.settle(0, first(3), &|_| TokenSet::EMPTY);
        assert!(witnesses.is_disputed("key"), "a majority decides nothing");
        witnesses.agrees("key", B);
        witnesses.settle(0, first(3), &|_| TokenSet::EMPTY);
        assert!(!witnesses.is_disputed("key"));
        assert_eq!(witnesses.settled().len(), 1);
    }

    /// The trusted token is right, whichever token made the witness.
    #[test]
    fn trust_decides() {
        let witnesses = Witnesses::new(HashMap::new(), Some("a".to_owned()));
        witnesses.offer("key", witness("a"), A, &named("a"));
        assert_eq!(disagrees(&witnesses, B, "b"), Disagreement::Excluded);
        let witnesses = Witnesses::new(HashMap::new(), Some("b".to_owned()));
        witnesses.offer("key", witness("a"), A, &named("a"));
        let era = witnesses.era();
        assert_eq!(disagrees(&witnesses, B, "b"), Disagreement::Dropped);
        assert!(witnesses.get("key").is_none() && witnesses.era() != era);
        // The trusted token does not overrule a settled witness.
        let known = HashMap::from([("key".into(), witness("a"))]);
        let witnesses = Witnesses::new(known, Some("b".to_owned()));
        assert_eq!(disagrees(&witnesses, B, "b"), Disagreement::Excluded);
    }

    /// A token whose key changes while its witness is provisional has encrypted with both keys, and
    /// it is unknown which is right. Once the witness is removed, disagreement with it has no
    /// effect.
    #[test]
    fn a_maker_that_changed_its_mind() {
        let witnesses = Witnesses::default();
        witnesses.offer("key", witness("a"), A, &named("a"));
        let disputed = Disagreement::Disputed { maker: "a".to_owned() };
        assert_eq!(disagrees(&witnesses, A, "a"), disputed);
        assert!(witnesses.is_disputed("key"));
        witnesses.trust(Some("a".to_owned()));
        assert!(witnesses.offer("key", witness("a2"), A, &named("a")));
        let late = witnesses.disagrees("key", &witness("a"), B, &named("b"));
        assert_eq!(late, Disagreement::Dropped);
        assert!(!witnesses.is_disputed("key"));
    }

    /// Witnesses from another source replace existing ones.
    #[test]
    fn adopts_the_word_of_others() {
        let witnesses = Witnesses::default();
        witnesses.offer("key", witness("a"), A, &named("a"));
        let era = witnesses.era();
        witnesses.adopt([("key".into(), witness("b")), ("other".into(), witness("b"))]);
        assert_ne!(witnesses.era(), era);
        assert_eq!(witnesses.settled().len(), 2);
        let era = witnesses.era();
        witnesses.adopt([("key".into(), witness("b"))]);
        assert_eq!(witnesses.era(), era);
    }

    /// Tokens that a reload has replaced cannot dispute the witnesses of the new tokens.
    #[test]
    fn a_former_fleet_has_no_word() {
        let witnesses = Witnesses::default();
        witnesses.offer("key", witness("a"), A, &named("a"));
        disagrees(&witnesses, B, "b");
        assert!(witnesses.is_disputed("key"));
        let fleet = witnesses.begin_fleet();
        assert!(witnesses.get("key").is_none());
        let new = Member { fleet, index: TokenIndex(0) };
        assert!(witnesses.offer("key", witness("a"), new, &named("a")));
        assert_eq!(disagrees(&witnesses, B, "b"), Disagreement::Excluded);
        witnesses.settle(0, first(1), &|_| TokenSet::EMPTY);
        assert!(witnesses.settled().is_empty(), "a former fleet does not decide");
        witnesses.settle(fleet, first(1), &|_| TokenSet::EMPTY);
        assert_eq!(witnesses.settled().len(), 1);
    }
}
