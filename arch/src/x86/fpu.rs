pub(crate) fn new_area(
    _s: crate::thread::fpu::FpuStart,
) -> alloc::boxed::Box<[crate::thread::fpu::Chunk]> {
    unimplemented!()
}
pub(crate) fn signal_area_len() -> usize {
    unimplemented!()
}
pub(crate) fn signal_features() -> u64 {
    unimplemented!()
}
pub(crate) fn save_for_signal(_area: &mut [u8]) {
    unimplemented!()
}
pub(crate) fn restore_from_signal(_area: &[u8], _features: u64) -> bool {
    unimplemented!()
}
pub(crate) fn reset_current() {
    unimplemented!()
}
