//! Philox against the known answers of its authors; dropout against its definition; streams.

use docre::rng::{Dropout, Stream, philox};

/// `kat_vectors` of Random123 (Salmon et al., SC 2011), philox4x32-10.
#[test]
fn philox_known_answers() {
    assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    let key = 0x299f_31d0_a409_3822;
    let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    assert_eq!(philox(key, counter), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

fn by_definition(drop: Dropout, element: u64) -> f32 {
    let group = element / 4;
    let word = philox(drop.seed, [group as u32, (group >> 32) as u32, drop.op, drop.step])[(element % 4) as usize];
    if f64::from(word) >= drop.p * 4_294_967_296.0 { (1.0 / (1.0 - drop.p)) as f32 } else { 0.0 }
}

#[test]
fn lanes_are_the_definition_wherever_a_slice_starts_and_ends() {
    let drop = Dropout { p: 0.3, seed: 0xdead_beef_0123, op: 4, step: 77 };
    for first in [0, 1, 2, 3, 4, 5, 62, 63, 64, 65, 768, (1u64 << 34) - 3] {
        for len in [0, 1, 2, 3, 4, 5, 63, 64, 65, 127, 200] {
            let mut values = vec![1.0f32; len];
            drop.apply(first, &mut values);
            let want: Vec<f32> = (0..len as u64).map(|i| by_definition(drop, first + i)).collect();
            assert_eq!(values, want, "{len} elements from {first}");
        }
    }
}

#[test]
fn dropout_keeps_its_share() {
    for p in [0.1, 0.5] {
        let n = 400_000;
        let mut values = vec![1.0f32; n];
        Dropout { p, seed: 3, op: 1, step: 1 }.apply(0, &mut values);
        let kept = values.iter().filter(|v| **v > 0.0).count() as f64 / n as f64;
        // Five standard deviations.
        assert!((kept - (1.0 - p)).abs() <= 5.0 * (p * (1.0 - p) / n as f64).sqrt(), "p {p}: kept {kept}");
    }
    let mut values = [1.0f32; 64];
    Dropout { p: 1.0, ..Dropout::default() }.apply(0, &mut values);
    assert_eq!(values, [0.0; 64]);
    Dropout { p: 0.0, ..Dropout::default() }.apply(0, &mut [f32::NAN]);
}

#[test]
fn masks_differ_by_op_step_and_seed() {
    let base = Dropout { p: 0.5, seed: 1, op: 1, step: 1 };
    let mask = |drop: Dropout| {
        let mut values = [1.0f32; 256];
        drop.apply(0, &mut values);
        values
    };
    for other in [Dropout { seed: 2, ..base }, Dropout { op: 2, ..base }, Dropout { step: 2, ..base }] {
        assert_ne!(mask(base), mask(other));
    }
}

#[test]
fn streams() {
    let mut a = Stream::new(1, 1);
    assert!((0..1000).all(|_| (0.0..1.0).contains(&a.uniform())));
    assert!((0..1000).all(|_| a.below(7) < 7));
    let draw = |seed, name| Stream::new(seed, name).next_u32();
    assert!(draw(1, 1) != draw(1, 2) && draw(1, 1) != draw(2, 1));
    let mut items: Vec<usize> = (0..100).collect();
    Stream::new(5, 5).shuffle(&mut items);
    assert_ne!(items, (0..100).collect::<Vec<_>>());
    items.sort_unstable();
    assert_eq!(items, (0..100).collect::<Vec<_>>());
}
