// Attention rows of entities from q, k and the log-sum-exp of a layer; no table of L x L exists.
//
//   p_m[j] = exp(scale * q_m . k_j - lse_m) over the rows j of the window of mention m, x = p * M with M the dropout
//   factors of that attention; row_m[t] = sum over the windows that keep m and t of x, over (its sum + epsilon) if the
//   document has several windows; A_e[t] = mean over the mentions m of e of row_m[t]. Each head by itself.
//   Backward, with f = 1 or 1 / (sum + epsilon), g = 0 or the row's sum of dA row: dx = f / mentions * (dA - g) where t
//   is kept, else 0; D = sum of x dx; ds = scale * p (M dx - D); dq_m = sum over j of ds k_j, dk_j = sum over m of
//   ds q_m.
//
// qkv, dqkv: [rows, 3, heads, DIM] bf16; lse: [rows, heads]; A, dA: f32, a block [entities, heads, tokens] a document.
// A `Source` is a mention in one window; the sources of a window follow each other, ordered by entity. Scratch: sums
// [heads, sources, 2], the sum of x and of x dA over what the source's window keeps; partial [tiles, sources, heads,
// DIM], dq of each tile of 128 keys of a window.
//
// sums, block (16 sources of a window, head): sweeps the keys that the window keeps. Before forward for documents of
//     several windows, before backward for all.
// forward, block (128 positions of a document, head): a thread owns one position of all its entities and goes over the
//     windows, each the sources in turn. Reads a key for each position and window, q of all sources; writes A (and
//     adds to it where a second window has a source of the entity: the same thread).
// backward, block (128 keys of a window, head): reads the keys, q of the window's sources and dA of their entities;
//     writes dk and `partial`.
// queries, a thread four columns of a row of dqkv: writes dq, the sum of `partial` over the row's sources and their
//     tiles, and dv = 0.
// Each value has one owner and every sum one order. Scores of 16 sources and 128 keys come from the tensor cores and go
// through shared memory to the threads, one a key, so that A and dA are read and written in runs; ds goes back as bf16.
// Backward recomputes the scores and the dropout factors.
//
// Launch: 128 threads, grid (blocks as above, heads), shared_bytes(DIM); queries 256 threads. DIM: 32, 48, 64, 96 or
// 128. Rows of A start wherever the number of tokens puts them, so a warp's 128 bytes of it usually touch five sectors
// instead of four (load and store efficiency 80 % there); sums writes 128 bytes a block, wherever they start.
#include "common.cuh"

constexpr int KEYS = 128;           // keys of a tile, threads of a block; a warp has 32 of them
constexpr int CHUNK = 16;           // sources at a time
constexpr int QUADS = KEYS / 4 + 1; // groups of four keys that share a Philox counter, wherever the first key lies
constexpr int KEYS_PER_ROW = 512;   // in the numbering of dropout elements (DROPOUT_STRIDE of the CPU)

// src/ops/attention_rows/cuda.rs writes these.
struct alignas(16) Window {
    int row, rows;         // in qkv
    int local, keep, kept; // row + local is document position keep, the first of those kept
    int source, sources;
    int tokens; // of the document
};

struct alignas(16) Source {
    int row;      // in qkv; -1: the entity has no mention
    int block;    // heads * block: where the entity's [heads, tokens] start in A
    int mentions; // of the entity
    int opens;    // this window is the first with sources of the entity
    int last;     // no more of the entity in this window
    int slot;     // in the scratch; those of one mention follow each other
    int sibling, siblings; // slots of the mention, none in documents of one window
};

// Positions of a document, or keys of a window, or sources of a window.
struct alignas(16) Tile {
    int window, windows;
    int first, count;
};

// What the kernels are given.
struct Layer {
    const bf16 *qkv;
    const float *lse;
    const Window *windows;
    const Source *sources;
    const float2 *sums;
    int slots, heads;
    float scale, epsilon;
    Dropout drop;

    __device__ size_t sum_of(int slot, int head) const { return static_cast<size_t>(head) * slots + slot; }
};

