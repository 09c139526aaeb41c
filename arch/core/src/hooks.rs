//! What `arch`, the layer above, defines for the assembly and the start-up: the linker resolves it, so
//! that an entry from user mode makes no detour over a table.

use crate::cpu::CpuId;
use crate::trap::TrapFrame;

unsafe extern "Rust" {
    /// Prints on the console of the first moments.
    pub(crate) safe fn machine_early_print(text: &str);
    /// Interrupts another processor.
    pub(crate) safe fn machine_send(cpu: CpuId, vector: u8);
    /// The rest of a started processor's life.
    pub(crate) safe fn machine_secondary(cpu: CpuId) -> !;
}

unsafe extern "C" {
    /// Work before the return to user mode; entered and left with interrupts off.
    pub(crate) safe fn machine_exit_work(frame: &mut TrapFrame);
    /// A hardware interrupt.
    pub(crate) safe fn machine_interrupt(frame: &mut TrapFrame, number: u64);
    /// An exception on the thread's stack.
    pub(crate) safe fn machine_exception(frame: &mut TrapFrame, number: u64, error: u64);
    /// An exception on a stack of its own.
    pub(crate) safe fn machine_paranoid(frame: &mut TrapFrame, number: u64, error: u64);
}

/// Defines what this crate calls above itself. Once, by `arch`.
#[macro_export]
macro_rules! define_hooks {
    (
        early_print: $early_print:path,
        send: $send:path,
        secondary: $secondary:path,
        exit_work: $exit_work:path,
        interrupt: $interrupt:path,
        exception: $exception:path,
        paranoid: $paranoid:path $(,)?
    ) => {
        const _: () = {
            use $crate::cpu::CpuId;
            use $crate::trap::TrapFrame;

            #[unsafe(no_mangle)]
            fn machine_early_print(text: &str) {
                $early_print(text);
            }
            #[unsafe(no_mangle)]
            fn machine_send(cpu: CpuId, vector: u8) {
                $send(cpu, vector);
            }
            #[unsafe(no_mangle)]
            fn machine_secondary(cpu: CpuId) -> ! {
                $secondary(cpu)
            }
            #[unsafe(no_mangle)]
            extern "C" fn machine_exit_work(frame: &mut TrapFrame) {
                $exit_work(frame);
            }
            #[unsafe(no_mangle)]
            extern "C" fn machine_interrupt(frame: &mut TrapFrame, number: u64) {
                $interrupt(frame, number);
            }
            #[unsafe(no_mangle)]
            extern "C" fn machine_exception(frame: &mut TrapFrame, number: u64, error: u64) {
                $exception(frame, number, error);
            }
            #[unsafe(no_mangle)]
            extern "C" fn machine_paranoid(frame: &mut TrapFrame, number: u64, error: u64) {
                $paranoid(frame, number, error);
            }
        };
    };
}
