#include "tile.h"

namespace WDFAST_NS {
namespace {

// Pixels per register tile for a panel of V vectors: accumulators + V vectors of B + one broadcast fit in
// the registers, and there are at least 8 independent sums to hide the latency of a fused multiply-add.
constexpr int tile_pixels(int vectors) {
  if (kVectorRegisters >= 32) return vectors == 4 ? 6 : vectors == 3 ? 9 : 14;
  return vectors == 2 ? 6 : 12;
}

// sum + a·b, a the same in all lanes: one product, or the two of a pair.
template <bool kPairs>
WDFAST_INLINE vf multiply_add(vf sum, vf a, vf b) {
  return kPairs ? add_products(sum, a, b) : sum + a * b;
}

template <bool kPairs, int V, int P>
void multiply_tile(const Multiply& m) {
  constexpr int kGroups = (P + 2) / 3;  // one pointer addresses three pixels: base, + stride, + 2 stride
  vf sum[P][V];
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) {
    const vf start = m.bias ? load(m.bias + j * kLanes) : vf{};
#pragma GCC unroll 14
    for (int i = 0; i < P; ++i) sum[i][j] = start;
  }
  if (m.ask)
#pragma GCC unroll 14
    for (int i = 0; i < P; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) ask_for_line(m.c + i * m.c_stride + j * kLanes);
  const float *b = m.b, *next = m.next ? m.next : m.b;
  const int64_t stride = m.a_stride, line = m.next ? kLine : 0;
  for (int64_t r = 0; r < m.n_runs; ++r) {
    const float* a[kGroups];
#pragma GCC unroll 5
    for (int g = 0; g < kGroups; ++g) a[g] = m.a + m.runs[r].offset + 3 * g * stride;
    for (int64_t k = m.runs[r].length; k > 0; --k) {
      if constexpr (V > 1) ask_for_line(next), next += line;
      vf row[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) row[j] = load(b + j * kLanes);
#pragma GCC unroll 14
      for (int i = 0; i < P; ++i) {
        const vf x = broadcast_bits(a[i / 3] + (i % 3) * stride);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) sum[i][j] = multiply_add<kPairs>(sum[i][j], x, row[j]);
      }
#pragma GCC unroll 5
      for (int g = 0; g < kGroups; ++g) ++a[g];
      b += m.b_stride;
    }
  }
  const int64_t whole = m.columns / kLanes, rest = m.columns % kLanes;
#pragma GCC unroll 14
  for (int i = 0; i < P; ++i) {
    float* c = m.c + i * m.c_stride;
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      vf y = sum[i][j];
      if (j < whole) {
        if (m.add) y += load(c + j * kLanes);
        if (m.relu) y = vmax(y, vf{});
        store(c + j * kLanes, y);
      } else if (rest) {
        if (m.add) y += load_partial(c + j * kLanes, rest);
        if (m.relu) y = vmax(y, vf{});
        store_partial(c + j * kLanes, y, rest);
      }
    }
  }
}

template <bool kPairs, int V, int K>
void outer_tile(const Outer& o) {
  vf sum[K][V];
#pragma GCC unroll 14
  for (int i = 0; i < K; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      sum[i][j] = vf{};
      if (!o.add) ask_for_line(o.c + i * o.c_stride + j * kLanes);
    }
  for (int64_t y = 0; y < o.rows; ++y) {
    const float* a = o.a + y * o.a_row_stride;
    const float* b = o.b + y * o.b_row_stride;
    for (int64_t p = o.pixels; p > 0; --p) {
      vf row[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) row[j] = load(b + j * kLanes);
#pragma GCC unroll 14
      for (int i = 0; i < K; ++i) {
        const vf x = broadcast_bits(a + i);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) sum[i][j] = multiply_add<kPairs>(sum[i][j], x, row[j]);
      }
      a += o.a_stride;
      b += o.b_stride;
    }
  }
  const int64_t whole = o.columns / kLanes, rest = o.columns % kLanes;
#pragma GCC unroll 14
  for (int i = 0; i < K; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      float* c = o.c + i * o.c_stride + j * kLanes;
      if (j < whole)
        store(c, o.add ? load(c) + sum[i][j] : sum[i][j]);
      else if (rest)
        store_partial(c, o.add ? load_partial(c, rest) + sum[i][j] : sum[i][j], rest);
    }
}

