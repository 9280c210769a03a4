//! tracing's events, in the same format as the access log's lines.
//!
//! `tracing-subscriber`'s own formats cannot be used: they do not escape a line break in a
//! `%value`, and strings in events may come from a peer or an HSM. Spans are not shown, as none are
//! opened.

use std::fmt::{Debug, Write as _};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::outputs::Outputs;
use crate::observe::line::{Line, LogFormat};
use crate::observe::otlp::lines::LogLines;
use crate::observe::timestamp::{Rfc3339, since_1970};

/// Passes each event to the outputs.
pub(super) struct EventLayer {
    outputs: Outputs,
    format: LogFormat,
    exported: Option<LogLines>,
}

impl EventLayer {
    pub(super) fn new(outputs: Outputs, format: LogFormat, exported: Option<LogLines>) -> Self {
        Self { outputs, format, exported }
    }
}

impl<S: Subscriber> Layer<S> for EventLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let since_1970 = since_1970();
        self.outputs.push(&line(event, self.format, since_1970));
        if let Some(exported) = &self.exported
            && exported.wants(*event.metadata().level())
        {
            exported.push(&line(event, LogFormat::Json, since_1970));
        }
    }
}

fn line(event: &Event<'_>, format: LogFormat, since_1970: Duration) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut time = Rfc3339::default();
    let metadata = event.metadata();
    let mut line = Line::begin(&mut out, format, &mut time, since_1970, *metadata.level());
    let mut message = Message(String::new());
    event.record(&mut message);
    line.message(&message.0);
    event.record(&mut Fields(&mut line));
    line.string("target", metadata.target());
    line.end();
    out
}

/// Name of the field that contains an event's text in tracing's macros.
const MESSAGE: &str = "message";

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            // Writing into a String cannot fail. If a Debug implementation fails, the text that it
            // has written so far is kept.
            let _ = write!(self.0, "{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.0.push_str(value);
        }
    }
}

struct Fields<'a, 'b>(&'a mut Line<'b>);

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE {
            self.0.string(field.name(), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.literal(field.name(), &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.literal(field.name(), if value { "true" } else { "false" });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::observe::log::Log;
    use crate::observe::log::tests::{file_config, read_logged};
    use crate::observe::syslog::copies::Copies;

    fn logged(format: LogFormat, events: impl FnOnce()) -> String {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(&file_config(directory.path(), format), Copies::default()).unwrap();
        let subscriber = tracing_subscriber::registry().with(log.event_layer());
        tracing::subscriber::with_default(subscriber, events);
        assert!(log.stop());
        read_logged(directory.path())
    }

    fn some_events() {
        let error = std::io::Error::other("broken\npipe");
        tracing::warn!(slot = 3_u32, delta = -1, is_up = false, token = "a b", %error, "up {}", 1);
        tracing::error!("x\n1994-11-06T08:49:37.123456Z INFO forged\u{1b}[2J");
    }

    /// Events as text: a line break in a value or in the message does not end the line.
    #[test]
    fn text() {
        let text = logged(LogFormat::Text, some_events);
        let lines: Vec<_> =
            text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
        assert_eq!(
            lines,
            [
                "WARN up 1 slot=3 delta=-1 is_up=false token=\"a b\" error=\"broken\\npipe\" \
                 target=xks_proxy::observe::log::events::tests",
                "ERROR x\\n1994-11-06T08:49:37.123456Z INFO forged\\u001b[2J \
                 target=xks_proxy::observe::log::events::tests",
            ]
        );
    }

    /// Events as JSON.
    #[test]
    fn json() {
        let text = logged(LogFormat::Json, some_events);
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut first = lines.next().unwrap();
        assert_eq!(first["time"].take().as_str().unwrap().len(), 27);
        assert_eq!(
            first,
            json!({
                "time": null, "level": "WARN", "message": "up 1", "slot": 3, "delta": -1,
                "is_up": false, "token": "a b", "error": "broken\npipe",
                "target": "xks_proxy::observe::log::events::tests"
            })
        );
        let second = lines.next().unwrap();
        assert_eq!(second["message"], "x\n1994-11-06T08:49:37.123456Z INFO forged\u{1b}[2J");
        assert_eq!(lines.next(), None);
    }
}
