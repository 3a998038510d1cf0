#include "window.h"

#include "depthwise.h"
#include "wdfast/check.h"
#include "wdfast/lanes.h"
#include "wdfast/parallel.h"

namespace WDFAST_NS {
namespace {

int64_t mod(int64_t a, int64_t n) { return (a % n + n) % n; }

struct Tap {
  int64_t y, x;  // in cells of the image that is read
  int64_t ky, kx;
};

// The taps that meet phase (ry, rx) of the adjoint, by the address they read: from the last tap to the first.
int64_t adjoint_taps(const Window& w, int64_t ry, int64_t rx, Tap* taps) {
  int64_t n = 0;
  for (int64_t ky = w.h.kernel - 1; ky >= 0; --ky) {
    if (ky * w.h.dilation % w.h.stride != ry) continue;
    for (int64_t kx = w.w.kernel - 1; kx >= 0; --kx)
      if (kx * w.w.dilation % w.w.stride == rx)
        taps[n++] = {-(ky * w.h.dilation / w.h.stride), -(kx * w.w.dilation / w.w.stride), ky, kx};
  }
  return n;
}

int64_t gather_taps(const Window& w, Tap* taps) {
  int64_t n = 0;
  for (int64_t ky = 0; ky < w.h.kernel; ++ky)
    for (int64_t kx = 0; kx < w.w.kernel; ++kx) taps[n++] = {ky * w.h.dilation, kx * w.w.dilation, ky, kx};
  return n;
}

// Taps to runs: neighbours whose channels follow one another in memory are one run.
int64_t runs_of(const Tap* taps, int64_t n, Image image, int64_t channels, Run* runs) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t offset = taps[i].y * image.row + taps[i].x * image.pixel;
    if (count && runs[count - 1].offset + runs[count - 1].length == offset)
      runs[count - 1].length += channels;
    else
      runs[count++] = {offset, channels};
  }
  return count;
}

// Lanes of one tap's channels.
int64_t gather_lanes(const Window& w) { return lane_count(w.cxg(), w.pairs); }
int64_t adjoint_lanes(const Window& w) { return lane_count(w.cyg(), w.pairs); }

constexpr int64_t kStays = 1 << 15;  // floats of packed weights that stay in an L2 while rows go by

struct Rows {  // of pixels: what `multiply` takes, and from one row to the next
  const float* a;
  int64_t a_row, a_stride, a_group;
  float* c;
  int64_t c_row, c_stride, c_group;
  int64_t rows, pixels;
};

// All groups and panels of some rows, one row after the other; of many weights each panel for all rows.
void multiply_rows(const Window& w, const Rows& r, const Run* runs, int64_t n_runs, int64_t depth,
                   const float* packed, const float* bias, bool relu, bool add) {
  const int64_t together = depth * r.c_group <= kStays ? 1 : r.rows;
  for (int64_t begin = 0; begin < r.rows; begin += together)
    for (int64_t g = 0; g < w.groups; ++g)
      for (int64_t first = 0; first < r.c_group; first += kPanel) {
        const int64_t columns = r.c_group - first < kPanel ? r.c_group - first : kPanel;
        float padded[kPanel];
        const float* start = bias ? bias + g * r.c_group + first : nullptr;
        if (start && columns % kLanes) pack_rows(padded, start, 0, 1, columns), start = padded;
        for (int64_t row = begin; row < begin + together; ++row)
          multiply({.a = r.a + row * r.a_row + g * r.a_group,
                    .a_stride = r.a_stride,
                    .runs = runs,
                    .n_runs = n_runs,
                    .b = packed + g * depth * padded_columns(r.c_group) + first * depth,
                    .b_stride = padded_columns(columns),
                    .c = r.c + row * r.c_row + g * r.c_group + first,
                    .c_stride = r.c_stride,
                    .bias = start,
                    .columns = columns,
                    .add = add,
                    .relu = relu,
                    .pairs = w.pairs,
                    .ask = !add && r.c_stride > columns},  // whole rows of memory are foreseen
                   r.pixels);
      }
}

// The taps as a depthwise line takes them.
void depthwise_taps(const Window& w, const Tap* taps, int64_t n, DepthwiseTap* to) {
  for (int64_t i = 0; i < n; ++i)
    to[i] = {taps[i].y, taps[i].x, (taps[i].ky * w.w.kernel + taps[i].kx) * w.cx};
}

}  // namespace

// ---- packing --------------------------------------------------------------------------------------------

int64_t packed_gather_floats(const Window& w) {
  return w.depthwise() ? w.weight_size()
                       : w.h.kernel * w.w.kernel * gather_lanes(w) * padded_columns(w.cyg()) * w.groups;
}