// Run-time sizes to compile-time ones: the tile of exactly P pixels, P ≤ tile_pixels(V).
template <bool kPairs, int V, int P>
void dispatch_multiply(const Multiply& m, int64_t pixels) {
  if (pixels == P) return multiply_tile<kPairs, V, P>(m);
  if constexpr (P > 1) dispatch_multiply<kPairs, V, P - 1>(m, pixels);
}
template <bool kPairs, int V, int K>
void dispatch_outer(const Outer& o, int64_t k) {
  if (k == K) return outer_tile<kPairs, V, K>(o);
  if constexpr (K > 1) dispatch_outer<kPairs, V, K - 1>(o, k);
}

// n in ⌈n/largest⌉ tiles that differ by at most one: 13 pixels are 5 + 4 + 4, not 6 + 6 + 1.
template <class Body>
WDFAST_INLINE void balanced_tiles(int64_t n, int64_t largest, const Body& body) {
  const int64_t tiles = (n + largest - 1) / largest;
  for (int64_t i = 0, at = 0; i < tiles; ++i) {
    const int64_t size = n / tiles + (i < n % tiles);
    body(at, size);
    at += size;
  }
}

template <bool kPairs, int V>
void multiply_pixels(const Multiply& m, int64_t pixels) {
  balanced_tiles(pixels, tile_pixels(V), [&](int64_t at, int64_t size) {
    Multiply tile = m;
    tile.a += at * m.a_stride;
    tile.c += at * m.c_stride;
    if (m.next) tile.next += at * m.next_lines / pixels * kLine;
    dispatch_multiply<kPairs, V, tile_pixels(V)>(tile, size);
  });
}

template <bool kPairs, int V>
void outer_rows(const Outer& o) {
  balanced_tiles(o.k, tile_pixels(V), [&](int64_t at, int64_t size) {
    Outer tile = o;
    tile.a += o.tiled ? at * o.pixels * o.rows : at;
    if (o.tiled) tile.a_stride = size, tile.a_row_stride = size * o.pixels;
    tile.c += at * o.c_stride;
    dispatch_outer<kPairs, V, tile_pixels(V)>(tile, size);
  });
}

// Calls body<kPairs, V>() for a panel of so many columns; pairs exist where there are instructions for them.
template <class Body>
WDFAST_INLINE void with_panel(bool pairs, int64_t columns, const Body& body) {
  const int64_t vectors = (columns + kLanes - 1) / kLanes;
  const auto widths = [&]<bool kPairs, int V>(const auto& self) {
    if (vectors == V) return body.template operator()<kPairs, V>();
    if constexpr (V > 1) self.template operator()<kPairs, V - 1>(self);
  };
  if (kBfloat16Products && pairs)
    widths.template operator()<kBfloat16Products, kPanelVectors>(widths);
  else
    widths.template operator()<false, kPanelVectors>(widths);
}

}  // namespace

void multiply(const Multiply& m, int64_t pixels) {
  with_panel(m.pairs, m.columns, [&]<bool kPairs, int V>() { multiply_pixels<kPairs, V>(m, pixels); });
}

void outer(const Outer& o) {
  with_panel(o.pairs, o.columns, [&]<bool kPairs, int V>() { outer_rows<kPairs, V>(o); });
}

void pack_tiles(float* to, const Outer& o) {
  const int64_t largest = tile_pixels(static_cast<int>(ceil_div(o.columns, kLanes))), all = o.pixels * o.rows;
  constexpr int64_t kTogether =
      8;  // pixels: their k are read in the order of memory, the few tiles' at a time
  for (int64_t y = 0; y < o.rows; ++y)
    for (int64_t p = 0; p < o.pixels; p += kTogether) {
      const float* a = o.a + y * o.a_row_stride + p * o.a_stride;
      const int64_t done = y * o.pixels + p, n = o.pixels - p < kTogether ? o.pixels - p : kTogether;
      balanced_tiles(o.k, largest, [&](int64_t at, int64_t size) {
        float* next = to + at * all + done * size;
        for (int64_t i = 0; i < n; ++i, next += size)
          for (int64_t j = 0; j < size; j += kLanes) {
            const float* from = a + i * o.a_stride + at + j;
            const int64_t left = size - j < kLanes ? size - j : kLanes;
            const vf v = at + j + kLanes <= o.k ? load(from) : load_partial(from, left);
            // What is stored beyond belongs to pixels that come later, but at the end to the next tile.
            if ((all - done - i) * size - j >= kLanes)
              store(next + j, v);
            else
              store_partial(next + j, v, left);
          }
      });
    }
}

