// The context of every unordered pair of entities (a, b) of a document, a <= b:
//
//   q[l] = scale * sum over heads of A_a[h, l] A_b[h, l],   c = sum over l of q[l] H[l] / (sum of q + epsilon);
//   dq[l] = (dc . H[l] - dc . c) / (sum of q + epsilon),
//   dA_a[h, l] = scale * sum over b of dq_ab[l] A_b[h, l] (twice for b = a),
//   dH[l] = sum over pairs of q[l] / (sum of q + epsilon) dc.
//
// A, dA: f32, a block [entities, heads, tokens] a document; H, dH: [tokens, dim]; c, dc: [pairs, dim]; inverse:
// [pairs], 1 / (sum of q + epsilon), made by forward; means: [pairs], dc . c, scratch of backward.
//
// Pairs go in tiles of 8 x 8 entities, so that a tile of q is a sum of outer products: 10 loads for 16 products a
// thread. q is rounded to bf16 as the operand of the tensor cores, and its sum is taken of the rounded values by the
// same products (a column of ones), so the weights of a context add up to 1. Nothing of size pairs x tokens leaves
// shared memory; the price is that q is made once for every 256 columns, and dq twice, for a and for b.
//
// forward, block (tile of pairs, 256 columns): reads 16 entities' A and all H of the document for its columns, writes
//     c; blocks of the first columns write `inverse`.
// means, block (8 pairs, a warp each): reads c and dc.
// attention gradient, block (64 tokens, 8 entities a): goes over all b in ascending order, reads dc of its pairs, H of
//     its tokens and A of all entities at its tokens, writes dA. The sums over b stay in shared memory.
// hidden gradient, block (64 tokens, 256 columns): goes over all tiles of pairs, reads A at its tokens and dc of all
//     pairs for its columns, writes dH. The sums stay in registers.
// Each value of the results has one owner, and every sum one order.
//
// Launch: 256 threads; forward (tiles, columns / 256); hidden gradient the same with tiles of tokens; means (pairs
// / 8); attention gradient (tiles of tokens and entities) with attention_gradient_bytes(heads) of shared memory.
// dim: a multiple of 8. Rows of A start wherever the number of tokens puts them, so a warp's 128 bytes of it usually
// touch five sectors instead of four (load and store efficiency 80 % there).
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int SIDE = 8;            // entities along an edge of a tile of pairs
constexpr int PAIRS = SIDE * SIDE; // pair 8 i + j: entities first + i and second + j
constexpr int TOKENS = 64;
constexpr int COLUMNS = 256;
constexpr int DEPTH = 64; // columns at a time where they are summed over

// What a block works on; src/ops/context_pool/cuda.rs writes these.
struct alignas(16) Place {
    int token, tokens;  // rows of H of the document
    int area;           // its block of A starts at heads * area
    int entities, pair; // how many, and its first row of c
    int first, second;  // first entities of a tile of pairs; or first token of a tile, and first entity
    int unused;

    __device__ const float *block(const float *attention, int heads) const {
        return attention + static_cast<size_t>(area) * heads;
    }
    __device__ float *block(float *attention, int heads) const { return attention + static_cast<size_t>(area) * heads; }
    // Row of c for the entities a and b in either order; -1 if the document has no such pair.
    __device__ int pair_row(int a, int b) const {
        const int low = min(a, b), high = max(a, b);
        return high < entities ? pair + low * (2 * entities + 1 - low) / 2 + high - low : -1;
    }
    // The same where pairs are wanted once: -1 for a > b.
    __device__ int upper_pair_row(int a, int b) const { return a <= b ? pair_row(a, b) : -1; }
    __device__ int token_row(int l) const { return l < tokens ? token + l : -1; }
};

