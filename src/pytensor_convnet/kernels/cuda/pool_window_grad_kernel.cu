// The filter gradient over windows, of maps that a max pool's gradient spreads over (pool_window_grad_kernel.py): the
// copying engine brings images; threads of two warpgroups compute stages of maps, from pooled gradients and winners.
//
// Threads go along a row of maps from window to window of the pool: of each they read, in all rows of windows that hold
// the row of maps, add what they read where winners say to the pixels that the windows hold, and put those that no later
// window holds into shared memory, as the copying engine would. A thread has always the same 8 images of the same
// filters. It compares winners by arithmetic of pairs of 16 bits, of which there is twice as much as of anything else.

#define SPREADING 256  // threads
#define EACH ((FILTERS * 8 + SPREADING - 1) / SPREADING)  // filters of a thread
#define DOWN ((POOL_ROWS + POOL_STEP_ROWS - 1) / POOL_STEP_ROWS)  // rows of windows that may hold a row of maps
#define WIDTH (POOL_COLUMNS > POOL_STEP_COLUMNS ? POOL_COLUMNS : POOL_STEP_COLUMNS)
#define LATER (WIDTH - POOL_STEP_COLUMNS)  // pixels of a window that the next one may hold
#define BACK ((LATER + POOL_STEP_COLUMNS - 1) / POOL_STEP_COLUMNS)  // windows before the first pixel that may hold it
#if SCALED
#define PAIR "f16x2"
#define WHOLE 0x6400u  // and a number below 128 is 1024 and that number
#else
#define PAIR "bf16x2"
#define WHOLE 0x4300u  // and a number below 128 is 128 and that number
#endif

DEVICE void store_cell(u32 to, const u32 (&cell)[4]) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
        :: "r"(to), "r"(cell[0]), "r"(cell[1]), "r"(cell[2]), "r"(cell[3]) : "memory");
}
// Of two bytes, which two are chosen, the number of each as 16 bits, and WHOLE.
DEVICE u32 pair_of_bytes(u32 bytes, u32 which) {
    u32 r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(bytes), "r"((WHOLE >> 8) * 0x01010101u), "r"(which));
    return r;
}
// To a sum is added what has this winner: all times max(1 - d * d, 0), where d is how far winners are from it.
DEVICE void add_where(u32 &sum, u32 value, u32 won, u32 winner) {
    asm("{\n.reg .b32 d, e;\nsub.rn." PAIR " d, %2, %3;\nneg." PAIR " e, d;\n"
        "fma.rn.relu." PAIR " d, d, e, %4;\nfma.rn." PAIR " %0, %1, d, %0;\n}\n"
        : "+r"(sum) : "r"(value), "r"(won), "r"(winner), "r"(SCALED ? 0x3c003c00u : 0x3f803f80u));
}

#ifndef ARITHMETIC
#define ARITHMETIC 0
#endif
#ifndef SKIP
#define SKIP 1
#endif
DEVICE u32 sum_of_pairs(u32 a, u32 b) {
    u32 r;
    asm("add.rn." PAIR " %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
// The highest bits of two bytes, each 16 times.
DEVICE u32 signs(u32 bytes, u32 which) {
    u32 r;
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(r) : "r"(bytes), "r"(which));
    return r;
}
// What has this winner is added to sums. Of a byte without its highest bit, 127 more has it unless the byte is zero.
DEVICE void add_same(u32 (&sums)[4], const u32 (&values)[4], const uint2 &winners, u32 winner) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        u32 others = (i ? winners.y : winners.x) ^ winner, same = ~(((others & 0x7f7f7f7f) + 0x7f7f7f7f) | others);
        sums[2 * i] = sum_of_pairs(sums[2 * i], values[2 * i] & signs(same, 0x9988));
        sums[2 * i + 1] = sum_of_pairs(sums[2 * i + 1], values[2 * i + 1] & signs(same, 0xbbaa));
    }
}

// Where threads are: a row of maps in a strip, and the next window of the pool.
struct Walk { Place p; int column, start, end, highest; };
DEVICE void begin_row(Walk &w) {
    w.start = w.p.strip * 2 * RUN;
    int pixels = smaller(2 * RUN, MAP_COLUMNS - w.start);
    w.end = w.start + (pixels + STAGE_PIXELS - 1) / STAGE_PIXELS * STAGE_PIXELS;
    w.highest = (w.p.y + POOL_TOP) / POOL_STEP_ROWS;
    w.column = (w.start + POOL_LEFT) / POOL_STEP_COLUMNS - BACK;
}
DEVICE Walk first_walk(int share) {
    Walk w;
    w.p = first_place(share);
    begin_row(w);
    return w;
}
// On to the next window; says whether that is of another row of maps, or strip.
DEVICE bool step(Walk &w) {
    if (++w.column * POOL_STEP_COLUMNS - POOL_LEFT < w.end) return false;
    advance(w.p);
    begin_row(w);
    return true;
}
// Of the window that is so many further up than the lowest, the row that the row of maps is; and whether there is one.
DEVICE int row_of(const Walk &w, int up) { return w.p.y + POOL_TOP - (w.highest - up) * POOL_STEP_ROWS; }
DEVICE bool exists(const Walk &w, int up) {
    return row_of(w, up) < POOL_ROWS && w.highest - up >= 0 && w.highest - up < OUT_ROWS;
}

