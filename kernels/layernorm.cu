// y = weight * (s - mean) * rstd + bias by rows, s = x + dropout(branch), rstd = 1 / sqrt(variance + eps).
//
// A warp owns a row and holds it in registers: lane l has the row's packs of 8 number l, l + 32, ... `dim`: a multiple
// of 8, at most 256 PACKS; the names say the largest.
//
// Forward reads x and branch (if there is one) and writes y and, for backward, s (bf16; null without a branch or a
// tape: then x is s) and mean and rstd (f32). The variance is a second pass over the registers, so that nothing
// cancels. Statistics and y are of the f32 sum, before s is rounded.
// Launch: FORWARD_WARPS rows a block.
//
// Backward reads dy, s and the statistics and writes dx and, where dropout is on, dbranch = dx * mask (else null: it is
// dx). With h = (s - mean) rstd recomputed and g = dy weight: dx = rstd (g - mean g - h mean(g h)). Both are assigned.
// A warp takes the rows warp, warp + warps of the grid, ... and sums dy h and dy of its columns in registers, the block
// adds up its warps' sums in shared memory and writes them to its row of `partials` [2, blocks, dim] (f32), which
// `layernorm_parameters` accumulates into dweight and dbias in order. So their bits depend on the number of blocks: a
// function of the rows and of the GPU's multiprocessors. At least 16 rows a block keep the partials below a tenth of
// what is read and written.
// Launch: any number of blocks of BACKWARD_WARPS warps; parameters: one block for 32 columns, grid.y = 2.
#include "columns.cuh"

constexpr int COUNT = Pack<bf16>::COUNT;
constexpr int FORWARD_WARPS = 4;
constexpr int BACKWARD_WARPS = 8;

template <int PACKS> struct Row {
    float values[PACKS][COUNT];
};

// s of this lane, 0 behind the row's end. `at` is the element of the row's first column.
template <int PACKS>
__device__ inline void load_sum(Row<PACKS> &s, const bf16 *x, const bf16 *branch, size_t at, int dim, int lane,
                                const Dropout &drop) {
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * 32 + lane) * COUNT;
        const bool inside = column < dim;
        const Pack<bf16> pack = inside ? load_pack(x + at + column) : Pack<bf16>{};
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            s.values[p][i] = to_float(pack.values[i]);
        }
        if (branch != nullptr && inside) {
            const Pack<bf16> more = load_pack(branch + at + column);
            float factors[COUNT];
            dropout_factors(drop, at + column, factors);
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                s.values[p][i] += to_float(more.values[i]) * factors[i];
            }
        }
    }
}

template <int PACKS> __device__ inline float mean_of(const Row<PACKS> &s, int dim) {
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            sum += s.values[p][i];
        }
    }
    return warp_sum(sum) / dim;
}

template <int PACKS> __device__ inline float variance_of(const Row<PACKS> &s, float mean, int dim, int lane) {
    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        if ((p * 32 + lane) * COUNT < dim) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const float distance = s.values[p][i] - mean;
                squares = fmaf(distance, distance, squares);
            }
        }
    }
    return warp_sum(squares) / dim;
}

template <int PACKS>
__device__ inline void forward(const bf16 *__restrict__ x, const bf16 *__restrict__ branch,
                               const bf16 *__restrict__ weight, const bf16 *__restrict__ bias, bf16 *__restrict__ y,
                               bf16 *__restrict__ saved, float2 *__restrict__ stats, int rows, int dim, float eps,
                               const Dropout &drop) {
    const int lane = threadIdx.x % 32;
    const int row = blockIdx.x * FORWARD_WARPS + threadIdx.x / 32;
    if (row >= rows) {
        return; // the whole warp, and there is no barrier
    }
    const size_t at = static_cast<size_t>(row) * dim;
    Row<PACKS> s;
    load_sum(s, x, branch, at, dim, lane, drop);
    const float mean = mean_of(s, dim);
    const float rstd = rsqrtf(variance_of(s, mean, dim, lane) + eps);
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * 32 + lane) * COUNT;
        if (column >= dim) {
            break;
        }
        const Pack<bf16> scale = load_pack(weight + column);
        const Pack<bf16> shift = load_pack(bias + column);
        Pack<bf16> sum, out;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            sum.values[i] = from_float<bf16>(s.values[p][i]);
            const float normal = (s.values[p][i] - mean) * rstd;
            out.values[i] = from_float<bf16>(fmaf(normal, to_float(scale.values[i]), to_float(shift.values[i])));
        }
        store_pack(y + at + column, out);
        if (saved != nullptr) {
            store_pack(saved + at + column, sum);
        }
    }
    if (lane == 0) {
        stats[row] = make_float2(mean, rstd);
    }
}

// The packs of a row that this lane holds, zeros behind its end.
template <int PACKS>
__device__ inline void load_row(Pack<bf16> (&packs)[PACKS], const bf16 *from, int dim, int lane) {
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * 32 + lane) * COUNT;
        packs[p] = column < dim ? load_pack(from + column) : Pack<bf16>{};
    }
}

