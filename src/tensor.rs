//! Tensors: contiguous, row-major, shared, immutable once an op has returned them.

use crate::device::cpu::gemm::{Factor, Mat, Packed, int8};
use crate::device::cpu::pool::Pool;
use crate::device::cuda::memory::Memory;
use crate::device::ledger::Tag;
use crate::device::{Booking, Device};
use crate::dtype::{DType, Element, Real};
use crate::error::{Error, Result};
use half::bf16;
use rayon::prelude::*;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a tensor on the tape.
pub type Id = u64;

/// A view of consecutive elements of a shared buffer. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Tensor {
    id: Id,
    device: Device,
    dtype: DType,
    shape: Vec<usize>,
    offset: usize,
    data: Arc<Data>,
}

/// At least the elements of the tensor that it was made for.
#[derive(Debug)]
enum Data {
    /// F32 or BF16.
    Pooled(Pooled),
    F64(Held),
    /// Of any dtype, on the GPU.
    Cuda(Memory),
    /// On the CPU, as products take a weight; its elements cannot be seen any more.
    Panels(Panels),
}

/// A weight in panels of the matrix product.
#[derive(Debug)]
enum Panels {
    F32 {
        packed: Packed<f32>,
        _booking: Booking,
    },
    BF16 {
        packed: Packed<bf16>,
        _booking: Booking,
    },
    /// Of a tensor in bf16.
    Int8 {
        packed: int8::Weight,
        _booking: Booking,
    },
}

/// Goes back to the pool.
#[derive(Debug)]
struct Pooled {
    values: Vec<f32>,
    pool: Arc<Pool>,
    _booking: Booking,
}

#[derive(Debug)]
struct Held {
    values: Vec<f64>,
    _booking: Booking,
}

impl Pooled {
    /// The bytes that were booked, with arbitrary contents. Error: E-OOM.
    fn take(pool: &Arc<Pool>, booking: Booking) -> Result<Self> {
        let values = pool.take(booking.bytes().div_ceil(4)).ok_or_else(|| booking.out_of_memory())?;
        Ok(Pooled { values, pool: pool.clone(), _booking: booking })
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.values));
    }
}

/// Elements that are worth a task of their own.
const LARGE: usize = 1 << 18;

