//! The certificates that the metrics show.

use crate::observe::metrics::CertificateMetrics;
use crate::observe::metrics::labels::ListenerLabel;
use crate::settings::Settings;

/// Returns one entry for each listener that has a certificate.
pub(super) fn of_settings(settings: &Settings) -> Vec<CertificateMetrics> {
    let admin = settings.admin.as_ref().and_then(|admin| admin.tls.as_ref());
    let listeners = [(ListenerLabel::Api, settings.tls.as_ref()), (ListenerLabel::Admin, admin)];
    listeners
        .into_iter()
        .filter_map(|(listener, tls)| {
            let certificate = &tls?.certificate;
            Some(CertificateMetrics {
                listener,
                subject: certificate.subject.clone(),
                not_after_unix_secs: certificate.not_after_unix_secs,
            })
        })
        .collect()
}
