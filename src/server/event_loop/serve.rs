//! Serving the connections that wait, by shares of the loop's time.
//!
//! Usually, those that have waited longest come first. A list that is congested is served newest
//! first: if more requests arrive than can be answered, oldest first would answer each of them when
//! its caller has given up, while newest first answers as many in time as there is time for. Requests
//! that were passed over are refused, in turns the newest, which still has a caller, and the oldest,
//! whose caller must be patient; or they stay unread until their callers give up. Where tokens compute
//! in this process and lack CPU time for the jobs that they have, a congested loop leaves its time to
//! them instead of giving them more to do.

use std::time::{Duration, Instant};

use super::Running;
use crate::limits::{
    CONGESTED_SLEEP, HANDSHAKES_PER_OLDEST, LATE_PER_OLDEST, MAX_ACCEPTS_PER_TURN,
    MAX_CONGESTED_WAIT, MAX_EVENTS_PER_POLL, MAX_HANDSHAKES_PER_TURN, MAX_TURN,
};
use crate::server::peer::Peer;
use crate::server::shares::Work;
use crate::server::waiting::{Entry, List};

/// Work of a turn that is limited by number besides its time.
#[derive(Default)]
struct Done {
    accepts: usize,
    handshakes: usize,
}

impl Running {
    /// Serves until the turn's time is up or nobody waits.
    pub(super) fn serve_waiting(&mut self) {
        self.look_at_longest_waits();
        let lacks_cpu = self.is_congested() && self.context.hsm.lacks_cpu(MAX_CONGESTED_WAIT);
        let mut done = Done::default();
        let mut before = Instant::now();
        let until = before + MAX_TURN;
        while before < until {
            let (lists, rate_allows) = (&self.lists, self.handshake_wait().is_zero());
            let may_accept = done.accepts < MAX_ACCEPTS_PER_TURN && self.may_accept();
            let may_handshake = done.handshakes < MAX_HANDSHAKES_PER_TURN && rate_allows;
            let has_work = |work| match work {
                Work::Proven => !lists.proven.is_empty(),
                Work::Unproven => !lists.unproven.is_empty(),
                Work::Again => !lists.again.is_empty(),
                Work::Late => !lists.late.is_empty(),
                Work::GivenUp => !lists.given_up.is_empty(),
                Work::Handshakes => may_handshake && !lists.handshakes.is_empty(),
                Work::Accepts => may_accept,
            };
            let Some(work) = self.shares.next(has_work) else { break };
            let is_held_back = lacks_cpu
                && match work {
                    Work::Proven => self.congestion.is_congested(List::Proven),
                    Work::Unproven => self.congestion.is_congested(List::Unproven),
                    _ => false,
                };
            if is_held_back {
                self.submit();
                std::thread::sleep(CONGESTED_SLEEP);
            } else {
                self.do_work(work, &mut done);
            }
            let after = Instant::now();
            self.shares.charge(work, after.saturating_duration_since(before));
            before = after;
        }
        self.submit();
    }

    fn do_work(&mut self, work: Work, done: &mut Done) {
        match work {
            Work::Proven => self.serve_one(List::Proven),
            Work::Unproven => self.serve_one(List::Unproven),
            Work::Again => self.serve_one(List::Again),
            Work::Late => self.serve_one(List::Late),
            Work::GivenUp => self.end_given_up(),
            Work::Handshakes => {
                // What takes long comes after the jobs that have been collected.
                self.submit();
                done.handshakes += usize::from(self.advance_handshake());
            }
            Work::Accepts => {
                self.submit();
                self.accept(done.accepts == 0);
                done.accepts += 1;
            }
        }
    }

    /// Serves the next connection of a list.
    fn serve_one(&mut self, list: List) {
        let entry = if list == List::Late {
            let turn = self.late_served;
            self.late_served = turn.wrapping_add(1);
            self.lists.late.pop_in_turns(turn, LATE_PER_OLDEST)
        } else if self.congestion.is_congested(list) {
            self.lists.of(list).pop_newest()
        } else {
            self.lists.of(list).pop_oldest()
        };
        let Some(entry) = entry else { return };
        let Some(peer) = self.peer_of(entry) else { return };
        let own_list = peer.list();
        if let Some(since) = peer.ready_since.take() {
            // The time for which this loop has kept the peer waiting counts, and not the time that the
            // peer or the network took.
            let waited = self.context.snapshot.now.saturating_duration_since(since);
            self.context.snapshot.is_congested = self.congestion.is_congested(own_list)
                && waited >= self.context.loop_state.service.max_congested_wait();
            self.with_peer(entry.0, |peer, context| {
                context.ready_since = since;
                peer.resume(context)
            });
            self.context.snapshot.is_congested = false;
        }
    }

