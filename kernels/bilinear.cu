// Grouped bilinear form: y[c,n] = sum over t and j of zs[c,t] zo[c,g k + j] W[n,t k + j] (+ b[n]), where t runs over all
// E subject values, g = t / k is t's group and j < k runs over the group's object values.
//
// zs, zo [cells, E]; W [outs, E k], b [outs], all bf16. The products zs zo, [cells, E k], exist in registers only. k is 32
// or 64, a name's last number. Sizes: E a multiple of k, outs and cells any.
//
// bilinear_forward_k: y = W bl, a matrix product whose left operand is generated. A block owns 128 cells x 128 outs and
//   the t of one part. A warp (4 x 2 of them) holds the group's object values of its 32 cells as operands a for all k
//   values of t, multiplies them by zs[c,t] (rounded to bf16, as eager PyTorch stores the products) and walks over W,
//   128 rows x 64 values a stage. Reads W once for each tile of cells, zs and zo once for each tile of outs. Tiles of cells
//   come first in the grid, so that those that share a part of W run together: W is larger than the L2 cache.
//   Writes the sums of the parts in f32 [parts, cells, outs].
// bilinear_finish_*: y = sum over the parts, in their order, + b. Reads the sums, writes y once. Also for dzo.
// bilinear_weight_k: dW[n,t,j] += sum over c of dy[c,n] (zs[c,t] zo[c,g,j]). A block owns 64 outs x (512 / k) t x k values
//   of j and walks over all cells: operand a is dy, operand b zo scaled by zs, in bf16, which serves all outs. Reads dy for
//   each 512 / k values of t, zo for each 64 outs and as many t; reads and writes dW once, in f32.
// bilinear_inputs_k: S = dy W, [cells, E k], in registers only, 128 cells x (128 / k) t at a time;
//   dzs[c,t] = sum over j of S[c,t,j] zo[c,g,j]; dzo[c,g,j] = sum over t of zs[c,t] S[c,t,j]. A block owns 128 cells and
//   the t of a part of one group: its dzs, and with one part its dzo; with more, sums in f32 [parts, cells, E] that
//   bilinear_finish_bf16 adds up. Reads dy for each 128 / k values of t (from the L2 cache), W for each tile of cells.
// bilinear_columns: column sums of dy over a block's rows, f32 [blocks, outs] (for db), and a copy of dy whose rows are
//   multiples of 64 values, with zeros behind each: rows of 97 classes are not aligned to 16 bytes.
// bilinear_bias: db += those sums, in the order of the blocks. Its few hundred bytes do not fill sectors where outs is 97.
//
// What parts cost: their sums are written and read once, beyond the floor of y or dzo. dzo has as many as the host finds
// best against multiprocessors that have nothing to do; y always the same number, or a cell's bits would depend on the
// number of cells. At E = 1024, 768 outs, in 5 parts: y of 406 cells moves 12 % more bytes than its floor, with 5 times
// as many blocks, y of 1,624 cells 43 %. Otherwise, counted on softgpu
// (tests/ops/bilinear.rs holds them to it): bytes are those above, all sectors full but those of zs in dW of k = 64 (8
// values; 97 % over the kernel), bank conflicts below 1 %.
//
// Every output has one owner and every sum one order: the same bits on every run. dW and db accumulate, y, dzs and dzo are
// assigned. Backward recomputes the products and stores none. Measured on a GPU: H200.md.
#include "common.cuh"

constexpr int CELLS = 128; // of a block, in the forward kernel and in that of dzs and dzo
constexpr int THREADS = 256;
constexpr int WARP_CELLS = 32;
constexpr int WARP_COLUMNS = 64;

// Where value (row, column) lies in a swizzled tile. It follows that the value `more` columns further on, more a multiple
// of 16 that the column has no bits of, lies at (place ^ more).
template <int WIDTH> __device__ inline int place(int row, int column) { return swizzle<WIDTH>(row, 0) ^ column; }

// A thread's part in loading tiles of HEIGHT x WIDTH values out of the rows x stride values at `corner`; of a row that is
// not there zeros. The chunks of one thread lie so many rows apart that the swizzle repeats.
template <int HEIGHT, int WIDTH, int LOADERS> struct Tile {
    static constexpr int COUNT = HEIGHT * WIDTH / 8 / LOADERS;
    static constexpr int ROWS = LOADERS * 8 / WIDTH; // from one chunk to the next
    static_assert(ROWS % 8 == 0 && COUNT * ROWS == HEIGHT, "whole turns of all threads");
    int to, stride, rows;    // `rows` of the matrix, from this thread's first in the tile on
    const bf16 *from[COUNT]; // in the tile; where no row is, never read

    __device__ Tile(const bf16 *corner, int stride, int rows, int thread = threadIdx.x) : stride(stride) {
        const int row = thread / (WIDTH / 8), column = thread % (WIDTH / 8) * 8;
        to = place<WIDTH>(row, column);
        this->rows = rows - row;
        for (int i = 0; i < COUNT; i++) {
            from[i] = kept(corner + static_cast<size_t>(row + i * ROWS) * stride + column);
        }
    }

    // The tile `columns` to the right of this one.
    __device__ void load(bf16 *tile, int columns = 0) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            copy_async(tile + to + i * ROWS * WIDTH, from[i] + columns, i * ROWS < rows);
        }
    }

    // To the tile below this one: fewer instructions in a loop than rows times the stride.
    __device__ void move_down() {
        rows -= HEIGHT;
        for (const bf16 *&row : from) {
            row += HEIGHT * static_cast<size_t>(stride);
        }
    }
};

