// Softmax attention within each of many sequences of packed rows, forward and backward; no table of L x L exists.
//
//   S = scale * Q * transpose(K) (+ a bias of the last key),  P = softmax(S),  M = dropout factors: 0 or 1 / (1 - p),
//   out = (P o M) * V,  lse = log(row sums of exp(S));
//   dV = transpose(P o M) * dout,  dP = M o (dout * transpose(V)),  D = row sums of dout o out = row sums of P o dP,
//   dS = scale * P o (dP - D),  dQ = dS * K,  dK = transpose(dS) * Q.
//
// qkv, dqkv: [rows, axes, 3, heads, HEAD]; of each axis out, dout: [rows, heads, HEAD] and lse: [rows, heads] in units
// of the natural logarithm; `row_terms`, scratch between the two backward kernels: [axes, heads, tiles, 2, 64], lse
// over ln 2 and D. A sequence is rows base + i * stride (kernels/attention.cuh), so lines of a table work as well as
// documents; tiles: those of one axis, then those of the other. One block a (tile of 64 rows, head, axis): grid (tiles
// of an axis, heads, axes), one axis in the encoder; 128 threads, a warp 16 of the 64 rows. The other side's rows come
// through two stages of shared memory, STEP at a time. Shared memory, in values of bf16:
//   forward (64 + 4 STEP) HEAD; backward (128 + 4 STEP) HEAD, keys + 8 STEP for the row terms.
//
// Reads, with t = ceil(len / 64) tiles: forward the tile's Q, and K, V of its sequence: (1 + 2t) N d values;
// backward queries: Q, out, dout, lse and t times K, V; backward keys: K, V and t times Q, dout, row terms. Each thread
// reads the 32 bytes of its block's tile.
// Writes, all assigned: out and lse; dQ and the row terms; dK and dV. Each value has one owner: a warp has all of a
// row's sums, in the order of the keys (or queries), so nothing is added across warps or blocks. Backward recomputes P
// from lse and M from the counter of dropout. Two kernels instead of one: 7 products instead of 5, but no atomics and
// no gradient in f32.
// Counted on softgpu (tests/ops/attention.rs holds them to it) for documents of 290 and 131 rows, 12 heads of 64: bytes
// are those above, no bank conflicts, full sectors but for lse: a block has one head, and who reads lse (backward and
// attention_rows) wants [rows, heads], so 4 bytes of a sector are used there. Of forward's stores, 128 + 4 bytes of
// 128 + 32 a row, that leaves 82 %; of the loads of backward queries lse's sectors are 2 %. Drawing dropout masks is
// about half of the PTX instructions of training.
#include "attention.cuh"

constexpr int TILE = 64; // rows that a block owns
constexpr int THREADS = 128;
constexpr int KEYS_PER_ROW = 512; // in the numbering of dropout elements (DROPOUT_STRIDE of the CPU)

// Rows of the other side at a time. Fewer where heads are large: their sums take the registers (with 64, heads of 64
// take 236 in backward, two blocks an SM; with 32, 168 and three).
template <int HEAD> constexpr int STEP = HEAD < 64 ? 64 : 32;
template <int HEAD> constexpr int STEP_VALUES = STEP<HEAD> * HEAD;

// A block's work: rows `first` to `first` + 63 of a sequence. Tiles of a sequence follow each other.
struct Tile {
    Sequence sequence;
    int first;
    int unused[3];
};

struct Attention {
    const Tile *tiles;
    int heads;
    float scale;
    Dropout drop;
};

