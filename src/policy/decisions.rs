//! A cache of a policy's decisions.
//!
//! KMS repeats calls with the same attributes: the first of them evaluates the policy, and the
//! others find the decision in a table without allocating. The table has a fixed number of slots,
//! chosen by hash; a new decision replaces the one in its slot. The hash's key is random and all
//! attributes are compared, so that no call gets another's decision.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::{Attributes, Policy};
use crate::limits::{DECISION_SLOTS, MAX_REMEMBERED_ATTRIBUTES_BYTES};

/// The cache of one event loop.
#[derive(Debug, Default)]
pub struct Decisions {
    /// The policy that made these decisions.
    policy: Option<Arc<Policy>>,
    slots: Vec<Slot>,
    hasher: RandomState,
    /// The attributes of the current call.
    key: Vec<u8>,
    /// Reason for the latest decision that is not in the table.
    last_reason: Box<str>,
}

/// A slot; empty if its key is empty, which attributes never are.
#[derive(Clone, Debug, Default)]
struct Slot {
    key: Vec<u8>,
    is_allowed: bool,
    reason: Box<str>,
}

/// A decision, and whether it was remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided<'a> {
    /// True if the call is permitted.
    pub is_allowed: bool,
    /// The policy or rule that decided.
    pub reason: &'a str,
    /// True if the decision comes from the cache.
    pub was_remembered: bool,
}

impl Decisions {
    /// Decides whether `policy` permits the call. A policy other than that of the previous call
    /// empties the cache.
    pub fn decide(&mut self, policy: &Arc<Policy>, attributes: &Attributes<'_>) -> Decided<'_> {
        if !self.policy.as_ref().is_some_and(|known| Arc::ptr_eq(known, policy)) {
            self.begin(policy);
        }
        let key_bytes = size(attributes);
        if policy.names_request_id() || key_bytes > MAX_REMEMBERED_ATTRIBUTES_BYTES {
            return self.evaluate(policy, attributes);
        }
        write_key(&mut self.key, attributes);
        debug_assert_eq!(self.key.len(), key_bytes);
        let hash = self.hasher.hash_one(&self.key);
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
        let index = (hash % DECISION_SLOTS as u64) as usize;
        match self.slots.get(index) {
            Some(slot) if slot.key == self.key => {}
            Some(_) => return self.evaluate_into(index, policy, attributes),
            None => return self.evaluate(policy, attributes),
        }
        let slot = &self.slots[index];
        Decided { is_allowed: slot.is_allowed, reason: &slot.reason, was_remembered: true }
    }

    fn begin(&mut self, policy: &Arc<Policy>) {
        self.policy = Some(Arc::clone(policy));
        self.slots.clear();
        self.slots.resize(DECISION_SLOTS, Slot::default());
        self.key.reserve(MAX_REMEMBERED_ATTRIBUTES_BYTES);
    }

    fn evaluate(&mut self, policy: &Policy, attributes: &Attributes<'_>) -> Decided<'_> {
        let decision = policy.decide(attributes);
        self.last_reason = decision.reason;
        let is_allowed = decision.is_allowed;
        Decided { is_allowed, reason: &self.last_reason, was_remembered: false }
    }

    fn evaluate_into(
        &mut self,
        index: usize,
        policy: &Policy,
        attributes: &Attributes<'_>,
    ) -> Decided<'_> {
        let decision = policy.decide(attributes);
        let is_allowed = decision.is_allowed;
        self.last_reason = decision.reason;
        if decision.is_lasting
            && let Some(slot) = self.slots.get_mut(index)
        {
            slot.key.clear();
            slot.key.extend_from_slice(&self.key);
            slot.is_allowed = is_allowed;
            slot.reason.clone_from(&self.last_reason);
        }
        Decided { is_allowed, reason: &self.last_reason, was_remembered: false }
    }
}

/// Returns everything on which the decision depends, except the action.
fn members<'a>(attributes: &Attributes<'a>) -> [Option<&'a str>; 8] {
    // The pattern names each attribute, so that a new one cannot be forgotten.
    let Attributes {
        action: _,
        store,
        external_key_id,
        aws_principal_arn,
        kms_operation,
        kms_request_id: _,
        kms_key_arn,
        kms_via_service,
        aws_source_vpc,
        aws_source_vpce,
    } = *attributes;
    [
        Some(store),
        Some(external_key_id),
        Some(aws_principal_arn),
        Some(kms_operation),
        kms_key_arn,
        kms_via_service,
        aws_source_vpc,
        aws_source_vpce,
    ]
}

/// Returns the number of bytes that [`write_key`] writes.
fn size(attributes: &Attributes<'_>) -> usize {
    1 + members(attributes).iter().map(|member| 4 + member.map_or(0, str::len)).sum::<usize>()
}

/// Writes the call's key. Only calls with the same attributes have the same key: each attribute is
/// preceded by its length, and a missing one has a length that no string has.
fn write_key(key: &mut Vec<u8>, attributes: &Attributes<'_>) {
    key.clear();
    key.push(attributes.action as u8);
    for member in members(attributes) {
        let length = member.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX));
        key.extend_from_slice(&length.to_le_bytes());
        key.extend_from_slice(member.unwrap_or_default().as_bytes());
    }
}
