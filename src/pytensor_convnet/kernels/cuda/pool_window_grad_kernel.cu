// The filter gradient over windows, of maps that a max pool's gradient spreads over (pool_window_grad_kernel.py): the
// copying engine brings images; threads of some warpgroups compute stages of maps from pooled gradients and winners.
//
// A thread has the same 8 images of the same filters all along a row of maps, and goes from window to window of the
// pool: it reads cells of those windows in a column that hold the row of maps, adds each where its winner says to the
// pixels it holds, and puts those pixels that no later window holds into shared memory, as the copying engine would.

#define FILTERS_AT_ONCE (SPREADING / 8)
#define EACH ((FILTERS + FILTERS_AT_ONCE - 1) / FILTERS_AT_ONCE)  // filters of a thread
#define DOWN ((POOL_ROWS + POOL_STEP_ROWS - 1) / POOL_STEP_ROWS)  // rows of windows that may hold a row of maps
#define WIDTH (POOL_COLUMNS > POOL_STEP_COLUMNS ? POOL_COLUMNS : POOL_STEP_COLUMNS)
#define LATER (WIDTH - POOL_STEP_COLUMNS)  // pixels of a window that the next one may hold
#define BACK ((LATER + POOL_STEP_COLUMNS - 1) / POOL_STEP_COLUMNS)  // windows before the first pixel that may hold it

