//! Request heads: an accepted head has one reading, regardless of how it was split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xks_proxy::limits::{MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES};
use xks_proxy::proto::http::authority::is_host;
use xks_proxy::proto::http::request::{
    find_end, has_lone_line_end, header_slots, parse, too_large,
};
use xks_proxy::proto::route::route;

fuzz_target!(|data: &[u8]| {
    let Some(end) = find_end(data, 0) else {
        assert_eq!(too_large(data).is_some(), data.len() > MAX_HEAD_BYTES);
        return;
    };
    for from in [1, end / 2, end - 1] {
        assert_eq!(find_end(data, from), Some(end));
    }
    // Found wherever the head was cut.
    let is_lone = has_lone_line_end(&data[..end], 0);
    for cut in [1, end / 2, end - 1] {
        assert_eq!(
            has_lone_line_end(&data[..cut], 0) || has_lone_line_end(&data[..end], cut),
            is_lone
        );
    }
    let mut slots = header_slots();
    let Ok(head) = parse(&data[..end], &mut slots) else { return };
    assert!(end <= MAX_HEAD_BYTES && head.headers.len() <= MAX_HEADERS);
    assert!(head.path.starts_with('/') && head.path.len() + head.query.len() <= MAX_TARGET_BYTES);
    assert!(!head.path.contains(['?', '#', ' ', '\r', '\n']));
    assert!(!is_lone, "no line of an accepted head ends otherwise than with CRLF");
    let lines = data[..end].split(|byte| *byte == b'\n').count() - 1;
    assert_eq!(lines, head.headers.len() + 2);
    assert!(data[..end].windows(2).all(|pair| pair[1] != b'\n' || pair[0] == b'\r'));
    for field in head.headers {
        assert!(!field.name.is_empty() && !field.value.contains(&b'\n'));
        if field.name.eq_ignore_ascii_case("host") {
            assert!(
                is_host(field.value) && !field.value.iter().any(|byte| b"@/?# ".contains(byte))
            );
        }
    }
    let _ = route(head.path);
});
