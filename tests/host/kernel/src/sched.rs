// SPDX-License-Identifier: GPL-2.0

//! Threads of which one runs at a time.
//!
//! [`run`] starts threads and lets one of them go on, then another, chosen by a random number that the seed
//! decides. They change where they could meet: each lock, wait, atomic access and service of the stand-in host is a
//! [`yield_point`]. So a failure comes again with its seed, and two threads that wait for each other are found.
//!
//! A thread outside [`run`] is alone. Where it waits, what waits its turn is done by the hook of [`set_idle`]: the
//! clock goes on, say. If that does nothing, nobody will ever end the wait, and it panics.

use core::cell::{Cell, RefCell};
use std::boxed::Box;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What a thread that cannot go on says of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Ready,
    Waits(&'static str),
    Done,
}

struct State {
    running: Option<usize>,
    threads: Vec<Status>,
    random: u64,
    /// Who goes on at each [`yield_point`].
    undisturbed: Option<usize>,
    /// How often in a row somebody looked in vain for what it waits for.
    in_vain: usize,
    /// How often nobody could go on.
    idles: usize,
    /// A thread has panicked: the others go, too.
    is_over: bool,
}

struct Sched {
    state: Mutex<State>,
    changed: Condvar,
}

/// How often nobody may be able to go on: timers fire for ever.
const MOST_IDLE: usize = 5_000;

type Idle = Arc<dyn Fn() -> bool + Send + Sync>;

thread_local! {
    static ME: RefCell<Option<(Arc<Sched>, usize)>> = const { RefCell::new(None) };
    static IDLE: RefCell<Option<Idle>> = const { RefCell::new(None) };
    static IDLES: Cell<usize> = const { Cell::new(0) };
    /// What the thread waits for, while it looks whether that is there.
    static LOOKS_FOR: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// What is thrown in the other threads once one has panicked.
struct Over;

impl Sched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets another thread run, maybe, and returns when it is the caller's turn again.
    fn switch(&self, me: usize, status: Status) {
        let mut state = self.state();
        state.threads[me] = status;
        state.choose();
        self.changed.notify_all();
        self.wait_for_turn(state, me);
    }

    fn wait_for_turn(&self, mut state: MutexGuard<'_, State>, me: usize) {
        while state.running != Some(me) && !state.is_over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_over = state.is_over;
        drop(state);
        if is_over && !std::thread::panicking() {
            resume_unwind(Box::new(Over));
        }
    }
}

