// y = (x - mean) * rstd * gamma + beta by rows, with rstd = 1 / sqrt(variance + eps).
//
// Reads and writes each value once. A warp owns a row and keeps it in registers as floats: lane l has the row's packs
// l, l + 32, ... The variance is a second pass over the registers, so that nothing cancels. mean and rstd are saved.
// dim: a multiple of a pack, at most 1024. Launch: any number of warps a block, one warp a row.
#include "common.cuh"

constexpr int MAX_DIM = 1024;

template <typename T>
__device__ inline void layernorm(const T *__restrict__ x, const float *__restrict__ gamma,
                                 const float *__restrict__ beta, T *__restrict__ y, float *__restrict__ means,
                                 float *__restrict__ rstds, int rows, int dim, float eps) {
    constexpr int COUNT = Pack<T>::COUNT;
    constexpr int PACKS = MAX_DIM / COUNT / 32;
    const int lane = threadIdx.x % 32;
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) {
        return; // the whole warp, and there is no barrier
    }
    x += static_cast<size_t>(row) * dim;
    y += static_cast<size_t>(row) * dim;

    float values[PACKS][COUNT];
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * 32 + lane) * COUNT;
        if (column < dim) {
            const Pack<T> pack = load_pack(x + column);
            for (int i = 0; i < COUNT; i++) {
                values[p][i] = to_float(pack.values[i]);
                sum += values[p][i];
            }
        }
    }
    const float mean = warp_sum(sum) / dim;

    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        if ((p * 32 + lane) * COUNT < dim) {
            for (int i = 0; i < COUNT; i++) {
                const float distance = values[p][i] - mean;
                squares += distance * distance;
            }
        }
    }
    const float rstd = rsqrtf(warp_sum(squares) / dim + eps);

#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * 32 + lane) * COUNT;
        if (column < dim) {
            Pack<T> pack;
            for (int i = 0; i < COUNT; i += 4) {
                const Pack<float> scale = load_pack(gamma + column + i);
                const Pack<float> shift = load_pack(beta + column + i);
                for (int j = 0; j < 4; j++) {
                    const float normal = (values[p][i + j] - mean) * rstd;
                    pack.values[i + j] = from_float<T>(normal * scale.values[j] + shift.values[j]);
                }
            }
            store_pack(y + column, pack);
        }
    }
    if (lane == 0) {
        means[row] = mean;
        rstds[row] = rstd;
    }
}

extern "C" __global__ void layernorm_bf16(const bf16 *__restrict__ x, const float *__restrict__ gamma,
    const float *__restrict__ beta, bf16 *__restrict__ y, float *__restrict__ means, float *__restrict__ rstds,
    int rows, int dim, float eps) {
    layernorm(x, gamma, beta, y, means, rstds, rows, dim, eps);
}

extern "C" __global__ void layernorm_f32(const float *__restrict__ x, const float *__restrict__ gamma,
    const float *__restrict__ beta, float *__restrict__ y, float *__restrict__ means, float *__restrict__ rstds,
    int rows, int dim, float eps) {
    layernorm(x, gamma, beta, y, means, rstds, rows, dim, eps);
}
