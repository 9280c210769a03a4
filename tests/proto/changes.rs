//! Settings that change under a connection, in each of its states.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use xks_proxy::proto::ServiceConfig;

use crate::calls::{call, encrypt, metadata};
use crate::rig::{
    ACCESS_KEY_ID, KEY, PREFIX, Rig, SECRET, options, service, service_of, store, stores,
};

fn encrypt_call(length: usize) -> Vec<u8> {
    call(&format!("keys/{KEY}/encrypt"), &encrypt(&vec![7; length], Some(b"aad")))
}

/// The usual service with limits for large requests.
fn large() -> ServiceConfig {
    let mut service = service();
    service.options.max_plaintext_in_base64 = 200_000;
    service
}

/// Wherever in a request the limits change, up or down, it is read to its end and answered, and so
/// is the next one on the same connection.
#[test]
fn limits_change_within_a_request() {
    let request = encrypt_call(100_000);
    for cut in [1, 100, 600, 1000, 3000, 5000, 20_000, 100_000, request.len() - 1] {
        let mut rig = Rig::new(large());
        rig.send(&request[..cut]);
        rig.loop_state.adopt(Arc::new(service()));
        rig.send(&request[cut..]);
        let responses = rig.responses();
        // Judged by the new limits: too large a value or, if the head was not yet complete, too
        // large a body.
        let expected = if cut < 1000 { [413, 501] } else { [501, 501] };
        assert!(responses.len() == 1 && expected.contains(&responses[0].status), "{cut}");
        if responses[0].status == 501 {
            rig.send(&encrypt_call(100));
            assert_eq!(rig.responses()[0].status, 200, "{cut}");
        }
        assert_eq!(rig.loop_state.held_bytes(), 0);

        let mut rig = Rig::new(service());
        let head = cut.min(200);
        rig.send(&request[..head]);
        rig.loop_state.adopt(Arc::new(large()));
        rig.send(&request[head..]);
        rig.send(&request);
        let statuses: Vec<u16> = rig.responses().iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 200], "{head}");
    }
}

/// A job at the HSM keeps its deadline and its answer is sent, even if its store has been removed
/// or disabled since.
#[test]
fn a_request_at_the_hsm_is_finished() {
    let gone = ServiceConfig::new(options(), Vec::new(), Some(&service()), None);
    let mut stores = stores();
    stores[0].is_disabled = true;
    let disabled = service_of(stores);
    let mut hurried = service();
    hurried.options.timeouts.request = Duration::from_millis(1);
    for change in [gone, disabled, hurried] {
        let mut rig = Rig::usual();
        rig.hold_jobs = true;
        rig.send(&encrypt_call(100));
        rig.loop_state.adopt(Arc::new(change));
        rig.pass(Duration::from_millis(179));
        assert!(rig.work());
        let responses = rig.responses();
        assert!(responses[0].status == 200 && !responses[0].closes());
    }
    let mut patient = service();
    patient.options.timeouts.request = Duration::from_secs(60);
    let mut rig = Rig::usual();
    rig.hold_jobs = true;
    rig.send(&encrypt_call(100));
    rig.loop_state.adopt(Arc::new(patient));
    rig.pass(Duration::from_millis(180));
    assert_eq!(rig.responses()[0].error(), (503, "DependencyTimeoutException".to_owned()));
}

/// A key id maps to the same key on the HSM side, even if stores are added, removed or reordered.
#[test]
fn indices_stay() {
    let first = service();
    let only = store(PREFIX, &[(ACCESS_KEY_ID, SECRET)], &["a-new-one", "key-3", KEY]);
    let second = ServiceConfig::new(options(), vec![only], Some(&first), None);
    assert!(second.labels().starts_with(first.labels()));
    assert_eq!(second.labels().len(), first.labels().len() + 1);
    let index = |service: &ServiceConfig, prefix, key| {
        service.store(prefix)?.key(key).map(|it| it.encrypts.key)
    };
    assert_eq!(index(&second, PREFIX, KEY), index(&first, PREFIX, KEY));
    assert_eq!(index(&second, PREFIX, "key-3"), index(&first, "/example/store-2", "key-3"));
    assert_eq!(index(&second, PREFIX, "key-2"), None);
}

/// The kill switch for one key: the other key works, and metadata and the store's health are
/// reported.
#[test]
fn one_disabled_key() {
    let mut stores = stores();
    stores[0].disabled_key_ids = vec![KEY.to_owned(), "no-such-key".to_owned()];
    stores[1].disabled_key_ids = vec!["key-2".to_owned()];
    let mut rig = Rig::new(service_of(stores));
    let refused = rig.ask(&encrypt_call(10));
    assert_eq!(refused.error(), (400, "InvalidStateException".to_owned()));
    assert_eq!(rig.ask(&call("keys/key-2/encrypt", &encrypt(b"x", None))).status, 200);
    let body = json!({"requestMetadata": metadata()});
    let status = |rig: &mut Rig, key: &str| {
        rig.ask(&call(&format!("keys/{key}/metadata"), &body)).json()["keyStatus"].clone()
    };
    assert_eq!(status(&mut rig, KEY), "DISABLED");
    assert_eq!(status(&mut rig, "key-2"), "ENABLED");
    assert_eq!(rig.ask(&call("health", &body)).status, 200);
}
