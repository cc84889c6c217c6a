// y[i] = word[ids[i]] + position[positions[i]] + token_type[0], and the gradients of the three tables.
//
// Forward reads two rows a token (row 0 of the types and the numbers stay in the cache) and writes one, bf16, the sum
// of three in f32 rounded once. A thread owns a pack of 8. `numbers`: the ids, then the positions.
// Launch: rows * dim / 8 threads in blocks of any size; below 2^31 of them.
//
// Backward reads dy once by words and once by positions. The host has sorted the rows by table row; `buckets` is
//   begin[0 .. count]    where each table row's uses begin in `order`, and the end of the last,
//   number[0 .. count)   the table row,
//   order[0 .. rows)     the rows of dy, ascending within a bucket.
// A block owns a table row (of the positions eight), 256 columns of it: nobody else adds to it, and the order is fixed.
// All gradients are f32 and accumulated; rows of the tables that the batch does not use are not touched.
//   words: the block's 8 warps share the uses, because a few words have hundreds of them; warp w takes the uses
//     w, w + 8, ... and shared memory adds up the warps in order.
//   positions: a warp a position, because as many documents use it; the block also writes the sum over its positions to
//     its row of `partials` [blocks, dim], and
//   types: the sum over the partials, all rows of dy, goes to row 0 of the types.
// Launch: blocks of 8 warps; grid.x = words or (positions + 7) / 8, grid.y = (dim + 255) / 256; types: 32 columns a
// block.
#include "columns.cuh"

constexpr int COUNT = Pack<bf16>::COUNT;
constexpr int WARPS = 8;

extern "C" __global__ void embedding_forward(const int *__restrict__ numbers, const bf16 *__restrict__ word,
                                             const bf16 *__restrict__ position, const bf16 *__restrict__ token_type,
                                             bf16 *__restrict__ y, int rows, int dim) {
    const unsigned packs = static_cast<unsigned>(dim) / COUNT;
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = at / packs;
    if (row >= static_cast<unsigned>(rows)) {
        return;
    }
    const unsigned column = (at - row * packs) * COUNT;
    const int *places = numbers + rows;
    const Pack<bf16> a = load_pack(word + static_cast<size_t>(numbers[row]) * dim + column);
    const Pack<bf16> b = load_pack(position + static_cast<size_t>(places[row]) * dim + column);
    const Pack<bf16> c = load_pack(token_type + column);
    Pack<bf16> sum;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        sum.values[i] = from_float<bf16>(to_float(a.values[i]) + to_float(b.values[i]) + to_float(c.values[i]));
    }
    store_pack(y + static_cast<size_t>(at) * COUNT, sum);
}

// sums += this lane's pack of the rows order[first], order[first + step], ... before `end`.
__device__ inline void add_uses(float (&sums)[COUNT], const bf16 *__restrict__ dy, const int *__restrict__ order,
                                int first, int end, int step, int dim, int column) {
#pragma unroll 4
    for (int use = first; use < end; use += step) {
        const Pack<bf16> pack = load_pack(dy + static_cast<size_t>(order[use]) * dim + column);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            sums[i] += to_float(pack.values[i]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    embedding_backward_words(const bf16 *__restrict__ dy, const int *__restrict__ buckets, float *__restrict__ table,
                             int count, int dim) {
    __shared__ ColumnTile<WARPS> tile;
    const int *begin = buckets;
    const int *number = begin + count + 1;
    const int *order = number + count;
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    const int first = begin[blockIdx.x];
    const int end = begin[blockIdx.x + 1];
    const int column = blockIdx.y * CHUNK + lane * COUNT;
    float sums[COUNT] = {};
    if (column < dim) {
        add_uses(sums, dy, order, first + warp, end, WARPS, dim, column);
    }
    if (first + warp < end) {
        tile.put(warp, lane, sums);
    }
    __syncthreads();
    const int mine = blockIdx.y * CHUNK + threadIdx.x;
    if (mine < dim) {
        float *to = table + static_cast<size_t>(number[blockIdx.x]) * dim + mine;
        *to += tile.sum(min(WARPS, end - first), threadIdx.x);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    embedding_backward_positions(const bf16 *__restrict__ dy, const int *__restrict__ buckets,
                                 float *__restrict__ table, float *__restrict__ partials, int count, int dim) {
    __shared__ ColumnTile<WARPS> tile;
    const int *begin = buckets;
    const int *number = begin + count + 1;
    const int *order = number + count;
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    const int here = blockIdx.x * WARPS; // the first of the block's buckets
    const int column = blockIdx.y * CHUNK + lane * COUNT;
    float sums[COUNT] = {};
    if (here + warp < count && column < dim) {
        add_uses(sums, dy, order, begin[here + warp], begin[here + warp + 1], 1, dim, column);
    }
    tile.put(warp, lane, sums);
    __syncthreads();
    const int mine = blockIdx.y * CHUNK + threadIdx.x;
    if (mine >= dim) {
        return;
    }
    float total = 0.0f;
#pragma unroll
    for (int bucket = 0; bucket < WARPS; bucket++) {
        if (here + bucket < count) {
            const float sum = tile.at(bucket, threadIdx.x);
            table[static_cast<size_t>(number[here + bucket]) * dim + mine] += sum;
            total += sum;
        }
    }
    partials[static_cast<size_t>(blockIdx.x) * dim + mine] = total;
}

extern "C" __global__ void __launch_bounds__(PART_WARPS * 32)
    embedding_backward_types(const float *__restrict__ partials, int parts, int dim, float *__restrict__ token_type) {
    add_parts(partials, parts, dim, token_type);
}