DEVICE u32 sum_of_pairs(u32 a, u32 b) {
    u32 r;
#if SCALED
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#else
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#endif
    return r;
}
// Two winners as float16, each 1024 more; which bytes they are is chosen.
DEVICE u32 winner_pair(u32 winners, u32 which) {
    u32 r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(winners), "r"(0x64646464u), "r"(which));
    return r;
}
// All bits of each half where two pairs of float16 are alike.
DEVICE u32 alike(u32 a, u32 b) {
    u32 r;
    asm("set.eq.u32.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

// What a window of the pool has for 8 images of a filter: pooled gradients, and winners.
struct Cell {
    uint4 values[MAP_BYTES / 2];
    uint2 winners;
};
DEVICE void pairs_of(const Cell &c, float scale, u32 (&pairs)[4]) {
#if MAP_BYTES == 4
    const float *v = (const float *)c.values;
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = float16_pair(v[2 * i] * scale, v[2 * i + 1] * scale);
#else
    pairs[0] = c.values[0].x; pairs[1] = c.values[0].y; pairs[2] = c.values[0].z; pairs[3] = c.values[0].w;
#endif
}

// What a thread is about: where its images and filters are, which of these there are, and what they are read from.
struct Part { const unsigned char *pooled, *winners; int thread, image, filter; bool has[EACH]; };
DEVICE Part part_of(const unsigned char *pooled, const unsigned char *winners, int thread, int first_filter) {
    Part part = {pooled, winners, thread, (thread & 7) * 8, first_filter + (thread >> 3)};
#pragma unroll
    for (int v = 0; v < EACH; ++v) {
        int f = v * FILTERS_AT_ONCE + (thread >> 3);
        part.has[v] = f < FILTERS && first_filter + f < ALL_FILTERS;
    }
    return part;
}
// A row of maps in a strip, and the windows that hold it: so many rows of them, the lowest first. ``first``: where the
// first window of each lies, for each filter of a thread.
struct Row { int start, end; bool there[DOWN]; u32 first_winner[DOWN]; int first[EACH][DOWN]; };
DEVICE Row row_of(const Place &p, const Part &part) {
    Row row;
    row.start = p.strip * 2 * RUN;
    int pixels = smaller(2 * RUN, MAP_COLUMNS - row.start);
    row.end = row.start + (pixels + STAGE_PIXELS - 1) / STAGE_PIXELS * STAGE_PIXELS;
    int lowest = (p.y + POOL_TOP) / POOL_STEP_ROWS, image = p.batch + part.image;
#pragma unroll
    for (int r = 0; r < DOWN; ++r) {
        int within = p.y + POOL_TOP - (lowest - r) * POOL_STEP_ROWS;
        row.there[r] = within < POOL_ROWS && lowest - r >= 0 && lowest - r < OUT_ROWS && image < BATCH;
        row.first_winner[r] = (0x6400 + within * POOL_COLUMNS) * 0x00010001u;
#pragma unroll
        for (int v = 0; v < EACH; ++v)
            row.first[v][r] = ((part.filter + v * FILTERS_AT_ONCE) * OUT_ROWS + lowest - r) * (OUT_COLUMNS * BATCH) + image;
    }
    return row;
}
DEVICE void load_column(Cell (&cells)[EACH][DOWN], const Part &part, const Row &row, int column) {
#pragma unroll
    for (int v = 0; v < EACH; ++v)
#pragma unroll
        for (int r = 0; r < DOWN; ++r) {
            cells[v][r] = {};
            if (!row.there[r] || !part.has[v] || (u32)column >= OUT_COLUMNS) continue;
            u64 place = row.first[v][r] + column * BATCH;
#pragma unroll
            for (int i = 0; i < MAP_BYTES / 2; ++i)
                cells[v][r].values[i] = __ldg((const uint4 *)(part.pooled + place * MAP_BYTES) + i);
            cells[v][r].winners = __ldg((const uint2 *)(part.winners + place));
        }
}
// Adds what windows have to pixels that they hold. ``later`` are those of the window before that this one may hold. Of
// the lowest window all have something, zeros where it is not there, so that other pixels begin with it.
DEVICE void add_column(u32 (&sums)[EACH][WIDTH][4], u32 (&later)[EACH][LATER + 1][4], const Cell (&cells)[EACH][DOWN],
    const Row &row, float scale)
{
#pragma unroll
    for (int v = 0; v < EACH; ++v) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[v][j][i] = j < LATER ? later[v][j][i] : 0;
#pragma unroll
        for (int r = 0; r < DOWN; ++r) {
            if (r > 0 && !row.there[r]) continue;
            u32 pairs[4];
            pairs_of(cells[v][r], scale, pairs);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                uint2 winners = cells[v][r].winners;
                u32 won = winner_pair(i < 2 ? winners.x : winners.y, i % 2 ? 0x4342 : 0x4140);
#pragma unroll
                for (int j = 0; j < POOL_COLUMNS; ++j) {
                    u32 added = pairs[i] & alike(won, row.first_winner[r] + j * 0x00010001u);
                    sums[v][j][i] = r == 0 && j >= LATER ? added : sum_of_pairs(sums[v][j][i], added);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < LATER; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) later[v][j][i] = sums[v][POOL_STEP_COLUMNS + j][i];
    }
}
// Pixel q of a stage.
DEVICE void put_pixel(const u32 (&sums)[EACH][WIDTH][4], int j, u32 stage, int q, const Part &part) {
#pragma unroll
    for (int v = 0; v < EACH; ++v) {
        int f = v * FILTERS_AT_ONCE + (part.thread >> 3), at = q * FILTERS + f;
        if (f >= FILTERS) continue;
        const u32 (&pixel)[4] = sums[v][j];
        store_cell(stage + at * ROW_BYTES + (((part.thread & 7) ^ (at & 7)) << 4), pixel[0], pixel[1], pixel[2], pixel[3]);
    }
}

// The window that is fetched next; ``due`` until it is. Where it waits for the place of another one, all stages are
// full that products need before they leave that; so it is tried now and then, and has to be only when it is needed.
struct Coming { Place p; int window; };
DEVICE void step(Coming &c) {
    if (++c.window < 2 && pixels_of(c.p, c.window) > 0) return;
    c.window = 0;
    advance(c.p);
}

DEVICE void spread_maps(const TensorMap *whole, const TensorMap *added, u32 shared, const Part &part, int share,
    int channel, float scale)
{
    int lane = part.thread & 31, warp = __shfl_sync(0xffffffffu, part.thread >> 5, 0);
    u32 slot = 0, phase = 1, window_phases = 3;
    Coming coming = {first_place(share), 0};
    bool due = true;
    for (Place p = first_place(share); p.unit < p.last; advance(p)) {
        Row row = row_of(p, part);
        u32 later[EACH][LATER + 1][4] = {};
        Cell cells[AHEAD + 1][EACH][DOWN];  // of the present window, and of those that are read ahead
        int column = (row.start + POOL_LEFT) / POOL_STEP_COLUMNS - BACK;
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) load_column(cells[a], part, row, column + a);
#pragma unroll 1
        for (; column * POOL_STEP_COLUMNS - POOL_LEFT < row.end; ++column) {
            load_column(cells[AHEAD], part, row, column + AHEAD);
            u32 sums[EACH][WIDTH][4];
            add_column(sums, later, cells[0], row, scale);
#pragma unroll
            for (int a = 0; a < AHEAD; ++a)
#pragma unroll
                for (int v = 0; v < EACH; ++v)
#pragma unroll
                    for (int r = 0; r < DOWN; ++r) cells[a][v][r] = cells[a + 1][v][r];
#pragma unroll
            for (int j = 0; j < POOL_STEP_COLUMNS; ++j) {
                int x = column * POOL_STEP_COLUMNS - POOL_LEFT + j, within = x - row.start, q = within % STAGE_PIXELS;
                if (x < row.start || x >= row.end) continue;
                if (warp == 0 && within % RUN == 0) {
                    if (due) fetch_window(whole, added, shared, lane, coming.p, coming.window, channel, window_phases);
                    step(coming);
                    due = coming.p.unit < coming.p.last;
                }
                if (q == 0) barrier_wait(MAP_EMPTY(slot), phase);
                put_pixel(sums, j, MAPS(slot), q, part);
                if (q < STAGE_PIXELS - 1) continue;
                __syncwarp();
                if (lane == 0) barrier_arrive(MAP_FULL(slot));
                if (++slot == STAGES) { slot = 0; phase ^= 1; }
            }
            if (warp == 0 && due && barrier_passed(WINDOW_EMPTY(coming.window), window_phases >> coming.window & 1)) {
                fetch_window(whole, added, shared, lane, coming.p, coming.window, channel, window_phases);
                due = false;
            }
        }
    }
}

#define SET_REGISTERS(count) do { \
    if ((count) < LAUNCHED_REGISTERS) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(count)); \
    if ((count) > LAUNCHED_REGISTERS) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(count)); \
} while (0)

