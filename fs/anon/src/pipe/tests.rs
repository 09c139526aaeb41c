//! Pipes and what waits for them, on threads of the host.

use alloc::sync::Arc;
use std::thread;

use abi::Errno;
use abi::fcntl::*;
use abi::poll::*;
use arch::uio::{Sink, Source};
use vfs::rw::{self, At};
use vfs::{Context, Creds, File, FsPaths, KernelCaller, MountNamespace, UserNamespace};

struct World {
    creds: Arc<Creds>,
    mounts: Arc<MountNamespace>,
    paths: FsPaths,
}

impl World {
    fn new() -> World {
        frames::init_host(64 << 20);
        let user_ns = UserNamespace::initial();
        let sb = tmpfs::create("tmpfs", tmpfs::Options::default(), (0, 0)).unwrap();
        let mounts = MountNamespace::with_root(3, user_ns.clone(), &sb, b"t", 0).unwrap();
        let root = mounts.root_path().unwrap();
        let creds = Arc::new(Creds::root(user_ns));
        World { creds, mounts, paths: FsPaths { root: root.clone(), cwd: root } }
    }

    fn ctx(&self) -> Context<'_> {
        Context {
            creds: &self.creds,
            root: &self.paths.root,
            cwd: &self.paths.cwd,
            umask: 0,
            mounts: &self.mounts,
            caller: &KernelCaller,
        }
    }

    fn write(&self, file: &File, bytes: &[u8]) -> abi::Result<usize> {
        rw::write(&self.ctx(), file, At::Position, &mut Source::kernel(bytes), 0)
    }

    fn read(&self, file: &File, len: usize) -> abi::Result<Vec<u8>> {
        let mut buffer = vec![0; len];
        let count = rw::read(file, At::Position, &mut Sink::kernel(&mut buffer))?;
        buffer.truncate(count);
        Ok(buffer)
    }
}

#[test]
fn bytes_pass_in_order_and_ends_are_seen() {
    let world = World::new();
    let (read, write) = super::pipe(&world.ctx(), 0).unwrap();
    assert_eq!(world.write(&write, b"hello "), Ok(6));
    assert_eq!(world.write(&write, b"world"), Ok(5));
    assert_eq!(world.read(&read, 100).unwrap(), b"hello world");
    drop(write);
    assert_eq!(read.poll(None), POLLHUP);
    assert_eq!(world.read(&read, 1).unwrap(), b"");
    let (read, write) = super::pipe(&world.ctx(), 0).unwrap();
    drop(read);
    assert_eq!(world.write(&write, b"x"), Err(Errno::EPIPE));
}

#[test]
fn a_full_pipe_holds_64_kib_and_blocks() {
    let world = World::new();
    let (read, write) = super::pipe(&world.ctx(), O_NONBLOCK).unwrap();
    assert_eq!(world.read(&read, 1), Err(Errno::EAGAIN));
    assert_eq!(world.write(&write, &[7; 100_000]), Ok(65536));
    assert_eq!(world.write(&write, b"x"), Err(Errno::EAGAIN));
    assert_eq!(write.poll(None) & POLLOUT, 0);
    assert_eq!(world.read(&read, 4096).unwrap().len(), 4096);
    assert_ne!(write.poll(None) & POLLOUT, 0);
}

#[test]
fn a_writer_and_a_reader_on_two_threads() {
    let world = Arc::new(World::new());
    let (read, write) = super::pipe(&world.ctx(), 0).unwrap();
    let other = world.clone();
    let writer = thread::spawn(move || {
        for i in 0..200u32 {
            let chunk = vec![i as u8; 3000];
            assert_eq!(other.write(&write, &chunk), Ok(3000));
        }
    });
    let mut total = 0;
    loop {
        let bytes = world.read(&read, 5000).unwrap();
        if bytes.is_empty() {
            break;
        }
        for byte in &bytes {
            assert_eq!(*byte, (total / 3000) as u8);
            total += 1;
        }
    }
    writer.join().unwrap();
    assert_eq!(total, 600_000);
}

#[test]
fn packets_keep_their_borders() {
    let world = World::new();
    let (read, write) = super::pipe(&world.ctx(), O_DIRECT).unwrap();
    world.write(&write, b"one").unwrap();
    world.write(&write, b"twotwo").unwrap();
    assert_eq!(world.read(&read, 100).unwrap(), b"one");
    assert_eq!(world.read(&read, 3).unwrap(), b"two");
    world.write(&write, b"3").unwrap();
    assert_eq!(world.read(&read, 100).unwrap(), b"3");
}

