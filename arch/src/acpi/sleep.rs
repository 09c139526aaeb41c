//! The sleep types of S5, found in the DSDT without an interpreter.
//!
//! `_S5_` is by the specification a named package of integer constants (ACPI 7.4.2), so its bytes
//! are `NameOp "_S5_" PackageOp PkgLength NumElements value value …`.

const NAME_OP: u8 = 0x08;
const PACKAGE_OP: u8 = 0x12;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;

/// The sleep types for the two PM1 control registers.
pub(super) fn find_s5(aml: &[u8]) -> Option<(u8, u8)> {
    aml.windows(5)
        .enumerate()
        .filter(|(at, window)| {
            let named = window.starts_with(b"_S5_") && window.ends_with(&[PACKAGE_OP]);
            let before = |back: usize| at.checked_sub(back).and_then(|at| aml.get(at)).copied();
            named && (before(1) == Some(NAME_OP) || before(2) == Some(NAME_OP))
        })
        .find_map(|(at, _)| package(aml.get(at + 5..)?))
}

/// The first two integers of a package.
fn package(bytes: &[u8]) -> Option<(u8, u8)> {
    // The two top bits of PkgLength tell how many bytes follow its first.
    let lead = usize::from(bytes.first()? >> 6);
    let mut elements = bytes.get(lead + 1..)?;
    let count = *elements.first()?;
    elements = elements.get(1..)?;
    if count == 0 {
        return None;
    }
    let (first, rest) = integer(elements)?;
    let second = if count > 1 { integer(rest)?.0 } else { first };
    Some((first, second))
}

/// An integer constant cut to the three bits a sleep type has, and what comes after it.
fn integer(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (&op, rest) = bytes.split_first()?;
    let (value, len) = match op {
        0 | 1 => (op, 0),
        BYTE_PREFIX => (*rest.first()?, 1),
        WORD_PREFIX => (*rest.first()?, 2),
        DWORD_PREFIX => (*rest.first()?, 4),
        _ => return None,
    };
    Some((value & 7, rest.get(len..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_types_are_found() {
        let qemu = b"\x10\x08_S5_\x12\x06\x04\0\0\0\0";
        assert_eq!(find_s5(qemu), Some((0, 0)));
        let bytes = b"junk\x08_S5_\x12\x0a\x04\x0a\x05\x0a\x07\0\0";
        assert_eq!(find_s5(bytes), Some((5, 7)));
        let rooted = b"\x08\\_S5_\x12\x40\x0a\x02\x0a\x02\x01";
        assert_eq!(find_s5(rooted), Some((2, 1)));
    }

    #[test]
    fn odd_bytes_are_survived() {
        assert_eq!(find_s5(b"\x08_S5_\x12"), None);
        assert_eq!(find_s5(b"\x08_S5_\x12\x06\x04\x70"), None);
        assert_eq!(find_s5(b"_S5_\x12\x06\x04\0\0"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes: Vec<u8>, at in 0usize..64) {
            let at = at.min(bytes.len());
            bytes.splice(at..at, b"\x08_S5_\x12".iter().copied());
            let _ = find_s5(&bytes);
        }
    }
}
