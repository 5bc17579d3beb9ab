// A correlation over windows of pixels in shared memory; window_kernel.py has the loop nest, and defines all constants.
//
// Two warpgroups multiply, the others fetch and convert. A stage is one row of the source under a tile, of some
// channels: 64 images for each column and channel, in the order (column, channel). One thread asks for it, and the
// copying engine (TMA) brings it: zeros beyond the images' borders, and 128 bytes of bfloat16 a row,
//
//     images 8 g to 8 g + 7 of row r at 128 r + 16 (g ^ (r % 8)) bytes
//
// as tensor cores like to read it, from any row on: the window of each pixel is the same memory, its descriptor a few
// rows further. float32 comes as it is, 256 bytes a row, and other threads convert it where it lies.

// ------------------------------------------------------------------------------------------------ instructions

// What was written to shared memory can be seen by tensor cores and bulk copies after this.
DEVICE void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void store_cell(u32 to, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" :: "r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
DEVICE float4 load_shared(u32 from) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(from) : "memory");
    return v;
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
DEVICE float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }
DEVICE int exponent_of(float x) { return ((__float_as_int(x) >> 23) & 255) - 127; }
// The inverse of what brings the largest magnitude to between 2**14 and 2**15.
DEVICE float factor_of(float largest) { return power_of_two(-smaller(14 - exponent_of(largest), 126)); }
// 16 rows of 64 images, each of 128 bytes that lie as their address says: swizzled.
DEVICE u64 source_descriptor(u32 address) {
    return (1ull << 62) | ((u64)(1024 >> 4) << 32) | (1 << 16) | (address >> 4);
}
// 16 rows of OUTPUTS filters, as cells of 8 filters: those of 8 rows together, all rows of a group `pitch` bytes apart.
DEVICE u64 filter_descriptor(u32 address, u32 pitch) {
    return ((u64)(pitch >> 4) << 32) | ((128 >> 4) << 16) | (address >> 4);
}

// -------------------------------------------------------------------------------------------------- shared memory

#define FULL(s) (shared + (s) * 8)
#define EMPTY(s) (shared + 256 + (s) * 8)
#define FETCHED(s) (shared + 512 + (s) * 8)
#define FILTERS_THERE (shared + 768)
#define RESIDENT_FILTERS (shared + 1024)
#define STAGE(s) (shared + STAGES_START + (s) * STAGE_BYTES)

// --------------------------------------------------------------------------------------------------------- places

struct Tile { int block, column, row, batch, low, high; };

