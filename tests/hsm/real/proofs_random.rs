//! Random runs: tokens with the same or different keys under one label come and go, calls fail, the
//! process restarts, and still only one of the keys ever encrypts under that label.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::caller::*;
use crate::interposed::*;
use crate::tokens::*;
use sha2::Sha256;
use xks_proxy::hsm::config::TokenSelector;
use xks_proxy::hsm::witness::{Witness, Witnesses};
use xks_proxy::job::{Completion, Failure, Iv, Operation, Success};

const KEY: u32 = 0;
const TOKENS: [&str; 3] = ["one", "two", "three"];
const VALUES: [[u8; 32]; 2] = [[0xaa; 32], [0xbb; 32]];
/// Environment variable with the seed of a run to repeat.
const SEED: &str = "XKS_PROXY_TEST_SEED";
const LIVES: u64 = 3;
const STEPS: u64 = 5;
const STEP: Duration = Duration::from_millis(300);
/// Number of requests submitted together.
const BATCH: usize = 4;
/// Pause between two batches.
const PAUSE: Duration = Duration::from_millis(3);
/// Codes of C_Decrypt that do not mean a bad ciphertext: with codes that may, enough of them in a
/// row are taken as a verdict.
const CODES_OF_DECRYPT: [&str; 4] =
    ["CKR_DEVICE_REMOVED", "CKR_SESSION_CLOSED", "CKR_DEVICE_MEMORY", "CKR_USER_NOT_LOGGED_IN"];

/// SplitMix64
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// A ciphertext returned by an encryption.
struct Sealed {
    value: [u8; 32],
    plaintext: Vec<u8>,
    sealed: (Iv, Vec<u8>),
}

enum Asked {
    Encrypt(Vec<u8>),
    /// Index of the [`Sealed`].
    Decrypt(usize),
}

struct Run {
    /// Generator of the plan, which depends on the seed alone.
    random: Random,
    traffic: Random,
    interposed: Interposed,
    slots: Vec<u64>,
    sealed: Vec<Sealed>,
    /// The value used for encryption throughout all lives that share witnesses.
    right: Option<[u8; 32]>,
    number: u32,
    /// Answers in this step, counted by kind.
    tally: BTreeMap<String, u32>,
}

/// One lifetime of the proxy process.
struct Life {
    caller: Caller,
    witnesses: Arc<Witnesses>,
    asked: HashMap<u64, Asked>,
}

impl Life {
    fn start(known: HashMap<Box<str>, Witness>) -> Self {
        let select = |label: &&str| TokenSelector::Label((*label).to_owned());
        let tokens = TOKENS.iter().map(|label| token(Interposed::module(), select(label), PIN, 2));
        let mut config = config(tokens.collect(), &LABELS);
        let witnesses = Arc::new(Witnesses::new(known, None));
        config.witnesses = Arc::clone(&witnesses);
        Self { caller: Caller::start(config), witnesses, asked: HashMap::new() }
    }

    fn has_settled(&self) -> bool {
        self.witnesses.settled().iter().any(|(label, _)| **label == *LABELS[KEY as usize])
    }

    /// Describes the state, for debugging a failure.
    fn describe(&self) -> String {
        let stats = self.caller.hsm.stats();
        let tokens = stats.iter().map(|it| {
            let (unproven, differing) = (it.keys_unproven, it.keys_disagreeing.len());
            format!("usable {}, unproven {unproven}, differing {differing}", it.is_usable)
        });
        let is_disputed = self.witnesses.is_disputed("key");
        format!(
            "settled {}, disputed {is_disputed}, {:?}",
            self.has_settled(),
            Vec::from_iter(tokens)
        )
    }

    /// Returns the settled witnesses by label.
    fn settled(&self) -> HashMap<Box<str>, Witness> {
        let settled = self.witnesses.settled().into_iter();
        settled.map(|(label, witness)| (label, (*witness).clone())).collect()
    }
}

