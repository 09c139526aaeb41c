//! From the boot loader to `kernel_main`: what `machine::boot` found, and how the image names its start.

pub use machine::boot::*;

/// Says which function of the image is called after boot: on one processor with interrupts off, the
/// image at its final address, per-CPU data, descriptor tables and exceptions there.
///
/// ```ignore
/// fn start(info: &'static arch::boot::BootInfo) -> ! { … }
/// arch::entry_point!(start);
/// ```
#[macro_export]
macro_rules! entry_point {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn kernel_main(info: &'static $crate::boot::BootInfo) -> ! {
            let main: fn(&'static $crate::boot::BootInfo) -> ! = $main;
            $crate::x86::init::begin();
            main(info)
        }
    };
}
