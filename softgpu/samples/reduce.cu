// Sums, and the parts of CUDA that they and other kernels need: each entry says its formula and its launch.
//
// All are for one-dimensional grids of 128 threads a block; `count` need not be a multiple of anything.
#include <assert.h>
#include <stdio.h>

#include "common.cuh"

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;

// The sum over the block, for thread 0; the order is fixed. Any thread may call it again after a barrier.
__device__ inline float block_sum(float x) {
    __shared__ float sums[WARPS];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = x;
    }
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x == 0) {
        for (int warp = 0; warp < WARPS; warp++) {
            total += sums[warp];
        }
    }
    return total;
}

// This thread's share of x.
__device__ inline float strided_sum(const float *x, int count) {
    float sum = 0.0f;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        sum += x[i];
    }
    return sum;
}

// *total += sum of x, in whatever order the blocks come.
extern "C" __global__ void __launch_bounds__(THREADS) sum_atomic(const float *x, float *total, int count) {
    const float sum = block_sum(strided_sum(x, count));
    if (threadIdx.x == 0) {
        atomicAdd(total, sum);
    }
}

// *total = sum of x, always in the same order: the block that finishes last adds up all blocks' sums.
// `finished` is 0 before and after the launch.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_ordered(const float *x, float *partials, unsigned *finished, float *total, int count) {
    __shared__ bool last;
    const float sum = block_sum(strided_sum(x, count));
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = sum;
        __threadfence(); // the partial sum before the news of it
        last = atomicAdd(finished, 1) == gridDim.x - 1;
        __threadfence(); // the news before the others' partial sums
    }
    __syncthreads();
    if (last) {
        float mine = 0.0f;
        for (int i = threadIdx.x; i < gridDim.x; i += THREADS) {
            mine += partials[i];
        }
        const float all = block_sum(mine);
        if (threadIdx.x == 0) {
            *total = all;
            *finished = 0;
        }
    }
}

// y[i] = x[0] + ... + x[i] within each block of 128.
extern "C" __global__ void __launch_bounds__(THREADS) prefix_sum(const int *x, int *y, int count) {
    __shared__ int sums[WARPS];
    const int i = blockIdx.x * THREADS + threadIdx.x;
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    int sum = i < count ? x[i] : 0;
    for (int step = 1; step < 32; step *= 2) {
        const int before = __shfl_up_sync(ALL_LANES, sum, step);
        sum += lane >= step ? before : 0;
    }
    if (lane == 31) {
        sums[warp] = sum;
    }
    __syncthreads();
    for (int w = 0; w < warp; w++) {
        sum += sums[w];
    }
    if (i < count) {
        y[i] = sum;
    }
}

// Ten facts about each warp's 32 values; values behind the end are 0.
extern "C" __global__ void __launch_bounds__(THREADS) warp_facts(const int *x, int *facts, int count) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    const int lane = threadIdx.x % 32;
    const int value = i < count ? x[i] : 0;
    const unsigned odd = __ballot_sync(ALL_LANES, value & 1);
    const int fact[10] = {static_cast<int>(odd),
                          __popc(odd),
                          __ffs(odd),
                          __any_sync(ALL_LANES, value < 0),
                          __all_sync(ALL_LANES, value > -100),
                          __reduce_add_sync(ALL_LANES, value),
                          __reduce_min_sync(ALL_LANES, value),
                          __reduce_max_sync(ALL_LANES, value),
                          __shfl_sync(ALL_LANES, value, 5),
                          __shfl_down_sync(ALL_LANES, value, 3)};
    const unsigned equal = __match_any_sync(ALL_LANES, value);
    __shared__ int first[WARPS]; // the number of values that some lane before holds already
    if (lane == 0) {
        first[threadIdx.x / 32] = 0;
    }
    __syncwarp();
    if (__ffs(equal) - 1 != lane) {
        atomicAdd(&first[threadIdx.x / 32], 1);
    }
    __syncwarp();
    if (lane == 0) {
        int *to = facts + i / 32 * 11;
        for (int f = 0; f < 10; f++) {
            to[f] = fact[f];
        }
        to[10] = first[threadIdx.x / 32];
    }
}

