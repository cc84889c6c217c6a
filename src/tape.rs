//! The autograd tape: a list of backward closures, run in reverse.
//!
//! Gradients of parameters are accumulated (`+=`) into one flat array; gradients of activations are
//! assigned (`=`) by the one op that made them, and summed here where an activation has several uses.
//! What a closure holds is freed as soon as it has run.

use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::rng::Dropout;
use crate::tensor::{Id, Tensor};
use std::collections::HashMap;

type Backward = Box<dyn FnOnce(&mut Grads) -> Result<()>>;

/// Gradients during a backward pass.
pub struct Grads {
    activations: HashMap<Id, Tensor>,
    /// One flat array, laid out as the parameters are.
    params: Tensor,
}

impl Grads {
    /// Zero gradients for `count` parameters.
    pub fn new(device: &Device, dtype: DType, count: usize) -> Result<Self> {
        let params = device.zeros("gradients", dtype, &[count])?;
        Ok(Grads { activations: HashMap::new(), params })
    }
    /// The gradient of activation `y`, in its shape, which no later op will add to. `None`: nothing
    /// depends on `y`.
    pub fn take(&mut self, y: &Tensor) -> Option<Tensor> {
        self.activations.remove(&y.id())?.reshape(y.shape()).ok()
    }
    /// Gives activation `x` the gradient `dx`, or adds it to the one that another use gave.
    pub fn put(&mut self, x: &Tensor, dx: Tensor) -> Result<()> {
        // A tensor keeps its identity in `reshape`, so its uses may differ in shape.
        let dx = dx.reshape(x.shape())?.settled();
        let sum = match self.activations.remove(&x.id()) {
            Some(other) => add(other.reshape(x.shape())?, dx)?.settled(),
            None => dx,
        };
        self.activations.insert(x.id(), sum);
        Ok(())
    }
    /// Where the gradient of parameter `p` is accumulated.
    pub fn param<T: Element>(&mut self, p: &Tensor) -> &mut [T] {
        let at = p.offset();
        &mut self.params.slice_mut::<T>()[at..at + p.len()]
    }
    /// The flat gradient of all parameters.
    pub fn flat(&self) -> &Tensor {
        &self.params
    }
    pub fn flat_mut(&mut self) -> &mut Tensor {
        &mut self.params
    }
    /// Drops what was put for activations and nobody took: the inputs' gradients, where they are not parameters.
    pub fn forget_activations(&mut self) {
        self.activations.clear();
    }
    /// Sets all parameter gradients to zero for the next step.
    pub fn clear(&mut self) -> Result<()> {
        self.activations.clear();
        self.params.fill(0.0)
    }
}

fn add(a: Tensor, b: Tensor) -> Result<Tensor> {
    use crate::ops::add;
    let (mut into, other) = (a, b);
    if into.is_unique() {
        add::accumulate(&mut into, &other)?;
        return Ok(into);
    }
    let (mut into, other) = (other, into);
    if into.is_unique() {
        add::accumulate(&mut into, &other)?;
        return Ok(into);
    }
    add::sum(&into, &other)
}

/// Records ops in training; in inference it records nothing and switches dropout off.
pub struct Tape {
    nodes: Option<Vec<Backward>>,
    training: bool,
    seed: u64,
    step: u32,
    op: u32,
}

impl Tape {
    /// No gradients, no dropout.
    pub fn inference() -> Self {
        Tape { nodes: None, training: false, seed: 0, step: 0, op: 0 }
    }
    /// Gradients, and dropout from (`seed`, `step`).
    pub fn training(seed: u64, step: u32) -> Self {
        Tape { nodes: Some(Vec::new()), training: true, seed, step, op: 0 }
    }
    pub fn is_recording(&self) -> bool {
        self.nodes.is_some()
    }
    /// Dropout of the next op that has one, with probability `p`.
    pub fn dropout(&mut self, p: f64) -> Dropout {
        self.op += 1;
        let p = if self.training { p } else { 0.0 };
        Dropout { p, seed: self.seed, op: self.op, step: self.step }
    }
    /// Adds the backward pass of an op. Nothing is kept where the tape does not record.
    pub fn record(&mut self, backward: impl FnOnce(&mut Grads) -> Result<()> + 'static) {
        if let Some(nodes) = &mut self.nodes {
            nodes.push(Box::new(backward));
        }
    }
    /// Runs `f` without keeping what it saves for backward; backward runs it again with the same
    /// dropout masks. `f` may depend only on `inputs` and on parameters. (Chen et al., arXiv 1604.06174.)
    pub fn checkpoint<F>(&mut self, inputs: &[Tensor], f: F) -> Result<Vec<Tensor>>
    where
        F: Fn(&mut Tape, &[Tensor]) -> Result<Vec<Tensor>> + 'static,
    {
        if !self.is_recording() {
            return f(self, inputs);
        }
        let first = Tape { nodes: None, ..*self };
        let mut quiet = Tape { nodes: None, ..first };
        let outputs = f(&mut quiet, inputs)?;
        self.op = quiet.op;
        let (kept, made) = (inputs.to_vec(), outputs.clone());
        self.record(move |grads| {
            let mut again = Tape { nodes: Some(Vec::new()), ..first };
            let outputs = f(&mut again, &kept)?;
            for (old, new) in made.iter().zip(&outputs) {
                if let Some(gradient) = grads.take(old) {
                    grads.put(new, gradient)?;
                }
            }
            drop((made, outputs));
            again.backward(grads)
        });
        Ok(outputs)
    }
    /// Runs the closures in reverse. The loss op has put the first gradient.
    pub fn backward(self, grads: &mut Grads) -> Result<()> {
        let mut nodes = self.nodes.unwrap_or_default();
        while let Some(backward) = nodes.pop() {
            backward(grads)?;
        }
        Ok(())
    }
}
