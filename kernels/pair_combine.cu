// Pair representations: z[cell(s, o)] = tanh(u[e] + c[pair(s, o)] + bias), e = s or o by role; pad cells tanh(bias).
//
//   g = dz (1 - z^2);  dc[pair(a, b)] = g(a, b) + g(b, a), once if a = b;  du[e] = sum of g over e's line of cells;
//   dbias += sum of g over all cells
//
// A line is an index of a document's table: an entity, or the pad index that stands behind the entities. Its own cells
// are those whose u it is: (line, 0), (line, 1), ... for the subject, (0, line), (1, line), ... for the object.
//
// Owners: a block owns one line and 256 columns; its warps take every fourth cell, a lane 8 columns.
// - forward owns z of the line's own cells. Reads c and writes z once a cell (so each row of c twice), u and bias once
//   a warp.
// - backward owns du of the line, dc of the pairs (line, b) with b >= line, and a row of partial sums for dbias. Reads
//   dz and z of n own cells and of the mirrored cells behind the diagonal: each cell 1.5 times. Writes du and dc once.
// - bias_gradient owns 128 columns of dbias, and adds the partial sums [lines, dim] (f32) to it.
// Every sum runs in the order of the indices, over four (or eight) interleaved parts that are then added in order.
// du and dc are assigned, dbias is accumulated. Backward keeps z and recomputes nothing.
// dim: a multiple of 8. Launch: blocks (lines, dim / 256 rounded up) of 128 threads; bias_gradient: dim / 128 rounded
// up, 256 threads.
#include "common.cuh"

constexpr int WARPS = 4;
constexpr int COUNT = Pack<bf16>::COUNT;
constexpr int QUAD = Pack<float>::COUNT;

// As cuda.rs writes it: 8 ints.
struct alignas(16) Line {
    int first_cell; // of the document
    int side;       // of its table
    int index;      // of the line
    int entities;   // of the document: index < entities, or the pad index
    int first_pair; // of the document
    int first_entity;
    int unused[2];

    __device__ bool is_pad() const { return index == entities; }
    // The cell of the line's index and `other`, the former as the subject or as the object.
    __device__ size_t cell(int other, bool as_subject) const {
        const int s = as_subject ? index : other, o = as_subject ? other : index;
        return first_cell + static_cast<size_t>(s) * side + o;
    }
    // The row of the unordered pair: those of smaller a come first, n + (n - 1) + ... + (n - a + 1) of them.
    __device__ size_t pair(int a, int b) const {
        return first_pair + static_cast<size_t>(a) * (2 * entities + 1 - a) / 2 + (b - a);
    }
};

__device__ inline Line load_line(const int *lines) {
    Line line;
    const int4 *from = reinterpret_cast<const int4 *>(lines + static_cast<size_t>(blockIdx.x) * 8);
    *reinterpret_cast<int4 *>(&line) = from[0];
    *(reinterpret_cast<int4 *>(&line) + 1) = from[1];
    return line;
}

// A lane's columns of a sum.
struct Sum {
    float values[COUNT];

    __device__ void add(const Pack<bf16> &pack) {
        for (int i = 0; i < COUNT; i++) {
            values[i] += to_float(pack.values[i]);
        }
    }
    // Adds the gradient before the tanh.
    __device__ void add_slope(const Pack<bf16> &dz, const Pack<bf16> &z) {
        for (int i = 0; i < COUNT; i++) {
            const float y = to_float(z.values[i]);
            values[i] += to_float(dz.values[i]) * (1.0f - y * y);
        }
    }
    __device__ Pack<bf16> rounded() const {
        Pack<bf16> pack;
        for (int i = 0; i < COUNT; i++) {
            pack.values[i] = from_float<bf16>(values[i]);
        }
        return pack;
    }
};

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    pair_combine_forward(const bf16 *__restrict__ u, const bf16 *__restrict__ c, const bf16 *__restrict__ bias,
                         const int *__restrict__ lines, bf16 *__restrict__ z, int dim, int subject) {
    const int column = (blockIdx.y * 32 + threadIdx.x % 32) * COUNT;
    if (column >= dim) {
        return;
    }
    const Line line = load_line(lines);
    Sum alone = {};
    alone.add(load_pack(bias + column));
    Sum with_entity = alone;
    if (!line.is_pad()) {
        with_entity.add(load_pack(u + static_cast<size_t>(line.first_entity + line.index) * dim + column));
    }
    for (int other = threadIdx.x / 32; other < line.side; other += WARPS) {
        Sum sum = alone;
        if (!line.is_pad() && other < line.entities) { // the pad index pairs with nobody
            const int a = min(line.index, other), b = max(line.index, other);
            sum = with_entity;
            sum.add(load_pack(c + line.pair(a, b) * dim + column));
        }
        for (float &x : sum.values) {
            x = tanhf(x);
        }
        store_pack(z + line.cell(other, subject) * dim + column, sum.rounded());
    }
}

