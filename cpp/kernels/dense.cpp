// dense: y = f(x·w + b); x (…, in), w (in, out), or (1, 1, in, out) as of a 1 × 1 convolution, b (out,).
//
// Fused: bias and activation, and their backward. w is read in place, forward and for its own gradient; the
// gradient of x packs w transposed one panel at a time, in cache. A long inner sum (a flattened image) is cut
// into fixed chunks, so that w is streamed once, in the order of its memory, whatever the number of threads.
// With bfloat16 products x and dz are rounded once, and w as its panels are packed.
#include <cmath>

#include "../engine/product.h"
#include "wdfast/activation.h"
#include "wdfast/parallel.h"
#include "wdfast/precision.h"

namespace WDFAST_NS {
namespace {

// ---- contract -----------------------------------------------------------------------------------------

constexpr int64_t kDepth = 256;     // rows of w per block: a panel of them (64 KB) stays in L2
constexpr int64_t kLongSum = 8192;  // from here the inner sum is split into kChunks
constexpr int64_t kChunks = 16;
constexpr int64_t kTaskFlops = 1 << 19;      // a task below this (about 4 µs) is not worth a thread's wake-up
constexpr int64_t kTasks = 24;               // enough for 16 threads, as even as tasks for 2 need to be
constexpr int64_t kTileRows = 6;             // of the register tiles
constexpr int64_t kMostRows = 1020;          // of a task
constexpr int64_t kFewRows = kPanel;         // of x up to which its gradient may be made transposed
constexpr int64_t kPairRows = 16;            // of x from which bfloat16 products pay for packing w
constexpr int64_t kSingleRows = 4;           // of x up to which a long sum reads w unpacked, and from …
constexpr int64_t kSingleWeights = 1 << 16;  // … so many weights any sum is a long one
static_assert(kSingleRows < kPairRows);
constexpr int64_t kInBlock = 96;  // rows of w per task: whole tiles of 6, 12 and 14 nearly divide it

struct Plan {
  ActivationSpec activation;
  int64_t m, in, out;
  int64_t k_chunks;  // forward: chunks of the inner sum
  int64_t m_chunks;  // backward: chunks of the batch, for dw and db
  bool pairs;        // bfloat16 products
};

int64_t dz_floats(const Plan& p) { return p.m * padded_columns(p.out); }
// The factors of a backward of pairs: dz and x with rows paired, for dw; dz with columns paired, for dx.
int64_t dz_pairs(const Plan& p) { return lane_count(p.m, true) * padded_columns(p.out) + kLanes; }
int64_t x_pairs(const Plan& p) { return lane_count(p.m, true) * padded_columns(p.in); }
int64_t pair_lanes(const Plan& p) {
  return p.pairs ? dz_pairs(p) + x_pairs(p) + p.m * lane_count(p.out, true) : 0;
}
// dx of few rows is made as dxᵀ = w·dzᵀ, which reads w as it lies: packing w transposed, as dx = dz·wᵀ has
// to, would cost as much as so few products.
bool few_rows(const Plan& p) { return p.m <= kFewRows && 2 * p.m <= p.out; }
int64_t zt_floats(const Plan& p) { return few_rows(p) ? (p.out + 1) * padded_columns(p.m) : 0; }
int64_t partial_floats(const Plan& p) { return p.m_chunks * (p.in + 1) * p.out; }

void infer(Infer& io) {
  Plan& p = io.plan_as<Plan>();
  for (int i = 0; i < io.n_in; ++i)
    if (io.in[i].given()) check_dtype("dense", i == 0 ? "x" : i == 1 ? "w" : "b", io.in[i], DType::f32);
  const Spec& x = io.in[0];
  WDFAST_CHECK(x.rank >= 1, "dense: argument 'x': expected at least 1 dimension, got 0");
  const Spec& w = io.in[1];
  const bool kernel = w.rank == 4 && w.dim[0] == 1 && w.dim[1] == 1;
  if (!kernel) check_rank("dense", "w", w, 2);
  p.in = w.dim[kernel ? 2 : 0];
  p.out = w.dim[kernel ? 3 : 1];
  check_dim("dense", "x", x, x.rank - 1, p.in);
  if (io.n_in > 2 && io.in[2].given()) {
    check_rank("dense", "b", io.in[2], 1);
    check_dim("dense", "b", io.in[2], 0, p.out);
  }
  p.activation = parse_activation("dense", io.attrs);
  WDFAST_CHECK(!needs_preactivation(p.activation.kind),
               "dense: argument 'activation': gelu is an op of its own");
  p.m = 1;
  for (int i = 0; i + 1 < x.rank; ++i) p.m *= x.dim[i];
  p.pairs = takes_bfloat16("dense", io.attrs) && p.m >= kPairRows;
  const bool single = p.m <= kSingleRows && p.in >= 4 * kDepth && p.in * p.out >= kSingleWeights;
  p.k_chunks = p.in >= kLongSum || single ? kChunks : 1;
  // Long batches of small layers: split the batch for dw, while the partial sums stay small beside it.
  p.m_chunks = p.m >= 4096 && p.in * p.out * 16 < p.m * (p.in + p.out) ? kChunks : 1;
  io.out[0] = x;
  io.out[0].dim[x.rank - 1] = p.out;
  io.forward_scratch_bytes =
      ((p.k_chunks > 1 ? p.k_chunks * p.m * p.out : 0) + (p.pairs ? p.m * lane_count(p.in, true) : 0)) * 4;
  io.backward_scratch_bytes =
      (dz_floats(p) + kLanes + pair_lanes(p) + zt_floats(p) + (p.m_chunks > 1 ? partial_floats(p) : 0)) * 4;
  io.flops = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.in) * static_cast<double>(p.out);
  io.backward_flops = 2 * io.flops;
}

// ---- kernels ------------------------------------------------------------------------------------------

struct Part {
  int64_t row, rows, column, columns;
};

// A product of m × columns, sums of `depth` terms, in parts that are worth a thread's wake-up and enough for
// 16 threads: blocks of rows, of columns first.
struct Tasks {
  int64_t m, columns, rows, width;
  int64_t parts() const { return ceil_div(columns, width); }
  int64_t count() const { return ceil_div(m, rows) * parts(); }
  Part part(int64_t task) const {
    const int64_t row = task / parts() * rows, column = task % parts() * width;
    return {row, clamp(m - row, 0, rows), column, clamp(columns - column, 0, width)};
  }
};

// Of n in parts of at most about `most`: the length of one, in whole units.
int64_t even_parts(int64_t n, int64_t most, int64_t unit) {
  return round_up(ceil_div(n, clamp(ceil_div(n, most), 1, n + 1)), unit);
}

// Both the parts and their number grow with the work.
int64_t wanted_tasks(const Plan& p) {
  const double flops =
      2.0 * static_cast<double>(p.m) * static_cast<double>(p.in) * static_cast<double>(p.out);
  const int64_t wanted = static_cast<int64_t>(std::sqrt(flops / static_cast<double>(kTaskFlops)));
  return clamp(wanted, 1, kTasks);
}

// Twice as many rows as columns: a part packs its columns of B, and only reads its rows of A.
Tasks tasks_of(const Plan& p, int64_t columns) {
  const int64_t wanted = wanted_tasks(p);
  Tasks tasks = {p.m, columns, even_parts(p.m, kMostRows, kTileRows), clamp(columns, 1, kBlockColumns)};
  while (2 * tasks.count() <= wanted && (tasks.width > kPanel || tasks.rows > kTileRows)) {
    if (tasks.width > kPanel && tasks.rows <= 2 * tasks.width)
      tasks.width = even_parts(tasks.width, tasks.width / 2, kPanel);
    else
      tasks.rows = even_parts(tasks.rows, tasks.rows / 2, kTileRows);
  }
  return tasks;
}

// Rows of `columns` floats, rounded to bfloat16, in parallel.
void round_in_parallel(float* to, const float* from, int64_t stride, int64_t rows, int64_t columns) {
  parallel_blocks(rows, kStreamGrain / (columns + 1) + 1, [=](int64_t begin, int64_t end) {
    round_rows(to + begin * lane_count(columns, true), from + begin * stride, stride, end - begin, columns);
  });
}

// Rows paired, in parallel.
void pack_in_parallel(float* to, const float* from, int64_t stride, int64_t rows, int64_t columns) {
  parallel_blocks(lane_count(rows, true), kStreamGrain / (columns + 1) + 1, [=](int64_t begin, int64_t end) {
    const int64_t last = 2 * end < rows ? 2 * end : rows;
    pack_rows(to + begin * padded_columns(columns), from + 2 * begin * stride, stride, last - 2 * begin,
              columns, true);
  });
}

// c[0 … m) += x[:, k … k + kRows) · w[k … k + kRows), these rows of w staying in L1 for all of x.
template <int kRows>
void add_rows(const Plan& p, const float* x, const float* w, float* c, int64_t k) {
  const float* rows = w + k * p.out;
  for (int64_t m = 0; m < p.m; ++m) {
    const float* factor = x + m * p.in + k;
    for_vectors(0, p.out, [&](int64_t j, auto lanes) {
      vf sum = {};
      for (int64_t i = 0; i < kRows; ++i) sum += load(rows + i * p.out + j, lanes) * factor[i];
      store(c + m * p.out + j, sum, lanes, true);
    });
  }
}

void activate_in_place(const Plan& p, float* y, int64_t n) {
  with_activation(p.activation.kind, [&](auto a) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const int64_t left = n - i < kLanes ? n - i : kLanes;
      store_partial(y + i, activate<a.value>(load_partial(y + i, left), p.activation.alpha), left);
    }
  });
}

