//! Futures that are looked at only when they ask for it.
//!
//! A session wakes for every packet, and hardly ever for anything else: a ban, the chain, a deadline. Each look at what waits for those costs
//! locks that others may hold. So they get a waker of their own, and as long as that has not been used nothing is looked at.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// What wakes a session for what happens seldom. One for each session, however often it waits anew.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    session: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the waker is taken: whoever puts a new one there looks at this afterwards.
        self.rung.store(true, Ordering::SeqCst);
        self.session.wake();
    }
}

/// A future that is polled when its bell has rung, and when it is waited for anew.
#[derive(Debug)]
pub(super) struct Seldom<'a, F> {
    future: Pin<&'a mut F>,
    bell: &'a Arc<Bell>,
    /// Who was told of last; `None` before the first look.
    session: Option<Waker>,
}

impl<'a, F> Seldom<'a, F> {
    pub(super) fn new(future: Pin<&'a mut F>, bell: &'a Arc<Bell>) -> Self {
        Self { future, bell, session: None }
    }
}

impl<F: Future> Future for Seldom<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let is_same = self.session.as_ref().is_some_and(|last| last.will_wake(cx.waker()));
        if is_same && !self.bell.rung.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        // In this order: a bell that rings in between has taken the waker away, so it must not be forgotten that it rang.
        self.bell.rung.store(false, Ordering::SeqCst);
        self.bell.session.register(cx.waker());
        self.session = Some(cx.waker().clone());
        let waker = Waker::from(self.bell.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_looked_at_once_and_then_when_it_asks_for_it() {
        let looks = AtomicU32::new(0);
        let waiting = std::sync::Mutex::new(None::<Waker>);
        let future = poll_fn(|cx| {
            *waiting.lock().expect("no panic") = Some(cx.waker().clone());
            match looks.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Poll::Pending,
                looks => Poll::Ready(looks),
            }
        });
        let bell = Arc::default();
        let future = pin!(future);
        let mut seldom = Seldom::new(future, &bell);
        for _ in 0..5 {
            assert_eq!(futures::poll!(&mut seldom), Poll::Pending);
        }
        assert_eq!(looks.load(Ordering::SeqCst), 1);
        let ring = || waiting.lock().expect("no panic").clone().expect("a waker").wake();
        ring();
        for _ in 0..5 {
            assert_eq!(futures::poll!(&mut seldom), Poll::Pending);
        }
        assert_eq!(looks.load(Ordering::SeqCst), 2);
        ring();
        assert_eq!(futures::poll!(&mut seldom), Poll::Ready(2));
    }

    /// Another thread rings at random moments, mostly for nothing, as what gets on without being ready does; a ring that got lost would leave
    /// the session asleep.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_ring_is_lost_while_another_is_answered() {
        let bell = Arc::default();
        for _ in 0..5_000 {
            let (rings, waiting) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicWaker::new()));
            let (ringing, woken) = (rings.clone(), waiting.clone());
            let thread = tokio::task::spawn_blocking(move || {
                for _ in 0..8 {
                    ringing.fetch_add(1, Ordering::SeqCst);
                    woken.wake();
                    std::hint::spin_loop();
                }
            });
            let future = pin!(poll_fn(|cx| {
                waiting.register(cx.waker());
                if rings.load(Ordering::SeqCst) < 8 { Poll::Pending } else { Poll::Ready(()) }
            }));
            let waited = tokio::time::timeout(Duration::from_secs(10), Seldom::new(future, &bell));
            waited.await.expect("a ring was lost");
            thread.await.expect("no panic");
        }
    }

    /// The same with what is ready at once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_ring_is_lost_whenever_it_comes() {
        let (bell, told) = (Arc::default(), Arc::new(tokio::sync::Notify::new()));
        for round in 0..20_000_u32 {
            let notified = told.clone();
            let ringing = tokio::spawn(async move {
                for _ in 0..round % 7 {
                    tokio::task::yield_now().await;
                }
                notified.notify_one();
            });
            let future = pin!(told.notified());
            let waited = tokio::time::timeout(Duration::from_secs(10), Seldom::new(future, &bell));
            waited.await.expect("a ring was lost");
            ringing.await.expect("no panic");
        }
    }
}
