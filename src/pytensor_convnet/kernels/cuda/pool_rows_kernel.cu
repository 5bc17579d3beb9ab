// Max pooling of bfloat16 in bc01 by rows in shared memory (pool_rows_kernel.py has the loop nest, and defines all
// constants).

#define LEAST 0x80001000u  // below every key, and still so when a tap is taken from it
#define FIRST_TAP 0xffffu

// Keys of two numbers, as bfloat16_keys.py has them, of tap 0.
DEVICE uint2 two_keys(u32 numbers) {
    u32 signs;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(numbers) : "r"(numbers), "r"(0x3f803f80), "r"(0));
    asm("prmt.b32 %0, %1, %1, 0xbb99;" : "=r"(signs) : "r"(numbers));
    numbers ^= signs & 0x7fff7fffu;
    return make_uint2(__byte_perm(numbers, FIRST_TAP, 0x1054), __byte_perm(numbers, FIRST_TAP, 0x3254));
}

extern "C" __global__ void __launch_bounds__(THREADS)
pooled_rows(const unsigned short *images, unsigned short *maxima, unsigned char *winners, int strips)
{
    extern __shared__ int keys[];  // of each strip its rows of the image, with borders left and right
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#if PITCH > COLUMNS
    for (int i = threadIdx.x; i < STRIPS * TILE_ROWS * (PITCH - COLUMNS); i += THREADS) {
        int border = i % (PITCH - COLUMNS);
        keys[i / (PITCH - COLUMNS) * PITCH + (border < POOL_LEFT ? border : border + COLUMNS)] = LEAST;
    }
#endif
    for (int item = threadIdx.x; item < STRIPS * COLUMNS; item += THREADS) {
        Strip strip = strip_at(item / COLUMNS, strips);
        if (!strip.exists) break;
        int first = strip.row * POOL_STEP_ROWS - POOL_TOP, column = item % COLUMNS;
        const unsigned short *from = images + strip.plane * (ROWS * COLUMNS) + (long long)first * COLUMNS + column;
        int *to = keys + item / COLUMNS * (TILE_ROWS * PITCH) + POOL_LEFT + column;
        u32 number[TILE_ROWS + TILE_ROWS % 2];
#pragma unroll
        for (int r = 0; r < TILE_ROWS + TILE_ROWS % 2; ++r)
            number[r] = r < TILE_ROWS && (u32)(first + r) < ROWS ? from[r * COLUMNS] : 0;
#pragma unroll
        for (int r = 0; r < TILE_ROWS; r += 2) {
            uint2 two = two_keys(__byte_perm(number[r], number[r + 1], 0x5410));
            to[r * PITCH] = (u32)(first + r) < ROWS ? two.x : LEAST;
            if (r + 1 < TILE_ROWS) to[(r + 1) * PITCH] = (u32)(first + r + 1) < ROWS ? two.y : LEAST;
        }
    }
    __syncthreads();
    for (int item = threadIdx.x; item < STRIPS * OUT_COLUMNS; item += THREADS) {
        Strip strip = strip_at(item / OUT_COLUMNS, strips);
        if (!strip.exists) break;
        int x = item % OUT_COLUMNS;
        const int *at = keys + item / OUT_COLUMNS * (TILE_ROWS * PITCH) + x * POOL_STEP_COLUMNS;
        int best[TILE_ROWS];
#pragma unroll
        for (int r = 0; r < TILE_ROWS; ++r) {
            best[r] = at[r * PITCH];
#pragma unroll
            for (int j = 1; j < POOL_COLUMNS; ++j) best[r] = larger(best[r], at[r * PITCH + j] - j);
        }
        u64 place = (strip.plane * OUT_ROWS + strip.row) * OUT_COLUMNS + x;
#pragma unroll
        for (int k = 0; k < STRIP; ++k) {
            if (strip.row + k >= OUT_ROWS) break;
            int key = best[k * POOL_STEP_ROWS];
#pragma unroll
            for (int i = 1; i < POOL_ROWS; ++i) key = larger(key, best[k * POOL_STEP_ROWS + i] - i * POOL_COLUMNS);
            maxima[place + k * OUT_COLUMNS] = (key >> 16) ^ ((key >> 31) & 0x7fff);
#if WITH_WINNERS
            winners[place + k * OUT_COLUMNS] = ~key;
#endif
        }
    }
}
