// A correlation over windows of pixels in shared memory; window_kernel.py has the loop nest, and defines all constants.
//
// Two warpgroups multiply, the others fetch. A stage is one row of the source under a tile, of some channels: rows of
// 64 images, in the order (column, channel). Elements lie as 16-byte cells of 8 images,
//
//     cell (group of images g, row r) at (g * ROW_PITCH + r) * 16 bytes
//
// so that 8 rows of a group are one of the 128-byte blocks that tensor cores read, from any row on: the window of each
// pixel is the same memory, its descriptor a few rows further.

typedef unsigned int u32;
typedef unsigned long long u64;
#define DEVICE __device__ __forceinline__

// ------------------------------------------------------------------------------------------------ instructions

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
// What was written to shared memory can be seen by tensor cores and bulk copies after this.
DEVICE void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void store_cell(u32 to, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" :: "r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
// 8 floats, or zeros without reading.
DEVICE void load_cell(float (&v)[8], const float *p, int inside) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %9, 0;\n"
        "mov.f32 %0, 0f00000000;\nmov.f32 %1, 0f00000000;\nmov.f32 %2, 0f00000000;\nmov.f32 %3, 0f00000000;\n"
        "mov.f32 %4, 0f00000000;\nmov.f32 %5, 0f00000000;\nmov.f32 %6, 0f00000000;\nmov.f32 %7, 0f00000000;\n"
        "@p ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%8];\n"
        "@p ld.global.nc.L1::no_allocate.v4.f32 {%4, %5, %6, %7}, [%8 + 16];\n}\n"
        : "=&f"(v[0]), "=&f"(v[1]), "=&f"(v[2]), "=&f"(v[3]), "=&f"(v[4]), "=&f"(v[5]), "=&f"(v[6]), "=&f"(v[7])
        : "l"(p), "r"(inside));
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
DEVICE u32 larger_of_pairs(u32 a, u32 b) {
    u32 r;
    asm("max.u16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
DEVICE int larger(int a, int b) { return a > b ? a : b; }
DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }
DEVICE int exponent_of(float x) { return ((__float_as_int(x) >> 23) & 255) - 127; }
// The inverse of what brings the largest magnitude to between 2**14 and 2**15.
DEVICE float factor_of(float largest) { return power_of_two(-smaller(14 - exponent_of(largest), 126)); }
// A tile of 16 rows and 64 images or OUTPUTS outputs, whose rows are cells of 16 bytes, groups of 8 `pitch` bytes apart.
DEVICE u64 descriptor(u32 address, u32 pitch) {
    return ((u64)(pitch >> 4) << 32) | (address >> 4) | ((128 >> 4) << 16);
}

// -------------------------------------------------------------------------------------------------- shared memory

#define FULL(s) (shared + (s) * 8)
#define EMPTY(s) (shared + 256 + (s) * 8)
#define FILTERS_THERE (shared + 512)
#define RESIDENT_FILTERS (shared + 1024)
#define STAGE(s) (shared + STAGES_START + (s) * STAGE_BYTES)

// --------------------------------------------------------------------------------------------------------- places

struct Tile { int block, column, row, batch, low, high; };

// Which outputs, positions and images a tile is, and the source's rows that it reads.
DEVICE Tile tile_at(int t) {
    Tile r;
    r.block = t % OUTPUT_BLOCKS; t /= OUTPUT_BLOCKS;
    r.column = t % COLUMN_BLOCKS * TILE_COLUMNS; t /= COLUMN_BLOCKS;
    r.row = t % ROW_BLOCKS * TILE_ROWS;
    r.batch = t / ROW_BLOCKS * 64;
    r.low = larger(0, r.row * STEP_ROWS + FIRST_ROW);
    r.high = larger(r.low,
        smaller(SOURCE_ROWS, smaller(r.row + TILE_ROWS - 1, POSITION_ROWS - 1) * STEP_ROWS + FIRST_ROW + PLACES_DOWN));
    return r;
}

// A stage that is to be fetched: a tile, a row of the source, a chunk of channels.
struct Place { int t, y, chunk; Tile tile; };

DEVICE bool settle(Place &p) {
    while (p.t < TILES) {
        p.tile = tile_at(p.t);
        if (p.tile.low < p.tile.high) { p.y = p.tile.low; p.chunk = 0; return true; }
        p.t += gridDim.x;
    }
    return false;
}
DEVICE bool advance(Place &p) {
    if (++p.chunk < CHUNKS) return true;
    p.chunk = 0;
    if (++p.y < p.tile.high) return true;
    p.t += gridDim.x;
    return settle(p);
}
#define FAR (1 << 24)
// The column of the source where a stage begins; far outside, whatever is added, for images that do not exist.
DEVICE int left_of(const Place &p, int group) {
    return p.tile.batch + group * 8 < BATCH ? p.tile.column * STEP_COLUMNS + FIRST_COLUMN : -2 * FAR;
}
DEVICE int offset_of(const Place &p, int group) {
    return (p.chunk * CHANNELS * SOURCE_ROWS + p.y) * (SOURCE_COLUMNS * BATCH) + p.tile.batch + group * 8
        + (p.tile.column * STEP_COLUMNS + FIRST_COLUMN) * BATCH;
}

// Cells of a fetching thread: rows first_row + i * EVERY of one group of images. Column and offset of a row within a
// stage follow each other by steps, or are kept in registers, or worked out each time where these would be too many.
#define EVERY (FETCHERS / 8)
#define STEPPING (EVERY % CHANNELS == 0)
#define KEPT (!STEPPING && CELLS <= 6)
struct Cells {
    int first_row, column0, offset0;
    int column[KEPT ? CELLS : 1], offset[KEPT ? CELLS : 1];
};
DEVICE int offset_of_row(int r) {
    return (r % CHANNELS) * (SOURCE_ROWS * SOURCE_COLUMNS * BATCH) + (r / CHANNELS) * BATCH;
}
DEVICE void cells_from(Cells &cells, int first_row) {
    cells.first_row = first_row;
    cells.column0 = first_row / CHANNELS;
    cells.offset0 = offset_of_row(first_row);
    if (KEPT)
#pragma unroll
        for (int i = 0; i < CELLS; ++i) {
            int r = first_row + i * EVERY;
            cells.column[i] = r < STAGE_ROWS ? r / CHANNELS : FAR;
            cells.offset[i] = offset_of_row(r);
        }
}
DEVICE void cell_at(const Cells &cells, int i, int &column, int &offset) {
    if (STEPPING) {
        column = cells.column0 + i * (EVERY / CHANNELS);
        offset = cells.offset0 + i * (EVERY / CHANNELS) * BATCH;
    } else if (KEPT) {
        column = cells.column[KEPT ? i : 0];
        offset = cells.offset[KEPT ? i : 0];
    } else {
        int r = cells.first_row + i * EVERY;
        column = r / CHANNELS;
        offset = offset_of_row(r);
    }
}
DEVICE bool cell_exists(const Cells &cells, int i) {
    return (i + 1) * EVERY <= STAGE_ROWS || cells.first_row + i * EVERY < STAGE_ROWS;
}

// ------------------------------------------------------------------------------------------------------- fetching

DEVICE void load_filters(const Place &p, u32 shared, u32 slot, const unsigned char *filters) {
    int s = (p.tile.block * PLACES_DOWN + p.y - p.tile.row * STEP_ROWS - FIRST_ROW) * CHUNKS + p.chunk;
    barrier_expect(FULL(slot), FILTER_BYTES);
    load_bulk(STAGE(slot) + SOURCE_BYTES, filters + s * FILTER_BYTES, FILTER_BYTES, FULL(slot));
}

#if NARROW
// bfloat16 as it is: copied without passing through registers.
DEVICE void fetch(const unsigned short *source, const unsigned char *filters, u32 shared, const Cells &cells, int thread)
{
    int group = thread % 8, lane = thread & 31;
    u32 slot = 0, phase = 1, done = 0, under_way = 0;
    Place p;
    p.t = blockIdx.x;
    bool more = settle(p);
    while (more) {
        barrier_wait(EMPTY(slot), phase);
        if (!RESIDENT && thread == 0) load_filters(p, shared, slot, filters);
        int left = left_of(p, group);
        const unsigned short *base = source + offset_of(p, group);
        u32 to = STAGE(slot) + (group * ROW_PITCH + cells.first_row) * 16;
#pragma unroll (CELLS <= 12 ? CELLS : 4)
        for (int i = 0; i < CELLS; ++i) {
            int column, offset;
            cell_at(cells, i, column, offset);
            bool inside = (u32)(left + column) < (u32)SOURCE_COLUMNS;
            if (!cell_exists(cells, i)) continue;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                :: "r"(to + i * (EVERY * 16)), "l"(inside ? base + offset : source), "r"(inside ? 16 : 0) : "memory");
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (++slot == STAGES) { slot = 0; phase ^= 1; }
        if (++under_way > LAG) {
            asm volatile("cp.async.wait_group %0;" :: "n"(LAG) : "memory");
            publish();
            __syncwarp();
            if (lane == 0) barrier_arrive(FULL(done));
            if (++done == STAGES) done = 0;
            --under_way;
        }
        more = advance(p);
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    publish();
    __syncwarp();
    for (; under_way > 0; --under_way) {
        if (lane == 0) barrier_arrive(FULL(done));
        if (++done == STAGES) done = 0;
    }
}
#else
// float32 becomes float16 on the way, times a power of two.
DEVICE void load_cells(float (&v)[AT_ONCE][8], const float *source, const Cells &cells, int left, int offset, int turn) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i)
        if (turn * AT_ONCE + i < CELLS) {
            int column, place;
            cell_at(cells, turn * AT_ONCE + i, column, place);
            int inside = (u32)(left + column) < (u32)SOURCE_COLUMNS;
            if (!KEPT) inside &= cell_exists(cells, turn * AT_ONCE + i);
            load_cell(v[i], source + (offset + place), inside);
        }
}
DEVICE void store_cells(float (&v)[AT_ONCE][8], u32 to, const Cells &cells, int turn, float scale, u32 &largest) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i)
        if (turn * AT_ONCE + i < CELLS && cell_exists(cells, turn * AT_ONCE + i)) {
            u32 pairs[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                pairs[j] = float16_pair(v[i][2 * j] * scale, v[i][2 * j + 1] * scale);
                if (SAMPLED) largest = larger_of_pairs(largest, pairs[j] & 0x7fff7fff);
            }
            store_cell(to + (turn * AT_ONCE + i) * (EVERY * 16), pairs[0], pairs[1], pairs[2], pairs[3]);
        }
}
struct Fetched { Place p; int left, offset; u32 slot, phase, largest; };

