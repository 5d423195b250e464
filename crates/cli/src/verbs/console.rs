//! `machines console`: the serial console, live. The server speaks to the BMC; here are a screen and a keyboard.

use std::io::{IsTerminal as _, Read};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use isobar_client::{Client, ClientError, Method, path};
use rustix::termios::{self, OptionalActions, Termios};

use super::{Arity, Call, Verb, option, switch, verb};
use crate::CliError;
use crate::output::Output;
use crate::session::Session;

pub(super) const VERBS: &[Verb] = &[verb(
    "console",
    "[id]",
    Arity::Exactly(1),
    console,
    "Shows the serial console, live, and types into it; ~. at the beginning of a line leaves",
    "machines console Name:mach-01",
)
.flags(&[
    switch("take-over", "Whoever has the console loses it"),
    option("until", "TEXT", "Leave when the machine says this"),
])
.own()];

/// The header that names the console, for what is typed.
const NAME: &str = "isobar-console";
/// A machine may be silent for days; the server's connection ends when the server does.
const SILENCE: Duration = Duration::from_secs(30 * 24 * 3600);
/// What is read or typed at a time.
const PIECE: usize = 2048;
const HELP: &str = "\r\n~.  leave\r\n~B  break\r\n~~  a tilde\r\n~?  this\r\n";

/// What happens at either end.
enum Event {
    Said(Vec<u8>),
    /// The server has ended it; why, where it says so.
    Ended(Option<String>),
    Help,
    Left,
    Failed(ClientError),
}

fn console(session: &Session, call: &Call) -> Result<Output, CliError> {
    let client = session.client()?.clone();
    let route = path!("isobar", "v1", "machines", call.arg(0), "console");
    let mut request = client.request(Method::POST, &route).patience(SILENCE);
    if call.is_set("take-over") {
        request = request.query("take-over", "true");
    }
    let answer = request.send()?;
    let Some(name) = answer.header(NAME).map(str::to_owned) else {
        return Err(CliError::text("this server has no consoles"));
    };
    let terminal = Raw::begin();
    if terminal.is_some() {
        session.host.note("[isobar: connected; ~. leaves]\r");
    }
    let (tell, events) = mpsc::channel();
    let said = tell.clone();
    thread::spawn(move || screen(answer.reader(), &said));
    let keys = session.host.take_stdin();
    let target = path!("isobar", "v1", "machines", call.arg(0), "console", &name);
    thread::spawn(move || keyboard(keys, &client, &target, &tell));
    let mut until = call.option("until").map(Until::new);
    for event in events {
        match event {
            Event::Said(text) => {
                session.host.out(&text)?;
                session.host.flush()?;
                if until.as_mut().is_some_and(|until| until.has_come(&text)) {
                    return Ok(Output::Nothing);
                }
            }
            Event::Help => session.host.note(HELP),
            Event::Left => return Ok(Output::Nothing),
            Event::Failed(error) => return Err(error.into()),
            Event::Ended(why) => {
                let why = why.unwrap_or_else(|| "the server ended it".to_owned());
                return Err(CliError::text(format!("the console has ended: {why}")));
            }
        }
    }
    Ok(Output::Nothing)
}

fn screen(mut from: impl Read, tell: &mpsc::Sender<Event>) {
    let mut piece = [0; PIECE];
    loop {
        let event = match from.read(&mut piece) {
            Ok(0) => Event::Ended(None),
            Ok(count) => Event::Said(piece[..count].to_vec()),
            Err(error) => Event::Ended(Some(error.to_string())),
        };
        let over = matches!(event, Event::Ended(_));
        // Nobody looks any more: the command is over.
        if tell.send(event).is_err() || over {
            return;
        }
    }
}

