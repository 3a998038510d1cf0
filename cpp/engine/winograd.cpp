#include "winograd.h"

#include "wdfast/parallel.h"

namespace WDFAST_NS {
namespace {

constexpr int64_t kMinChannels = 16;
constexpr int64_t kMaxTiles = 48;        // whole register tiles of 6 and 12
constexpr int64_t kBlockFloats = 65536;  // of a block's transformed inputs and products: half an L2

int64_t block_tiles(int64_t in, int64_t out) {
  const int64_t fits = kBlockFloats / (kWinogradCells * (in + out)) / 6 * 6;
  return fits < 6 ? 6 : fits > kMaxTiles ? kMaxTiles : fits;
}

// Lanes (floats, or pairs of bfloat16) from a cell of a block to the next: not a power of two, or all sixteen
// would lie in one set of the L1.
int64_t cell_lanes(int64_t tiles, int64_t channels) { return tiles * channels + 16; }

struct Tile {  // of Y
  int64_t row, column;
};

// Calls f(tiles, how many) for blocks of the tiles of these rows, in order.
template <class F>
WDFAST_INLINE void for_blocks(const WinogradRows& r, const F& f) {
  const int64_t across = ceil_div(r.width, 2), n = ceil_div(r.end - r.first, 2) * across;
  const int64_t most = block_tiles(r.in, r.out), blocks = ceil_div(n, most);
  Tile tiles[kMaxTiles];
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = n * b / blocks, count = n * (b + 1) / blocks - begin;
    for (int64_t i = 0; i < count; ++i) {
      tiles[i] = {r.first + (begin + i) / across * 2, (begin + i) % across * 2};
    }
    f(tiles, count);
  }
}

// How the factors of one tile are kept: at(cell, channel) = v. As floats, as bfloat16 whose neighbours are
// two channels, or as bfloat16 whose neighbours are two tiles.
struct Floats {
  float* to;
  int64_t cell;
  WDFAST_INLINE void put(int64_t k, int64_t c, vf v) const { store(to + k * cell + c, v); }
};
struct ChannelPairs {
  float* to;
  int64_t cell;
  WDFAST_INLINE void put(int64_t k, int64_t c, vf v) const {
    store(reinterpret_cast<half*>(to + k * cell) + c, v);
  }
};
struct TilePairs {  // the first of two tiles leaves zeros for the second
  float* to;
  int64_t cell;
  bool second;
  WDFAST_INLINE void put(int64_t k, int64_t c, vf v) const {
    float* at = to + k * cell + c;
    const vi bits = __builtin_convertvector(round_half(v), vi);
    const vi both = second ? reinterpret_cast<vi>(load(at)) | bits << 16 : bits;
    store(at, reinterpret_cast<vf>(both));
  }
};

// Bᵀ X B; x(i, j): the first channel of a pixel.
template <class Pixel, class Factors>
WDFAST_INLINE void transform_input(const Pixel& x, int64_t channels, const Factors& v) {
  for (int64_t c = 0; c < channels; c += kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      vf t[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const vf a = load(x(i == 0 ? 0 : i == 2 ? 2 : 1, j) + c);
        const vf b = load(x(i == 0 ? 2 : i == 2 ? 1 : i == 1 ? 2 : 3, j) + c);
        t[j] = i == 1 ? a + b : a - b;
      }
      v.put(4 * i, c, t[0] - t[2]);
      v.put(4 * i + 1, c, t[1] + t[2]);
      v.put(4 * i + 2, c, t[2] - t[1]);
      v.put(4 * i + 3, c, t[1] - t[3]);
    }
  }
}

// factors(i): where those of tile i go. zeros: as many as X has channels, for pixels that do not exist.
template <class FactorsOf>
void transform_inputs(const WinogradRows& r, const Image& x, const Tile* tiles, int64_t n, float* zeros,
                      const FactorsOf& factors) {
  __builtin_memset(zeros, 0, static_cast<size_t>(r.in) * 4);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = tiles[i].row - r.top, column = tiles[i].column - r.left;
    const float* corner = x.origin + row * x.row + column * x.pixel;
    const auto within = [](int64_t at, Range range) { return at >= range.first && at < range.end; };
    const auto inside = [=](int64_t at, Range range) { return within(at, range) && within(at + 3, range); };
    if (inside(row, r.x_rows) && inside(column, r.x_columns)) {
      transform_input([=, &x](int a, int b) { return corner + a * x.row + b * x.pixel; }, r.in, factors(i));
      continue;
    }
    const float* pixels[4][4];
    for (int a = 0; a < 4; ++a)
      for (int b = 0; b < 4; ++b) {
        const bool exists = within(row + a, r.x_rows) && within(column + b, r.x_columns);
        pixels[a][b] = exists ? corner + a * x.row + b * x.pixel : zeros;
      }
    transform_input([&](int a, int b) { return pixels[a][b]; }, r.in, factors(i));
  }
}

