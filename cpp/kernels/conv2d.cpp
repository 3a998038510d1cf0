// conv2d: y = pool(f(x ∗ w + b)); x (N, H, W, C), w (kh, kw, C / groups, OC), b (OC,).
//
// Fused: bias, activation and max-pooling, and their backward. A task takes a block of rows of one image: it
// convolves them into this thread's cache, takes the maximum of each window there, then the activation (all
// fused ones are monotone, so the order does not matter), and stores the pooled value and one byte: which
// cell won, and whether ReLU killed it. The full-size convolution never reaches memory, nor does its
// gradient, which backward regenerates from those bytes, a band of rows at a time, for the gradients of w, b
// and x at once. Where the windows are sparse enough, it sums over their winners instead (engine/winners.h);
// where all cells count and the kernel is 3 × 3, it takes Winograd's products (engine/winograd.h). With
// bfloat16 products a task rounds what it reads in its cache; the winners' few products stay float32.
#include "../engine/chunks.h"
#include "../engine/pooling.h"
#include "../engine/winners.h"
#include "../engine/winograd.h"
#include "wdfast/activation.h"
#include "wdfast/lanes.h"
#include "wdfast/parallel.h"
#include "wdfast/precision.h"

namespace WDFAST_NS {
namespace {

// ---- contract -----------------------------------------------------------------------------------------

constexpr int64_t kBandFloats = 1 << 16;     // 256 KB of convolved rows: an eighth of a usual L2
constexpr int64_t kTaskFlops = 1 << 19;      // below this (about 4 µs) no thread is woken
constexpr int64_t kPartialFloats = 1 << 24;  // 64 MB of partial weight gradients at most
constexpr int64_t kLargeWeights = 1 << 19;   // floats that tasks wait for: then they are fewer
constexpr int64_t kWinnerCells = 3;          // convolved cells per window from which winners are worth it
constexpr int64_t kSliceBytes = 24 << 10;  // of X that one block of channels' lists point into: most of an L1
constexpr int64_t kPatchBytes = 16 << 10;  // of copied patches: half of an L1
constexpr int64_t kMaxPatch = 256;         // floats of a patch worth a copy
constexpr int64_t kWinogradPairs = 32;     // channels from which bfloat16 products gain on its float32 ones

struct Plan {
  Window window;
  ActivationSpec activation;
  int64_t n;
  Pooling pool;
  int64_t task_rows;  // forward: rows of y per task
  int64_t band_rows;  // backward: rows of x (of y where x wants no gradient)
  int64_t chunks;     // backward: chunks of (image, band) with a partial gradient each
  // Backward over winners: of a 3 × 3 kernel where channels fill vectors, else of copied patches if x, a
  // first layer's, wants no gradient.
  bool winners, patches;
  // Pixels of a Winograd tile across, 0 without: of the gathers; of the gradient of w with its partial sums.
  int64_t winograd, winograd_dw;
  bool batched;         // Winograd's tiles of many images at once, each way
  int64_t patch;        // floats of one, whole vectors
  int64_t winner_rows;  // rows of y in a band
};

bool padded(const Window& w) {
  return w.h.before || w.w.before || (w.h.out - 1) * w.h.stride + (w.h.kernel - 1) * w.h.dilation >= w.h.in ||
         (w.w.out - 1) * w.w.stride + (w.w.kernel - 1) * w.w.dilation >= w.w.in;
}

Range read_columns(const Window& w) { return gather_range(w.w, 0, w.w.out); }
int64_t cells_of(Range rows, Range columns) {
  return (rows.end - rows.first) * (columns.end - columns.first);
}

int64_t winograd_floats(const Window& w, int64_t across) { return winograd_cells(across) * w.cx * w.cy; }

int64_t partial_weights(const Plan& p) {
  return whole_lines(p.patches       ? p.patch * p.window.cy
                     : p.winograd_dw ? winograd_floats(p.window, p.winograd_dw)
                                     : p.window.weight_size());
}
int64_t packed_forward_floats(const Plan& p) {
  return p.winograd ? winograd_floats(p.window, p.winograd) : packed_gather_floats(p.window);
}
int64_t packed_backward_floats(const Plan& p) {
  return whole_lines(p.winograd ? winograd_floats(p.window, p.winograd) : packed_adjoint_floats(p.window));
}
int64_t partial_stride(const Plan& p) { return partial_weights(p) + whole_lines(p.window.cy); }

WinogradRows gathered_rows(const Window& w, int64_t across, Range y) {
  return {y.first, y.end,  w.w.out, w.h.before,  w.w.before, w.cx,
          w.cy,    across, w.pairs, {0, w.h.in}, {0, w.w.in}};
}
// The gradient of X as a gather from rows and columns of dz.
WinogradRows adjoint_rows(const Plan& p, Range x, Range rows, Range columns) {
  const Window& w = p.window;
  return {x.first, x.end,      w.w.in,  2 - w.h.before, 2 - w.w.before, w.cy,
          w.cx,    p.winograd, w.pairs, rows,           columns};
}
WinogradBatch forward_batch(const Plan& p) {
  const Window& w = p.window;
  return {gathered_rows(w, p.winograd, {0, w.h.out}), p.n, w.h.in * w.w.in * w.cx, w.h.out * w.w.out * w.cy};
}
int64_t z_size(const Plan& p) { return p.n * p.window.h.out * p.window.w.out * p.window.cy; }
int64_t masked_floats(const Plan& p) {
  return p.activation.kind == Activation::linear ? 0 : whole_lines(z_size(p));
}
int64_t bias_partials(const Plan& p) { return kMaxChunks * whole_lines(p.window.cy); }

void plan_winners(Plan& p) {
  const Window& w = p.window;
  const int64_t windows = p.pool.h.out * p.pool.w.out, depth = w.h.kernel * w.w.kernel * w.cx;
  const bool sparse =
      p.pool.given && w.groups == 1 && w.h.out * w.w.out >= kWinnerCells * windows && w.cx > 0;
  p.patch = padded_columns(depth);
  p.winners = sparse && w.cx % kLanes == 0 && w.h.kernel == 3 && w.w.kernel == 3;
  p.patches = sparse && !p.winners && p.patch <= kMaxPatch;
  if (p.winners)
    p.winner_rows = (kSliceBytes / (64 * w.w.in) - 2 * w.h.dilation) / (p.pool.h.stride * w.h.stride);
  else if (p.patches)
    p.winner_rows = kPatchBytes / (4 * p.patch * p.pool.w.out * p.pool.h.kernel * p.pool.w.kernel);
  p.winner_rows = clamp(p.winner_rows, 1, p.pool.h.out > 0 ? p.pool.h.out : 1);
}

void parse_pool(Infer& io, Plan& p) {
  int64_t pool[2], stride[2];
  p.pool.given = host->attr_ints(io.attrs, "pool", pool, 2) == 2;
  if (!p.pool.given) return;
  if (host->attr_ints(io.attrs, "pool_stride", stride, 2) != 2) stride[0] = pool[0], stride[1] = pool[1];
  WDFAST_CHECK(pool[0] > 0 && pool[1] > 0 && stride[0] > 0 && stride[1] > 0,
               "conv2d: argument 'pool': expected ints ≥ 1");
  WDFAST_CHECK(pool[0] * pool[1] <= kMaxPoolCells,
               "conv2d: argument 'pool': a fused window has at most %lld cells",
               static_cast<long long>(kMaxPoolCells));
  const int64_t size[2] = {p.window.h.out, p.window.w.out};
  Axis* axes[2] = {&p.pool.h, &p.pool.w};
  for (int i = 0; i < 2; ++i) {
    WDFAST_CHECK(pool[i] <= size[i],
                 "conv2d: argument 'pool': expected a window no larger than the convolved image, got %lld "
                 "cells for %lld",
                 static_cast<long long>(pool[i]), static_cast<long long>(size[i]));
    const int64_t out = (size[i] - pool[i]) / stride[i] + 1;
    *axes[i] = {(out - 1) * stride[i] + pool[i], out, pool[i], stride[i], 1, 0};
  }
  p.window.h.out = p.pool.h.in, p.window.w.out = p.pool.w.in;  // what no window reads is not convolved
  p.pool.disjoint = stride[0] >= pool[0] && stride[1] >= pool[1];
}

void infer(Infer& io) {
  Plan& p = io.plan_as<Plan>();
  p.window = parse_window("conv2d", io.attrs, io.in[0], io.in[1]);
  const Window& w = p.window;
  if (io.n_in > 2 && io.in[2].given()) {
    check_dtype("conv2d", "b", io.in[2], DType::f32);
    check_rank("conv2d", "b", io.in[2], 1);
    check_dim("conv2d", "b", io.in[2], 0, w.cy);
  }
  p.activation = parse_activation("conv2d", io.attrs);
  WDFAST_CHECK(!needs_preactivation(p.activation.kind),
               "conv2d: argument 'activation': gelu is an op of its own");
  p.n = io.in[0].dim[0];
  io.flops = 2.0 * static_cast<double>(p.n * w.h.out * w.w.out * w.cy) *
             static_cast<double>(w.h.kernel * w.w.kernel * w.cxg());
  io.backward_flops = 2 * io.flops;
  parse_pool(io, p);
  const int64_t rows = p.pool.given ? p.pool.h.out : w.h.out, columns = p.pool.given ? p.pool.w.out : w.w.out;
  io.out[0] = {.rank = 4, .dtype = DType::f32, .dim = {p.n, rows, columns, w.cy}};

  // Rows per task: what fits in cache; fewer for a small batch, so that 16 threads find work, if the weights
  // that each of them reads are not many.
  const int64_t row_floats = w.w.out * w.cy > 0 ? w.w.out * w.cy : 1;
  const int64_t parts = w.weight_size() < kLargeWeights ? kMaxChunks : kMaxChunks / 4;
  const int64_t per_image = ceil_div(parts, clamp(p.n, 1, parts));
  const int64_t fits = clamp(kBandFloats / row_floats, 1, w.h.out);
  const int64_t conv_rows = clamp(ceil_div(w.h.out, per_image), 1, fits);
  p.task_rows = p.pool.given ? clamp(conv_rows / p.pool.h.stride, 1, rows) : conv_rows;
  p.band_rows = clamp(ceil_div(w.h.in, per_image), 1, clamp(fits * w.h.stride, 1, w.h.in > 0 ? w.h.in : 1));
  plan_winners(p);
  if (winograd_tile(w) && (w.cx < kWinogradPairs || w.cy < kWinogradPairs)) p.window.pairs = false;
  p.winograd = winograd_tile(w);
  p.winograd_dw = p.winners ? 0 : p.winograd;
  p.batched = p.n > 0 && !p.pool.given && winograd_batched(w.cx, w.cy, p.winograd);
  while (!p.batched && p.winograd_dw && kMaxChunks * winograd_floats(w, p.winograd_dw) > kPartialFloats)
    p.winograd_dw -= 2;
  if (p.winograd && !p.pool.given) p.task_rows += p.task_rows & 1;  // tiles are two rows high
  if (p.winograd) p.band_rows += p.band_rows & 1;
  const int64_t bands = ceil_div(w.h.in, p.band_rows);
  p.chunks = clamp(p.n * bands, 1, clamp(kPartialFloats / partial_stride(p), 2, kMaxChunks));
  if (p.pool.given) io.saved_bytes = io.out[0].size();
  io.forward_scratch_bytes = whole_lines(packed_forward_floats(p)) * 4;
  io.backward_scratch_bytes = (packed_backward_floats(p) + p.chunks * partial_stride(p)) * 4;
  if (!p.batched) return;
  const int64_t batch = whole_lines(winograd_batch_floats(forward_batch(p)) + w.cx + w.cy);
  io.forward_scratch_bytes += batch * 4;
  io.backward_scratch_bytes = (packed_backward_floats(p) + batch + masked_floats(p) + bias_partials(p)) * 4;
}

// ---- forward ------------------------------------------------------------------------------------------

Image image_of(const Window& w, float* x) { return {x, w.w.in * w.cx, w.cx, {0, w.h.in}, {0, w.w.in}}; }
Image z_of(const Window& w, float* z) { return {z, w.w.out * w.cy, w.cy, {0, w.h.out}, {0, w.w.out}}; }

// An image whose needed cells all exist: x itself, or a copy of some rows with zeros around it.
Image readable(const Plan& p, float* x, Range rows, float* to) {
  const Window& w = p.window;
  if (!padded(w) || w.depthwise()) return image_of(w, x);
  return copy_with_halo(to, x, w.h.in, w.w.in, w.cx, rows, read_columns(w));
}
int64_t readable_floats(const Plan& p, Range rows) {
  return padded(p.window) && !p.window.depthwise()
             ? whole_lines(cells_of(rows, read_columns(p.window)) * p.window.cx)
             : 0;
}

// Rows [first, end) of z = x ∗ w + b.
void convolve(const Plan& p, Image x, const float* packed, const float* bias, bool relu, Image z,
              int64_t first, int64_t end, float* tiles) {
  const Window& w = p.window;
  if (p.winograd)
    winograd_gather(gathered_rows(w, p.winograd, {first, end}), x, packed, bias, relu, false, z, tiles);
  else
    gather(w, x, packed, bias, relu, false, z, first, end);
}

int64_t tile_floats(const Plan& p) {
  const auto of = [&](int64_t across) { return winograd_scratch_floats(across, p.window.cx, p.window.cy); };
  return of(p.winograd) > of(p.winograd_dw) ? of(p.winograd) : of(p.winograd_dw);
}

template <Activation A>
void forward_task(const Plan& p, const Call& call, int64_t image, int64_t first, int64_t end) {
  const Window& w = p.window;
  float* x = call.f32_in(0) + image * w.h.in * w.w.in * w.cx;
  const float *bias = call.f32_in(2), *packed = static_cast<float*>(call.scratch);
  const int64_t y_row = call.out_spec->dim[2] * w.cy, y_image = call.out_spec->dim[1] * y_row;
  float* y = call.f32_out() + image * y_image;
  const Range conv = p.pool.given ? gather_range(p.pool.h, first, end) : Range{first, end};
  const Range rows = gather_range(w.h, conv.first, conv.end);
  const bool rounds = w.pairs && !p.winograd;
  const int64_t x_floats = p.winograd ? 0 : readable_floats(p, rows);
  const int64_t half_floats =
      rounds ? whole_lines(cells_of(rows, read_columns(w)) * lane_count(w.cx, true)) : 0;
  const int64_t z_floats = p.pool.given ? (conv.end - conv.first) * w.w.out * w.cy : 0;
  const int64_t winograd = tile_floats(p);
  float* tiles = static_cast<float*>(
      host->thread_scratch(static_cast<size_t>(winograd + half_floats + x_floats + z_floats + kLanes) * 4));
  float *rounded = tiles + winograd, *scratch = rounded + half_floats;
  Image source = p.winograd ? image_of(w, x) : readable(p, x, rows, scratch);
  if (rounds) source = round_image(rounded, source, w.cx, rows, read_columns(w));
  if (!p.pool.given) {
    convolve(p, source, packed, bias, A == Activation::relu, {y, y_row, w.cy}, first, end, tiles);
    if (A == Activation::linear || A == Activation::relu) return;
    for (int64_t i = first * y_row; i < end * y_row; i += kLanes) {
      const int64_t left = end * y_row - i < kLanes ? end * y_row - i : kLanes;
      store_partial(y + i, activate<A>(load_partial(y + i, left), p.activation.alpha), left);
    }
    return;
  }
  const Image z = {scratch + x_floats - conv.first * w.w.out * w.cy, w.w.out * w.cy, w.cy};
  convolve(p, source, packed, bias, false, z, conv.first, conv.end, tiles);
  uint8_t* bytes = static_cast<uint8_t*>(call.saved);
  for (int64_t row = first; row < end; ++row)
    pool_row<A>(p.pool, p.activation.alpha, w.cy, z, row, y + row * y_row,
                bytes ? bytes + image * y_image + row * y_row : nullptr);
}

void forward_batched(const Plan& p, const Call& call, float* packed) {
  const Window& w = p.window;
  float* y = call.f32_out();
  winograd_gather(forward_batch(p), image_of(w, call.f32_in(0)), packed, call.f32_in(2),
                  p.activation.kind == Activation::relu, false, {y, w.w.out * w.cy, w.cy},
                  packed + whole_lines(packed_forward_floats(p)));
  if (p.activation.kind == Activation::linear || p.activation.kind == Activation::relu) return;
  with_activation(p.activation.kind, [&](auto a) {
    parallel_blocks(z_size(p), kStreamGrain, [&](int64_t begin, int64_t end) {
      for_vectors(begin, end, [&](int64_t i, auto lanes) {
        store(y + i, activate<a.value>(load(y + i, lanes), p.activation.alpha), lanes);
      });
    });
  });
}

void forward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const int64_t rows = call.out_spec->dim[1], blocks = ceil_div(rows, p.task_rows);
  if (call.out_spec->size() == 0) return;
  float* packed = static_cast<float*>(call.scratch);
  if (p.winograd)
    winograd_filter(call.f32_in(1), p.window.cx, p.window.cy, p.winograd, packed, p.window.pairs);
  else
    pack_gather(p.window, call.f32_in(1), packed);
  if (p.batched) return forward_batched(p, call, packed);
  with_activation(p.activation.kind, [&](auto a) {
    const auto task = [&](int64_t i) {
      const int64_t first = i % blocks * p.task_rows, end = first + p.task_rows;
      forward_task<a.value>(p, call, i / blocks, first, end < rows ? end : rows);
    };
    const double flops =
        2.0 * static_cast<double>(p.n * p.window.h.out * p.window.w.out * p.window.weight_size());
    if (flops < kTaskFlops)
      for (int64_t i = 0; i < p.n * blocks; ++i) task(i);
    else
      parallel_for(p.n * blocks, task);
  });
}

// ---- backward -----------------------------------------------------------------------------------------

void add_bias_gradient(const Window& w, Image dz, Range rows, float* db) {
  for (int64_t ch = 0; ch < w.cy; ch += kLanes) {
    const int64_t left = w.cy - ch < kLanes ? w.cy - ch : kLanes;
    vf sum[4] = {};
    for (int64_t row = rows.first; row < rows.end; ++row)
      for (int64_t column = 0; column < w.w.out; ++column)
        sum[column & 3] += load_partial(dz.origin + row * dz.row + column * dz.pixel + ch, left);
    store_partial(db + ch, load_partial(db + ch, left) + ((sum[0] + sum[1]) + (sum[2] + sum[3])), left);
  }
}

// The rows of dz whose weight gradient a band of rows of x takes: each row of dz has one owner.
Range owned_rows(const Axis& h, Range band) {
  const int64_t first = band.first == 0 ? 0 : clamp(ceil_div(band.first + h.before, h.stride), 0, h.out);
  const int64_t end = band.end == h.in ? h.out : clamp(ceil_div(band.end + h.before, h.stride), 0, h.out);
  return {first, end};
}

template <Activation A>
void backward_band(const Plan& p, const Call& call, int64_t image, Range band, float* partial) {
  const Window& w = p.window;
  const int64_t x_at = image * w.h.in * w.w.in * w.cx,
                y_at = image * call.out_spec->dim[1] * call.out_spec->dim[2] * w.cy;
  const Range own = owned_rows(w.h, band);
  float *dx = call.f32_d_in(0), *dw = call.f32_d_in(1), *db = call.f32_d_in(2);
  Range rows = own, columns = {0, w.w.out};
  if (dx) {
    const Range need = adjoint_range(w.h, band.first, band.end), wide = adjoint_range(w.w, 0, w.w.in);
    rows = {need.first < own.first ? need.first : own.first, need.end > own.end ? need.end : own.end};
    columns = {wide.first < 0 ? wide.first : 0, wide.end > w.w.out ? wide.end : w.w.out};
  }
  if (own.first == own.end && !dx) return;
  const Range x_rows = gather_range(w.h, own.first, own.end);
  const int64_t x_floats = dw && !p.winograd_dw ? readable_floats(p, x_rows) : 0;
  // Winograd's transforms and depthwise windows take dy as it is, if nothing comes between.
  const bool as_it_is =
      A == Activation::linear && !p.pool.given && (w.depthwise() || (p.winograd && (p.winograd_dw || !dw)));
  if (as_it_is) rows = {0, w.h.out}, columns = {0, w.w.out};
  const int64_t z_floats = as_it_is ? 0 : whole_lines(cells_of(rows, columns) * w.cy + 2 * kLanes);
  const int64_t tiles_floats = tile_floats(p) + whole_lines(weights_scratch_floats(w));
  const int64_t x_pairs =
      w.pairs && !p.winograd_dw ? whole_lines(cells_of(x_rows, read_columns(w)) * w.cx) : 0;
  float* tiles = static_cast<float*>(
      host->thread_scratch(static_cast<size_t>(tiles_floats + x_floats + 2 * z_floats + x_pairs) * 4));
  float *scratch = tiles + tiles_floats, *factors = scratch + x_floats + z_floats;  // factors: of pairs
  const uint8_t* bytes = static_cast<const uint8_t*>(call.saved);
  float* dy = call.f32_d_out() + y_at;
  const Image dz =
      as_it_is ? z_of(w, dy)
               : expand_gradient<A>(w, p.pool, p.activation.alpha, dy, call.f32_out() + y_at,
                                    bytes ? bytes + y_at : nullptr, rows, columns, scratch + x_floats);
  if (dw && own.first < own.end) {
    float* x = call.f32_in(0) + x_at;
    const Image source = p.winograd_dw ? image_of(w, x) : readable(p, x, x_rows, scratch);
    if (p.winograd_dw)
      winograd_weights(gathered_rows(w, p.winograd_dw, own), source, dz, partial, tiles);
    else if (w.pairs)
      weights(w, pair_pixels(factors, source, w.cx, x_rows, read_columns(w), 1, w.w.stride),
              pair_pixels(factors + x_pairs, dz, w.cy, own, {0, w.w.out}, 2, 1), own.first, own.end, partial,
              tiles);
    else
      weights(w, source, dz, own.first, own.end, partial, tiles);
  }
  if (db) add_bias_gradient(w, dz, own, partial + partial_weights(p));
  if (!dx) return;
  const float* packed = static_cast<float*>(call.scratch);
  const Image target = image_of(w, dx + x_at);
  if (p.winograd)
    winograd_gather(adjoint_rows(p, band, rows, columns), dz, packed, nullptr, false, call.accumulate & 1,
                    target, tiles);
  else
    adjoint(w, w.pairs ? round_image(factors, dz, w.cy, rows, columns) : dz, packed, nullptr, false,
            call.accumulate & 1, target, band.first, band.end);
}

template <Activation A>
void backward_winners(const Plan& p, const Call& call, int64_t image, float* partial) {
  const Window& w = p.window;
  float *dx = call.f32_d_in(0), *dw = call.f32_d_in(1), *db = call.f32_d_in(2);
  float* x_image = call.f32_in(0) + image * w.h.in * w.w.in * w.cx;
  const int64_t y_row = p.pool.w.out * w.cy, y_image = image * p.pool.h.out * y_row;
  const int64_t cells = p.pool.h.kernel * p.pool.w.kernel, most = p.winner_rows * p.pool.w.out;
  const Range x_most = gather_range(w.h, 0, (p.winner_rows - 1) * p.pool.h.stride + p.pool.h.kernel);
  constexpr bool kSlope = A != Activation::relu && A != Activation::linear;

  // Scratch: rows of x with a halo, patches or lists of cells, lists of channels (of patches the live
  // values), counts, values.
  const int64_t x_floats = dw ? readable_floats(p, x_most) : 0;
  const int64_t cell_floats = p.patches ? most * cells * p.patch : dx ? 2 * most * cells * w.cy : 0;
  const int64_t list_floats = p.patches ? whole_lines(w.cy * most) : 2 * (w.cy + 8) * most,
                count_floats = most * cells + whole_lines(w.cy);
  float* scratch = static_cast<float*>(host->thread_scratch(
      static_cast<size_t>(x_floats + whole_lines(cell_floats) + list_floats + whole_lines(count_floats) +
                          (kSlope ? most * w.cy : 0) + 2 * kLanes) *
      4));
  float* cell_scratch = scratch + x_floats;
  Winner* lists = reinterpret_cast<Winner*>(cell_scratch + whole_lines(cell_floats));
  int32_t* counts = reinterpret_cast<int32_t*>(cell_scratch + whole_lines(cell_floats) + list_floats);
  float* values = cell_scratch + whole_lines(cell_floats) + list_floats + whole_lines(count_floats);
  const bool add = call.accumulate & 1;
  int64_t begun = 0;  // rows of dx that are zero or more

  for (int64_t first = 0; first < p.pool.h.out; first += p.winner_rows) {
    const int64_t end = first + p.winner_rows < p.pool.h.out ? first + p.winner_rows : p.pool.h.out;
    const Range conv = gather_range(p.pool.h, first, end), rows = gather_range(w.h, conv.first, conv.end);
    const int64_t y_at = y_image + first * y_row;
    const float* dy = call.f32_d_out() + y_at;
    if (kSlope) {
      const int64_t n = (end - first) * y_row;
      for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t left = n - i < kLanes ? n - i : kLanes;
        const vf slope =
            activation_slope<A>(load_partial(call.f32_out() + y_at + i, left), p.activation.alpha);
        store_partial(values + i, load_partial(dy + i, left) * slope, left);
      }
      dy = values;
    }
    const Image x = dw ? readable(p, x_image, rows, scratch) : image_of(w, x_image);
    const int64_t step_h = w.h.stride * x.row, step_w = w.w.stride * x.pixel;
    int32_t cell_step[kMaxPoolCells];
    for (int64_t cell = 0; cell < cells; ++cell)
      cell_step[cell] =
          static_cast<int32_t>(cell / p.pool.w.kernel * step_h + cell % p.pool.w.kernel * step_w);
    const Band band = {.value = dy,
                       .byte = static_cast<const uint8_t*>(call.saved) + y_at,
                       .rows = end - first,
                       .columns = p.pool.w.out,
                       .channels = w.cy,
                       .cells = cells,
                       .row_step = p.pool.h.stride * step_h,
                       .column_step = p.pool.w.stride * step_w,
                       .cell_step = cell_step};
    float* db_partial = db ? partial + partial_weights(p) : nullptr;
    if (p.patches) {
      if (dw) copy_patches(w, p.pool, x, first, end, p.patch, cell_scratch);
      add_patch_gradient(band, cell_scratch, p.patch, dw ? partial : nullptr, db_partial,
                         reinterpret_cast<float*>(lists));
      continue;
    }
    if (dw || db) list_by_channel(band, lists, counts, db_partial);
    const int64_t y = conv.first * w.h.stride - w.h.before;
    if (dw) {
      add_weight_gradient(lists, counts, w.cy, band.windows(), x.origin + y * x.row - w.w.before * x.pixel,
                          w.h.dilation * x.row, w.w.dilation * x.pixel, w.cx, partial);
    }
    if (!dx) continue;
    float* target = dx + image * w.h.in * w.w.in * w.cx;
    const int64_t reached = clamp(rows.end, begun, w.h.in);
    if (!add)
      __builtin_memset(target + begun * w.w.in * w.cx, 0,
                       static_cast<size_t>((reached - begun) * w.w.in * w.cx) * 4);
    begun = reached;
    Winner* by_cell = reinterpret_cast<Winner*>(cell_scratch);
    list_by_cell(band, by_cell, counts);
    add_data_gradient(by_cell, counts, band, static_cast<float*>(call.scratch), w.cx,
                      {.origin = target,
                       .row = w.w.in * w.cx,
                       .pixel = w.cx,
                       .height = w.h.in,
                       .width = w.w.in,
                       .y = y,
                       .x = -w.w.before,
                       .row_step = p.pool.h.stride * w.h.stride,
                       .column_step = p.pool.w.stride * w.w.stride,
                       .stride_h = w.h.stride,
                       .stride_w = w.w.stride,
                       .pool_w = p.pool.w.kernel,
                       .dilation_h = w.h.dilation,
                       .dilation_w = w.w.dilation});
  }
  if (dx && !add)
    __builtin_memset(dx + (image * w.h.in + begun) * w.w.in * w.cx, 0,
                     static_cast<size_t>((w.h.in - begun) * w.w.in * w.cx) * 4);
}