// 128 keys and 16 sources, as one head sees them.
template <int DIM> struct Shared {
    static constexpr int PITCH = KEYS + 8; // rows of scores begin eight banks apart: fragments meet in none
    bf16 keys[KEYS * DIM];
    bf16 queries[CHUNK * DIM];
    bf16 ds[KEYS * CHUNK];
    float scores[CHUNK][PITCH];
    uint32_t drawn[CHUNK][QUADS]; // dropout: a bit a key that stays
    int row[CHUNK], block[CHUNK], opens[CHUNK], last[CHUNK], slot[CHUNK];
    float lse[CHUNK];    // in units of ln 2
    float weight[CHUNK]; // f / mentions
    float mean[CHUNK];   // g
    float change[CHUNK]; // D
};

// Keys `key` to `key` + 127 of a window, in the background; zeros outside of from..to.
template <int DIM>
__device__ inline void load_keys(Shared<DIM> &shared, const Layer &layer, const Window &window, int head, int key,
                                 int from, int to) {
    constexpr int CHUNKS = DIM / 8;
    const size_t pitch = 3 * layer.heads * DIM;
    const bf16 *first = layer.qkv + window.row * pitch + (layer.heads + head) * DIM;
    for (int i = threadIdx.x; i < KEYS * CHUNKS; i += KEYS) {
        const int at = key + i / CHUNKS;
        const bool inside = from <= at && at < to;
        copy_async(shared.keys + swizzle<DIM>(i / CHUNKS, i % CHUNKS),
                   first + (inside ? at * pitch + i % CHUNKS * 8 : 0), inside);
    }
    copy_async_commit();
}

// Sources `first` to `first` + count - 1 and zeros behind them, for keys from `key` on (which may be negative). The
// queries come in the background.
template <int DIM>
__device__ inline void load_sources(Shared<DIM> &shared, const Layer &layer, int first, int count, int head, int key) {
    constexpr int CHUNKS = DIM / 8;
    const Source *sources = layer.sources + first;
    for (int i = threadIdx.x; i < CHUNK * CHUNKS; i += KEYS) {
        const int row = i / CHUNKS < count ? sources[i / CHUNKS].row : -1;
        const size_t at = static_cast<size_t>(row) * 3 * layer.heads * DIM + head * DIM + i % CHUNKS * 8;
        copy_async(shared.queries + swizzle<DIM>(i / CHUNKS, i % CHUNKS), layer.qkv + (row < 0 ? 0 : at), row >= 0);
    }
    copy_async_commit();
    for (int i = threadIdx.x; !layer.drop.is_off() && i < count * QUADS; i += KEYS) {
        const int s = i / QUADS;
        const size_t row = static_cast<size_t>(sources[s].row) * layer.heads + head;
        const uint4 words = dropout_words(layer.drop, row * (KEYS_PER_ROW / 4) + (key >> 2) + i % QUADS);
        const uint32_t from = layer.drop.threshold;
        shared.drawn[s][i % QUADS] =
            (words.x >= from) | (words.y >= from) << 1 | (words.z >= from) << 2 | (words.w >= from) << 3;
    }
    if (threadIdx.x < count) {
        const int s = threadIdx.x;
        const Source source = sources[s];
        shared.row[s] = source.row;
        shared.block[s] = source.block;
        shared.opens[s] = source.opens;
        shared.last[s] = source.last;
        shared.slot[s] = source.slot;
        const size_t at = static_cast<size_t>(source.row) * layer.heads + head;
        shared.lse[s] = source.row < 0 ? 0.0f : layer.lse[at] * LOG2_E;
    }
}

