// out = softmax(scale * Q * transpose(K)) * V for every head of every sequence, without storing the softmax.
//
// qkv: [rows, 3, heads, 64], the rows of all sequences one after another; starts: where each begins, and `rows` last.
// out: [rows, heads, 64]. lse: [heads, rows], the logarithm of each row's sum of exponentials, for a backward pass.
// A block owns 64 queries of one head and sequence, a warp 16 of them. It walks over tiles of 64 keys in two stages,
// with a running maximum and sum. Launch: grid (longest / 64 rounded up, heads, sequences), 128 threads.
#include "common.cuh"

constexpr int HEAD = 64;
constexpr int TILE = 64; // of queries, and of keys
constexpr int THREADS = 128;
constexpr int TILE_VALUES = TILE * HEAD;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// Rows row0 to row0 + 63 of one sequence's queries, keys or values of one head; zeros behind its end.
__device__ inline void load_rows(bf16 *tile, const bf16 *head, int row0, int length, int stride) {
    for (int i = threadIdx.x; i < TILE * HEAD / 8; i += THREADS) {
        const int row = i / (HEAD / 8);
        const int chunk = i % (HEAD / 8);
        const bool inside = row0 + row < length;
        const size_t offset = static_cast<size_t>(row0 + row) * stride + chunk * 8;
        copy_async(tile + swizzle<HEAD>(row, chunk), head + (inside ? offset : 0), inside);
    }
}

// scores = this warp's 16 queries times 64 keys.
__device__ inline void multiply_keys(float (&scores)[8][4], const uint32_t (&q)[4][4], const bf16 *keys) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 8; n++) {
        for (int i = 0; i < 4; i++) {
            scores[n][i] = 0.0f;
        }
        for (int d = 0; d < 4; d++) {
            uint32_t k[2];
            load_matrix_x2(k, keys + swizzle<HEAD>(n * 8 + lane % 8, d * 2 + lane / 8 % 2));
            mma_bf16(scores[n], q[d], k[0], k[1]);
        }
    }
}

// sums += p * values: the layout of two neighbouring results of an mma is that of one operand a.
__device__ inline void multiply_values(float (&sums)[8][4], const float (&p)[8][4], const bf16 *values) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float *low = p[2 * k], *high = p[2 * k + 1];
        const uint32_t a[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                               pack_bf16(high[2], high[3])};
        for (int d = 0; d < 4; d++) {
            uint32_t v[4];
            load_matrix_x4_trans(v, values + swizzle<HEAD>(k * 16 + lane % 16, d * 2 + lane / 16));
            mma_bf16(sums[2 * d], a, v[0], v[1]);
            mma_bf16(sums[2 * d + 1], a, v[2], v[3]);
        }
    }
}

// What a thread knows of its rows g (0) and g + 8 (1): the maximum of scale * log2(e) * score, and the sum of exp2.
struct Softmax {
    float maximum[2];
    float sum[2];
};

// scores become exp2(score - maximum); what was summed with a smaller maximum is scaled down.
__device__ inline void update_softmax(Softmax &state, float (&scores)[8][4], float (&sums)[8][4], int keys,
                                      float scale) {
    const int lane = threadIdx.x % 32;
    for (int n = 0; n < 8; n++) {
        for (int i = 0; i < 4; i++) {
            const int key = n * 8 + lane % 4 * 2 + i % 2;
            scores[n][i] = key < keys ? scores[n][i] * scale : -INFINITY;
        }
    }
    for (int half = 0; half < 2; half++) {
        float maximum = state.maximum[half];
        for (int n = 0; n < 8; n++) {
            maximum = fmaxf(maximum, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        }
        maximum = fmaxf(maximum, __shfl_xor_sync(ALL_LANES, maximum, 1)); // a row lies in four lanes
        maximum = fmaxf(maximum, __shfl_xor_sync(ALL_LANES, maximum, 2));
        const float shrink = exp2_fast(state.maximum[half] - maximum);
        float sum = 0.0f;
        for (int n = 0; n < 8; n++) {
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = exp2_fast(scores[n][i] - maximum);
                sum += scores[n][i];
                sums[n][i] *= shrink;
            }
        }
        state.sum[half] = state.sum[half] * shrink + sum; // of this thread's columns only
        state.maximum[half] = maximum;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_forward(const bf16 *qkv, const int *starts, bf16 *out, float *lse, int rows, int heads, float scale) {
    __shared__ __align__(128) bf16 queries[TILE_VALUES];
    __shared__ __align__(128) bf16 ring[2][2][TILE_VALUES]; // stage, keys or values
    const int start = starts[blockIdx.z];
    const int length = starts[blockIdx.z + 1] - start;
    const int query0 = blockIdx.x * TILE;
    if (query0 >= length) {
        return; // the whole block
    }
    const int lane = threadIdx.x % 32;
    const int warp_row = threadIdx.x / 32 * 16;
    const int head = blockIdx.y;
    const int stride = 3 * heads * HEAD;
    const bf16 *q_rows = qkv + static_cast<size_t>(start) * stride + head * HEAD;
    const bf16 *k_rows = q_rows + heads * HEAD;
    const bf16 *v_rows = k_rows + heads * HEAD;

    load_rows(queries, q_rows, query0, length, stride);
    load_rows(ring[0][0], k_rows, 0, length, stride);
    load_rows(ring[0][1], v_rows, 0, length, stride);
    copy_async_commit();

    uint32_t q[4][4];
    float sums[8][4] = {};
    Softmax state = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    const int tiles = (length + TILE - 1) / TILE;
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) {
            load_rows(ring[(tile + 1) % 2][0], k_rows, (tile + 1) * TILE, length, stride);
            load_rows(ring[(tile + 1) % 2][1], v_rows, (tile + 1) * TILE, length, stride);
        }
        copy_async_commit();
        copy_async_wait<1>();
        __syncthreads(); // this tile has come
        if (tile == 0) {
            for (int d = 0; d < 4; d++) {
                load_matrix_x4(q[d], queries + swizzle<HEAD>(warp_row + lane % 16, d * 2 + lane / 16));
            }
        }
        float scores[8][4];
        multiply_keys(scores, q, ring[tile % 2][0]);
        update_softmax(state, scores, sums, length - tile * TILE, scale * LOG2_E);
        multiply_values(sums, scores, ring[tile % 2][1]);
        __syncthreads(); // all have read it before the next turn fills it again
    }

    for (int half = 0; half < 2; half++) {
        float sum = state.sum[half];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        const int query = query0 + warp_row + half * 8 + lane / 4;
        if (query < length) {
            bf16 *to = out + (static_cast<size_t>(start + query) * heads + head) * HEAD + lane % 4 * 2;
            for (int n = 0; n < 8; n++) {
                const uint32_t pair = pack_bf16(sums[n][2 * half] / sum, sums[n][2 * half + 1] / sum);
                *reinterpret_cast<uint32_t *>(to + n * 8) = pair;
            }
            if (lane % 4 == 0) {
                lse[static_cast<size_t>(head) * rows + start + query] = (state.maximum[half] + log2f(sum)) * LN_2;
            }
        }
    }
}
