//! The values of digits.

/// The value of each byte as a digit of any radix up to 16; others have a higher one.
///
/// A table instead of a branch: no processor predicts which digits of an address are letters.
pub(super) const DIGITS: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        values[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    values
};
