//! Texts that were parsed lately. Most of a rendering is parsing, and machines by the thousand ask for the same few texts.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use gotmpl::parse::{ListNode, SmolStr};

/// Bytes of text that are remembered, with what is made of them some fifty times that.
const MAX_BYTES: usize = 1 << 20;
/// A longer text is parsed each time.
const MAX_TEXT: usize = 64 << 10;

/// A text, ready to run.
pub(crate) struct Ready {
    pub(crate) trees: Vec<(String, ListNode)>,
    /// IDs of the templates that it includes.
    pub(crate) included: Vec<String>,
    /// Functions that it calls.
    pub(crate) used: Vec<SmolStr>,
}

/// The name, which errors tell; the objects that are not there, which are compiled in; the text.
type Key = (String, Vec<&'static str>, String);

#[derive(Default)]
struct Cache {
    texts: HashMap<Key, Arc<Ready>>,
    bytes: usize,
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

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
    let key = (name.to_owned(), absent.to_vec(), text.to_owned());
    if let Some(known) = CACHE.lock().unwrap_or_else(PoisonError::into_inner).texts.get(&key) {
        return Ok(Arc::clone(known));
    }
    let made = Arc::new(make()?);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.bytes + text.len() > MAX_BYTES {
        *cache = Cache::default();
    }
    // Half a kilobyte for what even a short text costs.
    cache.bytes += text.len() + 512;
    cache.texts.insert(key, Arc::clone(&made));
    Ok(made)
}
