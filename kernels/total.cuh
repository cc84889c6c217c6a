// Sums over a block in f64, always of the same tree.
#pragma once

#include "common.cuh"

__device__ inline double warp_sum(double x) {
    for (int step = 16; step > 0; step /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, step);
    }
    return x;
}

// Thread 0 gets the sum of the block's THREADS values of x. To be called once in a kernel for each `which`.
template <int THREADS, int which = 0> __device__ inline double block_total(double x) {
    constexpr int WARPS = THREADS / 32;
    __shared__ double sums[WARPS];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = x;
    }
    __syncthreads();
    double total = 0.0;
    if (threadIdx.x == 0) {
        for (int warp = 0; warp < WARPS; warp++) {
            total += sums[warp];
        }
    }
    return total;
}