// dx and dbranch of a row.
template <int PACKS>
__device__ inline void store_gradients(const Pack<bf16> (&dy)[PACKS], const Pack<bf16> (&s)[PACKS],
                                       const Pack<bf16> (&weight)[PACKS], float2 stat, float mean, float slope,
                                       bf16 *dx, bf16 *dbranch, size_t at, int dim, int lane, const Dropout &drop) {
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * 32 + lane) * COUNT;
        if (column >= dim) {
            break;
        }
        float gradient[COUNT];
        Pack<bf16> out;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const float h = (to_float(s[p].values[i]) - stat.x) * stat.y;
            const float g = to_float(dy[p].values[i]) * to_float(weight[p].values[i]);
            gradient[i] = stat.y * (g - mean - h * slope);
            out.values[i] = from_float<bf16>(gradient[i]);
        }
        store_pack(dx + at + column, out);
        if (dbranch != nullptr) {
            float factors[COUNT];
            dropout_factors(drop, at + column, factors);
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                out.values[i] = from_float<bf16>(gradient[i] * factors[i]);
            }
            store_pack(dbranch + at + column, out);
        }
    }
}

// This warp's rows; dweight and dbias are its sums.
template <int PACKS>
__device__ inline void row_gradients(const bf16 *dy, const bf16 *saved, const float2 *stats, const bf16 *weight,
                                     bf16 *dx, bf16 *dbranch, Row<PACKS> &dweight, Row<PACKS> &dbias, int rows,
                                     int dim, const Dropout &drop) {
    const int lane = threadIdx.x % 32;
    Pack<bf16> w[PACKS];
    load_row(w, weight, dim, lane);
    for (int row = blockIdx.x * BACKWARD_WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * BACKWARD_WARPS) {
        const size_t at = static_cast<size_t>(row) * dim;
        Pack<bf16> d[PACKS], s[PACKS];
        load_row(d, dy + at, dim, lane);
        load_row(s, saved + at, dim, lane);
        const float2 stat = stats[row];
        float sum = 0.0f, products = 0.0f; // of g and g h
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const float gradient = to_float(d[p].values[i]);
                const float h = (to_float(s[p].values[i]) - stat.x) * stat.y;
                const float g = gradient * to_float(w[p].values[i]);
                dweight.values[p][i] = fmaf(gradient, h, dweight.values[p][i]);
                dbias.values[p][i] += gradient;
                sum += g;
                products = fmaf(g, h, products);
            }
        }
        const float mean = warp_sum(sum) / dim;
        const float slope = warp_sum(products) / dim;
        store_gradients(d, s, w, stat, mean, slope, dx, dbranch, at, dim, lane, drop);
    }
}

template <int PACKS>
__device__ inline void backward(const bf16 *__restrict__ dy, const bf16 *__restrict__ saved,
                                const float2 *__restrict__ stats, const bf16 *__restrict__ weight,
                                bf16 *__restrict__ dx, bf16 *__restrict__ dbranch, float *__restrict__ partials,
                                int rows, int dim, const Dropout &drop) {
    Row<PACKS> dweight = {}, dbias = {};
    row_gradients(dy, saved, stats, weight, dx, dbranch, dweight, dbias, rows, dim, drop);
    __shared__ ColumnTile<BACKWARD_WARPS> weights, biases;
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    float *to_weight = partials + static_cast<size_t>(blockIdx.x) * dim;
    float *to_bias = to_weight + static_cast<size_t>(gridDim.x) * dim;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        if (p > 0) {
            __syncthreads(); // all have read the tiles of the packs before
        }
        weights.put(warp, lane, dweight.values[p]);
        biases.put(warp, lane, dbias.values[p]);
        __syncthreads();
        const int column = p * CHUNK + threadIdx.x;
        if (column < dim) {
            to_weight[column] = weights.sum(BACKWARD_WARPS, threadIdx.x);
            to_bias[column] = biases.sum(BACKWARD_WARPS, threadIdx.x);
        }
    }
}

extern "C" __global__ void __launch_bounds__(PART_WARPS * 32)
    layernorm_parameters(const float *__restrict__ partials, int parts, int dim, float *__restrict__ dweight,
                         float *__restrict__ dbias) {
    const size_t size = static_cast<size_t>(parts) * dim;
    add_parts(partials + blockIdx.y * size, parts, dim, blockIdx.y == 0 ? dweight : dbias);
}

#define LAYERNORM(NAME, PACKS)                                                                                         \
    extern "C" __global__ void __launch_bounds__(FORWARD_WARPS * 32) layernorm_forward_##NAME(                         \
        const bf16 *x, const bf16 *branch, const bf16 *weight, const bf16 *bias, bf16 *y, bf16 *saved, float2 *stats,  \
        int rows, int dim, float eps, Dropout drop) {                                                                  \
        forward<PACKS>(x, branch, weight, bias, y, saved, stats, rows, dim, eps, drop);                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BACKWARD_WARPS * 32) layernorm_backward_##NAME(                       \
        const bf16 *dy, const bf16 *saved, const float2 *stats, const bf16 *weight, bf16 *dx, bf16 *dbranch,           \
        float *partials, int rows, int dim, Dropout drop) {                                                            \
        backward<PACKS>(dy, saved, stats, weight, dx, dbranch, partials, rows, dim, drop);                             \
    }

LAYERNORM(256, 1)
LAYERNORM(512, 2)
LAYERNORM(768, 3)
LAYERNORM(1024, 4)
