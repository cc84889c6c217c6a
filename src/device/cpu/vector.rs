//! Reductions with sixteen running values, so that they become vector code and still have one order.

use crate::dtype::Real;

const LANES: usize = 16;

/// `f` folded over pairs of elements in sixteen lanes, then the lanes in order.
#[inline(always)]
fn lanes<T: Real>(a: &[T], b: &[T], start: T, f: impl Fn(T, T, T) -> T, join: impl Fn(T, T) -> T) -> T {
    let mut acc = [start; LANES];
    let (ab, at) = a.as_chunks::<LANES>();
    let (bb, bt) = b.as_chunks::<LANES>();
    for (x, y) in ab.iter().zip(bb) {
        for l in 0..LANES {
            acc[l] = f(acc[l], x[l], y[l]);
        }
    }
    for (l, (x, y)) in at.iter().zip(bt).enumerate() {
        acc[l] = f(acc[l], *x, *y);
    }
    acc.into_iter().fold(start, join)
}

/// Sum of `a[i] b[i]`.
#[inline(always)]
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    lanes(a, b, T::ZERO, |s, x, y| s + x * y, |s, x| s + x)
}

/// Sum of `a[i]`.
#[inline(always)]
pub fn sum<T: Real>(a: &[T]) -> T {
    lanes(a, a, T::ZERO, |s, x, _| s + x, |s, x| s + x)
}

/// The largest element; NaN if there is one; -infinity for none.
#[inline(always)]
pub fn max<T: Real>(a: &[T]) -> T {
    lanes(a, a, T::NEG_INFINITY, |s, x, _| s.max(x), |s, x| s.max(x))
}

/// `y += alpha x`.
#[inline(always)]
pub fn axpy<T: Real>(alpha: T, x: &[T], y: &mut [T]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += alpha * *x);
}

/// Splits `data` into consecutive mutable parts of the given lengths.
pub fn split_mut<T>(data: &mut [T], lengths: impl IntoIterator<Item = usize>) -> Vec<&mut [T]> {
    let mut rest = data;
    lengths
        .into_iter()
        .map(|n| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(n);
            rest = tail;
            part
        })
        .collect()
}
