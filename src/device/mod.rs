//! Where tensors live and ops run.

pub mod cpu;
pub mod cuda;
pub mod ledger;
pub mod profile;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use ledger::{Ledger, Tag};
use profile::Profile;
use std::sync::Arc;

/// A device. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    Cpu(Arc<cpu::Cpu>),
    Cuda(Arc<cuda::Cuda>),
}

impl Device {
    /// The CPU with `threads` threads; 0: one for every physical core that this process may use.
    pub fn cpu(threads: usize) -> Result<Self> {
        Self::cpu_in(threads, DType::F32)
    }
    /// As [`Device::cpu`], with activations and the weights of products of a model in f32 kept as `precision`.
    pub fn cpu_in(threads: usize, precision: DType) -> Result<Self> {
        Ok(Device::Cpu(Arc::new(cpu::Cpu::new(threads, precision)?)))
    }
    /// As [`Device::cpu_in`] in bf16, with the head's large products in eight bits where a model only computes.
    pub fn cpu_in_int8(threads: usize) -> Result<Self> {
        let mut cpu = cpu::Cpu::new(threads, DType::BF16)?;
        cpu.int8 = true;
        Ok(Device::Cpu(Arc::new(cpu)))
    }
    /// The GPU number `ordinal`. Errors as [`cuda::Cuda::new`].
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Device::Cuda(Arc::new(cuda::Cuda::new(ordinal)?)))
    }
    pub fn ledger(&self) -> &Arc<Ledger> {
        match self {
            Device::Cpu(cpu) => &cpu.ledger,
            Device::Cuda(cuda) => &cuda.ledger,
        }
    }
    pub fn profile(&self) -> &Profile {
        match self {
            Device::Cpu(cpu) => &cpu.profile,
            Device::Cuda(cuda) => &cuda.profile,
        }
    }
    /// Bytes of freed tensors that the device keeps for the next ones.
    pub fn idle_bytes(&self) -> usize {
        match self {
            Device::Cpu(cpu) => cpu.pool.idle_bytes(),
            Device::Cuda(_) => 0, // the driver keeps them
        }
    }
    /// The type in which activations and the weights of products are kept, given that of the parameters.
    pub fn activation_dtype(&self, parameters: DType) -> DType {
        match self {
            Device::Cpu(cpu) if parameters == DType::F32 => cpu.precision,
            Device::Cpu(_) => parameters,
            Device::Cuda(_) => DType::BF16,
        }
    }
    /// The type of the gradient that the loss hands to logits of type `logits`.
    pub fn gradient_dtype(&self, logits: DType) -> DType {
        self.activation_dtype(logits)
    }
    /// `f(0), f(1) … f(count - 1)`, several at once, each of which may use the device; `each` gets what they make, in order,
    /// on this thread, up to the first error: on a GPU as it is made, on a CPU, whose threads are all busy, at the end.
    /// What finds no memory beside the others is done again by itself, as is all behind it.
    pub fn side_by_side<R: Send + Sync>(
        &self,
        count: usize,
        f: impl Fn(usize) -> Result<R> + Sync,
        mut each: impl FnMut(R) -> Result<()>,
    ) -> Result<()> {
        if count == 1 {
            return each(f(0)?); // all of the device
        }
        let mut done = 0;
        let mut take = |made| {
            done += 1;
            each(made)
        };
        let ended = match self {
            Device::Cpu(cpu) => cpu.side_by_side(count, &f).into_iter().try_for_each(|made| take(made?)),
            Device::Cuda(cuda) => cuda.side_by_side(count, &f, take),
        };
        match ended {
            Err(error) if error.code() == "E-OOM" => (done..count).try_for_each(|i| each(f(i)?)),
            ended => ended,
        }
    }
    /// A tensor of zeros, booked under `tag`.
    pub fn zeros(&self, tag: Tag, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        Tensor::zeros(self, tag, dtype, shape)
    }
    /// A tensor for an op to fill. (In tests it is NaN until then: see [`cpu::Cpu::poison`].)
    pub fn alloc(&self, tag: Tag, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        Tensor::alloc(self, tag, dtype, shape)
    }
}

/// Books memory in a ledger for as long as it lives.
#[derive(Debug)]
pub(crate) struct Booking {
    ledger: Arc<Ledger>,
    tag: Tag,
    bytes: usize,
}

fn out_of_memory(ledger: &Ledger, tag: Tag, bytes: usize, left: &str) -> Error {
    Error::device("E-OOM", format!("{tag} needs {} MiB more, {left}\n{ledger}", bytes >> 20))
        .fix("smaller batches, or a larger --max-memory (without it: what the system had at the start)")
}

impl Booking {
    pub(crate) fn new(ledger: &Arc<Ledger>, tag: Tag, bytes: usize) -> Result<Self> {
        ledger
            .take(tag, bytes)
            .map_err(|free| out_of_memory(ledger, tag, bytes, &format!("{} MiB are left", free >> 20)))?;
        Ok(Booking { ledger: ledger.clone(), tag, bytes })
    }
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
    /// E-OOM for bytes that no limit forbids, and that the system does not have.
    pub(crate) fn out_of_memory(&self) -> Error {
        out_of_memory(&self.ledger, self.tag, self.bytes, "the system has less")
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        self.ledger.give(self.tag, self.bytes);
    }
}

/// Calls `cpu::f::<T>(args)` or `cuda::f(cuda, args)` of the op's room, by device and dtype, and counts the
/// time under `name` (on a GPU: that of the launch). `Err`: what the GPU says.
///
/// `wide f(args)` is for ops that compute in no dtype but F32 and F64 on a CPU.
#[macro_export]
macro_rules! dispatch {
    ($name:literal, $device:expr, $dtype:expr, wide $f:ident ( $($arg:expr),* $(,)? )) => {
        $crate::dispatch!(@ $name, $device, $dtype, $f($($arg),*), {
            Err($crate::error::Error::shape($name, "dtype on a CPU", "F32 or F64", "BF16"))
        })
    };
    ($name:literal, $device:expr, $dtype:expr, $f:ident ( $($arg:expr),* $(,)? )) => {
        $crate::dispatch!(@ $name, $device, $dtype, $f($($arg),*), Ok(cpu::$f::<half::bf16>($($arg),*)))
    };
    (@ $name:literal, $device:expr, $dtype:expr, $f:ident ( $($arg:expr),* ), $in_bf16:expr) => {{
        let device: $crate::device::Device = $device.clone();
        let _span = device.profile().span($name);
        match &device {
            $crate::device::Device::Cpu(on) => on.run(|| match $dtype {
                $crate::dtype::DType::F32 => Ok(cpu::$f::<f32>($($arg),*)),
                $crate::dtype::DType::F64 => Ok(cpu::$f::<f64>($($arg),*)),
                $crate::dtype::DType::BF16 => $in_bf16,
            }),
            $crate::device::Device::Cuda(on) => cuda::$f(on, $($arg),*),
        }
    }};
}