impl Run {
    fn new(seed: u64, directory: &Path) -> Self {
        let mut random = Random(seed);
        let pkcs11 = initialize(&Interposed::module());
        // One token has a key that differs from that of the other two.
        let odd = random.of(&TOKENS);
        println!("the odd one is {odd}");
        for label in TOKENS {
            let slot = make_token(&pkcs11, label);
            let session = login(&pkcs11, slot);
            let value = VALUES[usize::from(label == odd)];
            add_key(&session, "other", &[1; 32], ENCRYPT | DECRYPT, true);
            add_key(&session, "key", &value, ENCRYPT | DECRYPT, true);
        }
        pkcs11.finalize().unwrap();
        // SoftHSM2 moves a new token to another slot when it is next initialised.
        let pkcs11 = initialize(&Interposed::module());
        let slots = TOKENS.map(|label| slot_of(&pkcs11, label).id()).to_vec();
        pkcs11.finalize().unwrap();
        let interposed = Interposed { directory: directory.to_owned(), step: 0 };
        Self {
            random,
            traffic: Random(!seed),
            interposed,
            slots,
            sealed: Vec::new(),
            right: None,
            number: 0,
            tally: BTreeMap::new(),
        }
    }

    /// Removes some tokens at random and makes calls on others fail.
    fn disturb(&mut self) {
        let random = &mut self.random;
        let mut faults = String::new();
        for (place, slot) in self.slots.iter().enumerate() {
            let fault = match random.below(8) {
                0..=3 => "remove_token = true".to_owned(),
                4 => format!(
                    "probability = 0.{}\nreturn = \"{}\"\nfunctions = [\"C_EncryptInit\", \
                     \"C_Encrypt\", \"C_DecryptInit\"]",
                    1 + random.below(9),
                    random.of(&CODES)
                ),
                5 => format!(
                    "probability = 0.{}\nreturn = \"{}\"\nfunctions = [\"C_Decrypt\"]",
                    1 + random.below(9),
                    random.of(&CODES_OF_DECRYPT)
                ),
                6 => format!(
                    "delay = \"{}ms\"\nfunctions = [\"C_Encrypt\", \"C_Decrypt\"]",
                    1 + random.below(40)
                ),
                _ => continue,
            };
            println!("  {}: {}", TOKENS[place], fault.replace('\n', ", "));
            faults += &format!("[[fault]]\nslot = {slot}\n{fault}\n");
        }
        let seed = random.below(1 << 32);
        self.interposed.set(&format!("seed = {seed}\n{faults}"));
    }

    fn count(&mut self, asked: &Asked, what: &str) {
        let asked = if matches!(asked, Asked::Encrypt(_)) { "encrypt" } else { "decrypt" };
        *self.tally.entry(format!("{asked} {what}")).or_default() += 1;
    }

    fn calm(&mut self) {
        self.interposed.set("");
    }

    /// Submits a batch of random requests and records their answers.
    fn ask(&mut self, life: &mut Life) {
        let mut jobs = Vec::new();
        for _ in 0..BATCH {
            let (request, asked) = if self.sealed.is_empty() || self.traffic.below(2) == 0 {
                self.number += 1;
                let plaintext = self.number.to_be_bytes().to_vec();
                let cdiv = (self.traffic.below(2) == 0).then(Sha256::default);
                let operation = Operation::Encrypt { cdiv };
                (request(KEY, operation, &plaintext), Asked::Encrypt(plaintext))
            } else {
                let place = self.traffic.below(self.sealed.len() as u64);
                let place = usize::try_from(place).unwrap();
                let (iv, sealed) = &self.sealed[place].sealed;
                let operation = Operation::Decrypt { iv: *iv };
                (request(KEY, operation, sealed), Asked::Decrypt(place))
            };
            let job = life.caller.job(request, 500);
            life.asked.insert(job.reply_to.serial, asked);
            jobs.push(job);
        }
        let mut refused = Vec::new();
        life.caller.hsm.submit(&mut jobs, &mut refused);
        for (job, failure) in &refused {
            let asked = life.asked.remove(&job.reply_to.serial).unwrap();
            self.take_in_failure(&asked, *failure);
        }
        // A request that expires is answered late or not at all.
        let count = BATCH - refused.len();
        for completion in life.caller.wait_for(count, Duration::from_millis(100)) {
            if let Some(asked) = life.asked.remove(&completion.reply_to.serial) {
                self.take_in(asked, completion);
            }
        }
        std::thread::sleep(PAUSE);
    }

