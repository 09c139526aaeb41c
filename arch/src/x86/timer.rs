pub(crate) fn set_handler(_h: fn()) {
    unimplemented!()
}
pub(crate) fn arm(_deadline_ns: u64) {
    unimplemented!()
}
pub(crate) fn cancel() {
    unimplemented!()
}
