//! Changing areas: `mprotect`, `mremap`, `madvise`, `mlock`, `msync`.

use crate::AddressSpace;
use crate::commit::{commit, heeds_no_reserve, max_areas};
use crate::layout::MIN_ADDRESS;
use crate::limits::Limits;
use crate::space::va;
use crate::unmap::span;
use crate::vma::{Areas, Changing, Vma, flag, prot};
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::addr::{HUGE_SIZE, PAGE_SIZE, USER_END};
use arch::paging::{MapError, PteFlags};
use mapped::Found;

const PAGE: u64 = PAGE_SIZE as u64;
const HUGE: u64 = HUGE_SIZE as u64;

/// What lies in one last-level table of memory that moves.
#[derive(Clone, Copy)]
struct Piece {
    from: u64,
    to: u64,
    len: u64,
}

impl Piece {
    /// Whether it is all of one table and becomes all of another.
    fn is_whole(self) -> bool {
        (self.from | self.to).is_multiple_of(HUGE) && self.len == HUGE
    }

    /// What goes into one table, and what into the next.
    fn halves(self) -> [Piece; 2] {
        let Piece { from, to, len } = self;
        let low = (to.next_multiple_of(HUGE) - to).min(len);
        let low = if to.is_multiple_of(HUGE) { len } else { low };
        [Piece { len: low, ..self }, Piece { from: from + low, to: to + low, len: len - low }]
    }
}

impl AddressSpace {
    /// Changes the areas of a range one by one, split at its ends and merged afterwards. A gap ends
    /// it with `ENOMEM` after what came before was changed.
    fn change_areas(
        &self,
        areas: &mut Areas,
        start: u64,
        end: u64,
        mut change: impl FnMut(&mut Vma) -> Result<()>,
    ) -> Result<()> {
        self.split(areas, start)?;
        self.split(areas, end)?;
        let (mut at, mut result) = (start, Ok(()));
        while at < end && result.is_ok() {
            match areas.change(at, &mut change) {
                Some((next, outcome)) => (at, result) = (next, outcome),
                None => result = Err(Errno::ENOMEM),
            }
        }
        self.merge(areas, start, end);
        result
    }

