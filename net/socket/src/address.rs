//! Socket addresses as bytes: a family number and what the family makes of the rest.

use abi::socket::{ADDRESS_MAX, AF_UNSPEC};
use abi::{Errno, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An address of up to 128 bytes (`struct sockaddr_storage`).
#[derive(Clone, Copy)]
pub struct Address {
    bytes: [u8; ADDRESS_MAX],
    len: u8,
}

impl Default for Address {
    fn default() -> Self {
        Self::empty()
    }
}

impl Address {
    /// No address: length 0.
    pub const fn empty() -> Address {
        Address { bytes: [0; ADDRESS_MAX], len: 0 }
    }

    /// An address of `len` bytes that `fill` writes; `EINVAL` if it is too long.
    pub fn fill<E: Into<Errno>>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> core::result::Result<(), E>,
    ) -> Result<Address> {
        let mut address = Address::empty();
        let room = address.bytes.get_mut(..len).ok_or(Errno::EINVAL)?;
        fill(room).map_err(Into::into)?;
        address.len = len as u8;
        Ok(address)
    }

    /// These bytes; what is beyond the longest address is cut off.
    pub fn from_bytes(bytes: &[u8]) -> Address {
        let mut address = Address::empty();
        address.set(bytes);
        address
    }

    /// A structure of a family.
    pub fn from_struct<T: IntoBytes + Immutable>(value: &T) -> Address {
        Self::from_bytes(value.as_bytes())
    }

    /// Becomes these bytes; what is beyond the longest address is cut off.
    pub fn set(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(ADDRESS_MAX);
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..len), bytes.get(..len)) {
            to.copy_from_slice(from);
        }
        self.len = len as u8;
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// How many.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address family; `AF_UNSPEC` where it is too short to have one.
    pub fn family(&self) -> u16 {
        match self.bytes() {
            [low, high, ..] => u16::from_ne_bytes([*low, *high]),
            _ => AF_UNSPEC,
        }
    }

    /// The address as a structure of its family; `EINVAL` if it is shorter.
    pub fn read<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T> {
        T::read_from_prefix(self.bytes()).map(|(value, _)| value).map_err(|_| Errno::EINVAL)
    }
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Address({} bytes of family {})", self.len, self.family())
    }
}
