use crate::cpu::{CpuId, CpuSet};
pub(crate) fn reschedule(_cpu: CpuId) {
    unimplemented!()
}
pub(crate) fn call_on(_cpus: &CpuSet, _f: fn(usize), _arg: usize) {
    unimplemented!()
}
pub(crate) fn stop_others(_report: fn(CpuId)) {
    unimplemented!()
}
