//! Comparison of the protocol core with the model, at each of its steps and at the end.

use std::sync::Arc;

use xks_proxy::job::{HsmAad, Job, Operation};
use xks_proxy::observe::metrics::labels::{CallLabel, OutcomeLabel};
use xks_proxy::proto::{Step, Wait};

use crate::answers::check_interim;
use crate::memory;
use crate::model::{Body, Expected, Waiting};
use crate::requests::{MARKER_BYTES, MASK};
use crate::settings::PREFIXES;
use crate::world::{SLOTS, World};

impl World {
    /// Carries out the core's steps as the server does, until the connection has to wait. Each must
    /// be the one that the model expects.
    pub fn drive(&mut self, slot: usize, mut expected: Expected, mut step: Step) {
        let mut answers = 0;
        loop {
            self.check_step(expected, &step);
            let written = self.state.out.len();
            self.state.clear_out();
            let peer = self.peers[slot].as_mut().expect("it is open");
            assert_eq!(peer.core.wait(), peer.model.wait(), "what the connection waits for");
            if peer.is_slow || peer.unsent > 0 {
                peer.unsent += written;
            }
            match step {
                Step::Receive => break,
                Step::Submit(job) => {
                    self.submit(slot, job);
                    break;
                }
                Step::Send if peer.unsent == 0 && answers == 0 => {
                    answers += 1;
                    expected = peer.model.sent(&mut self.shared);
                    step = peer.core.sent(&mut self.state, &self.shared.snapshot);
                }
                Step::Send => {
                    peer.is_again = peer.unsent == 0;
                    break;
                }
                Step::Close => return self.close(slot),
            }
        }
        self.check_peer(slot);
        self.set_timer(slot);
        self.check_counts();
    }

    fn check_step(&mut self, expected: Expected, step: &Step) {
        let out = &self.state.out;
        assert!(out.len() <= self.max_out, "an answer is larger than its limit");
        if self.options.is_traced {
            eprintln!("    {expected:?}, {} bytes", out.len());
        }
        match (expected, step) {
            (Expected::More { is_continue }, Step::Receive) => check_interim(out, is_continue),
            (Expected::Job, Step::Submit(_))
            | (Expected::Wait, Step::Receive)
            | (Expected::Unsent, Step::Send)
            | (Expected::Close, Step::Close) => check_interim(out, false),
            (Expected::Answer(answer), Step::Send) => {
                self.seen.answers += 1;
                self.seen.successes += u64::from(answer.body == Body::Result);
                self.results.check(out, &answer);
                self.results.clear();
            }
            (expected, step) => panic!("expected {expected:?}, and the core says {}", name(step)),
        }
    }

    fn check_peer(&mut self, slot: usize) {
        let Some(peer) = &mut self.peers[slot] else { return };
        assert_eq!(peer.core.wait(), peer.model.wait(), "what the connection waits for");
        assert_eq!(peer.core.is_proven(), peer.model.is_proven, "whether the peer is proven");
        assert_eq!(peer.core.holds_buffer(), peer.model.holds_bytes(), "whether bytes are left");
        let held = peer.core.buffer_bytes();
        assert!(held <= self.max_buffer, "a buffer is larger than its limit");
        assert!(held == 0 || peer.core.holds_buffer(), "an empty buffer is kept");
        self.held = self.held + held - peer.held;
        peer.held = held;
    }

    /// Gauges are what the model has counted.
    pub fn check_counts(&self) {
        assert_eq!(self.state.metrics.in_flight.get(), self.shared.in_flight, "in flight");
        assert_eq!(self.state.held_bytes(), self.held, "bytes in buffers");
    }

    fn submit(&mut self, slot: usize, mut job: Job) {
        let peer = self.peers[slot].as_mut().expect("it is open");
        self.seen.jobs += 1;
        let serial = job.reply_to.serial;
        assert!(serial > self.serial, "a serial number is used again");
        self.serial = serial;
        peer.model.submitted(serial);
        let waiting = peer.model.waiting().expect("a job is expected");
        assert_eq!(job.reply_to.event_loop, 0);
        assert_eq!(job.queued_at, self.shared.snapshot.now);
        assert_eq!(job.deadline, waiting.deadline, "the job's deadline");
        assert!(job.output.is_empty(), "an output buffer comes empty");
        assert_eq!(Arc::strong_count(&job.request), 2, "owners of a request");
        let key = &*self.service.labels()[job.request.key.0 as usize];
        assert_eq!(key, waiting.key.name(), "the job's key");
        check_request(&job, waiting);
        job.reply_to.slot = u32::try_from(slot).expect("few slots");
        match self.refusal.take() {
            Some(failure) => self.refused.push((job, failure)),
            None => self.hsm.submit(job),
        }
    }