// Which outputs, images and positions a tile is, and the source's rows that it reads. All images of a pixel lie together,
// and programs that run at the same time read and write them together: memory is slower where it is read in pieces.
DEVICE Tile tile_at(int t) {
    Tile r;
    r.block = t % OUTPUT_BLOCKS; t /= OUTPUT_BLOCKS;
    r.batch = t % BATCH_BLOCKS * 64; t /= BATCH_BLOCKS;
    r.column = t % COLUMN_BLOCKS * TILE_COLUMNS;
    r.row = t / COLUMN_BLOCKS * TILE_ROWS;
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

// ------------------------------------------------------------------------------------------------------- fetching

// What one thread does. bfloat16 can be multiplied as it comes, float32 has to be converted first.
DEVICE void fetch(const TensorMap *source, const unsigned char *filters, u32 shared) {
    u32 slot = 0, phase = 1;
    Place p;
    p.t = blockIdx.x;
    for (bool more = settle(p); more; more = advance(p)) {
        barrier_wait(EMPTY(slot), phase);
        u32 there = NARROW ? FULL(slot) : FETCHED(slot);
        barrier_expect(there, BOX_BYTES + (RESIDENT ? 0 : FILTER_BYTES));
        load_box(STAGE(slot), source, p.tile.batch, p.chunk * CHANNELS, p.tile.column * STEP_COLUMNS + FIRST_COLUMN, p.y,
            there);
        if (!RESIDENT) {
            int s = (p.tile.block * PLACES_DOWN + p.y - p.tile.row * STEP_ROWS - FIRST_ROW) * CHUNKS + p.chunk;
            load_bulk(STAGE(slot) + SOURCE_BYTES, filters + s * FILTER_BYTES, FILTER_BYTES, there);
        }
        if (++slot == STAGES) { slot = 0; phase ^= 1; }
    }
}

#if !NARROW
// 8 images of a row. Neighbours read different halves first, so that 8 threads that read at a time meet all banks.
DEVICE void load_cell(float (&v)[8], u32 raw, int row, int group) {
    u32 from = raw + row * (2 * ROW_BYTES) + group * 32;
    bool last = group & 4;
    float4 one = load_shared(from + (last ? 16 : 0)), other = load_shared(from + (last ? 0 : 16));
    float4 low = last ? other : one, high = last ? one : other;
    v[0] = low.x; v[1] = low.y; v[2] = low.z; v[3] = low.w;
    v[4] = high.x; v[5] = high.y; v[6] = high.z; v[7] = high.w;
}
DEVICE void store_converted(const float (&v)[8], u32 stage, int row, int group, float scale, u32 &largest) {
    u32 pairs[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        pairs[j] = float16_pair(v[2 * j] * scale, v[2 * j + 1] * scale);
        if (SAMPLED) largest = larger_of_pairs(largest, pairs[j] & 0x7fff7fff);
    }
    store_cell(stage + row * ROW_BYTES + ((group ^ (row & 7)) << 4), pairs[0], pairs[1], pairs[2], pairs[3]);
}
// float32 becomes float16, times a power of two. A place of stages is always the same team's: who leaves out phases of a
// barrier cannot tell the next one from the last. A warp has 4 rows at a time, and EVERY rows further the next ones. What
// is written lies where rows of half the number were, which all have read by then; the last rows are of nothing fetched,
// and met by filters of zero.
// Whether a number did not fit into float16, or none at all, is noted in scales[2].
#define EVERY (TEAM_WARPS * 4)
DEVICE void convert(u32 shared, u32 team, int warp, int lane, float scale, float *scales) {
    int group = lane & 7, first_row = warp * 4 + (lane >> 3);
    u32 slot = 0, phase = 0, largest = 0;
    Place p;
    p.t = blockIdx.x;
    for (bool more = settle(p); more; more = advance(p)) {
        if (slot % TEAMS == team) {
            barrier_wait(FETCHED(slot), phase);
#pragma unroll 1
            for (int start = 0; start < PITCH_ROWS; start += EVERY * AT_ONCE) {
                float v[AT_ONCE][8];
#pragma unroll
                for (int i = 0; i < AT_ONCE; ++i) {
                    int row = start + first_row + i * EVERY;
                    if (row < STAGE_ROWS) load_cell(v[i], STAGE(slot), row, group);
                    else
#pragma unroll
                        for (int j = 0; j < 8; ++j) v[i][j] = 0.0f;
                }
                asm volatile("bar.sync %0, %1;" :: "r"(1 + team), "n"(TEAM_WARPS * 32) : "memory");
#pragma unroll
                for (int i = 0; i < AT_ONCE; ++i) {
                    int row = start + first_row + i * EVERY;
                    if (row < PITCH_ROWS) store_converted(v[i], STAGE(slot), row, group, scale, largest);
                }
            }
            publish();
            __syncwarp();
            if (lane == 0) barrier_arrive(FULL(slot));
        }
        if (++slot == STAGES) { slot = 0; phase ^= 1; }
    }
    if (SAMPLED && ((largest & 0xffff) >= 0x7c00 || (largest >> 16) >= 0x7c00)) scales[2] = 1.0f;
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
    int warp, int lane, float factor, float filter_factor, bool none)
{
    int image = tile.batch + warp * 16;
#if NARROW
    int odd = (lane >> 2) & 1;  // neighbours exchange halves, so that each stores pairs of images
    bool exists = image + odd * 8 < BATCH;
    image += odd * 8 + ((lane >> 2) & 6);
    unsigned short *target = (unsigned short *)target_ + image;
#else
    image += lane >> 2;
    bool exists = image < BATCH, exists8 = image + 8 < BATCH;
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
            if (none) first = second = 0;
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
                if (wanted && exists) target[offset] = none ? 0.0f : total[p][4 * j + e] * factor * filter_factor;
                if (wanted && exists8) target[offset + 8] = none ? 0.0f : total[p][4 * j + 2 + e] * factor * filter_factor;
#endif
            }
        }
    }
}

