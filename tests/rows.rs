//! What ends a product: rows of bf16 against the same in f32 bit by bit and, where they have functions of their own,
//! against f64. (Without instructions for bf16 both are the same code.)

use docre::device::cpu::math::erf_f64;
use docre::device::cpu::rows::{self, Norm, Normed};
use docre::device::cpu::simd::vectorize;
use docre::device::cpu::vector::pairwise;
use docre::dtype::{Element, narrow, widen};
use docre::rng::Stream;
use half::bf16;

/// Elements of a row of whole registers, and of one that is not.
const LENGTHS: [usize; 2] = [96, 45];

/// What rounding to bf16 takes at most, relatively.
const ROUNDING: f64 = 1.0 / 256.0;

fn values(stream: &mut Stream, n: usize) -> Vec<f32> {
    (0..n).map(|_| 8.0 * stream.uniform() as f32 - 4.0).collect()
}

fn rounded(x: &[f32]) -> Vec<bf16> {
    let mut to = vec![bf16::ZERO; x.len()];
    narrow(x, &mut to);
    to
}

fn wide(x: &[bf16]) -> Vec<f32> {
    let mut to = vec![0.0; x.len()];
    widen(x, &mut to);
    to
}

#[test]
fn sums_have_the_bits_of_f32() {
    let mut stream = Stream::new(1, 1);
    for n in LENGTHS {
        let (x, bias) = (values(&mut stream, n), rounded(&values(&mut stream, n)));
        let (mut y, mut z, mut want) = (rounded(&x), rounded(&x), x.clone());
        vectorize(|| rows::add(&mut x.clone(), [&bias, &[], &bias], &mut y));
        vectorize(|| rows::add(&mut x.clone(), [&wide(&bias)[..], &[], &wide(&bias)], &mut want));
        assert_eq!(y, rounded(&want), "{n} columns");
        vectorize(|| rows::gelu(&mut x.clone(), [&bias], &mut z, &mut y));
        vectorize(|| rows::add(&mut x.clone(), [&wide(&bias)[..]], &mut want));
        assert_eq!((z, y), (rounded(&want), gelu(&want)), "{n} columns");
    }
}

/// What compilers and instructions make of a sum of lanes is the sum in the order that is promised.
#[test]
fn lanes_are_added_in_halves() {
    let mut stream = Stream::new(1, 4);
    for _ in 0..100 {
        let lanes: [f32; 32] = values(&mut stream, 32).try_into().unwrap();
        let mut want = lanes;
        for half in [16, 8, 4, 2, 1] {
            (0..half).for_each(|i| want[i] += want[i + half]);
        }
        assert_eq!(vectorize(|| pairwise(lanes)).to_bits(), want[0].to_bits());
    }
}

#[test]
fn norms_have_the_bits_of_f32() {
    let mut stream = Stream::new(1, 2);
    for n in LENGTHS {
        let x = values(&mut stream, n);
        let [weight, bias, first, second] = [(); 4].map(|()| rounded(&values(&mut stream, n)));
        let [mut sum, mut y, mut rest] = [(); 3].map(|()| rounded(&x));
        let into = Normed { sum: &mut sum, y: &mut y, rest: &mut rest };
        let norm = Norm { weight: &weight[..], bias: &bias, eps: 1e-12 };
        let stats = vectorize(|| rows::norm(&mut x.clone(), [&first, &[], &second], norm, into));

        let [weight, bias, first, second] = [&weight, &bias, &first, &second].map(|x| wide(x));
        let [mut wide_sum, mut wide_y] = [x.clone(), x.clone()];
        let into = Normed { sum: &mut wide_sum, y: &mut wide_y, rest: &mut [] };
        let norm = Norm { weight: &weight[..], bias: &bias, eps: 1e-12 };
        let want = vectorize(|| rows::norm(&mut x.clone(), [&first, &[], &second], norm, into));
        let lost: Vec<f32> = wide_y.iter().zip(&y).map(|(wide, y)| wide - y.wide()).collect();
        assert_eq!(stats, want, "{n} columns");
        assert_eq!([sum, y, rest], [rounded(&wide_sum), rounded(&wide_y), rounded(&lost)], "{n} columns");

        let mut y = rounded(&x);
        let (weight, bias) = (rounded(&weight), rounded(&bias));
        let norm = Norm { weight: &weight[..], bias: &bias, eps: 1e-12 };
        let into = Normed { sum: &mut [], y: &mut y, rest: &mut [] };
        vectorize(|| rows::norm(&mut x.clone(), [&rounded(&first)[..], &[], &rounded(&second)], norm, into));
        assert_eq!(y, rounded(&wide_y), "{n} columns, nothing else wanted");
    }
}

