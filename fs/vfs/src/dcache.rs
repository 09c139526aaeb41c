//! The dentry cache: one hash table of names, read without locks.
//!
//! Buckets are RCU lists of [`Entry`]s; writers hold a striped spin lock. A reader on an entry
//! that is just being removed behaves as if it had come before the removal. A reader that misses
//! takes the directory's lock and looks again, so a false miss during a rename costs time only.
//!
//! **Reclaim** is a clock hand over the buckets: a dentry nobody refers to and nobody has looked
//! up since the hand last passed goes. No list is kept on the hot path. A reader that turns its
//! RCU reference into a counted one looks at [`DEAD`] afterwards; the shrinker sets it before it
//! looks at the count: one of the two sees the other.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use arch::lock::{LockClass, Once, SpinLock};
use sched::rcu::{RcuArc, RcuRef, ReadGuard};

use crate::dentry::*;
use crate::inode::{Inode, InodeRef, drop_user};
use crate::superblock::SuperBlock;

static BUCKET: LockClass = LockClass::new("vfs.dcache_bucket", 270);

const STRIPES: usize = 256;

struct Table {
    heads: Vec<RcuArc<Entry>>,
    locks: Vec<SpinLock<()>>,
    shift: u32,
}

static TABLE: Once<Table> = Once::new();
static COUNT: AtomicUsize = AtomicUsize::new(0);
static NEGATIVE: AtomicUsize = AtomicUsize::new(0);
static HAND: AtomicUsize = AtomicUsize::new(0);

/// Sizes the table: one bucket for every 8 KiB of memory, at least 4096. Later calls do nothing;
/// without a call the first use makes a small table.
pub fn init(memory_bytes: u64) {
    table_of((memory_bytes / 8192).clamp(4096, 1 << 22) as usize);
}

fn table_of(buckets: usize) -> &'static Table {
    TABLE.call_once(|| {
        let bits = buckets.next_power_of_two().trailing_zeros();
        Table {
            heads: (0..1usize << bits).map(|_| RcuArc::empty()).collect(),
            locks: (0..STRIPES).map(|_| SpinLock::new(&BUCKET, ())).collect(),
            shift: 64 - bits,
        }
    })
}

#[inline]
fn table() -> &'static Table {
    match TABLE.get() {
        Some(table) => table,
        None => table_of(1 << 14),
    }
}

impl Table {
    #[inline]
    fn index(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }

    #[inline]
    fn head(&self, hash: u64) -> &RcuArc<Entry> {
        &self.heads[self.index(hash)]
    }

    fn lock(&self, index: usize) -> &SpinLock<()> {
        &self.locks[index % STRIPES]
    }
}

/// Mixes the hash of a name with its directory.
#[inline]
pub(crate) fn mix(parent: &Dentry, name_hash: u64) -> u64 {
    let seed = core::ptr::from_ref(parent).addr() as u64;
    (name_hash ^ seed.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline]
fn fold(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word) * 0xa076_1d64_78bd_642f_u128;
    (product as u64) ^ ((product >> 64) as u64)
}

const SLASHES: u64 = u64::from_le_bytes([b'/'; 8]);
const ONES: u64 = u64::from_le_bytes([1; 8]);

/// Up to seven bytes as a number, first byte lowest; without a call to copy them.
#[inline]
fn short_word(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        // The two overlap where they agree.
        u64::from(first) | u64::from(last) << ((len - 4) * 8)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<2>(), bytes.last_chunk::<2>()) {
        let (first, last) = (u16::from_le_bytes(*first), u16::from_le_bytes(*last));
        u64::from(first) | u64::from(last) << ((len - 2) * 8)
    } else {
        bytes.first().map_or(0, |&byte| u64::from(byte))
    }
}

