// GELU with erf, and its slope, in f32: for kernels/gelu.cu and for epilogues that apply it in registers.
#pragma once

#include "common.cuh"

// The standard normal distribution function. Where erf is near -1 the sum cancels, and leaves an absolute error of some
// 2^-24; times x (erf is -1 from -5.6 on) that is 2^-21, which no bf16 sum over such values can hold.
__device__ inline float normal_share(float x) {
    constexpr float SQRT_HALF = 0.70710678118654752f;
    return fmaf(0.5f, erff(x * SQRT_HALF), 0.5f);
}

// x Phi(x) = x / 2 (1 + erf(x / sqrt 2)).
__device__ inline float gelu(float x) { return x * normal_share(x); }

// d gelu / dx = Phi(x) + x phi(x), with phi the normal density: exp(-x^2 / 2) / sqrt(2 pi).
__device__ inline float gelu_slope(float x) {
    constexpr float PEAK = 0.39894228040143268f; // 1 / sqrt(2 pi)
    const float density = PEAK * exp2_fast(-0.5f * LOG2_E * x * x);
    return fmaf(x, density, normal_share(x));
}