__device__ inline __nv_bfloat162 as_pair(uint32_t bits) { return *reinterpret_cast<__nv_bfloat162 *>(&bits); }

__device__ inline uint32_t multiply_pairs(uint32_t x, uint32_t y) {
    const __nv_bfloat162 product = __hmul2(as_pair(x), as_pair(y));
    return *reinterpret_cast<const uint32_t *>(&product);
}

// A warp's 32 x 64 results of mma: [rows / 16][columns / 8][value].
using Sums = float[2][WARP_COLUMNS / 8][4];

// Results in shared memory, so that they leave for global memory in whole rows. The 8 values behind each row make two
// rows' pairs fall into different banks.
template <int WIDTH> constexpr int RESULT_STRIDE = WIDTH + 8;

__device__ inline float2 *result_pair(float *tile, int stride, int warp_row, int column, int i, int half) {
    const int lane = threadIdx.x % 32;
    const int row = warp_row + i * 16 + half * 8 + lane / 4;
    return reinterpret_cast<float2 *>(tile + row * stride + column + lane % 4 * 2);
}

__device__ inline void store_four(float *to, float4 x) { *reinterpret_cast<float4 *>(to) = x; }

__device__ inline void store_four(bf16 *to, float4 x) {
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
}

// rows x width results to `to`, whose rows are `stride` apart, UNIT values (1 or 4) a thread. Neighbouring threads go on
// in the next row where one ends, so that a tile as wide as the matrix is written without a gap.
template <int UNIT, typename Out>
__device__ inline void copy_out(Out *to, size_t stride, const float *tile, int tile_stride, int rows, int width) {
    const int units = width / UNIT;
    const int more_rows = THREADS / units, more_units = THREADS % units;
    int row = threadIdx.x / units, unit = threadIdx.x % units;
    while (row < rows) {
        Out *there = to + row * stride + unit * UNIT;
        const float *here = tile + row * tile_stride + unit * UNIT;
        if constexpr (UNIT == 4) {
            store_four(there, *reinterpret_cast<const float4 *>(here));
        } else {
            *there = from_float<Out>(*here);
        }
        row += more_rows;
        unit += more_units;
        if (unit >= units) {
            unit -= units;
            row++;
        }
    }
}

// From one part's sums to the next: `count` of them, and up to a whole sector of 32 bytes.
__device__ inline size_t part_stride(size_t count) { return (count + 7) / 8 * 8; }

// ---- y

constexpr int OUTS = 128; // of a block
constexpr int DEPTH = 64; // values of a row of W in a stage: one t, or two of the smaller k
constexpr int STAGES = 4;
constexpr int SUBJECTS = 16; // values of t that are loaded at once: a sector of 32 bytes of each row

template <int K> struct ForwardShared {
    bf16 weights[STAGES][OUTS * DEPTH];
    bf16 subjects[2][CELLS * SUBJECTS];
    bf16 objects[CELLS * K];
};
static_assert(sizeof(ForwardShared<64>) == 90112 && sizeof(ForwardShared<32>) == 81920, "what the host passes");
static_assert(CELLS * RESULT_STRIDE<OUTS> * 4 <= sizeof(ForwardShared<32>), "results take the place of the operands");

struct Form {
    const bf16 *zs, *zo, *w;
    int cells, e, outs;
};

// Brings what the stages need into shared memory.
template <int K> struct ForwardLoader {
    Tile<OUTS, DEPTH, THREADS> weights;
    Tile<CELLS, SUBJECTS, THREADS> subjects;
    Tile<CELLS, K, THREADS> objects;

    __device__ ForwardLoader(const Form &form, int cell0, int out0)
        : weights(form.w + static_cast<size_t>(out0) * form.e * K, form.e * K, form.outs - out0),
          subjects(form.zs + static_cast<size_t>(cell0) * form.e, form.e, form.cells - cell0),
          objects(form.zo + static_cast<size_t>(cell0) * form.e, form.e, form.cells - cell0) {}

    __device__ void load_subjects(ForwardShared<K> &shared, uint32_t t) const {
        subjects.load(shared.subjects[t / SUBJECTS % 2], t);
    }
    __device__ void load_objects(ForwardShared<K> &shared, uint32_t t) const {
        objects.load(shared.objects, t / K * K);
    }
};

// TURN values of t pass between two looks at what else is to be loaded or read: all stages of the ring, once.
template <int K> constexpr int TURN = STAGES *(DEPTH / K);

