// AdamW in the released form over flat arrays, behind a clip by the norm of the whole gradient (spec §6).
//
//   norm = sqrt(sum of g^2);  scale = min(1, clip / (norm + slack));  g' = scale g
//   m = beta1 m + (1 - beta1) g';  v = beta2 v + (1 - beta2) g'^2
//   w -= rate m / (sqrt(v) + eps);  w -= decay w;  copy = bf16(w)
//
// `rate` holds the correction sqrt(1 - beta2^t) / (1 - beta1^t), `decay` is rate * decay; both are the span's. Where the
// norm is not finite nothing is written, nor by the steps after it that are told so: neither the norm nor the scale has
// to reach the host for a step, and who reads them late finds all as it was before the first bad one.
//
// Bytes a parameter: the norm reads 4; the step reads w, g, m, v (16) and writes w, m, v (12) and the copy (2).
// Owners: gradient_norm_partials, a block owns 16,384 elements and its partial sum; gradient_norm, one block owns norm and scale;
// adamw, a thread owns 4 elements of a span. Nothing accumulates over launches but m and v. The order of the norm's sum
// depends on nothing but the number of parameters.
// Launch: 256 threads a block; gradient_norm_partials one block for 16,384 elements, gradient_norm one block, adamw one block for
// 1,024 elements of a span. Spans start at multiples of 8 elements, so that packs of 4 are aligned, and end anywhere.
#include "total.cuh"

constexpr int THREADS = 256;
constexpr int PACK = Pack<float>::COUNT;
constexpr int NORM_BLOCK = 16384; // elements a block of gradient_norm_partials takes: cuda.rs has the same number

// f32 where it is exact to rounding, one f64 addition for four elements: GPUs for games add f64 at 1/64 of the rate of
// f32. Where the squares overflow in f32, or a value is not finite, f64 decides.
__device__ inline double squares(const Pack<float> &g) {
    float narrow = 0.0f;
    double wide = 0.0;
    for (float x : g.values) {
        narrow += x * x;
    }
    if (isfinite(narrow)) {
        return narrow;
    }
    for (float x : g.values) {
        wide += static_cast<double>(x) * x;
    }
    return wide;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gradient_norm_partials(const float *__restrict__ grad, double *__restrict__ partials, size_t count) {
    const size_t first = static_cast<size_t>(blockIdx.x) * NORM_BLOCK;
    double sum = 0.0;
#pragma unroll 4
    for (int i = threadIdx.x * PACK; i < NORM_BLOCK; i += THREADS * PACK) {
        if (first + i + PACK <= count) {
            sum += squares(load_pack(grad + first + i));
        } else {
#pragma unroll 1
            for (size_t j = first + i; j < count; j++) { // the end of the array
                sum += static_cast<double>(grad[j]) * grad[j];
            }
        }
    }
    sum = block_total<THREADS>(sum);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = sum;
    }
}

// norm[0]: the norm; norm[1]: the scale, NaN where no step may be taken. after: those of an earlier step, or null: where
// that one was not taken, this one is not either.
extern "C" __global__ void __launch_bounds__(THREADS)
    gradient_norm(const double *__restrict__ partials, const double *__restrict__ after, double *__restrict__ norm,
                  int blocks, double clip, double slack) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < blocks; i += THREADS) {
        sum += partials[i];
    }
    sum = block_total<THREADS>(sum);
    if (threadIdx.x == 0) {
        norm[0] = sqrt(sum);
        const bool taken = isfinite(norm[0]) && (after == nullptr || !isnan(after[1]));
        norm[1] = taken ? fmin(1.0, clip / (norm[0] + slack)) : NAN;
    }
}

// The numbers of one span's step.
struct Step {
    float beta1, beta2;
    float one_less1, one_less2; // 1 - beta, rounded once
    float eps, rate, decay;

    __device__ float run(float w, float g, float &m, float &v) const {
        m = beta1 * m + one_less1 * g;
        v = beta2 * v + one_less2 * g * g;
        const float moved = w - rate * m / (sqrtf(v) + eps);
        return moved - decay * moved;
    }
};

// A span is elements 0 to count - 1 of the pointers; `copy` may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(float *__restrict__ weights, bf16 *__restrict__ copy, const float *__restrict__ grad, float *__restrict__ m,
          float *__restrict__ v, const double *__restrict__ norm, size_t start, size_t count, Step step) {
    const size_t i = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * PACK;
    const float scale = static_cast<float>(norm[1]);
    if (i >= count || isnan(scale)) {
        return;
    }
    const size_t at = start + i;
    if (i + PACK <= count) {
        Pack<float> w = load_pack(weights + at), first = load_pack(m + at), second = load_pack(v + at);
        const Pack<float> g = load_pack(grad + at);
        for (int j = 0; j < PACK; j++) {
            w.values[j] = step.run(w.values[j], g.values[j] * scale, first.values[j], second.values[j]);
        }
        store_pack(weights + at, w);
        store_pack(m + at, first);
        store_pack(v + at, second);
        if (copy != nullptr) {
            store_four(copy + at, w);
        }
        return;
    }
#pragma unroll 1
    for (size_t j = at; j < start + count; j++) { // the span's last one to three elements
        weights[j] = step.run(weights[j], grad[j] * scale, m[j], v[j]);
        if (copy != nullptr) {
            copy[j] = from_float<bf16>(weights[j]);
        }
    }
}
