//! Model checks of what event loops share: changes of the settings, and permits of connections.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::admission::Admission;
use super::changes::Changes;
use super::config::Config;
use super::lifecycle::Lifecycle;
use super::panic_tests::service;
use crate::hsm::models::rig::{LONG, Rig};
use crate::proto::Listener;
use crate::sync::check::check;
use crate::sync::thread;

/// Every loop adopts the last change, none goes back to an earlier one, and whoever waits for them
/// is woken.
#[test]
fn all_loops_adopt_a_change() {
    check(300, || {
        let config = Config::local();
        let admission = Arc::new(Admission::new(&config, 10));
        let lifecycle = Arc::new(Lifecycle::default());
        let changes = Arc::new(Changes::new(lifecycle, admission, 2));
        let event_loop = |index| {
            let changes = Arc::clone(&changes);
            thread::spawn(move || {
                let mut number = 0;
                while number < 2 {
                    if let Some(change) = changes.after(number) {
                        assert!(change.number > number);
                        number = change.number;
                        changes.adopted(index, number);
                    }
                    thread::yield_now();
                }
            })
        };
        let loops = [event_loop(0), event_loop(1)];
        let (service, hsm) = (Arc::new(service()), Arc::new(Rig::new(&[], 0).hsm));
        for _ in 0..2 {
            changes.put(Arc::clone(&service), Arc::clone(&hsm), &config);
            assert!(changes.wait(LONG));
        }
        loops.into_iter().for_each(|event_loop| event_loop.join().unwrap());
    });
}

/// There are never more connections than allowed, in all or of one address, also while the limits
/// are replaced; and each permit is given back.
#[test]
fn permits_are_kept() {
    const MAX: usize = 2;
    check(3000, || {
        let config = Config { max_connections_per_address: Some(1), ..Config::local() };
        let first = Arc::new(Admission::new(&config, MAX));
        let second = Arc::new(first.succeeded_by(&config, MAX));
        let (now, counted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let connection = |admission: &Arc<Admission>| {
            let (admission, now, counted) =
                (Arc::clone(admission), Arc::clone(&now), Arc::clone(&counted));
            thread::spawn(move || {
                let Some(mut permit) = admission.admit(Listener::Api) else { return };
                assert!(now.fetch_add(1, Ordering::Relaxed) < MAX);
                if permit.count(Ipv4Addr::LOCALHOST.into()) {
                    assert_eq!(counted.fetch_add(1, Ordering::Relaxed), 0);
                    thread::yield_now();
                    counted.fetch_sub(1, Ordering::Relaxed);
                }
                now.fetch_sub(1, Ordering::Relaxed);
            })
        };
        let connections = [&first, &second, &first].map(connection);
        connections.into_iter().for_each(|connection| connection.join().unwrap());
        let mut permits: Vec<_> = (0..MAX).filter_map(|_| first.admit(Listener::Api)).collect();
        assert_eq!(permits.len(), MAX);
        assert!(second.admit(Listener::Api).is_none());
        assert!(permits[0].count(Ipv4Addr::LOCALHOST.into()));
    });
}
