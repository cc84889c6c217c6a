// Attention along the lines of many n x n tables, n <= 64, along one axis or both in one launch, forward and backward:
// a line's whole softmax lies in registers, so nothing is saved for the backward pass. (Longer lines: attention.cu.)
//
//   S = scale * Q * transpose(K) + bias of the last key,  P = softmax(S),  out = P * V;
//   dV = transpose(P) * dout,  dP = dout * transpose(V),  dS = scale * P o (dP - row sums of P o dP),
//   dQ = dS * K,  dK = transpose(dS) * Q.
//
// qkv, dqkv: [cells, axes, 3, heads, HEAD]; out, dout of each axis: [cells, heads, HEAD]. lines: the tables' columns or
// rows, or the ones and then the others, as sequences base + i * stride, so a cell's HEAD values are one run of 64 to
// 256 bytes on either axis; `count` of them an axis. The last key of a table with a pad index stands for several equal
// keys: the log of how many is its bias.
// A unit is (line, head), heads of a line one after the other. Lines are sorted by the host into those of at most
// 16, 32 and 64 cells (LONGEST): a block of 128 threads takes 4, 2 or 1 units, 64 rows of shared memory and a warp
// for every 16 of them. Grid: (units of an axis / (64 / LONGEST), rounded up; 1; axes). Shared memory, in values:
//   forward 192 HEAD; backward 256 HEAD + 128 LONGEST.
//
// Of each axis forward reads 3 N d and writes N d values; backward reads 4 N d (qkv, dout) and writes 3 N d, nothing
// twice but for the 16 bytes that say to each thread which line it has. All results are assigned. A line and head has
// one owner, a warp all sums of its 16 rows; warps meet in P and dS in shared memory, which dV and dK sum in the order
// of the queries. Backward recomputes P. Counted on softgpu (tests/ops/axial.rs holds them to it) for tables of 19, 20
// and 42, 8 heads of 96, along either axis and both: bytes are those above, all sectors full, no bank conflicts. No
// exceptions.
#include "attention.cuh"

constexpr int ROWS = 64; // of shared memory, and of the block's warps together
constexpr int THREADS = 128;

// The part of a block that has one unit: LONGEST / 16 warps.
template <int HEAD, int LONGEST> struct Unit {
    static constexpr int MEMBERS = 2 * LONGEST; // threads
    static constexpr int TILES = LONGEST / 8;   // of eight keys

    Sequence line;
    int head, heads;
    int member;   // this thread's number
    int warp_row; // the first of its warp's 16 rows

    // Behind the last unit: no cells.
    __device__ Unit(const Sequence *lines, int count, int heads) : heads(heads) {
        const int number = blockIdx.x * (ROWS / LONGEST) + threadIdx.x / MEMBERS;
        lines += blockIdx.z * count; // the axis's own
        line = number < count * heads ? lines[number / heads] : Sequence{0, 0, 0, 0.0f};
        head = number % heads;
        member = threadIdx.x % MEMBERS;
        warp_row = member / 32 * 16;
    }
    // Where the unit's rows of a tile of 64 begin.
    __device__ bf16 *own(bf16 *tile) const { return tile + threadIdx.x / MEMBERS * LONGEST * HEAD; }

    // Of qkv or its gradient: queries (0), keys (1) or values (2).
    template <typename T> __device__ HeadRows<T> part(T *qkv, int part) const {
        return qkv_rows<HEAD>(qkv, line, heads, head, part);
    }
    // Of out or its gradient.
    template <typename T> __device__ HeadRows<T> rows(OfAxis<T> out) const {
        return head_rows(out.own(), line, heads * HEAD, head * HEAD);
    }
    __device__ void load(bf16 *tile, HeadRows<const bf16> from) const {
        load_rows<HEAD, LONGEST, MEMBERS>(tile, from, 0, line.len, member);
    }
    // The warp's rows of a result, by way of the same rows of a tile that no other warp uses any more.
    __device__ void store(HeadRows<bf16> to, const float (&c)[HEAD / 8][4], float scale, bf16 *tile) const {
        store_rows<HEAD>(to, warp_row, line.len, c, scale, scale, tile, warp_row);
    }
};

// Scores become probabilities.
template <int TILES> __device__ inline void softmax(float (&scores)[TILES][4], float scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        }
        const float offset = row_max(largest) * scale;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = exp2_fast(scores[n][i] * scale - offset);
                sum += scores[n][i];
            }
        }
        const float inverse = 1.0f / row_sum(sum);
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            scores[n][2 * half] *= inverse;
            scores[n][2 * half + 1] *= inverse;
        }
    }
}

// The warp's 16 rows of P.
template <int HEAD, int LONGEST>
__device__ inline void probabilities(float (&p)[LONGEST / 8][4], const Unit<HEAD, LONGEST> &unit, const bf16 *queries,
                                     const bf16 *keys, float scale) {
    multiply_rows<HEAD>(p, queries, unit.warp_row, keys);
    mask_keys(p, 0, unit.line.len, unit.line.last_key_bias / scale);
    softmax(p, scale * LOG2_E);
}