// Store a stage whose first cells are in v[PARITY]; those of each turn are loaded before the ones before are stored.
template <int PARITY>
DEVICE bool fetch_stage(float (&v)[2][AT_ONCE][8], const float *source, const unsigned char *filters,
    const Cells &cells, Fetched &f, u32 shared, int thread, float scale)
{
    int group = thread % 8;
    bool more = true;
    Place now = f.p;
    u32 to = STAGE(f.slot) + (group * ROW_PITCH + cells.first_row) * 16;
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        if (turn + 1 == TURNS) {
            more = advance(f.p);
            f.left = left_of(f.p, group);
            f.offset = offset_of(f.p, group);
        }
        if (turn + 1 < TURNS || more)
            load_cells(v[(PARITY + turn + 1) & 1], source, cells, f.left, f.offset, (turn + 1) % TURNS);
        if (turn == 0) {
            barrier_wait(EMPTY(f.slot), f.phase);
            if (!RESIDENT && thread == 0) load_filters(now, shared, f.slot, filters);
        }
        store_cells(v[(PARITY + turn) & 1], to, cells, turn, scale, f.largest);
    }
    publish();
    __syncwarp();
    if ((thread & 31) == 0) barrier_arrive(FULL(f.slot));
    if (++f.slot == STAGES) { f.slot = 0; f.phase ^= 1; }
    return more;
}
// Whether a number did not fit into float16, or none at all, is noted in scales[2].
DEVICE void fetch(const float *source, const unsigned char *filters, u32 shared, const Cells &cells, int thread,
    float scale, float *scales)
{
    float v[2][AT_ONCE][8];
    Fetched f;
    f.slot = 0; f.phase = 1; f.largest = 0;
    f.p.t = blockIdx.x;
    bool more = settle(f.p);
    f.left = left_of(f.p, thread % 8);
    f.offset = offset_of(f.p, thread % 8);
    if (more) load_cells(v[0], source, cells, f.left, f.offset, 0);
    while (more) {
        more = fetch_stage<0>(v, source, filters, cells, f, shared, thread, scale);
        if (TURNS % 2 && more) more = fetch_stage<1>(v, source, filters, cells, f, shared, thread, scale);
    }
    if (SAMPLED && ((f.largest & 0xffff) >= 0x7c00 || (f.largest >> 16) >= 0x7c00)) scales[2] = 1.0f;
}
#endif

