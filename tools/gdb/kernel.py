"""Helpers for debugging the kernel: gdb -x tools/gdb/kernel.py target/vmlinux

Connects to QEMU's gdb server (`make debug`) and adds:

  k-dmesg        the kernel's log, from memory
  k-cpus         what every processor executes
  k-bt           a backtrace by frame pointers, for places where gdb has no unwind tables
  k-pt ADDRESS   the page-table entries that map an address
"""

import struct

import gdb

PORT = "localhost:1234"
RING_LEN = 256 << 10
HEADER_LEN = 16


def memory(address, length):
    return bytes(gdb.selected_inferior().read_memory(address, length))


def register(name):
    return int(gdb.parse_and_eval("$" + name)) & (1 << 64) - 1


class Dmesg(gdb.Command):
    """Print the kernel's log."""

    def __init__(self):
        super().__init__("k-dmesg", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        listing = gdb.execute("info variables klog.*ring.*RING", to_string=True)
        start = next((int(w, 16) for w in listing.split() if w.startswith("0x")), None)
        if start is None:
            start = int(gdb.parse_and_eval("(unsigned long) &'klog::ring::RING'"))
        # The ring's counters, then its bytes (`repr(C)`), behind the few words of its lock.
        for offset in range(0, 128, 8):
            head, tail, first, following = struct.unpack("<4Q", memory(start + offset, 32))
            if tail < head <= tail + RING_LEN and first < following <= first + RING_LEN:
                return self.show(memory(start + offset + 32, RING_LEN), head, tail)
        print("the log is empty")

    def show(self, data, head, tail):
        doubled = data + data
        while tail < head:
            at = tail % RING_LEN
            length, _, level = struct.unpack_from("<HHB", doubled, at)
            (time_ns,) = struct.unpack_from("<Q", doubled, at + 8)
            text = doubled[at + HEADER_LEN : at + HEADER_LEN + length]
            seconds, rest = divmod(time_ns // 1000, 1000000)
            print("<%d>[%5d.%06d] %s" % (level, seconds, rest, text.decode(errors="replace")))
            tail += HEADER_LEN + length


class Cpus(gdb.Command):
    """Show what every processor executes."""

    def __init__(self):
        super().__init__("k-cpus", gdb.COMMAND_STATUS)

    def invoke(self, argument, from_tty):
        current = gdb.selected_thread()
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda t: t.num):
            thread.switch()
            place = gdb.execute("info symbol $pc", to_string=True).strip()
            print("CPU %d: %#x %s" % (thread.num - 1, register("pc"), place))
        current.switch()


class Backtrace(gdb.Command):
    """Walk the frame pointers."""

    def __init__(self):
        super().__init__("k-bt", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        address, frame = register("pc"), register("rbp")
        for _ in range(64):
            name = gdb.execute("info symbol %#x" % address, to_string=True).strip()
            print("%#x %s" % (address, name))
            try:
                frame, address = struct.unpack("<QQ", memory(frame, 16))
            except gdb.MemoryError:
                return
            if address == 0:
                return


class PageTable(gdb.Command):
    """Show the page-table entries that map an address."""

    def __init__(self):
        super().__init__("k-pt", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        address = int(gdb.parse_and_eval(argument)) & (1 << 64) - 1
        table = register("cr3") & 0x000FFFFFFFFFF000
        for level, shift in (("PML4", 39), ("PDPT", 30), ("PD", 21), ("PT", 12)):
            slot = table + (address >> shift & 511) * 8
            text = gdb.execute("monitor xp /1gx %#x" % slot, to_string=True)
            entry = int(text.split(":")[1], 16)
            print("%-4s %#018x: %#018x" % (level, slot, entry))
            if not entry & 1 or entry & 0x80:
                return
            table = entry & 0x000FFFFFFFFFF000


for command in (Dmesg, Cpus, Backtrace, PageTable):
    command()
gdb.execute("set pagination off")
gdb.execute("target remote " + PORT)
print(__doc__)
