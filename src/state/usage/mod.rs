//! The durable count of each key's use.
//!
//! The number of encryptions under a key must never be below the truth without a mark, whatever
//! ends the process, and requests must never wait for a disk. So each process *reserves* numbers
//! ahead: its own file says, for each key, up to which number it may count before it writes again.
//! A process that ends in an orderly way writes exact numbers; after any other end, the whole
//! reservation counts as used. So a crash overstates a count, by at most the reservation.
//!
//! ```text
//!  key-usage                       the ledger: sums of all processes that have ended
//!  key-usage.1764444444-812-9f3a…  one process's own file, locked (flock) as long as it lives
//!  lock                            held while the ledger is changed and while files come and go
//! ```
//!
//! A process that holds the lock adds the files of processes that have ended to the ledger, and
//! then removes them. The ledger names those that it contains, so that a crash between the two
//! steps does not add a file twice. Processes that run beside each other, as during an upgrade,
//! each have a file; each adds the other's to its own numbers.
//!
//! # What can go wrong, and what then happens
//!
//! * *The process is killed.* The file holds the reservation, which covers what was used: a
//!   reservation is in force only once it is on the disk, in both of the file's copies. The keeper
//!   renews it every few seconds, and also once half of it is used; what remains lasts for minutes
//!   at the rate so far.
//! * *The machine crashes while the file is written.* One of the two copies is intact, as they are
//!   written one after the other. The older one will do, since the newer reservation was not in
//!   force before both were on the disk.
//! * *The disk is full.* The file is overwritten in place, in blocks that were written when it was
//!   created, so that it needs no room. A process that cannot create its file counts in memory.
//! * *The disk fails, or becomes read-only.* The process goes on counting in memory. From the first
//!   failed write on, metrics and alerts say so; once a key has used its reservation up, its count
//!   also shows as incomplete. If the disk recovers, the true numbers are written and nothing is
//!   lost. If instead the process is killed, nothing on that disk can tell the next process how far
//!   the count went. What it does know is when the file was last written: it is written at regular
//!   intervals even if no key is used. If more could have been used since than was reserved, at a
//!   rate several times the highest one observed, the count is marked as incomplete. An orderly
//!   process that was killed and is not started again for minutes is marked too: better a doubt too
//!   many than a shortfall that nobody knows of.
//! * *A file is damaged.* It is kept under another name. If it is a process's file, all counts are
//!   marked, since any key may have been in it; if it is the ledger, those whose lines are damaged.
//! * *There is no record of a key*, as in a new pod or after a change of the settings. Its count
//!   begins at 0 and is marked. An operator who knows the true number states it, which removes the
//!   mark: `xks-proxy keys usage --set`.
//!
//! The numbers of decryptions are not reserved: a crash loses those of the last few seconds.

pub mod books;
mod digest;
pub mod keeper;
pub mod ledger;
mod own_file;
pub mod process_file;
#[cfg(test)]
mod usage_tests;
