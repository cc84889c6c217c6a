// Attention between tiles in shared memory: what attention.cu and axial.cu share.
//
// A tile holds rows of one head's queries, keys, values or gradients, HEAD values each, swizzled. A warp owns 16 rows
// of a product; the fragments are those of mma m16n8k16: lane 4g+t holds rows g and g+8, columns 2t and 2t+1 of every
// eight columns. Products are named by what is multiplied: `multiply_rows` sums over the columns of both tiles,
// `multiply_columns` over the rows of the right one.
#pragma once

#include "common.cuh"

// Row i of a sequence is row base + i * stride of the tensors (src/device/cuda/attention.rs writes these).
struct alignas(16) Sequence {
    int base, stride, len;
    float last_key_bias; // added to the last key's logit: the log of how many equal keys it stands for

    __device__ int row(int i) const { return base + i * stride; }
};

// One head's columns of a sequence: row i at first + i * pitch.
template <typename T> struct HeadRows {
    T *first;
    size_t pitch;

    __device__ T *at(int row, int chunk) const { return first + row * pitch + chunk * 8; }
};

template <typename T>
__device__ inline HeadRows<T> head_rows(T *tensor, const Sequence &sequence, int width, int column) {
    const size_t pitch = width;
    return {tensor + sequence.base * pitch + column, sequence.stride * pitch};
}

// A block computes along axis blockIdx.z of gridDim.z. (The encoder has one axis, a table may have two.)

// Queries (part 0), keys (1) or values (2) of the block's axis in qkv or its gradient: [rows, axes, 3, heads, HEAD].
template <int HEAD, typename T>
__device__ inline HeadRows<T> qkv_rows(T *qkv, const Sequence &sequence, int heads, int head, int part) {
    const int width = heads * HEAD;
    return head_rows(qkv, sequence, 3 * width * gridDim.z, (3 * blockIdx.z + part) * width + head * HEAD);
}

// Tensors of which each axis has its own.
template <typename T> struct OfAxis {
    T *first, *second;

    __device__ T *own() const { return blockIdx.z == 0 ? first : second; }
};

// Row `row` and the ROWS - 1 behind it, in the background, by THREADS threads of which this is number `thread`; zeros
// from row `len` on.
template <int HEAD, int ROWS, int THREADS>
__device__ inline void load_rows(bf16 *tile, HeadRows<const bf16> from, int row, int len, int thread) {
    constexpr int CHUNKS = HEAD / 8;
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread copies equally many chunks");
#pragma unroll
    for (int turn = 0; turn < ROWS * CHUNKS / THREADS; turn++) {
        const int i = turn * THREADS + thread;
        const bool inside = row + i / CHUNKS < len;
        copy_async(tile + swizzle<HEAD>(i / CHUNKS, i % CHUNKS), from.at(inside ? row + i / CHUNKS : 0, i % CHUNKS),
                   inside);
    }
}

// Rows `row` to `row` + 15 and columns 16 d to 16 d + 15 of a tile as a left operand.
template <int HEAD> __device__ inline void load_fragment(uint32_t (&a)[4], const bf16 *tile, int row, int d) {
    const int lane = threadIdx.x % 32;
    load_matrix_x4(a, tile + swizzle<HEAD>(row + lane % 16, d * 2 + lane / 16));
}

template <int TILES> __device__ inline void clear(float (&sums)[TILES][4]) {
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        for (int i = 0; i < 4; i++) {
            sums[n][i] = 0.0f;
        }
    }
}

// products += a * transpose(tile), for columns 16 d to 16 d + 15 and the first 8 TILES rows of the tile.
template <int HEAD, int TILES>
__device__ inline void multiply_rows(float (&products)[TILES][4], const uint32_t (&a)[4], const bf16 *tile, int d) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < TILES; n += 2) {
        uint32_t b[4];
        load_matrix_x4(b, tile + swizzle<HEAD>(n * 8 + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2));
        mma_bf16(products[n], a, b[0], b[1]);
        mma_bf16(products[n + 1], a, b[2], b[3]);
    }
}

// products = a * transpose(tile).
template <int HEAD, int TILES>
__device__ inline void multiply_rows(float (&products)[TILES][4], const uint32_t (&a)[HEAD / 16][4],
                                     const bf16 *tile) {
    clear(products);
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++) {
        multiply_rows<HEAD>(products, a[d], tile, d);
    }
}