// The weights of the chunk's sources; for backward also how the gradient depends on them all.
template <int DIM>
__device__ inline void load_weights(Shared<DIM> &shared, const Layer &layer, int first, int count, int head,
                                    bool backward) {
    if (threadIdx.x >= count) {
        return;
    }
    const Source source = layer.sources[first + threadIdx.x];
    float2 row = make_float2(0.0f, 0.0f); // over the windows
    for (int i = 0; i < source.siblings; i++) {
        const float2 one = layer.sums[layer.sum_of(source.sibling + i, head)];
        row.x += one.x;
        row.y += one.y;
    }
    const float factor = source.siblings > 0 ? 1.0f / (row.x + layer.epsilon) : 1.0f;
    const float mean = source.siblings > 0 ? factor * row.y : 0.0f;
    const float weight = factor / max(source.mentions, 1);
    shared.weight[threadIdx.x] = weight;
    if (backward) {
        const float2 own = layer.sums[layer.sum_of(source.slot, head)];
        shared.mean[threadIdx.x] = mean;
        shared.change[threadIdx.x] = weight * (own.y - mean * own.x);
    }
}

// scores[s][j] = q_s . k_j. A warp makes and reads those of its own 32 keys.
template <int DIM> __device__ inline void make_scores(Shared<DIM> &shared) {
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 32;
    float products[4][4] = {};
#pragma unroll
    for (int d = 0; d < DIM / 16; d++) {
        uint32_t q[4], k[4];
        load_matrix_x4(q, shared.queries + swizzle<DIM>(lane % 16, d * 2 + lane / 16));
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            const int key = first + n * 8 + lane / 16 * 8 + lane % 8;
            load_matrix_x4(k, shared.keys + swizzle<DIM>(key, d * 2 + lane / 8 % 2));
            mma_bf16(products[n], q, k[0], k[1]);
            mma_bf16(products[n + 1], q, k[2], k[3]);
        }
    }
    for (int n = 0; n < 4; n++) {
        for (int half = 0; half < 2; half++) {
            float *to = &shared.scores[half * 8 + lane / 4][first + n * 8 + lane % 4 * 2];
            *reinterpret_cast<float2 *>(to) = make_float2(products[n][half * 2], products[n][half * 2 + 1]);
        }
    }
    __syncwarp();
}

// Softmax probability of key `i` of the tile for source s, before dropout.
template <int DIM> __device__ inline float probability(const Shared<DIM> &shared, const Layer &layer, int s, int i) {
    return exp2_fast(shared.scores[s][i] * (layer.scale * LOG2_E) - shared.lse[s]);
}

// The dropout factor of `key`, where the sources were loaded for the keys from `key0` on.
template <int DIM>
__device__ inline float drawn_factor(const Shared<DIM> &shared, const Dropout &drop, int s, int key, int key0) {
    if (drop.is_off()) {
        return 1.0f;
    }
    return shared.drawn[s][(key >> 2) - (key0 >> 2)] >> (key & 3) & 1 ? drop.scale : 0.0f;
}

// Where source s has its value of A at document position `token`.
template <int DIM>
__device__ inline size_t place_in_a(const Shared<DIM> &shared, const Layer &layer, int s, int tokens, int head,
                                    int token) {
    return static_cast<size_t>(shared.block[s]) * layer.heads + static_cast<size_t>(head) * tokens + token;
}

template <int DIM> __device__ inline Shared<DIM> &shared_memory() {
    extern __shared__ __align__(128) unsigned char memory[];
    return *reinterpret_cast<Shared<DIM> *>(memory);
}

