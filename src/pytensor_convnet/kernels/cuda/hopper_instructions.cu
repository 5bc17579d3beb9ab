// Instructions of Hopper that C++ has no words for: barriers of shared memory, the copying engine, and small things.
// The kernels over windows have it before their own code (`hopper_sources.py`).

typedef unsigned int u32;
typedef unsigned long long u64;
#define DEVICE __device__ __forceinline__

DEVICE u32 shared_address(const void *p) {
    u32 a;
    asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(a) : "l"(p));
    return a;
}
DEVICE void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(count) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
            : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    } while (!done);
}
// Whether a warp need not wait.
DEVICE bool barrier_passed(u32 barrier, u32 parity) {
    u32 done;
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    return __all_sync(0xffffffffu, done);
}
DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}
DEVICE void load_bulk(u32 to, const void *from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
// A box of a tensor, the first place of which is given, the innermost dimension first; zeros where the tensor has
// nothing.
struct alignas(64) TensorMap { u64 opaque[16]; };
DEVICE void load_box(u32 to, const TensorMap *map, int x0, int x1, int x2, int x3, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];"
        :: "r"(to), "l"(map), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(barrier) : "memory");
}
// The other way; the thread commits what it asks for as a group, and waits for groups.
DEVICE void store_box(const void *map, int x0, int x1, int x2, int x3, u32 from) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];"
        :: "l"(map), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(from) : "memory");
}
DEVICE void warpgroup_barrier(int number) { asm volatile("bar.sync %0, 128;" :: "r"(number) : "memory"); }
// Two 8 x 8 tiles of 16 bits, as products have them, by columns: lanes 0 to 15 say where each column of 16 bytes goes.
DEVICE void store_turned(u32 to, u32 a, u32 b) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" :: "r"(to), "r"(a), "r"(b) : "memory");
}
// An operand of tensor cores: rows of 128 bytes, any number of them from any row on, which lie as their address says.
DEVICE u64 swizzled_descriptor(u32 address) {
    return (1ull << 62) | ((u64)(1024 >> 4) << 32) | (1 << 16) | (address >> 4);
}
DEVICE void store_cell(u32 to, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" :: "r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
DEVICE u32 float16_pair(float low, float high) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
DEVICE u32 bfloat16_pair(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
DEVICE int larger(int a, int b) { return a > b ? a : b; }
DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }
DEVICE int exponent_of(float x) { return ((__float_as_int(x) >> 23) & 255) - 127; }
// The inverse of what brings the largest magnitude to between 2**14 and 2**15.
DEVICE float factor_of(float largest) { return power_of_two(-smaller(14 - exponent_of(largest), 126)); }
// Powers of two that are alike, whose product is that of a and b: what is multiplied by one and then the other is no
// larger or smaller between than before or after both.
DEVICE float2 two_alike(float a, float b) {
    int exponent = exponent_of(a) + exponent_of(b);
    return make_float2(power_of_two(exponent / 2), power_of_two(exponent - exponent / 2));
}
// Of an operand, of what searchers found. What a warp does; all lanes know it then.
DEVICE float largest_of(const float *found, int finders, int lane) {
    float largest = 0.0f;
#pragma unroll 8
    for (int i = lane; i < finders; i += 32) largest = fmaxf(largest, found[i]);
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
    return largest;
}
