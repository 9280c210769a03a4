//! An HSM in memory: AES-256-GCM by an independent implementation, with the contract of `job`.

use std::collections::HashMap;

use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{AesGcm, KeyInit as _, aes::Aes256};
use sha2::{Digest as _, Sha256};
use xks_proxy::job::{Completion, Failure, Iv, Job, KeyAttributes, Operation, Success, TokenIndex};
use xks_proxy::proto::ServiceConfig;

/// Keys by label, and a record of the jobs so far.
pub struct MemoryHsm {
    labels: Vec<String>,
    keys: HashMap<String, [u8; 32]>,
    /// Attributes reported for every key.
    pub attributes: KeyAttributes,
    /// Attributes of single keys, by label.
    pub attributes_of: HashMap<String, KeyAttributes>,
    /// Number from which the next encryption's IV is made.
    next_iv: u64,
    /// Answer to every job, if set.
    pub failure: Option<Failure>,
    /// The AAD of the last job, as given to C_Encrypt or C_Decrypt.
    pub last_aad: Vec<u8>,
    /// Length of generated IVs in bytes: 12 or 16.
    pub iv_bytes: usize,
    /// Number of jobs done.
    pub jobs: usize,
}

impl MemoryHsm {
    /// Makes an HSM with every key of the service except those whose id begins with "not-in".
    pub fn new(service: &ServiceConfig) -> Self {
        let labels: Vec<String> = service.labels().iter().map(|label| label.to_string()).collect();
        let keys = labels
            .iter()
            .filter(|label| !label.starts_with("not-in"))
            .map(|label| (label.clone(), Sha256::digest(label).into()))
            .collect();
        let attributes =
            KeyAttributes { bits: 256, wrap: true, unwrap: true, ..KeyAttributes::UNREPORTED };
        Self {
            labels,
            keys,
            attributes,
            attributes_of: HashMap::new(),
            next_iv: 1,
            failure: None,
            last_aad: Vec::new(),
            iv_bytes: 12,
            jobs: 0,
        }
    }

    /// Does a job.
    pub fn work(&mut self, mut job: Job) -> Completion {
        self.jobs += 1;
        self.last_aad = job.request.aad.as_slice().to_vec();
        let outcome = match self.failure {
            Some(failure) => Err(failure),
            None => self.run(&mut job),
        };
        Completion {
            reply_to: job.reply_to,
            outcome,
            output: job.output,
            token: Some(TokenIndex(0)),
            queue_micros: 3,
            hsm_micros: 25,
        }
    }

    fn run(&mut self, job: &mut Job) -> Result<Success, Failure> {
        let request = &job.request;
        let label = &self.labels[request.key.0 as usize];
        let key = *self.keys.get(label).ok_or(Failure::KeyNotFound)?;
        let aad = request.aad.as_slice();
        assert!(job.output.is_empty(), "an output buffer comes empty");
        match &request.operation {
            Operation::Describe => {
                let attributes = self.attributes_of.get(label).copied();
                Ok(Success::Described(attributes.unwrap_or(self.attributes)))
            }
            Operation::Encrypt { cdiv } => {
                let mut iv = vec![0; self.iv_bytes];
                iv[..8].copy_from_slice(&self.next_iv.to_be_bytes());
                self.next_iv += 1;
                let sealed = seal(&key, &iv, aad, &request.input);
                let (ciphertext, tag) = sealed.split_at(sealed.len() - 16);
                let cdiv = cdiv.as_ref().map(|hash| {
                    let hash = hash.clone().chain_update(&iv).chain_update(ciphertext);
                    hash.chain_update(tag).finalize().into()
                });
                assert_eq!(open(&key, &iv, aad, &sealed).as_deref(), Some(&request.input[..]));
                job.output.extend_from_slice(ciphertext);
                Ok(Success::Encrypted {
                    iv: Iv::from_slice(&iv).expect("12 or 16 bytes"),
                    tag: tag.try_into().expect("16 bytes"),
                    cdiv,
                })
            }
            Operation::Decrypt { iv } => {
                let plaintext = open(&key, iv.as_slice(), aad, &request.input)
                    .ok_or(Failure::InvalidCiphertext)?;
                job.output.extend_from_slice(&plaintext);
                Ok(Success::Decrypted)
            }
        }
    }
}

/// Returns ciphertext and tag.
pub fn seal(key: &[u8; 32], iv: &[u8], aad: &[u8], msg: &[u8]) -> Vec<u8> {
    let payload = Payload { msg, aad };
    let sealed = match <[u8; 12]>::try_from(iv) {
        Ok(iv) => AesGcm::<Aes256, U12>::new(key.into()).encrypt(&iv.into(), payload),
        Err(_) => {
            let iv: [u8; 16] = iv.try_into().expect("12 or 16 bytes");
            AesGcm::<Aes256, U16>::new(key.into()).encrypt(&iv.into(), payload)
        }
    };
    sealed.expect("AES-GCM encrypts")
}

/// Returns the plaintext, if the tag matches the ciphertext.
pub fn open(key: &[u8; 32], iv: &[u8], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
    let payload = Payload { msg, aad };
    match <[u8; 12]>::try_from(iv) {
        Ok(iv) => AesGcm::<Aes256, U12>::new(key.into()).decrypt(&iv.into(), payload).ok(),
        Err(_) => {
            let iv: [u8; 16] = iv.try_into().ok()?;
            AesGcm::<Aes256, U16>::new(key.into()).decrypt(&iv.into(), payload).ok()
        }
    }
}