/// Whether two names are the same, eight bytes at a time: they are too short for a call to pay.
#[inline]
pub(crate) fn same_name(a: &[u8], b: &[u8]) -> bool {
    let ((a_words, a_tail), (b_words, b_tail)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    a.len() == b.len()
        && short_word(a_tail) == short_word(b_tail)
        && a_words
            .iter()
            .zip(b_words)
            .all(|(a, b)| u64::from_le_bytes(*a) == u64::from_le_bytes(*b))
}

/// The first component of a path that does not start with a slash: its length and hash, found
/// eight bytes at a time.
#[inline]
pub(crate) fn scan(path: &[u8]) -> (usize, u64) {
    let (words, tail) = path.as_chunks::<8>();
    let mut hash = 0;
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let odd = word ^ SLASHES;
        let found = odd.wrapping_sub(ONES) & !odd & (ONES << 7);
        if found != 0 {
            return finish(hash, word, at, found.trailing_zeros() / 8);
        }
        hash = fold(hash, word);
        at += 8;
    }
    // As if slashes followed.
    let word = short_word(tail) | SLASHES << (tail.len() * 8);
    let odd = word ^ SLASHES;
    let found = odd.wrapping_sub(ONES) & !odd & (ONES << 7);
    finish(hash, word, at, found.trailing_zeros() / 8)
}

#[inline]
fn finish(hash: u64, word: u64, at: usize, bytes: u32) -> (usize, u64) {
    let len = at + bytes as usize;
    (len, fold(hash, word & ((1u64 << (bytes * 8)) - 1)) ^ len as u64)
}

/// The hash of a name (which has no slash).
pub fn hash_name(name: &[u8]) -> u64 {
    scan(name).1
}

/// The cached dentry for `name` in `parent`. A result may be negative.
#[inline]
pub(crate) fn lookup_rcu<'g>(
    guard: &'g ReadGuard,
    parent: &Dentry,
    name: &[u8],
    name_hash: u64,
) -> Option<RcuRef<'g, Dentry>> {
    let hash = mix(parent, name_hash);
    let mut at = table().head(hash).load(guard);
    while let Some(entry) = at {
        let entry = entry.get();
        if entry.is(hash, parent, name)
            && let Some(dentry) = entry.dentry.load(guard)
        {
            if !dentry.has(REFERENCED) {
                dentry.set(REFERENCED);
            }
            return Some(dentry);
        }
        at = entry.next.load(guard);
    }
    None
}

/// Turns an RCU reference into a counted one; `None` if the shrinker was faster.
#[inline]
pub(crate) fn pin(dentry: RcuRef<'_, Dentry>) -> Option<Arc<Dentry>> {
    let counted = dentry.to_arc();
    // SeqCst, after the increment: see the module documentation.
    core::sync::atomic::fence(Ordering::SeqCst);
    if counted.has(DEAD) { None } else { Some(counted) }
}

/// The cached dentry for `name` in `parent`, counted. Exact if the directory is locked.
pub(crate) fn lookup(parent: &Arc<Dentry>, name: &[u8], name_hash: u64) -> Option<Arc<Dentry>> {
    let guard = sched::rcu::read_lock();
    if let Some(found) = lookup_rcu(&guard, parent, name, name_hash)
        && let Some(dentry) = pin(found)
    {
        return Some(dentry);
    }
    let table = table();
    let hash = mix(parent, name_hash);
    let _held = table.lock(table.index(hash)).lock();
    find_locked(table, &guard, parent, name, hash)
}

fn find_locked(
    table: &Table,
    guard: &ReadGuard,
    parent: &Dentry,
    name: &[u8],
    hash: u64,
) -> Option<Arc<Dentry>> {
    let mut at = table.head(hash).load(guard);
    while let Some(entry) = at {
        let entry = entry.get();
        if entry.is(hash, parent, name) {
            return entry.dentry.load(guard).map(|d| d.to_arc());
        }
        at = entry.next.load(guard);
    }
    None
}

