// y = x W^T + b (+ residual) and its gradients; x [m, k], W [n, k], y [m, n] in the names of the forward pass.
//
//   linear_forward       y = x W^T + b + r, rounded to bf16 once         reads x, W, b, r; writes y
//   linear_gelu_forward  z = x W^T + b, y = GELU(z)                      reads x, W, b; writes y, and z for backward
//   linear_wide_forward  y = x W^T + b in f32 (logits), any n            reads x, W, b; writes y
//   linear_dx            dx = dy W, assigned                             reads dy, W; writes dx
//   linear_dw            dW += dy^T x, db += column sums of dy           reads dy, x, dW, db; writes dW, db
//   linear_*_sum         the same where a product was split              reads the partial sums as well
//   linear_pad           rows of dy that are no whole 16 bytes, padded   reads dy; writes the copy
//
// All operands are bf16; products are exact, their sums and all that follows f32. A block owns a tile of the output:
// it reads (m / M) n k + (n / N) m k values of the operands, tiles M x N, most of them from L2. db comes from
// tensor cores too: the blocks of the first columns multiply dy^T by ones, so that dy is not read another time.
// Every tile adds a sum's terms up in the same order, so that in the forward pass a row has the same bits whatever rows
// stand beside it. In the backward pass, where tiles are too few for the GPU, the terms are split over blockIdx.z: partial
// sums [splits, m, n] in f32, more bytes than the result but for L2 to hold, which linear_*_sum adds up in order. Tile and
// splits depend on the sizes and the number of multiprocessors alone, so runs repeat bit by bit. Backward recomputes
// nothing; GELU's gradient is gelu_backward on the kept z.
// Launch: gemm.cuh's grid and threads, GEMM_SHARED_BYTES. k of the forward pass is a multiple of 8, n as well, but for
// logits. Logits are stored a value at a time: rows of 97 floats start in the midst of a sector, so 128 bytes of a warp
// touch 5 sectors of 4. Measured on a GPU: H200.md.
//
// SASS of the loop round the ring (sm_80, sm_90a): 57 to 63 % HMMA for 128 x 128, 46 to 56 % for 128 x 64, 40 to 50 %
// for 64 x 64, where an ldmatrix and a copy serve fewer products. The last steps, which may be short of terms, run in a
// loop with 43 to 46 %, 29 to 35 % and 27 to 34 %: of 768 terms, those after the first 672, 640 and 576. An HMMA keeps
// an A100's tensor core busy for 8 issue slots.
#include "gelu.cuh"
#include "gemm.cuh"

using Large = GemmShape<128, 128, 32, 3>;
using Tall = GemmShape<128, 64, 32, 4>;
using Small = GemmShape<64, 64, 64, 3>;

// For each shape: its name, and how many blocks must fit in a multiprocessor's registers.
#define SHAPES(KERNEL) KERNEL(128x128, Large, 2) KERNEL(128x64, Tall, 3) KERNEL(64x64, Small, 4)

#define KERNEL_OF(BLOCKS) extern "C" __global__ void __launch_bounds__(GEMM_THREADS, BLOCKS)

// y = sums + bias + residual.
template <int VALUES> struct PutNarrow {
    static constexpr int COUNT = VALUES;
    static constexpr int UNROLL = 4;
    bf16 *y;
    const bf16 *bias, *residual;
    int n;

    __device__ inline void operator()(int row, int column, float (&values)[COUNT]) const {
        const size_t at = static_cast<size_t>(row) * n + column;
        if (bias != nullptr) {
            add_values(values, bias + column);
        }
        if (residual != nullptr) {
            add_values(values, residual + at);
        }
        store_values(y + at, values);
    }
};

// y = GELU(z) of the z that is not rounded yet.
struct PutGelu {
    static constexpr int COUNT = 8;
    static constexpr int UNROLL = 2; // GELU of 8 values is long, and has work enough for the time of a load
    bf16 *y, *z;
    const bf16 *bias;
    int n;

    __device__ inline void operator()(int row, int column, float (&values)[COUNT]) const {
        const size_t at = static_cast<size_t>(row) * n + column;
        add_values(values, bias + column);
        if (z != nullptr) {
            store_values(z + at, values);
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            values[i] = gelu(values[i]);
        }
        store_values(y + at, values);
    }
};

// A value at a time, since n is any number; 32 lanes still store 128 bytes in a row.
struct PutWide {
    static constexpr int COUNT = 1;
    static constexpr int UNROLL = 4;
    float *y;
    const bf16 *bias;
    int n;

