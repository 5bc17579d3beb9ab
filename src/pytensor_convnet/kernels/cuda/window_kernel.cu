// A correlation over windows of pixels in shared memory; window_kernel.py has the loop nest, and defines all constants.
//
// Two warpgroups multiply, one thread of a third fetches. A stage is a row of the source under a tile, or some rows, of
// some channels: 64 images for each of them, in the order (column, row, channel). The copying engine (TMA) brings it:
// zeros beyond the images' borders, and 128 bytes a row, 64 images of bfloat16 or 32 of float32 (then there are two
// such boxes), whose parts of 16 bytes, 0 to 7, are swizzled,
//
//     part i of row r at 128 r + 16 (i ^ (r % 8)) bytes
//
// as tensor cores like to read bfloat16, from any row on: the window of each pixel is the same memory, its descriptor a
// few rows further. They read float32 by columns alone; so threads load it into registers, as tf32 or float16, which is
// where products may take one of their operands from.

// ------------------------------------------------------------------------------------------------ instructions

DEVICE float2 load_pair(u32 from) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(from) : "memory");
    return v;
}
// Tensor cores cut off the 13 bits that tf32 has not. Made larger before by a third to two thirds of its last bit, a
// number is so rounded, on average neither up nor down, by one instruction; and stays what it is if it needs no more
// bits.
DEVICE u32 tf32_of(float x) { return __float_as_uint(x * (1.0f + 0.347f / 1024)); }
DEVICE u32 larger_of_pairs(u32 a, u32 b) {
    u32 r;
    asm("max.u16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
// -------------------------------------------------------------------------------------------------- shared memory

#define FULL(s) (shared + (s) * 8)
#define EMPTY(s) (shared + 256 + (s) * 8)
#define FILTERS_THERE(s) (shared + 768 + (s) / FILTERS_AT_ONCE * 8)
#define RESIDENT_FILTERS (shared + 1024)
#define STAGE(s) (shared + STAGES_START + (s) * STAGE_BYTES)
#define STAGE_FILTERS(s) (STAGE(s) + BOXES * PITCH_BYTES)
#define FILTER_STAGES (STAGES_DOWN * CHUNKS)
#define FILTERS_AT_ONCE ((FILTER_STAGES + 31) / 32)  // stages of filters that come together

// --------------------------------------------------------------------------------------------------------- places

struct Tile { int block, column, row, batch, top, low, high; };

// Which outputs, images and positions a tile is, and what it reads: from the source's row ``top`` on, stages ``low`` to
// ``high``, the others being beyond the source's borders. All images of a pixel lie together, and programs that run at
// the same time read and write them together: memory is slower where it is read in pieces.
DEVICE Tile tile_at(int t) {
    Tile r;
    r.batch = t % BATCH_BLOCKS * 64; t /= BATCH_BLOCKS;
    r.block = t % OUTPUT_BLOCKS; t /= OUTPUT_BLOCKS;
    r.column = t % COLUMN_BLOCKS * TILE_COLUMNS;
    r.row = t / COLUMN_BLOCKS * TILE_ROWS;
    r.top = r.row * STEP_ROWS + FIRST_ROW;
    int rows = PLACES_DOWN + (smaller(r.row + TILE_ROWS, POSITION_ROWS) - 1 - r.row) * STEP_ROWS;
    r.low = larger(0, -r.top) / PLACES;
    r.high = larger(r.low, (smaller(rows, SOURCE_ROWS - r.top) + PLACES - 1) / PLACES);
    return r;
}

// A stage that is to be fetched: a tile, rows of the source, a chunk of channels.
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

// ------------------------------------------------------------------------------------------------------- fetching

// Those that stay.
DEVICE void fetch_resident(FILTERS *filters, int s, u32 shared) {
    if (s % FILTERS_AT_ONCE == 0)
        barrier_expect(FILTERS_THERE(s), smaller(FILTERS_AT_ONCE, FILTER_STAGES - s) * FETCHED_FILTERS);
    fetch_filters(filters, s, RESIDENT_FILTERS + s * FILTER_BYTES, FILTERS_THERE(s));
}

// What one thread does. Filters that stay come with the first stages, and the rest of them before it waits for room.
DEVICE void fetch(const TensorMap *source, FILTERS *filters, u32 shared) {
    u32 slot = 0, phase = 1;
    int resident = RESIDENT ? 0 : FILTER_STAGES;
    Place p;
    p.t = blockIdx.x;
    for (bool more = settle(p); more; more = advance(p)) {
        barrier_wait(EMPTY(slot), phase);
        barrier_expect(FULL(slot), BOXES * STAGE_ROWS * ROW_BYTES + (RESIDENT ? 0 : FETCHED_FILTERS));
        for (int box = 0; box < BOXES; ++box)
            load_box(STAGE(slot) + box * PITCH_BYTES, source, p.tile.batch + box * (64 / BOXES), p.chunk * CHANNELS,
                p.tile.top + p.y * PLACES, p.tile.column * STEP_COLUMNS + FIRST_COLUMN, FULL(slot));
        if (!RESIDENT)
            fetch_filters(filters, (p.tile.block * STAGES_DOWN + p.y) * CHUNKS + p.chunk, STAGE_FILTERS(slot), FULL(slot));
        if (resident < FILTER_STAGES) fetch_resident(filters, resident++, shared);
        if (++slot == STAGES) {
            slot = 0; phase ^= 1;
            while (resident < FILTER_STAGES) fetch_resident(filters, resident++, shared);
        }
    }
    while (resident < FILTER_STAGES) fetch_resident(filters, resident++, shared);
}

// ---------------------------------------------------------------------------------------------------- multiplying

#define STEP (STEP_COLUMNS * PLACES * CHANNELS)  // rows between the windows of neighbours
#define PRODUCTS (PRODUCT_ROWS / DEPTH * POSITIONS)  // of a stage: those of a position's next rows after each other

// Stages that the other warpgroup alone needs.
DEVICE void skip(int stages, u32 shared, u32 &slot, u32 &phase, int lane) {
    for (; stages > 0; --stages) {
        barrier_wait(FULL(slot), phase);
        __syncwarp();
        if (lane == 0) barrier_arrive(EMPTY(slot));
        if (++slot == STAGES) { slot = 0; phase ^= 1; }
    }
}

#if !NARROW
// What a thread gives to a product of float32, of its warp's 16 images and of rows that neither 8 nor 16 need divide:
// images 2 g and 2 g + 1, rows 2 q, 2 q + 1, and those 8 further. 16 threads read at a time, and meet all banks.
DEVICE void load_rows(u32 (&a)[4], u32 stage, const u32 (&places)[8], int product, int q, float scale, u32 &largest) {
    int k = product / POSITIONS * DEPTH;
#pragma unroll
    for (int half = 0; half < DEPTH / 8; ++half, k += 8) {
        float2 v[2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            int row = product % POSITIONS * STEP + k + c;
            v[c] = load_pair(stage + places[row % 8] + row * ROW_BYTES);
            if (k + 8 > WINDOW_ROWS && k + 2 * q + c >= WINDOW_ROWS) v[c] = make_float2(0.0f, 0.0f);
        }
#if TF32
        a[0] = tf32_of(v[0].x); a[1] = tf32_of(v[0].y); a[2] = tf32_of(v[1].x); a[3] = tf32_of(v[1].y);
#else
        a[2 * half] = float16_pair(v[0].x * scale, v[1].x * scale);
        a[2 * half + 1] = float16_pair(v[0].y * scale, v[1].y * scale);
        if (SAMPLED)
            for (int i = 2 * half; i < 2 * half + 2; ++i) largest = larger_of_pairs(largest, a[i] & 0x7fff7fff);
#endif
    }
}
#endif

// ``scales``: see the kernel.
DEVICE void multiply(TARGET *target, u32 shared, int warpgroup, int warp, int lane, float factor, float filter_factor,
    float *scales)
{
    u32 slot = 0, phase = 0;
    float total[POSITIONS][OUTPUTS / 2];
    // Once, and not in each tile that nothing is added to: else some versions of ptxas wait after each product (C7515).
#pragma unroll
    for (int p = 0; p < POSITIONS; ++p)
#pragma unroll
        for (int i = 0; i < OUTPUTS / 2; ++i) total[p][i] = 0.0f;
    const int first_row = TILE_ROWS > 1 ? 0 : warpgroup * POSITIONS * STEP;
#if !NARROW
    // While a group of products goes on, operands of the next are loaded.
    u32 operands[2][GROUP][4], places[8], largest = 0;  // of rows 2 q, 2 q + 1, ... of the window, where its parts are
    const int q = lane & 3, part = 4 * (warp & 1) + (lane >> 3), within = ((lane >> 2) & 1) * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        places[i] = (warp >> 1) * PITCH_BYTES + (first_row + 2 * q) * ROW_BYTES
            + ((part ^ ((first_row + 2 * q + i) & 7)) << 4) + within;
    const float scale = 1.0f / factor;
#endif
#if SCALED
    float2 both = two_alike(factor, filter_factor);  // what the kernel stores is multiplied by both
    factor = both.x;
    filter_factor = both.y;
#endif
    for (int t = blockIdx.x; t < TILES; t += gridDim.x) {
        Tile tile = tile_at(t);
        int row = tile.row + (TILE_ROWS > 1 ? warpgroup : 0), top = (row - tile.row) * STEP_ROWS;
        int low = smaller(tile.high, larger(tile.low, top));
        int high = row < POSITION_ROWS ? larger(low, smaller(tile.high, top + STAGES_DOWN)) : low;
        if (TILE_ROWS > 1) skip((low - tile.low) * CHUNKS, shared, slot, phase, lane);
        int count = (high - low) * CHUNKS, resident = (low - top) * CHUNKS;
        u32 before = 0;
#pragma unroll 1
        for (int s = 0; s < count; ++s) {
            if (RESIDENT && t == blockIdx.x) barrier_wait(FILTERS_THERE(resident + s), 0);
            barrier_wait(FULL(slot), phase);
            u32 of_stage = RESIDENT ? RESIDENT_FILTERS + (resident + s) * FILTER_BYTES : STAGE_FILTERS(slot);
            u64 filters = filter_descriptor(of_stage);
            u64 source = swizzled_descriptor(STAGE(slot) + first_row * ROW_BYTES);
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
#if !NARROW
#pragma unroll
                for (int u = 0; u < GROUP; ++u)
                    if (group * GROUP + u < PRODUCTS)
                        load_rows(operands[group % 2][u], STAGE(slot), places, group * GROUP + u, q, scale, largest);
#endif
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int u = 0; u < GROUP; ++u) {
                    int product = group * GROUP + u, k = product / POSITIONS, p = product % POSITIONS;
                    if (product >= PRODUCTS) continue;
#if NARROW
                    u64 operand = source + (k * DEPTH + p * STEP) * (ROW_BYTES >> 4);
#else
                    u32 (&operand)[4] = operands[group % 2][u];
#endif
                    add_product(total[p], operand, filters + (filter_bytes_before(k) >> 4), k > 0 || s > 0);
                }
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (group == 0 && s > 0 && lane == 0) barrier_arrive(EMPTY(before));
            }
            before = slot;
            if (++slot == STAGES) { slot = 0; phase ^= 1; }
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (RESIDENT && t == blockIdx.x)
            for (int s = 0; s < FILTER_STAGES; s += FILTERS_AT_ONCE) barrier_wait(FILTERS_THERE(s), 0);
#pragma unroll
        for (int p = 0; p < POSITIONS; ++p)
#pragma unroll
            for (int i = 0; i < OUTPUTS / 2; ++i) asm volatile("" : "+f"(total[p][i]) :: "memory");
        if (count > 0 && lane == 0) barrier_arrive(EMPTY(before));
        if (TILE_ROWS > 1) skip((tile.high - high) * CHUNKS, shared, slot, phase, lane);
        if (row < POSITION_ROWS)
            store_tile(total, target, tile.block, tile.batch, row,
                tile.column + (TILE_ROWS > 1 ? 0 : warpgroup * POSITIONS), warpgroup, warp, lane, shared, factor,
                filter_factor, count == 0);
    }
#if COLLECTED
    if (lane == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
#if !NARROW
    if (SAMPLED && ((largest & 0xffff) >= 0x7c00 || (largest >> 16) >= 0x7c00)) scales[2] = 1.0f;
#endif
}

// ----------------------------------------------------------------------------------------------------- the kernel

// ``scales``, of float16: the inverse of the factors of source and filters, whether a number of the source did not fit,
// the largest of its finite magnitudes. The last two count where the sample of a source was searched, and in a second
// launch, ``again``, which does all once more if one did not fit.
//
// Filters and target are TensorMaps where the copying engine reads, or writes, them.
#if PACKED
#define FILTERS_PARAMETER FILTERS *filters
#else
#define FILTERS_PARAMETER const __grid_constant__ TensorMap filter_map
#endif
#if COLLECTED
#define TARGET_PARAMETER const __grid_constant__ TensorMap target_map
#else
#define TARGET_PARAMETER void *target
#endif
extern "C" __global__ void __launch_bounds__(THREADS, 1)
window_correlate(const __grid_constant__ TensorMap source, FILTERS_PARAMETER, TARGET_PARAMETER, float *scales, int again)
{
#if !PACKED
    FILTERS *filters = &filter_map;
#endif
#if COLLECTED
    const void *target = &target_map;
#endif
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 shared = shared_address(memory);
    int thread = threadIdx.x, lane = thread & 31;
    int warpgroup = __shfl_sync(0xffffffffu, thread >> 7, 0);
    if (again) {
        asm volatile("griddepcontrol.wait;" ::: "memory");
        if (scales[2] == 0.0f || factor_of(scales[3]) <= scales[0]) return;  // but for infinities and NaN all was right
    }

#if NARROW
    // The rows of a stage that nothing is written to are read, and met by filters of zero.
    for (int s = 0; s < STAGES; ++s)
        for (int i = thread; i < PITCH_BYTES / 16 - STAGE_ROWS * 8; i += THREADS)
            store_cell(STAGE(s) + STAGE_ROWS * ROW_BYTES + i * 16, 0, 0, 0, 0);
#endif
#if !PACKED && OUTPUTS_INNERMOST
    // And so many rows of filters, that nothing is written to.
    for (int s = 0; s < (RESIDENT ? FILTER_STAGES : STAGES) * FILTER_BOXES; ++s) {
        u32 filters_of = RESIDENT ? RESIDENT_FILTERS + s / FILTER_BOXES * FILTER_BYTES : STAGE_FILTERS(s / FILTER_BOXES);
        u32 rows = filters_of + s % FILTER_BOXES * FILTER_BOX_BYTES + WINDOW_ROWS * FILTER_ROW_BYTES;
        for (int i = thread; i < (PRODUCT_ROWS - WINDOW_ROWS) * FILTER_ROW_BYTES / 16; i += THREADS)
            store_cell(rows + i * 16, 0, 0, 0, 0);
    }
#endif
    if (thread == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(FULL(s), 1);
            barrier_init(EMPTY(s), 8);
        }
        for (int s = 0; RESIDENT && s < FILTER_STAGES; s += FILTERS_AT_ONCE) barrier_init(FILTERS_THERE(s), 1);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // so that others than threads see what was written
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    // All programs are there from the beginning: what is launched after them takes no multiprocessor from any.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");

    if (warpgroup < 2) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MULTIPLYING_REGISTERS));
        float factor = 1.0f, filter_factor = 1.0f;
#if SCALED
        factor = again ? factor_of(scales[3]) : scales[0];
        filter_factor = scales[1];
#endif
        multiply(target, shared, warpgroup, (thread >> 5) & 3, lane, factor, filter_factor, scales);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(FETCHING_REGISTERS));
        if (thread != 2 * 128) return;
        fetch(&source, filters, shared);
    }
}
