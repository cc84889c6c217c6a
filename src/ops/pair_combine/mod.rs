//! Pair representations: `z[cell(s, o)] = tanh(u[e] + c[pair(s, o)] + bias)`, e = s or o by role (spec §3).
//!
//! u `[entities, E]` is the entity's part of the extractor, c `[pairs, E]` the context's part, one row
//! an unordered pair; z `[cells, E]` covers the tables of the grid. Cells of a pad index are tanh(bias).
//! Reads 2 values and writes 1 an element (a row of c serves two cells, a row of u a line of them).
//! Backward keeps z: `g = dz (1 - z^2)`; du sums g over the entity's line of cells, dc over its one or
//! two cells, bias accumulates all of them. One task an entity owns its row of du and the rows of dc
//! with a = that entity, so every sum has one order.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::Result;
use crate::layout::Grid;
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape, same_dtype};
use std::sync::Arc;

/// The entity of the pair whose representation is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Subject,
    Object,
}

/// One row a cell from the entity's and the pair's part; see the module.
pub fn pair_combine(
    tape: &mut Tape,
    u: &Tensor,
    c: &Tensor,
    bias: &Tensor,
    grid: &Arc<Grid>,
    role: Role,
) -> Result<Tensor> {
    let dim = u.dim();
    same_dtype("pair_combine", &[u, c, bias])?;
    check_shape("pair_combine", "u", u, &[grid.entities.rows(), dim])?;
    check_shape("pair_combine", "c", c, &[grid.pairs.rows(), dim])?;
    check_shape("pair_combine", "bias", bias, &[dim])?;
    let mut z = u.device().alloc("pair_combine", u.dtype(), &[grid.tables.cells.rows(), dim])?;
    dispatch!("pair_combine", u.device(), u.dtype(), forward(u, c, bias, grid, role, &mut z))?;
    let z = z.settled();
    let (u, c, bias, grid, out) = (u.clone(), c.clone(), bias.clone(), grid.clone(), z.clone());
    tape.record(move |grads| {
        let Some(dz) = grads.take(&out) else { return Ok(()) };
        let mut du = u.device().alloc("pair_combine.du", u.dtype(), u.shape())?;
        let mut dc = c.device().alloc("pair_combine.dc", c.dtype(), c.shape())?;
        let into = (&mut du, &mut dc);
        dispatch!(
            "pair_combine.backward",
            u.device(),
            u.dtype(),
            backward(&dz, &out, &bias, &grid, role, into, grads)
        )?;
        grads.put(&u, du)?;
        grads.put(&c, dc)
    });
    Ok(z)
}
