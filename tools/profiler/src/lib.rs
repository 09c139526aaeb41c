#![doc = include_str!("../README.md")]

mod qemu;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::sync::{Mutex, OnceLock};

use qemu::{Block, PluginId};

/// `xchg bx, bx`.
const START: [u8; 3] = [0x66, 0x87, 0xdb];
/// `xchg cx, cx`.
const STOP: [u8; 3] = [0x66, 0x87, 0xc9];

/// Executions of a block. QEMU's generated code adds to `now`, so a counter never moves.
#[derive(Default)]
struct Counter {
    now: u64,
    at_start: u64,
    counted: u64,
}

/// All blocks by address and number of instructions; a block that is translated again goes on
/// with its counter.
#[derive(Default)]
struct Profile {
    counters: HashMap<(u64, usize), &'static mut Counter>,
    is_marked: bool,
    is_running: bool,
}

static PROFILE: Mutex<Option<Profile>> = Mutex::new(None);
static OUT: OnceLock<String> = OnceLock::new();

fn with_profile<R>(work: impl FnOnce(&mut Profile) -> R) -> R {
    let mut profile = PROFILE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    work(profile.get_or_insert_default())
}

impl Profile {
    fn start(&mut self) {
        self.is_marked = true;
        self.is_running = true;
        for counter in self.counters.values_mut() {
            counter.at_start = current(counter);
        }
    }

    fn stop(&mut self) {
        if core::mem::take(&mut self.is_running) {
            for counter in self.counters.values_mut() {
                counter.counted += current(counter) - counter.at_start;
            }
        }
    }

    fn counter(&mut self, key: (u64, usize)) -> *mut u64 {
        let counter = self.counters.entry(key).or_insert_with(|| Box::leak(Box::default()));
        &raw mut counter.now
    }

    fn write(&mut self, path: &str) -> std::io::Result<()> {
        self.stop();
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for ((address, instructions), counter) in &self.counters {
            let count = if self.is_marked { counter.counted } else { current(counter) };
            if count != 0 {
                writeln!(file, "{address:x} {instructions} {count}")?;
            }
        }
        file.flush()
    }
}

fn current(counter: &Counter) -> u64 {
    // SAFETY: the field is initialised; generated code changes it behind the compiler's back.
    unsafe { (&raw const counter.now).read_volatile() }
}

/// The version of the plugin interface this is written for.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// QEMU's way in. Takes `out=FILE`.
///
/// # Safety
/// Called once by QEMU, with `argc` strings in `argv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    for index in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: QEMU passes `argc` strings.
        let word = unsafe { CStr::from_ptr(*argv.add(index)) }.to_string_lossy();
        match word.split_once('=') {
            Some(("out", path)) => _ = OUT.set(path.to_string()),
            _ => {
                eprintln!("profiler: unknown option {word}");
                return 1;
            }
        }
    }
    // SAFETY: the callbacks have the types that QEMU calls and live as long as the plugin.
    unsafe {
        qemu::qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        qemu::qemu_plugin_register_atexit_cb(id, at_exit, core::ptr::null_mut());
    }
    0
}

extern "C" fn translated(_: PluginId, block: *mut Block) {
    // SAFETY: QEMU's block is valid during the callback; counters live for ever.
    unsafe {
        let instructions = qemu::qemu_plugin_tb_n_insns(block);
        let address = qemu::qemu_plugin_tb_vaddr(block);
        let counter = with_profile(|profile| profile.counter((address, instructions)));
        qemu::qemu_plugin_register_vcpu_tb_exec_inline(block, qemu::ADD_U64, counter.cast(), 1);
        for index in 0..instructions {
            let instruction = qemu::qemu_plugin_tb_get_insn(block, index);
            if qemu::qemu_plugin_insn_size(instruction) != START.len() {
                continue;
            }
            let bytes: *const [u8; 3] = qemu::qemu_plugin_insn_data(instruction).cast();
            let mark = match *bytes {
                START => started,
                STOP => stopped,
                _ => continue,
            };
            qemu::qemu_plugin_register_vcpu_insn_exec_cb(
                instruction,
                mark,
                qemu::NO_REGISTERS,
                core::ptr::null_mut(),
            );
        }
    }
}

extern "C" fn started(_: c_uint, _: *mut c_void) {
    with_profile(Profile::start);
}

extern "C" fn stopped(_: c_uint, _: *mut c_void) {
    with_profile(Profile::stop);
}

extern "C" fn at_exit(_: PluginId, _: *mut c_void) {
    let path = OUT.get().map_or("profile.raw", String::as_str);
    if let Err(why) = with_profile(|profile| profile.write(path)) {
        eprintln!("profiler: {path}: {why}");
    }
}
