//! Division by the distance of objects, which is done for each object that is freed.

/// A divisor, from 1 to 2^32, with its reciprocal. On 64-bit machines a division by it is a
/// multiplication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Divisor {
    divisor: usize,
    /// 2^63 / divisor, rounded up: the upper half of its product with twice a number below 2^31 is
    /// the number's quotient. 2^64 / divisor would not fit for a divisor of one.
    reciprocal: u64,
}

impl Divisor {
    pub(crate) const fn new(divisor: usize) -> Self {
        Self { divisor, reciprocal: (1_u64 << 63).div_ceil(divisor as u64) }
    }

    /// Returns the quotient of a number below 2^31 and the divisor.
    #[inline]
    pub(crate) const fn quotient(self, number: usize) -> usize {
        if usize::BITS < 64 {
            return number / self.divisor;
        }
        ((self.reciprocal as u128 * (2 * number) as u128) >> 64) as usize
    }

    /// Returns whether `quotient` times the divisor is `number`.
    #[inline]
    pub(crate) const fn divides(self, quotient: usize, number: usize) -> bool {
        quotient * self.divisor == number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_exact_for_offsets_in_slabs() {
        for divisor in (1..5000).chain([65_536, 1 << 20, crate::LARGEST_SIZE]) {
            let quotient = Divisor::new(divisor);
            for times in [0, 1, 2, 3, 100, 1000, 65_535] {
                for offset in [times * divisor, times * divisor + divisor - 1] {
                    if offset < 1 << 31 {
                        assert_eq!(
                            quotient.quotient(offset),
                            offset / divisor,
                            "{offset} / {divisor}"
                        );
                    }
                }
            }
        }
    }
}
