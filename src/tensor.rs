//! Tensors: contiguous, row-major, shared, immutable once an op has returned them.

use crate::device::cpu::pool::Pool;
use crate::device::cuda::memory::Memory;
use crate::device::ledger::Tag;
use crate::device::{Booking, Device};
use crate::dtype::{DType, Real};
use crate::error::{Error, Result};
use half::bf16;
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
    F32(Pooled),
    F64(Held),
    /// Of any dtype, on the GPU.
    Cuda(Memory),
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

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.values));
    }
}

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
        let _booking = Booking::new(device.ledger(), tag, bytes)?;
        let data = match dtype {
            DType::F32 => {
                let mut values = cpu.pool.take(n);
                value.into_iter().for_each(|value| values[..n].fill(value as f32));
                Data::F32(Pooled { values, pool: cpu.pool.clone(), _booking })
            }
            DType::F64 => Data::F64(Held { values: vec![value.unwrap_or(0.0); n], _booking }),
            DType::BF16 => return Err(Error::shape("a tensor", "dtype on the CPU", "F32 or F64", dtype)),
        };
        Ok(Self::new(device, dtype, shape, data))
    }
    fn new(device: &Device, dtype: DType, shape: &[usize], data: Data) -> Self {
        let data = Arc::new(data);
        Tensor { id: fresh_id(), device: device.clone(), dtype, shape: shape.to_vec(), offset: 0, data }
    }
    /// Takes `values` to `device` as a tensor of `shape`.
    pub fn from_vec<T: Real>(device: &Device, tag: Tag, shape: &[usize], values: Vec<T>) -> Result<Self> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::shape("from_vec", "values", shape, values.len()));
        }
        let data = match device {
            Device::Cuda(cuda) => Data::Cuda(cuda.store(tag, bytemuck::cast_slice(&values))?),
            Device::Cpu(cpu) => {
                let _booking = Booking::new(device.ledger(), tag, values.len() * T::DTYPE.size())?;
                match T::DTYPE {
                    DType::F64 => Data::F64(Held { values: bytemuck::allocation::cast_vec(values), _booking }),
                    _ => {
                        let values = bytemuck::allocation::cast_vec(values);
                        Data::F32(Pooled { values, pool: cpu.pool.clone(), _booking })
                    }
                }
            }
        };
        Ok(Self::new(device, T::DTYPE, shape, data))
    }
    /// As [`Tensor::from_vec`], rounded to bf16 (to nearest, ties to even). Only for a GPU.
    pub fn from_rounded<T: Real>(device: &Device, tag: Tag, shape: &[usize], values: &[T]) -> Result<Self> {
        let Device::Cuda(cuda) = device else {
            return Err(Error::shape("a tensor", "dtype on the CPU", "F32 or F64", DType::BF16));
        };
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::shape("from_rounded", "values", shape, values.len()));
        }
        let rounded: Vec<bf16> = values.iter().map(|x| bf16::from_f32(x.f64() as f32)).collect();
        let data = Data::Cuda(cuda.store(tag, bytemuck::cast_slice(&rounded))?);
        Ok(Self::new(device, DType::BF16, shape, data))
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
    pub fn slice<T: Real>(&self) -> &[T] {
        let all: &[T] = match &*self.data {
            Data::F32(v) if T::DTYPE == DType::F32 => bytemuck::cast_slice(&v.values),
            Data::F64(v) if T::DTYPE == DType::F64 => bytemuck::cast_slice(&v.values),
            _ => &[],
        };
        &all[self.offset..self.offset + self.len()]
    }
    /// The elements of a tensor that nobody shares yet, for the op that fills it.
    pub fn slice_mut<T: Real>(&mut self) -> &mut [T] {
        let (offset, len) = (self.offset, self.len());
        let all: &mut [T] = match self.own() {
            Data::F32(v) => bytemuck::cast_slice_mut(&mut v.values),
            Data::F64(v) => bytemuck::cast_slice_mut(&mut v.values),
            Data::Cuda(_) => &mut [],
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
        let (from, len, dtype) = (self.offset, self.len(), self.dtype);
        match self.own() {
            Data::F32(v) => v.values[from..from + len].fill(value as f32),
            Data::F64(v) => v.values[from..from + len].fill(value),
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
    /// The same values on the CPU, bf16 as f32; a tensor of the CPU as it is.
    pub fn to_cpu(&self) -> Result<Self> {
        let (Data::Cuda(memory), Device::Cuda(cuda)) = (&*self.data, &self.device) else { return Ok(self.clone()) };
        let host = Device::Cpu(cuda.host().clone());
        let (from, n, tag) = (self.offset * self.dtype.size(), self.len(), "on the host");
        match self.dtype {
            DType::BF16 => {
                let mut values = vec![bf16::ZERO; n];
                memory.download(from, bytemuck::cast_slice_mut(&mut values))?;
                Self::from_vec(&host, tag, &self.shape, values.into_iter().map(f32::from).collect())
            }
            DType::F32 => {
                let mut values = vec![0f32; n];
                memory.download(from, bytemuck::cast_slice_mut(&mut values))?;
                Self::from_vec(&host, tag, &self.shape, values)
            }
            DType::F64 => {
                let mut values = vec![0f64; n];
                memory.download(from, bytemuck::cast_slice_mut(&mut values))?;
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
