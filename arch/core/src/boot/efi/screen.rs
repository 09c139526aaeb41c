//! The firmware's screen (UEFI 2.10 §12.9).

use super::firmware::Firmware;
use uefi_raw::protocol::console::{GraphicsOutputProtocol, GraphicsPixelFormat};

/// A linear framebuffer, colours as (position, size) in bits.
pub(super) struct Screen {
    pub(super) address: u64,
    pub(super) len: usize,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Pixels from one line to the next; a pixel has 32 bits.
    pub(super) stride: u32,
    pub(super) red: (u8, u8),
    pub(super) green: (u8, u8),
    pub(super) blue: (u8, u8),
}

/// The first screen; `None` if it has no framebuffer.
pub(super) fn find(firmware: &Firmware) -> Option<Screen> {
    let output = firmware.first::<GraphicsOutputProtocol>(&GraphicsOutputProtocol::GUID)?;
    // SAFETY: the firmware's protocol and the mode it points to.
    let (mode, info) = unsafe {
        let mode = (*output).mode.as_ref()?;
        (mode, mode.info.as_ref()?)
    };
    let part = |mask: u32| (mask.trailing_zeros().min(31) as u8, mask.count_ones() as u8);
    let (red, green, blue) = match info.pixel_format {
        GraphicsPixelFormat::PIXEL_RED_GREEN_BLUE_RESERVED_8_BIT_PER_COLOR => {
            ((0, 8), (8, 8), (16, 8))
        }
        GraphicsPixelFormat::PIXEL_BLUE_GREEN_RED_RESERVED_8_BIT_PER_COLOR => {
            ((16, 8), (8, 8), (0, 8))
        }
        GraphicsPixelFormat::PIXEL_BIT_MASK => {
            let masks = &info.pixel_information;
            (part(masks.red), part(masks.green), part(masks.blue))
        }
        // Without a framebuffer.
        _ => return None,
    };
    Some(Screen {
        address: mode.frame_buffer_base,
        len: mode.frame_buffer_size,
        width: info.horizontal_resolution,
        height: info.vertical_resolution,
        stride: info.pixels_per_scan_line,
        red,
        green,
        blue,
    })
}
