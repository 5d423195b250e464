//! Events on their way to one reader. What waits for a slow one is bounded in bytes; who falls further behind is let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use isobar_store::Committed;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Most that waits for one reader, in bytes. Events are shared: a hundred slow readers of the same hold them once.
const MAX_WAITING: usize = 8 << 20;
/// What an event takes beside its texts.
const OVERHEAD: usize = 256;

/// Why there is nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The reader was too slow.
    TooSlow,
    /// The store is closed.
    Closed,
}

/// The reader's end.
pub(crate) struct Live {
    queue: UnboundedReceiver<Arc<Committed>>,
    waiting: Arc<AtomicUsize>,
    too_slow: Arc<AtomicBool>,
}

impl Live {
    /// Takes what the store tells from now on. The store's own queue is emptied at once, however slow the reader is.
    pub(crate) fn new(mut told: Receiver<Arc<Committed>>) -> Self {
        let (sender, queue) = unbounded_channel();
        let (waiting, too_slow) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let live = Self {
            queue,
            waiting: Arc::clone(&waiting),
            too_slow: Arc::clone(&too_slow),
        };
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = told.recv() => event,
                    () = sender.closed() => break,
                };
                let fits = match event {
                    Ok(event) => {
                        let before = waiting.fetch_add(weight(&event), Ordering::Relaxed);
                        // One may be larger than all that may wait.
                        let fits = before == 0 || before + weight(&event) <= MAX_WAITING;
                        fits && sender.send(event).is_ok()
                    }
                    Err(RecvError::Lagged(_)) => false,
                    Err(RecvError::Closed) => break,
                };
                if !fits {
                    too_slow.store(true, Ordering::Relaxed);
                    break;
                }
            }
        });
        live
    }

    /// The next event.
    ///
    /// # Errors
    /// The reader was too slow, or the store is closed.
    pub(crate) async fn next(&mut self) -> Result<Arc<Committed>, End> {
        let event = self.queue.recv().await;
        if self.too_slow.load(Ordering::Relaxed) {
            return Err(End::TooSlow);
        }
        let event = event.ok_or(End::Closed)?;
        self.waiting.fetch_sub(weight(&event), Ordering::Relaxed);
        Ok(event)
    }
}

fn weight(committed: &Committed) -> usize {
    let event = &committed.event;
    let objects = [&event.object, &event.original].into_iter().flatten();
    OVERHEAD + event.key.len() + objects.map(|object| object.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use isobar_store::{Event, Rev};
    use tokio::sync::broadcast;

    use super::*;

    fn event(size: usize) -> Arc<Committed> {
        Arc::new(Committed {
            rev: Rev(1),
            at_ns: 0,
            event: Event {
                kind: "k".into(),
                action: "a".into(),
                key: String::new(),
                principal: String::new(),
                object: Some(vec![b'x'; size].into()),
                original: None,
            },
        })
    }

    #[tokio::test]
    async fn who_does_not_read_is_let_go_before_much_waits() {
        let (feed, told) = broadcast::channel(4);
        let mut live = Live::new(told);
        let mut sent = 0;
        // The pump ends, and with it the last receiver.
        while feed.send(event(1 << 20)).is_ok() {
            sent += 1;
            assert!(sent < 1000, "{sent} MB wait");
            while feed.len() > 2 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(live.next().await.err(), Some(End::TooSlow));
        assert!(live.waiting.load(Ordering::Relaxed) <= MAX_WAITING + (2 << 20));
    }

    #[tokio::test]
    async fn who_reads_gets_all_also_what_is_large() {
        let (feed, told) = broadcast::channel(4);
        let mut live = Live::new(told);
        for _ in 0..20 {
            feed.send(event(MAX_WAITING + 1)).unwrap();
            live.next().await.unwrap();
        }
        drop(feed);
        assert_eq!(live.next().await.err(), Some(End::Closed));
    }
}