// The window that is fetched next; ``due`` until it is. Where it waits for the place of another one, all stages are
// full that products need before they leave that; so it is tried now and then, and has to be only when it is needed.
struct Coming { Place p; int window; };
DEVICE void step(Coming &c) {
    if (++c.window < 2 && pixels_of(c.p, c.window) > 0) return;
    c.window = 0;
    advance(c.p);
}

// Of a window of the pool: 8 images' gradients of a filter, and their winners.
struct Cell { uint4 values; uint2 winners; };
// Cells of a thread's filters in all rows of windows; ``place`` is where its images of the first filter begin.
DEVICE void load_cells(Cell (&cells)[EACH][DOWN], const Walk &w, const uint4 *pooled, const uint2 *winners, int place,
    int filters)
{
#pragma unroll
    for (int up = 0; up < DOWN; ++up) {
        bool there = exists(w, up) && w.column >= 0 && w.column < OUT_COLUMNS;
        int at = place + ((w.highest - up) * OUT_COLUMNS + w.column) * (BATCH / 8) + w.p.batch / 8;
#pragma unroll
        for (int v = 0; v < EACH; ++v, at += 32 * OUT_ROWS * OUT_COLUMNS * (BATCH / 8)) {
            cells[v][up] = {};
            if (!there || v >= filters) continue;
            cells[v][up].values = __ldg(pooled + at);
            cells[v][up].winners = __ldg(winners + at);
        }
    }
}

