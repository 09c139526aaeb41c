//! Programs made by hand that are odd and not broken: what `execve(2)` says, how each ended, and
//! where it was told that its program headers are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

/// Where the programs lie.
const BASE: u64 = 0x1000_0000;
/// What the probe reads a byte of; replaced in the program.
const TOUCHED: u64 = 0x1122_3344_5566_7788;
const LOAD: u32 = 1;
const X: u32 = 1;
const W: u32 = 2;
const R: u32 = 4;

// Writes AT_PHDR to descriptor 1, reads a byte of an address unless that is 0, and leaves.
core::arch::global_asm!(
    ".globl craft_probe, craft_probe_end",
    "craft_probe:",
    "mov rsi, rsp",
    "lodsq",
    "lea rsi, [rsi + rax * 8 + 8]",
    "2: lodsq",
    "test rax, rax",
    "jne 2b",
    "3: lodsq",
    "mov rdx, rax",
    "lodsq",
    "cmp rdx, 3",
    "je 4f",
    "test rdx, rdx",
    "jne 3b",
    "4: push rax",
    "mov edi, 1",
    "mov rsi, rsp",
    "mov edx, 8",
    "mov eax, 1",
    "syscall",
    "xor edi, edi",
    "movabs rbx, 0x1122334455667788",
    "test rbx, rbx",
    "je 5f",
    "movzx edi, byte ptr [rbx]",
    "5: mov eax, 60",
    "syscall",
    "craft_probe_end:",
);

unsafe extern "C" {
    static craft_probe: u8;
    static craft_probe_end: u8;
}

/// A program header: kind, flags, file offset, address, bytes in the file and in memory.
type Segment = (u32, u32, u64, u64, u64, u64);

/// A program with the probe at file offset 0x800.
struct Program {
    segments: Vec<Segment>,
    headers_at: u64,
    touched: u64,
    len: usize,
}

impl Program {
    /// One that is as it should be.
    fn plain() -> Program {
        let segments = vec![(LOAD, R | X, 0, BASE, 0x1000, 0x1000)];
        Program { segments, headers_at: 64, touched: 0, len: 0x1000 }
    }

    /// With one segment more.
    fn and(mut self, segment: Segment) -> Program {
        self.segments.push(segment);
        self
    }

    fn touching(mut self, address: u64) -> Program {
        self.touched = address;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let headers_end = self.headers_at as usize + 56 * self.segments.len();
        let mut file = vec![0x5a; self.len.max(headers_end)];
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(16, 0);
        head.extend([2u16, 62].iter().flat_map(|n| n.to_le_bytes()));
        head.extend(1u32.to_le_bytes());
        head.extend([BASE + 0x800, self.headers_at, 0].iter().flat_map(|n| n.to_le_bytes()));
        head.extend(0u32.to_le_bytes());
        let counts = [64, 56, self.segments.len() as u16, 64, 0, 0];
        head.extend(counts.iter().flat_map(|n| n.to_le_bytes()));
        file[..64].copy_from_slice(&head);
        // SAFETY: the probe's bytes are between its labels, in this program's own code.
        let probe = unsafe {
            let start = &raw const craft_probe;
            core::slice::from_raw_parts(
                start,
                (&raw const craft_probe_end).offset_from(start) as usize,
            )
        };
        let mut probe = probe.to_vec();
        let place = probe.windows(8).position(|w| w == TOUCHED.to_le_bytes()).expect("the mark");
        probe[place..place + 8].copy_from_slice(&self.touched.to_le_bytes());
        file[0x800..0x800 + probe.len()].copy_from_slice(&probe);
        for (index, &(kind, flags, offset, address, filesz, memsz)) in
            self.segments.iter().enumerate()
        {
            let mut header: Vec<u8> = [kind, flags].iter().flat_map(|n| n.to_le_bytes()).collect();
            let words = [offset, address, address, filesz, memsz, 0x1000];
            header.extend(words.iter().flat_map(|n| n.to_le_bytes()));
            let at = self.headers_at as usize + 56 * index;
            file[at..at + 56].copy_from_slice(&header);
        }
        file
    }

    fn run(&self, name: &str) {
        let path = "/tmp/crafted";
        let _ = fs::remove_file(path);
        fs::write(path, self.bytes()).expect("write");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut command = Command::new(path);
        command.arg0("crafted").stdin(Stdio::null()).stderr(Stdio::null());
        match command.output() {
            Err(why) => println!("{name}: errno {:?}", why.raw_os_error()),
            Ok(output) => {
                let told = output
                    .stdout
                    .get(..8)
                    .map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
                let (code, signal) = (output.status.code(), output.status.signal());
                println!("{name}: status {code:?} signal {signal:?} headers at {told:x?}");
            }
        }
    }
}

/// Runs all of them.
pub(super) fn run() {
    let next = BASE + 0x10000;
    Program::plain().run("plain");
    Program { headers_at: 0x1100, ..Program::plain() }.run("headers in no segment");
    Program { headers_at: 0x1100, ..Program::plain().and((LOAD, R, 0x1000, next, 0x200, 0x200)) }
        .run("headers in the second segment");
    Program { headers_at: 0xff0, ..Program::plain() }.run("headers partly in a segment");
    for count in [73, 74, 1170, 1171] {
        let mut program = Program { headers_at: 0x1000, ..Program::plain() };
        program.segments.resize(count, (0, 0, 0, 0, 0, 0));
        program.run(&format!("{count} headers"));
    }
    for (rights, flags) in [("none", 0), ("read", R), ("write", W), ("read and write", R | W)] {
        let name = |what: &str| format!("{what}, {rights}");
        let with = |segment: Segment, at: u64| Program::plain().and(segment).touching(at);
        with((LOAD, flags, 0, next, 0x1000, 0x1000), next).run(&name("in the file"));
        with((LOAD, flags, 0x10000, next, 0x1000, 0x1000), next).run(&name("beyond the file"));
        with((LOAD, flags, 0x10000, next, 0x800, 0x1000), next).run(&name("half beyond the file"));
        with((LOAD, flags, 0, next, 0x100, 0x800), next + 0x700).run(&name("zeroes in the page"));
        with((LOAD, flags, 0, next, 0x1000, 0x3000), next + 0x2000).run(&name("zeroes behind"));
        with((LOAD, flags, 0, next, 0, 0x3000), next + 0x2000).run(&name("zeroes only"));
        with((LOAD, flags, 0, BASE, 0x1000, 0x1000), BASE).run(&name("over the first"));
        with((LOAD, flags, 0, BASE - 0x10000, 0x1000, 0x20000), BASE)
            .run(&name("zeroes over the first"));
        with((LOAD, flags, 0, BASE - 0x10000, 0x1000, 0x1000), BASE).run(&name("before the first"));
    }
}