int64_t packed_adjoint_floats(const Window& w) {
  return w.depthwise() ? w.weight_size()
                       : w.h.kernel * w.w.kernel * adjoint_lanes(w) * padded_columns(w.cxg()) * w.groups;
}

void pack_gather(const Window& w, const float* weights, float* packed) {
  const int64_t taps = w.h.kernel * w.w.kernel, depth = taps * gather_lanes(w);
  if (w.depthwise()) {
    for (int64_t i = 0; i < w.weight_size(); ++i) packed[i] = weights[i];
    return;
  }
  const int64_t panels = panel_count(w.cyg());
  parallel_blocks(w.groups * panels, kStreamGrain / (depth * kPanel + 1) + 1,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) {
                      const int64_t g = i / panels, first = i % panels * kPanel,
                                    columns = panel_columns(w.cyg(), i % panels);
                      float* to = packed + g * depth * padded_columns(w.cyg()) + first * depth;
                      for (int64_t t = 0; t < taps; ++t, to += gather_lanes(w) * padded_columns(columns))
                        pack_rows(to, weights + t * w.cxg() * w.cy + g * w.cyg() + first, w.cy, w.cxg(),
                                  columns, w.pairs);
                    }
                  });
}

// Phase after phase; in each: group, panel, taps, cy / groups rows of `panel` columns of cx.
void pack_adjoint(const Window& w, const float* weights, float* packed) {
  if (w.depthwise()) return pack_gather(w, weights, packed);
  const int64_t width = padded_columns(w.cxg()), panels = panel_count(w.cxg());
  int64_t done = 0;
  for (int64_t ry = 0; ry < w.h.stride; ++ry)
    for (int64_t rx = 0; rx < w.w.stride; ++rx) {
      Tap taps[kMaxTaps];
      const int64_t n = adjoint_taps(w, ry, rx, taps), depth = n * adjoint_lanes(w);
      if (n == 0) continue;
      float* phase = packed + done;
      parallel_blocks(
          w.groups * panels, kStreamGrain / (depth * kPanel + 1) + 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              const int64_t g = i / panels, first = i % panels * kPanel,
                            columns = panel_columns(w.cxg(), i % panels);
              float* to = phase + g * depth * width + first * depth;
              for (int64_t t = 0; t < n; ++t, to += adjoint_lanes(w) * padded_columns(columns))
                pack_transposed(
                    to,
                    weights + ((taps[t].ky * w.w.kernel + taps[t].kx) * w.cxg() + first) * w.cy + g * w.cyg(),
                    w.cy, w.cyg(), columns, w.pairs);
            }
          });
      done += depth * width * w.groups;
    }
}

// ---- the three sums ---------------------------------------------------------------------------------------

void gather(const Window& w, Image x, const float* packed, const float* bias, bool relu, bool add, Image y,
            int64_t first, int64_t end) {
  Tap taps[kMaxTaps];
  Run runs[kMaxTaps];
  const int64_t n = gather_taps(w, taps), depth = n * gather_lanes(w);
  if (w.depthwise()) {
    DepthwiseTap reaches[kMaxTaps];
    depthwise_taps(w, taps, n, reaches);
    depthwise_lines({x, first * w.h.stride - w.h.before, -w.w.before, w.w.stride, reaches, n, packed, bias,
                     y.origin + first * y.row, y.pixel, w.cx, relu, add},
                    w.h.stride, y.row, end - first, w.w.out);
    return;
  }
  const int64_t n_runs = runs_of(taps, n, x, gather_lanes(w), runs);
  multiply_rows(w,
                {.a = x.origin + (first * w.h.stride - w.h.before) * x.row - w.w.before * x.pixel,
                 .a_row = w.h.stride * x.row,
                 .a_stride = w.w.stride * x.pixel,
                 .a_group = w.cxg(),
                 .c = y.origin + first * y.row,
                 .c_row = y.row,
                 .c_stride = y.pixel,
                 .c_group = w.cyg(),
                 .rows = end - first,
                 .pixels = w.w.out},
                runs, n_runs, depth, packed, bias, relu, add);
}