DEVICE void spread_maps(const TensorMap *whole, const TensorMap *added, const uint4 *pooled, const uint2 *winners,
    uint4 *kept, u32 shared, int thread, int share, int block)
{
    const int lane = thread & 31, warp = __shfl_sync(0xffffffffu, thread >> 5, 0), part = thread & 7;
    const int channel = block % CHUNKS * CHANNELS, filter = block / CHUNKS * FILTERS + (thread >> 3);
    const int all = (smaller(FILTERS - (thread >> 3), ALL_FILTERS - filter) + 31) / 32;  // this thread's filters
    const int place = filter * OUT_ROWS * OUT_COLUMNS * (BATCH / 8) + part;
    u32 slot = 0, phase = 1, window_phases = 3;
    Walk w = first_walk(share), ahead = w;
    Coming coming = {w.p, 0};
    bool due = true;
    Cell cells[EACH][DOWN], next[EACH][DOWN];
    if (AHEAD) load_cells(next, ahead, pooled, winners, place, ahead.p.batch + part * 8 < BATCH ? all : 0);
    u32 later[EACH][LATER + 1][4] = {};
#pragma unroll 1
    while (w.p.unit < w.p.last) {
        int first = w.column * POOL_STEP_COLUMNS - POOL_LEFT;
        bool before = first + POOL_STEP_COLUMNS <= w.start;  // its pixels are another strip's, but for later ones
        int filters = w.p.batch + part * 8 < BATCH ? all : 0;
        if (AHEAD) {
#pragma unroll
            for (int v = 0; v < EACH; ++v)
#pragma unroll
                for (int up = 0; up < DOWN; ++up) cells[v][up] = next[v][up];
            step(ahead);
            if (ahead.p.unit < ahead.p.last)
                load_cells(next, ahead, pooled, winners, place, ahead.p.batch + part * 8 < BATCH ? all : 0);
        } else load_cells(cells, w, pooled, winners, place, filters);
        u32 sums[EACH][WIDTH][4];
#pragma unroll
        for (int v = 0; v < EACH; ++v)
#pragma unroll
            for (int j = 0; j < WIDTH; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[v][j][i] = j < LATER ? later[v][j][i] : 0;
#pragma unroll
        for (int up = 0; up < DOWN; ++up) {
            if (!exists(w, up)) continue;
            u32 first_tap = (WHOLE + row_of(w, up) * POOL_COLUMNS) * 0x00010001u;
#pragma unroll
            for (int v = 0; v < EACH; ++v) {
                const Cell &cell = cells[v][up];
                u32 values[4] = {cell.values.x, cell.values.y, cell.values.z, cell.values.w};
#if ARITHMETIC
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    u32 won = pair_of_bytes(i < 2 ? cell.winners.x : cell.winners.y, i % 2 ? 0x4342 : 0x4140);
#pragma unroll
                    for (int j = 0; j < POOL_COLUMNS; ++j)
                        if (j >= POOL_STEP_COLUMNS || !before)
                            add_where(sums[v][j][i], values[i], won, first_tap + j * 0x00010001u);
                }
#else
#pragma unroll
                for (int j = 0; j < POOL_COLUMNS; ++j)
                    if (!SKIP || j >= POOL_STEP_COLUMNS || !before)
                        add_same(sums[v][j], values, cell.winners, (row_of(w, up) * POOL_COLUMNS + j) * 0x01010101u);
#endif
            }
        }
        // Stages that pixels fill are said to be full together, after one fence; but before anything waits for a window,
        // as products of the stages before have to end for that.
        int filled = 0;
        u32 next_slot = slot, next_phase = phase;
        auto tell = [&]() {
            if (filled == 0) return;
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // so that tensor cores see what was written
            __syncwarp();
            for (; filled > 0; --filled) {
                if (lane == 0) barrier_arrive(MAP_FULL(slot));
                if (++slot == STAGES) slot = 0;
            }
        };
#pragma unroll
        for (int j = 0; j < POOL_STEP_COLUMNS; ++j) {
            int x = first + j, within = x - w.start, q = within % STAGE_PIXELS;
            if (within < 0 || x >= w.end) continue;
            if (within % RUN == 0) {
                tell();
                if (warp == 0) {
                    if (due) fetch_window(whole, added, shared, lane, coming.p, coming.window, channel, window_phases);
                    step(coming);
                    due = coming.p.unit < coming.p.last;
                }
            }
            if (q == 0) barrier_wait(MAP_EMPTY(next_slot), next_phase);
#pragma unroll
            for (int v = 0; v < EACH; ++v) {
                int row = q * FILTERS + v * 32 + (thread >> 3);
                if (v * 32 + (thread >> 3) >= FILTERS) continue;
                store_cell(MAPS(next_slot) + row * ROW_BYTES + ((part ^ (row & 7)) << 4), sums[v][j]);
                if (KEPT && channel == 0 && v < filters && x < MAP_COLUMNS)
                    kept[(((filter + v * 32) * MAP_ROWS + w.p.y) * MAP_COLUMNS + x) * (BATCH / 8) + w.p.batch / 8 + part]
                        = make_uint4(sums[v][j][0], sums[v][j][1], sums[v][j][2], sums[v][j][3]);
            }
            if (q < STAGE_PIXELS - 1) continue;
            ++filled;
            if (++next_slot == STAGES) { next_slot = 0; next_phase ^= 1; }
        }
        tell();
        phase = next_phase;
        if (warp == 0 && due && barrier_passed(WINDOW_EMPTY(coming.window), window_phases >> coming.window & 1)) {
            fetch_window(whole, added, shared, lane, coming.p, coming.window, channel, window_phases);
            due = false;
        }
#pragma unroll
        for (int v = 0; v < EACH; ++v)
#pragma unroll
            for (int j = 0; j < LATER; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) later[v][j][i] = sums[v][POOL_STEP_COLUMNS + j][i];
        if (step(w))
#pragma unroll
            for (int v = 0; v < EACH; ++v)
#pragma unroll
                for (int j = 0; j < LATER; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) later[v][j][i] = 0;
    }
}

#define SET_REGISTERS(count) do { \
    if ((count) < LAUNCHED_REGISTERS) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(count)); \
    if ((count) > LAUNCHED_REGISTERS) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(count)); \
} while (0)

extern "C" __global__ void __launch_bounds__(THREADS, 1)
pooled_window_filter_grad(const __grid_constant__ TensorMap whole, const __grid_constant__ TensorMap added,
    const uint4 *pooled, const uint2 *winners, uint4 *kept, float *partial)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 shared = shared_address(memory);
    int thread = threadIdx.x, lane = thread & 31;
    int warpgroup = __shfl_sync(0xffffffffu, thread >> 7, 0);
    int share = blockIdx.x / BLOCKS, block = blockIdx.x % BLOCKS;
    begin(shared, thread, SPREADING / 32);
    if (warpgroup < 2) {
        SET_REGISTERS(MULTIPLYING_REGISTERS);
        multiply(partial, shared, warpgroup, (thread >> 5) & 3, lane, share, block);
    } else {
        SET_REGISTERS(FETCHING_REGISTERS);
        spread_maps(&whole, &added, pooled, winners, kept, shared, thread - 256, share, block);
    }
}