// Reverses each run of 64 values. The two halves of a block work apart, each with a barrier of its own.
extern "C" __global__ void __launch_bounds__(THREADS) reverse_halves(const int *x, int *y, int count) {
    __shared__ int values[2][64];
    const int half = threadIdx.x / 64;
    const int place = threadIdx.x % 64;
    const int i = blockIdx.x * THREADS + threadIdx.x;
    values[half][place] = i < count ? x[i] : -1;
    asm volatile("bar.sync %0, 64;" ::"r"(half + 1) : "memory");
    if (i < count) {
        y[i] = values[half][63 - place];
    }
}

// y = each warp's values turned by one place, through shared memory that only the warp uses.
extern "C" __global__ void __launch_bounds__(THREADS) rotate_warp(const int *x, int *y, int count) {
    __shared__ int values[WARPS][32];
    const int i = blockIdx.x * THREADS + threadIdx.x;
    const int lane = threadIdx.x % 32;
    int *mine = values[threadIdx.x / 32];
    mine[lane] = i < count ? x[i] : -1;
    __syncwarp();
    const int next = mine[(lane + 1) % 32];
    if (i < count) {
        y[i] = next;
    }
}

__device__ inline void atomic_max_float(float *to, float x) {
    unsigned *bits = reinterpret_cast<unsigned *>(to);
    unsigned seen = *reinterpret_cast<volatile unsigned *>(bits);
    while (__uint_as_float(seen) < x) {
        const unsigned before = atomicCAS(bits, seen, __float_as_uint(x));
        if (before == seen) {
            return;
        }
        seen = before;
    }
}

// counts[v] += how often v (0 to 15) occurs; *largest, *smallest, the bits 1 << v in
// *any_bits and half of the largest v in *largest_half are kept by atomics as well.
extern "C" __global__ void __launch_bounds__(THREADS)
    histogram(const int *x, int *counts, int *largest, int *smallest, unsigned *any_bits, float *largest_half,
              int count) {
    __shared__ int mine[16];
    if (threadIdx.x < 16) {
        mine[threadIdx.x] = 0;
    }
    __syncthreads();
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
        const int value = x[i];
        atomicAdd(&mine[value], 1);
        atomicMax(largest, value);
        atomicMin(smallest, value);
        atomicOr(any_bits, 1u << value);
        atomic_max_float(largest_half, value * 0.5f);
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);
    }
}

// y[i] = v + 16 * how often v occurs, for the v (0 to 15) that occurs most often among x[i][0..width]; the smallest of
// several. The counts are an array indexed by data, and so in local memory.
extern "C" __global__ void __launch_bounds__(THREADS) most_frequent(const int *x, int *y, int count, int width) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) {
        return;
    }
    int counts[16] = {};
    for (int j = 0; j < width; j++) {
        counts[x[i * width + j]]++;
    }
    int best = 0;
    for (int value = 1; value < 16; value++) {
        best = counts[value] > counts[best] ? value : best;
    }
    y[i] = best + 16 * counts[best];
}

__device__ __noinline__ unsigned gcd(unsigned a, unsigned b) {
    while (b != 0) {
        const unsigned rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// y[i] = greatest common divisor of a[i] and b[i]: a call, and a loop that each thread leaves in its own time.
extern "C" __global__ void __launch_bounds__(THREADS)
    divisors(const unsigned *a, const unsigned *b, unsigned *y, int count) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count) {
        y[i] = gcd(a[i], b[i]);
    }
}

// Prints a line a block.
extern "C" __global__ void __launch_bounds__(THREADS) say(int number, float fraction) {
    if (threadIdx.x == 0) {
        printf("block %d of %d: %d %.3f %s\n", blockIdx.x, gridDim.x, number, fraction, "done");
    }
}

// Fails where a value is negative.
extern "C" __global__ void __launch_bounds__(THREADS) check_assert(const int *x, int count) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count) {
        assert(x[i] >= 0);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) check_trap(const int *x, int count) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count && x[i] < 0) {
        __trap();
    }
}
