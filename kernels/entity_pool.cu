// One row an entity from the rows of its mentions, elementwise:
//
//   y[e] = log of the sum of exp(h[m]) over the mentions m of e;  dh[t] = sum of dy[e] exp(h[t] - y[e]) over the uses.
//
// h, dh: [tokens, dim]; y, dy: [entities, dim]. The mentions of entity e are mentions[starts[e]..starts[e + 1]], rows
// of h; the uses of row t are uses[use_starts[t]..use_starts[t + 1]], entities; what is listed twice counts twice. One
// mention gives its own row exactly, none gives zeros.
// Forward reads each mention's row once and writes y. Backward reads, for each use, dy and the rows of all mentions of
// that entity, and writes dh, zeros where no entity has a mention. A thread owns eight columns of a row of the result;
// the sums are in its registers, in the order of the lists. Backward recomputes y: exp(h - y) with y rounded to bf16
// would be wrong by half a unit of y, 1.6 % where y is between 4 and 8.
// Launch: a thread for each of rows x dim / 8, 256 in a block.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int COLUMNS = 8; // of a thread: 16 bytes

// Running logarithms of sums of exponentials, of one value to begin with: exactly that value.
struct LogSumExp {
    float top[COLUMNS], sum[COLUMNS];

    __device__ explicit LogSumExp(const Pack<bf16> &x) {
        for (int j = 0; j < COLUMNS; j++) {
            top[j] = to_float(x.values[j]);
            sum[j] = 1.0f;
        }
    }
    __device__ void add(const Pack<bf16> &x) {
        for (int j = 0; j < COLUMNS; j++) {
            const float value = to_float(x.values[j]);
            const float larger = fmaxf(top[j], value);
            sum[j] = sum[j] * exp2_fast((top[j] - larger) * LOG2_E) + exp2_fast((value - larger) * LOG2_E);
            top[j] = larger;
        }
    }
    __device__ float value(int j) const { return top[j] + logf(sum[j]); }
    // The share of x, one of the values, in the sum.
    __device__ float share(int j, bf16 x) const { return exp2_fast((to_float(x) - top[j]) * LOG2_E) / sum[j]; }
};

// The mentions of an entity, at least one.
__device__ inline LogSumExp pool(const bf16 *h, const int *mentions, int count, int dim, int column) {
    const auto row = [&](int i) { return load_pack(h + static_cast<size_t>(mentions[i]) * dim + column); };
    LogSumExp sums(row(0));
    for (int i = 1; i < count; i++) {
        sums.add(row(i));
    }
    return sums;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    entity_pool_forward(const bf16 *h, const int *starts, const int *mentions, bf16 *y, int entities, int dim) {
    const size_t at = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int entity = at / (dim / COLUMNS);
    const int column = at % (dim / COLUMNS) * COLUMNS;
    if (entity >= entities) {
        return;
    }
    const int first = starts[entity], count = starts[entity + 1] - first;
    Pack<bf16> out = {};
    if (count > 0) {
        const LogSumExp sums = pool(h, mentions + first, count, dim, column);
        for (int j = 0; j < COLUMNS; j++) {
            out.values[j] = from_float<bf16>(sums.value(j));
        }
    }
    store_pack(y + static_cast<size_t>(entity) * dim + column, out);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    entity_pool_backward(const bf16 *dy, const bf16 *h, const int *starts, const int *mentions, const int *use_starts,
                         const int *uses, bf16 *dh, int tokens, int dim) {
    const size_t at = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int token = at / (dim / COLUMNS);
    const int column = at % (dim / COLUMNS) * COLUMNS;
    if (token >= tokens) {
        return;
    }
    const size_t own = static_cast<size_t>(token) * dim + column;
    float sums[COLUMNS] = {};
    for (int use = use_starts[token]; use < use_starts[token + 1]; use++) {
        const int entity = uses[use], first = starts[entity];
        const LogSumExp pooled = pool(h, mentions + first, starts[entity + 1] - first, dim, column);
        const Pack<bf16> x = load_pack(h + own), gradient = load_pack(dy + static_cast<size_t>(entity) * dim + column);
        for (int j = 0; j < COLUMNS; j++) {
            sums[j] += to_float(gradient.values[j]) * pooled.share(j, x.values[j]);
        }
    }
    Pack<bf16> out;
    for (int j = 0; j < COLUMNS; j++) {
        out.values[j] = from_float<bf16>(sums[j]);
    }
    store_pack(dh + own, out);
}
