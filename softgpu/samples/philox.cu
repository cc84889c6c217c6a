// Random numbers by counter: word w of number n is a function of (seed, step, op, n) and of nothing else, so that a
// dropout mask is computed again where it is needed, and is the same on every device and for every launch shape.
//
// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): counter (n low, n high, step,
// op), key = seed, four words a counter. Launch: any grid and block, one thread for each 8 elements.
#include "common.cuh"

__device__ inline uint4 philox(uint4 counter, uint2 key) {
    for (int round = 0; round < 10; round++) {
        const uint32_t low0 = 0xD2511F53u * counter.x;
        const uint32_t high0 = __umulhi(0xD2511F53u, counter.x);
        const uint32_t low1 = 0xCD9E8D57u * counter.z;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z);
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

__device__ inline uint4 philox_at(uint64_t seed, uint32_t step, uint32_t op, uint64_t n) {
    const uint4 counter = make_uint4(static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), step, op);
    return philox(counter, make_uint2(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)));
}

// words[4n + w], for n < count.
extern "C" __global__ void philox_words(uint4 *words, uint64_t count, uint64_t first, uint64_t seed, uint32_t step,
                                        uint32_t op) {
    const uint64_t n = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n < count) {
        words[n] = philox_at(seed, step, op, first + n);
    }
}

// y = residual + x / (1 - p) where the element's word is at least p * 2^32 (`threshold`), else residual. The product
// and sum are one fused multiply-add of bf16 pairs. Element e has word e % 4 of number e / 4.
extern "C" __global__ void dropout_residual(const bf16 *x, const bf16 *residual, bf16 *y, uint64_t count,
                                            uint32_t threshold, float scale, uint64_t seed, uint32_t step,
                                            uint32_t op) {
    const uint64_t first = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (first >= count) {
        return;
    }
    const uint4 low = philox_at(seed, step, op, first / 4);
    const uint4 high = philox_at(seed, step, op, first / 4 + 1);
    const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    if (first + 8 <= count) {
        const Pack<__nv_bfloat162> in = load_pack(reinterpret_cast<const __nv_bfloat162 *>(x + first));
        const Pack<__nv_bfloat162> add = load_pack(reinterpret_cast<const __nv_bfloat162 *>(residual + first));
        Pack<__nv_bfloat162> out;
        for (int i = 0; i < 4; i++) {
            const float keep0 = words[2 * i] >= threshold ? scale : 0.0f;
            const float keep1 = words[2 * i + 1] >= threshold ? scale : 0.0f;
            out.values[i] = __hfma2(in.values[i], __floats2bfloat162_rn(keep0, keep1), add.values[i]);
        }
        store_pack(reinterpret_cast<__nv_bfloat162 *>(y + first), out);
    } else {
        for (int i = 0; i < count - first; i++) {
            const float keep = words[i] >= threshold ? scale : 0.0f;
            y[first + i] = __hfma(x[first + i], __float2bfloat16(keep), residual[first + i]);
        }
    }
}