    __device__ inline void operator()(int row, int column, float (&values)[COUNT]) const {
        const float b = bias != nullptr ? to_float(bias[column]) : 0.0f;
        y[static_cast<size_t>(row) * n + column] = values[0] + b;
    }
};

// The gradient of a weight.
struct AddWide {
    static constexpr int COUNT = 4;
    static constexpr int UNROLL = 8;
    float *gradient;
    int n;

    __device__ inline void operator()(int row, int column, float (&values)[COUNT]) const {
        float *at = gradient + static_cast<size_t>(row) * n + column;
        add_values(values, at);
        store_values(at, values);
    }
};

// Hands the sums to `out`, or to the launch that adds the splits up.
template <typename Shape, typename Out>
__device__ inline void finish(const GemmSums<Shape> &sums, const GemmPlace<Shape> &place, float *partials, int m, int n,
                              const Out &out) {
    if (gridDim.z == 1) {
        put(sums, place, m, n, out);
    } else {
        put(sums, place, m, n, PutPartial{partials, m, n});
    }
}

// x W^T. Every shape adds a sum's terms up one after the other, and never in splits: what a row gives does not depend on
// the rows beside it.
template <typename Shape, typename Out>
__device__ inline void forward(const bf16 *x, const bf16 *w, int m, int n, int k, const Out &out) {
    const GemmPlace<Shape> place(k);
    GemmSums<Shape> sums;
    multiply<Shape, false, false, false>(sums, place, {x, m, k}, {w, n, k});
    put(sums, place, m, n, out);
}

#define FORWARD(NAME, SHAPE, BLOCKS)                                                                                   \
    KERNEL_OF(BLOCKS)                                                                                                  \
    linear_forward_##NAME(const bf16 *x, const bf16 *w, const bf16 *bias, const bf16 *residual, bf16 *y, int m, int n, \
                          int k) {                                                                                     \
        forward<SHAPE>(x, w, m, n, k, PutNarrow<8>{y, bias, residual, n});                                             \
    }
SHAPES(FORWARD)

#define GELU_FORWARD(NAME, SHAPE, BLOCKS)                                                                              \
    KERNEL_OF(BLOCKS)                                                                                                  \
    linear_gelu_forward_##NAME(const bf16 *x, const bf16 *w, const bf16 *bias, bf16 *z, bf16 *y, int m, int n,         \
                               int k) {                                                                                \
        forward<SHAPE>(x, w, m, n, k, PutGelu{y, z, bias, n});                                                         \
    }
SHAPES(GELU_FORWARD)

KERNEL_OF(4)
linear_wide_forward(const bf16 *x, const bf16 *w, const bf16 *bias, float *y, int m, int n, int k) {
    forward<Small>(x, w, m, n, k, PutWide{y, bias, n});
}

// dx [m, n] = dy [m, k] W [k, n]; rows of dy are `stride` apart, and zero from k on.
#define DX(NAME, SHAPE, BLOCKS)                                                                                        \
    KERNEL_OF(BLOCKS)                                                                                                  \
    linear_dx_##NAME(const bf16 *dy, const bf16 *w, bf16 *dx, float *partials, int m, int n, int k, int stride) {      \
        const GemmPlace<SHAPE> place(k);                                                                               \
        GemmSums<SHAPE> sums;                                                                                          \
        multiply<SHAPE, false, true, false>(sums, place, {dy, m, stride}, {w, k, n});                                  \
        finish(sums, place, partials, m, n, PutNarrow<8>{dx, nullptr, nullptr, n});                                    \
    }
SHAPES(DX)

// Row sums lie in the first lane of every four. Partial ones are stored behind those of the product.
template <typename Shape>
__device__ inline void put_bias(const GemmSums<Shape> &sums, const GemmPlace<Shape> &place, float *db, float *partials,
                                int m, int n) {
    float *part = partials + static_cast<size_t>(gridDim.z) * m * n + static_cast<size_t>(blockIdx.z) * m;
#pragma unroll
    for (int i = 0; i < Shape::WARP_M / 8; i++) {
        const int row = place.row + i * 8 + threadIdx.x % 32 / 4;
        const float sum = sums.rows[i / 2][i % 2 * 2];
        if (row < m && gridDim.z == 1) {
            db[row] += sum;
        } else if (row < m) {
            part[row] = sum;
        }
    }
}

