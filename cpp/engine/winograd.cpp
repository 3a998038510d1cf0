#include "winograd.h"

#include "wdfast/parallel.h"
#include "winograd_axis.h"

namespace WDFAST_NS {
namespace {

constexpr int64_t kMinChannels = 16;
constexpr int64_t kMaxTiles = 48;          // whole register tiles of 6 and 12
constexpr int64_t kBlockFloats = 65536;    // of a block's transformed inputs and products: half an L2
constexpr int64_t kBatchFloats = 1 << 22;  // of a batch's: half an L3
constexpr int64_t kWideFloats = 1 << 18;   // of U, from which a cache should not have to hold it
constexpr int64_t kChain = 32;  // terms that follow each other in one sum: a longer one rounds more

using Down = TileAxis<2>;  // a tile's height
template <class Across>
constexpr int kCells = Down::kCells * Across::kCells;

// f(Across) for a tile so many pixels wide.
template <class F>
WDFAST_INLINE void with_axis(int64_t across, const F& f) {
  if (across == 4)
    f(TileAxis<4>{});
  else
    f(TileAxis<2>{});
}

// ---- blocks of tiles ----------------------------------------------------------------------------------

int64_t block_tiles(int64_t cells, int64_t in, int64_t out) {
  const int64_t fits = kBlockFloats / (cells * (in + out)) / 6 * 6;
  return fits < 6 ? 6 : fits > kMaxTiles ? kMaxTiles : fits;
}

// Lanes (floats, or pairs of bfloat16) from a cell of a block to the next: not a power of two, or all of them
// would lie in one set of the L1.
int64_t cell_lanes(int64_t tiles, int64_t channels) { return tiles * channels + 16; }

struct Tile {  // of Y
  int64_t row, column;
};

int64_t tiles_of(const WinogradRows& r) { return ceil_div(r.end - r.first, 2) * ceil_div(r.width, r.across); }

// Calls f(tiles, how many) for blocks of the tiles of these rows, in order.
template <class F>
WDFAST_INLINE void for_blocks(const WinogradRows& r, const F& f) {
  const int64_t across = ceil_div(r.width, r.across), n = tiles_of(r);
  const int64_t most = block_tiles(winograd_cells(r.across), r.in, r.out), blocks = ceil_div(n, most);
  Tile tiles[kMaxTiles];
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = n * b / blocks, count = n * (b + 1) / blocks - begin;
    for (int64_t i = 0; i < count; ++i) {
      tiles[i] = {r.first + (begin + i) / across * 2, (begin + i) % across * r.across};
    }
    f(tiles, count);
  }
}

// Asks for the lines of the pixels of each tile, so many rows on. Transforms wait for memory, products do not
// need it: what the next transforms will read and write is brought in meanwhile.
WDFAST_INLINE void ask_for_pixels(const WinogradRows& r, const Image& image, const Tile* tile,
                                  const Tile* end, int64_t rows) {
  for (; tile < end; ++tile) {
    const float* row = image.origin + (tile->row + rows) * image.row + tile->column * image.pixel;
    for (int64_t i = 0; i < 2; ++i, row += image.row)
      for (int64_t c = 0; c < r.across * image.pixel; c += kLine) ask_for_line(row + c);
  }
}

// How many rows of Y further the next n tiles lie: past the last one in the next image, or nowhere.
int64_t rows_ahead(const WinogradRows& r, int64_t n) { return ceil_div(n, ceil_div(r.width, r.across)) * 2; }

// ---- transforms ---------------------------------------------------------------------------------------

// How the factors of one tile are kept: at(channel) takes those of its cells, one after the other. As floats,
// as bfloat16 whose neighbours are two channels, or as bfloat16 whose neighbours are two tiles.
struct Floats {
  float* to;
  int64_t cell;
  WDFAST_INLINE auto at(int64_t c) const {
    return [next = to + c, step = opaque(cell)](vf v) mutable { store(next, v), next += step; };
  }
};
struct ChannelPairs {
  float* to;
  int64_t cell;
  WDFAST_INLINE auto at(int64_t c) const {
    return [next = reinterpret_cast<half*>(to) + c, step = opaque(2 * cell)](vf v) mutable {
      store(next, v), next += step;
    };
  }
};
struct TilePairs {  // the first of two tiles leaves zeros for the second
  float* to;
  int64_t cell;
  bool second;
  WDFAST_INLINE auto at(int64_t c) const {
    return [next = to + c, step = opaque(cell), also = second](vf v) mutable {
      const vi bits = __builtin_convertvector(round_half(v), vi);
      const vi both = also ? reinterpret_cast<vi>(load(next)) | bits << 16 : bits;
      store(next, reinterpret_cast<vf>(both)), next += step;
    };
  }
};

// Bᵀ X B; x(channel)(i, j): where it is in a pixel.
template <class Across, class Pixel, class Factors>
WDFAST_INLINE void transform_input(const Pixel& x, int64_t channels, const Factors& v) {
  constexpr int kAcross = Across::kCells;
  for (int64_t c = 0; c < channels; c += kLanes) {
    const auto pixel = x(c);
    auto put = v.at(c);
#pragma GCC unroll 4
    for (int i = 0; i < Down::kCells; ++i) {  // two pixels at a time are fewer registers than Down::input
      vf row[kAcross], cells[kAcross];
#pragma GCC unroll 6
      for (int j = 0; j < kAcross; ++j) {
        const vf a = load(pixel(i == 0 ? 0 : i == 2 ? 2 : 1, j));
        const vf b = load(pixel(i == 0 ? 2 : i == 2 ? 1 : i == 1 ? 2 : 3, j));
        row[j] = i == 1 ? a + b : a - b;
      }
      Across::input(row, cells);
#pragma GCC unroll 6
      for (int j = 0; j < kAcross; ++j) put(cells[j]);
    }
  }
}

// factors(i): where those of tile i go. zeros: as many 0 as X has channels, for pixels that do not exist.
template <class Across, class FactorsOf>
WDFAST_INLINE void transform_inputs(const WinogradRows& r, const Image& x, const Tile* tiles, int64_t n,
                                    const float* zeros, const FactorsOf& factors) {
  constexpr int kRows = Down::kCells, kColumns = Across::kCells;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = tiles[i].row - r.top, column = tiles[i].column - r.left;
    const float* corner = x.origin + row * x.row + column * x.pixel;
    const auto within = [](int64_t at, Range range) { return at >= range.first && at < range.end; };
    if (within(row, r.x_rows) && within(row + kRows - 1, r.x_rows) && within(column, r.x_columns) &&
        within(column + kColumns - 1, r.x_columns)) {
      const auto pixels = [=, &x](int64_t c) {
        return [first = corner + c, down = opaque(x.row), across = opaque(x.pixel)](int a, int b) {
          return first + a * down + b * across;
        };
      };
      transform_input<Across>(pixels, r.in, factors(i));
      continue;
    }
    const float* pixels[kRows][kColumns];
    for (int a = 0; a < kRows; ++a)
      for (int b = 0; b < kColumns; ++b) {
        const bool exists = within(row + a, r.x_rows) && within(column + b, r.x_columns);
        pixels[a][b] = exists ? corner + a * x.row + b * x.pixel : zeros;
      }
    transform_input<Across>([&](int64_t c) { return [&, c](int a, int b) { return pixels[a][b] + c; }; },
                            r.in, factors(i));
  }
}

