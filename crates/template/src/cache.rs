//! Texts that were parsed lately. Most of a rendering is parsing, and machines by the thousand ask for the same few texts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use gotmpl::parse::ListNode;

use crate::join::Joined;
use crate::wanted::Wanted;

/// Bytes of text that are remembered, with what is made of them some fifty times that.
const MAX_BYTES: usize = 1 << 20;
/// A longer text is parsed each time.
const MAX_TEXT: usize = 64 << 10;
/// What even a short text costs.
const LEAST: usize = 512;

/// A text, parsed.
pub(crate) struct Ready {
    pub(crate) trees: Vec<(String, ListNode)>,
    /// IDs of the templates that it includes.
    pub(crate) included: Vec<String>,
    pub(crate) wanted: Wanted,
    size: usize,
    number: u64,
    last: Mutex<Option<(Vec<u64>, Arc<Joined>)>>,
}

impl Ready {
    pub(crate) fn new(text: &str, trees: Vec<(String, ListNode)>, included: Vec<String>, wanted: Wanted) -> Ready {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Ready {
            trees,
            included,
            wanted,
            size: text.len() + LEAST,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            last: Mutex::default(),
        }
    }

    /// This text, called `name`, with those that it includes: `parts` are all of them.
    pub(crate) fn joined(&self, name: &str, parts: &[Arc<Ready>], iterations: u64) -> Arc<Joined> {
        let mut key: Vec<u64> = parts.iter().map(|part| part.number).collect();
        key.push(iterations);
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, joined)) = last.filter(|(of, _)| *of == key) {
            return joined;
        }
        let joined = Arc::new(Joined::new(name, parts, iterations));
        let size = parts.iter().map(|part| part.size).sum();
        let all_known = parts.iter().all(|part| part.size <= MAX_TEXT + LEAST);
        if all_known && size <= MAX_BYTES / 4 && CACHE.lock().unwrap_or_else(PoisonError::into_inner).room(size) {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((key, Arc::clone(&joined)));
        }
        joined
    }
}

/// The objects that are not there, which are compiled in, and what was made of the text with them.
type Known = Vec<(Vec<&'static str>, Arc<Ready>)>;

#[derive(Default)]
struct Cache {
    /// By text, and by name, which errors tell.
    texts: HashMap<String, HashMap<String, Known>>,
    bytes: usize,
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

impl Cache {
    fn get(&self, name: &str, absent: &[&'static str], text: &str) -> Option<&Arc<Ready>> {
        let known = self.texts.get(text)?.get(name)?;
        known.iter().find(|(of, _)| of == absent).map(|(_, ready)| ready)
    }

    /// Counts what is to be remembered. False when all was forgotten for it.
    fn room(&mut self, size: usize) -> bool {
        let fits = self.bytes + size <= MAX_BYTES;
        if !fits {
            *self = Cache::default();
        }
        self.bytes += size;
        fits
    }
}

/// What was made of this text before, or is made now. Errors are not remembered.
pub(crate) fn ready<E>(
    name: &str,
    absent: &[&'static str],
    text: &str,
    make: impl FnOnce() -> Result<Ready, E>,
) -> Result<Arc<Ready>, E> {
    if text.len() > MAX_TEXT {
        return make().map(Arc::new);
    }
    if let Some(known) = CACHE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(name, absent, text)
    {
        return Ok(Arc::clone(known));
    }
    let made = Arc::new(make()?);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    cache.room(made.size);
    let names = cache.texts.entry(text.to_owned()).or_default();
    let known = names.entry(name.to_owned()).or_default();
    known.retain(|(of, _)| of != absent);
    known.push((absent.to_vec(), Arc::clone(&made)));
    Ok(made)
}
