//! The kernel image: entry after boot, the order of start-up, and panic.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    use arch::boot::BootInfo;
    use core::fmt::Write;
    use core::panic::PanicInfo;

    #[unsafe(no_mangle)]
    fn kernel_main(info: &'static BootInfo) -> ! {
        arch::console::set_up(115_200);
        let mut out = arch::console::EarlyConsole;
        let _ = writeln!(out, "booted by {:?}: `{}`", info.protocol, info.command_line());
        let _ = writeln!(
            out,
            "kernel {:?} at {:?}, direct map {:?}, initrd {:?}, rsdp {:?}, tables {:?}",
            info.kernel, info.kernel_virt, info.direct_map, info.initrd, info.rsdp, info.tables
        );
        for range in info.usable() {
            let _ = writeln!(out, "usable {range:?}");
        }
        loop {
            core::hint::spin_loop();
        }
    }

    struct NoHeap;

    // SAFETY: never hands out memory.
    unsafe impl core::alloc::GlobalAlloc for NoHeap {
        unsafe fn alloc(&self, _: core::alloc::Layout) -> *mut u8 {
            core::ptr::null_mut()
        }
        unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
    }

    #[global_allocator]
    static HEAP: NoHeap = NoHeap;

    #[panic_handler]
    fn panic(info: &PanicInfo<'_>) -> ! {
        let _ = writeln!(arch::console::EarlyConsole, "{info}");
        loop {
            core::hint::spin_loop();
        }
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