// Y ← Aᵀ m A, bias, ReLU: the pixels of one tile that exist.
WDFAST_INLINE void transform_output(const WinogradRows& r, const float* m, int64_t cell, const float* bias,
                                    bool relu, bool add, const Tile& tile, const Image& y) {
  const bool below = tile.row + 1 < r.end, beside = tile.column + 1 < r.width;
  float* corner = y.origin + tile.row * y.row + tile.column * y.pixel;
  for (int64_t c = 0; c < r.out; c += kLanes) {
    const vf shift = bias ? load(bias + c) : vf{};
    vf top[4], bottom[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float* at = m + j * cell + c;
      const vf a = load(at), b = load(at + 4 * cell), d = load(at + 8 * cell), e = load(at + 12 * cell);
      top[j] = a + b + d;
      bottom[j] = b - d - e;
    }
    const auto put = [&](float* to, vf value) {
      value += shift;
      if (add) value += load(to);
      if (relu) value = vmax(value, vf{});
      store(to, value);
    };
    float* to = corner + c;
    put(to, top[0] + top[1] + top[2]);
    if (beside) put(to + y.pixel, top[1] - top[2] - top[3]);
    if (below) put(to + y.row, bottom[0] + bottom[1] + bottom[2]);
    if (below && beside) put(to + y.row + y.pixel, bottom[1] - bottom[2] - bottom[3]);
  }
}

// Asks for the lines of the 2 × 2 pixels of each tile, so many rows on. Transforms wait for memory, products
// do not need it: what the next transforms will read and write is brought in meanwhile.
WDFAST_INLINE void ask_for_pixels(const Image& image, int64_t channels, const Tile* tile, const Tile* end,
                                  int64_t rows) {
  for (; tile < end; ++tile)
    for (int64_t c = 0; c < channels; c += kLine) {
      const float* corner = image.origin + (tile->row + rows) * image.row + tile->column * image.pixel + c;
      ask_for_line(corner);
      ask_for_line(corner + image.pixel);
      ask_for_line(corner + image.row);
      ask_for_line(corner + image.row + image.pixel);
    }
}

// How many rows of Y further the next n tiles lie: past the last one in the next image, or nowhere.
int64_t rows_ahead(const WinogradRows& r, int64_t n) { return ceil_div(n, ceil_div(r.width, 2)) * 2; }

// A dY Aᵀ, zeros for pixels that do not exist.
template <class FactorsOf>
void transform_gradients(const WinogradRows& r, const Image& dy, const Tile* tiles, int64_t n,
                         const FactorsOf& factors) {
  for (int64_t i = 0; i < n; ++i) {
    const Tile& tile = tiles[i];
    const auto m = factors(i);
    const bool below = tile.row + 1 < r.end, beside = tile.column + 1 < r.width;
    const float* corner = dy.origin + tile.row * dy.row + tile.column * dy.pixel;
    for (int64_t c = 0; c < r.out; c += kLanes) {
      const float* at = corner + c;
      const vf g[2][2] = {
          {load(at), beside ? load(at + dy.pixel) : vf{}},
          {below ? load(at + dy.row) : vf{}, below && beside ? load(at + dy.row + dy.pixel) : vf{}}};
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const auto row = [&](int j) {
          return k == 0 ? g[0][j] : k == 1 ? g[0][j] + g[1][j] : k == 2 ? g[0][j] - g[1][j] : -g[1][j];
        };
        const vf a = row(0), b = row(1);
        m.put(4 * k, c, a);
        m.put(4 * k + 1, c, a + b);
        m.put(4 * k + 2, c, a - b);
        m.put(4 * k + 3, c, -b);
      }
    }
  }
}