// What a block and this thread's warp of it own: rows of one head of one sequence.
template <int HEAD> struct Block {
    Sequence sequence;
    int first;    // row of the block
    int warp_row; // and, counted from there, of the warp
    int row;      // g of this thread, in the sequence; it has row + 8 as well
    int head, heads;

    __device__ explicit Block(const Attention &of) {
        const Tile tile = of.tiles[blockIdx.z * gridDim.x + blockIdx.x];
        sequence = tile.sequence;
        first = tile.first;
        warp_row = threadIdx.x / 32 * 16;
        row = first + warp_row + threadIdx.x % 32 / 4;
        head = blockIdx.y;
        heads = of.heads;
    }
    __device__ int steps() const { return (sequence.len + STEP<HEAD> - 1) / STEP<HEAD>; }

    // Of qkv or its gradient: queries (0), keys (1) or values (2).
    template <typename T> __device__ HeadRows<T> part(T *qkv, int part) const {
        return qkv_rows<HEAD>(qkv, sequence, heads, head, part);
    }
    // Of out or its gradient.
    template <typename T> __device__ HeadRows<T> rows(OfAxis<T> out) const {
        return head_rows(out.own(), sequence, heads * HEAD, head * HEAD);
    }
    // Where the row terms of the axis's first tile are.
    template <typename T> __device__ T *terms(T *row_terms) const {
        return row_terms + (static_cast<size_t>(blockIdx.z) * heads + head) * gridDim.x * 2 * TILE;
    }
    __device__ void load_owned(bf16 *to, HeadRows<const bf16> from) const {
        load_rows<HEAD, TILE, THREADS>(to, from, first, sequence.len, threadIdx.x);
    }
    // Of the other side: a step's rows of two tensors, one behind the other.
    __device__ void load_step(bf16 *to, HeadRows<const bf16> from, HeadRows<const bf16> also_from, int step) const {
        load_rows<HEAD, STEP<HEAD>, THREADS>(to, from, step * STEP<HEAD>, sequence.len, threadIdx.x);
        load_rows<HEAD, STEP<HEAD>, THREADS>(to + STEP_VALUES<HEAD>, also_from, step * STEP<HEAD>, sequence.len,
                                             threadIdx.x);
    }
    // The warp's rows, times a factor for g and one for g + 8, by way of a tile whose rows of the warp are not needed
    // any more.
    __device__ void store(HeadRows<bf16> to, const float (&c)[HEAD / 8][4], float factor, float factor_8,
                          bf16 *tile) const {
        store_rows<HEAD>(to, first + warp_row, sequence.len, c, factor, factor_8, tile, warp_row);
    }
};

// The group of four dropout elements that key 0 of a row is the first of.
__device__ inline uint64_t first_group(int row, int heads, int head) {
    return (static_cast<uint64_t>(row) * heads + head) * (KEYS_PER_ROW / 4);
}

// Four words make four neighbouring keys of one row, which lie in several lanes: so each lane draws for one (row, four
// keys) of the eight columns at hand and all learn from votes. Bit i of the result: element i of the fragment stays.
struct Votes {
    uint32_t kept[4]; // of the four keys; a bit a lane

    __device__ Votes(const Dropout &drop, uint64_t group) {
        const uint4 words = dropout_words(drop, group);
        kept[0] = __ballot_sync(ALL_LANES, words.x >= drop.threshold);
        kept[1] = __ballot_sync(ALL_LANES, words.y >= drop.threshold);
        kept[2] = __ballot_sync(ALL_LANES, words.z >= drop.threshold);
        kept[3] = __ballot_sync(ALL_LANES, words.w >= drop.threshold);
    }
};

// Rows are queries: even lanes draw for row g, odd ones for row g + 8, keys 0-3 or 4-7 as their own columns are.
// `group`: of the lane's drawing row and the first of the eight keys.
__device__ inline uint32_t kept_by_query(const Dropout &drop, uint64_t group) {
    const int lane = threadIdx.x % 32;
    const Votes votes(drop, group + lane % 4 / 2);
    const uint32_t left = (lane % 2 == 0 ? votes.kept[0] : votes.kept[2]) >> (lane & ~1);
    const uint32_t right = (lane % 2 == 0 ? votes.kept[1] : votes.kept[3]) >> (lane & ~1);
    return (left & 1) | (right & 1) << 1 | (left & 2) << 1 | (right & 2) << 2;
}

// Rows are keys: of four lanes with the same columns and g / 4, lane j draws for query 2t + j % 2 and, where j >= 2,
// for the keys 8 further down. `group`: of the lane's drawing query and the first of its four keys.
__device__ inline uint32_t kept_by_key(const Dropout &drop, uint64_t group) {
    const int lane = threadIdx.x % 32;
    const Votes votes(drop, group);
    const int key = lane / 4 % 4;
    const uint32_t low = key % 2 == 0 ? votes.kept[0] : votes.kept[1];
    const uint32_t high = key % 2 == 0 ? votes.kept[2] : votes.kept[3];
    const uint32_t bits = (key < 2 ? low : high) >> (lane & 19); // lane j = 0 of the four
    return (bits & 1) | (bits >> 3 & 2) | (bits >> 6 & 4) | (bits >> 9 & 8);
}

// What a thread knows of its rows g (0) and g + 8 (1): the largest score so far, and its own columns' sum of
// exp(scale * (score - largest)).
struct Softmax {
    float largest[2];
    float sum[2];
};

