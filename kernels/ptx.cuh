// The instructions that CUDA C++ has no name for: the only file with `asm`. (PTX ISA 9.0, sections 9.7.9.25 cp.async,
// 9.7.15.5 mma and ldmatrix, 9.7.3 ex2 and rcp.)
#pragma once

#include <stdint.h>

__device__ inline uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory in the background; zeros where `inside` is false. Nothing is read then, so
// `from` may lie outside of the matrix.
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

// 8x8 matrices of 16-bit values: lanes 8i to 8i+7 name the rows of matrix i; of it lane 4r+c receives the values
// (r, 2c) and (r, 2c+1) in register i. `trans`: (2c, r) and (2c+1, r).
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

__device__ inline void load_matrix_x2_trans(uint32_t (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a * b for a tile of 16 x 8, depth 16. Lane 4g+t holds c of rows g and g+8, columns 2t and 2t+1; a[0], a[2] of
// row g, a[1], a[3] of row g+8, at depth 2t, 2t+1 and (a[2], a[3]) 8 more; b0 of column g, depth 2t, 2t+1, b1 8 more.
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x to 2 units in the last place; subnormal results are 0.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x to 1 unit in the last place; subnormal x count as 0.
__device__ inline float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The same pointer or number, of which the compiler knows nothing: it keeps it in registers instead of computing it anew
// in a loop.
template <typename T> __device__ inline T *kept(T *pointer) {
    asm("" : "+l"(pointer));
    return pointer;
}

__device__ inline int kept(int number) {
    asm("" : "+r"(number));
    return number;
}
