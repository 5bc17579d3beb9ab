// The filter gradient over windows, of maps that a max pool's gradient spreads over (pool_window_grad_kernel.py): the
// copying engine brings images; threads of two warpgroups compute stages of maps from pooled gradients and winners.
//
// A thread has the same 8 images of the same filters all along a row of maps, and goes from window to window: it reads
// those of a column, in all rows of windows that hold the row of maps, adds each where its winner says to the pixels
// it holds, and puts those pixels that no later window holds into shared memory, as the copying engine would.

#define SPREADING 256  // threads
#define EACH ((FILTERS * 8 + SPREADING - 1) / SPREADING)  // filters of a thread
#define DOWN ((POOL_ROWS + POOL_STEP_ROWS - 1) / POOL_STEP_ROWS)  // rows of windows that may hold a row of maps
#define WIDTH (POOL_COLUMNS > POOL_STEP_COLUMNS ? POOL_COLUMNS : POOL_STEP_COLUMNS)
#define LATER (WIDTH - POOL_STEP_COLUMNS)  // pixels of a window that the next one may hold
#define BACK ((LATER + POOL_STEP_COLUMNS - 1) / POOL_STEP_COLUMNS)  // windows before the first pixel that may hold it
#define EVERY_BYTE 0x01010101u
#define MAP_BYTES (SCALED ? 4 : 2)  // of a pooled gradient

DEVICE void store_cell(u32 to, const u32 (&cell)[4]) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
        :: "r"(to), "r"(cell[0]), "r"(cell[1]), "r"(cell[2]), "r"(cell[3]) : "memory");
}
DEVICE u32 float16_pair(float low, float high) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
DEVICE u32 sum_of_pairs(u32 a, u32 b) {
    u32 r;
#if SCALED
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#else
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#endif
    return r;
}
// The highest bits of two bytes, each 16 times.
DEVICE u32 signs(u32 bytes, u32 which) {
    u32 r;
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(r) : "r"(bytes), "r"(which));
    return r;
}

// Pooled gradients of 8 images, and their winners.
struct Cell {
    uint4 values[MAP_BYTES / 2];
    uint2 taps;
};
DEVICE Cell load_cell(const unsigned char *pooled, const unsigned char *winners, int place, bool exists) {
    Cell c = {};
    if (!exists) return c;
#pragma unroll
    for (int i = 0; i < MAP_BYTES / 2; ++i) c.values[i] = __ldg((const uint4 *)(pooled + (u64)place * MAP_BYTES) + i);
    c.taps = __ldg((const uint2 *)(winners + place));
    return c;
}
DEVICE void pairs_of(const Cell &c, float scale, u32 (&pairs)[4]) {
#if SCALED
    const float *v = (const float *)c.values;
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = float16_pair(v[2 * i] * scale, v[2 * i + 1] * scale);
#else
    pairs[0] = c.values[0].x; pairs[1] = c.values[0].y; pairs[2] = c.values[0].z; pairs[3] = c.values[0].w;
#endif
}
// What has this winner is added to sums. Of a byte without its highest bit, 127 more has it unless the byte is zero.
DEVICE void add_where(u32 (&sums)[4], const u32 (&pairs)[4], const uint2 &taps, u32 winner) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        u32 others = (i ? taps.y : taps.x) ^ winner, same = ~(((others & 0x7f7f7f7f) + 0x7f7f7f7f) | others);
        sums[2 * i] = sum_of_pairs(sums[2 * i], pairs[2 * i] & signs(same, 0x9988));
        sums[2 * i + 1] = sum_of_pairs(sums[2 * i + 1], pairs[2 * i + 1] & signs(same, 0xbbaa));
    }
}