    /// `mprotect(2)`. `wanted` may contain `PROT_GROWSDOWN` and `PROT_GROWSUP`.
    pub fn mprotect(&self, start: u64, len: u64, wanted: u32, limits: &Limits) -> Result<()> {
        const GROWSDOWN: u32 = 0x0100_0000;
        const GROWSUP: u32 = 0x0200_0000;
        if !start.is_multiple_of(PAGE) || wanted & !(7 | GROWSDOWN | GROWSUP) != 0 {
            return Err(Errno::EINVAL);
        }
        // What lies before the first hole changes, and the end of user memory is one.
        let end = span(start, len).map_err(|_| Errno::ENOMEM)?;
        if end == start {
            return Ok(());
        }
        let mut areas = self.areas.write();
        let mut from = start;
        if wanted & GROWSDOWN != 0 {
            let vma = areas.find(start).ok_or(Errno::ENOMEM)?;
            if !vma.has(flag::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            from = vma.start;
        } else if wanted & GROWSUP != 0 {
            return Err(Errno::EINVAL);
        }
        let rights = wanted & 7;
        let (own, mut data) = (areas.total_pages, areas.data_pages);
        self.change_areas(&mut areas, from, end, |vma| {
            if vma.prot == rights {
                return Ok(());
            }
            if rights & prot::WRITE != 0 {
                if vma.has(flag::NEVER_WRITE) {
                    return Err(Errno::EACCES);
                }
                if vma.is_private() && vma.prot & prot::WRITE == 0 {
                    data += vma.pages();
                    limits.check_data(data)?;
                }
                let is_free = vma.has(flag::NO_RESERVE) && heeds_no_reserve();
                if vma.is_private() && !vma.has(flag::ACCOUNTED) && !is_free {
                    commit(vma.pages(), own)?;
                    vma.flags |= flag::ACCOUNTED;
                }
            }
            vma.prot = rights;
            self.apply_rights(vma);
            Ok(())
        })
    }

    /// Makes the entries of an area what its rights say; the right to write comes with a fault.
    fn apply_rights(&self, vma: &Vma) {
        let _tables = self.tables.lock();
        self.unshare_range(vma.start, vma.end);
        let (mut set, mut clear) = (PteFlags::empty(), PteFlags::empty());
        let mut put = |bit, wanted| if wanted { set |= bit } else { clear |= bit };
        // Without rights not even the kernel gets at the page on the program's behalf.
        put(PteFlags::PRESENT, vma.prot != 0);
        put(PteFlags::HIDDEN, vma.prot == 0);
        put(PteFlags::NO_EXECUTE, vma.prot & prot::EXEC == 0);
        if vma.prot & prot::WRITE == 0 {
            clear |= PteFlags::WRITE;
        }
        if self.table.protect(va(vma.start), va(vma.end), set, clear) {
            self.table.context().flush_range(va(vma.start), va(vma.end));
        }
    }

    /// `mremap(2)`: the new address.
    pub fn mremap(
        &self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        to: u64,
        limits: &Limits,
    ) -> Result<u64> {
        const MAYMOVE: u32 = 1;
        const FIXED: u32 = 2;
        const DONTUNMAP: u32 = 4;
        let stays = flags & DONTUNMAP != 0;
        if flags & !(MAYMOVE | FIXED | DONTUNMAP) != 0
            || flags & (FIXED | DONTUNMAP) != 0 && flags & MAYMOVE == 0
            || !old.is_multiple_of(PAGE)
        {
            return Err(Errno::EINVAL);
        }
        let up = |len: u64| len.wrapping_add(PAGE - 1) & !(PAGE - 1);
        let (old_len, new_len) = (up(old_len), up(new_len));
        if new_len == 0 || stays && old_len != new_len {
            return Err(Errno::EINVAL);
        }
        let mut areas = Changing::new(&self.areas);
        // A place that is not mapped comes before a length that is too long.
        if flags & FIXED == 0 && areas.find(old).is_none() {
            return Err(Errno::EFAULT);
        }
        old.checked_add(old_len).filter(|end| *end <= USER_END).ok_or(Errno::EINVAL)?;
        if new_len > USER_END {
            return Err(if flags & FIXED != 0 { Errno::EINVAL } else { Errno::ENOMEM });
        }
        let more = if stays { new_len } else { new_len.saturating_sub(old_len) };
        if more > 0 {
            let vma = areas.find(old).ok_or(Errno::EFAULT)?;
            limits.check_growth(&areas, vma, more)?;
        }
        if stays && areas.find(old).is_some_and(|vma| !vma.is_private() || !vma.is_anonymous()) {
            return Err(Errno::EINVAL);
        }
        if flags & FIXED != 0 {
            let end =
                to.checked_add(new_len).filter(|end| *end <= USER_END).ok_or(Errno::EINVAL)?;
            let overlaps = to < old.saturating_add(old_len) && old < end;
            if !to.is_multiple_of(PAGE) || overlaps {
                return Err(Errno::EINVAL);
            }
            if to < MIN_ADDRESS {
                return Err(Errno::EPERM);
            }
            // What is in the way stays when there is nothing to put there.
            if areas.find(old).is_none() {
                return Err(Errno::EFAULT);
            }
            self.remove_range(&mut areas, to, end)?;
            if old_len > new_len {
                self.remove_range(&mut areas, old + new_len, old + old_len)?;
            }
            let len = old_len.min(new_len);
            return self.move_area(&mut areas, old, len, new_len, Some(to), stays);
        }
        let vma = areas.find(old).ok_or(Errno::EFAULT)?;
        if old_len == 0 {
            return self.move_area(&mut areas, old, 0, new_len, None, true);
        }
        if stays {
            return self.move_area(&mut areas, old, old_len, new_len, None, true);
        }
        if old_len >= new_len {
            if old_len > new_len {
                self.remove_range(&mut areas, old + new_len, old + old_len)?;
            }
            return Ok(old);
        }
        let (vma_end, end) = (vma.end, old + old_len);
        if end > vma_end {
            return Err(Errno::EFAULT);
        }
        let in_place = end == vma_end
            && end.checked_add(more).is_some_and(|e| e <= USER_END && areas.is_free(end, e));
        if in_place {
            let start = vma.start;
            self.promise(areas.total_pages, vma, more)?;
            let Some(mut vma) = areas.remove(start) else { return Err(Errno::EFAULT) };
            let before = vma.clone();
            vma.end += more;
            let locked = vma.has(flag::LOCKED);
            self.add_area(&mut areas, vma);
            self.unwatch(&before);
            drop(areas);
            if locked {
                self.populate(end, end + more);
            }
            return Ok(old);
        }
        if flags & MAYMOVE == 0 {
            return Err(Errno::ENOMEM);
        }
        self.move_area(&mut areas, old, old_len, new_len, None, false)
    }

    fn move_area(
        &self,
        areas: &mut Areas,
        old: u64,
        old_len: u64,
        new_len: u64,
        to: Option<u64>,
        stays: bool,
    ) -> Result<u64> {
        let found = areas.find(old).filter(|vma| old + old_len <= vma.end);
        let vma = found.ok_or(Errno::EFAULT)?.clone();
        // Of no length it is a second mapping, which private memory cannot have.
        if old_len == 0 && vma.is_private() {
            return Err(Errno::EINVAL);
        }
        // One more, and two splits of the old one: whatever can fail does so before a page moves.
        if areas.map.len() + 2 >= max_areas() {
            return Err(Errno::ENOMEM);
        }
        self.promise(areas.total_pages, &vma, new_len)?;
        let at = match to.map_or_else(|| self.room_for(areas, new_len), Ok) {
            Ok(at) => at,
            Err(error) => {
                self.unpromise(&vma, new_len);
                return Err(error);
            }
        };
        if let Err(error) = self.make_tables(old, at, old_len) {
            self.zap_between(areas, at, at + new_len);
            self.unpromise(&vma, new_len);
            return Err(error);
        }
        let offset = if vma.file.is_some() { vma.offset + (old - vma.start) } else { at };
        let new = Vma { start: at, end: at + new_len, offset, observer: None, ..vma };
        self.add_area(areas, new);
        if old_len > 0 {
            self.move_pages(old, at, old_len);
            if !stays {
                self.remove_range(areas, old, old + old_len)?;
            }
        }
        Ok(at)
    }

    /// Makes the tables at `to` for what those at `from` map.
    fn make_tables(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.each_table(from, to, len, |piece| {
            let last = piece.to + (piece.len - PAGE);
            if piece.is_whole() {
                return self.table.make_directory(va(piece.to)).map_err(Into::into);
            }
            // The pages of a table go into one or two.
            for page in [piece.to, last] {
                match self.table.entry(va(page)) {
                    Ok(_) | Err(MapError::Shared | MapError::Occupied) => {}
                    Err(error) => return Err(crate::FaultError::from(error).into()),
                }
            }
            Ok(())
        })
    }

    /// Calls `act` for what a range that moves has in each of its tables, until it fails.
    fn each_table(
        &self,
        from: u64,
        to: u64,
        len: u64,
        mut act: impl FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        let (mut at, end) = (from, from + len);
        while let Some(used) = self.table.next_used(va(at), va(end)) {
            let first = used.0.max(at);
            at = ((first & !(HUGE - 1)) + HUGE).min(end);
            act(Piece { from: first, to: to + (first - from), len: at - first })?;
        }
        Ok(())
    }

    /// Moves the entries of a range to where the tables are made; areas are held exclusively.
    fn move_pages(&self, from: u64, to: u64, len: u64) {
        let _tables = self.tables.lock();
        let mut exchanged = false;
        let moved = self.each_table(from, to, len, |piece| {
            // A whole table, or a huge page, moves as it is.
            if piece.is_whole() && self.table.exchange(va(piece.from), va(piece.to)) {
                exchanged = true;
                return Ok(());
            }
            self.insist(|| self.split_huge(piece.from));
            self.unshare_at(piece.from);
            for Piece { from, to, len } in piece.halves().into_iter().filter(|half| half.len > 0) {
                self.unshare_at(to);
                let is_done = self.table.move_entries(va(from), va(to), (len / PAGE) as usize);
                debug_assert!(is_done, "no place for {from:#x} at {to:#x}");
            }
            Ok(())
        });
        debug_assert!(moved.is_ok());
        self.table.context().flush_range(va(from), va(from + len));
        if exchanged {
            // Of the place too, the processors may know a table.
            self.table.context().flush_range(va(to), va(to + len));
        }
    }

    /// `madvise(2)`.
    pub fn madvise(&self, start: u64, len: u64, advice: i32) -> Result<()> {
        if !matches!(advice, 0..=4 | 8..=21 | 100 | 101) {
            return Err(Errno::EINVAL);
        }
        let end = span(start, len)?;
        if start == end {
            return Ok(());
        }
        match advice {
            3 => self.will_need(start, end),
            4 | 8 => self.drop_pages(start, end, advice),
            9 => self.punch(start, end),
            // Poisoning memory takes CAP_SYS_ADMIN and hardware; merging, cold, pageout are hints.
            100 | 101 => Err(Errno::EPERM),
            20 | 21 => self.cool(start, end),
            12 | 13 => Err(Errno::EINVAL),
            _ => {
                let (set, clear) = match advice {
                    0 => (0, flag::RANDOM | flag::SEQUENTIAL),
                    1 => (flag::RANDOM, flag::SEQUENTIAL),
                    2 => (flag::SEQUENTIAL, flag::RANDOM),
                    10 => (flag::DONT_FORK, 0),
                    11 => (0, flag::DONT_FORK),
                    14 => (flag::HUGE, flag::NO_HUGE),
                    15 => (flag::NO_HUGE, flag::HUGE),
                    16 => (flag::DONT_DUMP, 0),
                    17 => (0, flag::DONT_DUMP),
                    18 => (flag::WIPE_ON_FORK, 0),
                    _ => (0, flag::WIPE_ON_FORK),
                };
                let mut areas = self.areas.write();
                let whole = areas.covers(start, end);
                let mut each = |vma: &mut Vma| {
                    if advice == 18 && (vma.file.is_some() || !vma.is_private()) {
                        return Err(Errno::EINVAL);
                    }
                    vma.flags = (vma.flags | set) & !clear;
                    Ok(())
                };
                // Holes are passed over and told about at the end.
                for (from, to) in areas.parts(start, end) {
                    self.change_areas(&mut areas, from, to, &mut each)?;
                }
                if whole { Ok(()) } else { Err(Errno::ENOMEM) }
            }
        }
    }

    fn drop_pages(&self, start: u64, end: u64, advice: i32) -> Result<()> {
        let areas = self.areas.read();
        for vma in areas.in_range(start, end) {
            if vma.has(flag::LOCKED) || advice == 8 && (!vma.is_anonymous() || !vma.is_private()) {
                return Err(Errno::EINVAL);
            }
            self.zap(vma.start.max(start), vma.end.min(end), false);
        }
        if areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `MADV_COLD` and `MADV_PAGEOUT`: the pages count as not used lately. Without swap there is
    /// nowhere else for pages of the program's own, and those of files go when memory is short.
    fn cool(&self, start: u64, end: u64) -> Result<()> {
        let areas = self.areas.read();
        for vma in areas.in_range(start, end) {
            if vma.has(flag::LOCKED) {
                return Err(Errno::EINVAL);
            }
            let _tables = self.tables.lock();
            self.table.walk(va(vma.start.max(start)), va(vma.end.min(end)), |_, visit| {
                if let Found::Entry(entry) = visit {
                    entry.update(|pte| Some(pte.flags() - PteFlags::ACCESSED));
                }
            });
        }
        if areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    fn will_need(&self, start: u64, end: u64) -> Result<()> {
        let areas = self.areas.read();
        for vma in areas.in_range(start, end) {
            let Some(mapping) = vma.file.as_ref().and_then(|file| file.mapping.as_ref()) else {
                continue;
            };
            let (from, to) = (vma.start.max(start), vma.end.min(end));
            mapping.read_ahead(vma.index_of(from), vma.index_of(to - PAGE));
        }
        if areas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `MADV_REMOVE`: frees the memory behind shared memory.
    fn punch(&self, start: u64, end: u64) -> Result<()> {
        let mut files = Vec::new();
        {
            let areas = self.areas.read();
            for vma in areas.in_range(start, end) {
                if vma.has(flag::LOCKED) || vma.is_anonymous() {
                    return Err(Errno::EINVAL);
                }
                if vma.is_private() || vma.prot & prot::WRITE == 0 {
                    return Err(Errno::EACCES);
                }
                files.extend(vma.shared_part(start, end));
            }
        }
        for (mapping, from, to) in files {
            if mapping.is_stored() {
                return Err(Errno::EOPNOTSUPP);
            }
            mapping.punch(from, to)?;
        }
        Ok(())
    }

    /// `msync(2)`.
    pub fn msync(&self, start: u64, len: u64, flags: u32) -> Result<()> {
        const ASYNC: u32 = 1;
        const INVALIDATE: u32 = 2;
        const SYNC: u32 = 4;
        let is_wrong = !start.is_multiple_of(PAGE)
            || flags & !(ASYNC | INVALIDATE | SYNC) != 0
            || flags & (ASYNC | SYNC) == ASYNC | SYNC;
        if is_wrong {
            return Err(Errno::EINVAL);
        }
        let end = span(start, len).map_err(|_| Errno::ENOMEM)?;
        if start == end {
            return Ok(());
        }
        let mut files = Vec::new();
        let mut whole = true;
        {
            let areas = self.areas.read();
            let mut at = start;
            while at < end
                && let Some(vma) = areas.find_from(at).filter(|vma| vma.start < end)
            {
                whole &= vma.start <= at;
                if flags & INVALIDATE != 0 && vma.has(flag::LOCKED) {
                    return Err(Errno::EBUSY);
                }
                if flags & SYNC != 0 {
                    let is_stored = vma.shared_mapping().is_some_and(|mapping| mapping.is_stored());
                    files.extend(is_stored.then(|| vma.shared_part(start, end)).flatten());
                }
                at = vma.end;
            }
            whole &= at >= end;
        }
        for (mapping, from, to) in files {
            mapping.write_and_wait(from, to - 1)?;
        }
        if whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `mlock2(2)`; `on_fault` leaves the pages to be faulted in.
    pub fn mlock(&self, start: u64, len: u64, on_fault: bool, limits: &Limits) -> Result<()> {
        let from = start & !(PAGE - 1);
        let end = span(from, len.wrapping_add(start - from))?;
        if from == end {
            return Ok(());
        }
        let mut areas = self.areas.write();
        // What is locked already counts once.
        let inside: u64 = areas
            .in_range(from, end)
            .filter(|vma| vma.has(flag::LOCKED))
            .map(|vma| vma.end.min(end) - vma.start.max(from))
            .sum();
        let more = (end - from).saturating_sub(inside);
        if (areas.locked_pages << 12).saturating_add(more) > limits.locked {
            return Err(Errno::ENOMEM);
        }
        self.change_areas(&mut areas, from, end, |vma| {
            vma.flags |= flag::LOCKED;
            self.rewatch(vma);
            Ok(())
        })?;
        drop(areas);
        if on_fault { Ok(()) } else { self.fault_all(from, end) }
    }

    /// Faults a range in for `mlock`: what cannot be is `ENOMEM`.
    fn fault_all(&self, start: u64, end: u64) -> Result<()> {
        self.populate(start, end);
        let areas = self.areas.read();
        let is_closed = areas.in_range(start, end).any(|vma| vma.prot == 0);
        if is_closed { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// `munlock(2)`.
    pub fn munlock(&self, start: u64, len: u64) -> Result<()> {
        let from = start & !(PAGE - 1);
        let end = span(from, len.wrapping_add(start - from))?;
        if from == end {
            return Ok(());
        }
        self.change_areas(&mut self.areas.write(), from, end, |vma| {
            vma.flags &= !flag::LOCKED;
            self.rewatch(vma);
            Ok(())
        })
    }

    /// `mlockall(2)` and `munlockall(2)`: what is there now, and what will be.
    pub fn mlock_all(&self, current: Option<bool>, future: bool, on_fault: bool) -> Result<()> {
        let mut areas = self.areas.write();
        areas.lock_future = future;
        let Some(locked) = current else { return Ok(()) };
        let starts: Vec<(u64, u64)> = areas.map.values().map(|vma| (vma.start, vma.end)).collect();
        for (start, _) in &starts {
            areas.change(*start, |vma| {
                vma.flags =
                    if locked { vma.flags | flag::LOCKED } else { vma.flags & !flag::LOCKED };
                self.rewatch(vma);
            });
        }
        drop(areas);
        if locked && !on_fault {
            starts.iter().for_each(|(start, end)| self.populate(*start, *end));
        }
        Ok(())
    }
}