// ---------------------------------------------------------------------------------------------------- multiplying

// Stages that the other warpgroup alone needs.
DEVICE void skip(int stages, u32 shared, u32 &slot, u32 &phase, int lane) {
    for (; stages > 0; --stages) {
        barrier_wait(FULL(slot), phase);
        __syncwarp();
        if (lane == 0) barrier_arrive(EMPTY(slot));
        if (++slot == STAGES) { slot = 0; phase ^= 1; }
    }
}

// Rows of a warp's part of a tile are 16 images; of each 8 columns a thread has two, for images lane / 4 and 8 further.
DEVICE void store_tile(float (&total)[POSITIONS][OUTPUTS / 2], void *target_, const Tile &tile, int row, int first_column,
    int warp, int lane, float factor, float filter_factor)
{
    int image = tile.batch + warp * 16;
#if NARROW
    int odd = (lane >> 2) & 1;  // neighbours exchange halves, so that each stores pairs of images
    bool exists = image + odd * 8 < BATCH;
    image += odd * 8 + ((lane >> 2) & 6);
    unsigned short *target = (unsigned short *)target_ + image;
#else
    bool exists = image < BATCH, exists8 = image + 8 < BATCH;
    image += lane >> 2;
    float *target = (float *)target_ + image;
#endif
    const int channel_stride = TARGET_ROWS * TARGET_COLUMNS * BATCH;
#pragma unroll
    for (int p = 0; p < POSITIONS; ++p) {
        int column = first_column + p, place = (row * PATCH_ROWS * TARGET_COLUMNS + column * PATCH_COLUMNS) * BATCH;
#pragma unroll
        for (int j = 0; j < OUTPUTS / 8; ++j) {
#if NARROW
            u32 first = bfloat16_pair(total[p][4 * j], total[p][4 * j + 1]);
            u32 second = bfloat16_pair(total[p][4 * j + 2], total[p][4 * j + 3]);
            u32 other = __shfl_xor_sync(0xffffffffu, odd ? first : second, 4);
            u32 even_image = odd ? other : first, odd_image = odd ? second : other;
#endif
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                int m = tile.block * OUTPUTS + 8 * j + 2 * (lane & 3) + e;
                int residue = m / TARGET_CHANNELS, down = residue / PATCH_COLUMNS, across = residue % PATCH_COLUMNS;
                bool wanted = column < POSITION_COLUMNS && m < ALL_OUTPUTS;
                wanted = wanted && row * PATCH_ROWS + down < TARGET_ROWS && column * PATCH_COLUMNS + across < TARGET_COLUMNS;
                int offset = place + m % TARGET_CHANNELS * channel_stride + (down * TARGET_COLUMNS + across) * BATCH;
#if NARROW
                u32 value = __byte_perm(even_image, odd_image, e ? 0x7632 : 0x5410);
                if (wanted && exists) *(u32 *)(target + offset) = value;
#else
                if (wanted && exists) target[offset] = total[p][4 * j + e] * factor * filter_factor;
                if (wanted && exists8) target[offset + 8] = total[p][4 * j + 2 + e] * factor * filter_factor;
#endif
            }
        }
    }
}