void forward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const float *x = call.f32_in(0), *w = call.f32_in(1), *b = call.f32_in(2);
  float* y = call.f32_out();
  const bool relu = p.activation.kind == Activation::relu;
  const bool later = !relu && p.activation.kind != Activation::linear;
  const int64_t panels = panel_count(p.out);
  if (p.m * p.out == 0) return;
  float* partial = static_cast<float*>(call.scratch);
  const int64_t x_stride = lane_count(p.in, p.pairs);
  if (p.pairs) {
    float* rounded = partial + (p.k_chunks > 1 ? p.k_chunks * p.m * p.out : 0);
    round_in_parallel(rounded, x, p.in, p.m, p.in);
    x = rounded;
  }

  if (p.k_chunks == 1) {
    const Tasks tasks = tasks_of(p, p.out);
    parallel_for(tasks.count(), [&](int64_t task) {
      const Part part = tasks.part(task);
      multiply_matrix({.a = x + part.row * x_stride,
                       .a_stride = x_stride,
                       .b = w + part.column,
                       .b_stride = p.out,
                       .transposed = false,
                       .depth = p.in,
                       .c = y + part.row * p.out + part.column,
                       .c_stride = p.out,
                       .bias = b ? b + part.column : nullptr,
                       .columns = part.columns,
                       .add = false,
                       .relu = relu,
                       .pairs = p.pairs},
                      part.rows, static_cast<float*>(host->thread_scratch(kProductScratch * 4)));
    });
    if (later)
      parallel_blocks(p.m * p.out, kStreamGrain,
                      [&](int64_t i, int64_t end) { activate_in_place(p, y + i, end - i); });
    return;
  }
  const int64_t depth = round_up((p.in + p.k_chunks - 1) / p.k_chunks, kDepth);
  parallel_for(p.k_chunks, [&](int64_t chunk) {
    const int64_t k0 = chunk * depth, k1 = k0 + depth < p.in ? k0 + depth : p.in;
    float* c = partial + chunk * p.m * p.out;
    const bool single = p.m <= kSingleRows;  // never pairs, which take kPairRows
    if (k0 >= k1 || single)
      for (int64_t i = 0; i < p.m * p.out; ++i) c[i] = 0;
    if (k0 >= k1) return;
    if (single) {  // in the order of its memory: so few products take less time than w takes to come
      int64_t k = k0;
      for (; k + 8 <= k1; k += 8) add_rows<8>(p, x, w, c, k);
      for (; k < k1; ++k) add_rows<1>(p, x, w, c, k);
      return;
    }
    for (int64_t k = k0; k < k1; k += kDepth)  // all panels of a block while its rows are in cache
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t columns = panel_columns(p.out, panel), first = panel * kPanel;
        const int64_t rows = k1 - k < kDepth ? k1 - k : kDepth;
        float* packed = static_cast<float*>(host->thread_scratch(kDepth * kPanel * 4));
        pack_rows(packed, w + k * p.out + first, p.out, rows, columns, p.pairs);
        const Run run = {lane_count(k, p.pairs), lane_count(rows, p.pairs)};
        multiply({.a = x,
                  .a_stride = x_stride,
                  .runs = &run,
                  .n_runs = 1,
                  .b = packed,
                  .b_stride = padded_columns(columns),
                  .c = c + first,
                  .c_stride = p.out,
                  .bias = nullptr,
                  .columns = columns,
                  .add = k > k0,
                  .relu = false,
                  .pairs = p.pairs,
                  .next = w + (k + rows) * p.out + rows * first,
                  .next_lines = rows * columns / kLine},
                 p.m);
      }
  });
  parallel_blocks(p.m * p.out, kStreamGrain / kChunks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float sum[kChunks];
      for (int64_t chunk = 0; chunk < kChunks; ++chunk) sum[chunk] = partial[chunk * p.m * p.out + i];
      for (int64_t width = kChunks / 2; width > 0; width /= 2)
        for (int64_t chunk = 0; chunk < width; ++chunk) sum[chunk] += sum[chunk + width];
      y[i] = sum[0] + (b ? b[i % p.out] : 0.0f);
    }
    activate_in_place(p, y + begin, end - begin);
  });
}

