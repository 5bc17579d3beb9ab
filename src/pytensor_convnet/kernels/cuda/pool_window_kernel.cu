// Correlation, bias, relu and max pooling as one, over windows of pixels in shared memory (pool_window_kernel.py has the
// loop nest, and defines all constants).
//
// One thread fetches tiles: what a run of windows of the pool sees of the source, 64 images, in the order (column, row,
// channel), each a row of 128 bytes, swizzled, as the copying engine (TMA) brings it. Two warpgroups multiply: images are
// the rows of a product, filters its columns. What a map pixel sees are some columns of the tile, a few at a time (a
// slice): consecutive rows, some of which are met by filters of zero. Each takes half of the windows of a run.

#define FULL(s) (shared + (s) * 8)
#define EMPTY(s) (shared + 64 + (s) * 8)
#define FILTERS_AT(chunk) (shared + 1024 + (chunk) * (FILTERS * ROW_BYTES))  // 64 rows of the product of each filter
#define COLLECTED(warpgroup) (shared + COLLECTED_START + (warpgroup) * COLLECTED_BYTES)
#define COLLECTED_WINNERS(warpgroup) (COLLECTED(warpgroup) + (SCALED ? FILTERS * SUM_PITCH : FILTERS * ROW_BYTES))
#define STAGE(s) (shared + STAGES_START + (s) * STAGE_BYTES)
#define COLUMN_ROWS (TILE_ROWS * CHANNELS)
#define STEPS (SLICES * SLICE_STEPS)  // products of 16 rows, of a map pixel
#define CARRIED (POOL_COLUMNS == POOL_STEP_COLUMNS + 1)  // a column that a window shares with the next
#define NEW_COLUMNS (CARRIED ? POOL_STEP_COLUMNS : POOL_COLUMNS)
#define CELLS (64 / CELL_IMAGES)  // of a filter's maxima, each stored at once
#define NO_MAP (MUTING ? 0 : ONES)  // before any map: a zero, of no tap or of the first

// The bits of a number but for the last, which a code takes: one instruction where the code is in a register.
DEVICE int key_of(float map, int code) {
    int r;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(__float_as_int(map)), "n"(~ONES), "r"(code));
    return r;
}
DEVICE void store_float(u32 to, float v) { asm volatile("st.shared.f32 [%0], %1;" :: "r"(to), "f"(v) : "memory"); }
DEVICE float4 load_floats(u32 from) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
        : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(from) : "memory");
    return v;
}
DEVICE uint4 load_cell(u32 from) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
    return v;
}
DEVICE uint2 load_half_cell(u32 from) {
    uint2 v;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(from) : "memory");
    return v;
}

// A run of windows of 64 images.
struct Unit { int batch, row, first, windows; };
DEVICE Unit unit_at(int u) {
    Unit r;
    r.batch = u % BATCH_BLOCKS * 64; u /= BATCH_BLOCKS;
    r.first = u % RUNS * RUN;
    r.row = u / RUNS;
    r.windows = smaller(RUN, OUT_COLUMNS - r.first);
    return r;
}

DEVICE void fetch(const TensorMap *source, u32 shared) {
    u32 slot = 0, phase = 1;
    for (int u = blockIdx.x; u < UNITS; u += gridDim.x) {
        Unit unit = unit_at(u);
        barrier_wait(EMPTY(slot), phase);
        barrier_expect(FULL(slot), TILE_COLUMNS * COLUMN_ROWS * ROW_BYTES);
        load_box(STAGE(slot), source, unit.batch, 0, (unit.row * POOL_STEP_ROWS - POOL_TOP) * STEP_ROWS - TOP,
            (unit.first * POOL_STEP_COLUMNS - POOL_LEFT) * STEP_COLUMNS - LEFT, FULL(slot));
        if (++slot == STAGES) { slot = 0; phase ^= 1; }
    }
}

