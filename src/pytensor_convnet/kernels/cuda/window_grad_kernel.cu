// The filter gradient over windows, of maps in memory (window_grad_kernel.py): the copying engine brings both operands.

DEVICE void fetch_windows(const TensorMap *whole, const TensorMap *added, u32 shared, int lane, int share, int channel) {
    u32 phases = 3;
    for (Place p = first_place(share); p.unit < p.last; advance(p))
        for (int w = 0; w < 2; ++w)
            if (pixels_of(p, w) > 0) fetch_window(whole, added, shared, lane, p, w, channel, phases);
}
DEVICE void fetch_maps(const TensorMap *maps, u32 shared, int share, int filter) {
    u32 slot = 0, phase = 1;
    for (Place p = first_place(share); p.unit < p.last; advance(p))
        for (int w = 0; w < 2; ++w)
            for (int i = 0; i < pixels_of(p, w); i += STAGE_PIXELS) {
                barrier_wait(MAP_EMPTY(slot), phase);
                barrier_expect(MAP_FULL(slot), STAGE_PIXELS * FILTERS * ROW_BYTES);
                load_box(MAPS(slot), maps, p.batch, filter, column_of(p, w) + i, p.y, MAP_FULL(slot));
                if (++slot == STAGES) { slot = 0; phase ^= 1; }
            }
}

#if !NARROW
// Tensor cores cut off what tf32 has not, which makes magnitudes smaller, on average by a third of a thousandth. By how
// much is found in a sample of each operand, RUNS_OF_SAMPLE runs of a program, and `add_partials` gives it back. If no
// number needs more bits than tf32 has, nothing is lost and nothing given back; where some do and others do not, sums
// of the others get what these lose, a thousandth of each operand at most. A warp writes two sums of magnitudes: of
// whole numbers, and of what is left of them.
DEVICE void sample(const float *operand, u64 elements, float *sums, int lane) {
    float of_all = 0.0f, of_left = 0.0f;
    u64 groups = elements / 4, step = groups / ((u64)gridDim.x * RUNS_OF_SAMPLE);
#pragma unroll
    for (int i = 0; i < RUNS_OF_SAMPLE; ++i) {
        u64 group = ((u64)blockIdx.x * RUNS_OF_SAMPLE + i) * step + lane;
        float4 v = group < groups ? ((const float4 *)operand)[group] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        float four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            u32 magnitude = __float_as_uint(four[j]) & 0x7fffffff;
            if (magnitude >= 0x7f800000) magnitude = 0;
            of_all += __uint_as_float(magnitude);
            of_left += __uint_as_float(magnitude & 0xffffe000);
        }
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        of_all += __shfl_xor_sync(0xffffffffu, of_all, lanes);
        of_left += __shfl_xor_sync(0xffffffffu, of_left, lanes);
    }
    if (lane == 0) *(float2 *)sums = make_float2(of_all, of_left);
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1)
window_filter_grad(const __grid_constant__ TensorMap whole, const __grid_constant__ TensorMap added,
    const __grid_constant__ TensorMap maps, const float *all_images, const float *all_maps, float *samples,
    float *partial)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 shared = shared_address(memory);
    int thread = threadIdx.x, lane = thread & 31;
    int warpgroup = __shfl_sync(0xffffffffu, thread >> 7, 0);
    int share = blockIdx.x / BLOCKS, block = blockIdx.x % BLOCKS;
    begin(shared, thread, 1);
    if (warpgroup == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(FETCHING_REGISTERS));
        int warp = __shfl_sync(0xffffffffu, thread >> 5, 0) - 8;
        if (warp == 0) fetch_windows(&whole, &added, shared, lane, share, block % CHUNKS * CHANNELS);
        if (warp == 1 && lane == 0) fetch_maps(&maps, shared, share, block / CHUNKS * FILTERS);
#if !NARROW
        if (warp == 2) sample(all_images, IMAGE_ELEMENTS, samples + blockIdx.x * 4, lane);
        if (warp == 3) sample(all_maps, MAP_ELEMENTS, samples + blockIdx.x * 4 + 2, lane);
#endif
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MULTIPLYING_REGISTERS));
        multiply(partial, nullptr, shared, warpgroup, (thread >> 5) & 3, lane, share, block);
    }
}
