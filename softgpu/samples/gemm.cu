// C[m,n] = A[m,k] * B in bf16 with sums in f32. gemm_nt: B is [n,k], C is bf16. gemm_nn: B is [k,n], C is f32.
//
// A block owns 128 x 128 of C, each of its 8 warps (2 x 4) 64 x 32 of that. Tiles of depth 32 pass through a ring of
// four stages in shared memory, filled by cp.async; what lies outside of the matrices is filled with zeros.
// m: any; n and k: multiples of 8. Launch: grid (n / 128, m / 128) rounded up, 256 threads, SHARED_BYTES.
#include "common.cuh"

constexpr int TILE_M = 128;
constexpr int TILE_N = 128;
constexpr int TILE_K = 32;
constexpr int STAGES = 4;
constexpr int THREADS = 256;
constexpr int STAGE_VALUES = (TILE_M + TILE_N) * TILE_K;
constexpr int SHARED_BYTES = STAGES * STAGE_VALUES * 2; // 64 KiB: the launch must ask for more than the default
static_assert(SHARED_BYTES == 65536, "what the host passes");

__device__ inline void store_pair(float *to, float first, float second) {
    *reinterpret_cast<float2 *>(to) = make_float2(first, second);
}

__device__ inline void store_pair(bf16 *to, float first, float second) {
    *reinterpret_cast<uint32_t *>(to) = pack_bf16(first, second);
}

// HEIGHT x WIDTH values at (row0, column0) of a matrix of rows x columns.
template <int HEIGHT, int WIDTH>
__device__ inline void load_tile(bf16 *tile, const bf16 *matrix, int row0, int column0, int rows, int columns) {
    for (int i = threadIdx.x; i < HEIGHT * WIDTH / 8; i += THREADS) {
        const int row = i / (WIDTH / 8);
        const int chunk = i % (WIDTH / 8);
        const bool inside = row0 + row < rows && column0 + chunk * 8 < columns;
        const size_t offset = static_cast<size_t>(row0 + row) * columns + column0 + chunk * 8;
        copy_async(tile + swizzle<WIDTH>(row, chunk), matrix + (inside ? offset : 0), inside);
    }
}

// A's rows and B's columns of one stage, at depth `depth`.
template <bool B_BY_COLUMNS>
__device__ inline void load_stage(bf16 *stage, const bf16 *a, const bf16 *b, int m, int n, int k, int depth) {
    bf16 *stage_b = stage + TILE_M * TILE_K;
    load_tile<TILE_M, TILE_K>(stage, a, blockIdx.y * TILE_M, depth, m, k);
    if (B_BY_COLUMNS) {
        load_tile<TILE_N, TILE_K>(stage_b, b, blockIdx.x * TILE_N, depth, n, k);
    } else {
        load_tile<TILE_K, TILE_N>(stage_b, b, depth, blockIdx.x * TILE_N, k, n);
    }
}

// Two operands b, for the columns `column` to column + 15 at depth `depth`.
template <bool B_BY_COLUMNS>
__device__ inline void load_b(uint32_t (&fragment)[4], const bf16 *tile, int column, int depth) {
    const int lane = threadIdx.x % 32;
    if (B_BY_COLUMNS) {
        const int row = column + lane / 16 * 8 + lane % 8;
        load_matrix_x4(fragment, tile + swizzle<TILE_K>(row, depth / 8 + lane / 8 % 2));
    } else {
        const int row = depth + lane % 16;
        load_matrix_x4_trans(fragment, tile + swizzle<TILE_N>(row, column / 8 + lane / 16));
    }
}

template <bool B_BY_COLUMNS>
__device__ inline void multiply_stage(float (&sums)[4][4][4], const bf16 *stage, int warp_row, int warp_column) {
    const int lane = threadIdx.x % 32;
    const bf16 *stage_b = stage + TILE_M * TILE_K;
#pragma unroll
    for (int depth = 0; depth < TILE_K; depth += 16) {
        uint32_t a[4][4], b[2][4];
        for (int i = 0; i < 4; i++) {
            load_matrix_x4(a[i], stage + swizzle<TILE_K>(warp_row + i * 16 + lane % 16, depth / 8 + lane / 16));
        }
        for (int j = 0; j < 2; j++) {
            load_b<B_BY_COLUMNS>(b[j], stage_b, warp_column + j * 16, depth);
        }
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 4; j++) {
                mma_bf16(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
}

template <typename Out>
__device__ inline void store_sums(Out *c, const float (&sums)[4][4][4], int row0, int column0, int m, int n) {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            for (int half = 0; half < 2; half++) {
                const int row = row0 + i * 16 + half * 8 + lane / 4;
                const int column = column0 + j * 8 + lane % 4 * 2;
                if (row < m && column < n) {
                    const float *pair = sums[i][j] + half * 2;
                    store_pair(c + static_cast<size_t>(row) * n + column, pair[0], pair[1]);
                }
            }
        }
    }
}

template <bool B_BY_COLUMNS, typename Out>
__device__ inline void gemm(const bf16 *a, const bf16 *b, Out *c, int m, int n, int k) {
    extern __shared__ __align__(128) bf16 shared[];
    const int warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 64;
    const int warp_column = warp % 4 * 32;
    const int steps = (k + TILE_K - 1) / TILE_K;
    float sums[4][4][4] = {};

    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) {
            load_stage<B_BY_COLUMNS>(shared + step * STAGE_VALUES, a, b, m, n, k, step * TILE_K);
        }
        copy_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads(); // this stage is here for all; and all have left the stage that is filled next
        const int ahead = step + STAGES - 1;
        if (ahead < steps) {
            load_stage<B_BY_COLUMNS>(shared + ahead % STAGES * STAGE_VALUES, a, b, m, n, k, ahead * TILE_K);
        }
        copy_async_commit(); // an empty group too, so that the count of groups is that of steps
        multiply_stage<B_BY_COLUMNS>(sums, shared + step % STAGES * STAGE_VALUES, warp_row, warp_column);
    }
    store_sums(c, sums, blockIdx.y * TILE_M + warp_row, blockIdx.x * TILE_N + warp_column, m, n);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gemm_nt(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    gemm<true>(a, b, c, m, n, k);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gemm_nn(const bf16 *a, const bf16 *b, float *c, int m, int n, int k) {
    gemm<false>(a, b, c, m, n, k);
}
