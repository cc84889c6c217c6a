//! The tape: recomputed parts give the bits of a plain run; gradients of several uses add up.

use docre::device::Device;
use docre::dtype::DType;
use docre::ops::{gelu::gelu, layernorm::layernorm, linear::linear};
use docre::tape::{Grads, Tape};
use docre::tensor::Tensor;
use docre::{Error, Result};

const DIM: usize = 24;

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.4).collect()
}

/// `layernorm(x + dropout(gelu(linear x)))`, with x used twice.
fn block(tape: &mut Tape, x: &Tensor, p: &[Tensor]) -> Result<Tensor> {
    let h = linear(tape, x, &p[0], Some(&p[1]), None)?;
    let h = gelu(tape, &h)?;
    let drop = tape.dropout(0.25);
    layernorm(tape, x, Some(&h), &p[2], &p[1], 1e-5, drop)
}

/// Three blocks; the gradients of the input and of all parameters.
fn gradients(threads: usize, checkpointed: bool) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let device = Device::cpu(threads).unwrap();
    let Device::Cpu(cpu) = &device else { panic!("a CPU") };
    cpu.poison();
    let count = DIM * DIM + 2 * DIM;
    let flat = Tensor::from_vec(&device, "test", &[count], values(count)).unwrap();
    let params = vec![
        flat.view(0, &[DIM, DIM]).unwrap(),
        flat.view(DIM * DIM, &[DIM]).unwrap(),
        flat.view(DIM * DIM + DIM, &[DIM]).unwrap(),
    ];
    let x = Tensor::from_vec(&device, "test", &[70, DIM], values(70 * DIM)).unwrap();
    let mut grads = Grads::new(&device, DType::F32, count).unwrap();
    let mut tape = Tape::training(11, 2);
    let mut y = x.clone();
    for _ in 0..3 {
        let p = params.clone();
        y = match checkpointed {
            true => tape.checkpoint(&[y], move |tape, x| Ok(vec![block(tape, &x[0], &p)?])).unwrap().remove(0),
            false => block(&mut tape, &y, &p).unwrap(),
        };
    }
    let dy = Tensor::from_vec(&device, "test", y.shape(), values(y.len())).unwrap();
    grads.put(&y, dy).unwrap();
    tape.backward(&mut grads).unwrap();
    let dx = grads.take(&x).unwrap().to_f64().unwrap();
    (y.to_f64().unwrap(), dx, grads.flat().to_f64().unwrap())
}

#[test]
fn a_checkpointed_run_has_the_bits_of_a_plain_one() {
    let plain = gradients(2, false);
    assert!(plain.2.iter().chain(&plain.1).all(|g| g.is_finite()) && plain.1.iter().any(|g| *g != 0.0));
    assert_eq!(plain, gradients(2, true));
    assert_eq!(plain, gradients(1, true));
}

#[test]
fn gradients_of_several_uses_add_up_in_any_shape() {
    let device = Device::cpu(1).unwrap();
    let t = |v: &[f64]| Tensor::from_vec(&device, "test", &[v.len()], v.to_vec()).unwrap();
    let x = t(&[0.0; 4]);
    let mut grads = Grads::new(&device, DType::F64, 0).unwrap();
    let shared = t(&[1.0, 2.0, 3.0, 4.0]);
    grads.put(&x, shared.clone()).unwrap();
    grads.put(&x.clone().reshape(&[2, 2]).unwrap(), shared.clone()).unwrap();
    grads.put(&x, t(&[10.0; 4])).unwrap();
    let sum = grads.take(&x).unwrap();
    assert_eq!((sum.shape(), sum.to_f64().unwrap()), (&[4][..], vec![12.0, 14.0, 16.0, 18.0]));
    assert_eq!(shared.to_f64().unwrap(), [1.0, 2.0, 3.0, 4.0], "what another holds is not written to");
    assert!(grads.take(&x).is_none());
    assert!(grads.put(&x, t(&[1.0; 3])).is_err());
}

#[test]
fn what_nothing_depends_on_gets_no_gradient() {
    let device = Device::cpu(1).unwrap();
    let x = Tensor::from_vec(&device, "test", &[3], vec![1.0f64; 3]).unwrap();
    let mut grads = Grads::new(&device, DType::F64, 0).unwrap();
    let mut tape = Tape::training(1, 1);
    gelu(&mut tape, &x).unwrap();
    tape.backward(&mut grads).unwrap();
    assert!(grads.take(&x).is_none());
}

#[test]
fn an_error_in_backward_comes_back() {
    let mut tape = Tape::training(1, 1);
    tape.record(|_| Err(Error::non_finite("here")));
    let device = Device::cpu(1).unwrap();
    let mut grads = Grads::new(&device, DType::F64, 0).unwrap();
    assert!(tape.backward(&mut grads).unwrap_err().to_string().contains("here"));
}

/// What backward has used is freed, and so is what a checkpoint saved.
#[test]
fn nothing_is_held_after_backward() {
    let device = Device::cpu(1).unwrap();
    let x = Tensor::from_vec(&device, "test", &[64, 64], values(4096)).unwrap();
    let before = device.ledger().live();
    let mut tape = Tape::training(1, 1);
    let y = gelu(&mut tape, &x).unwrap();
    let mut grads = Grads::new(&device, DType::F32, 0).unwrap();
    grads.put(&y, Tensor::from_vec(&device, "test", &[64, 64], values(4096)).unwrap()).unwrap();
    drop(y);
    tape.backward(&mut grads).unwrap();
    drop(grads);
    assert_eq!(device.ledger().live(), before);
}