// Rows of a matrix, from `column` on, into a tile: row i is row row_of(i), or zeros where that is -1; zeros behind the
// last column.
template <int ROWS, int WIDTH, typename RowOf>
__device__ inline void load_rows(bf16 *tile, const bf16 *matrix, int column, int dim, RowOf row_of) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int row = row_of(i / CHUNKS), at = column + i % CHUNKS * 8;
        const bool inside = row >= 0 && at < dim;
        copy_async(tile + swizzle<WIDTH>(i / CHUNKS, i % CHUNKS),
                   matrix + (inside ? static_cast<size_t>(row) * dim + at : 0), inside);
    }
}

// The other way, what is outside is left out.
template <typename RowOf>
__device__ inline void store_rows(bf16 *matrix, const bf16 *tile, int column, int dim, RowOf row_of) {
    constexpr int CHUNKS = COLUMNS / 8;
    for (int i = threadIdx.x; i < 64 * CHUNKS; i += THREADS) {
        const int row = row_of(i / CHUNKS), at = column + i % CHUNKS * 8;
        if (row >= 0 && at < dim) {
            store_pack(matrix + static_cast<size_t>(row) * dim + at,
                       load_pack(tile + swizzle<COLUMNS>(i / CHUNKS, i % CHUNKS)));
        }
    }
}

