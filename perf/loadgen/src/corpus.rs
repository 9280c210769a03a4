//! Real ciphertexts, made by the proxy under test before the load begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ciphertext::Ciphertext;
use crate::client::Client;
use crate::request::{Operation, Requests, Sent, Sizes, Source};
use crate::target::Target;

/// Number of connections that encrypt at the same time.
const CONNECTIONS: usize = 8;
/// Time limit for all ciphertexts together: with a slow proxy, fewer are made.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Encrypts `count` plaintexts through the target, or as many as possible within [`TIMEOUT`].
///
/// # Errors
/// Description of the failure.
pub fn make(target: &Arc<Target>, sizes: Sizes, count: usize) -> Result<Vec<Ciphertext>, String> {
    let run_id = fastrand::u64(..);
    let deadline = Instant::now() + TIMEOUT;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS.min(count))
            .map(|thread| {
                let share = (count + CONNECTIONS - 1 - thread) / CONNECTIONS;
                scope.spawn(move || encrypt_some(target, sizes, run_id, thread, share, deadline))
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            all.append(&mut thread.join().map_err(|_| "a thread panicked".to_owned())??);
        }
        if all.is_empty() { Err("encrypting ahead took too long".to_owned()) } else { Ok(all) }
    })
}

fn encrypt_some(
    target: &Arc<Target>,
    sizes: Sizes,
    run_id: u64,
    thread: usize,
    count: usize,
    deadline: Instant,
) -> Result<Vec<Ciphertext>, String> {
    let mut client = Client::new(target);
    let mut requests = Requests::new(target, Source::none(), sizes, run_id, thread);
    let mut ciphertexts = Vec::with_capacity(count);
    let mut request = Vec::new();
    while ciphertexts.len() < count && Instant::now() < deadline {
        let sent: Sent = requests.build(Operation::Encrypt, &mut request);
        let (status, answer) = client
            .call(&request)
            .map_err(|error| format!("encrypting ahead through {}: {error}", target.address))?;
        match status {
            200 => {}
            // Busy, or not quite started.
            429 | 500 | 503 => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            status => {
                let answer = String::from_utf8_lossy(&answer);
                return Err(format!("encrypting ahead: {status} {answer}"));
            }
        }
        let (plaintext, aad) = (&request[sent.plaintext], &request[sent.aad]);
        ciphertexts.push(Ciphertext::from_answer(sent.key, plaintext, aad, &answer).ok_or_else(
            || format!("not an encrypt answer: {}", String::from_utf8_lossy(&answer)),
        )?);
    }
    Ok(ciphertexts)
}
