//! Bars for what takes long, on a terminal only: pipes and drpcli's users get none.

use std::io::Read;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::session::Session;

/// How often a bar without a known end moves.
const TICK: Duration = Duration::from_millis(120);

/// A bar on standard error, if somebody looks at it.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(session: &Session, size: Option<u64>, style: &str) -> Self {
        if !session.host.stderr_is_terminal || !session.helpful() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
        Self(
            ProgressStyle::with_template(style)
                .ok()
                .map(|style| bar.with_style(style)),
        )
    }

    /// Of so many bytes.
    pub(crate) fn bytes(session: &Session, size: Option<u64>) -> Self {
        let style = match size {
            Some(_) => "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{spinner} {bytes} {bytes_per_sec}",
        };
        Self::new(session, size, style)
    }

    /// Of something whose end nobody knows.
    pub(crate) fn waiting(session: &Session, message: String) -> Self {
        let waiting = Self::new(session, None, "{spinner} {msg} {elapsed}");
        if let Some(bar) = &waiting.0 {
            bar.set_message(message);
            bar.enable_steady_tick(TICK);
        }
        waiting
    }

    /// So many bytes are done.
    pub(crate) fn at(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }

    /// A reader that moves the bar.
    pub(crate) fn reading<R: Read>(&self, from: R) -> Counted<'_, R> {
        Counted {
            from,
            bar: self.0.as_ref(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// See [`Progress::reading`].
pub(crate) struct Counted<'a, R> {
    from: R,
    bar: Option<&'a ProgressBar>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        if let Some(bar) = self.bar {
            bar.inc(u64::try_from(n).unwrap_or(0));
        }
        Ok(n)
    }
}
