// Where the filters of window_kernel.cu lie, in shared memory and before: packed, or as they are.
//
// Packed of 16 bits they are cells of 8 outputs, those of 8 rows of the product together, all rows of 8 outputs after
// each other; of tf32 cells of 4 rows, those of 8 outputs together, all outputs of 4 rows after each other. As they are
// (`window_filters.py`) they are swizzled rows of FILTER_ROW_BYTES: of outputs, one for each row of the product; or, if
// channels lie innermost which are summed over, of these, one for each output.

#define DEPTH (TF32 ? 8 : 16)  // rows of a product

// The filters of a stage, counted through all blocks of outputs, rows of taps and chunks of channels.
#if PACKED
#define FILTERS const unsigned char
DEVICE u64 filter_descriptor(u32 address) {
    u32 along = TF32 ? OUTPUTS * 16 : 128, across = TF32 ? 128 : PRODUCT_ROWS * 16;
    return ((u64)(across >> 4) << 32) | ((along >> 4) << 16) | (address >> 4);
}
#define FETCHED_FILTERS FILTER_BYTES
DEVICE void fetch_filters(FILTERS *filters, int s, u32 to, u32 barrier) {
    load_bulk(to, filters + s * FILTER_BYTES, FILTER_BYTES, barrier);
}
#else
#define FILTERS const TensorMap
#define INNERMOST (FILTER_ROW_BYTES / 2)
#define FILTER_BOX_BYTES ((OUTPUTS_INNERMOST ? PRODUCT_ROWS : OUTPUTS) * FILTER_ROW_BYTES)
DEVICE u64 filter_descriptor(u32 address) {
    u64 pattern = FILTER_ROW_BYTES == 128 ? 1 : 2;
    u32 across = OUTPUTS_INNERMOST ? FILTER_BOX_BYTES : 16;
    return (pattern << 62) | ((u64)(FILTER_ROW_BYTES * 8 >> 4) << 32) | ((across >> 4) << 16) | (address >> 4);
}

// The tap of a place of a stage's windows, which are counted in their order, for a pixel of a patch.
struct Tap { int row, column; };
DEVICE Tap tap_at(int y, int place, int pixel) {
    Tap t;
    t.row = FIRST_TAP_ROW + (y + place % PLACES) * TAP_ROW_STEP + pixel / PATCH_COLUMNS;
    t.column = FIRST_TAP_COLUMN + place / PLACES * TAP_COLUMN_STEP + pixel % PATCH_COLUMNS;
    if (FLIPPED) { t.row = TAPS_DOWN - 1 - t.row; t.column = TAPS_ACROSS - 1 - t.column; }
    return t;
}

// Where there is no tap, box or row of it, the copying engine brings zeros.
#define FETCHED_FILTERS \
    (OUTPUTS_INNERMOST ? FILTER_BOXES * WINDOW_ROWS * FILTER_ROW_BYTES : FILTER_BOXES * BOX_OUTPUTS * WINDOW_ROWS * 2)
DEVICE void fetch_filters(FILTERS *filters, int s, u32 to, u32 barrier) {
    int channel = s % CHUNKS * CHANNELS, y = s / CHUNKS % STAGES_DOWN * PLACES;
    int output = s / (CHUNKS * STAGES_DOWN) * OUTPUTS;
#if OUTPUTS_INNERMOST
    for (int box = 0; box < FILTER_BOXES; ++box, output += INNERMOST, to += FILTER_BOX_BYTES)
        for (int place = 0; place < PLACES * PLACES_ACROSS; place += BOX_PLACES) {
            Tap t = tap_at(y, place, 0);
            load_box(to + place * CHANNELS * FILTER_ROW_BYTES, filters, output, channel, t.row, t.column, barrier);
        }
#else
    for (int place = 0; place < PLACES * PLACES_ACROSS; ++place)
        for (int c = 0; c < CHANNELS; c += INNERMOST, to += FILTER_BOX_BYTES)
            for (int box = 0; box < FILTER_BOXES; ++box) {
                int of_block = box * BOX_OUTPUTS, m = output + of_block;
                Tap t = tap_at(y, place, m / TARGET_CHANNELS);
                load_box(to + of_block * FILTER_ROW_BYTES, filters, channel + c, m % TARGET_CHANNELS, t.row, t.column,
                    barrier);
            }
#endif
}
#endif

// From the filters of a stage's first product to those of another one.
DEVICE u32 filter_bytes_before(int product) {
#if PACKED
    return product * (TF32 ? OUTPUTS * 32 : 256);
#elif OUTPUTS_INNERMOST
    return product * DEPTH * FILTER_ROW_BYTES;
#else
    return product / (INNERMOST / DEPTH) * FILTER_BOX_BYTES + product % (INNERMOST / DEPTH) * (2 * DEPTH);
#endif
}
