use crate::user::Fault;
pub(crate) unsafe fn copy_in(_to: *mut u8, _from: u64, _len: usize) -> usize {
    unimplemented!()
}
pub(crate) unsafe fn copy_out(_to: u64, _from: *const u8, _len: usize) -> usize {
    unimplemented!()
}
pub(crate) unsafe fn clear(_to: u64, _len: usize) -> usize {
    unimplemented!()
}
pub(crate) unsafe fn load_u32(_from: u64) -> Result<u32, Fault> {
    unimplemented!()
}
pub(crate) unsafe fn load_u64(_from: u64) -> Result<u64, Fault> {
    unimplemented!()
}
pub(crate) unsafe fn exchange_u32(_at: u64, _value: u32) -> Result<u32, Fault> {
    unimplemented!()
}
pub(crate) unsafe fn cmpxchg_u32(_at: u64, _old: u32, _new: u32) -> Result<u32, Fault> {
    unimplemented!()
}
