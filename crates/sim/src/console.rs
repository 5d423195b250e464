//! The serial console of the machine: its end in memory, all of it in a file, a copy on stdout.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, mpsc};

use crate::config::SimConfig;
use crate::error::SimError;
use crate::log::Log;

const TAIL_MAX: usize = 256 << 10;
/// Texts that a listener may be behind before it loses some.
const BEHIND_MAX: usize = 1024;
/// Keystrokes that wait for the machine.
const KEYS_MAX: usize = 64;

pub(crate) struct Console {
    inner: Mutex<Inner>,
    echo: bool,
    log: Arc<Log>,
    listeners: broadcast::Sender<Vec<u8>>,
}

struct Inner {
    tail: VecDeque<u8>,
    file: Option<File>,
    /// Into the machine that runs.
    keys: Option<mpsc::Sender<Vec<u8>>>,
}

impl Console {
    pub(crate) fn open(config: &SimConfig, log: Arc<Log>) -> Result<Arc<Self>, SimError> {
        let file = match &config.serial {
            None => None,
            Some(path) => Some(
                File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|source| SimError::io("open the serial file", path, source))?,
            ),
        };
        let inner = Mutex::new(Inner {
            tail: VecDeque::new(),
            file,
            keys: None,
        });
        Ok(Arc::new(Self {
            inner,
            echo: config.echo_serial,
            log,
            listeners: broadcast::channel(BEHIND_MAX).0,
        }))
    }

    /// What the machine says from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Vec<u8>> {
        self.listeners.subscribe()
    }

    /// What is typed from now on goes to a machine that has just started; the one before hears no more.
    pub(crate) fn keyboard(&self) -> mpsc::Receiver<Vec<u8>> {
        let (keys, typed) = mpsc::channel(KEYS_MAX);
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).keys = Some(keys);
        typed
    }

    /// Somebody types. Nobody there, or one who does not read: lost, as on a serial line.
    pub(crate) fn type_in(&self, keys: Vec<u8>) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = &inner.keys {
            let _ = machine.try_send(keys);
        }
    }

    /// The machine said something.
    pub(crate) fn say(&self, bytes: &[u8]) {
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.tail.extend(bytes);
            let over = inner.tail.len().saturating_sub(TAIL_MAX);
            inner.tail.drain(..over);
            if let Some(file) = &mut inner.file
                && let Err(error) = file.write_all(bytes)
            {
                tracing::warn!(%error, "the serial file is given up");
                inner.file = None;
            }
        }
        if self.echo {
            let mut out = std::io::stdout().lock();
            // A closed stdout is no reason to stop the machine.
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
        // Nobody listens: fine.
        let _ = self.listeners.send(bytes.to_vec());
        self.log.touch();
    }

    /// The last 256 KiB.
    pub(crate) fn tail(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = inner.tail.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }
}