/// Enters what a lookup in the file system found (or did not find). If another lookup was faster,
/// its dentry is returned.
pub(crate) fn insert(
    parent: &Arc<Dentry>,
    name: &[u8],
    name_hash: u64,
    inode: Option<Arc<Inode>>,
) -> Arc<Dentry> {
    let table = table();
    let hash = mix(parent, name_hash);
    let entry = Entry::new(hash, Some(parent.clone()), name);
    let mut flags = HASHED | REFERENCED;
    if inode.is_some() {
        flags |= HOLDS_USER;
    }
    let dentry = Arc::new(Dentry::with(entry.clone(), inode.clone(), parent.sb, flags));
    let guard = sched::rcu::read_lock();
    let held = table.lock(table.index(hash)).lock();
    if let Some(first) = find_locked(table, &guard, parent, name, hash) {
        drop(held);
        return first;
    }
    match &inode {
        Some(inode) => inode.add_user(),
        None => {
            NEGATIVE.fetch_add(1, Ordering::Relaxed);
        }
    }
    entry.dentry.set(Some(dentry.clone()));
    push(table, entry);
    COUNT.fetch_add(1, Ordering::Relaxed);
    dentry
}

fn push(table: &Table, entry: Arc<Entry>) {
    let head = table.head(entry.hash);
    entry.next.set(head.get());
    head.set(Some(entry));
}

/// Takes `entry` out of its chain; the stripe is locked.
fn cut(table: &Table, guard: &ReadGuard, entry: &Entry) {
    let mut link = table.head(entry.hash);
    while let Some(at) = link.load(guard) {
        let at = at.get();
        if core::ptr::eq(at, entry) {
            bypass(link, entry);
            return;
        }
        link = &at.next;
    }
}

/// Makes `link`, which points at `entry`, point at what follows. The entry forgets its neighbour,
/// which it would keep, with the directory of that, for as long as a removed file stays open. A
/// reader that has come to the entry sees the chain's end and looks again under the lock.
fn bypass(link: &RcuArc<Entry>, entry: &Entry) {
    link.set(entry.next.get());
    if entry.next.is_some() {
        entry.next.set(None);
    }
}

/// Makes a negative dentry mean `inode`. The directory is locked exclusively.
pub(crate) fn instantiate(dentry: &Arc<Dentry>, inode: Arc<Inode>) {
    inode.add_user();
    NEGATIVE.fetch_sub(1, Ordering::Relaxed);
    dentry.inode.set(Some(inode));
    dentry.set(HOLDS_USER);
}

fn take_user(dentry: &Dentry) -> Option<InodeRef> {
    if dentry.clear(HOLDS_USER) & HOLDS_USER == 0 {
        return None;
    }
    let inode = dentry.inode()?;
    let counted = InodeRef::new(inode.clone());
    drop_user(&inode);
    Some(counted)
}

/// Removes the dentry from the table. The user it counted is returned: drop it without locks.
pub(crate) fn unhash(dentry: &Arc<Dentry>) -> Option<InodeRef> {
    {
        let guard = sched::rcu::read_lock();
        let entry = dentry.entry.load(&guard)?.get();
        let table = table();
        let _held = table.lock(table.index(entry.hash)).lock();
        if !dentry.has(HASHED) {
            return None;
        }
        dentry.clear(HASHED);
        cut(table, &guard, entry);
        entry.dentry.set(None);
    }
    COUNT.fetch_sub(1, Ordering::Relaxed);
    if !dentry.is_positive() {
        NEGATIVE.fetch_sub(1, Ordering::Relaxed);
    }
    take_user(dentry)
}

/// The file was removed from its directory, which is locked exclusively. Nobody else refers to the
/// dentry: it becomes negative; else it leaves the table and its users keep the inode. Drop the
/// result without locks: it may free the file.
pub(crate) fn delete(dentry: &Arc<Dentry>, keep_negative: bool) -> Option<InodeRef> {
    // Two references: the table's and the caller's. Nobody can gain one without a lookup, which
    // could still come: it would find the name absent, as it may.
    if keep_negative && Arc::strong_count(dentry) == 2 && !dentry.has(MOUNTPOINT) {
        let user = take_user(dentry);
        dentry.inode.set(None);
        NEGATIVE.fetch_add(1, Ordering::Relaxed);
        return user;
    }
    dentry.set(DELETED);
    unhash(dentry)
}