impl State {
    fn next(&mut self) -> u64 {
        // Marsaglia, "Xorshift RNGs".
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Chooses who runs next.
    fn choose(&mut self) {
        let ready = |s: &Status| *s == Status::Ready;
        let waits = |s: &Status| matches!(s, Status::Waits(_));
        let looks = !self.threads.iter().any(ready) || self.next() % 4 == 0;
        let may = |s: &Status| ready(s) || (looks && waits(s));
        let them: Vec<usize> = (0..self.threads.len()).filter(|i| may(&self.threads[*i])).collect();
        self.running = match them.len() {
            0 => None,
            n => {
                let i = self.next() as usize % n;
                Some(them[i])
            }
        };
    }

    fn waiting(&self) -> usize {
        self.threads.iter().filter(|s| matches!(s, Status::Waits(_))).count()
    }
}

fn with_me<R>(f: impl FnOnce(&Arc<Sched>, usize) -> R) -> Option<R> {
    let me = ME.with(|m| m.borrow().clone());
    me.map(|(sched, me)| f(&sched, me))
}

/// Another thread may run here.
pub fn yield_point() {
    if std::thread::panicking() {
        return;
    }
    let looks_for = LOOKS_FOR.get();
    with_me(|sched, me| {
        let stays = {
            let mut state = sched.state();
            // Who only looks does not get on: where all do no more, they wait for each other.
            if looks_for.is_none() {
                state.in_vain = 0;
            }
            let is_undisturbed = looks_for.is_none() && state.undisturbed == Some(me);
            (is_undisturbed || state.next() % 2 == 0) && !state.is_over
        };
        if !stays {
            sched.switch(me, looks_for.map_or(Status::Ready, Status::Waits));
        }
    });
}

/// Returns whether `ready()`.
fn is_there(what: &'static str, ready: impl Fn() -> bool) -> bool {
    let before = LOOKS_FOR.replace(Some(what));
    let is_there = ready();
    LOOKS_FOR.set(before);
    is_there
}

/// Calls `f` while no other thread runs, unless this one waits: the others are slow, just now.
pub fn undisturbed<R>(f: impl FnOnce() -> R) -> R {
    let set = |on: bool| with_me(|sched, me| sched.state().undisturbed = on.then_some(me));
    set(true);
    let done = f();
    set(false);
    done
}

/// Waits until `ready()`. `what` is waited for.
///
/// # Panics
/// Where nothing will ever make it so.
#[track_caller]
pub fn wait_until(what: &'static str, ready: impl Fn() -> bool) {
    if with_me(|_, _| ()).is_none() {
        while !ready() {
            assert!(idle(), "nobody will ever end the wait for {what}");
        }
        return;
    }
    yield_point();
    // Who unwinds waits for nobody: the others go as well.
    while !std::thread::panicking() && !is_there(what, &ready) {
        let is_stuck = with_me(|sched, me| {
            let mut state = sched.state();
            state.in_vain += 1;
            let nobody = !state.threads.iter().enumerate().any(|(i, s)| i != me && *s == Status::Ready);
            let stuck = nobody && state.in_vain > 64 * (state.waiting() + 1);
            if stuck {
                state.in_vain = 0;
                state.idles += 1;
                assert!(state.idles < MOST_IDLE, "time goes on, and all wait: {what}");
            }
            stuck
        });
        if is_stuck == Some(true) && !idle() {
            let who = with_me(|sched, _| {
                let waits = |s: &Status| if let Status::Waits(what) = s { Some(*what) } else { None };
                sched.state().threads.iter().filter_map(waits).collect::<Vec<_>>()
            });
            if std::thread::panicking() {
                return;
            }
            panic!("all threads wait: for {what}, {who:?}");
        }
        with_me(|sched, me| sched.switch(me, Status::Waits(what)));
    }
    with_me(|sched, me| {
        let mut state = sched.state();
        state.threads[me] = Status::Ready;
        state.in_vain = 0;
    });
}

/// Sets what the calling thread does when it waits and nobody else can go on. It says whether it has done something.
pub fn set_idle(hook: Option<Idle>) {
    IDLE.with(|i| *i.borrow_mut() = hook);
    IDLES.with(|n| n.set(0));
}

fn idle() -> bool {
    let hook = IDLE.with(|i| i.borrow().clone());
    if IDLES.with(|n| n.replace(n.get() + 1)) > MOST_IDLE {
        return false;
    }
    hook.is_some_and(|hook| hook())
}

/// A thread of [`run`].
pub type Body<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs threads in an order that `seed` decides, until all have ended.
///
/// # Panics
/// As the first of them that does.
pub fn run(seed: u64, bodies: Vec<Body<'_>>) {
    let state = State {
        running: None,
        threads: vec![Status::Ready; bodies.len()],
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        undisturbed: None,
        in_vain: 0,
        idles: 0,
        is_over: false,
    };
    let sched = Arc::new(Sched { state: Mutex::new(state), changed: Condvar::new() });
    sched.state().choose();
    let first = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(bodies)
            .map(|(me, body)| {
                scope.spawn({
                    let sched = sched.clone();
                    move || start(&sched, me, body)
                })
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().unwrap_or_else(Some)).next()
    });
    if let Some(why) = first {
        std::eprintln!("with seed {seed}");
        resume_unwind(why);
    }
}

/// Runs one thread. Returns why it panicked.
fn start(sched: &Arc<Sched>, me: usize, body: Body<'_>) -> Option<Box<dyn std::any::Any + Send>> {
    ME.with(|m| *m.borrow_mut() = Some((sched.clone(), me)));
    let done = catch_unwind(AssertUnwindSafe(|| {
        sched.wait_for_turn(sched.state(), me);
        body();
    }));
    let mut state = sched.state();
    state.threads[me] = Status::Done;
    state.is_over |= done.is_err();
    state.in_vain = 0;
    state.choose();
    sched.changed.notify_all();
    drop(state);
    ME.with(|m| *m.borrow_mut() = None);
    done.err().filter(|why| !why.is::<Over>())
}
