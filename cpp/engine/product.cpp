#include "product.h"

namespace WDFAST_NS {
namespace {

constexpr int64_t kPackRows = 32;         // of A from which packing B pays
constexpr int64_t kRowsInBlock = 48;      // of A that meet all panels of a block: 48 KB of an L2
constexpr int64_t kInPlace = 4 * kPanel;  // columns up to which packing A costs more than it saves
constexpr int64_t kSharedSets = 256;      // floats: rows so far apart share a fourth of the sets, or fewer
constexpr int64_t kFewPixels = 8;         // of which packing would cost as much as their products

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Asks for part `i` of n of the lines of some rows, to come into the L2 while products are made.
WDFAST_INLINE void ask_for_rows(const float* from, int64_t stride, int64_t rows, int64_t floats, int64_t i,
                                int64_t n) {
  const int64_t lines = ceil_div(floats, kLine), end = rows * lines * (i + 1) / n;
  for (int64_t line = rows * lines * i / n; line < end; ++line)
    __builtin_prefetch(from + line / lines * stride + line % lines * kLine, 0, 2);
}

}  // namespace

void multiply_matrix(const MatrixProduct& m, int64_t rows, float* scratch) {
  const int64_t step = m.pairs ? 2 : 1;  // terms in a lane
  float* bias = scratch + kBlockDepth * kBlockColumns;
  for (int64_t first = 0; first < m.columns; first += kBlockColumns) {
    const int64_t columns = least(m.columns - first, kBlockColumns), panels = panel_count(columns);
    // In place, rows that lie a power of two apart share a few sets of the L1.
    const bool packed =
        m.pairs || m.transposed || columns % kLanes || (m.columns > kPanel && rows >= kPackRows);
    if (m.bias) pack_rows(bias, m.bias + first, 0, 1, columns);
    const int64_t blocks = clamp(ceil_div(m.depth, step * kBlockDepth), 1, m.depth + 1);
    const int64_t most = clamp(round_up(ceil_div(m.depth, blocks), step), 1, m.depth + step);
    for (int64_t k = 0; k < m.depth || k == 0; k += most) {
      const int64_t depth = least(m.depth - k, most);
      const Run run = {k / step, lane_count(depth, m.pairs)};
      const float* b = m.b + (m.transposed ? first * m.b_stride + k : k * m.b_stride + first);
      for (int64_t panel = 0; m.transposed && panel < panels; ++panel)
        pack_transposed(scratch + panel * kPanel * run.length, b + panel * kPanel * m.b_stride, m.b_stride,
                        depth, panel_columns(columns, panel), m.pairs);
      if (packed && !m.transposed)
        pack_panels(scratch, kPanel * run.length, b, m.b_stride, depth, columns, m.pairs);
      for (int64_t row = 0; row < rows; row += kRowsInBlock)
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t width = panel_columns(columns, panel), next = row + kRowsInBlock;
          ask_for_rows(m.a + next * m.a_stride + run.offset, m.a_stride, clamp(rows - next, 0, kRowsInBlock),
                       run.length, panel, panels);
          multiply({.a = m.a + row * m.a_stride,
                    .a_stride = m.a_stride,
                    .runs = &run,
                    .n_runs = 1,
                    .b = packed ? scratch + panel * kPanel * run.length : b + panel * kPanel,
                    .b_stride = packed ? padded_columns(width) : m.b_stride,
                    .c = m.c + row * m.c_stride + first + panel * kPanel,
                    .c_stride = m.c_stride,
                    .bias = m.bias && k == 0 ? bias + panel * kPanel : nullptr,
                    .columns = width,
                    .add = m.add || k > 0,
                    .relu = m.relu && k + depth >= m.depth,
                    .pairs = m.pairs,
                    .ask = !m.add && k == 0},
                   least(rows - row, kRowsInBlock));
        }
    }
  }
}

void outer_long(const Outer& o, float* scratch) {
  if (o.k <= kLanes || o.rows * o.pixels <= kFewPixels) {
    for (int64_t first = 0; first < o.columns; first += kPanel) {
      Outer part = o;
      part.b += first, part.c += first, part.columns = panel_columns(o.columns, first / kPanel);
      outer(part);
    }
    return;
  }
  // A: for many panels, or where its pixels share sets of the L1.
  const bool packs = o.columns > kInPlace || (o.a_stride % kSharedSets == 0 && o.columns > kPanel);
  float *packed_a = scratch, *packed_b = scratch + kOuterPixels * kOuterRows + kLanes;
  const int64_t pixels = least(o.pixels, kOuterPixels), rows = kOuterPixels / pixels;
  for (int64_t y = 0; y < o.rows; y += rows)
    for (int64_t p = 0; p < o.pixels; p += pixels) {
      Outer block = o;
      block.rows = least(o.rows - y, rows);
      block.pixels = least(o.pixels - p, pixels);
      block.add = o.add || y > 0 || p > 0;
      const int64_t all = block.rows * block.pixels;
      for (int64_t first = 0; first < o.columns; first += kOuterColumns) {
        const int64_t columns = least(o.columns - first, kOuterColumns);
        const float* b = o.b + y * o.b_row_stride + p * o.b_stride + first;
        const int64_t full = columns / kPanel * kPanel, rest = columns - full;
        for (int64_t row = 0; row < block.rows; ++row) {
          const int64_t done = row * block.pixels;
          const float* from = b + row * o.b_row_stride;
          pack_panels(packed_b + done * kPanel, all * kPanel, from, o.b_stride, block.pixels, full);
          if (rest)
            pack_rows(packed_b + full * all + done * padded_columns(rest), from + full, o.b_stride,
                      block.pixels, rest);
        }
        for (int64_t k = 0; k < o.k; k += kOuterRows) {
          block.k = least(o.k - k, kOuterRows);
          const float* a = o.a + y * o.a_row_stride + p * o.a_stride + k;
          for (int64_t at = 0; at < columns; at += kPanel) {
            Outer part = block;
            part.a = a;
            part.c = o.c + k * o.c_stride + first + at;
            part.columns = panel_columns(columns, at / kPanel);
            if (packs) {
              if (at == 0 || part.columns < kPanel) pack_tiles(packed_a, part);  // whose tiles are others
              part.a = packed_a, part.tiled = true;
            }
            part.b = packed_b + at * all;
            part.b_stride = padded_columns(part.columns);
            part.b_row_stride = block.pixels * part.b_stride;
            outer(part);
          }
        }
      }
    }
}

}  // namespace WDFAST_NS