// Filters as products read them: for each a row of 64 rows of the product, and the next 64 behind those of all filters.
DEVICE void pack_filters(const unsigned char *filters, int filter_step, int channel_step, int row_step, int column_step,
    float scale, u32 shared, int thread)
{
#pragma unroll 1
    for (int cell = thread; cell < (STEPS + 3) / 4 * FILTERS * 8; cell += 256) {
        int part = cell % 8, filter = cell / 8 % FILTERS, chunk = cell / 8 / FILTERS;
        u32 halves[8];
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            int k = chunk * 64 + part * 8 + n, within = k % (16 * SLICE_STEPS), rest = within % COLUMN_ROWS;
            int of_slice = within / COLUMN_ROWS, i = rest / CHANNELS, channel = rest % CHANNELS;
            int j = k / (16 * SLICE_STEPS) * SLICE_COLUMNS + of_slice;
            bool exists = filter < ALL_FILTERS && of_slice < SLICE_COLUMNS && i < TAPS_DOWN && j < TAPS_ACROSS;
            if (FLIP) { i = TAPS_DOWN - 1 - i; j = TAPS_ACROSS - 1 - j; }
            int from = filter * filter_step + channel * channel_step + i * row_step + j * column_step;
#if SCALED
            halves[n] = float16_pair(exists ? __ldg((const float *)filters + from) * scale : 0.0f, 0.0f);
#else
            halves[n] = exists ? __ldg((const unsigned short *)filters + from) : 0;
#endif
        }
        store_cell(FILTERS_AT(chunk) + filter * ROW_BYTES + ((part ^ (filter & 7)) << 4), halves[0] | halves[1] << 16,
            halves[2] | halves[3] << 16, halves[4] | halves[5] << 16, halves[6] | halves[7] << 16);
    }
}

// What a thread knows of its filters, of each 8 of which it has two; and ONES, which the compiler shall not know.
struct Biases { float of[FILTERS / 8][2]; int ones; };

// The largest keys of a column of maps that windows with these rows see; j is which of their columns it is. Maps beyond
// the borders do not count.
DEVICE void find_largest(int (&largest)[FILTERS / 2], u64 column, u64 filters, const Biases &biases, int map_row,
    int map_column, int j, float factor, float filter_factor)
{
#pragma unroll
    for (int n = 0; n < FILTERS / 2; ++n) largest[n] = 0x80000000;  // the least, of which more is still less than 0
    if ((u32)map_column >= MAP_COLUMNS) return;
#pragma unroll
    for (int first = 0; first < POOL_ROWS; first += AT_ONCE) {
        float total[AT_ONCE][FILTERS / 2];
#pragma unroll
        for (int a = 0; a < AT_ONCE; ++a)
#pragma unroll
            for (int n = 0; n < FILTERS / 2; ++n) asm volatile("" : "=f"(total[a][n]));  // products do not add to it
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < STEPS; ++k)
#pragma unroll
            for (int a = 0; a < AT_ONCE; ++a) {
                if (first + a >= POOL_ROWS) continue;
                int row = (first + a) * STEP_ROWS * CHANNELS + k / SLICE_STEPS * SLICE_COLUMNS * COLUMN_ROWS
                    + k % SLICE_STEPS * 16;
                add_product(total[a], column + row * (ROW_BYTES >> 4),
                    filters + k / 4 * (FILTERS * ROW_BYTES >> 4) + k % 4 * 2, k > 0);
            }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
        for (int a = 0; a < AT_ONCE; ++a)
#pragma unroll
            for (int n = 0; n < FILTERS / 2; ++n) asm volatile("" : "+f"(total[a][n]) :: "memory");
#pragma unroll
        for (int a = 0; a < AT_ONCE; ++a) {
            int i = first + a;
            if (i >= POOL_ROWS || (u32)(map_row + i) >= MAP_ROWS) continue;
            int code = biases.ones - i * POOL_COLUMNS - j;
#pragma unroll
            for (int n = 0; n < FILTERS / 2; ++n) {
                float map = total[a][n];
#if SCALED
                map = map * factor * filter_factor;
#endif
                largest[n] = larger(largest[n], key_of(map + biases.of[n / 4][n & 1], code));
            }
        }
    }
}