/// Gives the dentry a new place. Source and target directories are locked exclusively, and nothing
/// is hashed at the target.
pub(crate) fn relocate(dentry: &Arc<Dentry>, parent: &Arc<Dentry>, name: &[u8]) {
    let table = table();
    let guard = sched::rcu::read_lock();
    let hash = mix(parent, hash_name(name));
    let new = Entry::new(hash, Some(parent.clone()), name);
    new.dentry.set(Some(dentry.clone()));
    if let Some(old) = dentry.entry.load(&guard) {
        let old = old.get();
        let _held = table.lock(table.index(old.hash)).lock();
        if dentry.has(HASHED) {
            cut(table, &guard, old);
        }
        dentry.entry.set(Some(new.clone()));
        old.dentry.set(None);
    }
    let _held = table.lock(table.index(hash)).lock();
    dentry.set(HASHED);
    push(table, new);
}

/// Swaps the places of two dentries. Both directories are locked exclusively.
pub(crate) fn exchange(a: &Arc<Dentry>, b: &Arc<Dentry>) {
    let place = |d: &Arc<Dentry>| (d.parent(), d.with_name(|n| n.to_vec()));
    let (a_place, b_place) = (place(a), place(b));
    if let (Some(a_parent), Some(b_parent)) = (a_place.0, b_place.0) {
        remove_entry(b);
        relocate(a, &b_parent, &b_place.1);
        relocate(b, &a_parent, &a_place.1);
    }
}

/// Takes the entry of a dentry that will be relocated out of the table.
fn remove_entry(dentry: &Arc<Dentry>) {
    let guard = sched::rcu::read_lock();
    if let Some(entry) = dentry.entry.load(&guard) {
        let entry = entry.get();
        let table = table();
        let _held = table.lock(table.index(entry.hash)).lock();
        if dentry.has(HASHED) {
            dentry.clear(HASHED);
            cut(table, &guard, entry);
        }
    }
}

/// How many dentries are cached, and how many of them are negative.
pub fn statistics() -> (usize, usize) {
    (COUNT.load(Ordering::Relaxed), NEGATIVE.load(Ordering::Relaxed))
}

/// Frees about `target` unused dentries, passing over the table at most twice. Returns how many.
pub fn shrink(target: usize) -> usize {
    let table = table();
    let mut freed = 0;
    for _ in 0..table.heads.len() * 2 {
        if freed >= target {
            break;
        }
        // Relaxed: any bucket will do.
        let index = HAND.fetch_add(1, Ordering::Relaxed) % table.heads.len();
        freed += sweep(table, index, Sweep::Cold);
    }
    freed
}

/// The cache as one of those that give memory back.
struct Shrinker;

/// Dentries, with their inodes, in a frame: an estimate.
const PER_FRAME: usize = 4;

impl frames::Reclaim for Shrinker {
    fn reclaim(&self, pages: usize) -> usize {
        // As hard as the page cache is pressed: a share of the cache per round.
        let share = COUNT.load(Ordering::Relaxed) / 16;
        let dentries = shrink(pages.saturating_mul(PER_FRAME).min(share.max(64)));
        crate::inode_cache::sweep_all();
        dentries / PER_FRAME
    }
    fn reclaimable(&self) -> u64 {
        (COUNT.load(Ordering::Relaxed) / PER_FRAME / 2) as u64
    }
    /// The last user of a file may be dropped, which waits for the file system.
    fn needs_thread(&self) -> bool {
        true
    }
}

/// Offers unused dentries to the frame allocator. Once, at start-up.
pub fn register_shrinker() {
    frames::register_reclaim(&Shrinker);
}

