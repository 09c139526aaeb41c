//! On whose behalf threads of the kernel act: what a program left to one is done with that program's identity, also
//! where nothing that is passed along says who calls (`SO_PEERCRED`, `SCM_CREDENTIALS`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use arch::lock::{LockClass, SpinLock};

use crate::Creds;

static CLASS: LockClass = LockClass::new("vfs.acting", 595);

/// A process that left something to be done.
pub trait Actor: Send + Sync {
    /// The process; what is inside is the business of the layer above.
    fn process(&self) -> &Arc<dyn Any + Send + Sync>;

    /// Its credentials.
    fn creds(&self) -> &Arc<Creds>;
}

type Acting = Vec<(u64, Arc<dyn Actor>)>;

const PARTS: usize = 16;

/// The threads that act for somebody, by their numbers: some of them under each lock.
static ACTING: [SpinLock<Acting>; PARTS] = [const { SpinLock::new(&CLASS, Acting::new()) }; PARTS];

fn part(thread: u64) -> &'static SpinLock<Acting> {
    let [first, ..] = &ACTING;
    ACTING.get(thread as usize % PARTS).unwrap_or(first)
}

/// Does something on behalf of `actor`: for threads of the kernel, as a task is itself whatever it does.
pub fn act_as<R>(actor: Arc<dyn Actor>, work: impl FnOnce() -> R) -> R {
    let thread = sched::current().id;
    part(thread).lock().push((thread, actor));
    let result = work();
    let mut acting = part(thread).lock();
    let last = acting.iter().rposition(|(other, _)| *other == thread);
    let gone = last.map(|at| acting.remove(at));
    drop(acting);
    drop(gone);
    result
}

/// On whose behalf the running thread acts.
pub fn actor() -> Option<Arc<dyn Actor>> {
    let thread = sched::try_current()?.id;
    let acting = part(thread).lock();
    acting.iter().rfind(|(other, _)| *other == thread).map(|(_, actor)| actor.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserNamespace;

    struct Someone(Arc<dyn Any + Send + Sync>, Arc<Creds>);

    impl Actor for Someone {
        fn process(&self) -> &Arc<dyn Any + Send + Sync> {
            &self.0
        }
        fn creds(&self) -> &Arc<Creds> {
            &self.1
        }
    }

    fn number() -> Option<u32> {
        actor()?.process().downcast_ref().copied()
    }

    #[test]
    fn a_thread_acts_for_the_last_it_was_told_of() {
        let someone = |number: u32| {
            Arc::new(Someone(Arc::new(number), Arc::new(Creds::root(UserNamespace::initial()))))
        };
        assert_eq!(number(), None);
        act_as(someone(1), || {
            assert_eq!(number(), Some(1));
            act_as(someone(2), || assert_eq!(number(), Some(2)));
            assert_eq!(number(), Some(1));
            let other = std::thread::spawn(number).join().unwrap();
            assert_eq!(other, None);
        });
        assert_eq!(number(), None);
    }
}
