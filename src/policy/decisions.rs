//! What a policy has decided, so that it need not decide it again.
//!
//! KMS calls with the same attributes again and again: a policy is evaluated at the first of these
//! calls, and found in a table at the others, which allocates nothing. The table has a fixed number
//! of slots, one for each hash; a newcomer takes its slot from whoever has it. The hash's key is
//! random, and the whole of the attributes is compared, so that no caller gets another's decision.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::{Attributes, Policy};
use crate::limits::{DECISION_SLOTS, MAX_REMEMBERED_ATTRIBUTES_BYTES};

/// One event loop's table.
#[derive(Debug, Default)]
pub struct Decisions {
    /// The policy that decided; those of another one don't count.
    policy: Option<Arc<Policy>>,
    slots: Vec<Slot>,
    hasher: RandomState,
    /// The attributes of the call at hand.
    key: Vec<u8>,
    /// For what is not remembered.
    last_reason: Box<str>,
}

/// Empty if `key` is: attributes never are.
#[derive(Clone, Debug, Default)]
struct Slot {
    key: Vec<u8>,
    is_allowed: bool,
    reason: Box<str>,
}

/// A decision, and whether it was remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided<'a> {
    /// Whether the call may be made.
    pub is_allowed: bool,
    /// Which policy or rule decided.
    pub reason: &'a str,
    /// The policy was not evaluated for it.
    pub was_remembered: bool,
}

impl Decisions {
    /// May the call be made, by `policy`? Another policy than the last time makes all be forgotten.
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

/// All that the decision depends on.
fn members<'a>(attributes: &Attributes<'a>) -> [Option<&'a str>; 8] {
    // Everything is named here, so that a new attribute can't be forgotten.
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

/// Bytes that [`write_key`] writes.
fn size(attributes: &Attributes<'_>) -> usize {
    1 + members(attributes).iter().map(|member| 4 + member.map_or(0, str::len)).sum::<usize>()
}

/// Two calls have the same key only if they have the same attributes: each is preceded by its
/// length, one that is absent by a length that no string has.
fn write_key(key: &mut Vec<u8>, attributes: &Attributes<'_>) {
    key.clear();
    key.push(attributes.action as u8);
    for member in members(attributes) {
        let length = member.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX));
        key.extend_from_slice(&length.to_le_bytes());
        key.extend_from_slice(member.unwrap_or_default().as_bytes());
    }
}
