// Depthwise windows: one channel in, one out. Lanes are channels, and there is no inner sum but the taps, so
// that what counts is to read each cell once: images are read where they lie, and what does not exist of them
// is left out.
#pragma once

#include "window.h"

namespace WDFAST_NS {

struct DepthwiseTap {
  int64_t y, x;    // cells from the one that tap (0, 0) reads
  int64_t weight;  // where its weights lie
};

struct DepthwiseLine {
  Image x;
  int64_t row, column, step;  // of X: where tap (0, 0) of the first pixel lies, and columns to the next pixel
  const DepthwiseTap* taps;   // by the address they read
  int64_t n;
  const float *weights, *bias;
  float* y;
  int64_t y_stride, channels;
  bool relu, add;
};

// Lines, `row_step` rows of X and `y_row` floats of Y apart.
void depthwise_lines(const DepthwiseLine& first, int64_t row_step, int64_t y_row, int64_t lines,
                     int64_t pixels);
// dw += over rows [first, end) of Y.
void depthwise_weights(const Window& w, Image x, Image y, int64_t first, int64_t end, float* dw);

}  // namespace WDFAST_NS
