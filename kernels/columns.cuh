// Sums over the rows of a matrix, always in the same order: each block adds up rows of its own into a row of
// `partials`, and `add_parts` adds those to the gradient.
#pragma once

#include "common.cuh"

constexpr int CHUNK = 256; // columns that a warp holds: a pack of 8 a lane

// 256 columns of f32 sums for each of WARPS warps in shared memory. A lane puts its 8 columns as two runs of 4 that lie
// 144 values apart: so neither the stores (16 bytes a lane) nor the loads (a column a thread) meet in a bank.
template <int WARPS> struct alignas(16) ColumnTile {
    float values[WARPS][144 + CHUNK / 2];

    __device__ void put(int warp, int lane, const float (&sums)[8]) {
        float *to = values[warp] + 4 * lane;
        *reinterpret_cast<float4 *>(to) = make_float4(sums[0], sums[1], sums[2], sums[3]);
        *reinterpret_cast<float4 *>(to + 144) = make_float4(sums[4], sums[5], sums[6], sums[7]);
    }

    __device__ float at(int warp, int column) const {
        return values[warp][column / 4 % 2 * 144 + column / 8 * 4 + column % 4];
    }

    // Over the first `warps` warps.
    __device__ float sum(int warps, int column) const {
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) {
            sum += warp < warps ? at(warp, column) : 0.0f;
        }
        return sum;
    }
};

constexpr int PART_WARPS = 8; // of a block that calls add_parts

// to[column] += sum over the rows of partials [parts, dim]. A block owns 32 columns; its warp w adds up the rows w,
// w + 8, ..., then warp 0 the eight sums.
__device__ inline void add_parts(const float *__restrict__ partials, int parts, int dim, float *__restrict__ to) {
    __shared__ float sums[PART_WARPS][32];
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    const int column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < dim) {
#pragma unroll 4
        for (int part = warp; part < parts; part += PART_WARPS) {
            sum += partials[static_cast<size_t>(part) * dim + column];
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < dim) {
        for (int other = 1; other < PART_WARPS; other++) {
            sum += sums[other][lane];
        }
        to[column] += sum;
    }
}
