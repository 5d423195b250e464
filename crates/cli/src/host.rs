//! What surrounds a command: environment, standard streams, terminals. Tests bring their own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::PathBuf;

use crate::CliError;

/// Environment and streams of one command.
pub(crate) struct Host {
    /// Environment variables.
    pub(crate) env: BTreeMap<String, String>,
    stdin: RefCell<Box<dyn Read + Send>>,
    stdout: RefCell<Box<dyn Write>>,
    stderr: RefCell<Box<dyn Write>>,
    /// Somebody looks at standard output.
    pub(crate) stdout_is_terminal: bool,
    /// Columns of the terminal that standard output is.
    pub(crate) stdout_width: Option<usize>,
    /// Somebody looks at standard error.
    pub(crate) stderr_is_terminal: bool,
    /// Folder of the server on the same host, where the first password lies.
    pub(crate) data_dir: PathBuf,
}

impl Host {
    /// This process's own.
    pub(crate) fn of_this_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            env: std::env::vars_os().filter_map(text).collect(),
            stdin: RefCell::new(Box::new(io::stdin())),
            stdout: RefCell::new(Box::new(io::stdout())),
            stderr: RefCell::new(Box::new(io::stderr())),
            stdout_is_terminal: io::stdout().is_terminal(),
            stdout_width: rustix::termios::tcgetwinsize(io::stdout())
                .ok()
                .map(|size| usize::from(size.ws_col))
                .filter(|&columns| columns > 0),
            stderr_is_terminal: io::stderr().is_terminal(),
            data_dir: PathBuf::from("/var/lib/isobar"),
        }
    }

    /// An environment variable that is set to something.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Reads all of standard input, up to `limit` bytes.
    pub(crate) fn read_stdin(&self, limit: u64) -> Result<Vec<u8>, CliError> {
        let mut bytes = Vec::new();
        self.stdin
            .borrow_mut()
            .by_ref()
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(CliError::io("standard input"))?;
        Ok(bytes)
    }

    /// Standard input as a stream.
    pub(crate) fn with_stdin<T>(&self, run: impl FnOnce(&mut dyn Read) -> T) -> T {
        run(&mut **self.stdin.borrow_mut())
    }

    /// Standard input, for a thread that reads it while this one does something else. Nothing is left of it here.
    pub(crate) fn take_stdin(&self) -> Box<dyn Read + Send> {
        self.stdin.replace(Box::new(io::empty()))
    }

    /// Writes to standard output.
    pub(crate) fn out(&self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout.borrow_mut().write_all(bytes).map_err(CliError::stdout)
    }

    /// Hands out what standard output still holds.
    pub(crate) fn flush(&self) -> Result<(), CliError> {
        self.stdout.borrow_mut().flush().map_err(CliError::stdout)
    }

    /// Writes a line to standard error. Failing to complain is not worth failing for.
    pub(crate) fn note(&self, line: &str) {
        let mut stderr = self.stderr.borrow_mut();
        let _ = writeln!(stderr, "{line}");
        let _ = stderr.flush();
    }
}

#[cfg(test)]
pub(crate) mod fake {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    pub(crate) struct Sink(Rc<RefCell<Vec<u8>>>);

    impl Sink {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A host with this environment and standard input; the sinks get what is written.
    pub(crate) fn host(env: &[(&str, &str)], stdin: &str) -> (Host, Sink, Sink) {
        let (out, err) = (Sink::default(), Sink::default());
        let host = Host {
            env: env.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
            stdin: RefCell::new(Box::new(io::Cursor::new(stdin.to_owned().into_bytes()))),
            stdout: RefCell::new(Box::new(out.clone())),
            stderr: RefCell::new(Box::new(err.clone())),
            stdout_is_terminal: false,
            stdout_width: None,
            stderr_is_terminal: false,
            data_dir: PathBuf::from("/nonexistent"),
        };
        (host, out, err)
    }
}