// dz = dy · f′, rows padded to whole vectors.
void slope_rows(const Plan& p, const float* dy, const float* y, float* dz) {
  const int64_t width = padded_columns(p.out), grain = clamp(kStreamGrain / width, 1, p.m);
  with_activation(p.activation.kind, [&](auto a) {
    parallel_blocks(p.m, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        for (int64_t j = 0; j < width; j += kLanes) {
          const int64_t left = p.out - j < kLanes ? p.out - j : kLanes, at = row * p.out + j;
          const vf slope = activation_slope<a.value>(load_partial(y + at, left), p.activation.alpha);
          store(dz + row * width + j, load_partial(dy + at, left) * slope);
        }
    });
  });
}

// Blocks of dw: a batch of many rows is in parts itself. Nearly square, for the sum of both sides is packed.
Tasks gradient_blocks(const Plan& p) {
  const int64_t cells = ceil_div(p.in * p.out, p.m_chunks > 1 ? 1 : wanted_tasks(p));
  int64_t side = kTileRows;
  while (side < kOuterRows && side * side < cells) side += kTileRows;
  const int64_t rows = clamp(even_parts(p.in, side, kTileRows), 1, kOuterRows);
  const int64_t width = even_parts(p.out, clamp(cells / rows, kPanel, kOuterColumns), kPanel);
  return {clamp(p.in, 1, p.in + 1), p.out, rows, clamp(width, 1, width + 1)};
}

