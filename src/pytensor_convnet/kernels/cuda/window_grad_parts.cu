// What filter gradients over windows share: where windows and maps lie in shared memory, what is multiplied in what
// order, how shares are added up. window_grad_kernel.py has the loop nest, and defines all constants.
//
// Both operands have images innermost, which are what is summed over: rows of 128 bytes, 64 images of 16 bits or 32 of
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

// What a warp does: all of a window, or what is new, a column a lane. ``phases``: of each window its own, as strips may
// have one alone.
DEVICE void fetch_window(const TensorMap *whole, const TensorMap *added, u32 shared, int lane, const Place &p, int w,
    int channel, u32 &phases)
{
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

// ``kept``: a TensorMap of maps in memory, which stages of maps that were made here are written to, too.
DEVICE void multiply(float *partial, const void *kept, u32 shared, int warpgroup, int warp, int lane, int share, int block)
{
    float total[TILES_EACH][TILE_N / 2];
#pragma unroll
    for (int t = 0; t < TILES_EACH; ++t)
#pragma unroll
        for (int i = 0; i < TILE_N / 2; ++i) total[t][i] = 0.0f;
    int part = SUM_SPLIT == 2 ? warpgroup : 0, first_tile = SUM_SPLIT == 2 ? 0 : warpgroup * TILES_EACH;
#if KEPT
    bool keeps = warpgroup == 0 && warp == 0 && lane == 0 && block % CHUNKS == 0;
#endif
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
#ifdef SPREADING
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // threads wrote what tensor cores read
#endif
#if KEPT
                if (keeps) {
                    store_box(kept, p.batch, block / CHUNKS * FILTERS, column_of(p, w) + i, p.y, MAPS(slot));
                    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                }
#endif
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
#if KEPT
                if (keeps) asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
#endif
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
#if KEPT
    if (keeps) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
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

// What a program does first; so many arrivals fill a stage of maps.
DEVICE void begin(u32 shared, int thread, int arrivals) {
    if (thread == 0) {
        for (int w = 0; w < 2; ++w) {
            barrier_init(WINDOW_FULL(w), 1);
            barrier_init(WINDOW_EMPTY(w), 8);
        }
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(MAP_FULL(s), arrivals);
            barrier_init(MAP_EMPTY(s), 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

#if !NARROW
// By what a product is multiplied for what one operand lost; 1 if all is infinite or zero.
DEVICE float given_back(float of_all, float of_left) {
    float factor = of_all / of_left;
    return factor >= 1.0f && factor <= 1.0f + 1.0f / 1024 ? factor : 1.0f;
}
#endif

// By what sums are multiplied, of what searchers or programs found: the inverse of what operands were scaled by, as two
// factors that are alike, so that nothing between is larger or smaller than before or after both; or what tf32 cut off
// of both. What a warp does.
DEVICE float2 factors_of(const float *found, int finders, int lane) {
#if SCALED
    return two_alike(factor_of(largest_of(found, finders, lane)), factor_of(largest_of(found + finders, finders, lane)));
#elif !NARROW
    float4 all = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 5
    for (int program = lane; program < finders; program += 32) {
        float4 sampled = ((const float4 *)found)[program];
        all.x += sampled.x;
        all.y += sampled.y;
        all.z += sampled.z;
        all.w += sampled.w;
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        all.x += __shfl_xor_sync(0xffffffffu, all.x, lanes);
        all.y += __shfl_xor_sync(0xffffffffu, all.y, lanes);
        all.z += __shfl_xor_sync(0xffffffffu, all.z, lanes);
        all.w += __shfl_xor_sync(0xffffffffu, all.w, lanes);
    }
    return make_float2(given_back(all.x, all.y), given_back(all.z, all.w));
#else
    return make_float2(1.0f, 1.0f);
#endif
}

// Adds up the shares, in a fixed order: a program 32 elements, and each of its warps a part of the shares, but for the
// last, which says by what sums are multiplied.
#define PARTS (ADDING_THREADS / 32 - 1)
extern "C" __global__ void __launch_bounds__(ADDING_THREADS)
add_partials(const float *partial, const float *found, int finders, void *filters, int filter_step, int channel_step,
    int row_step, int column_step)
{
    __shared__ float sums[PARTS][32];
    __shared__ float2 factors;
    int lane = threadIdx.x & 31, part = threadIdx.x >> 5;
    const int block_size = PARTIAL_ROWS * TILE_N, stride = BLOCKS * block_size;
    int element = blockIdx.x * 32 + lane;
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    float sum = 0.0f;
    if (part == PARTS) {
        float2 all = factors_of(found, finders, lane);
        if (lane == 0) factors = all;
    } else if (element < stride) {
        const float *p = partial + element + (u64)part * stride;
#pragma unroll 9
        for (int share = part; share < SHARES * SUM_SPLIT; share += PARTS, p += PARTS * (u64)stride) sum += *p;
    }
    if (part < PARTS) sums[part][lane] = sum;
    __syncthreads();
    if (part > 0 || element >= stride) return;
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) sum += sums[i][lane];
    sum = sum * factors.x * factors.y;
    int block = element / block_size, row = element % block_size / TILE_N, column = element % TILE_N;
    int tap = TAPS_AS_ROWS ? row : column, filter = TAPS_AS_ROWS ? column : row;
    int f = block / CHUNKS * FILTERS + filter, c = block % CHUNKS * CHANNELS + tap % CHANNELS;
    int i = tap / CHANNELS % TAPS_DOWN, j = tap / (CHANNELS * TAPS_DOWN);
    if (tap >= TAPS_DOWN * TAPS_ACROSS * CHANNELS || filter >= FILTERS || f >= ALL_FILTERS) return;
    if (FLIP) { i = TAPS_DOWN - 1 - i; j = TAPS_ACROSS - 1 - j; }
    int to = f * filter_step + c * channel_step + i * row_step + j * column_step;
#if NARROW && !SCALED
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(sum));
    ((unsigned short *)filters)[to] = bits;
#else
    ((float *)filters)[to] = sum;
#endif
}