// U of one tap matrix g(ky, kx): G g Gᵀ, for one vector of channels.
template <class Tap>
WDFAST_INLINE void filter_cells(const Tap& tap, vf (&u)[kWinogradCells]) {
  vf t[4][3];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    const vf a = tap(0, j), b = tap(1, j), c = tap(2, j);
    t[0][j] = a, t[1][j] = 0.5f * (a + b + c), t[2][j] = 0.5f * (a - b + c), t[3][j] = c;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    u[4 * i] = t[i][0];
    u[4 * i + 1] = 0.5f * (t[i][0] + t[i][1] + t[i][2]);
    u[4 * i + 2] = 0.5f * (t[i][0] - t[i][1] + t[i][2]);
    u[4 * i + 3] = t[i][2];
  }
}

// Where u's vector of output channels `o` for input channel `i` lies, from the first of its cell: panels of
// columns one after the other, as `multiply` reads them.
int64_t panel_at(int64_t in, int64_t out, int64_t i, int64_t o) {
  const int64_t panel = o / kPanel;
  return panel * kPanel * in + i * panel_columns(out, panel) + o % kPanel;
}

// U of the `in` channels, of which cells(i, o, u) computes the vector of output channels at o.
template <class Cells>
void pack_filter(int64_t in, int64_t out, float* u, bool pairs, const Cells& cells) {
  const int64_t lanes = pairs ? in / 2 : in;
  parallel_blocks(lanes, 8, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t o = 0; o < out; o += kLanes) {
        vf first[kWinogradCells], second[kWinogradCells];
        cells(pairs ? 2 * i : i, o, first);
        if (pairs) cells(2 * i + 1, o, second);
        for (int k = 0; k < kWinogradCells; ++k)
          store(u + k * lanes * out + panel_at(lanes, out, i, o),
                pairs ? make_pairs(first[k], second[k]) : first[k]);
      }
  });
}

}  // namespace

bool winograd_fits(const Window& w) {
  return w.groups == 1 && w.h.kernel == 3 && w.w.kernel == 3 && w.h.stride == 1 && w.w.stride == 1 &&
         w.h.dilation == 1 && w.w.dilation == 1 && w.cx % kLanes == 0 && w.cy % kLanes == 0 &&
         w.cx >= kMinChannels && w.cy >= kMinChannels && w.h.out > 1 && w.w.out > 1;
}

int64_t winograd_scratch_floats(int64_t in, int64_t out) {
  const int64_t tiles = block_tiles(in, out);
  return in + kWinogradCells * (cell_lanes(tiles, in) + cell_lanes(tiles, out));
}

void winograd_filter(const float* w, int64_t in, int64_t out, float* u, bool pairs) {
  pack_filter(in, out, u, pairs, [=](int64_t i, int64_t o, vf(&cells)[kWinogradCells]) {
    filter_cells([=](int ky, int kx) { return load(w + ((ky * 3 + kx) * in + i) * out + o); }, cells);
  });
}

void winograd_filter_adjoint(const float* w, int64_t in, int64_t out, float* u, bool pairs) {
  pack_filter(out, in, u, pairs, [=](int64_t o, int64_t i, vf(&cells)[kWinogradCells]) {
    filter_cells(
        [=](int ky, int kx) {
          vf tap;
          for (int lane = 0; lane < kLanes; ++lane)
            tap[lane] = w[((8 - ky * 3 - kx) * in + i + lane) * out + o];
          return tap;
        },
        cells);
  });
}

void winograd_filter_gradient(const float* du, int64_t in, int64_t out, float* dw, bool add) {
  parallel_blocks(in * out / kLanes, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t at = begin * kLanes; at < end * kLanes; at += kLanes) {
      vf t[3][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const auto m = [&](int i) { return load(du + (4 * i + j) * in * out + at); };
        const vf b = m(1), c = m(2);
        t[0][j] = m(0) + 0.5f * (b + c), t[1][j] = 0.5f * (b - c), t[2][j] = 0.5f * (b + c) + m(3);
      }
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        const vf half_sum = 0.5f * (t[i][1] + t[i][2]);
        const vf taps[3] = {t[i][0] + half_sum, 0.5f * (t[i][1] - t[i][2]), half_sum + t[i][3]};
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) {
          float* to = dw + (i * 3 + j) * in * out + at;
          store(to, add ? load(to) + taps[j] : taps[j]);
        }
      }
    }
  });
}