void backward_batched(const Plan& p, const Call& call) {
  const Window& w = p.window;
  float *dx = call.f32_d_in(0), *dw = call.f32_d_in(1), *db = call.f32_d_in(2);
  const WinogradBatch forward = forward_batch(p);
  float *u = static_cast<float*>(call.scratch), *masked = u + packed_backward_floats(p);
  float *partials = masked + masked_floats(p), *scratch = partials + bias_partials(p);
  float* dz = call.f32_d_out();
  with_activation(p.activation.kind, [&](auto a) {
    if (a.value == Activation::linear) return;
    const float *dy = dz, *y = call.f32_out();
    parallel_blocks(z_size(p), kStreamGrain, [&](int64_t begin, int64_t end) {
      for_vectors(begin, end, [&](int64_t i, auto lanes) {
        const vf slope = activation_slope<a.value>(load(y + i, lanes), p.activation.alpha);
        store(masked + i, load(dy + i, lanes) * slope, lanes);
      });
    });
    dz = masked;
  });
  const Image gradient = z_of(w, dz);
  if (dw) {
    winograd_weights(forward, image_of(w, call.f32_in(0)), gradient, u, scratch);
    winograd_filter_gradient(u, w.cx, w.cy, p.winograd, dw, call.accumulate >> 1 & 1);
  }
  if (dx) {
    winograd_filter_adjoint(call.f32_in(1), w.cx, w.cy, p.winograd, u, w.pairs);
    winograd_gather(WinogradBatch{adjoint_rows(p, {0, w.h.in}, {0, w.h.out}, {0, w.w.out}), p.n,
                                  forward.y_image, forward.x_image},
                    gradient, u, nullptr, false, call.accumulate & 1, image_of(w, dx), scratch);
  }
  if (!db) return;
  const int64_t chunks = clamp(p.n, 1, kMaxChunks), stride = whole_lines(w.cy);
  parallel_for(chunks, [&](int64_t chunk) {
    float* partial = partials + chunk * stride;
    __builtin_memset(partial, 0, static_cast<size_t>(stride) * 4);
    for (int64_t image = p.n * chunk / chunks; image < p.n * (chunk + 1) / chunks; ++image)
      add_bias_gradient(w, {dz + image * forward.y_image, gradient.row, gradient.pixel}, {0, w.h.out},
                        partial);
  });
  sum_chunks(db, partials, stride, w.cy, chunks, call.accumulate >> 2 & 1);
}

