// Products of bf16 matrices with sums in f32: what a block does, for kernels that differ in what becomes of the sums.
//
// C[m,n] = sum over k of A(m,k) B(n,k). A block of 4 warps (2 x 2) owns M x N of C. Tiles of K terms of both operands
// pass through a ring of STAGES in shared memory, filled by cp.async; a warp keeps its sums in registers and reads the
// fragments of the next 16 terms while it multiplies those of the last. What lies outside of a matrix is zero. While
// whole tiles come in, the loop goes round the ring at once: places in shared memory are constants there, a row's
// whole tiles lie at constant distances, and the sides of C are the only thing that a copy asks for.
// gridDim: (m / M, n / N, splits), rounded up; split z takes its share of the steps of K terms, at least one.
#pragma once

#include "common.cuh"

constexpr int GEMM_THREADS = 128;
constexpr int GEMM_SHARED_BYTES = 49152; // all that a block gets without asking; two blocks in an RTX 40's 100 KiB

template <int ROWS, int COLUMNS, int TERMS, int RING> struct GemmShape {
    static constexpr int M = ROWS;
    static constexpr int N = COLUMNS;
    static constexpr int K = TERMS;
    static constexpr int STAGES = RING;
    static constexpr int WARP_M = M / 2;
    static constexpr int WARP_N = N / 2;
    static constexpr int STAGE_VALUES = (M + N) * K;
    static_assert(STAGES * STAGE_VALUES * 2 <= GEMM_SHARED_BYTES, "what the host passes");
};

// An operand in memory: row-major, `columns` a multiple of 8. A row holds all terms of one row of C (of B: of one
// column of C) or, BY_TERM, one term of all of them.
struct Matrix {
    const bf16 *values;
    int rows, columns;
};

// Copies an operand's tiles, one after another along the terms: SIDE rows or columns of C, DEPTH terms each. Each
// thread copies the same chunk of every STEP-th row.
template <int SIDE, int DEPTH, bool BY_TERM> class TileCopy {
    static constexpr int HEIGHT = BY_TERM ? DEPTH : SIDE;
    static constexpr int WIDTH = BY_TERM ? SIDE : DEPTH;
    static constexpr int CHUNKS = WIDTH / 8;
    static constexpr int STEP = GEMM_THREADS / CHUNKS;
    static constexpr int COPIES = HEIGHT / STEP;
    static_assert(STEP % 8 == 0 && HEIGHT % STEP == 0, "the swizzle repeats every 8 rows");

    const bf16 *from[BY_TERM ? 1 : COPIES]; // of the tile reached, the next chunk or all of them
    int stride;
    int side;  // rows or columns of C from this thread's first on
    int terms; // from this thread's first value on, in the first tile
    bf16 *to;

  public:
    __device__ inline TileCopy(const Matrix &matrix, int first_side, int first_term, bf16 *ring) {
        const int row = (BY_TERM ? first_term : first_side) + threadIdx.x / CHUNKS;
        const int column = (BY_TERM ? first_side : first_term) + threadIdx.x % CHUNKS * 8;
        stride = matrix.columns;
        side = BY_TERM ? matrix.columns - column : matrix.rows - row;
        terms = BY_TERM ? matrix.rows - row : matrix.columns - column;
        to = kept(ring + swizzle<WIDTH>(threadIdx.x / CHUNKS, threadIdx.x % CHUNKS));
#pragma unroll
        for (int i = 0; i < (BY_TERM ? 1 : COPIES); i++) {
            from[i] = matrix.values + static_cast<ptrdiff_t>(row + i * STEP) * stride + column;
        }
    }

    // The tile of step `step`, `nth` behind the one reached, to `stage` values behind the ring's begin. Tiles come in
    // order. WHOLE: it has all of its terms, whatever the step.
    template <bool WHOLE> __device__ inline void copy(int step, int nth, int stage) {
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            const int along = BY_TERM ? 0 : i * STEP;
            const int term = BY_TERM ? i * STEP : 0;
            const bool inside = along < side && (WHOLE || step * DEPTH + term < terms);
            copy_async(to + stage + i * STEP * WIDTH, BY_TERM ? from[0] : from[i] + nth * DEPTH, inside);
            if (BY_TERM) {
                from[0] = kept(from[0] + static_cast<ptrdiff_t>(STEP) * stride);
            }
        }
    }

    // Goes on to the tile behind the last `count`, which were copied.
    __device__ inline void reach(int count) {
#pragma unroll
        for (int i = 0; !BY_TERM && i < COPIES; i++) {
            from[i] = kept(from[i] + count * DEPTH);
        }
    }
};

