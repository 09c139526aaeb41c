//! Random numbers for programs and for address-space layout: ChaCha20 (RFC 8439) keyed from the
//! processor's generator and the timing of events, with the key replaced after every use, so that
//! what was handed out cannot be computed from the state later.

use arch::lock::{IrqLock, LockClass};

static CLASS: LockClass = LockClass::new("process.random", 780);

struct State {
    key: [u32; 8],
    counter: u64,
    is_seeded: bool,
}

static STATE: IrqLock<State> =
    IrqLock::new(&CLASS, State { key: [0; 8], counter: 0, is_seeded: false });

#[inline(always)]
fn quarter(x: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
    x[a] = x[a].wrapping_add(x[b]);
    x[d] = (x[d] ^ x[a]).rotate_left(16);
    x[c] = x[c].wrapping_add(x[d]);
    x[b] = (x[b] ^ x[c]).rotate_left(12);
    x[a] = x[a].wrapping_add(x[b]);
    x[d] = (x[d] ^ x[a]).rotate_left(8);
    x[c] = x[c].wrapping_add(x[d]);
    x[b] = (x[b] ^ x[c]).rotate_left(7);
}

/// One block of key stream.
fn block(key: &[u32; 8], counter: u64, nonce: u64) -> [u32; 16] {
    let mut start = [0u32; 16];
    start[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    start[4..12].copy_from_slice(key);
    start[12] = counter as u32;
    start[13] = (counter >> 32) as u32;
    start[14] = nonce as u32;
    start[15] = (nonce >> 32) as u32;
    let mut x = start;
    for _ in 0..10 {
        quarter(&mut x, [0, 4, 8, 12]);
        quarter(&mut x, [1, 5, 9, 13]);
        quarter(&mut x, [2, 6, 10, 14]);
        quarter(&mut x, [3, 7, 11, 15]);
        quarter(&mut x, [0, 5, 10, 15]);
        quarter(&mut x, [1, 6, 11, 12]);
        quarter(&mut x, [2, 7, 8, 13]);
        quarter(&mut x, [3, 4, 9, 14]);
    }
    for (out, add) in x.iter_mut().zip(start) {
        *out = out.wrapping_add(add);
    }
    x
}

impl State {
    /// Mixes `words` into the key.
    fn absorb(&mut self, words: &[u64]) {
        for chunk in words.chunks(4) {
            for (key, word) in self.key.chunks_mut(2).zip(chunk) {
                if let [low, high] = key {
                    *low ^= *word as u32;
                    *high ^= (*word >> 32) as u32;
                }
            }
            self.rekey();
        }
    }

    /// Replaces the key by key stream; returns the unused half of the block.
    fn rekey(&mut self) -> [u32; 8] {
        self.counter = self.counter.wrapping_add(1);
        let out = block(&self.key, self.counter, 0);
        let mut rest = [0; 8];
        self.key.copy_from_slice(&out[..8]);
        rest.copy_from_slice(&out[8..]);
        rest
    }

    fn seed(&mut self) {
        let mut words = [0u64; 8];
        for word in &mut words {
            *word =
                arch::cpu::hardware_random().unwrap_or(0) ^ arch::time::cycles().rotate_left(32);
        }
        self.absorb(&words);
        self.is_seeded = true;
    }
}

/// Fills `out`.
pub fn fill(out: &mut [u8]) {
    let (first, is_all) = {
        let mut state = STATE.lock();
        if !state.is_seeded {
            state.seed();
        }
        // The timing of this call goes into the key whose block is half handed out, half the next
        // key: the state has moved on before anybody sees the bytes.
        let cycles = arch::time::cycles();
        state.key[0] ^= cycles as u32;
        state.key[1] ^= (cycles >> 32) as u32;
        (state.rekey(), out.len() <= 32)
    };
    if is_all {
        return copy_words(out, &first);
    }
    // More than that is the key stream of a key of its own.
    for (counter, chunk) in out.chunks_mut(64).enumerate() {
        copy_words(chunk, &block(&first, counter as u64, 0));
    }
}

fn copy_words(out: &mut [u8], words: &[u32]) {
    for (to, from) in out.chunks_mut(4).zip(words) {
        let bytes = from.to_le_bytes();
        to.copy_from_slice(&bytes[..to.len()]);
    }
}

/// A random number.
pub fn next_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Mixes bytes from outside into the state (`/dev/random`, a hardware generator).
pub fn add_entropy(bytes: &[u8]) {
    for chunk in bytes.chunks(8) {
        let mut word = [0u8; 8];
        if let Some(part) = word.get_mut(..chunk.len()) {
            part.copy_from_slice(chunk);
        }
        STATE.lock().absorb(&[u64::from_le_bytes(word)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_is_chacha20() {
        // RFC 8439, 2.3.2; its 32-bit counter and 96-bit nonce share our words 12 to 15.
        let bytes: Vec<u8> = (0..32).collect();
        let mut key = [0u32; 8];
        for (word, chunk) in key.iter_mut().zip(bytes.chunks(4)) {
            *word = u32::from_le_bytes(chunk.try_into().expect("4 bytes"));
        }
        let out = block(&key, 1 | 0x0900_0000 << 32, 0x4a00_0000);
        assert_eq!(out[0], 0xe4e7_f110);
        assert_eq!(out[15], 0x4e3c_50a2);
    }

    #[test]
    fn output_differs() {
        let (mut a, mut b) = ([0u8; 100], [0u8; 100]);
        fill(&mut a);
        fill(&mut b);
        assert_ne!(a, b);
        assert_ne!(next_u64(), next_u64());
    }
}
