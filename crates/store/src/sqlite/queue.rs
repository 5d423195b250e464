//! The bounded queue before the writer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::notes::Notes;
use crate::{Announced, Answer, Audit, Lease, Rev, StoreError, Txn};

/// From so many announced transactions on, the writer waits for some of them before it writes.
const MANY: usize = 8;
/// So long at most. So many writers keep the processors busy meanwhile.
const GATHERING: Duration = Duration::from_millis(5);

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Command {
    Commit {
        txn: Txn,
        reply: oneshot::Sender<Result<Rev, StoreError>>,
    },
    Claim {
        kind: String,
        key: String,
        holder: String,
        seconds: u64,
        reply: oneshot::Sender<Result<Option<Lease>, StoreError>>,
    },
    /// Without seconds the lease is given back.
    Extend {
        lease: Lease,
        seconds: Option<u64>,
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
}

#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    announced: Arc<AtomicUsize>,
}

/// What the writer takes at one time.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) commands: Vec<Command>,
    /// Audit entries that go with them, or by themselves, and how often each happened.
    pub(super) notes: Vec<(Audit, u32)>,
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Command>,
    notes: Notes,
    closed: bool,
    /// The writer gathers: it is not to be woken for fewer.
    wanted: usize,
    /// About how many were announced at a time lately.
    crowd: usize,
    /// Tasks that wait for room.
    waiting: Vec<Waker>,
}

/// Why a command was not taken.
enum Refused {
    Full(Box<Command>),
    Closed,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            announced: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, state: &mut State, command: Command) -> Result<(), Refused> {
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.commands.len() >= self.capacity {
            return Err(Refused::Full(Box::new(command)));
        }
        state.commands.push_back(command);
        if state.commands.len() >= state.wanted {
            self.filled.notify_one();
        }
        Ok(())
    }

    pub(super) fn push_blocking(&self, mut command: Command) -> Result<(), StoreError> {
        let mut state = self.lock();
        loop {
            match self.offer(&mut state, command) {
                Ok(()) => return Ok(()),
                Err(Refused::Closed) => return Err(StoreError::Closed),
                Err(Refused::Full(back)) => command = *back,
            }
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds an audit entry that belongs to no commit. Never waits.
    pub(super) fn note(&self, entry: Audit) {
        let mut state = self.lock();
        let now = Instant::now();
        let before = state.notes.wait(now);
        state.notes.add(entry, now);
        // Where something else is due earlier, the writer comes back for that.
        if before.is_none_or(|before| state.notes.wait(now).is_some_and(|wait| wait < before)) {
            self.filled.notify_one();
        }
    }

    /// They were not written.
    pub(super) fn put_back(&self, notes: Vec<(Audit, u32)>) {
        let mut state = self.lock();
        // At the end there is no later.
        if !state.closed {
            state.notes.put_back(notes, Instant::now());
        }
    }

    pub(super) fn announce(&self) -> Announced {
        Announced::count(&self.announced)
    }

    /// Nobody else is about to write.
    pub(super) fn is_quiet(&self) -> bool {
        self.announced.load(Ordering::Relaxed) <= 1 && {
            let state = self.lock();
            state.commands.is_empty() && !state.closed
        }
    }

    /// Waits until something is to be written, and for company where it is near. `false` once closed and empty.
    pub(super) fn ready(&self, max: usize) -> bool {
        let mut state = self.lock();
        while state.commands.is_empty() && !state.closed {
            match state.notes.wait(Instant::now()) {
                Some(Duration::ZERO) => break,
                Some(wait) => {
                    let woken = self.filled.wait_timeout(state, wait);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        let announced = self.announced.load(Ordering::Relaxed);
        state.crowd = announced.max(state.crowd - state.crowd.div_ceil(8));
        if state.crowd >= MANY && !state.commands.is_empty() {
            // A third of them: while these wait for the disk, the processors have the others to work for.
            state.wanted = (state.crowd / 3).min(max);
            let until = Instant::now() + GATHERING;
            while state.commands.len() < state.wanted && !state.closed {
                let wait = until.saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    break;
                }
                let woken = self.filled.wait_timeout(state, wait);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            state.wanted = 0;
        }
        !state.closed || !state.commands.is_empty() || state.notes.wait(Instant::now()).is_some()
    }

    /// Everything that waits, at most `max`.
    pub(super) fn take(&self, max: usize) -> Group {
        let mut state = self.lock();
        let n = state.commands.len().min(max.max(1));
        let commands: Vec<_> = state.commands.drain(..n).collect();
        let last = state.closed && state.commands.is_empty();
        let notes = state.notes.take(Instant::now(), last);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.drained.notify_all();
        waiting.into_iter().for_each(Waker::wake);
        Group { commands, notes }
    }

    /// Takes nothing more; what is in it is still done.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.filled.notify_all();
        self.drained.notify_all();
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Waits for the writer's answer, also on a thread that runs tasks.
pub(super) fn answered<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    pollster::block_on(tokio::task::unconstrained(answer)).unwrap_or(Err(StoreError::Closed))
}

/// A transaction on its way to the writer, or with it.
pub(super) struct Submitted {
    queue: Arc<Queue>,
    /// Not yet in the queue.
    outside: Option<Command>,
    closed: bool,
    answer: oneshot::Receiver<Result<Rev, StoreError>>,
}

impl Submitted {
    pub(super) fn new(queue: &Arc<Queue>, txn: Txn) -> Self {
        let (reply, answer) = oneshot::channel();
        let offered = queue.offer(&mut queue.lock(), Command::Commit { txn, reply });
        let (outside, closed) = match offered {
            Ok(()) => (None, false),
            Err(Refused::Full(command)) => (Some(*command), false),
            Err(Refused::Closed) => (None, true),
        };
        Self {
            queue: Arc::clone(queue),
            outside,
            closed,
            answer,
        }
    }
}

impl Answer for Submitted {
    fn wait(mut self: Box<Self>) -> Result<Rev, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        if let Some(command) = self.outside.take() {
            self.queue.push_blocking(command)?;
        }
        answered(self.answer)
    }
}

impl Future for Submitted {
    type Output = Result<Rev, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.closed {
            return Poll::Ready(Err(StoreError::Closed));
        }
        if let Some(command) = self.outside.take() {
            let queue = Arc::clone(&self.queue);
            let mut state = queue.lock();
            match queue.offer(&mut state, command) {
                Ok(()) => {}
                Err(Refused::Full(back)) => {
                    state.waiting.push(cx.waker().clone());
                    self.outside = Some(*back);
                    return Poll::Pending;
                }
                Err(Refused::Closed) => {
                    self.closed = true;
                    return Poll::Ready(Err(StoreError::Closed));
                }
            }
        }
        Pin::new(&mut self.answer)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}