// A warp has four of the sources, a lane every 32nd key.
template <int DIM>
__device__ inline void make_sums(const Layer &layer, const Tile *tiles, const float *da, float2 *out) {
    constexpr int SOURCES = CHUNK / (KEYS / 32);
    Shared<DIM> &shared = shared_memory<DIM>();
    const Tile tile = tiles[blockIdx.x];
    const Window window = layer.windows[tile.window];
    const int head = blockIdx.y, lane = threadIdx.x % 32, first = threadIdx.x / 32 * SOURCES;
    const int end = window.local + window.kept;
    float2 sums[SOURCES] = {};
    for (int key0 = window.local; key0 < end; key0 += KEYS) {
        load_keys(shared, layer, window, head, key0, window.local, end);
        load_sources(shared, layer, tile.first, tile.count, head, key0);
        copy_async_wait<0>();
        __syncthreads(); // keys and sources are here
        make_scores(shared);
        __syncthreads(); // all scores are here
#pragma unroll
        for (int i = 0; i < SOURCES; i++) {
            const int s = first + i;
            if (s >= tile.count || shared.row[s] < 0) {
                continue;
            }
            for (int j = lane; j < min(KEYS, end - key0); j += 32) {
                const int key = key0 + j, token = window.keep + key - window.local;
                const float p = probability(shared, layer, s, j);
                const float x = p * drawn_factor(shared, layer.drop, s, key, key0);
                sums[i].x += x;
                sums[i].y += da ? x * da[place_in_a(shared, layer, s, window.tokens, head, token)] : 0.0f;
            }
        }
        __syncthreads(); // all have used keys and sources
    }
    float2 own = make_float2(0.0f, 0.0f); // lane i of the warp writes its source i
#pragma unroll
    for (int i = 0; i < SOURCES; i++) {
        const float2 sum = make_float2(warp_sum(sums[i].x), warp_sum(sums[i].y));
        own = lane == i ? sum : own;
    }
    if (lane < SOURCES && first + lane < tile.count) {
        out[layer.sum_of(layer.sources[tile.first + first + lane].slot, head)] = own;
    }
}

template <int DIM> __device__ inline void forward(const Layer &layer, const Tile *tiles, float *a) {
    Shared<DIM> &shared = shared_memory<DIM>();
    const Tile tile = tiles[blockIdx.x];
    const int head = blockIdx.y, token = tile.first + threadIdx.x;
    for (int w = 0; w < tile.windows; w++) {
        const Window window = layer.windows[tile.window + w];
        const int key0 = window.local + tile.first - window.keep, key = key0 + threadIdx.x;
        const int end = window.local + window.kept;
        const bool kept = window.local <= key && key < end;
        if (window.sources > 0) {
            load_keys(shared, layer, window, head, key0, window.local, end);
        }
        float sum = 0.0f; // of one entity, so far
        for (int first = 0; first < window.sources; first += CHUNK) {
            const int count = min(CHUNK, window.sources - first);
            load_sources(shared, layer, window.source + first, count, head, key0);
            load_weights(shared, layer, window.source + first, count, head, false);
            copy_async_wait<0>();
            __syncthreads(); // keys and sources are here
            make_scores(shared);
            for (int s = 0; s < count; s++) {
                if (kept && shared.row[s] >= 0) {
                    const float p = probability(shared, layer, s, threadIdx.x);
                    sum += shared.weight[s] * p * drawn_factor(shared, layer.drop, s, key, key0);
                }
                if (shared.last[s]) {
                    if (token < window.tokens) {
                        float *to = a + place_in_a(shared, layer, s, window.tokens, head, token);
                        *to = shared.opens[s] ? sum : *to + sum;
                    }
                    sum = 0.0f; // for the next entity
                }
            }
            __syncthreads(); // all have used the sources, and after the last of them the keys
        }
    }
}

// ds of this thread's key and all sources of the chunk.
template <int DIM>
__device__ inline void make_gradients(Shared<DIM> &shared, const Layer &layer, const Window &window, const float *da,
                                      int count, int head, int key, int key0) {
    const bool kept = window.local <= key && key < window.local + window.kept;
    const int token = window.keep + key - window.local;
    for (int chunk = 0; chunk < CHUNK / 8; chunk++) {
        Pack<bf16> eight;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int s = chunk * 8 + i;
            float ds = 0.0f;
            if (s < count && key < window.rows && shared.row[s] >= 0) {
                float dp = -shared.change[s];
                if (kept) {
                    const float dx = da[place_in_a(shared, layer, s, window.tokens, head, token)] - shared.mean[s];
                    dp += drawn_factor(shared, layer.drop, s, key, key0) * shared.weight[s] * dx;
                }
                ds = layer.scale * probability(shared, layer, s, threadIdx.x) * dp;
            }
            eight.values[i] = from_float<bf16>(ds);
        }
        store_pack(shared.ds + swizzle<CHUNK>(threadIdx.x, chunk), eight);
    }
}

