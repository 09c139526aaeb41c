//! Pages for buffers.

use abi::Result;
use frames::PageRef;

/// A page of its own, contents undefined.
pub(crate) fn fresh() -> Result<PageRef> {
    Ok(frames::alloc_page(frames::Flags::empty())?)
}