// Scores become weights relative to the largest; what was summed with a smaller one is scaled down.
template <int HEAD, int TILES>
__device__ inline void update_softmax(Softmax &state, float (&scores)[TILES][4], float (&sums)[HEAD / 8][4],
                                      float scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = state.largest[half];
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        }
        largest = row_max(largest);
        const float shrink = exp2_fast((state.largest[half] - largest) * scale);
        const float offset = largest * scale;
        float sum = state.sum[half] * shrink;
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = exp2_fast(scores[n][i] * scale - offset);
                sum += scores[n][i];
            }
        }
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
            sums[n][2 * half] *= shrink;
            sums[n][2 * half + 1] *= shrink;
        }
        state.sum[half] = sum;
        state.largest[half] = largest;
    }
}

template <int HEAD>
__device__ inline void forward(const bf16 *qkv, const Attention &of, OfAxis<bf16> out, OfAxis<float> lse) {
    constexpr int TILES = STEP<HEAD> / 8;
    extern __shared__ __align__(128) bf16 shared[];
    bf16 *queries = shared, *stages = queries + TILE * HEAD;
    const Block<HEAD> block(of);
    const auto load_step = [&](int step) {
        block.load_step(stages + step % 2 * 2 * STEP_VALUES<HEAD>, block.part(qkv, 1), block.part(qkv, 2), step);
        copy_async_commit();
    };
    block.load_owned(queries, block.part(qkv, 0));
    load_step(0);

    const int lane = threadIdx.x % 32, len = block.sequence.len, steps = block.steps();
    const uint64_t group = first_group(block.sequence.row(block.row + lane % 2 * 8), of.heads, block.head);
    uint32_t q[HEAD / 16][4];
    float sums[HEAD / 8][4] = {};
    Softmax state = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    for (int step = 0; step < steps; step++) {
        copy_async_wait<0>();
        __syncthreads(); // this step's rows have come, and all are done with the other stage
        if (step == 0) {
#pragma unroll
            for (int d = 0; d < HEAD / 16; d++) {
                load_fragment<HEAD>(q[d], queries, block.warp_row, d);
            }
        }
        if (step + 1 < steps) {
            load_step(step + 1);
        }
        const bf16 *keys = stages + step % 2 * 2 * STEP_VALUES<HEAD>;
        float scores[TILES][4];
        multiply_rows<HEAD>(scores, q, keys);
        if (step + 1 == steps) {
            mask_keys(scores, step * STEP<HEAD>, len, block.sequence.last_key_bias / of.scale);
        }
        update_softmax<HEAD>(state, scores, sums, of.scale * LOG2_E);
        if (!of.drop.is_off()) {
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                const uint32_t kept = kept_by_query(of.drop, group + (step * STEP<HEAD> + n * 8) / 4);
                for (int i = 0; i < 4; i++) {
                    scores[n][i] = kept >> i & 1 ? scores[n][i] : 0.0f;
                }
            }
        }
        multiply_columns<HEAD>(sums, scores, keys + STEP_VALUES<HEAD>);
    }

    float factors[2];
    for (int half = 0; half < 2; half++) {
        const int row = block.row + half * 8;
        const float sum = row_sum(state.sum[half]);
        factors[half] = of.drop.scale / sum;
        if (lane % 4 == 0 && row < len) {
            const float log_sum = state.largest[half] * of.scale + log2f(sum) * LN_2;
            lse.own()[static_cast<size_t>(block.sequence.row(row)) * of.heads + block.head] = log_sum;
        }
    }
    block.store(block.rows(out), sums, factors[0], factors[1], queries);
}

// Row sums of a o b, for rows g and g + 8 of the warp.
template <int HEAD>
__device__ inline void multiply_elements(float (&sums)[2], const bf16 *left, const bf16 *right, int warp_row) {
    sums[0] = sums[1] = 0.0f;
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++) {
        uint32_t a[4], b[4];
        load_fragment<HEAD>(a, left, warp_row, d);
        load_fragment<HEAD>(b, right, warp_row, d);
        for (int i = 0; i < 4; i++) {
            const float2 x = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(&a[i]));
            const float2 y = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(&b[i]));
            sums[i % 2] += x.x * y.x + x.y * y.y;
        }
    }
    sums[0] = row_sum(sums[0]);
    sums[1] = row_sum(sums[1]);
}

