// y[i] = sum over j in lists[i] of weight_j x[index_j], rows of `dim` values, j ascending, f32 sums rounded once.
//
// Reads a row of x for each source and its list (8 bytes a row and 8 a source, shared by the row's threads), writes y
// once; a row without sources is 0. A thread owns 16 bytes of y, or one value where dim is no multiple of a pack: then
// rows do not start at 16 bytes, nor always at a sector, and where a warp's values end within a sector its rest is read
// again by the next warp. y is assigned. Backward is the same kernel over the lists of the other direction.
// lists: `rows` pairs (begin, end), then the pairs (index, bits of the f32 weight) that they count.
// Launch: rows * dim values on blocks of any size, one pack or value a thread; below 2^32 of them.
#include "common.cuh"

// COUNT values as one access.
template <typename T, int COUNT> struct alignas(COUNT * sizeof(T)) Some {
    T values[COUNT];
};

template <typename T, int COUNT>
__device__ inline void gather(const T *__restrict__ x, const int2 *__restrict__ lists, T *__restrict__ y, int rows,
                              int dim) {
    using Part = Some<T, COUNT>;
    const unsigned parts = static_cast<unsigned>(dim) / COUNT;
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = at / parts;
    if (row >= static_cast<unsigned>(rows)) {
        return;
    }
    const unsigned column = (at - row * parts) * COUNT;
    const int2 range = lists[row];
    float sum[COUNT] = {};
    for (int j = range.x; j < range.y; j++) {
        const int2 source = lists[rows + static_cast<size_t>(j)];
        const float weight = __int_as_float(source.y);
        const size_t from = static_cast<size_t>(source.x) * dim + column;
        const Part part = *reinterpret_cast<const Part *>(x + from);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            sum[i] = fmaf(weight, to_float(part.values[i]), sum[i]);
        }
    }
    Part result;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        result.values[i] = from_float<T>(sum[i]);
    }
    *reinterpret_cast<Part *>(y + static_cast<size_t>(at) * COUNT) = result;
}

extern "C" __global__ void gather_bf16(const bf16 *__restrict__ x, const int2 *__restrict__ lists,
                                       bf16 *__restrict__ y, int rows, int dim) {
    gather<bf16, 8>(x, lists, y, rows, dim);
}

extern "C" __global__ void gather_f32(const float *__restrict__ x, const int2 *__restrict__ lists,
                                      float *__restrict__ y, int rows, int dim) {
    gather<float, 4>(x, lists, y, rows, dim);
}

extern "C" __global__ void gather_bf16_ragged(const bf16 *__restrict__ x, const int2 *__restrict__ lists,
                                              bf16 *__restrict__ y, int rows, int dim) {
    gather<bf16, 1>(x, lists, y, rows, dim);
}

extern "C" __global__ void gather_f32_ragged(const float *__restrict__ x, const int2 *__restrict__ lists,
                                             float *__restrict__ y, int rows, int dim) {
    gather<float, 1>(x, lists, y, rows, dim);
}