    /// Ends a connection whose peer has closed it, unless it has been served meanwhile.
    fn end_given_up(&mut self) {
        let Some(entry) = self.lists.given_up.pop_oldest() else { return };
        let Some(peer) = self.peer_of(entry) else { return };
        peer.is_given_up = false;
        if peer.has_given_up() {
            self.context.loop_state.metrics.given_up_unread.add(1);
            self.end(entry.0);
        }
    }

    fn is_congested(&self) -> bool {
        [List::Proven, List::Unproven].iter().any(|list| self.congestion.is_congested(*list))
    }

    /// Determines whether each list is congested, and moves requests that have waited too long to
    /// those that are refused.
    fn look_at_longest_waits(&mut self) {
        let now = self.context.snapshot.now;
        let max_wait = self.context.loop_state.service.max_wait_in_loop();
        let late = self.longest_wait(List::Late);
        for list in [List::Proven, List::Unproven] {
            let mut wait = self.longest_wait(list);
            if list == List::Unproven {
                wait = wait.max(self.longest_backlog());
            }
            // Late ones are from a list that is congested already.
            if self.congestion.is_congested(list) {
                wait = wait.max(late);
            }
            if self.congestion.note(list, wait >= max_wait, now) {
                self.move_late(list);
            }
        }
    }

    /// Time for which the connection that entered a list first has waited.
    fn longest_wait(&mut self, list: List) -> Duration {
        let now = self.context.snapshot.now;
        while let Some(entry) = self.lists.of(list).oldest() {
            if let Some(since) = self.peer_of(entry).and_then(|peer| peer.ready_since) {
                return now.saturating_duration_since(since);
            }
            // It has ended, or was served from another list.
            let _ = self.lists.of(list).pop_oldest();
        }
        Duration::ZERO
    }

    /// Moves connections to the list of those whose requests are refused. There are no more in a
    /// turn than events of the kernel, so that none stays behind for long.
    fn move_late(&mut self, list: List) {
        let limit = self.context.loop_state.service.max_congested_wait();
        for _ in 0..MAX_EVENTS_PER_POLL {
            if self.longest_wait(list) < limit {
                return;
            }
            let Some(entry) = self.lists.of(list).pop_oldest() else { return };
            self.push(List::Late, entry);
        }
    }

    /// The connection of a list entry, if it still exists.
    fn peer_of(&mut self, (slot, number): Entry) -> Option<&mut Peer> {
        self.peers.get_mut(slot).filter(|peer| peer.number() == number)
    }

    /// Does the expensive part of a TLS handshake, and returns whether one waited. Under overload
    /// the newest come first: KMS gives up after 250 ms, so behind a flood its handshake would come
    /// too late. One in [`HANDSHAKES_PER_OLDEST`] is the oldest, so that a patient peer is served
    /// eventually.
    fn advance_handshake(&mut self) -> bool {
        let entry = self.lists.handshakes.pop_in_turns(self.handshakes_done, HANDSHAKES_PER_OLDEST);
        let Some(entry) = entry else { return false };
        let waits =
            self.peer_of(entry).is_some_and(|peer| std::mem::take(&mut peer.awaits_handshake));
        if waits {
            self.handshakes_done = self.handshakes_done.wrapping_add(1);
            self.context.may_handshake = true;
            self.with_peer(entry.0, |peer, context| peer.resume(context));
            self.context.may_handshake = false;
        }
        waits
    }

    /// Time until the next handshake is allowed.
    pub(super) fn handshake_wait(&self) -> Duration {
        let rate = self.context.admission.handshakes.as_ref();
        rate.map_or(Duration::ZERO, |rate| rate.wait(self.context.snapshot.now))
    }
}