    fn take_in(&mut self, asked: Asked, completion: Completion) {
        let mut output = completion.output.to_vec();
        if completion.outcome.is_ok() {
            self.count(&asked, "ok");
        }
        match (asked, completion.outcome) {
            (asked, Err(failure)) => self.take_in_failure(&asked, failure),
            (Asked::Encrypt(plaintext), Ok(Success::Encrypted { iv, tag, .. })) => {
                output.extend_from_slice(&tag);
                let sealed = (iv, output);
                let value = VALUES.into_iter().find(|value| opens_with(value, &sealed)).unwrap();
                let right = *self.right.get_or_insert(value);
                assert_eq!(value, right, "a second key has encrypted");
                self.sealed.push(Sealed { value, plaintext, sealed });
            }
            (Asked::Decrypt(place), Ok(Success::Decrypted)) => {
                assert_eq!(output, self.sealed[place].plaintext, "a wrong answer");
            }
            (_, Ok(success)) => panic!("{success:?}"),
        }
    }

    fn take_in_failure(&mut self, asked: &Asked, failure: Failure) {
        self.count(asked, &failure.to_string());
        if let Asked::Decrypt(place) = asked
            && failure == Failure::InvalidCiphertext
        {
            // A ciphertext from an earlier life may be rejected if all tokens with its key are
            // away.
            let value = self.sealed[*place].value;
            assert_ne!(Some(value), self.right, "a good ciphertext is said to be bad");
        }
    }

    /// Runs one life: faults, then quiet until the right key is known or the key is in dispute.
    fn live(&mut self, known: HashMap<Box<str>, Witness>) -> Life {
        self.disturb();
        let mut life = Life::start(known);
        for _ in 0..STEPS {
            let end = Instant::now() + STEP;
            while Instant::now() < end {
                self.ask(&mut life);
            }
            println!("    {:?}", std::mem::take(&mut self.tally));
            println!("    {}", life.describe());
            self.disturb();
        }
        self.calm();
        eventually("which key is right is known, or in dispute", || {
            self.ask(&mut life);
            let is_at_rest = life.caller.hsm.stats().iter().all(|token| token.is_usable);
            is_at_rest && (life.has_settled() || life.witnesses.is_disputed("key"))
        });
        let is_settled = life.has_settled();
        eventually("encryption does as it should", || {
            let said =
                life.caller.ask_any(request(KEY, Operation::Encrypt { cdiv: None }, b"at rest"));
            match said {
                Ok(_) => is_settled,
                Err(failure) => !is_settled && failure == Failure::KeysDiffer,
            }
        });
        println!("  settled: {is_settled}; {} ciphertexts", self.sealed.len());
        life
    }

    /// With all tokens present, everything that was encrypted can be decrypted.
    fn open_all(&self, life: &mut Life) {
        for Sealed { plaintext, sealed: (iv, sealed), .. } in &self.sealed {
            let operation = Operation::Decrypt { iv: *iv };
            let mut said = Err(Failure::NoToken);
            eventually("it is decrypted", || {
                said = life.caller.ask_any(request(KEY, operation.clone(), sealed));
                assert_ne!(said, Err(Failure::InvalidCiphertext));
                said.is_ok()
            });
            assert_eq!(said.unwrap(), (Success::Decrypted, plaintext.clone()));
        }
    }
}

/// Consecutive lives, each starting with the witnesses that the previous one settled.
#[test]
fn random_runs() {
    in_child!("random_runs", Interposed::environment, |directory| {
        let seed = match std::env::var(SEED) {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => RandomState::new().hash_one(0) >> 32,
        };
        println!("{SEED}={seed}");
        let mut run = Run::new(seed, directory);
        let mut known = HashMap::new();
        for number in 1..=LIVES {
            println!("life {number}");
            let mut life = run.live(known);
            known = life.settled();
            if !life.has_settled() {
                // The next life starts without knowledge of this one.
                run.right = None;
            }
            if number == LIVES {
                run.open_all(&mut life);
            }
            assert!(life.caller.hsm.stop(Duration::from_secs(5)));
        }
    });
}
