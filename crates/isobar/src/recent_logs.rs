//! The latest log lines, kept for `GET /logs`.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that are kept.
const KEPT: usize = 500;
/// Longest text of a line or field in bytes.
const LONGEST: usize = 2000;

/// A layer that remembers. Clones share what they remember.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentLogs(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    seq: u64,
    lines: VecDeque<Value>,
}

impl RecentLogs {
    /// In DRP's shape, oldest first.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.lines.iter().cloned().collect()
    }
}

#[derive(Default)]
struct Said {
    message: String,
    data: Vec<Value>,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = format!("{value:?}");
        if text.len() > LONGEST {
            text.truncate((0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
            text.push('…');
        }
        match field.name() {
            "message" => self.message = text,
            name => self.data.push(json!(format!("{name}={text}"))),
        }
    }
}

impl<S: Subscriber> Layer<S> for RecentLogs {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let about = event.metadata();
        let level = match *about.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.seq += 1;
        let line = json!({
            "Group": 0, "Seq": kept.seq, "Time": now, "Service": about.target(), "Principal": "", "Level": level,
            "File": about.file(), "Line": about.line(), "Message": said.message, "Data": said.data,
            "IgnorePublish": false,
        });
        if kept.lines.len() >= KEPT {
            kept.lines.pop_front();
        }
        kept.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_latest_lines_are_kept_and_no_more() {
        let logs = RecentLogs::default();
        let subscriber = tracing_subscriber::registry().with(logs.clone());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..KEPT + 5 {
                tracing::warn!(n, "hello");
            }
            tracing::info!("{}", "ä".repeat(LONGEST));
        });
        let lines = logs.lines();
        assert_eq!(lines.len(), KEPT);
        let first = &lines[0];
        assert_eq!(
            (&first["Level"], &first["Message"], &first["Data"]),
            (&json!("warn"), &json!("hello"), &json!(["n=6"]))
        );
        let last = lines
            .last()
            .and_then(|line| line["Message"].as_str())
            .unwrap_or_default();
        assert!(last.len() <= LONGEST + 3 && last.ends_with('…'));
    }
}