fn fresh_id() -> Id {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Tensor {
    pub(crate) fn zeros(device: &Device, tag: Tag, dtype: DType, shape: &[usize]) -> Result<Self> {
        Self::make(device, tag, dtype, shape, Some(0.0))
    }
    pub(crate) fn alloc(device: &Device, tag: Tag, dtype: DType, shape: &[usize]) -> Result<Self> {
        let poison = matches!(device, Device::Cpu(cpu) if cpu.poisons());
        Self::make(device, tag, dtype, shape, poison.then_some(f64::NAN))
    }
    /// Filled with `value`, or with whatever the memory held.
    fn make(device: &Device, tag: Tag, dtype: DType, shape: &[usize], value: Option<f64>) -> Result<Self> {
        let n: usize = shape.iter().product();
        let bytes = n * dtype.size();
        let cpu = match device {
            Device::Cpu(cpu) => cpu,
            Device::Cuda(cuda) => {
                let mut made = Self::new(device, dtype, shape, Data::Cuda(cuda.allocate(tag, bytes)?));
                value.map_or(Ok(()), |value| made.fill(value))?;
                return Ok(made);
            }
        };
        let booking = Booking::new(device.ledger(), tag, bytes)?;
        let data = match dtype {
            DType::F32 | DType::BF16 => Data::Pooled(Pooled::take(&cpu.pool, booking)?),
            DType::F64 => Data::F64(Held { values: vec![0.0; n], _booking: booking }),
        };
        let mut made = Self::new(device, dtype, shape, data);
        value.map_or(Ok(()), |value| made.fill(value))?;
        Ok(made)
    }
    fn new(device: &Device, dtype: DType, shape: &[usize], data: Data) -> Self {
        let data = Arc::new(data);
        Tensor { id: fresh_id(), device: device.clone(), dtype, shape: shape.to_vec(), offset: 0, data }
    }
    /// Takes `values` to `device` as a tensor of `shape`.
    pub fn from_vec<T: Element>(device: &Device, tag: Tag, shape: &[usize], values: Vec<T>) -> Result<Self> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::shape("from_vec", "values", shape, values.len()));
        }
        let data = match device {
            Device::Cuda(cuda) => Data::Cuda(cuda.store(tag, bytemuck::cast_slice(&values))?),
            Device::Cpu(cpu) => {
                let booking = Booking::new(device.ledger(), tag, values.len() * T::DTYPE.size())?;
                match T::DTYPE {
                    DType::F64 => Data::F64(Held { values: bytemuck::allocation::cast_vec(values), _booking: booking }),
                    DType::F32 => {
                        let values = bytemuck::allocation::cast_vec(values);
                        Data::Pooled(Pooled { values, pool: cpu.pool.clone(), _booking: booking })
                    }
                    DType::BF16 => {
                        let mut held = Pooled::take(&cpu.pool, booking)?;
                        bytemuck::cast_slice_mut(&mut held.values)[..values.len()].copy_from_slice(&values);
                        Data::Pooled(held)
                    }
                }
            }
        };
        Ok(Self::new(device, T::DTYPE, shape, data))
    }
    /// As [`Tensor::from_vec`], rounded to bf16 (to nearest, ties to even).
    pub fn from_rounded<T: Real>(device: &Device, tag: Tag, shape: &[usize], values: &[T]) -> Result<Self> {
        let round = |x: &T| bf16::narrow(x.f64() as f32);
        let Device::Cpu(cpu) = device else {
            return Self::from_vec(device, tag, shape, values.iter().map(round).collect());
        };
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::shape("from_rounded", "values", shape, values.len()));
        }
        let mut made = Self::alloc(device, tag, DType::BF16, shape)?;
        let parts = made.slice_mut::<bf16>().par_chunks_mut(LARGE).zip(values.par_chunks(LARGE));
        cpu.run(|| parts.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, x)| *to = round(x))));
        Ok(made)
    }

    pub fn id(&self) -> Id {
        self.id
    }
    pub fn device(&self) -> &Device {
        &self.device
    }
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// The first dimension.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }
    /// The last dimension.
    pub fn dim(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Where this view starts in its buffer: for a parameter, its place in the flat arrays.
    pub fn offset(&self) -> usize {
        self.offset
    }
    /// Elements `offset..` of the same buffer as a tensor of `shape`, with an identity of its own.
    pub fn view(&self, offset: usize, shape: &[usize]) -> Result<Self> {
        let n: usize = shape.iter().product();
        if offset + n > self.len() {
            return Err(Error::shape("view", "elements", self.len(), offset + n));
        }
        if matches!(&*self.data, Data::Panels(_)) {
            return Err(Error::shape("view", "a tensor", "elements", "panels"));
        }
        let at = self.offset + offset;
        Ok(Tensor { id: fresh_id(), shape: shape.to_vec(), offset: at, ..self.clone() })
    }
    /// The same elements, the same identity, another shape.
    pub fn reshape(mut self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape("reshape", "elements", self.len(), shape));
        }
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// The elements, on the CPU. `T` must be the tensor's dtype: ops check dtypes first.
    pub fn slice<T: Element>(&self) -> &[T] {
        let all: &[T] = match &*self.data {
            Data::Pooled(v) if T::DTYPE == self.dtype => bytemuck::cast_slice(&v.values),
            Data::F64(v) if T::DTYPE == DType::F64 => bytemuck::cast_slice(&v.values),
            _ => &[],
        };
        &all[self.offset..self.offset + self.len()]
    }
    /// The elements of a tensor that nobody shares yet, for the op that fills it.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        let (offset, len, fits) = (self.offset, self.len(), T::DTYPE == self.dtype);
        let all: &mut [T] = match self.own() {
            Data::Pooled(v) if fits => bytemuck::cast_slice_mut(&mut v.values),
            Data::F64(v) if fits => bytemuck::cast_slice_mut(&mut v.values),
            _ => &mut [],
        };
        &mut all[offset..offset + len]
    }
    fn own(&mut self) -> &mut Data {
        Arc::get_mut(&mut self.data).expect("an op writes only tensors that it alone holds")
    }
    /// Where the first element is on the GPU; 0 for a tensor of the CPU.
    pub fn device_pointer(&self) -> u64 {
        match &*self.data {
            Data::Cuda(memory) => memory.pointer() + (self.offset * self.dtype.size()) as u64,
            _ => 0,
        }
    }
    /// As [`Tensor::device_pointer`], of a tensor that nobody shares yet.
    pub fn device_pointer_mut(&mut self) -> u64 {
        self.own();
        self.device_pointer()
    }
    /// Sets every element of a tensor that nobody shares.
    pub fn fill(&mut self, value: f64) -> Result<()> {
        let (from, len, dtype, device) = (self.offset, self.len(), self.dtype, self.device.clone());
        match self.own() {
            Data::Pooled(v) if dtype == DType::BF16 => {
                let all: &mut [bf16] = bytemuck::cast_slice_mut(&mut v.values);
                all[from..from + len].fill(bf16::narrow(value as f32));
            }
            Data::Pooled(v) => {
                let values = &mut v.values[from..from + len];
                match &device {
                    // Gradients: more than one core can write.
                    Device::Cpu(cpu) if len > LARGE => {
                        cpu.run(|| values.par_chunks_mut(LARGE).for_each(|part| part.fill(value as f32)));
                    }
                    _ => values.fill(value as f32),
                }
            }
            Data::F64(v) => v.values[from..from + len].fill(value),
            Data::Panels(_) => return Err(Error::shape("fill", "a tensor", "elements", "panels")),
            Data::Cuda(memory) => {
                let (at, bytes) = (from * dtype.size(), len * dtype.size());
                match dtype {
                    DType::BF16 => memory.fill(at, bytes, &bf16::from_f32(value as f32).to_le_bytes())?,
                    DType::F32 => memory.fill(at, bytes, &(value as f32).to_le_bytes())?,
                    DType::F64 if value == 0.0 => memory.fill(at, bytes, &[0])?,
                    DType::F64 => return Err(Error::shape("fill", "value of F64 on a GPU", 0.0, value)),
                }
            }
        }
        Ok(())
    }
    /// The same values on the CPU, bf16 as f32; others of the CPU as they are.
    pub fn to_cpu(&self) -> Result<Self> {
        if self.dtype == DType::BF16 && matches!(self.device, Device::Cpu(_)) {
            let values = self.slice::<bf16>().iter().map(|x| x.wide()).collect();
            return Self::from_vec::<f32>(&self.device, "on the host", &self.shape, values);
        }
        let (Data::Cuda(memory), Device::Cuda(cuda)) = (&*self.data, &self.device) else { return Ok(self.clone()) };
        let host = Device::Cpu(cuda.host().clone());
        let (from, n, tag) = (self.offset * self.dtype.size(), self.len(), "on the host");
        match self.dtype {
            DType::BF16 => {
                let mut values = vec![bf16::ZERO; n];
                cuda.fetch(memory, from, bytemuck::cast_slice_mut(&mut values))?;
                Self::from_vec(&host, tag, &self.shape, values.into_iter().map(f32::from).collect())
            }
            DType::F32 => {
                let mut values = vec![0f32; n];
                cuda.fetch(memory, from, bytemuck::cast_slice_mut(&mut values))?;
                Self::from_vec(&host, tag, &self.shape, values)
            }
            DType::F64 => {
                let mut values = vec![0f64; n];
                cuda.fetch(memory, from, bytemuck::cast_slice_mut(&mut values))?;
                Self::from_vec(&host, tag, &self.shape, values)
            }
        }
    }
    /// The elements as f64, for tests and reports.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        let here = self.to_cpu()?;
        Ok(match here.dtype {
            DType::F64 => here.slice::<f64>().to_vec(),
            _ => here.slice::<f32>().iter().map(|&x| f64::from(x)).collect(),
        })
    }
    /// What an op hands on: rounded to bf16 on a CPU that was asked to ([`crate::device::cpu::Cpu::round`]).
    pub(crate) fn settled(mut self) -> Self {
        let rounds = matches!(&self.device, Device::Cpu(cpu) if cpu.rounds()) && self.dtype == DType::F32;
        if rounds && self.is_unique() {
            self.slice_mut::<f32>().iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        self
    }
    /// A matrix `[n, k]` on the CPU as the right operand of products only: packed once, to be used many times.
    pub fn into_panels(self) -> Result<Self> {
        let Device::Cpu(cpu) = &self.device else { return Ok(self) };
        let (rows, k) = (self.rows(), self.dim());
        let book = |bytes| Booking::new(&cpu.ledger, "weights, packed", bytes);
        let panels = match self.dtype {
            DType::F32 => {
                let packed = cpu.run(|| Packed::right_kept(&Mat::rows(self.slice::<f32>(), k), rows, k));
                let _booking = book(packed.bytes())?;
                Panels::F32 { packed, _booking }
            }
            DType::BF16 => {
                let packed = cpu.run(|| Packed::right_kept(&Mat::rows(self.slice::<bf16>(), k), rows, k));
                let _booking = book(packed.bytes())?;
                Panels::BF16 { packed, _booking }
            }
            DType::F64 => return Ok(self),
        };
        Ok(Tensor { offset: 0, data: Arc::new(Data::Panels(panels)), ..self })
    }
    /// As [`Tensor::into_panels`], a matrix in bf16 rounded to eight bits; one that products in eight bits do not take
    /// stays in bf16.
    pub fn into_int8(self) -> Result<Self> {
        let Device::Cpu(cpu) = &self.device else { return Ok(self) };
        let (rows, k) = (self.rows(), self.dim());
        let Some(packed) = cpu.run(|| int8::Weight::new(self.slice::<bf16>(), rows, k)) else {
            return self.into_panels();
        };
        let _booking = Booking::new(&cpu.ledger, "weights, packed", packed.bytes())?;
        Ok(Tensor { offset: 0, data: Arc::new(Data::Panels(Panels::Int8 { packed, _booking })), ..self })
    }
    /// The weight of [`Tensor::into_int8`].
    pub(crate) fn int8(&self) -> Option<&int8::Weight> {
        match &*self.data {
            Data::Panels(Panels::Int8 { packed, .. }) => Some(packed),
            _ => None,
        }
    }
    /// The panels of [`Tensor::into_panels`].
    pub(crate) fn panels<S: Factor>(&self) -> Option<&Packed<S>> {
        match &*self.data {
            Data::Panels(Panels::F32 { packed, .. }) => (packed as &dyn Any).downcast_ref(),
            Data::Panels(Panels::BF16 { packed, .. }) => (packed as &dyn Any).downcast_ref(),
            _ => None,
        }
    }
    /// True if this is the only handle to the buffer.
    pub fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.data).is_some()
    }
}

/// Refuses operands of different dtypes.
pub fn same_dtype(op: &str, tensors: &[&Tensor]) -> Result<()> {
    match tensors.iter().find(|t| t.dtype() != tensors[0].dtype()) {
        Some(t) => Err(Error::shape(op, "dtype", tensors[0].dtype(), t.dtype())),
        None => Ok(()),
    }
}

/// Refuses a tensor whose shape is not `want`.
pub fn check_shape(op: &str, what: &str, tensor: &Tensor, want: &[usize]) -> Result<()> {
    if tensor.shape() == want { Ok(()) } else { Err(Error::shape(op, what, want, tensor.shape())) }
}
