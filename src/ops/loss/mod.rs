//! Losses over classes, and their gradient, in one pass over the logits (spec §5).
//!
//! logits `[cells, R]`, class 0 = TH. With P the gold classes of a cell, N the rest without TH,
//! `delta_r = l_r - l_TH`, `p_r = sigmoid(delta_r)`:
//! - adaptive focal: `sum over P of -(1 + (1-p)^gamma) log p + logsumexp(N, TH) - l_TH`; the paper's form
//!   is without `1 +`;
//! - adaptive threshold (ATLOP): `-sum over P of log softmax(P, TH)[r] - log softmax(N, TH)[TH]`;
//! - balanced softmax: `log(1 + sum over N of e^delta) + log(1 + sum over P of e^-delta)`;
//! - ATGL: `-sum over r of w_r log softmax(all)[r]`, w = alpha on P, 1 on TH, 0 on N.
//!
//! Distillation: MSE `mean over cells x R of (l - t)^2`, or `KL(teacher || student)` of the softmax over
//! all classes, `sum over r of p^t_r (log p^t_r - log p^s_r)`, mean over cells.
//! Means divide by `cells`, the rows of the whole batch that are not left out, so that parts of a split batch add up;
//! of no cells the loss is 0.
//! A cell that the labels leave out (no candidate pair of its document) costs nothing, in either term, and has a gradient
//! of 0, whatever its logits.
//! A cell whose loss is no finite number has a gradient of NaN: the norm of all gradients tells.
//! The row's exponentials are summed in the working type, everything of a gold class (on a GPU in f32) and
//! the sum over cells is f64, in a fixed order. Reads R values a cell (2R with a teacher), writes R in
//! training; the backward pass only hands the gradient on.

mod cpu;
mod cuda;
mod predict;

pub use predict::{predict, predict_above, relations_above};

use crate::dispatch;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::Labels;
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape, same_dtype};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// `released`: with the `1 +` that the released program has and the paper has not.
    AdaptiveFocal {
        gamma: f64,
        released: bool,
    },
    AdaptiveThreshold,
    BalancedSoftmax,
    Atgl {
        alpha: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distillation {
    Mse,
    Kl,
}

/// Logits of another model for the same cells, and how much they count.
#[derive(Clone, Debug)]
pub struct TeacherLogits {
    pub logits: Tensor,
    pub weight: f64,
    pub kind: Distillation,
}

/// The two terms; what is minimised is `objective + weight * distillation`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    pub objective: f64,
    /// Without the teacher's weight.
    pub distillation: f64,
}

/// The terms of a loss, where the logits are: reading them waits for the device.
#[derive(Clone, Debug)]
pub struct Loss {
    /// F64: objective, distillation.
    terms: Tensor,
}

impl Loss {
    pub fn read(&self) -> Result<Terms> {
        let terms = self.terms.to_f64()?;
        Ok(Terms { objective: terms[0], distillation: terms[1] })
    }
}

/// The loss of `logits` against `labels` and `teacher`, divided by `cells`; see the module.
pub fn loss(
    tape: &mut Tape,
    logits: &Tensor,
    labels: &Labels,
    objective: Objective,
    teacher: Option<&TeacherLogits>,
    cells: usize,
) -> Result<Loss> {
    let (rows, classes) = (logits.rows(), logits.dim());
    check_shape("loss", "logits", logits, &[rows, classes.max(1)])?;
    if (labels.cells(), labels.classes) != (rows, classes) {
        return Err(Error::shape("loss", "labels", (rows, classes), (labels.cells(), labels.classes)));
    }
    if let Some(teacher) = teacher {
        same_dtype("loss", &[logits, &teacher.logits])?;
        check_shape("loss", "teacher", &teacher.logits, logits.shape())?;
    }
    let device = logits.device();
    let mut terms = device.alloc("loss", DType::F64, &[2])?;
    let gradient = || device.alloc("loss.dlogits", device.gradient_dtype(logits.dtype()), logits.shape());
    let mut dlogits = if tape.is_recording() { Some(gradient()?) } else { None };
    let into = (&mut terms, dlogits.as_mut());
    dispatch!("loss", device, logits.dtype(), wide all(logits, labels, objective, teacher, cells, into))?;
    if let Some(dlogits) = dlogits {
        let logits = logits.clone();
        tape.record(move |grads| grads.put(&logits, dlogits));
    }
    Ok(Loss { terms })
}
