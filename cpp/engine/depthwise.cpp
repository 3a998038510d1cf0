#include "depthwise.h"

#include "wdfast/lanes.h"

namespace WDFAST_NS {
namespace {

bool within(int64_t at, Range range) { return at >= range.first && at < range.end; }

struct Reach {  // of a tap
  int64_t at;   // what it reads, from its pixel
  int64_t weight;
};

struct Pixels {  // neighbours, whose taps all exist
  const float* x;
  int64_t x_stride, tap;  // floats to the next pixel, and to the next column
  const Reach* taps;
  int64_t n;
  const float *weights, *bias;
  float* y;
  int64_t y_stride, channels;
  bool relu, add;
};

// ---- the sum of taps --------------------------------------------------------------------------------------

// P pixels, all channels: a weight is read once for them.
template <int P>
void depthwise_pixels(const Pixels& r) {
  for_vectors(0, r.channels, [&](int64_t ch, auto lanes) {
    vf sum[P];
    const vf start = r.bias ? load(r.bias + ch, lanes) : vf{};
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) sum[i] = start;
    for (int64_t t = 0; t < r.n; ++t) {
      const float* x = r.x + r.taps[t].at + ch;
      const vf k = load(r.weights + r.taps[t].weight + ch, lanes);
#pragma GCC unroll 8
      for (int i = 0; i < P; ++i) sum[i] += load(x + i * r.x_stride, lanes) * k;
    }
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
      float* to = r.y + i * r.y_stride + ch;
      vf y = sum[i];
      if (r.add) y += load(to, lanes);
      if (r.relu) y = vmax(y, vf{});
      store(to, y, lanes);
    }
  });
}

void depthwise_pixels(Pixels r, int64_t pixels) {
  constexpr void (*kOf[])(const Pixels&) = {depthwise_pixels<1>, depthwise_pixels<2>, depthwise_pixels<3>,
                                            depthwise_pixels<4>, depthwise_pixels<5>, depthwise_pixels<6>};
  constexpr int64_t kMost = sizeof(kOf) / sizeof(*kOf);
  for (int64_t p = 0; p < pixels;) {
    const int64_t left = pixels - p, groups = (left + kMost - 1) / kMost;
    const int64_t take = (left + groups - 1) / groups;  // as even as can be: 7 is 4 and 3
    kOf[take - 1](r);
    r.x += take * r.x_stride, r.y += take * r.y_stride;
    p += take;
  }
}

constexpr int64_t kLines = 3;  // of Y made at once: as many accumulators and 9 weights fit in the registers

// Rows of X that R lines of 3 × 3 taps read, S rows apart.
constexpr int rows_of(int lines, int stride) { return (lines - 1) * stride + 3; }

// R lines of 3 × 3 taps, S rows of X apart, in the order of memory: a row of X is met once for all of them.
template <int R, int S>
void depthwise_rows(const Pixels& r, int64_t x_row, int64_t y_row, int64_t pixels) {
  constexpr int kRows = rows_of(R, S);
  const int64_t corner = r.taps[0].at, x_stride = r.x_stride;
  int64_t weight[9];
  for (int t = 0; t < 9; ++t) weight[t] = r.taps[t].weight;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const float* x = r.x + corner + pixel * x_stride;
    float* y = r.y + pixel * r.y_stride;
    for_vectors(0, r.channels, [&](int64_t ch, auto lanes) {
      vf k[9], sum[R];
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) k[t] = load(r.weights + weight[t] + ch, lanes);
      const vf start = r.bias ? load(r.bias + ch, lanes) : vf{};
#pragma GCC unroll 3
      for (int i = 0; i < R; ++i) sum[i] = start;
#pragma GCC unroll 7
      for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 3
        for (int column = 0; column < 3; ++column) {
          const vf cell = load(x + row * x_row + column * r.tap + ch, lanes);
#pragma GCC unroll 3
          for (int i = 0; i < R; ++i)
            if (row >= i * S && row - i * S < 3) sum[i] += cell * k[3 * (row - i * S) + column];
        }
#pragma GCC unroll 3
      for (int i = 0; i < R; ++i) {
        float* to = y + i * y_row + ch;
        vf value = sum[i];
        if (r.add) value += load(to, lanes);
        if (r.relu) value = vmax(value, vf{});
        store(to, value, lanes);
      }
    });
  }
}

// Which of n pixels, `step` columns apart from `first` on, lie within.
Range pixels_within(int64_t first, int64_t step, Range columns, int64_t n) {
  const int64_t low = columns.first > first ? ceil_div(columns.first - first, step) : 0;
  const int64_t high = columns.end > first ? ceil_div(columns.end - first, step) : 0;
  const int64_t end = high < n ? high : n;
  return {low < end ? low : end, end};
}

// ---- the gradient of the weights --------------------------------------------------------------------------