// Y ← Aᵀ m A, bias, ReLU: the pixels of one tile that exist.
template <class Across>
WDFAST_INLINE void transform_output(const WinogradRows& r, const float* m, int64_t cell, const float* bias,
                                    bool relu, bool add, const Tile& tile, const Image& y) {
  constexpr int kAcross = Across::kCells;
  const bool below = tile.row + 1 < r.end;
  const int64_t columns = r.width - tile.column;
  float* corner = y.origin + tile.row * y.row + tile.column * y.pixel;
  for (int64_t c = 0; c < r.out; c += kLanes) {
    const vf shift = bias ? load(bias + c) : vf{};
    const float* at = m + c;
    const int64_t step = opaque(cell), row = opaque(kAcross * cell);
    vf top[kAcross], bottom[kAcross];
#pragma GCC unroll 6
    for (int j = 0; j < kAcross; ++j) {
      vf cells[Down::kCells], rows[2];
#pragma GCC unroll 4
      for (int i = 0; i < Down::kCells; ++i) cells[i] = load(at + i * row);
      at += step;
      Down::output(cells, rows);
      top[j] = rows[0], bottom[j] = rows[1];
    }
    const auto put = [&](const vf(&from)[kAcross], float* to) {
      vf pixels[Across::kPixels];
      Across::output(from, pixels);
#pragma GCC unroll 4
      for (int j = 0; j < Across::kPixels; ++j) {
        if (j >= columns) break;
        float* at = to + j * y.pixel + c;
        vf value = pixels[j] + shift;
        if (add) value += load(at);
        if (relu) value = vmax(value, vf{});
        store(at, value);
      }
    };
    put(top, corner);
    if (below) put(bottom, corner + y.row);
  }
}