// zs[c,t] of this thread's rows for the TURN values from t on. row: place of the first row's t = 0.
template <int K>
__device__ inline void load_scales(uint32_t (&scales)[4][TURN<K> / 2], const ForwardShared<K> &shared, int row,
                                   uint32_t t) {
    for (int r = 0; r < 4; r++) {
        const bf16 *from = shared.subjects[t / SUBJECTS % 2] + (row ^ t % SUBJECTS) + r * 8 * SUBJECTS;
        for (int i = 0; i < TURN<K> / 4; i++) {
            const uint2 four = reinterpret_cast<const uint2 *>(from)[i];
            scales[r][2 * i] = four.x;
            scales[r][2 * i + 1] = four.y;
        }
    }
}

// sums += (objects scaled by the t number `s` of a turn) times its weights. row: place of this lane's row of operands b.
template <int K>
__device__ inline void multiply_stage(Sums &sums, const uint32_t (&objects)[2][K / 16][4],
                                      const uint32_t (&scales)[4][TURN<K> / 2], int s, const bf16 *weights, int row) {
    uint32_t twice[4];
    for (int r = 0; r < 4; r++) {
        twice[r] = __byte_perm(scales[r][s / 2], 0, s % 2 == 0 ? 0x1010 : 0x3232);
    }
#pragma unroll
    for (int depth = 0; depth < K; depth += 16) {
        uint32_t a[2][4];
        for (int i = 0; i < 2; i++) {
            for (int r = 0; r < 4; r++) {
                a[i][r] = multiply_pairs(objects[i][depth / 16][r], twice[i * 2 + r % 2]);
            }
        }
        for (int j = 0; j < WARP_COLUMNS / 16; j++) {
            uint32_t b[4];
            load_matrix_x4(b, weights + (row ^ depth) + j * 16 * DEPTH);
            for (int i = 0; i < 2; i++) {
                mma_bf16(sums[i][j * 2], a[i], b[0], b[1]);
                mma_bf16(sums[i][j * 2 + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// This part's sums, by way of `tile` in shared memory.
__device__ inline void store_results(const Sums &sums, float *tile, float *partials, int cells, int outs, int warp_row,
                                     int warp_column) {
    constexpr int STRIDE = RESULT_STRIDE<OUTS>;
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < WARP_COLUMNS / 8; j++) {
            for (int half = 0; half < 2; half++) {
                *result_pair(tile, STRIDE, warp_row, warp_column + j * 8, i, half) =
                    make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
        }
    }
    __syncthreads();
    const int cell0 = blockIdx.x * CELLS, out0 = blockIdx.y * OUTS;
    const int rows = min(CELLS, cells - cell0), width = min(OUTS, outs - out0);
    const size_t offset = static_cast<size_t>(cell0) * outs + out0;
    partials += offset + blockIdx.z * part_stride(static_cast<size_t>(cells) * outs);
    if (outs % 4 == 0) {
        copy_out<4>(partials, outs, tile, STRIDE, rows, width);
    } else {
        copy_out<1>(partials, outs, tile, STRIDE, rows, width);
    }
}

// `per`: values of t in a part, a multiple of SUBJECTS.
template <int K> __device__ inline void forward(const Form &form, float *partials, int per) {
    extern __shared__ __align__(128) unsigned char memory[];
    ForwardShared<K> &shared = *reinterpret_cast<ForwardShared<K> *>(memory);
    constexpr int STEP = DEPTH / K; // values of t in a stage
    constexpr int LEAD = (STAGES - 1) * STEP;
    static_assert(SUBJECTS % TURN<K> == 0, "whole turns");
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 2 * WARP_CELLS;
    const int warp_column = warp % 2 * WARP_COLUMNS;
    const int scale_row = kept(place<SUBJECTS>(warp_row + lane / 4, 0));
    const int object_row = kept(place<K>(warp_row + lane % 16, lane / 16 * 8));
    const int weight_row = kept(place<DEPTH>(warp_column + lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8));
    const uint32_t first = blockIdx.z * per, last = min(first + per, form.e);
    const ForwardLoader<K> loader(form, blockIdx.x * CELLS, blockIdx.y * OUTS);
    uint32_t objects[2][K / 16][4];
    Sums sums = {};

    loader.load_subjects(shared, first);
    loader.load_objects(shared, first);
    for (int stage = 0; stage < STAGES - 1; stage++) {
        loader.weights.load(shared.weights[stage], (first + stage * STEP) * K);
        copy_async_commit();
    }
    for (uint32_t turn = first; turn < last; turn += TURN<K>) {
        uint32_t scales[4][TURN<K> / 2];
#pragma unroll
        for (int stage = 0; stage < STAGES; stage++) {
            const uint32_t ahead = turn + stage * STEP + LEAD;
            copy_async_wait<STAGES - 2>();
            __syncthreads(); // this stage is here for all; and all have left the stage that is filled next
            if (stage == 0) {
                load_scales<K>(scales, shared, scale_row, turn);
                if (turn % K == 0 || turn == first) {
                    for (int i = 0; i < 2; i++) {
                        for (int d = 0; d < K / 16; d++) {
                            load_matrix_x4(objects[i][d], shared.objects + (object_row ^ d * 16) + i * 16 * K);
                        }
                    }
                }
            }
            if (ahead < last) {
                loader.weights.load(shared.weights[(stage + STAGES - 1) % STAGES], ahead * K);
                if (stage == 1 && ahead % SUBJECTS == 0) {
                    loader.load_subjects(shared, ahead);
                    if (ahead % K == 0) {
                        loader.load_objects(shared, ahead); // the last group's are in registers
                    }
                }
            }
            copy_async_commit(); // an empty group too, so that the count of groups is that of steps
            for (int s = 0; s < STEP; s++) {
                multiply_stage<K>(sums, objects, scales, stage * STEP + s, shared.weights[stage], weight_row ^ s * K);
            }
        }
    }
    copy_async_wait<0>();
    __syncthreads(); // all are done with the operands
    store_results(sums, reinterpret_cast<float *>(memory), partials, form.cells, form.outs, warp_row, warp_column);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    bilinear_forward_32(const bf16 *zs, const bf16 *zo, const bf16 *w, float *partials, int cells, int e, int outs,
                        int per) {
    forward<32>({zs, zo, w, cells, e, outs}, partials, per);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    bilinear_forward_64(const bf16 *zs, const bf16 *zo, const bf16 *w, float *partials, int cells, int e, int outs,
                        int per) {
    forward<64>({zs, zo, w, cells, e, outs}, partials, per);
}

// ---- sums of parts

// Value i by itself.
template <typename Out>
__device__ inline void finish_one(const float *partials, const bf16 *b, Out *y, size_t count, size_t i, int columns,
                                  int parts) {
    float sum = 0.0f;
    for (int part = 0; part < parts; part++) {
        sum += partials[part * part_stride(count) + i];
    }
    y[i] = from_float<Out>(b == nullptr ? sum : sum + to_float(b[i % columns]));
}

// y[i] = sum over p of partials[p,i], + b[i mod columns] unless null. 4 values a thread, or 1 if a row's end forbids it.
template <typename Out>
__device__ inline void finish(const float *partials, const bf16 *b, Out *y, size_t count, int columns, int parts) {
    const size_t thread = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
    if (columns % 4 != 0) {
        if (thread < count) {
            finish_one(partials, b, y, count, thread, columns, parts);
        }
        return;
    }
    if (thread * 4 >= count) {
        return;
    }
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int part = 0; part < parts; part++) {
        const float *from = partials + part * part_stride(count) + thread * 4;
        const float4 more = *reinterpret_cast<const float4 *>(from);
        sum = make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
    }
    if (b != nullptr) {
        const bf16 *bias = b + thread * 4 % columns;
        sum = make_float4(sum.x + to_float(bias[0]), sum.y + to_float(bias[1]), sum.z + to_float(bias[2]),
                          sum.w + to_float(bias[3]));
    }
    store_four(y + thread * 4, sum);
}

extern "C" __global__ void __launch_bounds__(256)
    bilinear_finish_f32(const float *partials, const bf16 *b, float *y, size_t count, int columns, int parts) {
    finish(partials, b, y, count, columns, parts);
}

extern "C" __global__ void __launch_bounds__(256)
    bilinear_finish_bf16(const float *partials, const bf16 *b, bf16 *y, size_t count, int columns, int parts) {
    finish(partials, b, y, count, columns, parts);
}

// ---- dW

constexpr int WEIGHT_OUTS = 64;
constexpr int WEIGHT_CELLS = 32; // of a stage

// Values of t of a warp, whose sums fill 128 registers, and of a block.
template <int K> constexpr int OWN_SUBJECTS = 64 / K;
template <int K> constexpr int WEIGHT_SUBJECTS = OWN_SUBJECTS<K> *THREADS / 32;

// A warp's results of mma: [t][outs / 16][j / 8][value].
template <int K> using WeightSums = float[OWN_SUBJECTS<K>][WEIGHT_OUTS / 16][K / 8][4];

// A stage's rows are cells.
template <int K> struct WeightStage {
    bf16 dy[WEIGHT_CELLS * WEIGHT_OUTS];
    bf16 objects[WEIGHT_CELLS * K];
    bf16 subjects[WEIGHT_CELLS * WEIGHT_SUBJECTS<K>];
};

// Brings stages into shared memory: the first threads rows of zo, the last ones of zs.
template <int K> struct WeightLoader {
    static constexpr int OBJECT_THREADS = WEIGHT_CELLS * K / 8;
    static constexpr int SUBJECT_THREADS = WEIGHT_CELLS * WEIGHT_SUBJECTS<K> / 8;
    static_assert(OBJECT_THREADS <= THREADS && SUBJECT_THREADS <= THREADS, "a chunk a thread");
    Tile<WEIGHT_CELLS, WEIGHT_OUTS, THREADS> dy;
    Tile<WEIGHT_CELLS, K, OBJECT_THREADS> objects;
    Tile<WEIGHT_CELLS, WEIGHT_SUBJECTS<K>, SUBJECT_THREADS> subjects;

    __device__ WeightLoader(const bf16 *dy, int dy_stride, const Form &form)
        : dy(dy + blockIdx.x * WEIGHT_OUTS, dy_stride, form.cells),
          objects(form.zo + blockIdx.y * WEIGHT_SUBJECTS<K> / K * K, form.e, form.cells),
          subjects(form.zs + blockIdx.y * WEIGHT_SUBJECTS<K>, form.e, form.cells, THREADS - 1 - threadIdx.x) {}

    __device__ void load_next(WeightStage<K> &stage) {
        dy.load(stage.dy);
        if (threadIdx.x < OBJECT_THREADS) {
            objects.load(stage.objects);
        }
        if (threadIdx.x >= THREADS - SUBJECT_THREADS) {
            subjects.load(stage.subjects);
        }
        copy_async_commit();
        dy.move_down();
        objects.move_down();
        subjects.move_down();
    }
};

// Where this lane reads of each 16 cells: rows of operands a and b, and the first t of the cells 2 (lane mod 4) and one
// more.
template <int K> struct WeightPlaces {
    int dy, objects, scales[2];

    __device__ WeightPlaces() {
        const int lane = threadIdx.x % 32;
        const int subject = threadIdx.x / 32 * OWN_SUBJECTS<K>;
        dy = kept(place<WEIGHT_OUTS>(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8));
        objects = kept(place<K>(lane % 16, lane / 16 * 8));
        for (int odd = 0; odd < 2; odd++) {
            scales[odd] = kept(place<WEIGHT_SUBJECTS<K>>(lane % 4 * 2 + odd, subject));
        }
    }
};

// scales[s][h] = (zs[c,t], zs[c + 1,t]) of the warp's t number s, for the cells c = 2 (lane mod 4) + 8 h of 16.
template <int K>
__device__ inline void load_scales(uint32_t (&scales)[OWN_SUBJECTS<K>][2], const bf16 *subjects,
                                   const int (&rows)[2]) {
    for (int h = 0; h < 2; h++) {
        const bf16 *from = subjects + h * 8 * WEIGHT_SUBJECTS<K>;
        if constexpr (K == 64) {
            const uint16_t *bits = reinterpret_cast<const uint16_t *>(from);
            scales[0][h] = __byte_perm(bits[rows[0]], bits[rows[1]], 0x5410);
        } else {
            const uint32_t even = *reinterpret_cast<const uint32_t *>(from + rows[0]); // of both t
            const uint32_t odd = *reinterpret_cast<const uint32_t *>(from + rows[1]);
            scales[0][h] = __byte_perm(even, odd, 0x5410);
            scales[1][h] = __byte_perm(even, odd, 0x7632);
        }
    }
}

template <int K>
__device__ inline void multiply_stage(WeightSums<K> &sums, const WeightStage<K> &stage, const WeightPlaces<K> &places) {
#pragma unroll
    for (int cell = 0; cell < WEIGHT_CELLS; cell += 16) {
        uint32_t dy[WEIGHT_OUTS / 16][4], scales[OWN_SUBJECTS<K>][2];
        for (int i = 0; i < WEIGHT_OUTS / 16; i++) {
            load_matrix_x4_trans(dy[i], stage.dy + (places.dy ^ i * 16) + cell * WEIGHT_OUTS);
        }
        load_scales<K>(scales, stage.subjects + cell * WEIGHT_SUBJECTS<K>, places.scales);
        for (int j = 0; j < K / 16; j++) {
            uint32_t objects[4], b[4];
            load_matrix_x4_trans(objects, stage.objects + (places.objects ^ j * 16) + cell * K);
            for (int s = 0; s < OWN_SUBJECTS<K>; s++) {
                for (int r = 0; r < 4; r++) {
                    b[r] = multiply_pairs(objects[r], scales[s][r % 2]);
                }
                for (int i = 0; i < WEIGHT_OUTS / 16; i++) {
                    mma_bf16(sums[s][i][j * 2], dy[i], b[0], b[1]);
                    mma_bf16(sums[s][i][j * 2 + 1], dy[i], b[2], b[3]);
                }
            }
        }
    }
}

// dW += sums: a row of the gradient is read as a whole before it is written, to have its loads under way together.
template <int K>
__device__ inline void add_gradient(float *dw, const WeightSums<K> &sums, int e, int outs) {
    const int lane = threadIdx.x % 32;
    const int subject = blockIdx.y * WEIGHT_SUBJECTS<K> + threadIdx.x / 32 * OWN_SUBJECTS<K>;
    for (int row8 = 0; row8 < WEIGHT_OUTS / 8; row8++) {
        const int out = blockIdx.x * WEIGHT_OUTS + row8 * 8 + lane / 4;
        if (out >= outs) {
            continue;
        }
        for (int s = 0; s < OWN_SUBJECTS<K>; s++) {
            float2 *row = reinterpret_cast<float2 *>(dw + (static_cast<size_t>(out) * e + subject + s) * K);
            float2 old[K / 8];
            for (int j = 0; j < K / 8; j++) {
                old[j] = row[j * 4 + lane % 4];
            }
            for (int j = 0; j < K / 8; j++) {
                const float *more = sums[s][row8 / 2][j] + row8 % 2 * 2;
                row[j * 4 + lane % 4] = make_float2(old[j].x + more[0], old[j].y + more[1]);
            }
        }
    }
}

// dy: [cells, dy_stride], of which outs count; dy_stride: a multiple of 64, zeros behind outs.
template <int K> __device__ inline void weight(const bf16 *dy, int dy_stride, const Form &form, float *dw) {
    __shared__ __align__(128) WeightStage<K> stages[STAGES];
    WeightLoader<K> loader(dy, dy_stride, form);
    const WeightPlaces<K> places;
    WeightSums<K> sums = {};

    for (int stage = 0; stage < STAGES - 1; stage++) {
        loader.load_next(stages[stage]);
    }
    for (int turn = 0; turn < form.cells; turn += STAGES * WEIGHT_CELLS) {
#pragma unroll
        for (int stage = 0; stage < STAGES; stage++) {
            const int cell = turn + stage * WEIGHT_CELLS;
            if (cell >= form.cells) {
                break;
            }
            copy_async_wait<STAGES - 2>();
            __syncthreads(); // this stage is here for all; and all have left the stage that is filled next
            loader.load_next(stages[(stage + STAGES - 1) % STAGES]); // behind the last cells: zeros
            multiply_stage<K>(sums, stages[stage], places);
        }
    }
    copy_async_wait<0>(); // the zeros: no block may end before its copies
    add_gradient<K>(dw, sums, form.e, form.outs);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    bilinear_weight_32(const bf16 *dy, int dy_stride, const bf16 *zs, const bf16 *zo, float *dw, int cells, int e,
                       int outs) {
    weight<32>(dy, dy_stride, {zs, zo, nullptr, cells, e, outs}, dw);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    bilinear_weight_64(const bf16 *dy, int dy_stride, const bf16 *zs, const bf16 *zo, float *dw, int cells, int e,
                       int outs) {
    weight<64>(dy, dy_stride, {zs, zo, nullptr, cells, e, outs}, dw);
}

// ---- dzs and dzo

constexpr int INPUT_OUTS = 64; // of a stage

template <int K> struct InputShared {
    struct Stage {
        bf16 dy[CELLS * INPUT_OUTS];
        bf16 weights[2][INPUT_OUTS * WARP_COLUMNS]; // one or two t for either column of warps
    } stages[2];
    bf16 zs[CELLS * K], zo[CELLS * K]; // of the group; dzs takes the place of zs, value by value
};
static_assert(sizeof(InputShared<64>) == 98304 && sizeof(InputShared<32>) == 81920, "what the host passes");
static_assert(CELLS * RESULT_STRIDE<64> * 4 <= sizeof(InputShared<64>::stages), "dzo takes the place of the stages");

// The part of a group that a block works on: the left column of warps takes the first half of its t, the right column the
// second half, STEP at a time.
template <int K> struct Part {
    static constexpr int STEP = WARP_COLUMNS / K;
    int group0;        // the group's first t
    int first, values; // the part's, counted from group0

    __device__ explicit Part(int parts)
        : group0(blockIdx.y / parts * K), first(blockIdx.y % parts * (K / parts)), values(K / parts) {}
    // The first t of turn `turn` for a column of warps, counted from group0.
    __device__ int subject(int turn, int side) const { return first + side * (values / 2) + turn * STEP; }
    __device__ int turns() const { return values / 2 / STEP; }
};

// Brings stages into shared memory: all outs of the first turn, all outs of the second, ..
template <int K> struct InputLoader {
    static constexpr int HALF = THREADS / 2; // of the threads, for each column of warps' rows of W
    Tile<CELLS, INPUT_OUTS, THREADS> dy;
    Tile<INPUT_OUTS, WARP_COLUMNS, HALF> weights;
    int side;

    __device__ InputLoader(const bf16 *dy, int dy_stride, const Form &form, const Part<K> &part, int cell0, int side)
        : dy(dy + static_cast<size_t>(cell0) * dy_stride, dy_stride, form.cells - cell0),
          weights(form.w + (part.group0 + part.subject(0, side)) * K, form.e * K, form.outs, threadIdx.x % HALF),
          side(side) {}

    // The stage of the outs from `out` on.
    __device__ void load(typename InputShared<K>::Stage &stage, int out) {
        dy.load(stage.dy, out);
        weights.load(stage.weights[side]);
        weights.move_down();
        copy_async_commit();
    }

    // From behind the last of `steps` stages back to the first outs, and on to the next t.
    __device__ void next_turn(int steps) {
        weights.rows += steps * INPUT_OUTS;
        for (const bf16 *&row : weights.from) {
            row += Part<K>::STEP * K - static_cast<ptrdiff_t>(steps) * INPUT_OUTS * weights.stride;
        }
    }
};

// dy_row, weight_row: places of this lane's rows of operands a and b.
template <int K>
__device__ inline void multiply_stage(Sums &sums, const typename InputShared<K>::Stage &stage, int side, int dy_row,
                                      int weight_row) {
#pragma unroll
    for (int out = 0; out < INPUT_OUTS; out += 16) {
        uint32_t a[2][4];
        for (int i = 0; i < 2; i++) {
            load_matrix_x4(a[i], stage.dy + (dy_row ^ out) + i * 16 * INPUT_OUTS);
        }
        for (int j = 0; j < WARP_COLUMNS / 16; j++) {
            uint32_t b[4];
            load_matrix_x4_trans(b, stage.weights[side] + (weight_row ^ j * 16) + out * WARP_COLUMNS);
            for (int i = 0; i < 2; i++) {
                mma_bf16(sums[i][j * 2], a[i], b[0], b[1]);
                mma_bf16(sums[i][j * 2 + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// S of the warp's t = subject, .. (counted from the group's first) has been summed up: its share of dzs and dzo.
template <int K>
__device__ inline void reduce_s(float (&dzo)[2][K / 8][4], Sums &s, InputShared<K> &shared, int warp_row, int subject) {
    constexpr int STEP = Part<K>::STEP;
    const int lane = threadIdx.x % 32;
    float dzs[STEP]; // of row 8 (lane mod 4) + lane / 4
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = warp_row + i * 8 + lane / 4;
        float scale[STEP], dot[STEP] = {};
        for (int t = 0; t < STEP; t++) {
            scale[t] = to_float(shared.zs[place<K>(row, subject + t)]);
        }
        for (int j = 0; j < WARP_COLUMNS / 8; j++) {
            const int t = j * 8 / K, column = j % (K / 8);
            const float *pair = s[i / 2][j] + i % 2 * 2;
            const bf16 *zo = shared.zo + place<K>(row, column * 8 + lane % 4 * 2);
            const float2 object = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(zo));
            dot[t] += pair[0] * object.x + pair[1] * object.y;
            for (int v = 0; v < 2; v++) {
                dzo[i / 2][column][i % 2 * 2 + v] += scale[t] * pair[v];
            }
        }
        for (int t = 0; t < STEP; t++) {
            dot[t] += __shfl_xor_sync(ALL_LANES, dot[t], 1); // a row lies in four lanes
            dot[t] += __shfl_xor_sync(ALL_LANES, dot[t], 2);
            dzs[t] = i == 0 || lane % 4 == i ? dot[t] : dzs[t];
        }
    }
    __syncwarp(); // all have read their zs, whose place dzs takes
    for (int t = 0; t < STEP; t++) {
        const int row = warp_row + lane % 4 * 8 + lane / 4;
        shared.zs[place<K>(row, subject + t)] = from_float<bf16>(dzs[t]);
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < WARP_COLUMNS / 8; j++) {
            for (int v = 0; v < 4; v++) {
                s[i][j][v] = 0.0f;
            }
        }
    }
}

// The two columns of warps hold dzo of the first and of the second half of t: left + right.
template <int K>
__device__ inline void join_sides(float *tile, const float (&dzo)[2][K / 8][4], int warp_row, bool left) {
    for (int turn = 0; turn < 2; turn++) {
        if (left == (turn == 0)) {
            for (int i = 0; i < 2; i++) {
                for (int j = 0; j < K / 8; j++) {
                    for (int half = 0; half < 2; half++) {
                        float2 *to = result_pair(tile, RESULT_STRIDE<K>, warp_row, j * 8, i, half);
                        const float2 before = left ? make_float2(0.0f, 0.0f) : *to;
                        *to = make_float2(before.x + dzo[i][j][half * 2], before.y + dzo[i][j][half * 2 + 1]);
                    }
                }
            }
        }
        __syncthreads();
    }
}

template <int K>
__device__ inline void store_dzs(bf16 *dzs, const bf16 *tile, const Part<K> &part, int cells, int e) {
    const int cell0 = blockIdx.x * CELLS;
    const int chunks = part.values / 8;
    for (int i = threadIdx.x; i < min(CELLS, cells - cell0) * chunks; i += THREADS) {
        const int row = i / chunks, chunk = part.first / 8 + i % chunks;
        store_pack(dzs + static_cast<size_t>(cell0 + row) * e + part.group0 + chunk * 8,
                   load_pack(tile + place<K>(row, chunk * 8)));
    }
}

// dy: [cells, dy_stride] as for dW. `parts`: of a group, at most k / 16. `partials` is null for one part.
template <int K>
__device__ inline void inputs(const bf16 *dy, int dy_stride, const Form &form, bf16 *dzs, bf16 *dzo, float *partials,
                              int parts) {
    extern __shared__ __align__(128) unsigned char memory[];
    InputShared<K> &shared = *reinterpret_cast<InputShared<K> *>(memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, side = warp % 2;
    const int warp_row = warp / 2 * WARP_CELLS;
    const int dy_row = kept(place<INPUT_OUTS>(warp_row + lane % 16, lane / 16 * 8));
    const int weight_row = kept(place<WARP_COLUMNS>(lane % 16, lane / 16 * 8));
    const int cell0 = blockIdx.x * CELLS;
    const Part<K> part(parts);
    const size_t corner = static_cast<size_t>(cell0) * form.e + part.group0;
    InputLoader<K> loader(dy, dy_stride, form, part, cell0, threadIdx.x / InputLoader<K>::HALF);
    Sums s = {};
    float own_dzo[2][K / 8][4] = {};

    Tile<CELLS, K, THREADS>(form.zs + corner, form.e, form.cells - cell0).load(shared.zs);
    Tile<CELLS, K, THREADS>(form.zo + corner, form.e, form.cells - cell0).load(shared.zo);
    loader.load(shared.stages[0], 0);
    const int steps = (form.outs + INPUT_OUTS - 1) / INPUT_OUTS;
    int stage = 0;
    for (int turn = 0; turn < part.turns(); turn++) {
        for (int step = 1; step < steps; step++) {
            copy_async_wait<0>();
            __syncthreads(); // this stage is here for all; and all have left the stage that is filled next
            loader.load(shared.stages[stage ^ 1], step * INPUT_OUTS);
            multiply_stage<K>(s, shared.stages[stage], side, dy_row, weight_row);
            stage ^= 1;
        }
        copy_async_wait<0>();
        __syncthreads(); // likewise, before the turn's last stage
        loader.next_turn(steps);
        if (turn + 1 < part.turns()) {
            loader.load(shared.stages[stage ^ 1], 0);
        }
        multiply_stage<K>(s, shared.stages[stage], side, dy_row, weight_row);
        stage ^= 1;
        reduce_s<K>(own_dzo, s, shared, warp_row, part.subject(turn, side));
    }
    __syncthreads(); // all are done with the stages, and dzs is complete
    store_dzs<K>(dzs, shared.zs, part, form.cells, form.e);
    float *tile = reinterpret_cast<float *>(memory);
    join_sides<K>(tile, own_dzo, warp_row, side == 0);
    const int rows = min(CELLS, form.cells - cell0);
    if (partials == nullptr) {
        copy_out<4>(dzo + corner, form.e, tile, RESULT_STRIDE<K>, rows, K);
    } else {
        partials += blockIdx.y % parts * part_stride(static_cast<size_t>(form.cells) * form.e);
        copy_out<4>(partials + corner, form.e, tile, RESULT_STRIDE<K>, rows, K);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    bilinear_inputs_32(const bf16 *dy, int dy_stride, const bf16 *zs, const bf16 *zo, const bf16 *w, bf16 *dzs,
                       bf16 *dzo, float *partials, int cells, int e, int outs, int parts) {
    inputs<32>(dy, dy_stride, {zs, zo, w, cells, e, outs}, dzs, dzo, partials, parts);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    bilinear_inputs_64(const bf16 *dy, int dy_stride, const bf16 *zs, const bf16 *zo, const bf16 *w, bf16 *dzs,
                       bf16 *dzo, float *partials, int cells, int e, int outs, int parts) {
    inputs<64>(dy, dy_stride, {zs, zo, w, cells, e, outs}, dzs, dzo, partials, parts);
}

// ---- rows of dy that are not aligned, and db

// `rows` rows of dy a block, through shared memory of that size. `sums` [blocks, outs] and `padded` [cells, stride] may be
// null.
extern "C" __global__ void __launch_bounds__(256)
    bilinear_columns(const bf16 *dy, float *sums, bf16 *padded, int cells, int outs, int stride, int rows) {
    extern __shared__ __align__(16) bf16 tile[];
    const int row0 = blockIdx.x * rows;
    const int own = min(rows, cells - row0);
    const bf16 *from = dy + static_cast<size_t>(row0) * outs;
    for (int i = threadIdx.x; i < own * outs; i += blockDim.x) {
        tile[i] = from[i];
    }
    __syncthreads();
    if (sums != nullptr) {
        for (int out = threadIdx.x; out < outs; out += blockDim.x) {
            float sum = 0.0f;
            for (int row = 0; row < own; row++) {
                sum += to_float(tile[row * outs + out]);
            }
            sums[static_cast<size_t>(blockIdx.x) * outs + out] = sum;
        }
    }
    if (padded != nullptr) {
        bf16 *to = padded + static_cast<size_t>(row0) * stride;
        for (int i = threadIdx.x; i < own * stride; i += blockDim.x) {
            const int row = i / stride, out = i % stride;
            to[i] = out < outs ? tile[row * outs + out] : from_float<bf16>(0.0f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
    bilinear_bias(const float *sums, float *db, int outs, int blocks) {
    const int out = blockIdx.x * blockDim.x + threadIdx.x;
    if (out < outs) {
        float sum = 0.0f;
        for (int block = 0; block < blocks; block++) {
            sum += sums[static_cast<size_t>(block) * outs + out];
        }
        db[out] += sum;
    }
}
