// What the sample kernels share: 16-byte packs, sums over a warp, and the instructions that CUDA C++ has no name for.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;

constexpr unsigned ALL_LANES = 0xffffffffu;

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

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }

// Every lane gets the sum.
__device__ inline float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, step);
    }
    return x;
}

// Two neighbours in a row: `low` is the first of them.
__device__ inline uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

__device__ inline uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory in the background; zeros where `inside` is false, and nothing is read.
__device__ inline void copy_async(void *to, const void *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(inside ? 16 : 0)
                 : "memory");
}

__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most PENDING of this thread's newest groups are under way.
template <int PENDING> __device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// 8x8 matrices of 16-bit values: lanes 8i to 8i+7 name the rows of matrix i, register i receives two values of it.
__device__ inline void load_matrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ inline void load_matrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ inline void load_matrix_x2(uint32_t (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a * b for a tile of 16 x 8, depth 16. Lane 4g+t holds c of rows g and g+8, columns 2t and 2t+1.
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Offset in values of the 16-byte chunk `chunk` of row `row` in a tile with rows of WIDTH 16-bit values. Chunks are
// exchanged so that eight rows of one column of chunks lie in different banks, as ldmatrix reads them.
template <int WIDTH> __device__ inline int swizzle(int row, int chunk) {
    constexpr int ROWS_PER_LINE = WIDTH < 64 ? 64 / WIDTH : 1; // a line: all 32 banks, 128 bytes
    constexpr int CHUNKS = WIDTH < 64 ? WIDTH / 8 : 8;         // of a row that take part
    return row * WIDTH + (chunk ^ (row / ROWS_PER_LINE % CHUNKS)) * 8;
}
