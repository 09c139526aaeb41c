//! A drive that remembers what was written and when it was flushed, and what it may hold after its
//! power was cut at any moment.

use std::sync::{Arc, Mutex};

use block::{BioFlags, Driver, Limits, Op, Request};

/// What the drive was asked to do.
pub(crate) enum Event {
    /// Bytes to an offset; durable at once with `fua`.
    Write { at: usize, bytes: Vec<u8>, fua: bool },
    /// All writes before are durable.
    Flush,
}

/// The drive.
pub(crate) struct Recorder {
    state: Mutex<State>,
    /// It writes so many bytes together or not at all.
    unit: usize,
}

struct State {
    before: Vec<u8>,
    now: Vec<u8>,
    events: Vec<Event>,
    /// Requests that change something fail from this event on.
    fails_at: usize,
}

impl Recorder {
    pub(crate) fn new(contents: Vec<u8>, unit: usize) -> Arc<Recorder> {
        let before = contents.clone();
        let state = State { before, now: contents, events: Vec::new(), fails_at: usize::MAX };
        Arc::new(Recorder { state: Mutex::new(state), unit })
    }

    /// How many events there were.
    pub(crate) fn position(&self) -> usize {
        self.state.lock().unwrap().events.len()
    }

    /// Gives its memory back: the file system that was on it may live on.
    pub(crate) fn empty(&self) {
        let mut state = self.state.lock().unwrap();
        (state.before, state.now, state.events) = (Vec::new(), Vec::new(), Vec::new());
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        self.state.lock().unwrap().now.clone()
    }

    /// Lets everything that changes something fail from now on, or not any more.
    pub(crate) fn fail(&self, fails: bool) {
        let mut state = self.state.lock().unwrap();
        state.fails_at = if fails { state.events.len() } else { usize::MAX };
    }

    /// What the drive holds if its power is cut after `position` events: what was durable, and those
    /// parts of the rest that `keeps` picks. Parts of later writes do not come before parts of earlier
    /// ones to the same place.
    pub(crate) fn cut(&self, position: usize, keeps: &mut dyn FnMut() -> bool) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let events = &state.events[..position];
        let flushed = events.iter().rposition(|event| matches!(event, Event::Flush));
        let flushed = flushed.map_or(0, |at| at + 1);
        let mut image = state.before.clone();
        for (index, event) in events.iter().enumerate() {
            let Event::Write { at, bytes, fua } = event else { continue };
            let is_durable = index < flushed || *fua;
            for (number, part) in bytes.chunks(self.unit).enumerate() {
                if is_durable || keeps() {
                    let at = at + number * self.unit;
                    image[at..at + part.len()].copy_from_slice(part);
                }
            }
        }
        image
    }
}

impl Recorder {
    /// Commit blocks of a journal that were written, and those of them behind whose first sector something
    /// else was than they bring.
    pub(crate) fn commits(&self) -> (usize, usize) {
        // The journal's magic number, and the kind of block.
        const COMMIT: [u8; 8] = [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2];
        let state = self.state.lock().unwrap();
        let (mut image, mut count, mut torn) = (state.before.clone(), 0, 0);
        for event in &state.events {
            let Event::Write { at, bytes, .. } = event else { continue };
            let place = &mut image[*at..*at + bytes.len()];
            if bytes.starts_with(&COMMIT) {
                count += 1;
                torn += usize::from(place[512..] != bytes[512..]);
            }
            place.copy_from_slice(bytes);
        }
        (count, torn)
    }
}

impl Driver for Recorder {
    fn limits(&self) -> Limits {
        Limits { write_cache: true, fua: true, ..Limits::default() }
    }

    fn submit(&self, _queue: usize, request: Request) -> core::result::Result<(), Request> {
        let mut state = self.state.lock().unwrap();
        let at = (request.sector() * 512) as usize;
        let mut result = Ok(());
        match request.op() {
            Op::Read => {
                let mut place = at;
                for segment in request.segments() {
                    let len = segment.len as usize;
                    segment.page.copy_in(segment.offset as usize, &state.now[place..place + len]);
                    place += len;
                }
            }
            _ if state.events.len() >= state.fails_at => result = Err(abi::Errno::EIO),
            Op::Write => {
                let mut bytes = Vec::new();
                for segment in request.segments() {
                    let mut part = vec![0; segment.len as usize];
                    segment.page.copy_out(segment.offset as usize, &mut part);
                    bytes.extend(part);
                }
                state.now[at..at + bytes.len()].copy_from_slice(&bytes);
                let fua = request.flags().contains(BioFlags::FUA);
                state.events.push(Event::Write { at, bytes, fua });
            }
            Op::Flush => state.events.push(Event::Flush),
            _ => result = Err(abi::Errno::EOPNOTSUPP),
        }
        drop(state);
        request.complete(result);
        Ok(())
    }
}