// Maxima and winners of a window, by shared memory to memory.
DEVICE void write_window(const int (&window)[FILTERS / 2], void *maxima, unsigned char *winners, const Unit &unit, int x,
    u32 shared, int warpgroup, int warp, int lane)
{
    u32 of_maxima = COLLECTED(warpgroup), of_winners = COLLECTED_WINNERS(warpgroup);
    int part = warp * 2 + ((lane >> 3) & 1);  // 8 images, which a lane says the place of
    warpgroup_barrier(1 + warpgroup);  // what was there before has been read
#pragma unroll
    for (int b = 0; b < FILTERS / 8; ++b) {
        float value[4];
        u32 winner[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            int key = window[4 * b + n];
            value[n] = __int_as_float(key & ~ONES);
            winner[n] = ~key & ONES;
            if (MUTING && (u32)(key - 1) >= 0x7f800000u + ONES) winner[n] = 255;
        }
        int row = 8 * b + (lane & 7);
        u32 to = row * ROW_BYTES + ((part ^ (row & 7)) << 4);
        store_turned(of_winners + to, winner[0] | winner[1] << 16, winner[2] | winner[3] << 16);
#if SCALED
#pragma unroll
        for (int n = 0; n < 4; ++n)
            store_float(of_maxima + (8 * b + 2 * (lane & 3) + (n & 1)) * SUM_PITCH
                + (warp * 16 + (lane >> 2) + (n >> 1) * 8) * 4, value[n]);
#else
        store_turned(of_maxima + to, bfloat16_pair(value[0], value[1]), bfloat16_pair(value[2], value[3]));
#endif
    }
    warpgroup_barrier(1 + warpgroup);
    int thread = warp * 32 + lane, cell = thread % CELLS, image = unit.batch + cell * CELL_IMAGES;
    if (image >= BATCH) return;
    u64 place = ((u64)(thread / CELLS * OUT_ROWS + unit.row) * OUT_COLUMNS + x) * BATCH + image;
#pragma unroll 4
    for (int filter = thread / CELLS; filter < ALL_FILTERS; filter += 128 / CELLS) {
        u32 from = filter * ROW_BYTES + ((cell * CELL_IMAGES / 8 ^ (filter & 7)) << 4) + cell * CELL_IMAGES % 8 * 2;
#if CELL_IMAGES == 8
        uint4 w = load_cell(of_winners + from);
        *(uint2 *)(winners + place) = make_uint2(__byte_perm(w.x, w.y, 0x6420), __byte_perm(w.z, w.w, 0x6420));
        *(uint4 *)((unsigned short *)maxima + place) = load_cell(of_maxima + from);
#else
        uint2 w = load_half_cell(of_winners + from);
        *(u32 *)(winners + place) = __byte_perm(w.x, w.y, 0x6420);
#if SCALED
        *(float4 *)((float *)maxima + place) = load_floats(of_maxima + filter * SUM_PITCH + cell * 16);
#else
        *(uint2 *)((unsigned short *)maxima + place) = load_half_cell(of_maxima + from);
#endif
#endif
        place += (u64)(128 / CELLS) * OUT_ROWS * OUT_COLUMNS * BATCH;
    }
}