constexpr int HALF = (32 + 4) * QUAD; // four packs more than needed: the halves start in different banks

// `partials` [lines, dim]: the line's part of dbias, which for the pad index are all pad cells.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    pair_combine_backward(const bf16 *__restrict__ dz, const bf16 *__restrict__ z, const int *__restrict__ lines,
                          bf16 *__restrict__ du, bf16 *__restrict__ dc, float *__restrict__ partials, int dim,
                          int subject) {
    __shared__ alignas(16) float parts[WARPS][2][HALF];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int column = (blockIdx.y * 32 + lane) * COUNT;
    const Line line = load_line(lines);
    const int others = line.is_pad() ? line.side : line.entities;
    Sum total = {};
    for (int other = warp; other < others && column < dim; other += WARPS) {
        const size_t here = line.cell(other, subject) * dim + column;
        const size_t mirror = line.cell(other, !subject) * dim + column;
        Sum slope = {};
        slope.add_slope(load_pack(dz + here), load_pack(z + here));
        for (int i = 0; i < COUNT; i++) {
            total.values[i] += slope.values[i];
        }
        if (line.is_pad()) {
            if (other < line.index) {
                total.add_slope(load_pack(dz + mirror), load_pack(z + mirror));
            }
        } else if (other >= line.index) {
            if (other > line.index) {
                slope.add_slope(load_pack(dz + mirror), load_pack(z + mirror));
            }
            store_pack(dc + line.pair(line.index, other) * dim + column, slope.rounded());
        }
    }
    for (int half = 0; half < 2; half++) {
        Pack<float> pack;
        for (int i = 0; i < QUAD; i++) {
            pack.values[i] = total.values[half * QUAD + i];
        }
        store_pack(&parts[warp][half][lane * QUAD], pack);
    }
    __syncthreads();
    // From here a thread has four columns, so that neighbours write neighbouring 16 bytes of `partials`.
    const int mine = (blockIdx.y * 64 + threadIdx.x) * QUAD;
    if (threadIdx.x >= 64 || mine >= dim) {
        return;
    }
    Pack<float> sum = {};
    for (int part = 0; part < WARPS; part++) {
        const Pack<float> pack = load_pack(&parts[part][threadIdx.x % 2][threadIdx.x / 2 * QUAD]);
        for (int i = 0; i < QUAD; i++) {
            sum.values[i] += pack.values[i];
        }
    }
    store_pack(partials + static_cast<size_t>(blockIdx.x) * dim + mine, sum);
    if (!line.is_pad()) {
        store_four(du + static_cast<size_t>(line.first_entity + line.index) * dim + mine, sum);
    }
}

constexpr int PARTS = 8;

// dbias += the sum over the rows of `partials`.
extern "C" __global__ void __launch_bounds__(PARTS * 32)
    pair_combine_bias_gradient(const float *__restrict__ partials, float *__restrict__ dbias, int lines, int dim) {
    __shared__ alignas(16) float parts[PARTS][32 * QUAD];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int column = (blockIdx.x * 32 + lane) * QUAD;
    Pack<float> sum = {};
    for (int line = part; line < lines && column < dim; line += PARTS) {
        const Pack<float> row = load_pack(partials + static_cast<size_t>(line) * dim + column);
        for (int i = 0; i < QUAD; i++) {
            sum.values[i] += row.values[i];
        }
    }
    store_pack(&parts[part][lane * QUAD], sum);
    __syncthreads();
    if (part > 0 || column >= dim) {
        return;
    }
    Pack<float> all = load_pack(dbias + column);
    for (int other = 0; other < PARTS; other++) {
        const Pack<float> pack = load_pack(&parts[other][lane * QUAD]);
        for (int i = 0; i < QUAD; i++) {
            all.values[i] += pack.values[i];
        }
    }
    store_pack(dbias + column, all);
}