// products = rows `row` to `row` + 15 of `left` * transpose(tile).
template <int HEAD, int TILES>
__device__ inline void multiply_rows(float (&products)[TILES][4], const bf16 *left, int row, const bf16 *tile) {
    clear(products);
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++) {
        uint32_t a[4];
        load_fragment<HEAD>(a, left, row, d);
        multiply_rows<HEAD>(products, a, tile, d);
    }
}

// sums += a * tile, for rows 16 k to 16 k + 15 of the tile.
template <int HEAD>
__device__ inline void multiply_columns(float (&sums)[HEAD / 8][4], const uint32_t (&a)[4], const bf16 *tile, int k) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++) {
        uint32_t b[4];
        load_matrix_x4_trans(b, tile + swizzle<HEAD>(k * 16 + lane % 16, d * 2 + lane / 16));
        mma_bf16(sums[2 * d], a, b[0], b[1]);
        mma_bf16(sums[2 * d + 1], a, b[2], b[3]);
    }
}

// sums += weights * tile: two neighbouring results of an mma lie as one left operand does.
template <int HEAD, int TILES>
__device__ inline void multiply_columns(float (&sums)[HEAD / 8][4], const float (&weights)[TILES][4],
                                        const bf16 *tile) {
#pragma unroll
    for (int k = 0; k < TILES / 2; k++) {
        const float *low = weights[2 * k], *high = weights[2 * k + 1];
        const uint32_t a[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                               pack_bf16(high[2], high[3])};
        multiply_columns<HEAD>(sums, a, tile, k);
    }
}

// Scores of the keys from `key` on: none behind the last one, and the bias of that one, in units of a score.
template <int TILES>
__device__ inline void mask_keys(float (&scores)[TILES][4], int key, int len, float last_key_bias) {
    key += threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        for (int i = 0; i < 4; i++) {
            const int left = len - 1 - (key + n * 8 + i % 2);
            scores[n][i] = left < 0 ? -INFINITY : left == 0 ? scores[n][i] + last_key_bias : scores[n][i];
        }
    }
}

// A row of a fragment lies in four neighbouring lanes.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// The warp's 16 rows, each times its factor, to rows `row` to `row` + 15 of a tile that no other warp uses.
template <int WIDTH>
__device__ inline void put_fragments(bf16 *tile, int row, const float (&c)[WIDTH / 8][4], float factor_low,
                                     float factor_high) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
        for (int half = 0; half < 2; half++) {
            const float factor = half == 0 ? factor_low : factor_high;
            const uint32_t pair = pack_bf16(c[n][2 * half] * factor, c[n][2 * half + 1] * factor);
            bf16 *to = tile + swizzle<WIDTH>(row + half * 8 + lane / 4, n) + lane % 4 * 2;
            *reinterpret_cast<uint32_t *>(to) = pair;
        }
    }
}

// The warp's 16 rows, each times its factor, to rows `first` to `first` + 15 of a tensor, as far as they are below
// `len`. On the way they lie in rows `row` to `row` + 15 of `tile`, which no other warp uses, so that whole runs of
// 16 bytes a lane are written.
template <int HEAD>
__device__ inline void store_rows(HeadRows<bf16> to, int first, int len, const float (&c)[HEAD / 8][4],
                                  float factor_low, float factor_high, bf16 *tile, int row) {
    constexpr int CHUNKS = HEAD / 8;
    __syncwarp(); // the last use of these rows is over
    put_fragments<HEAD>(tile, row, c, factor_low, factor_high);
    __syncwarp(); // all of them are there
#pragma unroll
    for (int i = threadIdx.x % 32; i < 16 * CHUNKS; i += 32) {
        if (first + i / CHUNKS < len) {
            // Not by load_pack and store_pack: nvcc 13.0 makes eight stores of 2 bytes of a Pack that only passes by.
            const bf16 *from = tile + swizzle<HEAD>(row + i / CHUNKS, i % CHUNKS);
            *reinterpret_cast<uint4 *>(to.at(first + i / CHUNKS, i % CHUNKS)) = *reinterpret_cast<const uint4 *>(from);
        }
    }
}