template <int HEAD, int LONGEST>
__device__ inline void forward(const bf16 *qkv, const Sequence *lines, OfAxis<bf16> out, int count, int heads,
                               float scale) {
    extern __shared__ __align__(128) bf16 shared[];
    const Unit<HEAD, LONGEST> unit(lines, count, heads);
    bf16 *queries = unit.own(shared), *keys = queries + ROWS * HEAD, *values = keys + ROWS * HEAD;
    unit.load(queries, unit.part(qkv, 0));
    unit.load(keys, unit.part(qkv, 1));
    unit.load(values, unit.part(qkv, 2));
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    if (unit.warp_row >= unit.line.len) {
        return; // the whole warp, and no barrier follows
    }
    float p[LONGEST / 8][4], sums[HEAD / 8][4] = {};
    probabilities(p, unit, queries, keys, scale);
    multiply_columns<HEAD>(sums, p, values);
    unit.store(unit.rows(out), sums, 1.0f, queries);
}

// sums = transpose(weights) * tile, for the warp's 16 of the keys; weights: [queries, keys] in shared memory.
template <int HEAD, int LONGEST>
__device__ inline void multiply_transposed(float (&sums)[HEAD / 8][4], const bf16 *weights, int key, const bf16 *tile) {
    const int lane = threadIdx.x % 32;
    clear(sums);
#pragma unroll
    for (int k = 0; k < LONGEST / 16; k++) {
        uint32_t a[4];
        load_matrix_x4_trans(a, weights + swizzle<LONGEST>(k * 16 + lane / 16 * 8 + lane % 8, key / 8 + lane / 8 % 2));
        multiply_columns<HEAD>(sums, a, tile, k);
    }
}

template <int HEAD, int LONGEST>
__device__ inline void backward(const bf16 *qkv, OfAxis<const bf16> dout, const Sequence *lines, bf16 *dqkv, int count,
                                int heads, float scale) {
    constexpr int TILES = LONGEST / 8;
    extern __shared__ __align__(128) bf16 shared[];
    const Unit<HEAD, LONGEST> unit(lines, count, heads);
    bf16 *queries = unit.own(shared), *keys = queries + ROWS * HEAD, *values = keys + ROWS * HEAD;
    bf16 *douts = values + ROWS * HEAD;
    // P and dS, [queries, keys] of the unit.
    bf16 *p_tile = shared + 4 * ROWS * HEAD + threadIdx.x / unit.MEMBERS * LONGEST * LONGEST;
    bf16 *ds_tile = p_tile + ROWS * LONGEST;
    unit.load(queries, unit.part(qkv, 0));
    unit.load(keys, unit.part(qkv, 1));
    unit.load(values, unit.part(qkv, 2));
    unit.load(douts, unit.rows(dout));
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    float sums[HEAD / 8][4] = {};
    {
        float p[TILES][4], ds[TILES][4];
        probabilities(p, unit, queries, keys, scale);
        multiply_rows<HEAD>(ds, douts, unit.warp_row, values);
        float products[2] = {};
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            for (int i = 0; i < 4; i++) {
                products[i / 2] += p[n][i] * ds[n][i];
            }
        }
        products[0] = row_sum(products[0]);
        products[1] = row_sum(products[1]);
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            for (int i = 0; i < 4; i++) {
                ds[n][i] = p[n][i] * (ds[n][i] - products[i / 2]);
            }
        }
        put_fragments<LONGEST>(p_tile, unit.warp_row, p, 1.0f, 1.0f);
        put_fragments<LONGEST>(ds_tile, unit.warp_row, ds, 1.0f, 1.0f);
        multiply_columns<HEAD>(sums, ds, keys);
    }
    __syncthreads(); // P and dS are there; K and V have been used
    if (unit.warp_row >= unit.line.len) {
        return; // the whole warp, and no barrier of the block follows
    }
    unit.store(unit.part(dqkv, 0), sums, scale, keys);
    multiply_transposed<HEAD, LONGEST>(sums, ds_tile, unit.warp_row, queries);
    unit.store(unit.part(dqkv, 1), sums, scale, keys);
    multiply_transposed<HEAD, LONGEST>(sums, p_tile, unit.warp_row, douts);
    unit.store(unit.part(dqkv, 2), sums, 1.0f, keys);
}

#define FOR_LINES(HEAD, LONGEST)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        axial_forward_##HEAD##_##LONGEST(const bf16 *qkv, const Sequence *lines, OfAxis<bf16> out, int count,          \
                                         int heads, float scale) {                                                     \
        forward<HEAD, LONGEST>(qkv, lines, out, count, heads, scale);                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        axial_backward_##HEAD##_##LONGEST(const bf16 *qkv, OfAxis<const bf16> dout, const Sequence *lines, bf16 *dqkv, \
                                          int count, int heads, float scale) {                                         \
        backward<HEAD, LONGEST>(qkv, dout, lines, dqkv, count, heads, scale);                                          \
    }

#define FOR_HEAD_SIZE(HEAD) FOR_LINES(HEAD, 16) FOR_LINES(HEAD, 32) FOR_LINES(HEAD, 64)

FOR_HEAD_SIZE(32)
FOR_HEAD_SIZE(48)
FOR_HEAD_SIZE(64)
FOR_HEAD_SIZE(96)
FOR_HEAD_SIZE(128)
