//! The table of contents of a CD: MMC-6 §6.25.

use abi::{Errno, Result};

use crate::{Cdb, Data, Transport};

const TIMEOUT_NS: u64 = 30_000_000_000;
/// A header and the descriptors of 99 tracks and the lead-out.
const MAX_LEN: usize = 4 + 100 * 8;
/// The number that stands for the end of the last track.
pub(crate) const LEAD_OUT: u8 = 0xaa;

/// A track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Track {
    pub(crate) number: u8,
    /// Four bits each: what the subchannel says, and what kind of track it is.
    pub(crate) adr: u8,
    pub(crate) control: u8,
    /// The first block, or minute, second and frame in its three lower bytes.
    pub(crate) address: [u8; 4],
}

impl Track {
    fn parse(entry: &[u8]) -> Option<Track> {
        let (head, address) = entry.split_first_chunk::<4>()?;
        let address = *address.first_chunk::<4>()?;
        let [_, bits, number, _] = *head;
        Some(Track { number, adr: bits >> 4, control: bits & 15, address })
    }

    /// Whether it has data and no sound.
    pub(crate) fn is_data(&self) -> bool {
        self.control & 4 != 0
    }
}

/// The first and the last track.
pub(crate) fn header(transport: &dyn Transport) -> Result<(u8, u8)> {
    let mut data = [0; 12];
    let len = data.len() as u16;
    transport.execute(&Cdb::read_toc(0, false, 0, len), Data::In(&mut data), TIMEOUT_NS)?;
    Ok((data[2], data[3]))
}

/// A track by its number, its address in blocks or as minute, second and frame.
pub(crate) fn track(transport: &dyn Transport, number: u8, is_msf: bool) -> Result<Track> {
    let mut data = [0; 12];
    let cdb = Cdb::read_toc(0, is_msf, number, data.len() as u16);
    transport.execute(&cdb, Data::In(&mut data), TIMEOUT_NS)?;
    data.get(4..).and_then(Track::parse).ok_or(Errno::EIO)
}

/// The first track of the last session, and whether there is more than one session.
pub(crate) fn last_session(transport: &dyn Transport, is_msf: bool) -> Result<(Track, bool)> {
    let mut data = [0; 12];
    let cdb = Cdb::read_toc(1, is_msf, 0, data.len() as u16);
    transport.execute(&cdb, Data::In(&mut data), TIMEOUT_NS)?;
    let track = data.get(4..).and_then(Track::parse).ok_or(Errno::EIO)?;
    Ok((track, data[2] != data[3]))
}

/// How many tracks have data, and how many sound.
pub(crate) fn count_tracks(transport: &dyn Transport) -> Result<(u32, u32)> {
    let mut data = [0; MAX_LEN];
    let cdb = Cdb::read_toc(0, false, 0, data.len() as u16);
    let moved = transport.execute(&cdb, Data::In(&mut data), TIMEOUT_NS)?;
    // The length counts from behind itself.
    let end = (usize::from(u16::from_be_bytes([data[0], data[1]])) + 2).min(moved);
    let entries = data.get(4..end).unwrap_or(&[]).chunks_exact(8).filter_map(Track::parse);
    let tracks = entries.filter(|track| track.number != LEAD_OUT);
    Ok(tracks.fold((0, 0), |(data, sound), track| match track.is_data() {
        true => (data + 1, sound),
        false => (data, sound + 1),
    }))
}
