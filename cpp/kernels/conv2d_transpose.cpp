// conv2d_transpose: the adjoint of conv2d as a layer; x (N, h, w, C), w (kh, kw, OC, C), y (N, H, W, OC).
//
// Forward is conv2d's gradient of its input, and the other way round: the same sums (engine/window.h) with
// the images in swapped roles. A stride is split into phases; no zeros are stuffed between the cells of x.
#include "../engine/chunks.h"
#include "../engine/window.h"
#include "wdfast/activation.h"
#include "wdfast/parallel.h"

namespace WDFAST_NS {
namespace {

// ---- contract -----------------------------------------------------------------------------------------

struct Plan {
  Window window;  // of the convolution whose adjoint this is: its X is our y, its Y our x
  ActivationSpec activation;
  int64_t n, chunks;
};

int64_t partial_stride(const Plan& p) {
  return whole_lines(p.window.weight_size()) + whole_lines(p.window.cx);
}
constexpr int64_t kPartialFloats = 1 << 24;  // 64 MB of partial weight gradients at most

void infer(Infer& io) {
  Plan& p = io.plan_as<Plan>();
  const char* op = "conv2d_transpose";
  check_dtype(op, "x", io.in[0], DType::f32);
  check_rank(op, "x", io.in[0], 4);
  check_dtype(op, "w", io.in[1], DType::f32);
  check_rank(op, "w", io.in[1], 4);
  int64_t size[2];
  WDFAST_CHECK(host->attr_ints(io.attrs, "output_size", size, 2) == 2 && size[0] > 0 && size[1] > 0,
               "%s: argument 'output_size': expected two ints ≥ 1", op);
  const Spec &x = io.in[0], &w = io.in[1];
  check_dim(op, "x", x, 3, w.dim[3]);
  const int64_t channels = w.dim[2] * host->attr_int(io.attrs, "groups", 1);
  const Spec y = {.rank = 4, .dtype = DType::f32, .dim = {x.dim[0], size[0], size[1], channels}};
  p.window = parse_window(op, io.attrs, y, w);
  WDFAST_CHECK(p.window.h.out == x.dim[1] && p.window.w.out == x.dim[2],
               "%s: argument 'x': an output of (%lld, %lld) comes from (%lld, %lld), got (%lld, %lld)", op,
               static_cast<long long>(size[0]), static_cast<long long>(size[1]),
               static_cast<long long>(p.window.h.out), static_cast<long long>(p.window.w.out),
               static_cast<long long>(x.dim[1]), static_cast<long long>(x.dim[2]));
  if (io.n_in > 2 && io.in[2].given()) {
    check_dtype(op, "b", io.in[2], DType::f32);
    check_rank(op, "b", io.in[2], 1);
    check_dim(op, "b", io.in[2], 0, channels);
  }
  p.activation = parse_activation(op, io.attrs);
  WDFAST_CHECK(!needs_preactivation(p.activation.kind), "%s: argument 'activation': gelu is an op of its own",
               op);
  p.n = x.dim[0];
  const int64_t most = kPartialFloats / partial_stride(p) < 2 ? 2 : kPartialFloats / partial_stride(p);
  p.chunks = p.n < 1 ? 1 : p.n < kMaxChunks ? p.n : kMaxChunks;
  if (p.chunks > most) p.chunks = most;
  io.out[0] = y;
  io.flops =
      2.0 * static_cast<double>(p.n * x.dim[1] * x.dim[2]) * static_cast<double>(p.window.weight_size());
  io.backward_flops = 2 * io.flops;
  io.forward_scratch_bytes = packed_adjoint_floats(p.window) * 4;
  io.backward_scratch_bytes =
      (whole_lines(packed_gather_floats(p.window)) + p.chunks * partial_stride(p)) * 4;
}

// ---- kernels ------------------------------------------------------------------------------------------

Range wider(Range a, Range b) {
  return {a.first < b.first ? a.first : b.first, a.end > b.end ? a.end : b.end};
}

void forward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const Window& w = p.window;
  if (call.out_spec->size() == 0) return;
  float* packed = static_cast<float*>(call.scratch);
  pack_adjoint(w, call.f32_in(1), packed);
  const Range rows = wider(adjoint_range(w.h, 0, w.h.in), {0, w.h.out});
  const Range columns = wider(adjoint_range(w.w, 0, w.w.in), {0, w.w.out});
  const int64_t x_size = w.h.out * w.w.out * w.cy, y_size = w.h.in * w.w.in * w.cx;
  const int64_t scratch_floats = (rows.end - rows.first) * (columns.end - columns.first) * w.cy;
  const float alpha = p.activation.alpha;
  parallel_for(p.n, [&](int64_t image) {
    float* scratch = static_cast<float*>(host->thread_scratch(static_cast<size_t>(scratch_floats) * 4 + 64));
    const Image x =
        copy_with_halo(scratch, call.f32_in(0) + image * x_size, w.h.out, w.w.out, w.cy, rows, columns);
    float* y = call.f32_out() + image * y_size;
    const bool relu = p.activation.kind == Activation::relu;
    adjoint(w, x, packed, call.f32_in(2), relu, false, {y, w.w.in * w.cx, w.cx}, 0, w.h.in);
    if (relu || p.activation.kind == Activation::linear) return;
    with_activation(p.activation.kind, [&](auto a) {
      for (int64_t i = 0; i < y_size; i += kLanes) {
        const int64_t left = y_size - i < kLanes ? y_size - i : kLanes;
        store_partial(y + i, activate<a.value>(load_partial(y + i, left), alpha), left);
      }
    });
  });
}

// dz = dy · f′ for one image, with the halo that `gather` reads.
Image expand_gradient(const Plan& p, const float* dy, const float* y, Range rows, Range columns, float* to) {
  const Window& w = p.window;
  const Image dz = copy_with_halo(to, dy, w.h.in, w.w.in, w.cx, rows, columns);
  with_activation(p.activation.kind, [&](auto a) {
    if (a.value == Activation::linear) return;
    const int64_t n = w.w.in * w.cx;
    for (int64_t row = 0; row < w.h.in; ++row)
      for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t left = n - i < kLanes ? n - i : kLanes;
        const vf slope = activation_slope<a.value>(load_partial(y + row * n + i, left), p.activation.alpha);
        float* at = dz.origin + row * dz.row + i;
        store_partial(at, load_partial(at, left) * slope, left);
      }
  });
  return dz;
}

