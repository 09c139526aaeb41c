//! A processor in virtual time, for tests: queues are vectors, threads never sleep.

use crate::{
    Account, Class, Enqueue, Params, Place, Policy, Preemption, Queueing, Timeline, Tunables,
};
use std::vec::Vec;

static TUNABLES: Tunables = Tunables::new();

struct Machine {
    line: Timeline,
    accounts: Vec<Account>,
    fair: Vec<usize>,
    realtime: Vec<usize>,
    running: Option<usize>,
    now: u64,
}

impl Machine {
    fn new(threads: &[Params]) -> Machine {
        let mut machine = Machine {
            line: Timeline::new(0, &TUNABLES),
            accounts: Vec::new(),
            fair: Vec::new(),
            realtime: Vec::new(),
            running: None,
            now: 1_000_000,
        };
        for params in threads {
            machine.add(*params);
        }
        machine
    }

    fn add(&mut self, params: Params) -> usize {
        let mut account = Account::new();
        account.set_params(params);
        self.update();
        let class = self.line.arrive(&mut account, Enqueue::New);
        self.accounts.push(account);
        let index = self.accounts.len() - 1;
        match class {
            Class::Fair => self.fair.push(index),
            Class::Realtime => self.realtime.push(index),
        }
        index
    }

    fn first_fair(&self) -> Option<usize> {
        self.fair
            .iter()
            .copied()
            .reduce(|a, b| if self.accounts[b].is_before(&self.accounts[a]) { b } else { a })
    }

    fn first_vruntime(&self) -> Option<u64> {
        self.first_fair().map(|index| self.accounts[index].vruntime)
    }

    fn best(&self) -> Option<u8> {
        self.realtime.iter().map(|index| self.accounts[*index].params.rt_priority).max()
    }

    fn update(&mut self) {
        let first = self.first_vruntime();
        let running = self.running.and_then(|index| self.accounts.get_mut(index));
        self.line.update(self.now, running, || first);
    }

    fn choose(&mut self) {
        let first = self.first_vruntime();
        if let Some(index) = self.running {
            if self.line.stays(&mut self.accounts[index], || first) {
                return;
            }
            match self.line.put_back(&mut self.accounts[index], || first) {
                Queueing::Fair => self.fair.push(index),
                Queueing::RealtimeHead => self.realtime.insert(0, index),
                Queueing::RealtimeTail => self.realtime.push(index),
            }
            self.accounts[index].yielded = false;
        }
        self.running = match self.line.next_class() {
            Class::Realtime => {
                let best = self.best();
                let is_best = |i: &usize| Some(self.accounts[*i].params.rt_priority) == best;
                self.realtime.iter().position(is_best).map(|at| self.realtime.remove(at))
            }
            Class::Fair => {
                let next = self.first_fair();
                self.fair.retain(|index| Some(*index) != next);
                next
            }
        };
        if let Some(index) = self.running {
            self.line.picked(&mut self.accounts[index]);
            assert_eq!(self.accounts[index].place, Place::Running);
        }
    }

    /// Chooses anew and runs for a time.
    fn run(&mut self, ns: u64) {
        self.choose();
        self.run_on(ns);
    }

    /// Runs for a time; the timer fires when it was set to.
    fn run_on(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            let running = self.running.map(|index| &self.accounts[index]);
            let slice = running.and_then(|account| self.line.slice_end_ns(account, self.best()));
            self.now = slice.unwrap_or(end).clamp(self.now + 1, end);
            self.update();
            let running = self.running.map(|index| &self.accounts[index]);
            if running.is_some_and(|account| self.line.slice_is_over(account, self.best())) {
                self.choose();
            }
        }
    }

    /// The running thread sleeps.
    fn sleep(&mut self) -> usize {
        self.update();
        let sleeper = self.running.take().expect("one runs");
        self.line.leave(&mut self.accounts[sleeper]);
        self.choose();
        sleeper
    }

    /// A fair thread that sleeps wakes: when it gets the processor.
    fn wake(&mut self, sleeper: usize) -> Preemption {
        self.update();
        assert_eq!(self.line.arrive(&mut self.accounts[sleeper], Enqueue::Wakeup), Class::Fair);
        self.fair.push(sleeper);
        let running = self.running.expect("one runs");
        self.line.contend(&self.accounts[running], &self.accounts[sleeper], false)
    }

    fn set_running_params(&mut self, params: Params) {
        self.update();
        let running = self.running.and_then(|index| self.accounts.get_mut(index));
        self.line.set_params(running.expect("one runs"), params);
    }

    fn share(&self, index: usize) -> f64 {
        let total: u64 = self.accounts.iter().map(|account| account.run_ns).sum();
        self.accounts[index].run_ns as f64 / total as f64
    }
}

fn fair(nice: i8) -> Params {
    Params { nice, ..Params::default() }
}