struct WeightGradient {  // a block of rows of dw, and with the first of them db, for each task
  const Plan& p;
  const float *xf, *zf;  // the factors of dw, in lanes of m
  int64_t xf_stride;
  const float* dz;  // for db, as apart as zf
  int64_t dz_stride;
  float *dw, *db, *partial;
  bool add_w, add_b;
  Tasks blocks;

  int64_t tasks() const { return dw || db ? p.m_chunks * blocks.count() : 0; }
  void run(int64_t t) const {
    const bool split = p.m_chunks > 1;
    const int64_t chunk_rows = round_up((p.m + p.m_chunks - 1) / p.m_chunks, 2),
                  partial_size = (p.in + 1) * p.out;
    const Part part = blocks.part(t % blocks.count());
    const int64_t first = part.column, columns = part.columns, k = part.row, chunk = t / blocks.count();
    const int64_t m0 = chunk * chunk_rows, m1 = m0 + chunk_rows < p.m ? m0 + chunk_rows : p.m;
    float* to_w = split ? partial + chunk * partial_size : dw;
    float* to_b = split ? to_w + p.in * p.out : db;
    if (dw && p.in)
      outer_long({.a = xf + lane_count(m0, p.pairs) * xf_stride + k,
                  .a_stride = xf_stride,
                  .a_row_stride = 0,
                  .b = zf + lane_count(m0, p.pairs) * dz_stride + first,
                  .b_stride = dz_stride,
                  .b_row_stride = 0,
                  .pixels = lane_count(m1 - m0, p.pairs),
                  .rows = 1,
                  .c = to_w + k * p.out + first,
                  .c_stride = p.out,
                  .k = part.rows,
                  .columns = columns,
                  .add = !split && add_w,
                  .pairs = p.pairs},
                 static_cast<float*>(host->thread_scratch(kOuterScratch * 4)));
    if (!db || k != 0) return;
    for (int64_t j = 0; j < columns; j += kLanes) {  // db: four sums, so that no row waits for the last
      const int64_t left = columns - j < kLanes ? columns - j : kLanes;
      const float* row = dz + first + j;
      vf sum[4] = {};
      for (int64_t m = m0; m < m1; ++m) sum[m & 3] += load(row + m * dz_stride);
      vf total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      if (!split && add_b) total += load_partial(to_b + first + j, left);
      store_partial(to_b + first + j, total, left);
    }
  }
  void finish() const {  // the chunks of a long batch meet
    if (p.m_chunks == 1 || !(dw || db)) return;
    const int64_t partial_size = (p.in + 1) * p.out;
    parallel_blocks(partial_size, kStreamGrain / kChunks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float sum[kChunks];
        for (int64_t chunk = 0; chunk < kChunks; ++chunk) sum[chunk] = partial[chunk * partial_size + i];
        for (int64_t width = kChunks / 2; width > 0; width /= 2)
          for (int64_t chunk = 0; chunk < width; ++chunk) sum[chunk] += sum[chunk + width];
        const int64_t j = i - p.in * p.out;
        if (j < 0 && dw) dw[i] = add_w ? dw[i] + sum[0] : sum[0];
        if (j >= 0 && db) db[j] = add_b ? db[j] + sum[0] : sum[0];
      }
    });
  }
};

