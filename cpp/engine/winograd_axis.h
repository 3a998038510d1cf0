// Winograd's transforms along one axis (winograd.h), of the points that round least.
#pragma once

#include "wdfast/simd.h"

namespace WDFAST_NS {

// The transforms of an axis on which a tile has so many pixels of Y: cells t = Bᵀ x and A y (`spread`),
// y = Aᵀ t, and t = G g, g = Gᵀ t for the three taps of a filter.
template <int kPixels>
struct TileAxis;

template <>
struct TileAxis<2> {  // of the points 0, ±1, ∞
  static constexpr int kPixels = 2, kCells = 4;
  static WDFAST_INLINE void input(const vf (&x)[4], vf (&t)[4]) {
    t[0] = x[0] - x[2], t[1] = x[1] + x[2], t[2] = x[2] - x[1], t[3] = x[1] - x[3];
  }
  static WDFAST_INLINE void output(const vf (&t)[4], vf (&y)[2]) {
    y[0] = t[0] + t[1] + t[2], y[1] = t[1] - t[2] - t[3];
  }
  static WDFAST_INLINE void spread(const vf (&y)[2], vf (&t)[4]) {
    t[0] = y[0], t[1] = y[0] + y[1], t[2] = y[0] - y[1], t[3] = -y[1];
  }
  static WDFAST_INLINE void filter(const vf (&g)[3], vf (&t)[4]) {
    t[0] = g[0], t[1] = 0.5f * (g[0] + g[1] + g[2]), t[2] = 0.5f * (g[0] - g[1] + g[2]), t[3] = g[2];
  }
  static WDFAST_INLINE void filter_gradient(const vf (&t)[4], vf (&g)[3]) {
    const vf half_sum = 0.5f * (t[1] + t[2]);
    g[0] = t[0] + half_sum, g[1] = 0.5f * (t[1] - t[2]), g[2] = half_sum + t[3];
  }
};

// Of the points 0, ±a, ±b, ∞. These round least: with the usual 0, ±1, ±2, ∞ the error is 1.5 times as large
// (on the choice: arXiv 1803.10986). A row of Bᵀ is Π (x − other points); G has the divisors.
template <>
struct TileAxis<4> {
  static constexpr int kPixels = 4, kCells = 6;
  static constexpr float a = 0.75f, b = 1.5f, aa = a * a, bb = b * b;
  static constexpr float g0 = 1 / (aa * bb), ga = 1 / (2 * aa * (aa - bb)), gb = 1 / (2 * bb * (bb - aa));
  static WDFAST_INLINE void input(const vf (&x)[6], vf (&t)[6]) {
    const vf even_a = x[4] - bb * x[2], odd_a = x[3] - bb * x[1];
    const vf even_b = x[4] - aa * x[2], odd_b = x[3] - aa * x[1];
    t[0] = aa * bb * x[0] + (x[4] - (aa + bb) * x[2]);
    t[1] = even_a + a * odd_a, t[2] = even_a - a * odd_a;
    t[3] = even_b + b * odd_b, t[4] = even_b - b * odd_b;
    t[5] = aa * bb * x[1] + (x[5] - (aa + bb) * x[3]);
  }
  static WDFAST_INLINE void output(const vf (&t)[6], vf (&y)[4]) {
    const vf even_a = t[1] + t[2], odd_a = t[1] - t[2], even_b = t[3] + t[4], odd_b = t[3] - t[4];
    y[0] = t[0] + even_a + even_b;
    y[1] = a * odd_a + b * odd_b;
    y[2] = aa * even_a + bb * even_b;
    y[3] = a * aa * odd_a + (b * bb * odd_b + t[5]);
  }
  static WDFAST_INLINE void spread(const vf (&y)[4], vf (&t)[6]) {
    const vf even_a = y[0] + aa * y[2], odd_a = y[1] + aa * y[3];
    const vf even_b = y[0] + bb * y[2], odd_b = y[1] + bb * y[3];
    t[0] = y[0];
    t[1] = even_a + a * odd_a, t[2] = even_a - a * odd_a;
    t[3] = even_b + b * odd_b, t[4] = even_b - b * odd_b;
    t[5] = y[3];
  }
  static WDFAST_INLINE void filter(const vf (&g)[3], vf (&t)[6]) {
    const vf even_a = ga * (g[0] + aa * g[2]), odd_a = ga * a * g[1];
    const vf even_b = gb * (g[0] + bb * g[2]), odd_b = gb * b * g[1];
    t[0] = g0 * g[0];
    t[1] = even_a + odd_a, t[2] = even_a - odd_a;
    t[3] = even_b + odd_b, t[4] = even_b - odd_b;
    t[5] = g[2];
  }
  static WDFAST_INLINE void filter_gradient(const vf (&t)[6], vf (&g)[3]) {
    const vf even_a = ga * (t[1] + t[2]), odd_a = ga * a * (t[1] - t[2]);
    const vf even_b = gb * (t[3] + t[4]), odd_b = gb * b * (t[3] - t[4]);
    g[0] = g0 * t[0] + even_a + even_b;
    g[1] = odd_a + odd_b;
    g[2] = aa * even_a + (bb * even_b + t[5]);
  }
};

}  // namespace WDFAST_NS
