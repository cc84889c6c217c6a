// y = x / 2 (1 + erf(x / sqrt 2)), and dx = dy (Phi(x) + x phi(x)) with Phi and phi recomputed from x.
//
// Reads one value (backward two) and writes one, bf16; a thread owns a pack of 8, arithmetic in f32. dx is assigned.
// Launch: `count` elements on blocks of any size, 8 elements a thread; any count.
#include "gelu.cuh"

constexpr int COUNT = Pack<bf16>::COUNT;

extern "C" __global__ void gelu_forward(const bf16 *__restrict__ x, bf16 *__restrict__ y, size_t count) {
    const size_t first = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
    if (first >= count) {
        return;
    }
    const int here = static_cast<int>(min(count - first, static_cast<size_t>(COUNT)));
    Pack<bf16> pack = load_upto(x + first, here);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        pack.values[i] = from_float<bf16>(gelu(to_float(pack.values[i])));
    }
    store_upto(y + first, pack, here);
}

extern "C" __global__ void gelu_backward(const bf16 *__restrict__ dy, const bf16 *__restrict__ x,
                                         bf16 *__restrict__ dx, size_t count) {
    const size_t first = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
    if (first >= count) {
        return;
    }
    const int here = static_cast<int>(min(count - first, static_cast<size_t>(COUNT)));
    const Pack<bf16> at = load_upto(x + first, here);
    Pack<bf16> pack = load_upto(dy + first, here);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        pack.values[i] = from_float<bf16>(to_float(pack.values[i]) * gelu_slope(to_float(at.values[i])));
    }
    store_upto(dx + first, pack, here);
}
