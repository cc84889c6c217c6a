// What the kernels share: 16-byte packs, sums over a warp and a block, dropout by counter, swizzled tiles.
#pragma once

#include "ptx.cuh"
#include <cuda_bf16.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// One load or store of 16 bytes.
template <typename T> struct alignas(16) Pack {
    static constexpr int COUNT = 16 / sizeof(T);
    T values[COUNT];
};

template <typename T> __device__ inline Pack<T> load_pack(const T *from) {
    return *reinterpret_cast<const Pack<T> *>(from);
}

template <typename T> __device__ inline void store_pack(T *to, const Pack<T> &pack) {
    *reinterpret_cast<Pack<T> *>(to) = pack;
}

// The first `count` values of a pack, zeros behind them: for the end of an array that need not be whole packs.
template <typename T> __device__ inline Pack<T> load_upto(const T *from, int count) {
    if (count >= Pack<T>::COUNT) {
        return load_pack(from);
    }
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::COUNT; i++) {
        pack.values[i] = i < count ? from[i] : T(0.0f);
    }
    return pack;
}

template <typename T> __device__ inline void store_upto(T *to, const Pack<T> &pack, int count) {
    if (count >= Pack<T>::COUNT) {
        store_pack(to, pack);
        return;
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::COUNT; i++) {
        if (i < count) {
            to[i] = pack.values[i];
        }
    }
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }

// Two neighbours in a row: `low` is the first of them.
__device__ inline uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

// Four neighbours in one store. (One number of 8 bytes: nvcc sometimes splits a uint2.)
__device__ inline void store_four(bf16 *to, const Pack<float> &four) {
    const uint64_t low = pack_bf16(four.values[0], four.values[1]), high = pack_bf16(four.values[2], four.values[3]);
    *reinterpret_cast<uint64_t *>(to) = high << 32 | low;
}

// Every lane gets the sum, always of the same tree.
__device__ inline float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, step);
    }
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    }
    return x;
}

// Dropout of one op in one step (src/rng.rs, which gives the same masks): element e has word e % 4 of Philox at
// counter (e / 4, op, step) and is kept iff that word is at least `threshold`. Off: threshold 0, scale 1.
struct Dropout {
    uint64_t seed;
    uint32_t op, step;
    uint32_t threshold;
    float scale;

    __device__ bool is_off() const { return threshold == 0; }
};

// Philox 4x32-10 (Salmon et al., SC 2011): four words for a counter.
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

// The words of elements 4 group to 4 group + 3.
__device__ inline uint4 dropout_words(const Dropout &drop, uint64_t group) {
    const uint4 counter =
        make_uint4(static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), drop.op, drop.step);
    return philox(counter, make_uint2(static_cast<uint32_t>(drop.seed), static_cast<uint32_t>(drop.seed >> 32)));
}

// 0 or 1 / (1 - p).
__device__ inline float dropout_factor(const Dropout &drop, uint32_t word) {
    return word >= drop.threshold ? drop.scale : 0.0f;
}

// The factors of elements `first` to `first` + 7; `first` is a multiple of 4. All 1 where dropout is off.
__device__ inline void dropout_factors(const Dropout &drop, uint64_t first, float (&factors)[8]) {
    if (drop.is_off()) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            factors[i] = 1.0f;
        }
        return;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint4 words = dropout_words(drop, first / 4 + half);
        factors[4 * half] = dropout_factor(drop, words.x);
        factors[4 * half + 1] = dropout_factor(drop, words.y);
        factors[4 * half + 2] = dropout_factor(drop, words.z);
        factors[4 * half + 3] = dropout_factor(drop, words.w);
    }
}

// Offset in values of the 16-byte chunk `chunk` of row `row` in a tile with rows of WIDTH 16-bit values. Chunks are
// exchanged so that eight rows of one column of chunks lie in different banks, as ldmatrix reads them. Bit-wise
// exclusive or must not leave the row, so only as many neighbours change places as divide it.
template <int WIDTH> __device__ inline int swizzle(int row, int chunk) {
    static_assert(WIDTH % 16 == 0 || WIDTH == 8, "another odd number of chunks needs no swizzle");
    constexpr int NEIGHBOURS = WIDTH % 64 == 0 ? 8 : WIDTH % 32 == 0 ? 4 : WIDTH % 16 == 0 ? 2 : 1;
    constexpr int ROWS_APART = 8 / NEIGHBOURS; // consecutive rows that begin in different banks without it
    return row * WIDTH + (chunk ^ (row / ROWS_APART % NEIGHBOURS)) * 8;
}
