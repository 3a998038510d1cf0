// Max-pooling of a convolved image while it is in cache, and back: one byte for each pooled value says which
// cell of the window won, and whether ReLU killed it.
#pragma once

#include "wdfast/activation.h"
#include "wdfast/lanes.h"
#include "window.h"

namespace WDFAST_NS {

constexpr int kDead = 0x80;             // bit of the byte: the activation is flat there
constexpr int64_t kMaxPoolCells = 127;  // the other bits

struct Pooling {
  bool given, disjoint;  // disjoint: no cell lies in two windows
  Axis h, w;
};

// One row of y: the maximum of each window of `z`, then the activation, and with kBytes the byte of the
// winner. Rows, Columns: the window's size if known at compile time, else 0.
template <Activation A, bool kBytes, int Rows, int Columns>
static void pool_windows(const Pooling& pool, float alpha, int64_t channels, Image z, int64_t row, float* y,
                         uint8_t* byte) {
  const int64_t rows = Rows ? Rows : pool.h.kernel, columns = Columns ? Columns : pool.w.kernel;
  for (int64_t column = 0; column < pool.w.out; ++column) {
    const float* corner = z.origin + row * pool.h.stride * z.row + column * pool.w.stride * z.pixel;
    for_vectors(0, channels, [&](int64_t ch, auto lanes) {
      vf best = load(corner + ch, lanes);
      vi winner = {};
      for (int64_t a = 0, cell = 0; a < rows; ++a)
        for (int64_t b = 0; b < columns; ++b, ++cell) {
          const vf value = load(corner + a * z.row + b * z.pixel + ch, lanes);
          const vi better = (value > best) | (value != value);  // a NaN wins, and is seen
          best = select(better, value, best);
          if (kBytes) winner = better ? broadcast(static_cast<int32_t>(cell)) : winner;
        }
      const int64_t at = column * channels + ch;
      store(y + at, activate<A>(best, alpha), lanes);
      if (!kBytes) return;
      if (A == Activation::relu) winner |= (best > 0.0f) ? vi{} : broadcast(int32_t{kDead});
      store_bytes(byte + at, winner, lanes);
    });
  }
}

// byte: null where no backward follows.
template <Activation A>
static void pool_row(const Pooling& pool, float alpha, int64_t channels, Image z, int64_t row, float* y,
                     uint8_t* byte) {
  const auto run = [&]<bool kBytes>() {
    if (pool.h.kernel == 2 && pool.w.kernel == 2)
      pool_windows<A, kBytes, 2, 2>(pool, alpha, channels, z, row, y, byte);
    else
      pool_windows<A, kBytes, 0, 0>(pool, alpha, channels, z, row, y, byte);
  };
  if (byte)
    run.template operator()<true>();
  else
    run.template operator()<false>();
}

// The gradient of the convolution's result, rows [rows), with a halo of zeros: dy through the activation, to
// the cell that won.
template <Activation A>
static Image expand_gradient(const Window& w, const Pooling& pool, float alpha, const float* dy,
                             const float* y, const uint8_t* byte, Range rows, Range columns, float* to) {
  const int64_t channels = w.cy, width = (columns.end - columns.first) * channels;
  const Image dz = {to - rows.first * width - columns.first * channels, width, channels};
  const int64_t low = clamp(rows.first, 0, w.h.out), high = clamp(rows.end, 0, w.h.out);
  const int64_t total = (rows.end - rows.first) * width;
  if (!pool.given) {
    const int64_t left = -columns.first * channels, n = w.w.out * channels;
    const auto clear = [](float* from, int64_t floats) {
      __builtin_memset(from, 0, static_cast<size_t>(floats) * 4);
    };
    for (int64_t row = rows.first; row < rows.end; ++row) {
      float* out = to + (row - rows.first) * width;
      if (row < low || row >= high) {
        clear(out, width);
        continue;
      }
      clear(out, left);
      for_vectors(0, n, [&](int64_t i, auto lanes) {
        const vf slope = activation_slope<A>(load(y + row * n + i, lanes), alpha);
        store(out + left + i, load(dy + row * n + i, lanes) * slope, lanes);
      });
      clear(out + left + n, width - left - n);
    }
    clear(to + total, kLanes);  // which may be read
    return dz;
  }
  for (int64_t i = 0; i < total; i += kLanes) store(to + i, vf{});  // there is room for a vector past the end
  // Every pooled row whose window meets [low, high).
  const int64_t first = clamp(ceil_div(low - pool.h.kernel + 1, pool.h.stride), 0, pool.h.out);
  const int64_t end = high > 0 ? clamp((high - 1) / pool.h.stride + 1, 0, pool.h.out) : 0;
  for (int64_t row = first; row < end; ++row)
    for (int64_t column = 0; column < pool.w.out; ++column) {
      const int64_t at = (row * pool.w.out + column) * channels;
      float* corner = dz.origin + row * pool.h.stride * dz.row + column * pool.w.stride * channels;
      for_vectors(0, channels, [&](int64_t ch, auto lanes) {
        const vi winner = load_bytes(byte + at + ch, lanes);
        vf g = load(dy + at + ch, lanes);
        if (A != Activation::relu && A != Activation::linear)
          g *= activation_slope<A>(load(y + at + ch, lanes), alpha);
        for (int64_t a = 0; a < pool.h.kernel; ++a) {
          const int64_t line = row * pool.h.stride + a;
          if (line < low || line >= high) continue;
          for (int64_t b = 0; b < pool.w.kernel; ++b) {
            const vi won = winner == broadcast(static_cast<int32_t>(a * pool.w.kernel + b));
            store(corner + a * dz.row + b * channels + ch, select(won, g, vf{}), lanes, !pool.disjoint);
          }
        }
      });
    }
  return dz;
}

}  // namespace WDFAST_NS