/// Types what is read until it ends, or the user leaves. When a file or pipe ends, the screen goes on.
fn keyboard(mut from: Box<dyn Read + Send>, client: &Client, target: &str, tell: &mpsc::Sender<Event>) {
    let mut escape = Escape::new(!std::io::stdin().is_terminal());
    let mut piece = [0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        for typed in escape.take(&piece[..count]) {
            let request = client.request(Method::PUT, target);
            let sent = match typed {
                Typed::Text(text) => {
                    let length = u64::try_from(text.len()).ok();
                    request.send_stream("application/octet-stream", length, &mut text.as_slice())
                }
                Typed::Break => request.query("break", "true").send(),
                // Nobody looks any more: the command is over. The same below.
                Typed::Help => {
                    let _ = tell.send(Event::Help);
                    continue;
                }
                Typed::Leave => {
                    let _ = tell.send(Event::Left);
                    return;
                }
            };
            if let Err(error) = sent {
                let _ = tell.send(Event::Failed(error));
                return;
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Typed {
    Text(Vec<u8>),
    Break,
    Help,
    Leave,
}

/// Finds `~.` and its like at the beginning of a line, as ssh does.
struct Escape {
    begins: bool,
    tilde: bool,
    /// Lines end as those of a keyboard do.
    lines: bool,
}

impl Escape {
    fn new(lines: bool) -> Self {
        Self {
            begins: true,
            tilde: false,
            lines,
        }
    }

    fn take(&mut self, keys: &[u8]) -> Vec<Typed> {
        let mut all = Vec::new();
        let mut text = Vec::new();
        for key in keys {
            let special = match key {
                _ if !self.tilde => None,
                b'.' => Some(Typed::Leave),
                b'B' => Some(Typed::Break),
                b'?' => Some(Typed::Help),
                _ => None,
            };
            if let Some(special) = special {
                self.tilde = false;
                if !text.is_empty() {
                    all.push(Typed::Text(std::mem::take(&mut text)));
                }
                all.push(special);
                continue;
            }
            if *key == b'~' && self.begins && !self.tilde {
                self.tilde = true;
                continue;
            }
            if std::mem::take(&mut self.tilde) && *key != b'~' {
                text.push(b'~');
            }
            self.begins = matches!(key, b'\r' | b'\n');
            text.push(if self.lines && *key == b'\n' { b'\r' } else { *key });
        }
        if !text.is_empty() {
            all.push(Typed::Text(text));
        }
        all
    }
}

/// A text that is waited for, over the borders of pieces.
struct Until {
    text: Vec<u8>,
    tail: Vec<u8>,
}

impl Until {
    fn new(text: &str) -> Self {
        Self {
            text: text.as_bytes().to_vec(),
            tail: Vec::new(),
        }
    }

    fn has_come(&mut self, said: &[u8]) -> bool {
        self.tail.extend(said);
        let found = self.tail.windows(self.text.len().max(1)).any(|part| part == self.text);
        let over = self.tail.len().saturating_sub(self.text.len());
        self.tail.drain(..over);
        found
    }
}

/// The terminal hands over each key as it is; as it was before, at the end.
struct Raw(Termios);

impl Raw {
    /// None where standard input is no terminal.
    fn begin() -> Option<Self> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_found_at_the_beginning_of_lines_alone() {
        let text = |text: &[u8]| Typed::Text(text.to_vec());
        let mut keys = Escape::new(false);
        assert_eq!(keys.take(b"a~.b\r"), [text(b"a~.b\r")]);
        assert_eq!(keys.take(b"~"), []);
        assert_eq!(keys.take(b"~x\r~q~B\r~"), [text(b"~x\r~q~B\r")]);
        assert_eq!(
            keys.take(b"B~?hello\r~."),
            [Typed::Break, Typed::Help, text(b"hello\r"), Typed::Leave]
        );
        let mut lines = Escape::new(true);
        assert_eq!(lines.take(b"root\n~."), [text(b"root\r"), Typed::Leave]);
    }

    #[test]
    fn a_text_is_found_over_the_borders_of_pieces() {
        let mut until = Until::new("login:");
        assert!(!until.has_come(b"debian lo"));
        assert!(!until.has_come(b"g"));
        assert!(until.has_come(b"in: "));
    }
}