// Reads SPAN rows (IS_B: columns) of C from a tile as operands of mma, 16 terms at a time. Fragment i is operand a of
// rows 16 i to 16 i + 15; of B its words 0 and 1 are operand b of columns 16 i to 16 i + 7, words 2 and 3 of the 8
// columns after them.
template <int SIDE, int DEPTH, bool BY_TERM, int SPAN, bool IS_B> class TileRead {
    static constexpr int WIDTH = BY_TERM ? SIDE : DEPTH;
    static constexpr int PLACES = BY_TERM ? SPAN / 16 : DEPTH / 16;

    const bf16 *places[PLACES]; // in the ring's first tile: those that differ by more than whole rows

  public:
    static constexpr int COUNT = SPAN / 16;

    __device__ inline TileRead(int first, const bf16 *ring) {
        const int lane = threadIdx.x % 32; // 8 lanes name the rows of each of the fragment's 8x8 matrices
        const int side = IS_B ? lane / 16 : lane / 8 % 2;
        const int term = IS_B ? lane / 8 % 2 : lane / 16;
#pragma unroll
        for (int i = 0; i < PLACES; i++) {
            places[i] = kept(ring + (BY_TERM ? swizzle<WIDTH>(term * 8 + lane % 8, first / 8 + i * 2 + side)
                                             : swizzle<WIDTH>(first + side * 8 + lane % 8, i * 2 + term)));
        }
    }

    // Terms 16 group to 16 group + 15 of the tile `stage` values behind the ring's begin.
    __device__ inline void read(uint32_t (&fragments)[COUNT][4], int stage, int group) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (BY_TERM) {
                load_matrix_x4_trans(fragments[i], places[i] + stage + group * 16 * WIDTH);
            } else {
                load_matrix_x4(fragments[i], places[group] + stage + i * 16 * WIDTH);
            }
        }
    }
};

// What a warp owns: sums[i][j] are rows 16 i on, columns 8 j on, as mma_bf16 lays them out.
template <typename Shape> struct GemmSums {
    float products[Shape::WARP_M / 16][Shape::WARP_N / 8][4] = {};
    float rows[Shape::WARP_M / 16][4] = {}; // of A: 0 and 1 hold the sum of row lane / 4, 2 and 3 of 8 rows below
};

// Where this block and this warp stand.
template <typename Shape> struct GemmPlace {
    int row, column;           // of the warp's part of C
    int warp_row, warp_column; // of it in the block's
    int first_step, steps;     // of K terms
    int whole_steps;           // of them, which have all their terms

    __device__ inline explicit GemmPlace(int k) {
        const int warp = threadIdx.x / 32;
        warp_row = warp / 2 * Shape::WARP_M;
        warp_column = warp % 2 * Shape::WARP_N;
        row = blockIdx.x * Shape::M + warp_row;
        column = blockIdx.y * Shape::N + warp_column;
        const int all = (k + Shape::K - 1) / Shape::K;
        const int share = (all + gridDim.z - 1) / gridDim.z;
        first_step = blockIdx.z * share;
        steps = min(share, all - first_step);
        whole_steps = min(steps, k / Shape::K - first_step);
    }
};

