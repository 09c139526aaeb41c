//! The machine's power, and what stands for it on the host.

#[cfg(target_os = "none")]
pub(crate) use arch::power::{
    can_power_off, enable_power_button, power_off, reset, take_power_button,
};

#[cfg(not(target_os = "none"))]
mod host {
    pub(crate) fn can_power_off() -> bool {
        false
    }

    /// A test must not switch anything off.
    pub(crate) fn power_off() {}

    pub(crate) fn reset() -> ! {
        std::process::abort()
    }

    pub(crate) fn enable_power_button() -> Option<u32> {
        None
    }

    pub(crate) fn take_power_button() -> bool {
        false
    }
}

#[cfg(not(target_os = "none"))]
pub(crate) use host::{can_power_off, enable_power_button, power_off, reset, take_power_button};