#if KEPT
#define KEPT_PARAMETER const __grid_constant__ TensorMap kept_map
#else
#define KEPT_PARAMETER const void *kept
#endif
extern "C" __global__ void __launch_bounds__(THREADS, 1)
pooled_window_filter_grad(const __grid_constant__ TensorMap whole, const __grid_constant__ TensorMap added,
    const unsigned char *pooled, const unsigned char *winners, const float *found, int finders, KEPT_PARAMETER,
    float *partial)
{
#if KEPT
    const void *kept = &kept_map;
#endif
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 shared = shared_address(memory);
    int lane = threadIdx.x & 31, warpgroup = __shfl_sync(0xffffffffu, threadIdx.x >> 7, 0);
    int share = blockIdx.x / BLOCKS, block = blockIdx.x % BLOCKS;
    begin(shared, threadIdx.x, SPREADING / 32);
    if (warpgroup < 2) {
        SET_REGISTERS(MULTIPLYING_REGISTERS);
        multiply(partial, kept, shared, warpgroup, (threadIdx.x >> 5) & 3, lane, share, block);
    } else {
        SET_REGISTERS(SPREADING_REGISTERS);
        float scale = 1.0f;
#if MAP_BYTES == 4
        scale = 1.0f / factor_of(largest_of(found + finders, finders, lane));
#endif
        Part part = part_of(pooled, winners, threadIdx.x - 256, block / CHUNKS * FILTERS);
        spread_maps(&whole, &added, shared, part, share, block % CHUNKS * CHANNELS, scale);
    }
}