// dw[kx] += Σ over a row of pixels, for N neighbouring taps and one vector of channels.
template <int N, class Lanes>
WDFAST_INLINE void depthwise_sums(const float* x, int64_t x_stride, int64_t tap, const float* y,
                                  int64_t y_stride, int64_t pixels, float* dw, int64_t dw_stride,
                                  Lanes lanes) {
  vf even[N] = {}, odd[N] = {};
  int64_t p = 0;
  for (; p + 2 <= pixels; p += 2, x += 2 * x_stride, y += 2 * y_stride) {
    const vf g = load(y, lanes), h = load(y + y_stride, lanes);
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      even[i] += load(x + i * tap, lanes) * g;
      odd[i] += load(x + x_stride + i * tap, lanes) * h;
    }
  }
  if (p < pixels) {
    const vf g = load(y, lanes);
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) even[i] += load(x + i * tap, lanes) * g;
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) store(dw + i * dw_stride, even[i] + odd[i], lanes, true);
}

struct SquareSums {  // Σ over lines of pixels and their 3 × 3 taps
  const float* x;    // what the first tap of the first pixel reads
  int64_t x_row, tap;
  const float* y;
  int64_t y_row, y_stride, pixels, channels;
  float* dw;
  Range rows, columns;  // of the rows of X that the lines read and 3 columns from there, that exist
};

// All channels of R lines; kAll: whether everything exists.
template <int R, int S, bool kAll>
void square_sums(const SquareSums& s) {
  constexpr int kRows = rows_of(R, S);
  constexpr int64_t kRun = 2 / S;  // pixels added up in registers; more would leave the order of memory
  for (int64_t begin = 0; begin < s.pixels; begin += kRun) {
    const int64_t n = s.pixels - begin < kRun ? s.pixels - begin : kRun;
    for_vectors(0, s.channels, [&](int64_t ch, auto lanes) {
      vf sum[9] = {};
      const float *cell = s.x + begin * S * s.tap + ch, *gradient = s.y + begin * s.y_stride + ch;
      for (int64_t p = 0; p < n; ++p, cell += S * s.tap, gradient += s.y_stride) {
        vf g[R];
#pragma GCC unroll 3
        for (int i = 0; i < R; ++i) g[i] = load(gradient + i * s.y_row, lanes);
#pragma GCC unroll 7
        for (int row = 0; row < kRows; ++row) {
          if (!kAll && !within(row, s.rows)) continue;
#pragma GCC unroll 3
          for (int column = 0; column < 3; ++column) {
            if (!kAll && !within(column, s.columns)) continue;
            const vf value = load(cell + row * s.x_row + column * s.tap, lanes);
#pragma GCC unroll 3
            for (int i = 0; i < R; ++i)
              if (row >= i * S && row - i * S < 3) sum[3 * (row - i * S) + column] += value * g[i];
          }
        }
      }
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) store(s.dw + t * s.channels + ch, sum[t], lanes, true);
    });
  }
}

template <int S>
void square_sums(const SquareSums& s, int64_t lines) {
  constexpr void (*kOf[2][kLines])(const SquareSums&) = {
      {square_sums<1, S, false>, square_sums<2, S, false>, square_sums<3, S, false>},
      {square_sums<1, S, true>, square_sums<2, S, true>, square_sums<3, S, true>}};
  const bool all = s.rows.first <= 0 && s.rows.end >= rows_of(static_cast<int>(lines), S) &&
                   s.columns.first <= 0 && s.columns.end >= 3;
  kOf[all][lines - 1](s);
}

// dw += over lines [first, end) of Y; 3 × 3 taps without dilation, S cells apart.
template <int S>
void square_weights(const Window& w, const Image& x, const Image& y, int64_t first, int64_t end, float* dw) {
  const Range left = pixels_within(-w.w.before, S, x.columns, w.w.out),
              right = pixels_within(2 - w.w.before, S, x.columns, w.w.out);
  for (int64_t o = first; o < end; o += kLines) {
    const int64_t row = o * S - w.h.before;
    for (int64_t pixel = 0; pixel < w.w.out;) {
      const bool whole = pixel >= left.first && pixel < right.end;
      const int64_t column = pixel * S - w.w.before, n = whole ? right.end - pixel : 1;
      square_sums<S>({x.origin + row * x.row + column * x.pixel,
                      x.row,
                      x.pixel,
                      y.origin + o * y.row + pixel * y.pixel,
                      y.row,
                      y.pixel,
                      n,
                      w.cx,
                      dw,
                      {x.rows.first - row, x.rows.end - row},
                      {x.columns.first - column, whole ? 3 : x.columns.end - column}},
                     end - o < kLines ? end - o : kLines);
      pixel += n;
    }
  }
}

}  // namespace

