//! Counts what one future allocates: the proof, in the very binary that runs, that the data plane
//! allocates nothing for a packet (`crabmesh bench`).
//!
//! A binary that wants it makes [`Counting`] its global allocator; every allocation then costs one
//! more load of a thread-local flag, and is counted only inside a [`Counted`] future's poll.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// The system's allocator, counting.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

/// A future whose polls count what they allocate.
pub struct Counted<F>(Pin<Box<F>>);

impl<F: Future> Counted<F> {
    /// Wraps a future.
    pub fn new(future: F) -> Self {
        Self(Box::pin(future))
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let before = INSIDE.replace(true);
        let polled = self.0.as_mut().poll(cx);
        INSIDE.set(before);
        polled
    }
}

/// Allocations inside all [`Counted`] futures of this process so far.
pub fn counted() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static COUNT: AtomicU64 = AtomicU64::new(0);

fn count() {
    // A thread that ends allocates nothing that is asked about.
    if INSIDE.try_with(Cell::get).unwrap_or(false) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: all is left to the system's allocator; counting touches an atomic and a thread-local
// cell without a destructor, and never allocates.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}
