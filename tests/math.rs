//! The f32 functions against f64, within the bounds that `device::cpu::math` states, and erf in f64
//! against values of high precision.

use docre::device::cpu::math::{erf, erf_f64, exp, tanh};
use docre::device::cpu::simd::vectorize;

/// Every float of a fine grid of bit patterns in `[-limit, limit]`, and both zeros.
fn floats(limit: f32) -> impl Iterator<Item = f32> {
    (0..=limit.to_bits()).step_by(4999).chain([limit.to_bits()]).flat_map(|bits| {
        let x = f32::from_bits(bits);
        [x, -x]
    })
}

/// Largest error over the grid; a NaN is an infinite error.
fn worst(limit: f32, f: impl Fn(f32) -> f64) -> (f64, f32) {
    let larger = |best: (f64, f32), x| match f(x) {
        e if e <= best.0 => best,
        e if e.is_nan() => (f64::INFINITY, x),
        e => (e, x),
    };
    floats(limit).fold((0.0, 0.0), larger)
}

#[test]
fn exp_is_within_its_bound() {
    let (error, at) = worst(87.0, |x| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs());
    println!("exp: relative {error:e} at {at}");
    assert!(error <= 1e-7, "{error:e} at {at}");
    assert_eq!([exp(-87.4), exp(-1e30), exp(f32::NEG_INFINITY)], [0.0; 3]);
    assert_eq!([exp(89.0), exp(1e30), exp(f32::INFINITY)], [f32::INFINITY; 3]);
    assert!((f64::from(exp(88.7)) / f64::from(88.7f32).exp() - 1.0).abs() <= 1e-6);
    assert_eq!([exp(0.0), exp(-0.0)], [1.0; 2]);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn tanh_is_within_its_bound() {
    let (error, at) = worst(30.0, |x| (f64::from(tanh(x)) - f64::from(x).tanh()).abs());
    println!("tanh: absolute {error:e} at {at}");
    assert!(error <= 2e-7, "{error:e} at {at}");
    let relative = |x: f32| if x == 0.0 { 0.0 } else { (f64::from(tanh(x)) / f64::from(x).tanh() - 1.0).abs() };
    let (error, at) = worst(0.3, relative);
    assert!(error <= 3e-7, "relative {error:e} at {at}");
    assert_eq!([tanh(f32::INFINITY), tanh(f32::NEG_INFINITY), tanh(1e30)], [1.0, -1.0, 1.0]);
    assert!(tanh(f32::NAN).is_nan());
}

#[test]
fn erf_is_within_its_bound() {
    let (error, at) = worst(12.0, |x| (f64::from(erf(x)) - erf_f64(f64::from(x))).abs());
    println!("erf: absolute {error:e} at {at}");
    assert!(error <= 4e-7, "{error:e} at {at}");
    // Below the smallest normal number a float has fewer digits.
    let relative = |x: f32| {
        if x.abs() < f32::MIN_POSITIVE { 0.0 } else { (f64::from(erf(x)) / erf_f64(f64::from(x)) - 1.0).abs() }
    };
    let (error, at) = worst(12.0, relative);
    println!("erf: relative {error:e} at {at}");
    assert!(error <= 4e-7, "relative {error:e} at {at}");
    assert_eq!([erf(f32::INFINITY), erf(f32::NEG_INFINITY), erf(1e30)], [1.0, -1.0, 1.0]);
    assert!(erf(f32::NAN).is_nan());
}

/// Values of erf to 20 digits (computed with mpmath at 40 digits).
#[test]
#[allow(clippy::excessive_precision)]
fn erf_in_f64_is_good_to_1e_15() {
    let table: &[(f64, f64)] = &[
        (0.0, 0.0),
        (1e-10, 1.128379167095512615e-10),
        (0.0009765625, 0.0011019324300718147042),
        (0.0625, 0.070431977722387078051),
        (0.25, 0.27632639016823693299),
        (0.5, 0.52049987781304653768),
        (0.75, 0.7111556336535151316),
        (1.0, 0.84270079294971486934),
        (1.5, 0.96610514647531072707),
        (2.0, 0.99532226501895273416),
        (2.25, 0.9985372834133188483),
        (2.4375, 0.99943345674541983509),
        (2.5, 0.99959304798255504106),
        (2.625, 0.99979462426385878256),
        (3.0, 0.99997790950300141456),
        (3.5, 0.99999925690162765859),
        (4.0, 0.99999998458274209972),
        (5.0, 0.99999999999846254021),
        (5.875, 0.99999999999999990308),
    ];
    for &(x, want) in table {
        let error = (erf_f64(x) - want).abs();
        assert!(error <= 1e-15 * want.abs().max(0.5), "erf({x}): {error:e}");
        assert_eq!(erf_f64(-x), -erf_f64(x));
    }
    assert_eq!([erf_f64(f64::INFINITY), erf_f64(-30.0)], [1.0, -1.0]);
    assert!(erf_f64(f64::NAN).is_nan());
}

/// Vector code gives the same bits as the scalar function: the compiler may not contract or reorder.
#[test]
fn vector_code_is_the_same_function() {
    let x: Vec<f32> = floats(100.0).collect();
    for f in [exp, tanh, erf] {
        let mut y = x.clone();
        vectorize(
            #[inline(always)]
            || {
                y.iter_mut().for_each(
                    #[inline(always)]
                    |y| *y = f(*y),
                )
            },
        );
        assert!(x.iter().zip(&y).all(|(&x, y)| f(x).to_bits() == y.to_bits()));
    }
}
