//! The label of a key store.

/// Returns the label of a store. Prometheus treats an empty label as absent.
pub(super) fn store_label(uri_path_prefix: &str) -> &str {
    if uri_path_prefix.is_empty() { "/" } else { uri_path_prefix }
}
