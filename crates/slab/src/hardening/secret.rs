//! The secret of a cache, on which canaries and shuffled slabs depend.

/// Odd, its bits spread evenly: the golden ratio's fraction (Knuth TAOCP 3, section 6.4).
const SPREAD: usize = 0x9e37_79b9_7f4a_7c15_u64 as usize;

/// Returns the secret that a user gave. Zero counts as none, as a machine without random bits gives
/// zero. Without a secret, returns a mix of the addresses of the registry, of this function and of
/// the stack. It is as random as the machine's choice of these addresses.
pub(crate) fn secret_or_default(given: Option<usize>, registry: usize) -> usize {
    if let Some(secret) = given.filter(|secret| *secret != 0) {
        return secret;
    }
    let on_stack = 0_u8;
    let addresses =
        [registry, secret_or_default as *const () as usize, (&raw const on_stack).addr()];
    let mixed = addresses.iter().fold(SPREAD, |mixed, address| mix(mixed ^ address));
    // One in 2^64 is zero.
    if mixed == 0 { SPREAD } else { mixed }
}

/// Mixes all bits of `word` with one another (the finaliser of MurmurHash3; Appleby 2011).
const fn mix(word: usize) -> usize {
    let half = usize::BITS / 2;
    let word = (word ^ word >> half).wrapping_mul(SPREAD);
    let word = (word ^ word >> half).wrapping_mul(SPREAD | 1 << half);
    word ^ word >> half
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations that it catches: zero is taken; the default is the address.
    #[test]
    fn zero_is_no_secret_and_the_default_is_no_address() {
        assert_eq!(secret_or_default(Some(7), 0x1000), 7);
        for registry in (0x1000..0x9000).step_by(64) {
            for given in [None, Some(0)] {
                let secret = secret_or_default(given, registry);
                assert!(secret != 0 && secret != registry);
                let next = secret_or_default(given, registry + 64);
                assert!((secret ^ next).count_ones() >= 8, "{secret:#x} and {next:#x}");
            }
        }
    }
}
