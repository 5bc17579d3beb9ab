// What the kernels of pools by rows share: the strips of rows that a program has, of windows or of pixels.

// A strip by its number within the program, of so many of all: its plane, the first of its rows, and whether there is one.
struct Strip { u64 plane; int row; bool exists; };
DEVICE Strip strip_at(int within, int strips) {
    int strip = blockIdx.x * STRIPS + within;
    Strip s;
    s.plane = strip / STRIPS_EACH;
    s.row = strip % STRIPS_EACH * STRIP;
    s.exists = strip < strips;
    return s;
}