DEVICE void multiply(void *target, u32 shared, int warpgroup, int warp, int lane, float factor, float filter_factor) {
    u32 slot = 0, phase = 0;
    float total[POSITIONS][OUTPUTS / 2];
    if (RESIDENT) barrier_wait(FILTERS_THERE, 0);
    for (int t = blockIdx.x; t < TILES; t += gridDim.x) {
        Tile tile = tile_at(t);
        int row = tile.row + (TILE_ROWS > 1 ? warpgroup : 0), top = row * STEP_ROWS + FIRST_ROW;
        int low = smaller(tile.high, larger(tile.low, top));
        int high = row < POSITION_ROWS ? larger(low, smaller(tile.high, top + PLACES_DOWN)) : low;
        if (TILE_ROWS > 1) skip((low - tile.low) * CHUNKS, shared, slot, phase, lane);
        int count = (high - low) * CHUNKS;
        u32 filter = RESIDENT_FILTERS + (low - top) * (CHUNKS * FILTER_BYTES);
        u32 before = 0;
        if (count == 0)
#pragma unroll
            for (int p = 0; p < POSITIONS; ++p)
#pragma unroll
                for (int i = 0; i < OUTPUTS / 2; ++i) total[p][i] = 0.0f;
#pragma unroll 1
        for (int s = 0; s < count; ++s) {
            barrier_wait(FULL(slot), phase);
            u32 stage = STAGE(slot);
            u64 a = descriptor(stage + (TILE_ROWS > 1 ? 0 : warpgroup * POSITIONS * STEP_COLUMNS * CHANNELS * 16), ROW_PITCH * 16);
            u64 b = descriptor(RESIDENT ? filter : stage + SOURCE_BYTES, PRODUCT_ROWS * 16);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int k = 0; k < PRODUCT_ROWS / 16; ++k)
#pragma unroll
                for (int p = 0; p < POSITIONS; ++p)
                    add_product(total[p], a + (k * 16 + p * STEP_COLUMNS * CHANNELS), b + k * 16, k > 0 || s > 0);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (s > 0 && lane == 0) barrier_arrive(EMPTY(before));
            before = slot;
            filter += FILTER_BYTES;
            if (++slot == STAGES) { slot = 0; phase ^= 1; }
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
        for (int p = 0; p < POSITIONS; ++p)
#pragma unroll
            for (int i = 0; i < OUTPUTS / 2; ++i) asm volatile("" : "+f"(total[p][i]) :: "memory");
        if (count > 0 && lane == 0) barrier_arrive(EMPTY(before));
        if (TILE_ROWS > 1) skip((tile.high - high) * CHUNKS, shared, slot, phase, lane);
        if (row < POSITION_ROWS)
            store_tile(total, target, tile, row, tile.column + (TILE_ROWS > 1 ? 0 : warpgroup * POSITIONS), warp, lane,
                factor, filter_factor);
    }
}