void pack_panels(float* to, int64_t panel, const float* from, int64_t stride, int64_t rows, int64_t columns,
                 bool pairs) {
  const int64_t step = pairs ? 2 : 1, full = columns / kPanel * kPanel;
  for (int64_t k = 0; k < rows; k += step) {
    const float *row = from + k * stride, *second = row + stride;
    float* out = to + k / step * kPanel;
    for (int64_t first = 0; first < full; first += kPanel, out += panel)
#pragma GCC unroll 4
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        const vf v = load(row + first + j);
        store(out + j, pairs ? make_pairs(v, k + 1 < rows ? load(second + first + j) : vf{}) : v);
      }
  }
  if (full < columns) pack_rows(to + full / kPanel * panel, from + full, stride, rows, columns - full, pairs);
}

void pack_rows(float* to, const float* from, int64_t stride, int64_t rows, int64_t columns, bool pairs) {
  const int64_t width = padded_columns(columns), step = pairs ? 2 : 1;
  for (int64_t k = 0; k < rows; k += step) {
    const float* row = from + k * stride;
    for_vectors(0, columns, [&](int64_t j, auto lanes) {
      vf v = load(row + j, lanes);
      if (pairs) v = make_pairs(v, k + 1 < rows ? load(row + stride + j, lanes) : vf{});
      store(to + j, v);  // there is room for the whole vector
    });
    to += width;
  }
}

// Rows and columns of kLanes vectors change places: halves, quarters, … of two vectors at a time.
template <int kStep>
WDFAST_INLINE void transpose(vf (&rows)[kLanes]) {
  vi low, high;  // lanes of the first vector, then of the second
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes; ++lane) {
    low[lane] = lane & kStep ? kLanes + lane - kStep : lane;
    high[lane] = lane & kStep ? kLanes + lane : lane + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & kStep) continue;
    const vf a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + kStep] = __builtin_shuffle(a, b, high);
  }
  if constexpr (kStep > 1) transpose<kStep / 2>(rows);
}

void pack_transposed(float* to, const float* from, int64_t stride, int64_t rows, int64_t columns,
                     bool pairs) {
  const int64_t width = padded_columns(columns);
  const int64_t whole_rows = pairs ? 0 : rows / kLanes * kLanes, whole = columns / kLanes * kLanes;
  for (int64_t k = 0; k < whole_rows; k += kLanes)
    for (int64_t j = 0; j < whole; j += kLanes) {
      vf block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = load(from + (j + i) * stride + k);
      transpose<kLanes / 2>(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(to + (k + i) * width + j, block[i]);
    }
  for (int64_t k0 = 0; k0 < rows; k0 += 16) {  // 16 k: whole cache lines of `from`
    const int64_t n = rows - k0 < 16 ? rows - k0 : 16, lanes = lane_count(n, pairs);
    float* out = to + lane_count(k0, pairs) * width;
    for (int64_t j = k0 + n <= whole_rows ? whole : 0; j < columns; ++j) {
      const float* source = from + j * stride + k0;
      float rounded[8];
      if (pairs) round_rows(rounded, source, 0, 1, n), source = rounded;
      for (int64_t k = 0; k < lanes; ++k) __builtin_memcpy(out + k * width + j, source + k, 4);
    }
    for (int64_t j = columns; j < width; ++j)
      for (int64_t k = 0; k < lanes; ++k) out[k * width + j] = 0.0f;
  }
}

void round_rows(float* to, const float* from, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    half* out = reinterpret_cast<half*>(to + row * lane_count(columns, true));
    for_vectors(0, columns, [&](int64_t j, auto lanes) { store(out + j, load(from + j, lanes), lanes); });
    if (columns % 2) out[columns] = 0;
    from += stride;
  }
}

}  // namespace WDFAST_NS