#define STEP (STEP_COLUMNS * CHANNELS)  // rows between the windows of neighbours

DEVICE void multiply(void *target, u32 shared, int warpgroup, int warp, int lane, float factor, float filter_factor) {
    u32 slot = 0, phase = 0;
    float total[POSITIONS][OUTPUTS / 2];
    // Once, and not in each tile that nothing is added to: else some versions of ptxas wait after each product (C7515).
#pragma unroll
    for (int p = 0; p < POSITIONS; ++p)
#pragma unroll
        for (int i = 0; i < OUTPUTS / 2; ++i) total[p][i] = 0.0f;
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
#pragma unroll 1
        for (int s = 0; s < count; ++s) {
            barrier_wait(FULL(slot), phase);
            if (!NARROW && !RESIDENT) barrier_wait(FETCHED(slot), phase);  // so that filters are seen here, too
            u32 stage = STAGE(slot);
            u64 a = source_descriptor(stage + (TILE_ROWS > 1 ? 0 : warpgroup * POSITIONS * STEP) * ROW_BYTES);
            u64 b = filter_descriptor(RESIDENT ? filter : stage + SOURCE_BYTES, PRODUCT_ROWS * 16);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int k = 0; k < PRODUCT_ROWS / 16; ++k)
#pragma unroll
                for (int p = 0; p < POSITIONS; ++p)
                    add_product(total[p], a + (k * 16 + p * STEP) * (ROW_BYTES >> 4), b + k * 16, k > 0 || s > 0);
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
                factor, filter_factor, count == 0);
    }
}

// ----------------------------------------------------------------------------------------------------- the kernel

// ``scales``: the inverse of the factors of source and filters, whether a number of the source did not fit, the largest
// of its finite magnitudes. The last two count where the sample of a source was searched, and in a second launch,
// ``again``, which does all once more if one did not fit.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
window_correlate(const __grid_constant__ TensorMap source, const unsigned char *filters, void *target, float *scales,
    int again)
{
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
    const int spare = (PITCH_ROWS - STAGE_ROWS) * (ROW_BYTES / 16);
    for (int i = thread; i < STAGES * spare; i += THREADS)
        store_cell(STAGE(i / larger(spare, 1)) + STAGE_ROWS * ROW_BYTES + i % larger(spare, 1) * 16, 0, 0, 0, 0);
#endif
    if (thread == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(FULL(s), NARROW ? 1 : TEAM_WARPS);
            barrier_init(EMPTY(s), 8);
            barrier_init(FETCHED(s), 1);
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
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(FETCHING_REGISTERS));
        int warp = __shfl_sync(0xffffffffu, thread >> 5, 0) - 8;
        if (warp == 0 && lane == 0) {
            if (RESIDENT) {
                barrier_expect(FILTERS_THERE, PLACES_DOWN * CHUNKS * FILTER_BYTES);
                for (int s = 0; s < PLACES_DOWN * CHUNKS; ++s)
                    load_bulk(RESIDENT_FILTERS + s * FILTER_BYTES, filters + s * FILTER_BYTES, FILTER_BYTES, FILTERS_THERE);
            }
            fetch(&source, filters, shared);
        }
#if !NARROW
        int team = (warp - 1) / TEAM_WARPS;
        if (warp > 0 && team < TEAMS) convert(shared, team, (warp - 1) % TEAM_WARPS, lane, 1.0f / factor, scales);
#endif
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MULTIPLYING_REGISTERS));
        // Both factors as two that are alike: between them a product is no larger or smaller than before or after both.
        int exponent = exponent_of(factor) + exponent_of(filter_factor), half = exponent / 2;
        multiply(target, shared, warpgroup, (thread >> 5) & 3, lane, power_of_two(half), power_of_two(exponent - half));
    }
}