// A dY Aᵀ, zeros for pixels that do not exist.
template <class Across, class FactorsOf>
WDFAST_INLINE void transform_gradients(const WinogradRows& r, const Image& dy, const Tile* tiles, int64_t n,
                                       const FactorsOf& factors) {
  constexpr int kAcross = Across::kCells, kPixels = Across::kPixels;
  for (int64_t i = 0; i < n; ++i) {
    const Tile& tile = tiles[i];
    const bool below = tile.row + 1 < r.end;
    const int64_t columns = r.width - tile.column;
    const float* corner = dy.origin + tile.row * dy.row + tile.column * dy.pixel;
    for (int64_t c = 0; c < r.out; c += kLanes) {
      auto put = factors(i).at(c);
      vf cells[kPixels][Down::kCells];
#pragma GCC unroll 4
      for (int j = 0; j < kPixels; ++j) {
        const float* at = corner + j * dy.pixel + c;
        const vf pixels[2] = {j < columns ? load(at) : vf{}, j < columns && below ? load(at + dy.row) : vf{}};
        Down::spread(pixels, cells[j]);
      }
#pragma GCC unroll 4
      for (int k = 0; k < Down::kCells; ++k) {
        vf row[kPixels], spread[kAcross];
#pragma GCC unroll 4
        for (int j = 0; j < kPixels; ++j) row[j] = cells[j][k];
        Across::spread(row, spread);
#pragma GCC unroll 6
        for (int j = 0; j < kAcross; ++j) put(spread[j]);
      }
    }
  }
}

// U of one tap matrix g(ky, kx): G g Gᵀ, for one vector of channels.
template <class Across, class Tap>
WDFAST_INLINE void filter_cells(const Tap& tap, vf (&u)[kCells<Across>]) {
  vf columns[3][Down::kCells];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    const vf taps[3] = {tap(0, j), tap(1, j), tap(2, j)};
    Down::filter(taps, columns[j]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < Down::kCells; ++i) {
    const vf row[3] = {columns[0][i], columns[1][i], columns[2][i]};
    vf cells[Across::kCells];
    Across::filter(row, cells);
#pragma GCC unroll 6
    for (int j = 0; j < Across::kCells; ++j) u[Across::kCells * i + j] = cells[j];
  }
}

// Where u's vector of output channels `o` for input channel `i` lies, from the first of its cell: panels of
// columns one after the other, as `multiply` reads them.
int64_t panel_at(int64_t in, int64_t out, int64_t i, int64_t o) {
  const int64_t panel = o / kPanel;
  return panel * kPanel * in + i * panel_columns(out, panel) + o % kPanel;
}