// For each task a part of dx; of few rows, a block of columns.
struct InputGradient {
  const Plan& p;
  const float *w, *dz;  // dz in lanes of out
  int64_t dz_stride;
  const float* zt;  // dzᵀ, packed in lanes of out, for few rows
  float* dx;
  bool add;

  int64_t tasks() const {
    if (!dx || !p.in) return 0;
    return few_rows(p) ? ceil_div(p.in, kInBlock) : tasks_of(p, p.in).count();
  }
  void run_few(int64_t t) const {
    const int64_t first = t * kInBlock, columns = clamp(p.in - first, 0, kInBlock),
                  width = padded_columns(p.m);
    const int64_t depth = lane_count(p.out, p.pairs);
    const float* rows = w + first * p.out;
    float* c = static_cast<float*>(
        host->thread_scratch(static_cast<size_t>(kInBlock * (width + (p.pairs ? depth : 0)) * 4)));
    if (p.pairs) {
      round_rows(c + kInBlock * width, rows, p.out, columns, p.out);
      rows = c + kInBlock * width;
    }
    const Run run = {0, depth};
    multiply({.a = rows,
              .a_stride = depth,
              .runs = &run,
              .n_runs = 1,
              .b = zt,
              .b_stride = width,
              .c = c,
              .c_stride = width,
              .bias = nullptr,
              .columns = p.m,
              .add = false,
              .relu = false,
              .pairs = p.pairs,
              .next = w + (first + 2 * kInBlock) * p.out,
              .next_lines = kInBlock * p.out / kLine},
             columns);
    for (int64_t m = 0; m < p.m; ++m) {
      float* to = dx + m * p.in + first;
      for (int64_t i = 0; i < columns; ++i) to[i] = (add ? to[i] : 0.0f) + c[i * width + m];
    }
  }
  void run(int64_t t) const {
    if (few_rows(p)) return run_few(t);
    const Part part = tasks_of(p, p.in).part(t);
    multiply_matrix({.a = dz + part.row * dz_stride,
                     .a_stride = dz_stride,
                     .b = w + part.column * p.out,
                     .b_stride = p.out,
                     .transposed = true,
                     .depth = p.out,
                     .c = dx + part.row * p.in + part.column,
                     .c_stride = p.in,
                     .bias = nullptr,
                     .columns = part.columns,
                     .add = add,
                     .relu = false,
                     .pairs = p.pairs},
                    part.rows, static_cast<float*>(host->thread_scratch(kProductScratch * 4)));
  }
};

