// Sliding windows: the three sums that convolution and transposed convolution, forward and backward, are.
//
//   gather    Y[o] = Σ_k X[o·s + k·d − pad] · W[k]        convolution; gradient of a transposed one
//   adjoint   X[i] = Σ_{o·s + k·d − pad = i} Y[o] · W[k]ᵀ  its gradient; transposed convolution
//   weights   dW[k] = Σ_o X[o·s + k·d − pad] ⊗ Y[o]
//
// W is (kh, kw, cx / groups, cy). Nothing is unrolled into columns (no im2col) and no zeros are stuffed
// between strides: a stride splits the adjoint into phases, each a dense sum over its own taps.
//
// With `pairs` the factors are bfloat16, two to a lane of 32 bits (tile.h): neighbouring channels for the
// first two sums, neighbouring pixels for the third. `round_image` and `pair_pixels` make such images.
#pragma once

#include "product.h"

namespace WDFAST_NS {

constexpr int64_t kMaxTaps = 1024;  // of one kernel: 32 × 32

struct Axis {
  int64_t in, out, kernel, stride, dilation, before;  // before: cells of padding at the low end
};

struct Window {
  Axis h, w;
  int64_t cx, cy, groups;
  bool pairs;  // only without groups
  WDFAST_INLINE int64_t cxg() const { return cx / groups; }
  WDFAST_INLINE int64_t cyg() const { return cy / groups; }
  WDFAST_INLINE int64_t weight_size() const { return h.kernel * w.kernel * cxg() * cy; }
  WDFAST_INLINE bool depthwise() const { return groups == cx && groups == cy && groups > 1; }
};

struct Range {
  int64_t first, end;
};
constexpr Range kEverywhere = {-(int64_t{1} << 40), int64_t{1} << 40};

// `origin` is where cell (0, 0) lies; cells outside the image may exist around it (zeros of a halo).
struct Image {
  float* origin;
  int64_t row;                                      // floats, or lanes, from one row to the next
  int64_t pixel;                                    // … from one pixel to the next
  Range rows = kEverywhere, columns = kEverywhere;  // that exist: depthwise windows take the others for zero
};

int64_t packed_gather_floats(const Window& w);
int64_t packed_adjoint_floats(const Window& w);
void pack_gather(const Window& w, const float* weights, float* packed);  // in parallel
void pack_adjoint(const Window& w, const float* weights, float* packed);

// Rows [first, end) of Y from X, whose needed cells all exist, but for depthwise windows. bias may be null
// (it is for whole pixels).
void gather(const Window& w, Image x, const float* packed, const float* bias, bool relu, bool add, Image y,
            int64_t first, int64_t end);
// Rows [first, end) of X from Y, with zeros where Y ends (see `adjoint_halo`).
void adjoint(const Window& w, Image y, const float* packed, const float* bias, bool relu, bool add, Image x,
             int64_t first, int64_t end);
// dw += over rows [first, end) of Y; up to kLanes − 1 floats past the end of Y are read.
void weights(const Window& w, Image x, Image y, int64_t first, int64_t end, float* dw, float* scratch);
int64_t weights_scratch_floats(const Window& w);

// What the sums take with `pairs`, of these cells: each pixel rounded, an odd number of channels filled up
// with zeros, for `gather` and `adjoint`; each `step`th pixel paired with the one `apart` from it, or with
// zeros where the columns end, for `weights`: X with (1, its stride), Y with (2, 1).
Image round_image(float* to, Image image, int64_t channels, Range rows, Range columns);
Image pair_pixels(float* to, Image image, int64_t channels, Range rows, Range columns, int64_t step,
                  int64_t apart);

// The rows (or columns) of Y that rows [first, end) of X draw from: they may lie outside of Y.
static WDFAST_INLINE Range adjoint_range(const Axis& a, int64_t first, int64_t end) {
  const int64_t reach = (a.kernel - 1) * a.dilation / a.stride;
  return {(first + a.before) / a.stride - reach, (end - 1 + a.before) / a.stride + 1};
}
// The rows of X that rows [first, end) of Y draw from.
static WDFAST_INLINE Range gather_range(const Axis& a, int64_t first, int64_t end) {
  return {first * a.stride - a.before, (end - 1) * a.stride + (a.kernel - 1) * a.dilation + 1 - a.before};
}

// Copies cells [rows) × [columns) of an image of h × w pixels, zeros outside; returns it with its origin.
Image copy_with_halo(float* to, const float* from, int64_t h, int64_t w, int64_t channels, Range rows,
                     Range columns);

// Attributes "stride", "padding"/"pads", "dilation", "groups"; x and weights are checked; y's size is set.
Window parse_window(const char* op, const Attrs* attrs, const Spec& x, const Spec& weights);

}  // namespace WDFAST_NS