// U of the `in` channels; taps(begin, end)(i, o, ky, kx): of one of the channels [begin, end), for the vector
// of output channels at o.
template <class Taps>
void pack_filter(int64_t in, int64_t out, int64_t across, float* u, bool pairs, const Taps& taps) {
  const int64_t step = pairs ? 2 : 1, lanes = in / step;
  with_axis(across, [&](auto axis) {
    using Across = decltype(axis);
    parallel_blocks(lanes, 8, [&](int64_t begin, int64_t end) {
      const auto tap = taps(begin * step, end * step);
      for (int64_t i = begin; i < end; ++i)
        for (int64_t o = 0; o < out; o += kLanes) {
          vf first[kCells<Across>], second[kCells<Across>];
          const auto cells = [&](int64_t from, vf(&to)[kCells<Across>]) {
            filter_cells<Across>([&](int ky, int kx) { return tap(from, o, ky, kx); }, to);
          };
          cells(step * i, first);
          if (pairs) cells(2 * i + 1, second);
          for (int k = 0; k < kCells<Across>; ++k)
            store(u + k * lanes * out + panel_at(lanes, out, i, o),
                  pairs ? make_pairs(first[k], second[k]) : first[k]);
        }
    });
  });
}

// ---- blocks through their transforms and products -------------------------------------------------------

// Where the products of a block go, behind the zeros and the transformed inputs.
float* products_of(const WinogradRows& r, float* inputs) {
  const int64_t cells = winograd_cells(r.across);
  return inputs + cells * cell_lanes(block_tiles(cells, r.in, r.out), r.in);
}

// M = V · U of one cell and n tiles: the columns of a panel, in chains. v_row, m_row: from a tile to the
// next.
void multiply_cell(const WinogradRows& r, const float* v, int64_t v_row, const float* u, int64_t panel,
                   float* m, int64_t m_row, int64_t n) {
  const int64_t depth = r.pairs ? r.in / 2 : r.in, columns = panel_columns(r.out, panel);
  for (int64_t first = 0; first < depth; first += kChain) {
    const Run run = {first, depth - first < kChain ? depth - first : kChain};
    multiply({.a = v,
              .a_stride = v_row,
              .runs = &run,
              .n_runs = 1,
              .b = u + panel * kPanel * depth + first * columns,
              .b_stride = columns,
              .c = m + panel * kPanel,
              .c_stride = m_row,
              .bias = nullptr,
              .columns = columns,
              .add = first > 0,
              .relu = false,
              .pairs = r.pairs},
             n);
  }
}

template <class Across>
void gather_tiles(const WinogradRows& r, Image x, const float* u, const float* bias, bool relu, bool add,
                  Image y, float* scratch) {
  const int64_t depth = r.pairs ? r.in / 2 : r.in;
  float *zeros = scratch, *v = zeros + r.in, *m = products_of(r, v);
  __builtin_memset(zeros, 0, static_cast<size_t>(r.in) * 4);
  for_blocks(r, [&](const Tile* tiles, int64_t n) {
    const int64_t cell = cell_lanes(n, depth), m_cell = cell_lanes(n, r.out);
    if (r.pairs)
      transform_inputs<Across>(r, x, tiles, n, zeros,
                               [&](int64_t i) { return ChannelPairs{v + i * depth, cell}; });
    else
      transform_inputs<Across>(r, x, tiles, n, zeros, [&](int64_t i) { return Floats{v + i * depth, cell}; });
    const int64_t ahead = rows_ahead(r, n);
    for (int64_t k = 0; k < kCells<Across>; ++k) {
      const Tile *part = tiles + n * k / kCells<Across>, *end = tiles + n * (k + 1) / kCells<Across>;
      ask_for_pixels(r, x, part, end, ahead + 1);
      ask_for_pixels(r, y, part, end, 0);
      for (int64_t panel = 0; panel < panel_count(r.out); ++panel)
        multiply_cell(r, v + k * cell, depth, u + k * depth * r.out, panel, m + k * m_cell, r.out, n);
    }
    for (int64_t i = 0; i < n; ++i)
      transform_output<Across>(r, m + i * r.out, m_cell, bias, relu, add, tiles[i], y);
  });
}

