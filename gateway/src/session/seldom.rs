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
    /// What happens in the middle of the next look.
    #[cfg(test)]
    meanwhile: std::sync::Mutex<Option<Happening>>,
}

#[cfg(test)]
type Happening = fn(&Arc<Bell>);

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
        #[cfg(test)]
        if let Some(happens) = self.bell.meanwhile.lock().expect("no panic").take() {
            happens(self.bell);
        }
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

    #[test]
    fn a_ring_in_the_middle_of_a_look_leaves_the_session_one_that_can_be_woken() {
        #[derive(Default)]
        struct Session(AtomicBool);
        impl Wake for Session {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (bell, session) = (Arc::<Bell>::default(), Arc::<Session>::default());
        let waker = Waker::from(session.clone());
        let mut cx = Context::from_waker(&waker);
        let future = pin!(std::future::pending::<()>());
        let mut seldom = pin!(Seldom::new(future, &bell));
        *bell.meanwhile.lock().expect("no panic") = Some(Bell::wake_by_ref);
        for _ in 0..2 {
            // The second as the ring has caused it; both lead to nothing yet.
            assert_eq!(seldom.as_mut().poll(&mut cx), Poll::Pending);
        }
        session.0.store(false, Ordering::SeqCst);
        bell.wake_by_ref();
        assert!(session.0.load(Ordering::SeqCst), "nobody is woken any more");
    }

    /// Another thread rings at random moments; a ring that got lost would leave the session asleep.
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
