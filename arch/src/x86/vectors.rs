use crate::cpu::CpuId;
use crate::irq::{Handler, IrqError, MsiVector, Trigger};
/// Registers a handler of an interrupt line; lines are shared.
pub fn request_gsi(_gsi: u32, _trigger: Trigger, _handler: Handler) -> Result<u32, IrqError> {
    unimplemented!()
}
/// Allocates a message-signalled interrupt.
pub fn allocate_msi(_cpu_hint: Option<CpuId>, _handler: Handler) -> Result<MsiVector, IrqError> {
    unimplemented!()
}
/// Frees a message-signalled interrupt.
pub fn free_msi(_msi: MsiVector) {
    unimplemented!()
}
/// Moves a message-signalled interrupt: the new message to program.
pub fn set_affinity(_msi: MsiVector, _cpu: CpuId) -> Result<MsiVector, IrqError> {
    unimplemented!()
}