void backward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const Window& w = p.window;
  float *dx = call.f32_d_in(0), *dw = call.f32_d_in(1), *db = call.f32_d_in(2);
  float* packed = static_cast<float*>(call.scratch);
  float* partials = packed + whole_lines(packed_gather_floats(w));
  const int64_t stride = partial_stride(p), x_size = w.h.out * w.w.out * w.cy,
                y_size = w.h.in * w.w.in * w.cx;
  const Range rows = wider(gather_range(w.h, 0, w.h.out), {0, w.h.in});
  const Range columns = wider(gather_range(w.w, 0, w.w.out), {0, w.w.in});
  const int64_t z_floats =
      whole_lines((rows.end - rows.first) * (columns.end - columns.first) * w.cx) + kLanes;
  if (dx && x_size) pack_gather(w, call.f32_in(1), packed);
  parallel_for(p.chunks, [&](int64_t chunk) {
    float* partial = partials + chunk * stride;
    if (dw || db) __builtin_memset(partial, 0, static_cast<size_t>(stride) * 4);
    for (int64_t image = p.n * chunk / p.chunks; image < p.n * (chunk + 1) / p.chunks; ++image) {
      const int64_t x_floats = whole_lines(x_size + kLanes);
      float* scratch = static_cast<float*>(
          host->thread_scratch(static_cast<size_t>(z_floats + x_floats + weights_scratch_floats(w)) * 4));
      const Image dz = expand_gradient(p, call.f32_d_out() + image * y_size, call.f32_out() + image * y_size,
                                       rows, columns, scratch);
      if (dw) {  // a copy of x: the sum may read a vector past its end
        float* x = scratch + z_floats;
        __builtin_memcpy(x, call.f32_in(0) + image * x_size, static_cast<size_t>(x_size) * 4);
        weights(w, dz, {x, w.w.out * w.cy, w.cy}, 0, w.h.out, partial, x + x_floats);
      }
      if (dx)
        gather(w, dz, packed, nullptr, false, call.accumulate & 1,
               {dx + image * x_size, w.w.out * w.cy, w.cy}, 0, w.h.out);
      if (!db) continue;
      float* sum = partial + whole_lines(w.weight_size());
      for (int64_t row = 0; row < w.h.in; ++row)
        for (int64_t i = 0; i < w.w.in; ++i)
          for (int64_t ch = 0; ch < w.cx; ++ch) sum[ch] += dz.origin[row * dz.row + i * dz.pixel + ch];
    }
  });
  if (dw) sum_chunks(dw, partials, stride, w.weight_size(), p.chunks, call.accumulate >> 1 & 1);
  if (db)
    sum_chunks(db, partials + whole_lines(w.weight_size()), stride, w.cx, p.chunks, call.accumulate >> 2 & 1);
}

// ---- registration -------------------------------------------------------------------------------------

WDFAST_OP(conv2d_transpose, {.name = "conv2d_transpose",
                             .plan_bytes = sizeof(Plan),
                             .min_inputs = 2,
                             .max_inputs = 3,
                             .infer = infer,
                             .forward = forward,
                             .backward = backward,
                             .backward_reads_in = 0b011,
                             .backward_reads_out = true,
                             .accumulates = 0b111});

}  // namespace
}  // namespace WDFAST_NS
