//! Where a followed boot is shown: one live line on a terminal, else a line for each thing that happens.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use isobar_client::ClientError;

use super::{Boot, Since, phase_words};
use crate::session::Session;

/// Between two plain lines that tell of progress within a phase.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Phases that stay in the live line once they have passed.
const MILESTONES: &[&str] = &[
    "planned",
    "inserted",
    "reboot-asked",
    "firmware",
    "copied",
    "grub",
    "kernel",
    "initrd",
    "agent-up",
];

pub(super) struct Line<'a> {
    session: &'a Session<'a>,
    bar: Option<ProgressBar>,
    /// Milestones that have been passed or reached.
    trail: Vec<String>,
    /// Lines of the history that have been written.
    written: usize,
    /// Phase and text of the last plain line.
    said: (String, String),
    /// When that was.
    last: Instant,
    troubled: bool,
}

impl<'a> Line<'a> {
    pub(super) fn new(session: &'a Session<'a>, boot: &Boot, since: Since) -> Self {
        let bar = session.host.stderr_is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(boot.subject());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let written = match since {
            Since::Begin => 0,
            Since::Now => boot.log.len().saturating_sub(1),
        };
        Self {
            session,
            bar,
            trail: Vec::new(),
            written,
            said: Default::default(),
            last: Instant::now(),
            troubled: false,
        }
    }

    pub(super) fn show(&mut self, boot: &Boot, elapsed: Duration) {
        match &self.bar {
            Some(bar) => {
                self.trail = trail(boot, &self.trail);
                let room = columns().saturating_sub(boot.subject().chars().count() + 4);
                bar.set_message(live(&self.trail, boot, &boot.line(), room));
            }
            None => self.write_new(boot, elapsed),
        }
    }

    /// What the history has gained since the last time, and progress now and then.
    fn write_new(&mut self, boot: &Boot, elapsed: Duration) {
        // The error that ends a boot is told at the end, with what to do.
        let told_later = |text: &str| boot.error.as_ref().is_some_and(|error| error.message == text);
        for entry in boot
            .log
            .iter()
            .skip(self.written)
            .filter(|entry| !told_later(&entry.text))
        {
            // What lived in the server's memory and has been told may come into the history later.
            if (entry.phase.as_str(), entry.text.as_str()) != (&self.said.0, &self.said.1) {
                self.write(boot, elapsed, &entry.phase, &entry.text);
            }
        }
        self.written = self.written.max(boot.log.len());
        if boot.error.is_some() && !boot.running() {
            return;
        }
        if boot.phase != self.said.0 {
            self.write(boot, elapsed, &boot.phase, &boot.detail);
        } else if boot.percent.is_some() && self.last.elapsed() >= PROGRESS_INTERVAL {
            let said = std::mem::take(&mut self.said);
            let line = boot.line();
            let progress = line.strip_prefix(phase_words(&boot.phase)).unwrap_or(&line);
            self.write(boot, elapsed, &boot.phase, progress.trim());
            self.said = said;
        }
    }

    fn write(&mut self, boot: &Boot, elapsed: Duration, phase: &str, text: &str) {
        let line = format!(
            "[{:>4} s] {}: {:<14} {text}",
            elapsed.as_secs(),
            boot.subject(),
            phase_words(phase)
        );
        self.session.host.note(line.trim_end());
        self.said = (phase.to_owned(), text.to_owned());
        self.last = Instant::now();
    }

    pub(super) fn trouble(&mut self, error: &ClientError) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{error}; trying again")),
            None if !self.troubled => self.session.host.note(&format!("{error}; trying again")),
            None => {}
        }
        self.troubled = true;
    }

    /// The server answers again.
    pub(super) fn well(&mut self) {
        self.troubled = false;
    }

    /// Leaves one line of the live one. Plain lines are all there already.
    pub(super) fn end(&mut self, boot: &Boot, elapsed: Duration) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            let subject = boot.subject();
            let time = format!(" ({} s)", elapsed.as_secs());
            let room = columns().saturating_sub(subject.chars().count() + 2 + time.chars().count());
            self.session.host.note(&format!(
                "{subject}: {}{time}",
                live(&self.trail, boot, phase_words(&boot.phase), room)
            ));
        }
    }
}

/// Milestones so far, the present one last.
fn trail(boot: &Boot, before: &[String]) -> Vec<String> {
    let mut trail = before.to_vec();
    let phases = boot.log.iter().map(|entry| &entry.phase).chain([&boot.phase]);
    for phase in phases.filter(|phase| MILESTONES.contains(&phase.as_str())) {
        // Nobody but GRUB reads the kernel; the server may not have seen the moment before it did.
        let unseen = phase == "kernel" && !trail.iter().any(|phase| phase == "grub");
        for phase in unseen.then_some("grub").into_iter().chain([phase.as_str()]) {
            if !trail.iter().any(|known| known == phase) {
                trail.push(phase.to_owned());
            }
        }
    }
    trail
}

/// "planned → inserted → firmware → GRUB → kernel → initrd 63 %, 4.1 MB/s, 40 s left". Where that is too long, the
/// begin goes first. `now` is the words for the present phase.
fn live(trail: &[String], boot: &Boot, now: &str, room: usize) -> String {
    let passed: Vec<&str> = trail
        .iter()
        .filter(|phase| **phase != boot.phase)
        .map(|phase| phase_words(phase))
        .collect();
    let whole = |from: usize| {
        let begin = if from > 0 { "… → " } else { "" };
        let steps: String = passed[from..].iter().map(|phase| format!("{phase} → ")).collect();
        format!("{begin}{steps}{now}")
    };
    (0..=passed.len())
        .map(whole)
        .find(|line| line.chars().count() <= room)
        .unwrap_or_else(|| now.to_owned())
}

/// Width of the terminal.
fn columns() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 80,
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogLine;
    use super::*;

    #[test]
    fn the_live_line_drops_its_begin_where_the_terminal_is_narrow() {
        let entry = |phase: &str| LogLine {
            phase: phase.to_owned(),
            text: String::new(),
        };
        let boot = Boot {
            phase: "initrd".to_owned(),
            percent: Some(63.0),
            rate_bps: Some(4_100_000.0),
            eta_s: Some(40.0),
            log: ["planned", "ejecting", "inserted", "firmware", "kernel"]
                .map(entry)
                .to_vec(),
            ..Boot::default()
        };
        let trail = trail(&boot, &[]);
        let whole = "planned → inserted → firmware → GRUB → kernel → initrd 63 %, 4.1 MB/s, 40 s left";
        assert_eq!(live(&trail, &boot, &boot.line(), whole.chars().count()), whole);
        assert_eq!(
            live(&trail, &boot, &boot.line(), whole.chars().count() - 1),
            "… → inserted → firmware → GRUB → kernel → initrd 63 %, 4.1 MB/s, 40 s left"
        );
        assert_eq!(live(&trail, &boot, &boot.line(), 5), "initrd 63 %, 4.1 MB/s, 40 s left");
    }
}