fn realtime(policy: Policy, rt_priority: u8) -> Params {
    Params { policy, nice: 0, rt_priority }
}

#[test]
fn shares_follow_weights() {
    let mut machine = Machine::new(&[fair(0), fair(0), fair(5)]);
    machine.run(3_000_000_000);
    // sched(7): each step of nice is a factor of about 1.25.
    let expected = [1024.0, 1024.0, 335.0].map(|weight| weight / 2383.0);
    for (index, expected) in expected.into_iter().enumerate() {
        assert!(
            (machine.share(index) - expected).abs() < 0.02,
            "{index}: {}",
            machine.share(index)
        );
    }
    assert_eq!((machine.line.nr_running(), machine.line.nr_waiting()), (3, 2));
}

#[test]
fn real_time_leaves_a_part() {
    let mut machine =
        Machine::new(&[fair(0), realtime(Policy::Fifo, 10), realtime(Policy::Fifo, 20)]);
    machine.run(4_000_000_000);
    // Of each period of a second 50 ms are left; the lower priority never runs.
    assert!((machine.share(0) - 0.05).abs() < 0.02, "{}", machine.share(0));
    assert_eq!(machine.accounts[1].run_ns, 0);
}

#[test]
fn equals_of_real_time_take_turns() {
    let mut machine =
        Machine::new(&[realtime(Policy::RoundRobin, 5), realtime(Policy::RoundRobin, 5)]);
    machine.run(2_000_000_000);
    assert!((machine.share(0) - 0.5).abs() < 0.06, "{}", machine.share(0));
    assert!(machine.accounts[0].picks >= 9, "{}", machine.accounts[0].picks);
}

#[test]
fn a_newcomer_waits_its_turn() {
    let mut machine = Machine::new(&[fair(0)]);
    machine.run(100_000_000);
    let new = machine.add(fair(0));
    let account = machine.accounts[new].clone();
    let running = machine.running.map(|index| machine.accounts[index].clone());
    let running = running.expect("one runs");
    assert_eq!(machine.line.contend(&running, &account, false), Preemption::InTurn);
    let soldier = machine.add(realtime(Policy::Fifo, 1));
    let (running, soldier) = (&machine.accounts[0], &machine.accounts[soldier]);
    assert_eq!(machine.line.contend(running, soldier, false), Preemption::Now);
}

#[test]
fn who_was_picked_has_the_least_of_its_turn() {
    let mut machine = Machine::new(&[fair(0), fair(0), fair(0)]);
    machine.run(60_000_000);
    let sleepers = [machine.sleep(), machine.sleep()];
    let worker = machine.running;
    machine.run(60_000_000);
    // It has run for long: who slept comes at once.
    assert_eq!(machine.wake(sleepers[0]), Preemption::Now);
    machine.choose();
    assert_eq!(machine.sleep(), sleepers[0]);
    assert_eq!(machine.running, worker);
    machine.run_on(30_000);
    assert_eq!(machine.wake(sleepers[0]), Preemption::Soon);
    assert_eq!(machine.wake(sleepers[1]), Preemption::InTurn);
    // To choose again changes nothing before the end of the turn, which is the end of the slice as well.
    machine.choose();
    machine.run_on(69_000);
    assert_eq!(machine.running, worker);
    machine.run_on(2_000);
    assert_eq!(machine.running, Some(sleepers[0]));
}

#[test]
fn who_yields_gives_up_its_turn() {
    let mut machine = Machine::new(&[fair(0), fair(0)]);
    machine.run(60_000_000);
    let sleeper = machine.sleep();
    let worker = machine.running.expect("one runs");
    machine.run(60_000_000);
    assert_eq!(machine.wake(sleeper), Preemption::Now);
    machine.choose();
    machine.sleep();
    assert_eq!(machine.wake(sleeper), Preemption::Soon);
    machine.accounts[worker].yielded = true;
    machine.choose();
    assert_eq!(machine.running, Some(sleeper));
}

#[test]
fn who_was_real_time_does_not_catch_up() {
    let mut machine = Machine::new(&[fair(0), fair(0)]);
    machine.run(1_000_000_000);
    let soldier = machine.running.expect("one runs");
    machine.set_running_params(realtime(Policy::Fifo, 10));
    // The other gets a twentieth of it, and has run far longer in virtual time than the soldier.
    machine.run(20_000_000_000);
    while machine.running != Some(soldier) {
        machine.run(1_000_000);
    }
    machine.set_running_params(fair(0));
    let before: Vec<u64> = machine.accounts.iter().map(|account| account.run_ns).collect();
    machine.run(1_000_000_000);
    for (account, before) in machine.accounts.iter().zip(before) {
        let share = (account.run_ns - before) as f64 / 1e9;
        assert!((share - 0.5).abs() < 0.05, "{share}");
    }
}
