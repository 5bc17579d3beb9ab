// The filter gradient over windows of pixels in shared memory; window_grad_kernel.py has the loop nest, and defines all
// constants.
//
// Both operands have images innermost, which are what is summed over: rows of 128 bytes, 64 images of bfloat16 or 32 of
// float32, swizzled, as the copying engine (TMA) brings them and tensor cores read them. float32 is multiplied as tf32.
// A window has the rows (column, row of taps, channel) of RUN pixels: the taps of a pixel are consecutive rows, those
// of the next one begin STEP_COLUMNS * ALL_ROWS further. One map row further down only STEP_ROWS rows of the source are
// new: they are put behind the others of their column, where the next column has rows that are not needed any more.

#define WINDOW_FULL(w) (shared + (w) * 8)
#define WINDOW_EMPTY(w) (shared + 16 + (w) * 8)
#define MAP_FULL(s) (shared + 64 + (s) * 8)
#define MAP_EMPTY(s) (shared + 320 + (s) * 8)
#define WINDOW(w) (shared + 1024 + (w) * WINDOW_BYTES)
#define MAPS(s) (shared + 1024 + 2 * WINDOW_BYTES + (s) * STAGE_BYTES)
#define ALL_ROWS (TAPS_DOWN * CHANNELS)  // of a column of a window

// A share of the work: map rows one after the other, of strips of 2 * RUN map columns, of IMAGES images.
struct Place { int unit, last, y, strip, batch, march; };
DEVICE Place first_place(int share) {
    Place p;
    p.unit = (int)((long long)UNITS * share / SHARES);
    p.last = (int)((long long)UNITS * (share + 1) / SHARES);
    p.y = p.unit % MAP_ROWS;
    p.strip = p.unit / MAP_ROWS % STRIPS;
    p.batch = p.unit / (MAP_ROWS * STRIPS) * IMAGES;
    p.march = 0;
    return p;
}
DEVICE void advance(Place &p) {
    ++p.unit;
    if (++p.march == LONGEST) p.march = 0;
    if (++p.y == MAP_ROWS) {
        p.y = 0;
        p.march = 0;
        if (++p.strip == STRIPS) { p.strip = 0; p.batch += IMAGES; }
    }
}
DEVICE int column_of(const Place &p, int w) { return (p.strip * 2 + w) * RUN; }
// The pixels of a window; none where the maps have no such columns.
DEVICE int pixels_of(const Place &p, int w) { return smaller(RUN, MAP_COLUMNS - column_of(p, w)); }