template <class Across>
void sum_tiles(const WinogradRows& r, Image x, Image dy, float* du, float* scratch) {
  float *zeros = scratch, *v = zeros + r.in, *m = products_of(r, v);
  __builtin_memset(zeros, 0, static_cast<size_t>(r.in) * 4);
  for_blocks(r, [&](const Tile* tiles, int64_t n) {
    const int64_t terms = r.pairs ? (n + 1) / 2 : n;
    const int64_t v_cell = cell_lanes(terms, r.in), m_cell = cell_lanes(terms, r.out);
    if (r.pairs) {
      transform_inputs<Across>(r, x, tiles, n, zeros,
                               [&](int64_t i) { return TilePairs{v + i / 2 * r.in, v_cell, i % 2 == 1}; });
      transform_gradients<Across>(
          r, dy, tiles, n, [&](int64_t i) { return TilePairs{m + i / 2 * r.out, m_cell, i % 2 == 1}; });
    } else {
      transform_inputs<Across>(r, x, tiles, n, zeros,
                               [&](int64_t i) { return Floats{v + i * r.in, v_cell}; });
      transform_gradients<Across>(r, dy, tiles, n, [&](int64_t i) { return Floats{m + i * r.out, m_cell}; });
    }
    const int64_t ahead = rows_ahead(r, n);
    for (int64_t k = 0; k < kCells<Across>; ++k) {
      const Tile *part = tiles + n * k / kCells<Across>, *end = tiles + n * (k + 1) / kCells<Across>;
      ask_for_pixels(r, x, part, end, ahead + 1);
      ask_for_pixels(r, dy, part, end, ahead);
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

// ---- whole batches ---------------------------------------------------------------------------------------

// Lanes from a tile to the next, of many channels: for the same reason no power of two.
constexpr int64_t row_lanes(int64_t channels) { return channels + kLine; }

// Tiles of a batch that are transformed before products are made: as many as their factors fill half an L3,
// whole blocks of the products.
int64_t batch_tiles(const WinogradBatch& b) {
  const WinogradRows& r = b.rows;
  const int64_t all = b.images * tiles_of(r),
                fits = kBatchFloats / (winograd_cells(r.across) * (r.in + r.out));
  return clamp(fits / kMaxTiles * kMaxTiles, kMaxTiles,
               round_up(all, 2) < kMaxTiles ? kMaxTiles : round_up(all, 2));
}

// Calls f(first tile, how many, lanes of V and of M from a cell to the next) for parts of the batch.
template <class F>
WDFAST_INLINE void for_parts(const WinogradBatch& b, const F& f) {
  const int64_t all = b.images * tiles_of(b.rows), most = batch_tiles(b);
  for (int64_t first = 0; first < all; first += most) f(first, all - first < most ? all - first : most);
}

// Calls f(i, tile, X of its image, Y of its image) for the tiles first + i, in parallel; two neighbours by
// one.
template <class F>
WDFAST_INLINE void for_tiles(const WinogradBatch& b, int64_t first, int64_t n, Image x, Image y, const F& f) {
  const WinogradRows& r = b.rows;
  const int64_t across = ceil_div(r.width, r.across), per_image = tiles_of(r);
  parallel_blocks(n, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = (first + i) / per_image, at = (first + i) % per_image;
      const Tile tile = {r.first + at / across * 2, at % across * r.across};
      f(i, tile, Image{x.origin + image * b.x_image, x.row, x.pixel},
        Image{y.origin + image * b.y_image, y.row, y.pixel});
    }
  });
}

template <class Across>
void gather_batch(const WinogradBatch& b, Image x, const float* u, const float* bias, bool relu, bool add,
                  Image y, float* scratch) {
  const WinogradRows& r = b.rows;
  const int64_t depth = r.pairs ? r.in / 2 : r.in, v_row = row_lanes(depth), m_row = row_lanes(r.out);
  const int64_t panels = panel_count(r.out), groups = ceil_div(r.out, kBlockColumns);
  float *zeros = scratch, *v = zeros + r.in,
        *m = v + kCells<Across> * cell_lanes(batch_tiles(b), row_lanes(r.in));
  __builtin_memset(zeros, 0, static_cast<size_t>(r.in) * 4);
  for_parts(b, [&](int64_t first, int64_t n) {
    const int64_t cell = cell_lanes(n, v_row), m_cell = cell_lanes(n, m_row);
    for_tiles(b, first, n, x, y, [&](int64_t i, const Tile& tile, Image from, Image) {
      if (r.pairs)
        transform_inputs<Across>(r, from, &tile, 1, zeros,
                                 [&](int64_t) { return ChannelPairs{v + i * v_row, cell}; });
      else
        transform_inputs<Across>(r, from, &tile, 1, zeros,
                                 [&](int64_t) { return Floats{v + i * v_row, cell}; });
    });
    parallel_for(kCells<Across> * groups, [&](int64_t task) {
      constexpr int64_t kGroup = kBlockColumns / kPanel;
      const int64_t k = task / groups, group = task % groups * kGroup;
      for (int64_t i = 0; i < n; i += kMaxTiles)  // which stay in the L2 for the columns of the group
        for (int64_t panel = group; panel < panels && panel < group + kGroup; ++panel)
          multiply_cell(r, v + k * cell + i * v_row, v_row, u + k * depth * r.out, panel,
                        m + k * m_cell + i * m_row, m_row, n - i < kMaxTiles ? n - i : kMaxTiles);
    });
    for_tiles(b, first, n, x, y, [&](int64_t i, const Tile& tile, Image, Image to) {
      transform_output<Across>(r, m + i * m_row, m_cell, bias, relu, add, tile, to);
    });
  });
}

template <class Across>
void sum_batch(const WinogradBatch& b, Image x, Image dy, float* du, float* scratch) {
  const WinogradRows& r = b.rows;
  float *zeros = scratch, *v = zeros + r.in,
        *m = v + kCells<Across> * cell_lanes(batch_tiles(b), row_lanes(r.in));
  __builtin_memset(zeros, 0, static_cast<size_t>(r.in) * 4);
  for_parts(b, [&](int64_t first, int64_t n) {
    const int64_t terms = lane_count(n, r.pairs), blocks = ceil_div(r.in, kOuterRows);
    const int64_t v_row = row_lanes(r.in), m_row = row_lanes(r.out);
    const int64_t v_cell = cell_lanes(terms, v_row), m_cell = cell_lanes(terms, m_row);
    for_tiles(b, first, n, x, dy, [&](int64_t i, const Tile& tile, Image from, Image gradient) {
      const int64_t at = r.pairs ? i / 2 : i;
      const auto transform = [&](auto to_v, auto to_m) {
        transform_inputs<Across>(r, from, &tile, 1, zeros, [&](int64_t) { return to_v; });
        transform_gradients<Across>(r, gradient, &tile, 1, [&](int64_t) { return to_m; });
      };
      if (r.pairs)
        transform(TilePairs{v + at * v_row, v_cell, i % 2 == 1},
                  TilePairs{m + at * m_row, m_cell, i % 2 == 1});
      else
        transform(Floats{v + at * v_row, v_cell}, Floats{m + at * m_row, m_cell});
    });
    parallel_for(kCells<Across> * blocks, [&](int64_t task) {
      const int64_t k = task / blocks, row = task % blocks * kOuterRows;
      for (int64_t i = 0; i < terms; i += kChain)
        outer_long({.a = v + k * v_cell + i * v_row + row,
                    .a_stride = v_row,
                    .a_row_stride = 0,
                    .b = m + k * m_cell + i * m_row,
                    .b_stride = m_row,
                    .b_row_stride = 0,
                    .pixels = terms - i < kChain ? terms - i : kChain,
                    .rows = 1,
                    .c = du + (k * r.in + row) * r.out,
                    .c_stride = r.out,
                    .k = r.in - row < kOuterRows ? r.in - row : kOuterRows,
                    .columns = r.out,
                    .add = first > 0 || i > 0,
                    .pairs = r.pairs},
                   static_cast<float*>(host->thread_scratch(kOuterScratch * 4)));
    });
  });
}

}  // namespace

int64_t winograd_tile(const Window& w) {
  const bool fits = w.groups == 1 && w.h.kernel == 3 && w.w.kernel == 3 && w.h.stride == 1 &&
                    w.w.stride == 1 && w.h.dilation == 1 && w.w.dilation == 1 && w.cx % kLanes == 0 &&
                    w.cy % kLanes == 0 && w.cx >= kMinChannels && w.cy >= kMinChannels && w.h.out > 1 &&
                    w.w.out > 1;
  return !fits ? 0 : w.pairs || w.w.out == 2 ? 2 : 4;
}

int64_t winograd_scratch_floats(int64_t across, int64_t in, int64_t out) {
  if (!across) return 0;
  const int64_t cells = winograd_cells(across), tiles = block_tiles(cells, in, out);
  return in + cells * (cell_lanes(tiles, in) + cell_lanes(tiles, out));
}

void winograd_filter(const float* w, int64_t in, int64_t out, int64_t across, float* u, bool pairs) {
  pack_filter(in, out, across, u, pairs, [=](int64_t, int64_t) {
    return [=](int64_t i, int64_t o, int ky, int kx) { return load(w + ((ky * 3 + kx) * in + i) * out + o); };
  });
}

void winograd_filter_adjoint(const float* w, int64_t in, int64_t out, int64_t across, float* u, bool pairs) {
  pack_filter(out, in, across, u, pairs, [=](int64_t begin, int64_t end) {
    const int64_t n = end - begin;  // of each tap their in × n, transposed
    float* turned = static_cast<float*>(host->thread_scratch(static_cast<size_t>(9 * n * in) * 4));
    for (int64_t t = 0; t < 9; ++t)
      pack_transposed(turned + t * n * in, w + t * in * out + begin, out, n, in);
    return [=](int64_t o, int64_t i, int ky, int kx) {
      return load(turned + ((8 - ky * 3 - kx) * n + o - begin) * in + i);
    };
  });
}

void winograd_filter_gradient(const float* du, int64_t in, int64_t out, int64_t across, float* dw, bool add) {
  with_axis(across, [&](auto axis) {
    using Across = decltype(axis);
    parallel_blocks(in * out / kLanes, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin * kLanes; at < end * kLanes; at += kLanes) {
        vf columns[Across::kCells][3];
#pragma GCC unroll 6
        for (int j = 0; j < Across::kCells; ++j) {
          vf cells[Down::kCells];
#pragma GCC unroll 4
          for (int i = 0; i < Down::kCells; ++i)
            cells[i] = load(du + (Across::kCells * i + j) * in * out + at);
          Down::filter_gradient(cells, columns[j]);
        }
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) {
          vf row[Across::kCells], taps[3];
#pragma GCC unroll 6
          for (int j = 0; j < Across::kCells; ++j) row[j] = columns[j][i];
          Across::filter_gradient(row, taps);
#pragma GCC unroll 3
          for (int j = 0; j < 3; ++j) {
            float* to = dw + (i * 3 + j) * in * out + at;
            store(to, add ? load(to) + taps[j] : taps[j]);
          }
        }
      }
    });
  });
}

