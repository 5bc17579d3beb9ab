// How the results of a tile of window_kernel.cu get from registers to memory.
//
// Rows of a warp's part of a tile are 16 images. Of each 8 columns, which are outputs, a thread has two, for rows lane /
// 4 and 8 further.

#if COLLECTED
// Results of bfloat16 go to shared memory, a piece of the outputs of a position at a time, as boxes of a pixel's
// channels. From there the copying engine writes them, whole lines of memory, while the next tile is multiplied.
#define TARGET const void  // a TensorMap
#define PIECE (PIECE_BOXES * BOX_CHANNELS)
#define COLLECTION(warpgroup) (shared + COLLECTION_START + (warpgroup) * PIECE_BOXES * BOX_ROWS * ROW_BYTES)
DEVICE void store_boxes(const void *target, int block, int batch, int piece, int row, int column, int warp,
    u32 collection)
{
    for (int box = warp; box < PIECE_BOXES; box += 4) {
        int of_tile = piece * PIECE + box * BOX_CHANNELS, m = block * OUTPUTS + of_tile, residue = m / TARGET_CHANNELS;
        if (of_tile >= OUTPUTS || m >= ALL_OUTPUTS) break;
        store_box(target, batch, m % TARGET_CHANNELS, row * PATCH_ROWS + residue / PATCH_COLUMNS,
            column * PATCH_COLUMNS + residue % PATCH_COLUMNS, collection + box * BOX_ROWS * ROW_BYTES);
    }
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
DEVICE void store_tile(const float (&total)[POSITIONS][OUTPUTS / 2], const void *target, int block, int batch, int row,
    int first_column, int warpgroup, int warp, int lane, u32 shared, float, float, bool none)
{
    const int part = warp * 2 + ((lane >> 3) & 1);  // 8 images, which a lane says the place of
#pragma unroll
    for (int p = 0; p < POSITIONS; ++p) {
        int column = first_column + p;
        if (column >= POSITION_COLUMNS) continue;
#pragma unroll
        for (int piece = 0; piece < (OUTPUTS + PIECE - 1) / PIECE; ++piece) {
            if (lane == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
            __syncwarp();
            warpgroup_barrier(1 + warpgroup);
#pragma unroll
            for (int j = piece * PIECE / 8; j < OUTPUTS / 8 && j < ((piece + 1) * PIECE + 7) / 8; ++j) {
                u32 first = bfloat16_pair(total[p][4 * j], total[p][4 * j + 1]);
                u32 second = bfloat16_pair(total[p][4 * j + 2], total[p][4 * j + 3]);
                if (none) first = second = 0;
                int output = 8 * j + (lane & 7) - piece * PIECE;
                u32 box_row = output / BOX_CHANNELS * BOX_ROWS + output % BOX_CHANNELS;
                store_turned(COLLECTION(warpgroup) + box_row * ROW_BYTES + ((part ^ (box_row & 7)) << 4), first, second);
            }
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            warpgroup_barrier(1 + warpgroup);
            if (lane == 0) store_boxes(target, block, batch, piece, row, column, warp, COLLECTION(warpgroup));
            __syncwarp();
        }
    }
}
#else
#define TARGET void
// Where a target's element is, or that nothing is to be stored: of a tile, a position in a row of patches, an output.
struct Target { bool exists; int offset; };
DEVICE Target target_of(int block, int row, int column, int output) {
    int m = block * OUTPUTS + output, residue = m / TARGET_CHANNELS;
    int y = row * PATCH_ROWS + residue / PATCH_COLUMNS, x = column * PATCH_COLUMNS + residue % PATCH_COLUMNS;
    Target t;
    t.exists = column < POSITION_COLUMNS && m < ALL_OUTPUTS && y < TARGET_ROWS && x < TARGET_COLUMNS;
    t.offset = ((m % TARGET_CHANNELS * TARGET_ROWS + y) * TARGET_COLUMNS + x) * BATCH;
    return t;
}

// The two rows of a thread are neighbouring images of float32, as they were loaded; of bfloat16 neighbours exchange
// halves, so that each stores pairs.
DEVICE void store_tile(float (&total)[POSITIONS][OUTPUTS / 2], void *target_, int block, int batch, int row,
    int first_column, int, int warp, int lane, u32, float factor, float filter_factor, bool none)
{
#if NARROW && !SCALED
    int odd = (lane >> 2) & 1, image = batch + warp * 16 + odd * 8 + ((lane >> 2) & 6);
    unsigned short *target = (unsigned short *)target_ + image;
#else
    int image = batch + warp * 16 + (NARROW ? 1 : 2) * (lane >> 2);
    float *target = (float *)target_ + image;
#endif
    bool exists = image < BATCH;
#pragma unroll
    for (int p = 0; p < POSITIONS; ++p)
#pragma unroll
        for (int j = 0; j < OUTPUTS / 8; ++j) {
#if NARROW && !SCALED
            u32 first = bfloat16_pair(total[p][4 * j], total[p][4 * j + 1]);
            u32 second = bfloat16_pair(total[p][4 * j + 2], total[p][4 * j + 3]);
            if (none) first = second = 0;
            u32 other = __shfl_xor_sync(0xffffffffu, odd ? first : second, 4);
            u32 even_image = odd ? other : first, odd_image = odd ? second : other;
#endif
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                Target t = target_of(block, row, first_column + p, 8 * j + 2 * (lane & 3) + e);
                if (!exists || !t.exists) continue;
#if NARROW && !SCALED
                *(u32 *)(target + t.offset) = __byte_perm(even_image, odd_image, e ? 0x7632 : 0x5410);
#else
                float2 pair = make_float2(total[p][4 * j + e], total[p][4 * j + 2 + e]);
                pair = make_float2(pair.x * factor * filter_factor, pair.y * factor * filter_factor);
                if (none) pair = make_float2(0.0f, 0.0f);
                if (NARROW) {
                    target[t.offset] = pair.x;
                    if (image + 8 < BATCH) target[t.offset + 8] = pair.y;
                } else *(float2 *)(target + t.offset) = pair;
#endif
            }
        }
}
#endif
