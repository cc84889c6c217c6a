// y = x * mask, mask 0 or 1 / (1 - p) by the element's counter (common.cuh): forward on x, backward on dy.
//
// Reads and writes one bf16 value; a thread owns a pack of 8, which is two counters of Philox. No mask is stored.
// Launch: `count` elements on blocks of any size, 8 elements a thread; any count.
#include "common.cuh"

extern "C" __global__ void dropout_masked(const bf16 *__restrict__ x, bf16 *__restrict__ y, size_t count,
                                          Dropout drop) {
    constexpr int COUNT = Pack<bf16>::COUNT;
    const size_t first = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
    if (first >= count) {
        return;
    }
    const int here = static_cast<int>(min(count - first, static_cast<size_t>(COUNT)));
    Pack<bf16> pack = load_upto(x + first, here);
    float factors[COUNT];
    dropout_factors(drop, first, factors);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        pack.values[i] = from_float<bf16>(to_float(pack.values[i]) * factors[i]);
    }
    store_upto(y + first, pack, here);
}