/// Frees every unused dentry: `echo 2 > /proc/sys/vm/drop_caches`.
pub fn drop_unused() -> usize {
    let table = table();
    let mut freed = 0;
    loop {
        let before = freed;
        for index in 0..table.heads.len() {
            freed += sweep(table, index, Sweep::Unused);
        }
        // Parents become unused when their children go, after a grace period.
        sched::rcu::barrier();
        if freed == before {
            return freed;
        }
    }
}

/// Drops the dentries of a file system that has no mounts any more.
pub(crate) fn forget_super(sb: &Arc<SuperBlock>) {
    let table = table();
    let id = sb_id(sb);
    loop {
        let mut freed = 0;
        for index in 0..table.heads.len() {
            freed += sweep(table, index, Sweep::Super(id));
        }
        if freed == 0 {
            return;
        }
        sched::rcu::barrier();
    }
}

#[derive(Clone, Copy)]
enum Sweep {
    Cold,
    Unused,
    Super(usize),
}

fn sweep(table: &Table, index: usize, mode: Sweep) -> usize {
    if !table.heads[index].is_some() {
        return 0;
    }
    let mut freed = 0;
    let mut users: Vec<Arc<Inode>> = Vec::new();
    {
        let guard = sched::rcu::read_lock();
        let _held = table.lock(index).lock();
        let mut link = &table.heads[index];
        while let Some(at) = link.load(&guard) {
            let entry = at.get();
            if let Some(dentry) = entry.dentry.load(&guard)
                && wanted(&dentry, mode)
                && claim(dentry)
            {
                let dentry = dentry.get();
                dentry.clear(HASHED);
                bypass(link, entry);
                entry.dentry.set(None);
                COUNT.fetch_sub(1, Ordering::Relaxed);
                freed += 1;
                match dentry.inode() {
                    Some(inode) if dentry.clear(HOLDS_USER) & HOLDS_USER != 0 => users.push(inode),
                    Some(_) => {}
                    None => {
                        NEGATIVE.fetch_sub(1, Ordering::Relaxed);
                    }
                }
                continue;
            }
            link = &entry.next;
        }
    }
    users.iter().for_each(drop_user);
    freed
}

fn wanted(dentry: &Dentry, mode: Sweep) -> bool {
    match mode {
        Sweep::Cold => dentry.clear(REFERENCED) & REFERENCED == 0,
        Sweep::Unused => true,
        Sweep::Super(id) => dentry.sb == id,
    }
}

/// Marks the dentry dead if only the table refers to it.
fn claim(dentry: RcuRef<'_, Dentry>) -> bool {
    if dentry.strong_count() != 1 || dentry.has(MOUNTPOINT) {
        return false;
    }
    dentry.set(DEAD);
    core::sync::atomic::fence(Ordering::SeqCst);
    if dentry.strong_count() == 1 {
        return true;
    }
    dentry.clear(DEAD);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_ends_at_a_slash_and_hashes_what_comes_before() {
        let name = b"0123456789abcdefghi";
        for len in 1..name.len() {
            let alone = scan(&name[..len]);
            assert_eq!(alone.0, len);
            let mut path = name[..len].to_vec();
            path.extend_from_slice(b"/rest/of/it");
            assert_eq!(scan(&path), alone);
            let mut other = name[..len].to_vec();
            other[len - 1] ^= 1;
            assert_ne!(scan(&other).1, alone.1);
        }
    }

    #[test]
    fn names_differ_by_any_byte_and_by_length() {
        let name = b"0123456789abcdefghi";
        for len in 0..name.len() {
            let a = &name[..len];
            assert!(same_name(a, a));
            assert!(!same_name(a, &name[..len + 1]));
            for at in 0..len {
                let mut other = a.to_vec();
                other[at] ^= 0x80;
                assert!(!same_name(a, &other));
            }
        }
    }
}