// dQ of 64 queries, and their row terms. Queries behind the last one get terms that make P and dS 0.
template <int HEAD>
__device__ inline void backward_queries(const bf16 *qkv, OfAxis<const bf16> out, OfAxis<const float> lse,
                                        OfAxis<const bf16> dout, const Attention &of, bf16 *dqkv, float *row_terms) {
    constexpr int TILES = STEP<HEAD> / 8;
    extern __shared__ __align__(128) bf16 shared[];
    bf16 *queries = shared, *douts = queries + TILE * HEAD, *stages = douts + TILE * HEAD;
    bf16 *outs = stages + 2 * STEP_VALUES<HEAD>; // in the second stage, before its first use
    const Block<HEAD> block(of);
    const auto load_step = [&](int step) {
        block.load_step(stages + step % 2 * 2 * STEP_VALUES<HEAD>, block.part(qkv, 1), block.part(qkv, 2), step);
        copy_async_commit();
    };
    block.load_owned(queries, block.part(qkv, 0));
    block.load_owned(douts, block.rows(dout));
    block.load_owned(outs, block.rows(out));
    load_step(0);
    copy_async_wait<0>();
    __syncthreads();

    const int lane = threadIdx.x % 32, len = block.sequence.len, steps = block.steps();
    const uint64_t group = first_group(block.sequence.row(block.row + lane % 2 * 8), of.heads, block.head);
    float log_sums[2] = {INFINITY, INFINITY}, products[2];
    multiply_elements<HEAD>(products, douts, outs, block.warp_row);
    float *terms = block.terms(row_terms) + blockIdx.x * 2 * TILE;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = block.row + half * 8;
        if (row < len) {
            log_sums[half] = lse.own()[static_cast<size_t>(block.sequence.row(row)) * of.heads + block.head] * LOG2_E;
        }
        if (lane % 4 == 0) {
            terms[row - block.first] = log_sums[half];
            terms[TILE + row - block.first] = products[half];
        }
    }

    float sums[HEAD / 8][4] = {};
    for (int step = 0; step < steps; step++) {
        copy_async_wait<0>();
        __syncthreads(); // this step's rows have come, and all are done with the other stage
        if (step + 1 < steps) {
            load_step(step + 1);
        }
        const bf16 *keys = stages + step % 2 * 2 * STEP_VALUES<HEAD>;
        float scores[TILES][4], dscores[TILES][4];
        multiply_rows<HEAD>(scores, queries, block.warp_row, keys);
        multiply_rows<HEAD>(dscores, douts, block.warp_row, keys + STEP_VALUES<HEAD>);
        if (step + 1 == steps) {
            mask_keys(scores, step * STEP<HEAD>, len, block.sequence.last_key_bias / of.scale);
        }
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            uint32_t kept = 15;
            if (!of.drop.is_off()) {
                kept = kept_by_query(of.drop, group + (step * STEP<HEAD> + n * 8) / 4);
            }
            for (int i = 0; i < 4; i++) {
                const float p = exp2_fast(scores[n][i] * (of.scale * LOG2_E) - log_sums[i / 2]);
                const float factor = kept >> i & 1 ? of.drop.scale : 0.0f;
                dscores[n][i] = p * (dscores[n][i] * factor - products[i / 2]);
            }
        }
        multiply_columns<HEAD>(sums, dscores, keys);
    }
    block.store(block.part(dqkv, 0), sums, of.scale, of.scale, queries);
}

