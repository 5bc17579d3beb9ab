// The gradient of max pooling, of bfloat16 in bc01, by rows in shared memory (pool_rows_kernel.py has the loop nest,
// and defines all constants).
//
// Windows that touch a strip, or a patch of columns, are counted from the first of them: the one in which its first pixel
// is ROW_OFFSET rows, or COLUMN_OFFSET columns, from the beginning comes after ROWS_BEFORE, or COLUMNS_BEFORE, others.

#define NO_WINDOW 0xffffu  // zero, won by no tap
#define ROW_OFFSET (POOL_TOP % POOL_STEP_ROWS)
#define COLUMN_OFFSET (POOL_LEFT % POOL_STEP_COLUMNS)

// The pixels of a strip, which follow each other in memory, and how many come before them in their first 16 bytes.
struct Run { unsigned short *begin; int count, shift; };
DEVICE Run run_at(unsigned short *images, Strip strip) {
    Run r;
    r.begin = images + strip.plane * (ROWS * COLUMNS) + strip.row * COLUMNS;
    r.count = smaller(STRIP, ROWS - strip.row) * COLUMNS;
    r.shift = (u64)r.begin / 2 % 8;
    return r;
}

extern "C" __global__ void __launch_bounds__(THREADS)
pooled_rows_grad(const unsigned char *winners, const unsigned short *maps, unsigned short *images, int strips)
{
    // Of each strip its rows of windows, with borders: the value above, its winner below; and behind them its pixels.
    extern __shared__ __align__(16) u32 windows[];
    unsigned short *results = (unsigned short *)(windows + STRIPS * TILE_ROWS * PITCH + PADDING);
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    for (int item = threadIdx.x; item < STRIPS * PITCH; item += THREADS) {
        Strip strip = strip_at(item / PITCH, strips);
        if (!strip.exists) break;
        int y = (strip.row + POOL_TOP) / POOL_STEP_ROWS - ROWS_BEFORE;
        int x = item % PITCH + POOL_LEFT / POOL_STEP_COLUMNS - COLUMNS_BEFORE;
        long long place = (long long)(strip.plane * OUT_ROWS) * OUT_COLUMNS + (long long)y * OUT_COLUMNS + x;
        u32 value[TILE_ROWS], winner[TILE_ROWS];
#pragma unroll
        for (int k = 0; k < TILE_ROWS; ++k) {
            bool inside = (u32)(y + k) < OUT_ROWS && (u32)x < OUT_COLUMNS;
            value[k] = inside ? maps[place + k * OUT_COLUMNS] : 0;
            winner[k] = inside ? winners[place + k * OUT_COLUMNS] : NO_WINDOW;
        }
#pragma unroll
        for (int k = 0; k < TILE_ROWS; ++k)
            windows[(item / PITCH * TILE_ROWS + k) * PITCH + item % PITCH] = __byte_perm(winner[k], value[k], 0x5410);
    }
    __syncthreads();
    for (int item = threadIdx.x; item < STRIPS * PATCHES; item += THREADS) {
        Strip strip = strip_at(item / PATCHES, strips);
        if (!strip.exists) break;
        int patch = item % PATCHES;
        const u32 *at = windows + item / PATCHES * (TILE_ROWS * PITCH) + patch * (PATCH_COLUMNS / POOL_STEP_COLUMNS);
        float sum[STRIP][PATCH_COLUMNS] = {};
#pragma unroll
        for (int k = 0; k < TILE_ROWS; ++k)
#pragma unroll
            for (int m = 0; m < PATCH_WINDOWS; ++m) {
                u32 window = at[k * PITCH + m];
                float value = __uint_as_float(window & 0xffff0000u);
                int winner = window & 0xffffu;
#pragma unroll
                for (int r = 0; r < STRIP; ++r)
#pragma unroll
                    for (int q = 0; q < PATCH_COLUMNS; ++q) {
                        int i = r + ROW_OFFSET - (k - ROWS_BEFORE) * POOL_STEP_ROWS;
                        int j = q + COLUMN_OFFSET - (m - COLUMNS_BEFORE) * POOL_STEP_COLUMNS;
                        if (i < 0 || i >= POOL_ROWS || j < 0 || j >= POOL_COLUMNS) continue;
                        if (winner == i * POOL_COLUMNS + j) sum[r][q] += value;
                    }
            }
        int column = patch * PATCH_COLUMNS;
        unsigned short *to = results + item / PATCHES * RUN_PITCH + run_at(images, strip).shift + column;
#pragma unroll
        for (int q = 0; q < PATCH_COLUMNS; ++q) {
            if (column + q >= COLUMNS) continue;
#pragma unroll
            for (int r = 0; r < STRIP; r += 2) {
                u32 two = bfloat16_pair(sum[r][q], r + 1 < STRIP ? sum[r + 1][q] : 0.0f);
                to[r * COLUMNS + q] = two;
                if (r + 1 < STRIP) to[(r + 1) * COLUMNS + q] = two >> 16;
            }
        }
    }
    __syncthreads();
    for (int cell = threadIdx.x; cell < STRIPS * (RUN_PITCH / 8); cell += THREADS) {
        Strip strip = strip_at(cell / (RUN_PITCH / 8), strips);
        if (!strip.exists) break;
        Run run = run_at(images, strip);
        int first = cell % (RUN_PITCH / 8) * 8 - run.shift;  // of the run
        const unsigned short *from = results + cell * 8;
        if (first >= 0 && first + 8 <= run.count) *(uint4 *)(run.begin + first) = *(const uint4 *)from;
        else
#pragma unroll 1
            for (int n = larger(0, -first); n < smaller(8, run.count - first); ++n) run.begin[first + n] = from[n];
    }
}
