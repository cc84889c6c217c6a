//! Tensors: contiguous, row-major, shared, immutable once an op has returned them.

use crate::device::cpu::pool::Pool;
use crate::device::ledger::Tag;
use crate::device::{Booking, Device};
use crate::dtype::{DType, Real};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a tensor on the tape.
pub type Id = u64;

/// A view of consecutive elements of a shared buffer. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Tensor {
    id: Id,
    device: Device,
    shape: Vec<usize>,
    offset: usize,
    buffer: Arc<Buffer>,
}

/// At least the elements of the tensor that it was made for; goes back to the pool.
#[derive(Debug)]
struct Buffer {
    data: Data,
    pool: Arc<Pool>,
    _booking: Booking,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Data::F32(values) = &mut self.data {
            self.pool.give(std::mem::take(values));
        }
    }
}

#[derive(Debug)]
enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
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
        let Device::Cpu(cpu) = device;
        Self::make(device, tag, dtype, shape, cpu.poisons().then_some(f64::NAN))
    }
    /// Filled with `value`, or with whatever the memory held.
    fn make(device: &Device, tag: Tag, dtype: DType, shape: &[usize], value: Option<f64>) -> Result<Self> {
        let n = shape.iter().product();
        let booking = Booking::new(device.ledger(), tag, n * dtype.size())?;
        let Device::Cpu(cpu) = device;
        let data = match dtype {
            DType::F32 => {
                let mut values = cpu.pool.take(n);
                value.into_iter().for_each(|value| values[..n].fill(value as f32));
                Data::F32(values)
            }
            DType::F64 => Data::F64(vec![value.unwrap_or(0.0); n]),
        };
        Ok(Self::new(device, shape, data, booking))
    }
    fn new(device: &Device, shape: &[usize], data: Data, booking: Booking) -> Self {
        let Device::Cpu(cpu) = device;
        let buffer = Arc::new(Buffer { data, pool: cpu.pool.clone(), _booking: booking });
        Tensor { id: fresh_id(), device: device.clone(), shape: shape.to_vec(), offset: 0, buffer }
    }
    /// Takes `values` to `device` as a tensor of `shape`.
    pub fn from_vec<T: Real>(device: &Device, tag: Tag, shape: &[usize], values: Vec<T>) -> Result<Self> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::shape("from_vec", "values", shape, values.len()));
        }
        let booking = Booking::new(device.ledger(), tag, values.len() * T::DTYPE.size())?;
        let data = match T::DTYPE {
            DType::F32 => Data::F32(bytemuck::allocation::cast_vec(values)),
            DType::F64 => Data::F64(bytemuck::allocation::cast_vec(values)),
        };
        Ok(Self::new(device, shape, data, booking))
    }

    pub fn id(&self) -> Id {
        self.id
    }
    pub fn device(&self) -> &Device {
        &self.device
    }
    pub fn dtype(&self) -> DType {
        match self.buffer.data {
            Data::F32(_) => DType::F32,
            Data::F64(_) => DType::F64,
        }
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
        let all: &[T] = match &self.buffer.data {
            Data::F32(v) => bytemuck::try_cast_slice(v).unwrap_or(&[]),
            Data::F64(v) if T::DTYPE == DType::F64 => bytemuck::try_cast_slice(v).unwrap_or(&[]),
            Data::F64(_) => &[],
        };
        &all[self.offset..self.offset + self.len()]
    }
    /// The elements of a tensor that nobody shares yet, for the op that fills it.
    pub fn slice_mut<T: Real>(&mut self) -> &mut [T] {
        let (offset, len) = (self.offset, self.len());
        let buffer = Arc::get_mut(&mut self.buffer).expect("an op writes only tensors that it alone holds");
        let all: &mut [T] = match &mut buffer.data {
            Data::F32(v) => bytemuck::cast_slice_mut(v),
            Data::F64(v) => bytemuck::cast_slice_mut(v),
        };
        &mut all[offset..offset + len]
    }
    /// Copies the elements to the host as f64, for tests and reports.
    pub fn to_f64(&self) -> Vec<f64> {
        match self.dtype() {
            DType::F32 => self.slice::<f32>().iter().map(|&x| f64::from(x)).collect(),
            DType::F64 => self.slice::<f64>().to_vec(),
        }
    }
    /// True if this is the only handle to the buffer.
    pub fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.buffer).is_some()
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