void depthwise_lines(const DepthwiseLine& l, int64_t row_step, int64_t y_row, int64_t lines, int64_t pixels) {
  int64_t low = 0, high = 0;
  for (int64_t t = 0; t < l.n; ++t) {
    low = t == 0 || l.taps[t].x < low ? l.taps[t].x : low;
    high = t == 0 || l.taps[t].x > high ? l.taps[t].x : high;
  }
  const Range left = pixels_within(l.column + low, l.step, l.x.columns, pixels),
              right = pixels_within(l.column + high, l.step, l.x.columns, pixels);
  const Range whole = {left.first > right.first ? left.first : right.first,  // whose taps' columns all exist
                       left.end < right.end ? left.end : right.end};
  bool square = l.n == 9 && l.step == row_step && (l.step == 1 || l.step == 2);
  for (int64_t t = 0; t < l.n && square; ++t)
    square = l.taps[t].x == l.taps[0].x + t % 3 && l.taps[t].y == l.taps[0].y + t / 3;

  constexpr void (*kRowsOf[2][kLines])(const Pixels&, int64_t, int64_t, int64_t) = {
      {depthwise_rows<1, 1>, depthwise_rows<2, 1>, depthwise_rows<3, 1>},
      {depthwise_rows<1, 2>, depthwise_rows<2, 2>, depthwise_rows<3, 2>}};
  for (int64_t line = 0; line < lines;) {
    const int64_t row = l.row + line * row_step;
    Reach reaches[kMaxTaps];
    int64_t columns[kMaxTaps], n = 0;
    for (int64_t t = 0; t < l.n; ++t)
      if (within(row + l.taps[t].y, l.x.rows)) {
        reaches[n] = {l.taps[t].y * l.x.row + l.taps[t].x * l.x.pixel, l.taps[t].weight};
        columns[n++] = l.column + l.taps[t].x;
      }
    Pixels r = {l.x.origin + row * l.x.row + l.column * l.x.pixel,
                l.step * l.x.pixel,
                l.x.pixel,
                reaches,
                n,
                l.weights,
                l.bias,
                l.y + line * y_row,
                l.y_stride,
                l.channels,
                l.relu,
                l.add};
    int64_t together = 1;  // lines whose rows all exist
    while (square && n == 9 && together < kLines && line + together < lines &&
           within(row + together * row_step + l.taps[8].y, l.x.rows))
      ++together;
    const auto part = [&](int64_t at) {
      Pixels from = r;
      from.x += at * r.x_stride, from.y += at * r.y_stride;
      return from;
    };
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      if (pixel == whole.first && whole.end > whole.first) pixel = whole.end;
      if (pixel >= pixels) break;
      Reach some[kMaxTaps];  // an edge: its taps that exist
      Pixels one = part(pixel);
      one.taps = some, one.n = 0;
      for (int64_t t = 0; t < n; ++t)
        if (within(columns[t] + pixel * l.step, l.x.columns)) some[one.n++] = reaches[t];
      for (int64_t i = 0; i < together; ++i) {
        depthwise_pixels<1>(one);
        one.x += row_step * l.x.row, one.y += y_row;
      }
    }
    const int64_t count = whole.end - whole.first;
    if (count <= 0 || n < 9 || !square)
      depthwise_pixels(part(whole.first), count);
    else
      kRowsOf[l.step - 1][together - 1](part(whole.first), l.x.row, y_row, count);
    line += together;
  }
}

void depthwise_weights(const Window& w, Image x, Image y, int64_t first, int64_t end, float* dw) {
  if (w.h.kernel == 3 && w.w.kernel == 3 && w.h.stride == w.w.stride && w.h.dilation == 1 &&
      w.w.dilation == 1) {
    if (w.h.stride == 1) return square_weights<1>(w, x, y, first, end, dw);
    if (w.h.stride == 2) return square_weights<2>(w, x, y, first, end, dw);
  }
  const int64_t tap = w.w.dilation * x.pixel, stride = w.w.stride * x.pixel;
  for (int64_t o = first; o < end; ++o)
    for (int64_t ky = 0; ky < w.h.kernel; ++ky) {
      const int64_t row = o * w.h.stride - w.h.before + ky * w.h.dilation;
      if (!within(row, x.rows)) continue;
      const float *a = x.origin + row * x.row - w.w.before * x.pixel, *b = y.origin + o * y.row;
      const auto exist = [&](int64_t kx) {
        return pixels_within(kx * w.w.dilation - w.w.before, w.w.stride, x.columns, w.w.out);
      };
      for_vectors(0, w.cx, [&](int64_t ch, auto lanes) {
        float* to = dw + ky * w.w.kernel * w.cx + ch;
        const auto sums = [&]<int N>(int64_t kx, int64_t begin, int64_t last) {
          if (begin < last)
            depthwise_sums<N>(a + kx * tap + begin * stride + ch, stride, tap, b + begin * y.pixel + ch,
                              y.pixel, last - begin, to + kx * w.cx, w.cx, lanes);
        };
        // Three taps at a time over the pixels that have all of them, then each over its own.
        for (int64_t kx = 0; kx < w.w.kernel; kx += 3) {
          const int64_t last = kx + 3 <= w.w.kernel ? kx + 3 : w.w.kernel;
          Range common = {exist(kx).first, exist(last - 1).end};
          if (last - kx < 3 || common.first >= common.end) common.end = common.first;
          sums.template operator()<3>(kx, common.first, common.end);
          for (int64_t i = kx; i < last; ++i) {
            const Range all = exist(i);
            if (common.first == common.end) {
              sums.template operator()<1>(i, all.first, all.end);
              continue;
            }
            sums.template operator()<1>(i, all.first, common.first);
            sums.template operator()<1>(i, common.end, all.end);
          }
        }
      });
    }
}

}  // namespace WDFAST_NS