// ----------------------------------------------------------------------------------------------------- the kernel

// ``scales``: the inverse of the factors of source and filters, whether a number of the source did not fit, the largest
// of its finite magnitudes. The last two count where the sample of a source was searched, and in a second launch,
// ``again``, which does all once more if one did not fit.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
window_correlate(const void *source, const unsigned char *filters, void *target, float *scales, int again)
{
    extern __shared__ __align__(128) unsigned char memory[];
    u32 shared = shared_address(memory);
    int thread = threadIdx.x, lane = thread & 31;
    int warpgroup = __shfl_sync(0xffffffffu, thread >> 7, 0);
    if (again) {
        asm volatile("griddepcontrol.wait;" ::: "memory");
        if (scales[2] == 0.0f || factor_of(scales[3]) <= scales[0]) return;  // but for infinities and NaN all was right
    }

    // What no cell is written to is read, and met by filters of zero.
    for (int i = thread; i < STAGES * STAGE_BYTES / 16; i += THREADS) store_cell(STAGE(0) + i * 16, 0, 0, 0, 0);
    if (thread == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(FULL(s), FETCHERS / 32 + (RESIDENT ? 0 : 1));
            barrier_init(EMPTY(s), 8);
        }
        barrier_init(FILTERS_THERE, 1);
    }
    publish();
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    // All programs are there from the beginning: what is launched after them takes no multiprocessor from any.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");

    float factor = 1.0f, filter_factor = 1.0f;
#if !NARROW
    factor = scales[0];
    filter_factor = scales[1];
    if (again) factor = factor_of(scales[3]);
#endif
    if (warpgroup >= 2) {
        if (MOVES_REGISTERS) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(FETCHING_REGISTERS));
        int mine = thread - 256;
        Cells cells;
        cells_from(cells, mine / 8);
        if (RESIDENT && mine == 0) {
            barrier_expect(FILTERS_THERE, PLACES_DOWN * CHUNKS * FILTER_BYTES);
            for (int s = 0; s < PLACES_DOWN * CHUNKS; ++s)
                load_bulk(RESIDENT_FILTERS + s * FILTER_BYTES, filters + s * FILTER_BYTES, FILTER_BYTES, FILTERS_THERE);
        }
#if NARROW
        fetch((const unsigned short *)source, filters, shared, cells, mine);
#else
        fetch((const float *)source, filters, shared, cells, mine, 1.0f / factor, scales);
#endif
    } else {
        if (MOVES_REGISTERS) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MULTIPLYING_REGISTERS));
        // Both factors as two that are alike: between them a product is no larger or smaller than before or after both.
        int exponent = exponent_of(factor) + exponent_of(filter_factor), half = exponent / 2;
        multiply(target, shared, warpgroup, (thread >> 5) & 3, lane, power_of_two(half), power_of_two(exponent - half));
    }
}