// What a warp does: all of a window, or what is new, a column a lane.
DEVICE void fetch_windows(const TensorMap *whole, const TensorMap *added, u32 shared, int lane, int share, int channel) {
    u32 phases = 3;  // of each window its own: strips may have one alone
    for (Place p = first_place(share); p.unit < p.last; advance(p))
        for (int w = 0; w < 2; ++w) {
            if (pixels_of(p, w) <= 0) continue;
            barrier_wait(WINDOW_EMPTY(w), phases >> w & 1);
            phases ^= 1 << w;
            int x = column_of(p, w) * STEP_COLUMNS - LEFT, y = p.y * STEP_ROWS - TOP;
            if (p.march == 0) {
                if (lane == 0) {
                    barrier_expect(WINDOW_FULL(w), COLUMNS * ALL_ROWS * ROW_BYTES);
                    load_box(WINDOW(w), whole, p.batch, channel, y, x, WINDOW_FULL(w));
                }
            } else {
                if (lane == 0) barrier_expect(WINDOW_FULL(w), COLUMNS * STEP_ROWS * CHANNELS * ROW_BYTES);
                __syncwarp();
                int down = TAPS_DOWN + (p.march - 1) * STEP_ROWS;
                for (int c = lane; c < COLUMNS; c += 32)
                    load_box(WINDOW(w) + (c * ALL_ROWS + down * CHANNELS) * ROW_BYTES, added, p.batch, channel,
                        y + TAPS_DOWN - STEP_ROWS, x + c, WINDOW_FULL(w));
            }
            __syncwarp();
        }
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

DEVICE void multiply(float *partial, u32 shared, int warpgroup, int warp, int lane, int share, int block) {
    float total[TILES_EACH][TILE_N / 2];
#pragma unroll
    for (int t = 0; t < TILES_EACH; ++t)
#pragma unroll
        for (int i = 0; i < TILE_N / 2; ++i) total[t][i] = 0.0f;
    int part = SUM_SPLIT == 2 ? warpgroup : 0, first_tile = SUM_SPLIT == 2 ? 0 : warpgroup * TILES_EACH;
    u32 slot = 0, phase = 0, window_phases = 0, before = STAGES, window_before = 2;  // that products may still read
    for (Place p = first_place(share); p.unit < p.last; advance(p)) {
#pragma unroll 1
        for (int w = 0; w < 2; ++w) {
            int pixels = pixels_of(p, w);
            if (pixels <= 0) continue;
            if (window_before == w) {  // a strip of one window, which is fetched after this
                asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
                if (lane == 0) barrier_arrive(WINDOW_EMPTY(w));
                window_before = 2;
            }
            barrier_wait(WINDOW_FULL(w), window_phases >> w & 1);
            window_phases ^= 1 << w;
            u32 window = WINDOW(w) + p.march * (STEP_ROWS * CHANNELS * ROW_BYTES);
#pragma unroll 1
            for (int i = 0; i < pixels; i += STAGE_PIXELS) {
                barrier_wait(MAP_FULL(slot), phase);
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int turn = 0; turn < STAGE_PIXELS / SUM_SPLIT; ++turn) {
                    int q = turn * SUM_SPLIT + part;
                    // A pixel that does not exist has maps of zero, but its window may be anything: so the last one's.
                    u32 pixel = smaller(i + q, pixels - 1);
                    u64 taps = swizzled_descriptor(window + pixel * (STEP_COLUMNS * ALL_ROWS * ROW_BYTES));
                    u64 filters = swizzled_descriptor(MAPS(slot) + q * (FILTERS * ROW_BYTES));
#pragma unroll
                    for (int k = 0; k < 4; ++k)
#pragma unroll
                        for (int t = 0; t < TILES_EACH; ++t) {
                            u32 rows = (first_tile + t) * (64 * ROW_BYTES / 16);
                            add_product(total[t], (TAPS_AS_ROWS ? taps : filters) + rows + 2 * k,
                                (TAPS_AS_ROWS ? filters : taps) + 2 * k, 1);
                        }
                }
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (lane == 0) {
                    if (before < STAGES) barrier_arrive(MAP_EMPTY(before));
                    if (window_before < 2) barrier_arrive(WINDOW_EMPTY(window_before));
                }
                before = slot;
                window_before = 2;
                if (++slot == STAGES) { slot = 0; phase ^= 1; }
            }
            window_before = w;
        }
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int t = 0; t < TILES_EACH; ++t)
#pragma unroll
        for (int i = 0; i < TILE_N / 2; ++i) asm volatile("" : "+f"(total[t][i]) :: "memory");
    float *to = partial + (((u64)share * SUM_SPLIT + part) * BLOCKS + block) * (PARTIAL_ROWS * TILE_N);
#pragma unroll
    for (int t = 0; t < TILES_EACH; ++t)
#pragma unroll
        for (int j = 0; j < TILE_N / 8; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int row = (first_tile + t) * 64 + warp * 16 + (lane >> 2) + 8 * half;
                float2 both = make_float2(total[t][4 * j + 2 * half], total[t][4 * j + 2 * half + 1]);
                if (row < PARTIAL_ROWS) *(float2 *)(to + row * TILE_N + 8 * j + 2 * (lane & 3)) = both;
            }
}