void adjoint(const Window& w, Image y, const float* packed, const float* bias, bool relu, bool add, Image x,
             int64_t first, int64_t end) {
  const int64_t width = padded_columns(w.cxg());
  for (int64_t ry = 0; ry < w.h.stride; ++ry)
    for (int64_t rx = 0; rx < w.w.stride; ++rx) {
      Tap taps[kMaxTaps];
      Run runs[kMaxTaps];
      DepthwiseTap reaches[kMaxTaps];
      const int64_t n = adjoint_taps(w, ry, rx, taps), depth = n * adjoint_lanes(w);
      const int64_t n_runs = w.depthwise() ? 0 : runs_of(taps, n, y, adjoint_lanes(w), runs);
      if (w.depthwise()) depthwise_taps(w, taps, n, reaches);
      const int64_t column = mod(rx - w.w.before, w.w.stride);  // the first one of this phase
      const int64_t pixels = column < w.w.in ? (w.w.in - column + w.w.stride - 1) / w.w.stride : 0;
      const int64_t from = first + mod(ry - w.h.before - first, w.h.stride);
      const int64_t at = (column + w.w.before - rx) / w.w.stride;
      if (w.depthwise()) {
        if (from < end && pixels)
          depthwise_lines({y, (from + w.h.before - ry) / w.h.stride, at, 1, reaches, n, packed, bias,
                           x.origin + from * x.row + column * x.pixel, w.w.stride * x.pixel, w.cx, relu, add},
                          1, w.h.stride * x.row, ceil_div(end - from, w.h.stride), pixels);
        continue;
      }
      if (from < end && pixels)
        multiply_rows(w,
                      {.a = y.origin + (from + w.h.before - ry) / w.h.stride * y.row + at * y.pixel,
                       .a_row = y.row,
                       .a_stride = y.pixel,
                       .a_group = w.cyg(),
                       .c = x.origin + from * x.row + column * x.pixel,
                       .c_row = w.h.stride * x.row,
                       .c_stride = w.w.stride * x.pixel,
                       .c_group = w.cxg(),
                       .rows = ceil_div(end - from, w.h.stride),
                       .pixels = pixels},
                      runs, n_runs, depth, packed, bias, relu, add);
      packed += depth * width * w.groups;
    }
}

int64_t weights_scratch_floats(const Window& w) { return w.depthwise() ? 0 : kOuterScratch; }

void weights(const Window& w, Image x, Image y, int64_t first, int64_t end, float* dw, float* scratch) {
  if (first >= end) return;
  if (w.depthwise()) return depthwise_weights(w, x, y, first, end, dw);
  // Taps of one kernel row read one run of X where nothing lies between them.
  const bool merged = w.w.dilation == 1 && w.groups == 1 && x.pixel == w.cx;
  const int64_t steps = merged ? 1 : w.w.kernel, k = merged ? w.w.kernel * w.cxg() : w.cxg();
  for (int64_t g = 0; g < w.groups; ++g)
    for (int64_t ky = 0; ky < w.h.kernel; ++ky)
      for (int64_t kx = 0; kx < steps; ++kx)
        outer_long({.a = x.origin + (first * w.h.stride - w.h.before + ky * w.h.dilation) * x.row +
                         (kx * w.w.dilation - w.w.before) * x.pixel + g * w.cxg(),
                    .a_stride = (w.pairs ? 2 : 1) * w.w.stride * x.pixel,
                    .a_row_stride = w.h.stride * x.row,
                    .b = y.origin + first * y.row + g * w.cyg(),
                    .b_stride = y.pixel,
                    .b_row_stride = y.row,
                    .pixels = lane_count(w.w.out, w.pairs),
                    .rows = end - first,
                    .c = dw + (ky * w.w.kernel + kx) * w.cxg() * w.cy + g * w.cyg(),
                    .c_stride = w.cy,
                    .k = k,
                    .columns = w.cyg(),
                    .add = true,
                    .pairs = w.pairs},
                   scratch);
}

Image copy_with_halo(float* to, const float* from, int64_t h, int64_t w, int64_t channels, Range rows,
                     Range columns) {
  const int64_t width = (columns.end - columns.first) * channels;
  const int64_t low = columns.first < 0 ? -columns.first : 0;
  const int64_t high = columns.end > w ? columns.end - w : 0;
  const int64_t left = low * channels, right = high * channels;
  for (int64_t y = rows.first; y < rows.end; ++y) {
    float* row = to + (y - rows.first) * width;
    if (y < 0 || y >= h || columns.first >= w || columns.end <= 0) {
      __builtin_memset(row, 0, static_cast<size_t>(width) * 4);
      continue;
    }
    const float* source = from + (y * w + (columns.first > 0 ? columns.first : 0)) * channels;
    __builtin_memset(row, 0, static_cast<size_t>(left) * 4);
    __builtin_memcpy(row + left, source, static_cast<size_t>(width - left - right) * 4);
    __builtin_memset(row + width - right, 0, static_cast<size_t>(right) * 4);
  }
  return {to - rows.first * width - columns.first * channels, width, channels};
}

Image round_image(float* to, Image image, int64_t channels, Range rows, Range columns) {
  const int64_t pixel = lane_count(channels, true), width = (columns.end - columns.first) * pixel;
  for (int64_t row = rows.first; row < rows.end; ++row)
    round_rows(to + (row - rows.first) * width, image.origin + row * image.row + columns.first * image.pixel,
               image.pixel, columns.end - columns.first, channels);
  return {to - rows.first * width - columns.first * pixel, width, pixel};
}