// dW [m, n] += dy^T x of dy [k, m], rows `stride` apart, and x [k, n].
template <typename Shape>
__device__ inline void weight_gradient(const Matrix &dy, const Matrix &x, float *dw, float *db, float *partials, int m,
                                       int n, int k) {
    const GemmPlace<Shape> place(k);
    GemmSums<Shape> sums;
    const bool owns_bias = db != nullptr && blockIdx.y == 0;
    if (owns_bias) {
        multiply<Shape, true, true, true>(sums, place, dy, x);
    } else {
        multiply<Shape, true, true, false>(sums, place, dy, x);
    }
    finish(sums, place, partials, m, n, AddWide{dw, n});
    if (owns_bias && place.warp_column == 0 && threadIdx.x % 4 == 0) {
        put_bias(sums, place, db, partials, m, n);
    }
}

#define DW(NAME, SHAPE, BLOCKS)                                                                                        \
    KERNEL_OF(BLOCKS)                                                                                                  \
    linear_dw_##NAME(const bf16 *dy, const bf16 *x, float *dw, float *db, float *partials, int m, int n, int k,        \
                     int stride) {                                                                                     \
        weight_gradient<SHAPE>({dy, k, stride}, {x, k, n}, dw, db, partials, m, n, k);                                 \
    }
SHAPES(DW)

// Adds up the splits of Out::COUNT neighbours of [m, n], the piece-th. m n is less than 2^31.
template <typename Out>
__device__ inline void sum_splits(int piece, const float *partials, int splits, int m, int n, const Out &out) {
    const int pieces = (n + Out::COUNT - 1) / Out::COUNT; // of a row
    const int row = piece / pieces;
    const int column = piece % pieces * Out::COUNT;
    if (row >= m) {
        return;
    }
    float values[Out::COUNT] = {};
    for (int split = 0; split < splits; split++) {
        add_values(values, partials + partial_at(split, row, column, m, n));
    }
    out(row, column, values);
}

// A thread takes 4 neighbours: with 8, two loads of 16 bytes would leave gaps between those of a warp.
extern "C" __global__ void linear_dx_sum(const float *partials, bf16 *dx, int splits, int m, int n) {
    sum_splits(blockIdx.x * blockDim.x + threadIdx.x, partials, splits, m, n, PutNarrow<4>{dx, nullptr, nullptr, n});
}

// The threads behind those of dW take a row's db each.
extern "C" __global__ void linear_dw_sum(const float *partials, float *dw, float *db, int splits, int m, int n) {
    const int piece = blockIdx.x * blockDim.x + threadIdx.x;
    sum_splits(piece, partials, splits, m, n, AddWide{dw, n});
    const int row = piece - m * (n / AddWide::COUNT);
    if (db == nullptr || row < 0 || row >= m) {
        return;
    }
    const float *part = partials + static_cast<size_t>(splits) * m * n + row;
    float sum = 0.0f;
    for (int split = 0; split < splits; split++) {
        sum += part[static_cast<size_t>(split) * m];
    }
    db[row] += sum;
}

constexpr int PAD_ROWS = 8; // whole packs of 16 bytes, whatever their length

// Rows of `columns` values, which cp.async cannot fetch, as rows of `stride` values, an even number, with zeros at
// their ends. A block takes PAD_ROWS rows through shared memory (2 PAD_ROWS columns bytes), so that it reads packs.
extern "C" __global__ void linear_pad(const bf16 *dy, bf16 *padded, int rows, int columns, int stride) {
    extern __shared__ __align__(128) bf16 pad_rows[];
    const int row0 = blockIdx.x * PAD_ROWS;
    const int here = min(PAD_ROWS, rows - row0);
    const bf16 *from = dy + static_cast<size_t>(row0) * columns;
    const int whole = here * columns / 8 * 8;
    for (int i = threadIdx.x * 8; i < whole; i += blockDim.x * 8) {
        store_pack(pad_rows + i, load_pack(from + i));
    }
    for (int i = whole + threadIdx.x; i < here * columns; i += blockDim.x) {
        pad_rows[i] = from[i];
    }
    __syncthreads();
    bf16 *to = padded + static_cast<size_t>(row0) * stride;
    for (int i = threadIdx.x * 2; i < here * stride; i += blockDim.x * 2) {
        const int column = i % stride;
        const bf16 *first = pad_rows + i / stride * columns + column;
        const float low = column < columns ? to_float(first[0]) : 0.0f;
        const float high = column + 1 < columns ? to_float(first[1]) : 0.0f;
        *reinterpret_cast<uint32_t *>(to + i) = pack_bf16(low, high);
    }
}
