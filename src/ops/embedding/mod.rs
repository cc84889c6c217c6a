//! Embedding: `y[i] = word[ids[i]] + position[positions[i]] + token_type[0]`.
//!
//! Tables `[vocabulary, d]`, `[positions, d]`, `[types, d]`, y `[rows, d]`; reads 2 and writes 1 value
//! an element (row 0 of the types stays in the cache).
//! Backward accumulates dy into the rows of the three tables: rows are bucketed by table row, each
//! bucket is summed in order by one task. Nothing is saved but the numbers.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape, same_dtype};

/// The sum of the three embeddings of each token; see the module.
pub fn embedding(
    tape: &mut Tape,
    ids: &[u32],
    positions: &[u32],
    word: &Tensor,
    position: &Tensor,
    token_type: &Tensor,
) -> Result<Tensor> {
    let dim = word.dim();
    same_dtype("embedding", &[word, position, token_type])?;
    check_shape("embedding", "position", position, &[position.rows(), dim])?;
    check_shape("embedding", "token types", token_type, &[token_type.rows().max(1), dim])?;
    check_numbers("ids", ids, ids.len(), word)?;
    check_numbers("positions", positions, ids.len(), position)?;
    let mut y = word.device().alloc("embedding", word.dtype(), &[ids.len(), dim])?;
    dispatch!("embedding", word.device(), word.dtype(), forward(ids, positions, word, position, token_type, &mut y))?;
    let y = y.settled();
    if tape.is_recording() {
        let (ids, positions, out) = (ids.to_vec(), positions.to_vec(), y.clone());
        let (word, position, token_type) = (word.clone(), position.clone(), token_type.clone());
        tape.record(move |grads| {
            let Some(dy) = grads.take(&out) else { return Ok(()) };
            let tables = [&word, &position, &token_type];
            dispatch!("embedding.backward", dy.device(), dy.dtype(), backward(&dy, &ids, &positions, tables, grads))?;
            Ok(())
        });
    }
    Ok(y)
}

fn check_numbers(what: &str, numbers: &[u32], len: usize, table: &Tensor) -> Result<()> {
    if numbers.len() != len {
        return Err(Error::shape("embedding", what, len, numbers.len()));
    }
    match numbers.iter().find(|&&n| n as usize >= table.rows()) {
        Some(n) => Err(Error::shape("embedding", what, format!("below {}", table.rows()), n)),
        None => Ok(()),
    }
}