void backward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const float *x = call.f32_in(0), *w = call.f32_in(1), *dy = call.f32_d_out();
  float *dx = call.f32_d_in(0), *dw = call.f32_d_in(1), *db = call.f32_d_in(2);
  const bool direct = p.activation.kind == Activation::linear && p.out % kLanes == 0;
  float* dz = static_cast<float*>(call.scratch);
  float* factors = dz + dz_floats(p) + kLanes;
  float* partial = factors + pair_lanes(p) + zt_floats(p);
  if (!direct && p.m) slope_rows(p, dy, call.f32_out(), dz);
  const float* gradient = direct ? dy : dz;
  const int64_t stride = direct ? p.out : padded_columns(p.out);
  const float *xf = x, *zf = gradient, *rounded = gradient;
  int64_t xf_stride = p.in, rounded_stride = stride;
  if (p.pairs && dw) {
    float *z_pairs = factors, *paired = z_pairs + dz_pairs(p);
    pack_in_parallel(z_pairs, gradient, stride, p.m, p.out);
    pack_in_parallel(paired, x, p.in, p.m, p.in);
    xf = paired, zf = z_pairs, xf_stride = padded_columns(p.in);
  }
  if (p.pairs && dx && !few_rows(p)) {
    float* to = factors + dz_pairs(p) + x_pairs(p);
    round_in_parallel(to, gradient, stride, p.m, p.out);
    rounded = to, rounded_stride = lane_count(p.out, true);
  }
  const bool add[] = {(call.accumulate & 1) != 0, (call.accumulate & 2) != 0, (call.accumulate & 4) != 0};
  const WeightGradient weights = {p,  xf, zf,      xf_stride, gradient, stride,
                                  dw, db, partial, add[1],    add[2],   gradient_blocks(p)};
  float* zt = factors + pair_lanes(p);
  if (dx && few_rows(p)) pack_transposed(zt, gradient, stride, p.out, p.m, p.pairs);
  const InputGradient inputs = {p, w, rounded, rounded_stride, zt, dx, add[0]};
  const int64_t n = weights.tasks(), tasks = n + inputs.tasks();
  const auto task = [&](int64_t t) { t < n ? weights.run(t) : inputs.run(t - n); };
  if (2 * p.m * p.in * p.out < kTaskFlops) {
    for (int64_t t = 0; t < tasks; ++t) task(t);
  } else if (tasks == 2) {  // the one of a small layer beside the other; more would take each other's cache
    parallel_for(tasks, task);
  } else {
    parallel_for(n, task);
    parallel_for(tasks - n, [&](int64_t t) { task(n + t); });
  }
  weights.finish();
}

// ---- registration -------------------------------------------------------------------------------------

WDFAST_OP(dense, {.name = "dense",
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