void backward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const Window& w = p.window;
  float *dx = call.f32_d_in(0), *dw = call.f32_d_in(1), *db = call.f32_d_in(2);
  const bool winners = p.winners || (p.patches && !dx);
  if (p.batched) return backward_batched(p, call);
  float* packed = static_cast<float*>(call.scratch);
  float* partials = packed + packed_backward_floats(p);
  const int64_t stride = partial_stride(p), bands = winners ? 1 : ceil_div(w.h.in, p.band_rows);
  const int64_t units = p.n * bands, chunks = winners ? clamp(p.n, 1, p.chunks) : p.chunks;
  if (dx && winners) pack_winner_weights(call.f32_in(1), w.cx, w.cy, packed);
  if (dx && !winners && p.winograd)
    winograd_filter_adjoint(call.f32_in(1), w.cx, w.cy, p.winograd, packed, w.pairs);
  if (dx && !winners && !p.winograd) pack_adjoint(w, call.f32_in(1), packed);
  const auto run_chunk = [&](auto a, int64_t chunk) {
    float* partial = partials + chunk * stride;
    if (dw || db) __builtin_memset(partial, 0, static_cast<size_t>(stride) * 4);
    for (int64_t unit = units * chunk / chunks; unit < units * (chunk + 1) / chunks; ++unit) {
      if (winners) {
        backward_winners<a.value>(p, call, unit, partial);
        continue;
      }
      const int64_t first = unit % bands * p.band_rows, end = first + p.band_rows;
      backward_band<a.value>(p, call, unit / bands, {first, end < w.h.in ? end : w.h.in}, partial);
    }
  };
  with_activation(p.activation.kind, [&](auto a) {
    const double cells =
        static_cast<double>(winners ? call.out_spec->size() : p.n * w.h.out * w.w.out * w.cy);
    if (4.0 * cells * static_cast<double>(w.h.kernel * w.w.kernel * w.cxg()) < kTaskFlops)
      for (int64_t chunk = 0; chunk < chunks; ++chunk) run_chunk(a, chunk);
    else
      parallel_for(chunks, [&](int64_t chunk) { run_chunk(a, chunk); });
  });
  if (dw) {
    const bool add = call.accumulate >> 1 & 1, direct = !winners && !p.winograd_dw;
    sum_chunks(direct ? dw : partials, partials, stride, direct ? w.weight_size() : partial_weights(p),
               chunks, add && direct);
    if (p.winners)
      unpack_winner_weights(partials, w.cx, w.cy, dw, add);
    else if (winners)
      unpack_patch_weights(partials, p.patch, w.h.kernel * w.w.kernel * w.cx, w.cy, dw, add);
    else if (p.winograd_dw)
      winograd_filter_gradient(partials, w.cx, w.cy, p.winograd_dw, dw, add);
  }
  if (db) sum_chunks(db, partials + partial_weights(p), stride, w.cy, chunks, call.accumulate >> 2 & 1);
}

// ---- registration -------------------------------------------------------------------------------------

WDFAST_OP(conv2d, {.name = "conv2d",
                   .plan_bytes = sizeof(Plan),
                   .min_inputs = 2,
                   .max_inputs = 3,
                   .infer = infer,
                   .forward = forward,
                   .backward = backward,
                   .backward_reads_in = 0b011,
                   .backward_reads_out = true,
                   .accumulates = 0b111,
                   .saves_for_backward = true});

}  // namespace
}  // namespace WDFAST_NS
