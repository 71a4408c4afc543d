//! Sharing an amount so that the parts add up to it, to the last base unit.

use metering::Tokens;

/// How much of a cost is shared equally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    /// So many hundredths.
    EqualPercent(u8),
    /// So much for each household.
    Fee(Tokens),
}

impl Terms {
    /// What is shared equally of `total`, by so many households; `None` where that would be more than all of it.
    pub(super) fn equal_part(self, total: Tokens, households: u128) -> Option<Tokens> {
        let part = match self {
            Self::EqualPercent(percent) => total.get().checked_mul(percent.into())? / 100,
            Self::Fee(fee) => fee.get().checked_mul(households)?,
        };
        Tokens::new(part).filter(|part| *part <= total)
    }
}

/// Shares `total` in proportion to `weights`, by largest remainders: each part is what it would be exactly, rounded down
/// or up, and all add up to the total. Where all weights are zero, the parts are equal. Of equal remainders the first is
/// rounded up.
pub(super) fn apportion(total: Tokens, weights: &[u64]) -> Vec<Tokens> {
    let sum: u128 = weights.iter().copied().map(u128::from).sum();
    if sum == 0 {
        return if weights.is_empty() { Vec::new() } else { apportion(total, &vec![1; weights.len()]) };
    }
    let exact: Vec<(u128, u128)> = weights.iter().map(|weight| divided(total.get(), (*weight).into(), sum)).collect();
    let mut by_remainder: Vec<usize> = (0..exact.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(exact[*at].1));
    let mut parts: Vec<u128> = exact.iter().map(|(part, _)| *part).collect();
    // Fewer than there are parts.
    let left = total.get() - parts.iter().sum::<u128>();
    for at in by_remainder.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        parts[at] += 1;
    }
    parts.into_iter().map(|part| Tokens::new(part).unwrap_or(Tokens::MAX)).collect()
}

/// `total * weight / sum` and what remains, where the product may not fit 128 bits: bit by bit. With a sum below 2^120 and a
/// weight of at most the sum, nothing overflows.
fn divided(total: u128, weight: u128, sum: u128) -> (u128, u128) {
    let (mut part, mut remainder) = (0, 0);
    for bit in (0..u128::BITS).rev() {
        part *= 2;
        remainder = 2 * remainder + if total >> bit & 1 == 1 { weight } else { 0 };
        part += remainder / sum;
        remainder %= sum;
    }
    (part, remainder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(total: u128, weights: &[u64]) -> Vec<u128> {
        apportion(Tokens::new(total).unwrap(), weights).into_iter().map(Tokens::get).collect()
    }

    #[test]
    fn what_is_left_goes_where_most_was_cut_off() {
        assert_eq!(parts(100, &[1, 1, 1]), [34, 33, 33]);
        assert_eq!(parts(10, &[66, 17, 17]), [6, 2, 2], "6.6, 1.7 and 1.7");
        assert_eq!(parts(7, &[0, 0]), [4, 3]);
        assert_eq!(parts(7, &[0, 5]), [0, 7]);
        assert_eq!(parts(7, &[]), [0; 0]);
    }

    /// 2,000 random months, with weights from none to the most there can be.
    #[test]
    fn parts_add_up_to_the_last_base_unit_and_each_is_the_exact_one_rounded() {
        let mut rng = fastrand::Rng::with_seed(7);
        for round in 0..2000 {
            let weights: Vec<u64> = (0..rng.usize(1..50)).map(|_| rng.u64(..) >> rng.u32(..64)).collect();
            let total = (rng.u128(..) >> 32) >> rng.u32(..96);
            let parts = parts(total, &weights);
            assert_eq!(parts.iter().sum::<u128>(), total, "round {round}: {weights:?}");
            let sum: u128 = weights.iter().copied().map(u128::from).sum();
            for (part, weight) in parts.iter().zip(&weights).filter(|_| sum > 0) {
                let (exact, remainder) = divided(total, (*weight).into(), sum);
                assert!(*part == exact || *part == exact + 1 && remainder > 0, "round {round}: {part} for {weight}");
                // Where it fits, by another way.
                if let Some(product) = total.checked_mul((*weight).into()) {
                    assert_eq!((exact, remainder), (product / sum, product % sum));
                }
            }
        }
    }

    #[test]
    fn a_fee_or_a_percentage_never_takes_more_than_the_whole() {
        let tokens = |amount| Tokens::new(amount).unwrap();
        assert_eq!(Terms::EqualPercent(50).equal_part(tokens(101), 3), Some(tokens(50)));
        assert_eq!(Terms::EqualPercent(100).equal_part(Tokens::MAX, 3), Some(Tokens::MAX));
        assert_eq!(Terms::Fee(tokens(33)).equal_part(tokens(100), 3), Some(tokens(99)));
        assert_eq!(Terms::Fee(tokens(34)).equal_part(tokens(100), 3), None);
        assert_eq!(Terms::Fee(Tokens::MAX).equal_part(Tokens::MAX, 2), None);
    }
}