// The products of 16 terms. ROW_SUMS: also A's terms themselves, as a product with ones.
template <bool ROW_SUMS, typename Shape, int OF_A, int OF_B>
__device__ inline void add_products(GemmSums<Shape> &sums, const uint32_t (&a)[OF_A][4], const uint32_t (&b)[OF_B][4]) {
    constexpr uint32_t ONES = 0x3f803f80u; // two of bf16
#pragma unroll
    for (int i = 0; i < OF_A; i++) {
#pragma unroll
        for (int j = 0; j < OF_B * 2; j++) {
            mma_bf16(sums.products[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
#pragma unroll
    for (int i = 0; ROW_SUMS && i < OF_A; i++) {
        mma_bf16(sums.rows[i], a[i], ONES, ONES);
    }
}

// Adds A B^T to the sums of a block that has steps. ROW_SUMS: and the sums of A's rows.
template <typename Shape, bool A_BY_TERM, bool B_BY_TERM, bool ROW_SUMS>
__device__ inline void multiply(GemmSums<Shape> &sums, const GemmPlace<Shape> &place, const Matrix &a,
                                const Matrix &b) {
    constexpr int GROUPS = Shape::K / 16;
    static_assert(GROUPS % 2 == 0, "a stage begins with fragments 0 and is left one group before its end");
    extern __shared__ __align__(128) bf16 gemm_ring[];

    bf16 *ring_b = gemm_ring + Shape::M * Shape::K;
    TileCopy<Shape::M, Shape::K, A_BY_TERM> copy_a(a, blockIdx.x * Shape::M, place.first_step * Shape::K, gemm_ring);
    TileCopy<Shape::N, Shape::K, B_BY_TERM> copy_b(b, blockIdx.y * Shape::N, place.first_step * Shape::K, ring_b);
    const TileRead<Shape::M, Shape::K, A_BY_TERM, Shape::WARP_M, false> read_a(place.warp_row, gemm_ring);
    const TileRead<Shape::N, Shape::K, B_BY_TERM, Shape::WARP_N, true> read_b(place.warp_column, ring_b);
    uint32_t of_a[2][read_a.COUNT][4], of_b[2][read_b.COUNT][4];

    auto fill = [&](int step, int stage) {
        copy_a.template copy<false>(step, 0, stage);
        copy_b.template copy<false>(step, 0, stage);
        copy_a.reach(1);
        copy_b.reach(1);
    };
    auto fill_whole = [&](int nth, int stage) {
        copy_a.template copy<true>(0, nth, stage);
        copy_b.template copy<true>(0, nth, stage);
    };
    auto read = [&](int stage, int group) {
        read_a.read(of_a[group % 2], stage, group);
        read_b.read(of_b[group % 2], stage, group);
    };
    // The products of the K terms in `stage`; `fill_ahead` fills the stage before it with the terms that come last.
    auto add_stage = [&](int stage, int next, const auto &fill_ahead) {
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            if (group < GROUPS - 1) {
                read(stage, group + 1);
            } else {
                copy_async_wait<Shape::STAGES - 2>();
                __syncthreads(); // the next stage is here for all; and all have left this one, which is filled next
                read(next, 0);
            }
            if (group == 0) {
                fill_ahead();
                copy_async_commit();
            }
            add_products<ROW_SUMS>(sums, of_a[group % 2], of_b[group % 2]);
        }
    };

#pragma unroll
    for (int stage = 0; stage < Shape::STAGES - 1; stage++) {
        if (stage < place.steps) {
            fill(stage, stage * Shape::STAGE_VALUES);
        }
        copy_async_commit(); // an empty group too, so that the count of groups is that of steps
    }
    copy_async_wait<Shape::STAGES - 2>();
    __syncthreads();
    read(0, 0);

    // Whole rounds of the ring that fill it with whole steps: all places in shared memory are constants.
    int step = 0;
#pragma unroll 1
    for (; step + 2 * Shape::STAGES - 1 <= place.whole_steps; step += Shape::STAGES) {
#pragma unroll
        for (int i = 0; i < Shape::STAGES; i++) {
            const int ahead = (i + Shape::STAGES - 1) % Shape::STAGES;
            const int next = (i + 1) % Shape::STAGES;
            add_stage(i * Shape::STAGE_VALUES, next * Shape::STAGE_VALUES,
                      [&] { fill_whole(i, ahead * Shape::STAGE_VALUES); });
        }
        copy_a.reach(Shape::STAGES);
        copy_b.reach(Shape::STAGES);
    }
    // The others, less than two rounds, of which the last may be short of terms.
    int stage = 0;
    int ahead = (Shape::STAGES - 1) * Shape::STAGE_VALUES;
#pragma unroll 1
    for (; step < place.steps; step++) {
        const int next = stage == (Shape::STAGES - 1) * Shape::STAGE_VALUES ? 0 : stage + Shape::STAGE_VALUES;
        const int after = step + 1 < place.steps ? next : stage; // after the last step: anything that is there
        add_stage(stage, after, [&] {
            if (step + Shape::STAGES - 1 < place.steps) {
                fill(step + Shape::STAGES - 1, ahead);
            }
        });
        ahead = stage;
        stage = next;
    }
}

// COUNT neighbours in memory, moved at once.
template <typename T, int COUNT> struct alignas(sizeof(T) * COUNT) Neighbours {
    T values[COUNT];
};

template <typename T, int COUNT> __device__ inline void load_values(float (&to)[COUNT], const T *from) {
    const auto loaded = *reinterpret_cast<const Neighbours<T, COUNT> *>(from);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        to[i] = to_float(loaded.values[i]);
    }
}

template <typename T, int COUNT> __device__ inline void add_values(float (&to)[COUNT], const T *from) {
    float loaded[COUNT];
    load_values(loaded, from);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        to[i] += loaded[i];
    }
}

template <typename T, int COUNT> __device__ inline void store_values(T *to, const float (&from)[COUNT]) {
    Neighbours<T, COUNT> stored;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        stored.values[i] = from_float<T>(from[i]);
    }
    *reinterpret_cast<Neighbours<T, COUNT> *>(to) = stored;
}

