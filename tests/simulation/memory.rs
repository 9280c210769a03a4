//! A search of this process's own memory for the marked text, which every plaintext contains.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use memchr::memmem::Finder;
use zeroize::Zeroize as _;

use crate::requests::{masked_needles, toggle};

/// Bytes that are read at a time.
const PART: usize = 1 << 20;

/// Number of places in writable memory where the marked text is, plain or in base64.
pub fn places() -> usize {
    let memory = File::open("/proc/self/mem").expect("this process's memory");
    let maps = fs::read_to_string("/proc/self/maps").expect("this process's mappings");
    let mut needles = masked_needles();
    needles.iter_mut().for_each(|needle| toggle(needle));
    let longest = needles.iter().map(Vec::len).max().unwrap_or_default();
    let mut part = vec![0; PART];
    // The needles themselves, and the copies that are made here.
    let address = |bytes: &[u8]| bytes.as_ptr() as u64;
    let own = address(&part)..address(&part) + PART as u64;
    let is_own = |at: u64| own.contains(&at) || needles.iter().any(|it| address(it) == at);
    let mut found = 0;
    for (mut at, end) in maps.lines().filter_map(writable) {
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(PART).min(PART);
            if memory.read_exact_at(&mut part[..length], at).is_err() {
                break;
            }
            for finder in needles.iter().map(Finder::new) {
                let places = finder.find_iter(&part[..length]);
                found += places.filter(|place| !is_own(at + *place as u64)).count();
            }
            // Parts overlap, since a place may be at the end of one.
            let step = if at + length as u64 == end { length } else { length - longest };
            at += step as u64;
        }
    }
    part.zeroize();
    needles.iter_mut().for_each(|needle| needle.zeroize());
    found
}

/// First and last address of a mapping that can be written.
fn writable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    fields.next()?.starts_with("rw").then_some((address(start)?, address(end)?))
}