// dk of the warp's 32 keys += transpose(ds) * queries.
template <int DIM> __device__ inline void add_keys(float (&dk)[2][DIM / 8][4], const Shared<DIM> &shared) {
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 32;
    uint32_t ds[2][4];
#pragma unroll
    for (int m = 0; m < 2; m++) {
        load_matrix_x4(ds[m], shared.ds + swizzle<CHUNK>(first + m * 16 + lane % 16, lane / 16));
    }
#pragma unroll
    for (int n = 0; n < DIM / 8; n += 2) {
        uint32_t q[4];
        load_matrix_x4_trans(q, shared.queries + swizzle<DIM>(lane % 16, n + lane / 16));
#pragma unroll
        for (int m = 0; m < 2; m++) {
            mma_bf16(dk[m][n], ds[m], q[0], q[1]);
            mma_bf16(dk[m][n + 1], ds[m], q[2], q[3]);
        }
    }
}

// The tile's share of dq of the chunk's sources, ds * keys; a warp makes a quarter of the columns, of 48 a third.
template <int DIM>
__device__ inline void add_queries(const Shared<DIM> &shared, float *partial, int count, int heads, int head) {
    constexpr int TILES = (DIM + 31) / 32; // of eight columns
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * TILES;
    if (DIM % 32 != 0 && first >= DIM / 8) {
        return; // the fourth warp has none
    }
    float dq[TILES][4] = {};
#pragma unroll 2
    for (int key = 0; key < KEYS; key += 16) {
        uint32_t ds[4], k[2];
        const int row = key + lane / 16 * 8 + lane % 8;
        load_matrix_x4_trans(ds, shared.ds + swizzle<CHUNK>(row, lane / 8 % 2));
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            load_matrix_x2_trans(k, shared.keys + swizzle<DIM>(key + lane % 16, first + n));
            mma_bf16(dq[n], ds, k[0], k[1]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int s = half * 8 + lane / 4;
        if (s < count) {
            float *to = partial + (static_cast<size_t>(shared.slot[s]) * heads + head) * DIM + lane % 4 * 2;
            for (int n = 0; n < TILES; n++) {
                // By name: of a plain assignment the compiler makes two stores here.
                __stwb(reinterpret_cast<float2 *>(to + (first + n) * 8),
                       make_float2(dq[n][half * 2], dq[n][half * 2 + 1]));
            }
        }
    }
}

// dk takes the place of the keys in shared memory and goes out in runs of 16 bytes a lane.
template <int DIM>
__device__ inline void store_keys(Shared<DIM> &shared, const float (&dk)[2][DIM / 8][4], bf16 *to, size_t pitch,
                                  int rows) {
    constexpr int CHUNKS = DIM / 8;
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 32;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        for (int n = 0; n < CHUNKS; n++) {
            for (int half = 0; half < 2; half++) {
                bf16 *at = shared.keys + swizzle<DIM>(first + m * 16 + half * 8 + lane / 4, n) + lane % 4 * 2;
                *reinterpret_cast<uint32_t *>(at) = pack_bf16(dk[m][n][half * 2], dk[m][n][half * 2 + 1]);
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < min(KEYS, rows) * CHUNKS; i += KEYS) {
        store_pack(to + i / CHUNKS * pitch + i % CHUNKS * 8,
                   load_pack(shared.keys + swizzle<DIM>(i / CHUNKS, i % CHUNKS)));
    }
}

template <int DIM>
__device__ inline void backward(const Layer &layer, const Tile *tiles, const float *da, bf16 *dqkv, float *partial) {
    Shared<DIM> &shared = shared_memory<DIM>();
    const Tile tile = tiles[blockIdx.x];
    const Window window = layer.windows[tile.window];
    const int head = blockIdx.y;
    partial += static_cast<size_t>(tile.first / KEYS) * layer.slots * layer.heads * DIM;
    float dk[2][DIM / 8][4] = {};
    if (window.sources > 0) {
        load_keys(shared, layer, window, head, tile.first, 0, window.rows);
    }
    for (int first = 0; first < window.sources; first += CHUNK) {
        const int count = min(CHUNK, window.sources - first);
        load_sources(shared, layer, window.source + first, count, head, tile.first);
        load_weights(shared, layer, window.source + first, count, head, true);
        copy_async_wait<0>();
        __syncthreads(); // keys and sources are here
        make_scores(shared);
        make_gradients(shared, layer, window, da, count, head, tile.first + threadIdx.x, tile.first);
        __syncthreads(); // ds is here
        add_keys(dk, shared);
        add_queries(shared, partial, count, layer.heads, head);
        __syncthreads(); // all have used the sources and ds, and after the last of them the keys
    }
    const size_t pitch = 3 * layer.heads * DIM;
    bf16 *to = dqkv + (window.row + tile.first) * pitch + (layer.heads + head) * DIM;
    store_keys(shared, dk, to, pitch, window.rows - tile.first);
}

// Without the numbers of blocks ptxas takes fewer registers than it needs and spills.
#define SIZES(DIM)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(KEYS, 4) attention_rows_sums_##DIM(                                   \
        const bf16 *qkv, const float *lse, const Window *windows, const Source *sources, const Tile *tiles,            \
        const float *da, float2 *sums, int slots, int heads, float scale, Dropout drop) {                              \
        make_sums<DIM>({qkv, lse, windows, sources, nullptr, slots, heads, scale, 0.0f, drop}, tiles, da, sums);       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(KEYS, 4) attention_rows_forward_##DIM(                                \
        const bf16 *qkv, const float *lse, const Window *windows, const Source *sources, const Tile *tiles,            \
        const float2 *sums, float *a, int slots, int heads, float scale, float epsilon, Dropout drop) {                \
        forward<DIM>({qkv, lse, windows, sources, sums, slots, heads, scale, epsilon, drop}, tiles, a);                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(KEYS, 2) attention_rows_backward_##DIM(                               \
        const bf16 *qkv, const float *lse, const Window *windows, const Source *sources, const Tile *tiles,            \
        const float2 *sums, const float *da, bf16 *dqkv, float *partial, int slots, int heads, float scale,            \
        float epsilon, Dropout drop) {                                                                                 \
        backward<DIM>({qkv, lse, windows, sources, sums, slots, heads, scale, epsilon, drop}, tiles, da, dqkv,         \
                      partial);                                                                                        \
    }

SIZES(32)
SIZES(48)
SIZES(64)
SIZES(96)
SIZES(128)

constexpr int THREADS = 256; // of the kernel below

// A source of a row: its slot, and how many tiles of keys its window has.
struct RowSource {
    int slot, tiles;
};

// rows: of dqkv; those from `end` on belong to no window and get zeros in all three parts.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_rows_queries(const float *partial, const int *starts, const RowSource *sources, bf16 *dqkv, int rows,
                           int end, int slots, int width) {
    const size_t at = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int row = at / (width / 4), column = at % (width / 4) * 4;
    if (row >= rows) {
        return;
    }
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const int last = row < end ? starts[row + 1] : 0;
    for (int i = row < end ? starts[row] : 0; i < last; i++) {
        const RowSource source = sources[i];
        for (int tile = 0; tile < source.tiles; tile++) {
            const size_t from = (static_cast<size_t>(tile) * slots + source.slot) * width + column;
            const float4 one = *reinterpret_cast<const float4 *>(partial + from);
            sum.x += one.x;
            sum.y += one.y;
            sum.z += one.z;
            sum.w += one.w;
        }
    }
    bf16 *to = dqkv + static_cast<size_t>(row) * 3 * width + column;
    const uint2 zeros = make_uint2(0, 0);
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w));
    *reinterpret_cast<uint2 *>(to + 2 * width) = zeros;
    if (row >= end) {
        *reinterpret_cast<uint2 *>(to + width) = zeros;
    }
}
