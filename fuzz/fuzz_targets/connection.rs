//! The events of a connection in any order: bytes, time, completions, refusals, the end of the
//! input. Nothing panics, no connection is lost, and answers are well-formed.
//!
//! Each operation is a byte followed by its operands.
#![no_main]

#[path = "../answers.rs"]
mod answers;
#[allow(dead_code)]
#[path = "../../tests/proto/rig/mod.rs"]
mod rig;

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use xks_proxy::job::Failure;
use xks_proxy::proto::Wait;

fuzz_target!(|data: &[u8]| {
    let mut service = rig::service();
    service.options.is_sigv4_auth_enabled = data.len() % 2 == 0;
    let mut rig = rig::Rig::new(service);
    rig.hold_jobs = true;
    let (mut sent, mut answered) = (Vec::new(), Vec::new());
    let mut rest = data;
    while let [operation, operands @ ..] = rest {
        rest = operands;
        match operation % 9 {
            0 => {
                let [high, low, bytes @ ..] = rest else { break };
                let length = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
                rig.send(&bytes[..length]);
                sent.extend_from_slice(&bytes[..length]);
                rest = &bytes[length..];
            }
            1 => {
                let [tenths, following @ ..] = rest else { break };
                rig.pass(Duration::from_millis(u64::from(*tenths) * 100));
                rest = following;
            }
            2 if !rig.jobs.is_empty() => {
                rig.work();
            }
            3 => rig.end_input(),
            4 => rig.hold_answers = !rig.hold_answers,
            5 => rig.take_answer(),
            // Serving, draining, stopping, and serving again.
            6 => {
                rig.snapshot.is_stopping = rig.snapshot.is_draining && !rig.snapshot.is_stopping;
                rig.snapshot.is_draining = !rig.snapshot.is_draining || rig.snapshot.is_stopping;
            }
            7 => {
                let awaited = rig.jobs.pop_front();
                if let (Some(job), Some(connection)) = (awaited, &mut rig.connection) {
                    if connection.waits_for(job.reply_to.serial) {
                        let step = connection.reject(
                            &mut rig.loop_state,
                            &rig.snapshot,
                            Failure::Overloaded,
                        );
                        rig.drive(step);
                    }
                    rig.loop_state.recycle_job(job);
                }
            }
            8 => rig.snapshot.is_congested = !rig.snapshot.is_congested,
            _ => {}
        }
        answered.append(&mut rig.answers);
        assert!(rig.jobs.len() <= data.len(), "at most one job per request");
    }
    // After any events, a connection that receives nothing more stops waiting.
    rig.hold_answers = false;
    for _ in 0..4 {
        rig.take_answer();
        rig.pass(Duration::from_secs(100));
        answered.append(&mut rig.answers);
    }
    if let Some(connection) = &rig.connection {
        assert!(!matches!(connection.wait(), Wait::Head(_) | Wait::Body(_)), "a wait has no end");
    }
    answers::check(&answered, &sent);
});