#if !NARROW
// Tensor cores cut off what tf32 has not, which makes magnitudes smaller, on average by a third of a thousandth. By how
// much is found in a sample of each operand, RUNS_OF_SAMPLE runs of a program, and `add_partials` gives it back. Numbers
// that need no more bits than tf32 has lose nothing, and get nothing back. A warp writes two sums of magnitudes: of whole
// numbers, and of what is left of them.
DEVICE void sample(const float *operand, u64 elements, float *sums, int lane) {
    float of_all = 0.0f, of_left = 0.0f;
    u64 groups = elements / 4, step = groups / ((u64)gridDim.x * RUNS_OF_SAMPLE);
    for (int i = 0; i < RUNS_OF_SAMPLE; ++i) {
        u64 group = ((u64)blockIdx.x * RUNS_OF_SAMPLE + i) * step + lane;
        if (group >= groups) continue;
        float4 v = ((const float4 *)operand)[group];
        float four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            u32 magnitude = __float_as_uint(four[j]) & 0x7fffffff;
            if (magnitude >= 0x7f800000) continue;
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
// By what a product is multiplied for what one operand lost; 1 if all is infinite or zero.
DEVICE float given_back(float of_all, float of_left) {
    float factor = of_all / of_left;
    return factor >= 1.0f && factor <= 1.0f + 1.0f / 1024 ? factor : 1.0f;
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
    if (thread == 0) {
        for (int w = 0; w < 2; ++w) {
            barrier_init(WINDOW_FULL(w), 1);
            barrier_init(WINDOW_EMPTY(w), 8);
        }
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(MAP_FULL(s), 1);
            barrier_init(MAP_EMPTY(s), 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
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
        multiply(partial, shared, warpgroup, (thread >> 5) & 3, lane, share, block);
    }
}

// Adds up the shares, in a fixed order: a program 32 elements, and each of its warps a part of the shares.
#define PARTS (ADDING_THREADS / 32)
extern "C" __global__ void __launch_bounds__(ADDING_THREADS)
add_partials(const float *partial, const float *samples, void *filters)
{
    __shared__ float sums[PARTS][32];
#if !NARROW
    __shared__ float of_samples[PARTS][4];
#endif
    int lane = threadIdx.x & 31, part = threadIdx.x >> 5;
    const int block_size = PARTIAL_ROWS * TILE_N, stride = BLOCKS * block_size;
    int element = blockIdx.x * 32 + lane;
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    float sum = 0.0f;
    if (element < stride) {
        const float *p = partial + element + (u64)part * stride;
#pragma unroll 9
        for (int share = part; share < SHARES * SUM_SPLIT; share += PARTS, p += PARTS * (u64)stride) sum += *p;
    }
    sums[part][lane] = sum;
#if !NARROW
    float sampled[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int program = threadIdx.x; program < SHARES * BLOCKS; program += ADDING_THREADS)
#pragma unroll
        for (int i = 0; i < 4; ++i) sampled[i] += samples[program * 4 + i];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int lanes = 16; lanes > 0; lanes /= 2) sampled[i] += __shfl_xor_sync(0xffffffffu, sampled[i], lanes);
        if (lane == 0) of_samples[part][i] = sampled[i];
    }
#endif
    __syncthreads();
    if (part > 0 || element >= stride) return;
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) sum += sums[i][lane];
#if !NARROW
    float found[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 4 * PARTS; ++i) found[i % 4] += of_samples[i / 4][i % 4];
    sum *= given_back(found[0], found[1]) * given_back(found[2], found[3]);
#endif
    int block = element / block_size, row = element % block_size / TILE_N, column = element % TILE_N;
    int tap = TAPS_AS_ROWS ? row : column, filter = TAPS_AS_ROWS ? column : row;
    int f = block / CHUNKS * FILTERS + filter, c = block % CHUNKS * CHANNELS + tap % CHANNELS;
    int i = tap / CHANNELS % TAPS_DOWN, j = tap / (CHANNELS * TAPS_DOWN);
    if (tap >= TAPS_DOWN * TAPS_ACROSS * CHANNELS || filter >= FILTERS || f >= ALL_FILTERS) return;
    if (FLIP) { i = TAPS_DOWN - 1 - i; j = TAPS_ACROSS - 1 - j; }
    int to = ((f * ALL_CHANNELS + c) * TAPS_DOWN + i) * TAPS_ACROSS + j;
#if NARROW
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(sum));
    ((unsigned short *)filters)[to] = bits;
#else
    ((float *)filters)[to] = sum;
#endif
}