Image pair_pixels(float* to, Image image, int64_t channels, Range rows, Range columns, int64_t step,
                  int64_t apart) {
  const int64_t count = (columns.end - columns.first + step - 1) / step, width = count * channels;
  for (int64_t row = rows.first; row < rows.end; ++row)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t column = columns.first + i * step;
      const float* from = image.origin + row * image.row + column * image.pixel;
      float* out = to + (row - rows.first) * width + i * channels;
      const bool paired = column + apart < columns.end;
      for_vectors(0, channels, [&](int64_t c, auto lanes) {
        const vf second = paired ? load(from + apart * image.pixel + c, lanes) : vf{};
        store(out + c, make_pairs(load(from + c, lanes), second), lanes);
      });
    }
  return {to - rows.first * width - columns.first * channels, width, channels};
}

// ---- attributes -------------------------------------------------------------------------------------------

Window parse_window(const char* op, const Attrs* attrs, const Spec& x, const Spec& weights) {
  check_dtype(op, "x", x, DType::f32);
  check_rank(op, "x", x, 4);
  check_dtype(op, "w", weights, DType::f32);
  check_rank(op, "w", weights, 4);
  int64_t stride[2] = {1, 1}, dilation[2] = {1, 1}, pads[4] = {};
  host->attr_ints(attrs, "stride", stride, 2);
  host->attr_ints(attrs, "dilation", dilation, 2);
  WDFAST_CHECK(stride[0] > 0 && stride[1] > 0, "%s: argument 'stride': expected ints ≥ 1", op);
  WDFAST_CHECK(dilation[0] > 0 && dilation[1] > 0, "%s: argument 'dilation': expected ints ≥ 1", op);
  const char* padding = host->attr_string(attrs, "padding", "valid");
  const bool same = text_equal(padding, "same"), explicitly = text_equal(padding, "explicit");
  WDFAST_CHECK(same || explicitly || text_equal(padding, "valid"),
               "%s: argument 'padding': expected 'valid', 'same' or ((top, bottom), (left, right)), got '%s'",
               op, padding);
  WDFAST_CHECK(!explicitly || host->attr_ints(attrs, "pads", pads, 4) == 4,
               "%s: argument 'padding': expected four ints: top, bottom, left, right", op);
  Window w = {};
  w.groups = host->attr_int(attrs, "groups", 1);
  w.cx = x.dim[3];
  w.cy = weights.dim[3];
  w.pairs = takes_bfloat16(op, attrs) && w.groups == 1;
  WDFAST_CHECK(w.groups > 0 && w.cx % w.groups == 0 && w.cy % w.groups == 0,
               "%s: argument 'groups': expected a divisor of %lld input and %lld output channels, got %lld",
               op, static_cast<long long>(w.cx), static_cast<long long>(w.cy),
               static_cast<long long>(w.groups));
  check_dim(op, "w", weights, 2, w.cx / w.groups);
  Axis* axes[2] = {&w.h, &w.w};
  for (int i = 0; i < 2; ++i) {
    Axis& a = *axes[i];
    a = {.in = x.dim[1 + i],
         .out = 0,
         .kernel = weights.dim[i],
         .stride = stride[i],
         .dilation = dilation[i],
         .before = pads[2 * i]};
    WDFAST_CHECK(a.kernel > 0, "%s: argument 'w': expected a kernel of at least one cell", op);
    int64_t after = pads[2 * i + 1];
    const int64_t span = (a.kernel - 1) * a.dilation + 1;
    if (same && a.in > 0) {  // ⌈in / stride⌉ windows, the odd cell of padding at the end
      const int64_t total = (a.in - 1) / a.stride * a.stride + span - a.in;
      a.before = total > 0 ? total / 2 : 0;
      after = total > 0 ? total - a.before : 0;
    }
    WDFAST_CHECK(a.before >= 0 && after >= 0, "%s: argument 'padding': expected cells ≥ 0", op);
    WDFAST_CHECK(
        span <= a.in + a.before + after,
        "%s: argument 'w': expected a kernel no larger than the padded image, got %lld cells for %lld along "
        "axis %d",
        op, static_cast<long long>(span), static_cast<long long>(a.in + a.before + after), 1 + i);
    a.out = (a.in + a.before + after - span) / a.stride + 1;
  }
  WDFAST_CHECK(w.h.kernel * w.w.kernel <= kMaxTaps, "%s: argument 'w': expected at most %lld taps", op,
               static_cast<long long>(kMaxTaps));
  return w;
}

}  // namespace WDFAST_NS