DEVICE void spread_maps(const TensorMap *whole, const TensorMap *added, const unsigned char *pooled,
    const unsigned char *winners, unsigned short *kept, u32 shared, int thread, int share, int block, float scale)
{
    int lane = thread & 31, warp = __shfl_sync(0xffffffffu, thread >> 5, 0), part = thread & 7;
    int channel = block % CHUNKS * CHANNELS, first_filter = block / CHUNKS * FILTERS;
    u32 slot = 0, phase = 1, window_phases = 3;
    for (Place p = first_place(share); p.unit < p.last; advance(p)) {
        int start = p.strip * 2 * RUN, pixels = smaller(2 * RUN, MAP_COLUMNS - start), image = p.batch + part * 8;
        int end = start + (pixels + STAGE_PIXELS - 1) / STAGE_PIXELS * STAGE_PIXELS;
        int lowest = (p.y + POOL_TOP) / POOL_STEP_ROWS;
        bool there[DOWN];
        u32 first_tap[DOWN];
#pragma unroll
        for (int r = 0; r < DOWN; ++r) {
            int row = p.y + POOL_TOP - (lowest - r) * POOL_STEP_ROWS;
            there[r] = row < POOL_ROWS && lowest - r >= 0 && lowest - r < OUT_ROWS;
            first_tap[r] = row * POOL_COLUMNS * EVERY_BYTE;
        }
        u32 later[EACH][LATER + 1][4] = {};
        auto load_column = [&](Cell (&cells)[EACH][DOWN], int column) {
#pragma unroll
            for (int v = 0; v < EACH; ++v)
#pragma unroll
                for (int r = 0; r < DOWN; ++r) {
                    int f = v * 32 + (thread >> 3), all = first_filter + f;
                    bool exists = there[r] && f < FILTERS && all < ALL_FILTERS && image < BATCH && column >= 0
                        && column < OUT_COLUMNS;
                    cells[v][r] = load_cell(pooled, winners,
                        ((all * OUT_ROWS + lowest - r) * OUT_COLUMNS + column) * BATCH + image, exists);
                }
        };
        Cell cells[EACH][DOWN], next[EACH][DOWN];
        int column = (start + POOL_LEFT) / POOL_STEP_COLUMNS - BACK;
        if (AHEAD) load_column(next, column);
#pragma unroll 1
        for (; column * POOL_STEP_COLUMNS - POOL_LEFT < end; ++column) {
            if (AHEAD) {
#pragma unroll
                for (int v = 0; v < EACH; ++v)
#pragma unroll
                    for (int r = 0; r < DOWN; ++r) cells[v][r] = next[v][r];
            }
            load_column(AHEAD ? next : cells, column + AHEAD);
            u32 sums[EACH][WIDTH][4];
#pragma unroll
            for (int v = 0; v < EACH; ++v) {
#pragma unroll
                for (int j = 0; j < WIDTH; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) sums[v][j][i] = j < LATER ? later[v][j][i] : 0;
#pragma unroll
                for (int r = 0; r < DOWN; ++r) {
                    if (!there[r]) continue;
                    u32 pairs[4];
                    pairs_of(cells[v][r], scale, pairs);
#pragma unroll
                    for (int j = 0; j < POOL_COLUMNS; ++j)
                        add_where(sums[v][j], pairs, cells[v][r].taps, first_tap[r] + j * EVERY_BYTE);
                }
#pragma unroll
                for (int j = 0; j < LATER; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) later[v][j][i] = sums[v][POOL_STEP_COLUMNS + j][i];
            }
#pragma unroll
            for (int j = 0; j < POOL_STEP_COLUMNS; ++j) {
                int x = column * POOL_STEP_COLUMNS - POOL_LEFT + j, within = x - start, q = within % STAGE_PIXELS;
                if (x < start || x >= end) continue;
                if (warp == 0 && within % RUN == 0)
                    fetch_window(whole, added, shared, lane, p, within / RUN, channel, window_phases);
                if (q == 0) barrier_wait(MAP_EMPTY(slot), phase);
#pragma unroll
                for (int v = 0; v < EACH; ++v) {
                    int f = v * 32 + (thread >> 3), row = q * FILTERS + f;
                    if (f >= FILTERS) continue;
                    store_cell(MAPS(slot) + row * ROW_BYTES + ((part ^ (row & 7)) << 4), sums[v][j]);
                    if (KEPT && channel == 0 && first_filter + f < ALL_FILTERS && image < BATCH && x < MAP_COLUMNS)
                        *(uint4 *)(kept + (((first_filter + f) * MAP_ROWS + p.y) * MAP_COLUMNS + x) * BATCH + image)
                            = make_uint4(sums[v][j][0], sums[v][j][1], sums[v][j][2], sums[v][j][3]);
                }
                if (q < STAGE_PIXELS - 1) continue;
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // so that tensor cores see what was written
                __syncwarp();
                if (lane == 0) barrier_arrive(MAP_FULL(slot));
                if (++slot == STAGES) { slot = 0; phase ^= 1; }
            }
        }
    }
}

#define SET_REGISTERS(count) do { \
    if ((count) < 65536 / THREADS) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(count)); \
    if ((count) > 65536 / THREADS) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(count)); \
} while (0)

extern "C" __global__ void __launch_bounds__(THREADS, 1)
pooled_window_filter_grad(const __grid_constant__ TensorMap whole, const __grid_constant__ TensorMap added,
    const unsigned char *pooled, const unsigned char *winners, const float *found, int finders, unsigned short *kept,
    float *partial)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 shared = shared_address(memory);
    int thread = threadIdx.x, lane = thread & 31;
    int warpgroup = __shfl_sync(0xffffffffu, thread >> 7, 0);
    int share = blockIdx.x / BLOCKS, block = blockIdx.x % BLOCKS;
    begin(shared, thread, SPREADING / 32);
    if (warpgroup >= 2) {
        SET_REGISTERS(FETCHING_REGISTERS);
        float scale = 1.0f;
#if SCALED
        float most = 0.0f;
        for (int i = lane; i < finders; i += 32) most = fmaxf(most, found[finders + i]);
#pragma unroll
        for (int lanes = 16; lanes > 0; lanes /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
        scale = 1.0f / factor_of(most);
#endif
        spread_maps(&whole, &added, pooled, winners, kept, shared, thread - 256, share, block, scale);
    } else {
        SET_REGISTERS(MULTIPLYING_REGISTERS);
        multiply(partial, shared, warpgroup, (thread >> 5) & 3, lane, share, block);
    }
}
