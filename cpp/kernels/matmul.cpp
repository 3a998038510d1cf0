// matmul: y = a · b on the last two axes; a (…, m, k), b (…, k, n), leading axes broadcast as in NumPy.
//
// The same register tiles as dense (engine/tile.h). b is read in place where its rows are whole vectors, else
// packed a panel at a time; the gradient of a packs b transposed. A matrix that was broadcast receives the
// sum of its gradients in the order of the batch, from one task. With bfloat16 products a task rounds its
// rows of a, and b as it is packed.
#include "../engine/tile.h"
#include "wdfast/check.h"
#include "wdfast/parallel.h"
#include "wdfast/precision.h"

namespace WDFAST_NS {
namespace {

// ---- contract -----------------------------------------------------------------------------------------

constexpr int64_t kRows = 48;           // rows per task: a multiple of 6 and 12
constexpr int64_t kDepth = 256;         // rows of b per packed block
constexpr int64_t kPairRows = 16;       // of a from which bfloat16 products pay for packing b
constexpr double kTaskFlops = 1 << 19;  // below this (about 4 µs) no thread is woken

struct Plan {
  int64_t m, k, n, batch, a_batch, b_batch;
  int32_t axes;
  bool pairs;                                                      // bfloat16 products
  int64_t size[kMaxRank], a_stride[kMaxRank], b_stride[kMaxRank];  // of the batch, in matrices
};

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void infer(Infer& io) {
  Plan& p = io.plan_as<Plan>();
  const Spec &a = io.in[0], &b = io.in[1];
  for (int i = 0; i < 2; ++i) {
    check_dtype("matmul", i ? "b" : "a", io.in[i], DType::f32);
    WDFAST_CHECK(io.in[i].rank >= 2, "matmul: argument '%s': expected at least 2 dimensions, got %d",
                 i ? "b" : "a", io.in[i].rank);
  }
  p.m = a.dim[a.rank - 2];
  p.k = a.dim[a.rank - 1];
  p.n = b.dim[b.rank - 1];
  check_dim("matmul", "b", b, b.rank - 2, p.k);
  p.pairs = takes_bfloat16("matmul", io.attrs) && p.m >= kPairRows;
  const int rank = a.rank > b.rank ? a.rank : b.rank;
  io.out[0] = {.rank = rank, .dtype = DType::f32};
  p.axes = rank - 2;
  p.batch = p.a_batch = p.b_batch = 1;
  for (int axis = p.axes - 1; axis >= 0; --axis) {
    const int at_a = axis - (rank - a.rank), at_b = axis - (rank - b.rank);
    const int64_t da = at_a < 0 ? 1 : a.dim[at_a], db = at_b < 0 ? 1 : b.dim[at_b];
    WDFAST_CHECK(da == db || da == 1 || db == 1,
                 "matmul: argument 'b': axis %d does not broadcast: %lld and %lld", axis,
                 static_cast<long long>(da), static_cast<long long>(db));
    p.size[axis] = da == 1 ? db : da;
    p.a_stride[axis] = da == 1 ? 0 : p.a_batch;
    p.b_stride[axis] = db == 1 ? 0 : p.b_batch;
    p.a_batch *= da;
    p.b_batch *= db;
    p.batch *= p.size[axis];
    io.out[0].dim[axis] = p.size[axis];
  }
  io.out[0].dim[rank - 2] = p.m;
  io.out[0].dim[rank - 1] = p.n;
  io.flops = 2.0 * static_cast<double>(p.batch * p.m) * static_cast<double>(p.k * p.n);
  io.backward_flops = 2 * io.flops;
}

// ---- kernels ------------------------------------------------------------------------------------------

struct Pair {
  int64_t a, b;
};

Pair operands(const Plan& p, int64_t item) {
  Pair at = {0, 0};
  for (int axis = p.axes - 1; axis >= 0; --axis) {
    at.a += item % p.size[axis] * p.a_stride[axis];
    at.b += item % p.size[axis] * p.b_stride[axis];
    item /= p.size[axis];
  }
  return at;
}

template <class Body>
void run_tasks(int64_t n, double flops, const Body& body) {
  if (flops < kTaskFlops)
    for (int64_t i = 0; i < n; ++i) body(i);
  else
    parallel_for(n, body);
}

void forward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const int64_t blocks = ceil_div(p.m, kRows);
  if (p.batch * p.m * p.n == 0) return;
  run_tasks(p.batch * blocks, 2.0 * static_cast<double>(p.batch * p.m * p.k * p.n), [&](int64_t task) {
    const int64_t item = task / blocks, row = task % blocks * kRows;
    const Pair at = operands(p, item);
    const int64_t rows_of_a = least(kRows, p.m - row), a_stride = lane_count(p.k, p.pairs);
    const float* a = call.f32_in(0) + (at.a * p.m + row) * p.k;
    const float* b = call.f32_in(1) + at.b * p.k * p.n;
    float* y = call.f32_out() + (item * p.m + row) * p.n;
    const int64_t half_lanes = p.pairs ? rows_of_a * a_stride : 0;
    float* scratch =
        static_cast<float*>(host->thread_scratch(static_cast<size_t>(kDepth * kPanel + half_lanes) * 4));
    if (p.pairs) {
      round_rows(scratch + kDepth * kPanel, a, p.k, rows_of_a, p.k);
      a = scratch + kDepth * kPanel;
    }
    for (int64_t first = 0; first < p.n; first += kPanel) {
      const int64_t columns = least(kPanel, p.n - first);
      const bool packed = p.pairs || columns % kLanes != 0;
      for (int64_t k = 0; k < p.k || k == 0; k += kDepth) {
        const int64_t depth = least(kDepth, p.k - k);
        const Run run = {lane_count(k, p.pairs), lane_count(depth, p.pairs)};
        const float* rows = b + k * p.n + first;
        if (packed) pack_rows(scratch, rows, p.n, depth, columns, p.pairs), rows = scratch;
        multiply({.a = a,
                  .a_stride = a_stride,
                  .runs = &run,
                  .n_runs = 1,
                  .b = rows,
                  .b_stride = packed ? padded_columns(columns) : p.n,
                  .c = y + first,
                  .c_stride = p.n,
                  .bias = nullptr,
                  .columns = columns,
                  .add = k > 0,
                  .relu = false,
                  .pairs = p.pairs},
                 rows_of_a);
      }
    }
  });
}

// Calls body(item, is_first) for the batch items that use matrix `matrix` of a (or of b).
template <class Body>
void for_each_use(const Plan& p, bool of_a, int64_t matrix, const Body& body) {
  const int64_t own = of_a ? p.a_batch : p.b_batch;
  if (own == p.batch) return body(matrix, true);
  bool first = true;
  for (int64_t item = 0; item < p.batch; ++item) {
    const Pair at = operands(p, item);
    if ((of_a ? at.a : at.b) != matrix) continue;
    body(item, first);
    first = false;
  }
}

void gradient_of_a(const Plan& p, const float* b, const float* dy, float* da) {
  const int64_t panels = panel_count(p.k);
  run_tasks(p.a_batch * panels, 2.0 * static_cast<double>(p.batch * p.m * p.k * p.n), [&](int64_t task) {
    const int64_t matrix = task / panels, first = task % panels * kPanel,
                  columns = panel_columns(p.k, task % panels);
    for_each_use(p, true, matrix, [&](int64_t item, bool begin) {
      const int64_t depth = lane_count(p.n, p.pairs), room = (p.n + 1) * kPanel;
      float* packed = static_cast<float*>(
          host->thread_scratch(static_cast<size_t>(room + (p.pairs ? p.m * depth : 0)) * 4));
      pack_transposed(packed, b + (operands(p, item).b * p.k + first) * p.n, p.n, p.n, columns, p.pairs);
      const float* g = dy + item * p.m * p.n;
      if (p.pairs) round_rows(packed + room, g, p.n, p.m, p.n), g = packed + room;
      const Run run = {0, depth};
      multiply({.a = g,
                .a_stride = depth,
                .runs = &run,
                .n_runs = 1,
                .b = packed,
                .b_stride = padded_columns(columns),
                .c = da + matrix * p.m * p.k + first,
                .c_stride = p.k,
                .bias = nullptr,
                .columns = columns,
                .add = !begin,
                .relu = false,
                .pairs = p.pairs},
               p.m);
    });
  });
}

void gradient_of_b(const Plan& p, const float* a, const float* dy, float* db) {
  const int64_t blocks = ceil_div(p.k, kRows), width = padded_columns(p.n);
  run_tasks(p.b_batch * blocks, 2.0 * static_cast<double>(p.batch * p.m * p.k * p.n), [&](int64_t task) {
    const int64_t matrix = task / blocks, row = task % blocks * kRows;
    for_each_use(p, false, matrix, [&](int64_t item, bool begin) {
      const float *g = dy + item * p.m * p.n, *source = a + operands(p, item).a * p.m * p.k + row;
      const int64_t columns = least(kRows, p.k - row);
      int64_t stride = p.n, a_stride = p.k;
      if (p.pairs || p.n % kLanes) {  // `outer` reads whole vectors
        const int64_t room = (p.m + 1) * width, a_width = padded_columns(columns);
        float* packed =
            static_cast<float*>(host->thread_scratch(static_cast<size_t>(room + p.m * a_width) * 4));
        pack_rows(packed, g, p.n, p.m, p.n, p.pairs);
        g = packed, stride = width;
        if (p.pairs) {
          pack_rows(packed + room, source, p.k, p.m, columns, true);
          source = packed + room, a_stride = a_width;
        }
      }
      for (int64_t first = 0; first < p.n; first += kPanel)
        outer({.a = source,
               .a_stride = a_stride,
               .a_row_stride = 0,
               .b = g + first,
               .b_stride = stride,
               .b_row_stride = 0,
               .pixels = lane_count(p.m, p.pairs),
               .rows = 1,
               .c = db + (matrix * p.k + row) * p.n + first,
               .c_stride = p.n,
               .k = columns,
               .columns = least(kPanel, p.n - first),
               .add = !begin,
               .pairs = p.pairs});
    });
  });
}

void zero(float* to, int64_t n) { __builtin_memset(to, 0, static_cast<size_t>(n) * 4); }

void backward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const float *a = call.f32_in(0), *b = call.f32_in(1), *dy = call.f32_d_out();
  float *da = call.f32_d_in(0), *db = call.f32_d_in(1);
  const bool empty = p.batch * p.m * p.n * p.k == 0;
  if (da && empty) zero(da, call.in_spec[0].size());
  if (db && empty) zero(db, call.in_spec[1].size());
  if (empty) return;
  if (da) gradient_of_a(p, b, dy, da);
  if (db) gradient_of_b(p, a, dy, db);
}

// ---- registration -------------------------------------------------------------------------------------

WDFAST_OP(matmul, {.name = "matmul",
                   .plan_bytes = sizeof(Plan),
                   .min_inputs = 2,
                   .max_inputs = 2,
                   .infer = infer,
                   .forward = forward,
                   .backward = backward});

}  // namespace
}  // namespace WDFAST_NS
