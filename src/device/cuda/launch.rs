//! Launching a kernel: its arguments in the order of its parameters, then its shape.

use super::context::failed;
use super::{Cuda, Words};
use crate::error::{Error, Result};
use crate::rng::Dropout;
use crate::tensor::Tensor;
use cudarc::driver::result;

/// Arguments being gathered for one launch.
pub struct Launch<'a> {
    cuda: &'a Cuda,
    name: &'static str,
    /// The arguments' bytes, each from an 8-byte boundary on.
    slots: Vec<u64>,
    starts: Vec<usize>,
}

/// `Dropout` of kernels/common.cuh.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Mask {
    seed: u64,
    op: u32,
    step: u32,
    threshold: u32,
    scale: f32,
}

impl<'a> Launch<'a> {
    pub(super) fn new(cuda: &'a Cuda, name: &'static str) -> Self {
        Launch { cuda, name, slots: Vec::new(), starts: Vec::new() }
    }
    /// A number, or a struct, by value; `usize` is C's `size_t`.
    pub fn value<T: bytemuck::NoUninit>(mut self, value: T) -> Self {
        let bytes = bytemuck::bytes_of(&value);
        self.starts.push(self.slots.len());
        for piece in bytes.chunks(8) {
            let mut slot = [0; 8];
            slot[..piece.len()].copy_from_slice(piece);
            self.slots.push(u64::from_ne_bytes(slot));
        }
        self
    }
    /// The tensor's first element, to be read.
    pub fn input(self, tensor: &Tensor) -> Self {
        let pointer = tensor.device_pointer();
        self.value(pointer)
    }
    /// As `input`, or null.
    pub fn maybe(self, tensor: Option<&Tensor>) -> Self {
        self.value(tensor.map_or(0, Tensor::device_pointer))
    }
    /// The first element of a tensor that nobody shares, to be written.
    pub fn output(self, tensor: &mut Tensor) -> Self {
        let pointer = tensor.device_pointer_mut();
        self.value(pointer)
    }
    /// The first elements of a tensor or two: `OfAxis` of kernels/attention.cuh.
    pub fn inputs(self, tensors: &[Tensor]) -> Self {
        let pointers: Vec<u64> = tensors.iter().map(Tensor::device_pointer).collect();
        self.of_axis(&pointers)
    }
    /// As `inputs`, to be written.
    pub fn outputs(self, tensors: &mut [Tensor]) -> Self {
        let pointers: Vec<u64> = tensors.iter_mut().map(Tensor::device_pointer_mut).collect();
        self.of_axis(&pointers)
    }
    fn of_axis(self, pointers: &[u64]) -> Self {
        self.value([0, 1].map(|axis| pointers.get(axis).copied().unwrap_or(0)))
    }
    /// As `output`, or null.
    pub fn maybe_output(self, tensor: Option<&mut Tensor>) -> Self {
        self.value(tensor.map_or(0, Tensor::device_pointer_mut))
    }
    pub fn words(self, words: &Words) -> Self {
        let pointer = words.pointer();
        self.value(pointer)
    }
    /// Where the gradient of `parameter` is accumulated, in f32.
    pub fn gradient(self, flat: &mut Tensor, parameter: &Tensor) -> Self {
        self.value(flat.device_pointer_mut() + 4 * parameter.offset() as u64)
    }
    /// `Dropout` by value; one that is off keeps everything.
    pub fn dropout(self, drop: Dropout) -> Self {
        let (threshold, scale) = drop.rule();
        self.value(Mask { seed: drop.seed, op: drop.op, step: drop.step, threshold, scale: scale as f32 })
    }

    /// Puts the launch in the stream: a grid of `blocks` of `threads`, with `shared` bytes of dynamic shared
    /// memory. A grid with a 0 launches nothing.
    pub fn launch(self, blocks: [usize; 3], threads: usize, shared: usize) -> Result<()> {
        if blocks.contains(&0) {
            return Ok(());
        }
        let cuda = self.cuda;
        let missing = || {
            Error::device("E-KERNEL", format!("kernel {} is not in this build", self.name))
                .fix("build again with nvcc 12 or newer, or --device cpu")
        };
        let function = cuda.functions.get(self.name).ok_or_else(missing)?;
        if blocks[0] > 0x7fff_ffff || blocks[1] > 65_535 || blocks[2] > 65_535 || shared > cuda.shared_bytes() {
            return Err(cuda.refuse(self.name, format!("a grid of {blocks:?} with {shared} bytes of shared memory")));
        }
        cuda.context.bind()?;
        let slots = self.slots.as_ptr();
        // SAFETY: each start is within the slots, which live until the driver has copied them; the types are
        // those of the kernel's parameters, as its op's cuda.rs says beside kernels/*.cu; tensors live until
        // they are freed in the order of the stream.
        unsafe {
            let mut params: Vec<_> = self.starts.iter().map(|&at| slots.add(at).cast_mut().cast()).collect();
            let grid = (blocks[0] as u32, blocks[1] as u32, blocks[2] as u32);
            let block = (threads as u32, 1, 1);
            result::launch_kernel(function.0, grid, block, shared as u32, cuda.context.stream, &mut params)
        }
        .map_err(|e| failed(self.name, e))
    }
}