    /// The end of the process: only peers that are late may still be connected.
    pub fn check_end(&mut self) {
        for slot in 0..SLOTS {
            let Some(peer) = &self.peers[slot] else { continue };
            let wait = peer.model.wait();
            assert!(!matches!(wait, Wait::Idle(_)), "an idle connection outlives the drain");
            assert!(self.end_of(wait) > self.now(), "a connection outlives its deadline");
            self.seen.cut_off += 1;
            self.close(slot);
        }
        self.hsm.release();
        while let Some(job) = self.hsm.take(0) {
            let done = self.hsm.work(job, 0);
            self.complete(done.completion, Some(done.number));
        }
        assert_eq!(self.shared.in_flight, 0);
        assert_eq!(self.held, 0);
        self.check_counts();
        self.check_quotas();
        self.check_metrics();
        if self.options.searches_memory {
            assert_eq!(memory::places(), 0, "places where a plaintext is left");
        }
    }

    /// Every place in the quotas is free again.
    fn check_quotas(&self) {
        for (store, prefix) in self.shared.settings.stores.iter().zip(PREFIXES) {
            let Some(max) = store.as_ref().and_then(|store| store.max_in_flight) else { continue };
            let quota = self.service.store(prefix).expect("the store").quota();
            let places: Vec<_> = (0..max).map(|_| quota.admit(self.now())).collect();
            assert!(places.iter().all(Result::is_ok), "a place in a quota was not given back");
            assert!(quota.admit(self.now()).is_err(), "a quota has too many places");
        }
        assert!(self.shared.quotas.iter().all(|count| *count == 0));
    }

    /// Each answer, and each encryption of a key that is still in use, was counted once.
    fn check_metrics(&self) {
        for (name, count) in &self.encryptions {
            let key = self.service.key_of(name).expect("keys keep their places");
            if let Some(counted) = self.service.key_metrics(key) {
                assert_eq!(counted.encrypts.get(), *count, "encryptions with {name}");
            }
        }
        let stores = PREFIXES.map(|prefix| self.metrics.store(prefix).counts());
        let [first, second] = stores;
        for (at, counts) in [first, second, self.metrics.storeless()].iter().enumerate() {
            for call in CallLabel::ALL {
                for outcome in OutcomeLabel::ALL {
                    let expected = self.shared.counts[at][call as usize][outcome as usize];
                    let counted = counts.of(call, outcome);
                    assert_eq!(counted, expected, "count of {call:?} {outcome:?}");
                }
            }
        }
    }
}

fn name(step: &Step) -> &'static str {
    match step {
        Step::Receive => "Receive",
        Step::Submit(_) => "Submit",
        Step::Send => "Send",
        Step::Close => "Close",
    }
}

/// A job asks for what the request on its connection asks for.
fn check_request(job: &Job, waiting: &Waiting) {
    let (request, call) = (&job.request, waiting.call);
    let (is_same, has_cdiv) = match &request.operation {
        Operation::Describe => (call.label == CallLabel::Metadata, false),
        Operation::Encrypt { cdiv } => (call.label == CallLabel::Encrypt, cdiv.is_some()),
        Operation::Decrypt { iv } => {
            (call.label == CallLabel::Decrypt && iv.as_slice() == call.iv, false)
        }
    };
    assert!(is_same && has_cdiv == call.has_cdiv, "the job's operation");
    let aad = match call.label {
        CallLabel::Metadata => HsmAad::default(),
        _ => {
            let aad = call.aad.as_ref().map(|(length, digest)| (*length, digest));
            HsmAad::new(aad, waiting.metadata.bytes())
        }
    };
    assert_eq!(request.aad, aad, "the job's additional authenticated data");
    let masked = if call.is_marked { MARKER_BYTES } else { 0 };
    assert_eq!(request.input.len(), call.input.len(), "the length of the job's input");
    let (marker, rest) = request.input.split_at(masked);
    let is_marker = marker.iter().zip(&call.input).all(|(byte, masked)| *byte == masked ^ MASK);
    assert!(is_marker && *rest == call.input[masked..], "the job's input");
}
