//! The parameters: one flat array, and views of it by name.

use super::names::{Group, Init, ParamSpec, in_int8, ranges};
use crate::device::Device;
use crate::dtype::{DType, Real};
use crate::error::{Error, Result};
use crate::rng::Stream;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::ops::Range;

/// All weights of a model. The optimizer, the gradients and the checkpoints share its layout.
pub struct Params {
    specs: Vec<ParamSpec>,
    ranges: Vec<Range<usize>>,
    index: HashMap<String, usize>,
    flat: Tensor,
    /// The same rounded to the type of products, where that is another: what [`Params::get`] gives views of.
    copy: Option<Tensor>,
    /// Instead of both, each parameter by itself, ready for use: nothing can be trained or saved any more.
    ready: Vec<Tensor>,
}

impl Params {
    /// `flat` holds the parameters of `specs` one after another.
    pub fn new<T: Real>(device: &Device, specs: Vec<ParamSpec>, flat: Vec<T>) -> Result<Self> {
        let ranges = ranges(&specs);
        let total = ranges.last().map_or(0, |r| r.end);
        if total != flat.len() {
            return Err(Error::shape("parameters", "the flat array", total, flat.len()));
        }
        let index = specs.iter().enumerate().map(|(i, s)| (s.name.clone(), i)).collect();
        let rounds = device.activation_dtype(T::DTYPE) != T::DTYPE;
        let copy = if rounds { Some(Tensor::from_rounded(device, "weights.bf16", &[total], &flat)?) } else { None };
        let flat = Tensor::from_vec(device, "weights", &[total], flat)?;
        Ok(Params { specs, ranges, index, flat, copy, ready: Vec::new() })
    }
    /// As [`Params::new`], only to compute with: on a CPU each weight lies as products take it, and no other copy is
    /// kept: [`Params::flat`] is empty.
    pub fn to_infer(device: &Device, specs: Vec<ParamSpec>, flat: &[f32]) -> Result<Self> {
        if matches!(device, Device::Cuda(_)) {
            return Self::new(device, specs, flat.to_vec());
        }
        let int8 = matches!(device, Device::Cpu(cpu) if cpu.int8);
        let one = |(spec, range): (&ParamSpec, Range<usize>)| {
            let values = &flat[range];
            let tensor = match device.activation_dtype(DType::F32) {
                DType::BF16 => Tensor::from_rounded(device, "weights", &spec.shape, values)?,
                _ => Tensor::from_vec(device, "weights", &spec.shape, values.to_vec())?,
            };
            // Embeddings are looked up.
            match spec.shape.len() == 2 && !spec.name.starts_with("embeddings.") {
                true if int8 && in_int8(&spec.name) => tensor.into_int8(),
                true => tensor.into_panels(),
                false => Ok(tensor),
            }
        };
        let ready = specs.iter().zip(ranges(&specs)).map(one).collect::<Result<_>>()?;
        let nothing = Tensor::from_vec::<f32>(device, "weights", &[0], Vec::new())?;
        let index = specs.iter().enumerate().map(|(i, s)| (s.name.clone(), i)).collect();
        Ok(Params { ranges: ranges(&specs), specs, index, flat: nothing, copy: None, ready })
    }
    /// The parameter `name` as a view. The optimizer needs every view gone before it writes.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let i = *self.index.get(name).ok_or_else(|| Error::shape("parameters", "name", "a parameter", name))?;
        if let Some(ready) = self.ready.get(i) {
            return Ok(ready.clone());
        }
        self.copy.as_ref().unwrap_or(&self.flat).view(self.ranges[i].start, &self.specs[i].shape)
    }
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }
    /// The one range of a group's parameters; empty if the model has none of them.
    pub fn group(&self, group: Group) -> Range<usize> {
        let mut of_group = self.specs.iter().zip(&self.ranges).filter(|(s, _)| s.group == group).map(|(_, r)| r);
        let Some(first) = of_group.next() else { return 0..0 };
        first.start..of_group.next_back().unwrap_or(first).end
    }
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }
    /// The weights and their rounded copy, for the optimizer.
    pub fn flat_mut(&mut self) -> (&mut Tensor, Option<&mut Tensor>) {
        (&mut self.flat, self.copy.as_mut())
    }
    pub fn len(&self) -> usize {
        self.ranges.last().map_or(0, |range| range.end)
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn device(&self) -> &Device {
        self.flat.device()
    }
    pub fn dtype(&self) -> DType {
        self.flat.dtype()
    }
}

/// Gives the parameters `fresh` (indices into `specs`) their start values from `seed` (spec §6).
/// Each parameter has a random stream of its own, so its values do not depend on the others.
pub fn initialize<T: Real>(specs: &[ParamSpec], fresh: &[usize], seed: u64, flat: &mut [T]) {
    let ranges = ranges(specs);
    for &i in fresh {
        let values = &mut flat[ranges[i].clone()];
        match specs[i].init {
            Init::Uniform { bound } => {
                let mut stream = Stream::new(seed, 1 + i as u64);
                values.iter_mut().for_each(|v| *v = T::of(bound * (2.0 * stream.uniform() - 1.0)));
            }
            Init::Ones => values.fill(T::ONE),
            Init::Zeros | Init::Required => values.fill(T::ZERO),
        }
    }
}
