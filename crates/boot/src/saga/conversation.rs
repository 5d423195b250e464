//! All that a boot and its BMC said to each other, as long as there is room: what a post-mortem is made of.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isobar_bmc::Exchange;
use serde_json::Value;

/// Most bytes of one boot.
const ONE: usize = 256 * 1024;
/// Most bytes of all boots together.
const ALL: usize = 32 * 1024 * 1024;

/// Where more boots are under way, reads are kept of those alone that something went wrong in: to redact and to keep
/// what goes well is much of the work of a look at a BMC.
const FEW: usize = 64;

/// Room that all conversations share, and how many there are.
#[derive(Debug, Default)]
pub(crate) struct Room(AtomicUsize, AtomicUsize);

/// One exchange, and how often the same was asked and answered with nothing else asked of that path in between.
struct Said {
    /// Of method and path.
    asked: u64,
    /// Of the whole, but for its time.
    whole: u64,
    text: Box<[u8]>,
    times: usize,
}

/// The conversation of one boot.
pub(crate) struct Conversation {
    room: Arc<Room>,
    said: VecDeque<Said>,
    bytes: usize,
    /// Exchanges that found no room any more.
    dropped: usize,
    troubled: bool,
}

fn hash(of: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    of(&mut hasher);
    hasher.finish()
}

impl Conversation {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        room.1.fetch_add(1, Ordering::Relaxed);
        Self {
            troubled: false,
            room,
            said: VecDeque::new(),
            bytes: 0,
            dropped: 0,
        }
    }

    /// Something went wrong in it.
    pub(crate) fn troubled(&mut self) {
        self.troubled = true;
    }

    /// Whether reads that went well are to be kept.
    pub(crate) fn wants_reads(&self) -> bool {
        self.troubled || self.room.1.load(Ordering::Relaxed) <= FEW
    }

    pub(crate) fn add(&mut self, exchange: &Exchange) {
        let asked = hash(|h| (&exchange.method, &exchange.path).hash(h));
        let mut timeless = exchange.clone();
        timeless.took_ms = 0;
        // Texts and numbers: there is nothing in them that JSON could not hold.
        let text = serde_json::to_vec(&timeless).unwrap_or_default().into_boxed_slice();
        let whole = hash(|h| text.hash(h));
        if let Some(last) = self.said.iter_mut().rev().find(|said| said.asked == asked)
            && last.whole == whole
        {
            last.times += 1;
            return;
        }
        let bytes = text.len() + size_of::<Said>();
        let full = |room: &Room| room.0.load(Ordering::Relaxed) + bytes > ALL;
        while self.bytes + bytes > ONE || full(&self.room) {
            let Some(oldest) = self.said.pop_front() else {
                self.dropped += 1;
                return;
            };
            self.dropped += oldest.times;
            self.give_back(oldest.text.len() + size_of::<Said>());
        }
        self.bytes += bytes;
        self.room.0.fetch_add(bytes, Ordering::Relaxed);
        let times = 1;
        self.said.push_back(Said {
            asked,
            whole,
            text,
            times,
        });
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.room.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The exchanges, oldest first, each with how often it came; and how many found no room.
    pub(crate) fn told(&self) -> (Vec<Value>, usize) {
        let told = self.said.iter().filter_map(|said| {
            let mut exchange: Value = serde_json::from_slice(&said.text).ok()?;
            exchange.as_object_mut()?.remove("took_ms");
            exchange["times"] = said.times.into();
            Some(exchange)
        });
        (told.collect(), self.dropped)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.give_back(self.bytes);
        self.room.1.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use isobar_bmc::Redactor;
    use serde_json::json;

    use super::*;

    fn exchange(path: &str, body: &Value) -> Exchange {
        Exchange::new(
            "GET",
            path,
            None,
            Some((200, body)),
            Duration::from_millis(3),
            &Redactor::default(),
        )
    }

    #[test]
    fn repeats_are_counted_and_room_is_given_back() {
        let room = Arc::new(Room::default());
        let mut conversation = Conversation::new(Arc::clone(&room));
        let on = json!({"PowerState": "On"});
        for _ in 0..5 {
            conversation.add(&exchange("/a", &on));
            conversation.add(&exchange("/b", &on));
        }
        conversation.add(&exchange("/a", &json!({"PowerState": "Off"})));
        conversation.add(&exchange("/a", &on));
        let (told, dropped) = conversation.told();
        let times: Vec<_> = told.iter().map(|e| (e["path"].clone(), e["times"].clone())).collect();
        assert_eq!(json!(times), json!([["/a", 5], ["/b", 5], ["/a", 1], ["/a", 1]]));
        assert_eq!(dropped, 0);

        for number in 0..2000 {
            conversation.add(&exchange(&format!("/{number}"), &json!("x".repeat(1000))));
        }
        assert!(conversation.bytes <= ONE && conversation.bytes > ONE / 2);
        assert!(conversation.told().1 > 1700, "{}", conversation.told().1);
        assert_eq!(room.0.load(Ordering::Relaxed), conversation.bytes);
        let mut other = Conversation::new(Arc::clone(&room));
        other.add(&exchange("/", &on));
        drop(conversation);
        assert_eq!(room.0.load(Ordering::Relaxed), other.bytes);
    }
}