// dK and dV of 64 keys. All products are transposed: rows are keys, columns queries.
template <int HEAD>
__device__ inline void backward_keys(const bf16 *qkv, OfAxis<const bf16> dout, const float *row_terms,
                                     const Attention &of, bf16 *dqkv) {
    constexpr int TILES = STEP<HEAD> / 8;
    constexpr int STAGE = 2 * STEP_VALUES<HEAD> + 4 * STEP<HEAD>; // queries, gradients of out, row terms
    extern __shared__ __align__(128) bf16 shared[];
    bf16 *keys = shared, *values = keys + TILE * HEAD, *stages = values + TILE * HEAD;
    const Block<HEAD> block(of);
    // Where those of the sequence's first tile are.
    const float *terms = block.terms(row_terms) + (blockIdx.x - block.first / TILE) * 2 * TILE;
    const auto load_step = [&](int step) {
        bf16 *to = stages + step % 2 * STAGE;
        block.load_step(to, block.part(qkv, 0), block.rows(dout), step);
        constexpr int PACKS = STEP<HEAD> / 4; // of each term
        if (threadIdx.x < 2 * PACKS) {
            const int term = threadIdx.x / PACKS, at = threadIdx.x % PACKS * 4;
            const int row = step * STEP<HEAD> + at;
            copy_async(reinterpret_cast<float *>(to + 2 * STEP_VALUES<HEAD>) + term * STEP<HEAD> + at,
                       terms + (row / TILE * 2 + term) * TILE + row % TILE, true);
        }
        copy_async_commit();
    };
    block.load_owned(keys, block.part(qkv, 1));
    block.load_owned(values, block.part(qkv, 2));
    load_step(0);

    const int lane = threadIdx.x % 32, len = block.sequence.len, steps = block.steps();
    const float last_key_bias = block.sequence.last_key_bias * LOG2_E;
    const float biases[2] = {block.row == len - 1 ? last_key_bias : 0.0f,
                             block.row + 8 == len - 1 ? last_key_bias : 0.0f};
    // This lane's draws: its query among eight, and its four keys.
    const int drawn_query = lane % 4 * 2 + lane / 4 % 2;
    const int drawn_keys = (block.first + block.warp_row + lane / 16 * 4 + lane / 8 % 2 * 8) / 4;
    float dk[HEAD / 8][4] = {}, dv[HEAD / 8][4] = {};
    for (int step = 0; step < steps; step++) {
        copy_async_wait<0>();
        __syncthreads(); // this step's rows have come, and all are done with the other stage
        if (step + 1 < steps) {
            load_step(step + 1);
        }
        const bf16 *queries = stages + step % 2 * STAGE;
        const bf16 *douts = queries + STEP_VALUES<HEAD>;
        const float *log_sums = reinterpret_cast<const float *>(douts + STEP_VALUES<HEAD>);
        const float *products = log_sums + STEP<HEAD>;
        float scores[TILES][4], dscores[TILES][4];
        multiply_rows<HEAD>(scores, keys, block.warp_row, queries);
        multiply_rows<HEAD>(dscores, values, block.warp_row, douts);
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            const int column = n * 8 + lane % 4 * 2;
            const float2 log_sum = *reinterpret_cast<const float2 *>(log_sums + column);
            const float2 product = *reinterpret_cast<const float2 *>(products + column);
            uint32_t kept = 15;
            if (!of.drop.is_off()) {
                const int row = block.sequence.row(step * STEP<HEAD> + n * 8 + drawn_query);
                kept = kept_by_key(of.drop, first_group(row, of.heads, block.head) + drawn_keys);
            }
            for (int i = 0; i < 4; i++) {
                const float minus = biases[i / 2] - (i % 2 == 0 ? log_sum.x : log_sum.y);
                const float p = exp2_fast(scores[n][i] * (of.scale * LOG2_E) + minus);
                const float factor = kept >> i & 1 ? of.drop.scale : 0.0f;
                scores[n][i] = p * factor;
                dscores[n][i] = p * (dscores[n][i] * factor - (i % 2 == 0 ? product.x : product.y));
            }
        }
        multiply_columns<HEAD>(dv, scores, douts);
        multiply_columns<HEAD>(dk, dscores, queries);
    }
    block.store(block.part(dqkv, 1), dk, of.scale, of.scale, keys);
    block.store(block.part(dqkv, 2), dv, 1.0f, 1.0f, values);
}

// Blocks an SM; 0: as ptxas likes, which holds heads of 48 to the registers of four, and spills.
template <int HEAD> constexpr int FORWARD_BLOCKS = HEAD == 48 ? 3 : 0;

#define FOR_HEAD_SIZE(HEAD)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS<HEAD>)                                        \
        attention_forward_##HEAD(const bf16 *qkv, const Tile *tiles, OfAxis<bf16> out, OfAxis<float> lse, int heads,   \
                                 float scale, Dropout drop) {                                                          \
        forward<HEAD>(qkv, {tiles, heads, scale, drop}, out, lse);                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        attention_backward_queries_##HEAD(const bf16 *qkv, OfAxis<const bf16> out, OfAxis<const float> lse,            \
                                          OfAxis<const bf16> dout, const Tile *tiles, bf16 *dqkv, float *row_terms,    \
                                          int heads, float scale, Dropout drop) {                                      \
        backward_queries<HEAD>(qkv, out, lse, dout, {tiles, heads, scale, drop}, dqkv, row_terms);                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        attention_backward_keys_##HEAD(const bf16 *qkv, OfAxis<const bf16> dout, const float *row_terms,               \
                                       const Tile *tiles, bf16 *dqkv, int heads, float scale, Dropout drop) {          \
        backward_keys<HEAD>(qkv, dout, row_terms, {tiles, heads, scale, drop}, dqkv);                                  \
    }

FOR_HEAD_SIZE(32)
FOR_HEAD_SIZE(48)
FOR_HEAD_SIZE(64)
FOR_HEAD_SIZE(96)
FOR_HEAD_SIZE(128)
