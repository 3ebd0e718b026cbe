//! Telling zstd streams from text, and the decoder that was built in.

#[cfg(feature = "zstd-c")]
pub(super) use super::zstd_c::Frames;
#[cfg(all(feature = "zstd-rust", not(feature = "zstd-c")))]
pub(super) use super::zstd_rust::Frames;

/// Number of bytes that distinguish a stream from text.
pub(super) const MAGIC_BYTES: usize = 4;
// First bytes of a frame, and of a skippable frame except for the low half of the first byte.
const FRAME_MAGIC: [u8; MAGIC_BYTES] = [0x28, 0xb5, 0x2f, 0xfd];
const SKIPPABLE_MAGIC: [u8; MAGIC_BYTES] = [0x50, 0x2a, 0x4d, 0x18];

/// Returns whether `start`, the first bytes of an input, begins a zstd stream. A shorter input that
/// could begin one counts as a truncated stream.
pub(super) fn is_zstd(start: &[u8]) -> bool {
    let seen = start.len().min(MAGIC_BYTES);
    let mut folded = [0; MAGIC_BYTES];
    folded[..seen].copy_from_slice(&start[..seen]);
    folded[0] &= 0xf0;
    seen > 0
        && (FRAME_MAGIC.starts_with(&start[..seen]) || SKIPPABLE_MAGIC.starts_with(&folded[..seen]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_magics_are_known_and_so_are_their_beginnings() {
        assert!(is_zstd(&FRAME_MAGIC) && is_zstd(b"\x5f\x2a\x4d\x18rest") && is_zstd(&[0x28]));
        assert!(!is_zstd(b"") && !is_zstd(b"a,0,0,0") && !is_zstd(b"(a") && !is_zstd(b"# k"));
    }
}