fn gelu(x: &[f32]) -> Vec<bf16> {
    let mut y = rounded(x);
    vectorize(|| rows::gelu(&mut x.to_vec(), [], &mut [], &mut y));
    y
}

#[test]
fn gelu_is_within_its_bound() {
    let x: Vec<f32> = (0..64_000).map(|i| i as f32 / 4000.0 - 8.0).collect();
    for (&x, y) in x.iter().zip(gelu(&x)) {
        let exact = 0.5 * f64::from(x) * (1.0 + erf_f64(f64::from(x) / 2f64.sqrt()));
        let bound = ROUNDING * exact.abs() + 3e-7 * f64::from(x.abs()) + f64::from(f32::MIN_POSITIVE);
        let error = (f64::from(y.wide()) - exact).abs();
        assert!(error <= bound, "gelu({x}): off by {error:e}, not within {bound:e}");
    }
    let mut far = [0.0f32; 32];
    far[..6].copy_from_slice(&[-0.0, 1e30, -1e30, f32::INFINITY, f32::NAN, 6.0]);
    let y = gelu(&far);
    assert_eq!(y[..4], [bf16::ZERO, bf16::from_f32(1e30), bf16::ZERO, bf16::INFINITY]);
    assert!(y[4].is_nan() && y[5] == bf16::from_f32(6.0) && y[6..].iter().all(|y| *y == bf16::ZERO));
}

/// Of half of x: the largest and the sum, and the exponentials rounded.
fn exponentials(x: &[f32]) -> ([f32; 2], Vec<bf16>) {
    let (mut y, mut wide) = (rounded(x), x.to_vec());
    let found = vectorize(|| rows::exponentials(&mut x.to_vec(), 0.5, Some(&mut y)));
    let again = vectorize(|| rows::exponentials::<bf16>(&mut wide, 0.5, None));
    let bits = |x: &[bf16]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!((found.map(f32::to_bits), bits(&y)), (again.map(f32::to_bits), bits(&rounded(&wide))));
    (found, y)
}

#[test]
fn exponentials_are_within_their_bound() {
    let mut x = [f32::NEG_INFINITY; 32];
    x[7] = 0.0;
    let (found, y) = exponentials(&x);
    assert_eq!(found, [0.0, 1.0]);
    assert!((0..32).all(|i| y[i] == if i == 7 { bf16::ONE } else { bf16::ZERO }));

    // The sum of two is not rounded to bf16: all of the polynomial's interval and some more.
    for i in 0..20_000 {
        x[20] = -i as f32 / 5000.0;
        let (sum, exact) = (exponentials(&x).0[1], (0.5 * f64::from(x[20])).exp());
        let error = (f64::from(sum) - 1.0 - exact).abs();
        assert!(error <= 2e-7 * exact + 1.2e-7, "exp({} / 2): off by {error:e}", x[20]);
    }

    let mut stream = Stream::new(1, 3);
    let x: Vec<f32> = values(&mut stream, 96).iter().map(|x| 50.0 * x).collect();
    let ([top, sum], y) = exponentials(&x);
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(top, 0.5 * largest);
    let exact = |x: f32| (0.5 * (f64::from(x) - f64::from(largest))).exp();
    for (x, y) in x.iter().zip(y) {
        // The exponent, up to 200, is rounded twice.
        let bound = (ROUNDING + 200.0 * 1.2e-7) * exact(*x) + f64::from(f32::MIN_POSITIVE);
        assert!((f64::from(y.wide()) - exact(*x)).abs() <= bound, "{x} below {largest}");
    }
    let total: f64 = x.iter().map(|x| exact(*x)).sum();
    assert!((f64::from(sum) / total - 1.0).abs() <= 1e-5, "{sum} for {total}");
}

#[test]
fn a_nan_among_exponentials_shows() {
    for (at, nan) in [(0, f32::NAN), (31, f32::from_bits(0x7FC0_0001)), (50, -f32::NAN)] {
        let mut x = vec![1.0; 64];
        x[at] = nan;
        assert!(exponentials(&x).0[1].is_nan(), "a NaN at {at}");
    }
    assert!(exponentials(&[f32::INFINITY; 32]).0[1].is_nan());
}