// weights[l][8 i + j] = factor * sum over heads of A_i A_j at token `token` + l, for the entities first + i and
// second + j; zeros outside of the document. `factors`: one a pair, null for 1. A thread has one token and two of the
// eight i. On the diagonal a pair comes twice; the callers leave the second out.
__device__ inline void make_weights(bf16 *weights, const float *block, const Place &place, int first, int second,
                                    int token, int heads, const float *factors) {
    const int l = threadIdx.x % TOKENS, i0 = threadIdx.x / TOKENS * 2;
    const size_t entity = static_cast<size_t>(heads) * place.tokens;
    const float *rows = block + (first + i0) * entity + token + l;
    const float *columns = block + second * entity + token + l;
    float sums[2][SIDE] = {};
    if (token + l < place.tokens) {
        for (int head = 0; head < heads; head++, rows += place.tokens, columns += place.tokens) {
            float x[2], y[SIDE];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                x[i] = first + i0 + i < place.entities ? rows[i * entity] : 0.0f;
            }
#pragma unroll
            for (int j = 0; j < SIDE; j++) {
                y[j] = second + j < place.entities ? columns[j * entity] : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                for (int j = 0; j < SIDE; j++) {
                    sums[i][j] += x[i] * y[j];
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        Pack<bf16> row;
        for (int j = 0; j < SIDE; j++) {
            const float factor = factors ? factors[(i0 + i) * SIDE + j] : 1.0f;
            row.values[j] = from_float<bf16>(sums[i][j] * factor);
        }
        store_pack(weights + swizzle<PAIRS>(l, i0 + i), row);
    }
}

// Results of one warp of 2 x 4: 32 rows and 64 columns of 64 x 256.
struct Sums {
    float values[2][8][4] = {};
    float totals[2][4] = {}; // of the rows of the left operand, the same in every column

    static __device__ int row() { return threadIdx.x / 128 * 32; }
    static __device__ int column() { return threadIdx.x / 32 % 4 * 64; }

    // += left * tile over `depth` rows of the tile, a multiple of 16. BY_TOKEN: rows of the result are tokens, depth
    // is pairs; else the other way round.
    template <bool BY_TOKEN> __device__ void multiply(const bf16 *weights, const bf16 *tile, int depth) {
        constexpr uint32_t ONES = 0x3f803f80; // two of bf16
        const int lane = threadIdx.x % 32;
#pragma unroll 1
        for (int k = 0; k < depth; k += 16) {
            uint32_t a[2][4];
#pragma unroll
            for (int m = 0; m < 2; m++) {
                const int at = row() + m * 16;
                if (BY_TOKEN) {
                    load_matrix_x4(a[m], weights + swizzle<PAIRS>(at + lane % 16, k / 8 + lane / 16));
                } else {
                    const int token = k + lane / 16 * 8 + lane % 8;
                    load_matrix_x4_trans(a[m], weights + swizzle<PAIRS>(token, at / 8 + lane / 8 % 2));
                    mma_bf16(totals[m], a[m], ONES, ONES);
                }
            }
#pragma unroll
            for (int n = 0; n < 8; n += 2) {
                uint32_t b[4];
                load_matrix_x4_trans(b, tile + swizzle<COLUMNS>(k + lane % 16, column() / 8 + n + lane / 16));
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma_bf16(values[m][n], a[m], b[0], b[1]);
                    mma_bf16(values[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }
    // To a tile of 64 x 256, row r times factor(m, half), where r is row() + 16 m + 8 half + lane / 4.
    template <typename Factor> __device__ void put(bf16 *tile, Factor factor) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < 2; m++) {
            for (int half = 0; half < 2; half++) {
                const float f = factor(m, half);
                bf16 *to = tile + lane % 4 * 2;
                const int at = row() + m * 16 + half * 8 + lane / 4;
                for (int n = 0; n < 8; n++) {
                    const float *pair = values[m][n] + half * 2;
                    *reinterpret_cast<uint32_t *>(to + swizzle<COLUMNS>(at, column() / 8 + n)) =
                        pack_bf16(pair[0] * f, pair[1] * f);
                }
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    context_pool_forward(const float *attention, const bf16 *h, const Place *places, bf16 *c, float *inverse, int heads,
                         int dim, float scale, float epsilon) {
    __shared__ __align__(128) bf16 weights[TOKENS * PAIRS];
    __shared__ __align__(128) bf16 tile[TOKENS * COLUMNS];
    const Place place = places[blockIdx.x];
    const float *block = place.block(attention, heads);
    const int column = blockIdx.y * COLUMNS;
    const auto row_of = [&](int pair) {
        return place.upper_pair_row(place.first + pair / SIDE, place.second + pair % SIDE);
    };
    Sums sums;
    for (int token = 0; token < place.tokens; token += TOKENS) {
        load_rows<TOKENS, COLUMNS>(tile, h, column, dim, [&](int l) { return place.token_row(token + l); });
        copy_async_commit();
        make_weights(weights, block, place, place.first, place.second, token, heads, nullptr);
        copy_async_wait<0>();
        __syncthreads(); // weights and H are here
        if (column + Sums::column() < dim) {
            sums.multiply<false>(weights, tile, min(TOKENS, (place.tokens - token + 15) / 16 * 16));
        }
        __syncthreads(); // all have used them
    }
    const auto inverse_sum = [&](int m, int half) { return 1.0f / (scale * sums.totals[m][half * 2] + epsilon); };
    sums.put(tile, [&](int m, int half) { return scale * inverse_sum(m, half); });
    __syncthreads();
    store_rows(c, tile, column, dim, row_of);
    if (column == 0 && Sums::column() == 0 && threadIdx.x % 4 == 0) {
        for (int m = 0; m < 2; m++) {
            for (int half = 0; half < 2; half++) {
                const int row = row_of(Sums::row() + m * 16 + half * 8 + threadIdx.x % 32 / 4);
                if (row >= 0) {
                    inverse[row] = inverse_sum(m, half);
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    context_pool_means(const bf16 *c, const bf16 *dc, float *means, int pairs, int dim) {
    constexpr int WARPS = THREADS / 32;
    __shared__ float sums[WARPS]; // so that a block writes a whole sector
    const int first = blockIdx.x * WARPS, warp = threadIdx.x / 32;
    float sum = 0.0f;
    if (first + warp < pairs) {
        for (int column = threadIdx.x % 32 * 8; column < dim; column += 32 * 8) {
            const size_t at = static_cast<size_t>(first + warp) * dim + column;
            const Pack<bf16> x = load_pack(c + at), dx = load_pack(dc + at);
            for (int i = 0; i < 8; i++) {
                sum += to_float(x.values[i]) * to_float(dx.values[i]);
            }
        }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) {
        sums[warp] = sum;
    }
    __syncthreads();
    if (threadIdx.x < WARPS && first + threadIdx.x < pairs) {
        means[first + threadIdx.x] = sums[threadIdx.x];
    }
}

// Shared memory of the gradient of A.
struct AttentionGradient {
    static constexpr int PITCH = TOKENS + 8; // rows of dq begin eight banks apart: its fragments meet in none
    bf16 ring[2][2][64 * DEPTH];             // stage; pairs of dc, or tokens of H
    float dq[PAIRS * PITCH];
    float factors[PAIRS], means[PAIRS];
    float sums[1]; // [SIDE, heads, TOKENS]: each value is one thread's

    __device__ float *sum(int i, int head, int heads, int l) { return sums + (i * heads + head) * TOKENS + l; }
};

// dq of the pairs of first + i and second + j, in either order, at the tokens from `token` on.
__device__ inline void make_gradients(AttentionGradient &shared, const bf16 *h, const bf16 *dc, const float *inverse,
                                      const float *means, const Place &place, int token, int first, int second, int dim,
                                      float scale) {
    const auto row_of = [&](int pair) { return place.pair_row(first + pair / SIDE, second + pair % SIDE); };
    const auto load_step = [&](int step) {
        load_rows<PAIRS, DEPTH>(shared.ring[step % 2][0], dc, step * DEPTH, dim, row_of);
        load_rows<TOKENS, DEPTH>(shared.ring[step % 2][1], h, step * DEPTH, dim,
                                 [&](int l) { return place.token_row(token + l); });
        copy_async_commit();
    };
    load_step(0);
    if (threadIdx.x < PAIRS) {
        const int i = threadIdx.x, row = row_of(i);
        const float twice = first + i / SIDE == second + i % SIDE ? 2.0f : 1.0f;
        shared.factors[i] = row >= 0 ? inverse[row] * scale * twice : 0.0f;
        shared.means[i] = row >= 0 ? means[row] : 0.0f;
    }
    const int lane = threadIdx.x % 32;
    const int warp_pair = threadIdx.x / 128 * 32, warp_token = threadIdx.x / 32 % 4 * 16;
    float products[2][2][4] = {};
    const int steps = (dim + DEPTH - 1) / DEPTH;
    for (int step = 0; step < steps; step++) {
        copy_async_wait<0>();
        __syncthreads(); // this stage is here, and all have left the other
        if (step + 1 < steps) {
            load_step(step + 1);
        }
        const bf16 *pairs = shared.ring[step % 2][0], *tokens = shared.ring[step % 2][1];
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t a[2][4], b[4];
            for (int m = 0; m < 2; m++) {
                load_matrix_x4(a[m], pairs + swizzle<DEPTH>(warp_pair + m * 16 + lane % 16, k / 8 + lane / 16));
            }
            load_matrix_x4(b, tokens + swizzle<DEPTH>(warp_token + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2));
            for (int m = 0; m < 2; m++) {
                mma_bf16(products[m][0], a[m], b[0], b[1]);
                mma_bf16(products[m][1], a[m], b[2], b[3]);
            }
        }
    }
    for (int m = 0; m < 2; m++) {
        for (int half = 0; half < 2; half++) {
            const int pair = warp_pair + m * 16 + half * 8 + lane / 4;
            const float factor = shared.factors[pair], mean = shared.means[pair];
            for (int n = 0; n < 2; n++) {
                const float *two = products[m][n] + half * 2;
                float *to = shared.dq + pair * AttentionGradient::PITCH + warp_token + n * 8 + lane % 4 * 2;
                *reinterpret_cast<float2 *>(to) = make_float2((two[0] - mean) * factor, (two[1] - mean) * factor);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    context_pool_attention_gradient(const float *attention, const bf16 *h, const bf16 *dc, const float *inverse,
                                    const float *means, const Place *places, float *da, int heads, int dim,
                                    float scale) {
    extern __shared__ __align__(128) unsigned char memory[];
    AttentionGradient &shared = *reinterpret_cast<AttentionGradient *>(memory);
    const Place place = places[blockIdx.x];
    const int first = place.second; // of the eight entities whose gradient this is
    const int l = threadIdx.x % TOKENS, token = place.first + l;
    const bool inside = token < place.tokens;
    const int half = threadIdx.x / TOKENS % 2 * (SIDE / 2); // of the eight entities
    const int head0 = threadIdx.x / TOKENS / 2;             // and every second head
    const size_t entity = static_cast<size_t>(heads) * place.tokens;
    const float *from = place.block(attention, heads) + token;
    for (int second = 0; second < place.entities; second += SIDE) {
        make_gradients(shared, h, dc, inverse, means, place, place.first, first, second, dim, scale);
        __syncthreads(); // dq is complete
        float dq[SIDE / 2][SIDE];
#pragma unroll
        for (int i = 0; i < SIDE / 2; i++) {
            for (int j = 0; j < SIDE; j++) {
                dq[i][j] = shared.dq[((half + i) * SIDE + j) * AttentionGradient::PITCH + l];
            }
        }
        for (int head = head0; head < heads; head += 2) {
            float y[SIDE];
#pragma unroll
            for (int j = 0; j < SIDE; j++) {
                const bool there = inside && second + j < place.entities;
                y[j] = there ? from[(second + j) * entity + static_cast<size_t>(head) * place.tokens] : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < SIDE / 2; i++) {
                float *sum = shared.sum(half + i, head, heads, l);
                float x = second == 0 ? 0.0f : *sum;
                for (int j = 0; j < SIDE; j++) {
                    x += dq[i][j] * y[j];
                }
                *sum = x;
            }
        }
    }
    for (int i = half; inside && i < half + SIDE / 2 && first + i < place.entities; i++) {
        float *to = place.block(da, heads) + (first + i) * entity + token;
        for (int head = head0; head < heads; head += 2) {
            to[static_cast<size_t>(head) * place.tokens] = *shared.sum(i, head, heads, l);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    context_pool_hidden_gradient(const float *attention, const bf16 *dc, const float *inverse, const Place *places,
                                 bf16 *dh, int heads, int dim, float scale) {
    __shared__ __align__(128) bf16 weights[TOKENS * PAIRS];
    __shared__ __align__(128) bf16 tile[PAIRS * COLUMNS];
    __shared__ float factors[PAIRS];
    const Place place = places[blockIdx.x];
    const float *block = place.block(attention, heads);
    const int column = blockIdx.y * COLUMNS, token = place.first;
    Sums sums;
    for (int first = 0; first < place.entities; first += SIDE) {
        for (int second = first; second < place.entities; second += SIDE) {
            const auto row_of = [&](int pair) {
                return place.upper_pair_row(first + pair / SIDE, second + pair % SIDE);
            };
            load_rows<PAIRS, COLUMNS>(tile, dc, column, dim, row_of);
            copy_async_commit();
            if (threadIdx.x < PAIRS) {
                const int row = row_of(threadIdx.x);
                factors[threadIdx.x] = row >= 0 ? inverse[row] * scale : 0.0f;
            }
            __syncthreads(); // the factors are here
            make_weights(weights, block, place, first, second, token, heads, factors);
            copy_async_wait<0>();
            __syncthreads(); // weights and dc are here
            if (column + Sums::column() < dim) {
                sums.multiply<true>(weights, tile, PAIRS);
            }
            __syncthreads(); // all have used them
        }
    }
    sums.put(tile, [](int, int) { return 1.0f; });
    __syncthreads();
    store_rows(dh, tile, column, dim, [&](int l) { return place.token_row(token + l); });
}
