//! Clients that keep sending calls during an event such as a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::common::{Client, xks};

/// Concurrent clients, most on connections that they keep, one that opens a connection for each
/// call. Like KMS, they do not reuse a connection whose answer says `Connection: close`.
pub struct Load {
    is_over: Arc<AtomicBool>,
    answered: Vec<Arc<AtomicU64>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients.
    pub fn start(client: &Client, keeping: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut load = Self { is_over, answered: Vec::new(), clients: Vec::new() };
        for number in 0..=keeping {
            let answered = Arc::new(AtomicU64::new(0));
            let worker = Worker {
                client: client.clone(),
                keeps: number > 0,
                is_over: Arc::clone(&load.is_over),
                answered: Arc::clone(&answered),
            };
            load.answered.push(answered);
            load.clients.push(thread::spawn(move || worker.run(number)));
        }
        load
    }

    /// Waits until each client has received `count` more answers. Fails if a call has failed.
    #[track_caller]
    pub fn wait_for_answers(&self, count: u64) {
        let load = |answered: &Arc<AtomicU64>| answered.load(Ordering::Relaxed);
        let wanted: Vec<u64> = self.answered.iter().map(|it| load(it) + count).collect();
        while self.answered.iter().zip(&wanted).any(|(it, wanted)| load(it) < *wanted) {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client has failed");
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Stops the clients. Fails if a call has failed; returns the number of answers.
    #[track_caller]
    pub fn finish(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client has failed");
        }
        self.answered.iter().map(|answered| answered.load(Ordering::Relaxed)).sum()
    }
}

struct Worker {
    client: Client,
    keeps: bool,
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Worker {
    fn run(&self, number: usize) {
        let mut kept = None;
        let mut round = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            round += 1;
            let plaintext = format!("client {number}, round {round}");
            let encrypt = xks::encrypt(plaintext.as_bytes(), None);
            let mut call = |call: &str, body: &serde_json::Value| {
                let mut connection = kept.take().unwrap_or_else(|| self.client.connect());
                self.client.send(&mut connection, call, body.to_string().as_bytes());
                let answer = connection.receive().unwrap();
                if self.keeps && answer.header("connection") != Some("close") {
                    kept = Some(connection);
                }
                self.answered.fetch_add(1, Ordering::Relaxed);
                answer.ok()
            };
            let encrypted = call("keys/foo/encrypt", &encrypt);
            let decrypted = call("keys/foo/decrypt", &xks::decrypt(&encrypted, None));
            assert_eq!(xks::bytes(&decrypted["plaintext"]), plaintext.as_bytes());
        }
    }
}

/// Ends the clients of a test, whether it succeeds or not: their threads are joined.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