void winograd_gather(const WinogradRows& r, Image x, const float* u, const float* bias, bool relu, bool add,
                     Image y, float* scratch) {
  with_axis(r.across,
            [&](auto across) { gather_tiles<decltype(across)>(r, x, u, bias, relu, add, y, scratch); });
}

void winograd_weights(const WinogradRows& r, Image x, Image dy, float* du, float* scratch) {
  with_axis(r.across, [&](auto across) { sum_tiles<decltype(across)>(r, x, dy, du, scratch); });
}

bool winograd_batched(int64_t in, int64_t out, int64_t across) {
  return across && winograd_cells(across) * in * out >= kWideFloats;
}

int64_t winograd_batch_floats(const WinogradBatch& b) {
  const int64_t tiles = batch_tiles(b);
  return b.rows.in + winograd_cells(b.rows.across) *
                         (cell_lanes(tiles, row_lanes(b.rows.in)) + cell_lanes(tiles, row_lanes(b.rows.out)));
}

void winograd_gather(const WinogradBatch& b, Image x, const float* u, const float* bias, bool relu, bool add,
                     Image y, float* scratch) {
  with_axis(b.rows.across,
            [&](auto across) { gather_batch<decltype(across)>(b, x, u, bias, relu, add, y, scratch); });
}

void winograd_weights(const WinogradBatch& b, Image x, Image dy, float* du, float* scratch) {
  with_axis(b.rows.across, [&](auto across) { sum_batch<decltype(across)>(b, x, dy, du, scratch); });
}

}  // namespace WDFAST_NS