void winograd_gather(const WinogradRows& r, Image x, const float* u, const float* bias, bool relu, bool add,
                     Image y, float* scratch) {
  const int64_t depth = r.pairs ? r.in / 2 : r.in;
  float* zeros = scratch;
  float* v = zeros + r.in;
  float* m = v + kWinogradCells * cell_lanes(block_tiles(r.in, r.out), r.in);
  for_blocks(r, [&](const Tile* tiles, int64_t n) {
    const int64_t cell = cell_lanes(n, depth);
    if (r.pairs)
      transform_inputs(r, x, tiles, n, zeros, [&](int64_t i) { return ChannelPairs{v + i * depth, cell}; });
    else
      transform_inputs(r, x, tiles, n, zeros, [&](int64_t i) { return Floats{v + i * depth, cell}; });
    const Run run = {0, depth};
    for (int64_t k = 0; k < kWinogradCells; ++k) {
      const Tile *part = tiles + n * k / kWinogradCells, *end = tiles + n * (k + 1) / kWinogradCells;
      ask_for_pixels(x, r.in, part, end, rows_ahead(r, n) + 1);
      ask_for_pixels(y, r.out, part, end, 0);
      for (int64_t panel = 0; panel < panel_count(r.out); ++panel) {
        const int64_t columns = panel_columns(r.out, panel);
        multiply({.a = v + k * cell,
                  .a_stride = depth,
                  .runs = &run,
                  .n_runs = 1,
                  .b = u + k * depth * r.out + panel * kPanel * depth,
                  .b_stride = columns,
                  .c = m + k * cell_lanes(n, r.out) + panel * kPanel,
                  .c_stride = r.out,
                  .bias = nullptr,
                  .columns = columns,
                  .add = false,
                  .relu = false,
                  .pairs = r.pairs},
                 n);
      }
    }
    for (int64_t i = 0; i < n; ++i)
      transform_output(r, m + i * r.out, cell_lanes(n, r.out), bias, relu, add, tiles[i], y);
  });
}

void winograd_weights(const WinogradRows& r, Image x, Image dy, float* du, float* scratch) {
  float* zeros = scratch;
  float* v = zeros + r.in;
  float* m = v + kWinogradCells * cell_lanes(block_tiles(r.in, r.out), r.in);
  for_blocks(r, [&](const Tile* tiles, int64_t n) {
    const int64_t terms = r.pairs ? (n + 1) / 2 : n;
    const int64_t v_cell = cell_lanes(terms, r.in), m_cell = cell_lanes(terms, r.out);
    if (r.pairs) {
      transform_inputs(r, x, tiles, n, zeros,
                       [&](int64_t i) { return TilePairs{v + i / 2 * r.in, v_cell, i % 2 == 1}; });
      transform_gradients(r, dy, tiles, n,
                          [&](int64_t i) { return TilePairs{m + i / 2 * r.out, m_cell, i % 2 == 1}; });
    } else {
      transform_inputs(r, x, tiles, n, zeros, [&](int64_t i) { return Floats{v + i * r.in, v_cell}; });
      transform_gradients(r, dy, tiles, n, [&](int64_t i) { return Floats{m + i * r.out, m_cell}; });
    }
    for (int64_t k = 0; k < kWinogradCells; ++k) {
      const Tile *part = tiles + n * k / kWinogradCells, *end = tiles + n * (k + 1) / kWinogradCells;
      ask_for_pixels(x, r.in, part, end, rows_ahead(r, n) + 1);
      ask_for_pixels(dy, r.out, part, end, rows_ahead(r, n));
      for (int64_t column = 0; column < r.out; column += kPanel)
        outer({.a = v + k * v_cell,
               .a_stride = r.in,
               .a_row_stride = 0,
               .b = m + k * m_cell + column,
               .b_stride = r.out,
               .b_row_stride = 0,
               .pixels = terms,
               .rows = 1,
               .c = du + k * r.in * r.out + column,
               .c_stride = r.out,
               .k = r.in,
               .columns = r.out - column < kPanel ? r.out - column : kPanel,
               .add = true,
               .pairs = r.pairs});
    }
  });
}

}  // namespace WDFAST_NS