DEVICE void pool(void *maxima, unsigned char *winners, const Biases &biases, u32 shared, int warpgroup, int warp,
    int lane, float factor, float filter_factor)
{
    u32 slot = 0, phase = 0;
    u64 filters = swizzled_descriptor(FILTERS_AT(0));
    for (int u = blockIdx.x; u < UNITS; u += gridDim.x) {
        Unit unit = unit_at(u);
        int each = (unit.windows + 1) / 2, begin = warpgroup * each, end = smaller(begin + each, unit.windows);
        int map_row = unit.row * POOL_STEP_ROWS - POOL_TOP;
        barrier_wait(FULL(slot), phase);
        u64 tile = swizzled_descriptor(STAGE(slot));
        int largest[FILTERS / 2], window[FILTERS / 2];
#pragma unroll
        for (int n = 0; n < FILTERS / 2; ++n) window[n] = NO_MAP;
        // Column c of the maps under the tile.
        auto find = [&](int c, int j) {
            find_largest(largest, tile + (u64)(c * STEP_COLUMNS * COLUMN_ROWS * (ROW_BYTES >> 4)), filters, biases,
                map_row, unit.first * POOL_STEP_COLUMNS - POOL_LEFT + c, j, factor, filter_factor);
#pragma unroll
            for (int n = 0; n < FILTERS / 2; ++n) window[n] = larger(window[n], largest[n]);
        };
        auto leave = [&]() {
            __syncwarp();
            if (lane == 0) barrier_arrive(EMPTY(slot));
        };
        if (CARRIED && begin < end) find(begin * POOL_STEP_COLUMNS, 0);
#pragma unroll 1
        for (int x = begin; x < end; ++x) {
#pragma unroll
            for (int j = POOL_COLUMNS - NEW_COLUMNS; j < POOL_COLUMNS; ++j) find(x * POOL_STEP_COLUMNS + j, j);
            if (x == end - 1) leave();
            write_window(window, maxima, winners, unit, unit.first + x, shared, warpgroup, warp, lane);
#pragma unroll
            for (int n = 0; n < FILTERS / 2; ++n)
                window[n] = CARRIED ? larger(NO_MAP, largest[n] + POOL_COLUMNS - 1) : NO_MAP;
        }
        if (begin >= end) leave();
        if (++slot == STAGES) { slot = 0; phase ^= 1; }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
pooled_windows(const __grid_constant__ TensorMap source, const unsigned char *filters, int filter_step,
    int channel_step, int row_step, int column_step, const void *biases, const float *found, int finders, void *maxima,
    unsigned char *winners)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 shared = shared_address(memory);
    int thread = threadIdx.x, lane = thread & 31, warp = (thread >> 5) & 3;
    int warpgroup = __shfl_sync(0xffffffffu, thread >> 7, 0);
    // Rows behind a tile are read, and met by filters of zero.
    for (int s = 0; s < STAGES; ++s)
        for (int i = thread; i < STAGE_BYTES / 16 - TILE_COLUMNS * COLUMN_ROWS * 8; i += THREADS)
            store_cell(STAGE(s) + TILE_COLUMNS * COLUMN_ROWS * ROW_BYTES + i * 16, 0, 0, 0, 0);
    if (thread == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(FULL(s), 1);
            barrier_init(EMPTY(s), 8);
        }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // so that others than threads see what was written
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    if (warpgroup < 2) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MULTIPLYING_REGISTERS));
        float factor = 1.0f, filter_factor = 1.0f;
#if SCALED
        factor = factor_of(largest_of(found, finders, lane));
        filter_factor = factor_of(largest_of(found + finders, finders, lane));
#endif
        pack_filters(filters, filter_step, channel_step, row_step, column_step, 1.0f / filter_factor, shared, thread);
        Biases own;
        own.ones = ONES + (finders < 0);
#pragma unroll
        for (int n = 0; n < FILTERS / 4; ++n) {
            int filter = n / 2 * 8 + 2 * (lane & 3) + (n & 1);
#if SCALED
            own.of[n / 2][n & 1] = filter < ALL_FILTERS ? __ldg((const float *)biases + filter) : 0.0f;
#else
            u32 bits = filter < ALL_FILTERS ? __ldg((const unsigned short *)biases + filter) : 0;
            own.of[n / 2][n & 1] = __uint_as_float(bits << 16);
#endif
        }
#if SCALED
        float2 both = two_alike(factor, filter_factor);
        factor = both.x;
        filter_factor = both.y;
#endif
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("bar.sync 3, 256;" ::: "memory");
        pool(maxima, winners, own, shared, warpgroup, warp, lane, factor, filter_factor);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(FETCHING_REGISTERS));
        if (thread == 2 * 128) fetch(&source, shared);
    }
}
