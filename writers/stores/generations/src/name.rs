//! Names of generation files.
//! Owns: the two widths of a number, the suffix of a file that is not closed.
//! Leaves to others: what a file really is, which only its header says (`set`).

/// The first number whose name has eight hexadecimal digits instead of five.
pub const FIRST_LONG_NUMBER: u32 = 0x10_0000;

/// What names of closed generations end in.
pub(crate) const SUFFIX: &str = ".hlog";
/// What is added while a generation is written.
const UNSEALED: &str = ".new";

/// The name of the closed generation of that number: `gen0000A.hlog`, `gen00100000.hlog`.
#[must_use]
pub fn file_name(number: u32) -> String {
    if number < FIRST_LONG_NUMBER {
        format!("gen{number:05X}{SUFFIX}")
    } else {
        format!("gen{number:08X}{SUFFIX}")
    }
}

/// The name of a generation while it is written: that of [`file_name`] and `.new`.
#[must_use]
pub fn unsealed_name(number: u32) -> String {
    file_name(number) + UNSEALED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_five_digits_and_eight_from_the_first_that_needs_six() {
        assert_eq!(file_name(1), "gen00001.hlog");
        assert_eq!(file_name(0xF_FFFF), "genFFFFF.hlog");
        assert_eq!(file_name(0x10_0000), "gen00100000.hlog");
        assert_eq!(file_name(u32::MAX), "genFFFFFFFF.hlog");
        assert_eq!(unsealed_name(10), "gen0000A.hlog.new");
    }
}
