//! The rolling hash that the repository library cuts files with, its tables made once.
//!
//! Stands in for the published crate of the same name (`docs/decisions/0007-rolling-hash.md`): that one computes its
//! tables anew for every file, which for a tree of small files is most of what chunking costs. Same names, same hashes,
//! and only what the library calls.

use std::sync::{Arc, Mutex, PoisonError};

/// A polynomial over GF(2): bit *n* is the coefficient of xⁿ.
pub type Polynom64 = u64;

/// Arithmetic of polynomials over GF(2).
pub trait Polynom {
    /// The highest power with a coefficient; -1 for the zero polynomial.
    fn degree(&self) -> i32;

    /// The rest of a division by `m`, which must not be zero.
    #[must_use]
    fn modulo(&self, m: &Self) -> Self;
}

impl Polynom for Polynom64 {
    fn degree(&self) -> i32 {
        63 - self.leading_zeros().cast_signed()
    }

    fn modulo(&self, m: &Self) -> Self {
        let mut rest = *self;
        while rest.degree() >= m.degree() {
            rest ^= m << (rest.degree() - m.degree());
        }
        rest
    }
}

/// A hash of the last bytes of a stream, moved on byte by byte.
pub trait RollingHash64 {
    /// Begins anew with all but one byte of the window taken from `iter`; gives how many there were.
    fn reset_and_prefill_window<I>(&mut self, iter: &mut I) -> usize
    where
        I: Iterator<Item = u8>;

    /// Takes `byte` in, and the oldest one out.
    fn slide(&mut self, byte: u8);
}

/// Bytes that a hash is of: the one window that the library asks for.
const WINDOW: usize = 1 << WINDOW_BITS;
const WINDOW_BITS: u32 = 6;

/// What a byte does to the hash when it leaves the window, and what the eight bits that grow out of the degree do.
#[derive(Debug)]
struct Tables {
    polynom: Polynom64,
    out: [Polynom64; 256],
    modulo: [Polynom64; 256],
}

impl Tables {
    fn new(polynom: Polynom64) -> Self {
        let of = |entry: &dyn Fn(u64) -> Polynom64| {
            let mut table = [0; 256];
            (0..).zip(&mut table).for_each(|(byte, slot)| *slot = entry(byte));
            table
        };
        let out = of(&|byte| (1..WINDOW).fold(byte.modulo(&polynom), |hash, _| (hash << 8).modulo(&polynom)));
        let modulo = of(&|byte| {
            let high = byte << polynom.degree();
            high.modulo(&polynom) | high
        });
        Self { polynom, out, modulo }
    }

    /// The tables of this polynomial; those used last are kept. A process has one repository, seldom two.
    fn of(polynom: Polynom64) -> Arc<Self> {
        static LAST: Mutex<Option<Arc<Tables>>> = Mutex::new(None);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(kept) if kept.polynom == polynom => kept.clone(),
            _ => last.insert(Arc::new(Self::new(polynom))).clone(),
        }
    }
}

/// Rabin's rolling hash.
#[derive(Debug, Clone)]
pub struct Rabin64 {
    tables: Arc<Tables>,
    shift: u32,
    // Of a fixed length, so that no access to it or to the tables needs a check: this runs once for every byte.
    window: [u8; WINDOW],
    /// Where the oldest byte lies.
    oldest: usize,
    /// The hash of the bytes in the window.
    pub hash: Polynom64,
}

impl Rabin64 {
    /// With a window of 2^`window_bits` bytes, which must be 6 bits, and a polynomial of degree 8 to 55.
    ///
    /// # Panics
    /// For another window or degree: repositories have neither.
    #[must_use]
    pub fn new_with_polynom(window_bits: u32, polynom: &Polynom64) -> Self {
        assert_eq!(window_bits, WINDOW_BITS, "the library's chunker has a window of 64 bytes");
        let degree = polynom.degree();
        assert!((8..=55).contains(&degree), "a chunker polynomial has degree 53, not {degree}");
        let shift = degree.unsigned_abs() - 8;
        Self { tables: Tables::of(*polynom), shift, window: [0; WINDOW], oldest: 0, hash: 0 }
    }

    #[inline]
    fn take_in(&mut self, byte: u8) {
        self.window[self.oldest % WINDOW] = byte;
        self.oldest = (self.oldest + 1) % WINDOW;
        let grown = (self.hash >> self.shift) & 0xff;
        self.hash = ((self.hash << 8) | Polynom64::from(byte)) ^ self.tables.modulo[grown as usize];
    }
}

impl RollingHash64 for Rabin64 {
    fn reset_and_prefill_window<I>(&mut self, iter: &mut I) -> usize
    where
        I: Iterator<Item = u8>,
    {
        self.hash = 0;
        let taken = iter.take(WINDOW - 1).map(|byte| self.take_in(byte)).count();
        // The one place that was not filled: what lies there has no part in the hash.
        self.window[self.oldest] = 0;
        taken
    }

    #[inline]
    fn slide(&mut self, byte: u8) {
        let leaving = self.window[self.oldest % WINDOW];
        self.hash ^= self.tables.out[usize::from(leaving)];
        self.take_in(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of degree 53, irreducible: one such as repositories have.
    const POLYNOM: Polynom64 = 0x003D_A335_8B4D_C173;

    /// The definition, bit by bit: the window's bytes as one long polynomial, modulo.
    fn defined(window: &[u8]) -> Polynom64 {
        window.iter().fold(0, |hash: u64, byte| (hash << 8 | Polynom64::from(*byte)).modulo(&POLYNOM))
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x5eed_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn sliding_gives_the_hash_that_the_definition_gives() {
        let data = noise(1000);
        let mut rolling = Rabin64::new_with_polynom(6, &POLYNOM);
        for end in 1..=data.len() {
            rolling.slide(data[end - 1]);
            assert_eq!(rolling.hash, defined(&data[end.saturating_sub(WINDOW)..end]), "after {end} bytes");
        }
    }

    #[test]
    fn a_window_filled_anew_forgets_all_that_was_before() {
        let data = noise(500);
        let mut rolling = Rabin64::new_with_polynom(6, &POLYNOM);
        data.iter().for_each(|byte| rolling.slide(*byte));
        assert_eq!(rolling.reset_and_prefill_window(&mut data[..WINDOW].iter().copied()), WINDOW - 1);
        assert_eq!(rolling.hash, defined(&data[..WINDOW - 1]));
        for end in WINDOW..data.len() {
            rolling.slide(data[end - 1]);
            assert_eq!(rolling.hash, defined(&data[end.saturating_sub(WINDOW)..end]), "after {end} bytes");
        }
    }

    #[test]
    fn each_polynomial_has_tables_of_its_own() {
        let other = 0x0026_D3B1_1A8A_7E9D;
        let of = |polynom| {
            let mut rolling = Rabin64::new_with_polynom(6, &polynom);
            noise(200).into_iter().for_each(|byte| rolling.slide(byte));
            rolling.hash
        };
        let (first, second) = (of(POLYNOM), of(other));
        assert_ne!(first, second);
        assert_eq!((of(POLYNOM), of(other)), (first, second));
    }

    #[test]
    fn degrees_and_rests() {
        assert_eq!((0u64.degree(), 1u64.degree(), (1u64 << 7).degree()), (-1, 0, 7));
        assert_eq!((7u64.modulo(&3), 19u64.modulo(&8), 16u64.modulo(&4)), (1, 3, 0));
    }
}