// 8 floats, in two halves of which every second group of 4 lanes takes the second one first: 8 lanes, which shared
// memory serves together, then lie in different banks.
__device__ inline void load_staged(float (&to)[8], const float *from) {
    const int swapped = threadIdx.x / 4 % 2;
    float halves[2][4];
    load_values(halves[0], from + 4 * swapped);
    load_values(halves[1], from + 4 - 4 * swapped);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[i] = swapped ? halves[1][i] : halves[0][i];
        to[i + 4] = swapped ? halves[0][i] : halves[1][i];
    }
}

template <int COUNT> __device__ inline void load_staged(float (&to)[COUNT], const float *from) {
    load_values(to, from);
}

// Hands each sum of C to `out(row, column, values)`, Out::COUNT neighbours at a time. A warp takes 16 rows at a time
// through its own part of shared memory, so that neighbouring lanes get neighbouring columns.
template <typename Shape, typename Out>
__device__ inline void put(const GemmSums<Shape> &sums, const GemmPlace<Shape> &place, int m, int n, const Out &out) {
    constexpr int STRIDE = Shape::WARP_N + 8; // 4 rows of pairs fill the 32 banks
    constexpr int PIECES = Shape::WARP_N / Out::COUNT;
    static_assert(4 * 16 * STRIDE * sizeof(float) <= GEMM_SHARED_BYTES, "fits in the ring");
    extern __shared__ __align__(128) bf16 gemm_ring[];
    const int lane = threadIdx.x % 32;
    float *staged = reinterpret_cast<float *>(gemm_ring) + threadIdx.x / 32 * 16 * STRIDE;
    __syncthreads(); // all have left the ring
#pragma unroll
    for (int i = 0; i < Shape::WARP_M / 16; i++) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < Shape::WARP_N / 8; j++) {
            float *to = staged + lane / 4 * STRIDE + j * 8 + lane % 4 * 2;
            const float(&four)[4] = sums.products[i][j];
            *reinterpret_cast<float2 *>(to) = make_float2(four[0], four[1]);
            *reinterpret_cast<float2 *>(to + 8 * STRIDE) = make_float2(four[2], four[3]);
        }
        __syncwarp();
#pragma unroll(Out::UNROLL)
        for (int piece = lane; piece < 16 * PIECES; piece += 32) {
            const int row = piece / PIECES;
            const int column = piece % PIECES * Out::COUNT;
            if (place.row + i * 16 + row < m && place.column + column < n) {
                float values[Out::COUNT];
                load_staged(values, staged + row * STRIDE + column);
                out(place.row + i * 16 + row, place.column + column, values);
            }
        }
    }
}

// Where a split's share of a sum waits for the others: [splits, m, n], n a multiple of 8.
__device__ inline size_t partial_at(int split, int row, int column, int m, int n) {
    return (static_cast<size_t>(split) * m + row) * n + column;
}

// As `put` hands them over.
struct PutPartial {
    static constexpr int COUNT = 4;
    static constexpr int UNROLL = 8;
    float *partials;
    int m, n;

    __device__ inline void operator()(int row, int column, const float (&values)[COUNT]) const {
        store_values(partials + partial_at(blockIdx.z, row, column, m, n), values);
    }
};
