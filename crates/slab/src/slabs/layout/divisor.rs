//! Division by the distance of objects, which is done for each object that is freed.

/// A divisor with its reciprocal: a division by it is a multiplication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Divisor {
    divisor: usize,
    /// 2^64 / divisor, rounded up: the upper half of its product with a number below 2^32 is the
    /// quotient. Zero for a divisor of one, as 2^64 does not fit.
    reciprocal: u64,
}

impl Divisor {
    pub(crate) const fn new(divisor: usize) -> Self {
        Self { divisor, reciprocal: (u64::MAX / divisor as u64).wrapping_add(1) }
    }

    /// Returns the quotient of a number below 2^32 and the divisor.
    #[inline]
    pub(crate) const fn quotient(self, number: usize) -> usize {
        if usize::BITS < 64 {
            return number / self.divisor;
        }
        if self.reciprocal == 0 {
            return number;
        }
        ((self.reciprocal as u128 * number as u128) >> 64) as usize
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
                    if offset < 1 << 32 {
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