#[test]
fn epoll_reports_levels_edges_and_once() {
    let world = World::new();
    let ctx = world.ctx();
    let (read, write) = super::pipe(&ctx, O_NONBLOCK).unwrap();
    let file = crate::epoll::create(&ctx).unwrap();
    let epoll = crate::epoll::epoll_of(&file).unwrap();
    let now = || {
        let mut got = Vec::new();
        let mut give = |events: &[EpollEvent]| {
            got.extend(events.iter().map(|event| (event.events, event.data[0])));
            events.len()
        };
        epoll.wait(8, None, true, &mut give).unwrap();
        got
    };
    epoll.control(EPOLL_CTL_ADD, 5, &read, POLLIN, 42).unwrap();
    assert_eq!(epoll.control(EPOLL_CTL_ADD, 5, &read, POLLIN, 1), Err(Errno::EEXIST));
    assert_eq!(epoll.control(EPOLL_CTL_ADD, 6, &file, POLLIN, 1), Err(Errno::EINVAL));
    assert!(now().is_empty());
    world.write(&write, b"ab").unwrap();
    assert_eq!(now(), [(POLLIN, 42)]);
    assert_eq!(now(), [(POLLIN, 42)]);
    epoll.control(EPOLL_CTL_MOD, 5, &read, POLLIN | EPOLLET, 43).unwrap();
    assert_eq!(now(), [(POLLIN, 43)]);
    assert!(now().is_empty());
    world.write(&write, b"c").unwrap();
    assert_eq!(now(), [(POLLIN, 43)]);
    epoll.control(EPOLL_CTL_MOD, 5, &read, POLLIN | EPOLLONESHOT, 44).unwrap();
    assert_eq!(now(), [(POLLIN, 44)]);
    world.write(&write, b"d").unwrap();
    assert!(now().is_empty());
    let outer_file = crate::epoll::create(&ctx).unwrap();
    let outer = crate::epoll::epoll_of(&outer_file).unwrap();
    outer.control(EPOLL_CTL_ADD, 1, &file, POLLIN, 9).unwrap();
    assert_eq!(epoll.control(EPOLL_CTL_ADD, 2, &outer_file, POLLIN, 9), Err(Errno::ELOOP));
    drop(read);
    assert_eq!(epoll.control(EPOLL_CTL_DEL, 5, &write, 0, 0), Err(Errno::ENOENT));
}

#[test]
fn epoll_wakes_for_a_write() {
    let world = Arc::new(World::new());
    let (read, write) = super::pipe(&world.ctx(), 0).unwrap();
    let other = world.clone();
    let writer = thread::spawn(move || {
        thread::sleep(std::time::Duration::from_millis(20));
        other.write(&write, b"x").unwrap();
        write
    });
    let file = crate::epoll::create(&world.ctx()).unwrap();
    let epoll = crate::epoll::epoll_of(&file).unwrap();
    epoll.control(EPOLL_CTL_ADD, 5, &read, POLLIN, 42).unwrap();
    let mut give = |events: &[EpollEvent]| {
        assert_eq!(
            events.iter().map(|e| (e.events, e.data)).collect::<Vec<_>>(),
            [(POLLIN, [42, 0])]
        );
        events.len()
    };
    assert_eq!(epoll.wait(8, None, false, &mut give), Ok(1));
    writer.join().unwrap();
}

#[test]
fn splice_moves_pages_of_a_file() {
    let world = World::new();
    let ctx = world.ctx();
    let file = tmpfs::memfd_create(&ctx, b"x", 0).unwrap();
    world.write(&file, &[9; 10_000]).unwrap();
    let (read, write) = super::pipe(&ctx, 0).unwrap();
    let moved = super::splice::splice(&ctx, &file, At::Offset(100), &write, At::Position, 9000, 0);
    assert_eq!(moved, Ok(9000));
    assert_eq!(world.read(&read, 20_000).unwrap(), vec![9; 9000]);
    let copy = tmpfs::memfd_create(&ctx, b"y", 0).unwrap();
    assert_eq!(super::splice::sendfile(&ctx, &copy, &file, At::Offset(0), 10_000), Ok(10_000));
    assert_eq!(copy.inode().size(), 10_000);
}

#[test]
fn what_a_splice_has_taken_is_not_the_end() {
    let world = World::new();
    let (read, write) = super::pipe(&world.ctx(), 0).unwrap();
    assert_eq!(world.write(&write, b"abcdef"), Ok(6));
    let pipe = super::pipe_of(&read).unwrap().clone();
    let run = pipe.ring.lock().lend(4);
    assert_eq!(pipe.ring.lock().bytes(), 6);
    assert!(pipe.ring.lock().lend(1).is_empty());
    drop(write);
    assert_eq!(read.poll(None), POLLIN | POLLRDNORM | POLLHUP);
    let reader = thread::spawn({
        let read = read.clone();
        move || World::new().read(&read, 100).unwrap()
    });
    thread::sleep(std::time::Duration::from_millis(20));
    assert!(!reader.is_finished());
    pipe.ring.lock().settle(run, 3);
    pipe.readable.wake_all();
    assert_eq!(reader.join().unwrap(), b"def");
    assert_eq!(read.poll(None), POLLHUP);
    assert_eq!(world.read(&read, 100).unwrap(), b"");
}

