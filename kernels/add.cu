// y = a + b, rounded once; y may be a itself (`into += other`).
//
// Reads two values and writes one; a thread owns a pack of 16 bytes (8 bf16 or 4 f32). Arithmetic in f32.
// Launch: `count` elements on blocks of any size, one pack a thread; any count.
#include "common.cuh"

// No __restrict__ on a and y: they may be one.
template <typename T> __device__ inline void add(const T *a, const T *b, T *y, size_t count) {
    constexpr int COUNT = Pack<T>::COUNT;
    const size_t first = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
    if (first >= count) {
        return;
    }
    const int here = static_cast<int>(min(count - first, static_cast<size_t>(COUNT)));
    Pack<T> sum = load_upto(a + first, here);
    const Pack<T> other = load_upto(b + first, here);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        sum.values[i] = from_float<T>(to_float(sum.values[i]) + to_float(other.values[i]));
    }
    store_upto(y + first, sum, here);
}

extern "C" __global__ void add_bf16(const bf16 *a, const bf16 *b, bf16 *y, size_t count) { add(a, b, y, count); }

extern "C" __global__ void add_f32(const float *a, const float *b, float *y, size_t count) { add(a, b, y, count); }
