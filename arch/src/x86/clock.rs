pub(crate) fn now_ns() -> u64 {
    unimplemented!()
}
pub(crate) fn cycles() -> u64 {
    crate::x86::regs::rdtsc()
}
pub(crate) fn cycles_per_sec() -> u64 {
    unimplemented!()
}
pub(crate) fn clocksource_name() -> &'static str {
    "tsc"
}
pub(crate) fn available_clocksources() -> &'static [&'static str] {
    &["tsc"]
}
pub(crate) fn read_persistent_clock() -> Option<u64> {
    unimplemented!()
}
pub(crate) fn write_persistent_clock(_s: u64) {
    unimplemented!()
}