#[test]
fn lent_slots_are_no_room() {
    let world = World::new();
    let (read, write) = super::pipe(&world.ctx(), O_NONBLOCK).unwrap();
    let pipe = super::pipe_of(&read).unwrap().clone();
    let all = pipe.capacity();
    assert_eq!(world.write(&write, &vec![7; all]), Ok(all));
    let run = pipe.ring.lock().lend(all);
    assert_eq!(write.poll(None) & POLLOUT, 0);
    assert_eq!(world.write(&write, b"x"), Err(Errno::EAGAIN));
    pipe.ring.lock().settle(run, 4096);
    assert_eq!(pipe.ring.lock().bytes(), all - 4096);
    assert_eq!(world.write(&write, b"x"), Ok(1));
}

/// Starts `count` threads that wait at the pipe, and gives them time to do so.
fn waiting<R: Send + 'static>(
    count: usize,
    act: impl Fn(usize) -> R + Clone + Send + 'static,
) -> Vec<thread::JoinHandle<R>> {
    let start = |index| {
        let act = act.clone();
        thread::spawn(move || act(index))
    };
    let threads = (0..count).map(start).collect();
    thread::sleep(std::time::Duration::from_millis(30));
    threads
}

#[test]
fn who_leaves_data_wakes_the_next_reader() {
    let world = World::new();
    let (read, write) = super::pipe(&world.ctx(), 0).unwrap();
    let readers = waiting(6, {
        let read = read.clone();
        move |_| World::new().read(&read, 1).unwrap()
    });
    assert_eq!(world.write(&write, b"abcdef"), Ok(6));
    let mut bytes: Vec<u8> =
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, b"abcdef");
}

#[test]
fn who_takes_nothing_wakes_the_next_reader() {
    let world = World::new();
    let ctx = world.ctx();
    let (read, write) = super::pipe(&ctx, 0).unwrap();
    let (copies, copy) = super::pipe(&ctx, 0).unwrap();
    let tees = waiting(2, {
        let (read, copy) = (read.clone(), copy.clone());
        move |_| super::splice::tee(&read, &copy, 10, 0)
    });
    let readers = waiting(1, {
        let read = read.clone();
        move |_| World::new().read(&read, 10).unwrap()
    });
    // The first that waits copies the byte and leaves it; the second may come late for it.
    assert_eq!(world.write(&write, b"x"), Ok(1));
    for reader in readers {
        assert_eq!(reader.join().unwrap(), b"x");
    }
    drop(write);
    let copied: usize = tees.into_iter().map(|tee| tee.join().unwrap().unwrap()).sum();
    assert!((1..=2).contains(&copied));
    assert_eq!(world.read(&copies, 10).unwrap().len(), copied);
}

#[test]
fn each_reader_of_a_semaphore_takes_one() {
    let world = World::new();
    let event = crate::eventfd::create(&world.ctx(), 0, crate::eventfd::EFD_SEMAPHORE).unwrap();
    let readers = waiting(5, {
        let event = event.clone();
        move |_| World::new().read(&event, 8).unwrap()
    });
    assert_eq!(world.write(&event, &5u64.to_ne_bytes()), Ok(8));
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 1u64.to_ne_bytes());
    }
    assert_eq!(event.poll(None) & POLLIN, 0);
}

#[test]
fn who_leaves_room_wakes_the_next_writer() {
    let world = World::new();
    let (read, write) = super::pipe(&world.ctx(), 0).unwrap();
    let all = super::pipe_of(&read).unwrap().capacity();
    assert_eq!(world.write(&write, &vec![0; all]), Ok(all));
    let writers = waiting(5, {
        let write = write.clone();
        move |index| World::new().write(&write, &[1 + index as u8; 4096])
    });
    assert_eq!(world.read(&read, all).unwrap().len(), all);
    for writer in writers {
        assert_eq!(writer.join().unwrap(), Ok(4096));
    }
    let mut bytes = world.read(&read, all).unwrap();
    bytes.sort_unstable();
    let expected: Vec<u8> = (1..=5).flat_map(|byte| [byte; 4096]).collect();
    assert_eq!(bytes, expected);
}

#[test]
fn many_readers_and_writers_lose_no_wake_up() {
    const WRITERS: usize = 4;
    const ROUNDS: usize = 400;
    let world = World::new();
    let (read, write) = super::pipe(&world.ctx(), 0).unwrap();
    super::pipe_of(&read).unwrap().set_capacity(&world.ctx(), 4096).unwrap();
    let readers = waiting(6, {
        let read = read.clone();
        move |index| {
            let (world, mut total) = (World::new(), 0);
            loop {
                match world.read(&read, 1 + index * 37).unwrap().len() {
                    0 => return total,
                    count => total += count,
                }
            }
        }
    });
    let writers = waiting(WRITERS, {
        let write = write.clone();
        move |index| {
            let world = World::new();
            let len = |round: usize| 1 + (round * 7919 + index) % 5000;
            for round in 0..ROUNDS {
                assert_eq!(world.write(&write, &vec![7; len(round)]), Ok(len(round)));
                if round % 50 == 0 {
                    thread::sleep(std::time::Duration::from_millis(1));
                }
            }
            (0..ROUNDS).map(len).sum::<usize>()
        }
    });
    let written: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    drop(write);
    let taken: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert_eq!(taken, written);
}
