// max_pool2d, avg_pool2d, global_max_pool2d, global_average_pool2d: x (N, H, W, C) → y (N, OH, OW, C), NHWC.
// Padded cells are never counted: a maximum ignores them, an average divides by the cells inside the image.
// A NaN in a window is its maximum. Of equal values the first in row order wins, as in PyTorch.
//
// Saved by max: the number of the winning cell, one byte each (int32 for windows of more than 256 cells).
// Backward walks input rows and gathers from the windows that hold them, so no two threads write one cell.
// A global pool is a window as large as the image.
#include "wdfast/check.h"
#include "wdfast/lanes.h"
#include "wdfast/parallel.h"

namespace WDFAST_NS {
namespace {

// ---- contract -----------------------------------------------------------------------------------------

struct Axis {  // the windows along one axis: window o covers cells o·stride − before … + size − 1
  int64_t in, size, stride, before, out;

  WDFAST_INLINE int64_t start(int64_t o) const { return o * stride - before; }
  // The windows [first, last) that hold cell i.
  WDFAST_INLINE int64_t first(int64_t i) const {
    const int64_t d = i + before - size + 1;
    return d > 0 ? (d + stride - 1) / stride : 0;
  }
  WDFAST_INLINE int64_t last(int64_t i) const {
    const int64_t o = (i + before) / stride + 1;
    return o < out ? o : out;
  }
};

struct Range {  // the cells of a window that lie inside the image
  int64_t begin, end;
};
WDFAST_INLINE Range inside(const Axis& axis, int64_t o) {
  const int64_t start = axis.start(o), end = start + axis.size;
  return {start > 0 ? start : 0, end < axis.in ? end : axis.in};
}

struct Plan {
  int64_t images, channels;
  Axis y, x;
  bool wide_index;  // int32 instead of a byte
};

constexpr int64_t kByteCells = 256;  // what a byte can number

void settle(Infer& io, const char* op, const Plan& plan, bool keeps_index) {
  const double cells = static_cast<double>(plan.y.size) * static_cast<double>(plan.x.size);
  WDFAST_CHECK(cells < 2147483648.0,
               "%s: argument 'pool': expected a window of fewer than 2^31 cells, got (%lld, %lld)", op,
               static_cast<long long>(plan.y.size), static_cast<long long>(plan.x.size));
  const int64_t n = plan.images * plan.y.out * plan.x.out * plan.channels;
  io.plan_as<Plan>() = plan;
  io.plan_as<Plan>().wide_index = cells > kByteCells;
  if (keeps_index) io.saved_bytes = n * (cells > kByteCells ? 4 : 1);
  io.flops = static_cast<double>(n) * cells;
  io.backward_flops = static_cast<double>(n) * cells;
}

void check_image(const char* op, const Spec& x) {
  check_dtype(op, "x", x, DType::f32);
  check_rank(op, "x", x, 4);
  WDFAST_CHECK(x.dim[1] > 0 && x.dim[2] > 0,
               "%s: argument 'x': expected images of at least one cell, got (%lld, %lld)", op,
               static_cast<long long>(x.dim[1]), static_cast<long long>(x.dim[2]));
}

void infer_pool(Infer& io, const char* op, bool keeps_index) {
  const Spec& x = io.in[0];
  check_image(op, x);
  int64_t pool[2], stride[2], pad[4] = {};
  WDFAST_CHECK(host->attr_ints(io.attrs, "pool", pool, 2) == 2 && pool[0] > 0 && pool[1] > 0,
               "%s: argument 'pool': expected two ints ≥ 1", op);
  WDFAST_CHECK(host->attr_ints(io.attrs, "stride", stride, 2) == 2 && stride[0] > 0 && stride[1] > 0,
               "%s: argument 'stride': expected two ints ≥ 1", op);
  const char* padding = host->attr_string(io.attrs, "padding", "valid");
  const bool same = text_equal(padding, "same"), explicitly = text_equal(padding, "explicit");
  WDFAST_CHECK(same || explicitly || text_equal(padding, "valid"),
               "%s: argument 'padding': expected 'valid', 'same' or ((top, bottom), (left, right)), got '%s'",
               op, padding);
  WDFAST_CHECK(!explicitly || host->attr_ints(io.attrs, "pads", pad, 4) == 4,
               "%s: argument 'pads': expected four ints: top, bottom, left, right", op);

  Axis axis[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t in = x.dim[1 + i];
    int64_t before = pad[2 * i], after = pad[2 * i + 1];
    if (same) {  // as many windows as strides fit, the odd cell of padding at the end
      const int64_t total = (in - 1) / stride[i] * stride[i] + pool[i] - in;
      before = total > 0 ? total / 2 : 0;
      after = total > 0 ? total - before : 0;
    }
    WDFAST_CHECK(same || (before >= 0 && after >= 0 && before < pool[i] && after < pool[i]),
                 "%s: argument 'padding': expected 0 to %lld cells along axis %d (less than the window), got "
                 "(%lld, %lld)",
                 op, static_cast<long long>(pool[i] - 1), 1 + i, static_cast<long long>(before),
                 static_cast<long long>(after));
    WDFAST_CHECK(pool[i] <= in + before + after,
                 "%s: argument 'pool': expected a window no larger than the padded image, "
                 "got %lld cells for %lld along axis %d",
                 op, static_cast<long long>(pool[i]), static_cast<long long>(in + before + after), 1 + i);
    axis[i] = {in, pool[i], stride[i], before, (in + before + after - pool[i]) / stride[i] + 1};
  }
  io.out[0] = x;
  io.out[0].dim[1] = axis[0].out;
  io.out[0].dim[2] = axis[1].out;
  settle(io, op, {x.dim[0], x.dim[3], axis[0], axis[1], false}, keeps_index);
}

void infer_global(Infer& io, const char* op, bool keeps_index) {
  const Spec& x = io.in[0];
  check_image(op, x);
  Spec& y = io.out[0];
  y = x;
  if (host->attr_int(io.attrs, "keepdims", 0)) {
    y.dim[1] = y.dim[2] = 1;
  } else {
    y.rank = 2;
    y.dim[1] = x.dim[3];
    y.dim[2] = y.dim[3] = 0;
  }
  const int64_t h = x.dim[1], w = x.dim[2];
  settle(io, op, {x.dim[0], x.dim[3], {h, h, h, 0, 1}, {w, w, w, 0, 1}, false}, keeps_index);
}

// ---- kernels ------------------------------------------------------------------------------------------

struct MaxByte {
  using Index = uint8_t;
  static constexpr bool is_max = true;
};
struct MaxWide {
  using Index = int32_t;
  static constexpr bool is_max = true;
};
struct Average {
  using Index = uint8_t;
  static constexpr bool is_max = false;
};

template <class Lanes>
WDFAST_INLINE void store_index(uint8_t* p, vi index, Lanes lanes) {
  store_bytes(p, index, lanes);
}
template <class Lanes>
WDFAST_INLINE void store_index(int32_t* p, vi index, Lanes lanes) {
  __builtin_memcpy(p, &index, count(lanes) * 4);
}
template <class Lanes>
WDFAST_INLINE vi load_index(const uint8_t* p, Lanes lanes) {
  return load_bytes(p, lanes);
}
template <class Lanes>
WDFAST_INLINE vi load_index(const int32_t* p, Lanes lanes) {
  vi index = {};
  __builtin_memcpy(&index, p, count(lanes) * 4);
  return index;
}

// One window: `cell` is its first cell inside the image, number `first` of the window.
struct Window {
  const float* cell;
  int64_t rows, columns;
  int64_t row_stride, column_stride;  // in floats
  int32_t first, width;
};

// V vectors of channels at c. Rows, Columns: the window's size if known at compile time, else 0.
template <class Pool, int V, int Rows, int Columns, class Lanes>
WDFAST_INLINE void pool_channels(const Window& window, int64_t c, Lanes lanes, float* y,
                                 typename Pool::Index* index) {
  const int64_t rows = Rows ? Rows : window.rows, columns = Columns ? Columns : window.columns;
  vf result[V], row_sum[V];
  vi winner[V];
  for (int v = 0; v < V; ++v) {
    result[v] = Pool::is_max ? broadcast(-__builtin_inff()) : vf{};
    winner[v] = broadcast(window.first);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const float* cell = window.cell + i * window.row_stride + c;
    for (int v = 0; v < V; ++v) row_sum[v] = vf{};
    for (int64_t j = 0; j < columns; ++j, cell += window.column_stride) {
      const vi number =
          broadcast(window.first + static_cast<int32_t>(i) * window.width + static_cast<int32_t>(j));
      for (int v = 0; v < V; ++v) {
        const vf value = load(cell + v * kLanes, lanes);
        if constexpr (Pool::is_max) {
          const vi wins = ((value > result[v]) | (value != value)) & (result[v] == result[v]);
          result[v] = select(wins, value, result[v]);
          winner[v] = wins ? number : winner[v];
        } else {
          row_sum[v] += value;
        }
      }
    }
    if constexpr (!Pool::is_max)
      for (int v = 0; v < V; ++v) result[v] += row_sum[v];
  }
  const float share = 1.0f / static_cast<float>(rows * columns);
  for (int v = 0; v < V; ++v) {
    if constexpr (Pool::is_max) {
      store(y + c + v * kLanes, result[v], lanes);
      store_index(index + c + v * kLanes, winner[v], lanes);
    } else {
      store(y + c + v * kLanes, result[v] * share, lanes);
    }
  }
}

template <class Pool, int Rows, int Columns>
WDFAST_INLINE void pool_window(const Window& window, int64_t channels, float* y,
                               typename Pool::Index* index) {
  constexpr int kVectors = 4;  // four chains of compare and blend hide each other's latency
  int64_t c = 0;
  for (; c + kVectors * kLanes <= channels; c += kVectors * kLanes)
    pool_channels<Pool, kVectors, Rows, Columns>(window, c, Whole{}, y, index);
  for_vectors(c, channels, [&](int64_t at, auto lanes) {
    pool_channels<Pool, 1, Rows, Columns>(window, at, lanes, y, index);
  });
}

WDFAST_INLINE int64_t rows_per_block(int64_t floats_per_row) {
  return floats_per_row >= kStreamGrain ? 1 : kStreamGrain / (floats_per_row > 0 ? floats_per_row : 1);
}

template <class Pool>
void forward(const Call& call) {
  const Plan& plan = call.plan_as<Plan>();
  const Axis ya = plan.y, xa = plan.x;
  const int64_t channels = plan.channels;
  auto* saved = static_cast<typename Pool::Index*>(call.saved);
  const int64_t floats = ya.size * xa.in * channels;  // that one row of windows reads
  parallel_blocks(plan.images * ya.out, rows_per_block(floats), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / ya.out, oy = row % ya.out;
      const Range ys = inside(ya, oy);
      const float* x = call.f32_in(0) + (image * ya.in + ys.begin) * xa.in * channels;
      for (int64_t ox = 0; ox < xa.out; ++ox) {
        const Range xs = inside(xa, ox);
        const Window window = {
            x + xs.begin * channels,
            ys.end - ys.begin,
            xs.end - xs.begin,
            xa.in * channels,
            channels,
            static_cast<int32_t>((ys.begin - ya.start(oy)) * xa.size + xs.begin - xa.start(ox)),
            static_cast<int32_t>(xa.size)};
        const int64_t at = (row * xa.out + ox) * channels;
        float* y = call.f32_out() + at;
        auto* index = Pool::is_max ? saved + at : nullptr;
        if (window.rows == 2 && window.columns == 2)
          pool_window<Pool, 2, 2>(window, channels, y, index);
        else if (window.rows == 3 && window.columns == 3)
          pool_window<Pool, 3, 3>(window, channels, y, index);
        else
          pool_window<Pool, 0, 0>(window, channels, y, index);
      }
    }
  });
}

// One row of dx. `once`: no cell lies in two windows, so each is stored at its first touch and the cells
// between windows are set to zero on the way; otherwise contributions are added to what is there.
template <class Pool>
WDFAST_INLINE void gather_row(const Plan& plan, int64_t image, int64_t iy, const float* dy,
                              const typename Pool::Index* index, bool once, float* dx) {
  const Axis &ya = plan.y, &xa = plan.x;
  const int64_t channels = plan.channels;
  const auto clear = [&](int64_t begin, int64_t end) {
    if (begin < end)
      __builtin_memset(dx + begin * channels, 0, static_cast<size_t>((end - begin) * channels) * 4);
  };
  int64_t written = 0;
  for (int64_t oy = ya.first(iy); oy < ya.last(iy); ++oy) {
    const Range ys = inside(ya, oy);
    const int64_t first_in_row = (iy - ya.start(oy)) * xa.size;
    for (int64_t ox = 0; ox < xa.out; ++ox) {
      const Range xs = inside(xa, ox);
      if (once) clear(written, xs.begin);
      written = xs.end;
      const float share = 1.0f / static_cast<float>((ys.end - ys.begin) * (xs.end - xs.begin));
      const int32_t first = static_cast<int32_t>(first_in_row + xs.begin - xa.start(ox));
      const int64_t at = ((image * ya.out + oy) * xa.out + ox) * channels;
      for_vectors(0, channels, [&](int64_t c, auto lanes) {
        vf gradient = load(dy + at + c, lanes);
        vi winner = {};
        if constexpr (Pool::is_max)
          winner = load_index(index + at + c, lanes);
        else
          gradient *= share;
        float* cell = dx + xs.begin * channels + c;
        for (int32_t j = 0; j < xs.end - xs.begin; ++j, cell += channels) {
          vf part = gradient;
          if constexpr (Pool::is_max) part = select(winner == first + j, gradient, vf{});
          store(cell, part, lanes, !once);
        }
      });
    }
  }
  if (once) clear(written, xa.in);
}

template <class Pool>
void backward(const Call& call) {
  const Plan& plan = call.plan_as<Plan>();
  const int64_t floats = plan.x.in * plan.channels;
  const bool add = call.accumulate & 1;
  const bool once = !add && plan.y.size <= plan.y.stride && plan.x.size <= plan.x.stride;
  const auto* index = static_cast<const typename Pool::Index*>(call.saved);
  parallel_blocks(plan.images * plan.y.in, rows_per_block(floats), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* dx = call.f32_d_in(0) + row * floats;
      if (!once && !add) __builtin_memset(dx, 0, static_cast<size_t>(floats) * 4);
      const int64_t image = row / plan.y.in, iy = row % plan.y.in;
      if (once)
        gather_row<Pool>(plan, image, iy, call.f32_d_out(), index, true, dx);
      else
        gather_row<Pool>(plan, image, iy, call.f32_d_out(), index, false, dx);
    }
  });
}

void forward_max(const Call& call) {
  call.plan_as<Plan>().wide_index ? forward<MaxWide>(call) : forward<MaxByte>(call);
}
void backward_max(const Call& call) {
  call.plan_as<Plan>().wide_index ? backward<MaxWide>(call) : backward<MaxByte>(call);
}

// ---- registration -------------------------------------------------------------------------------------

WDFAST_OP(max_pool2d, {.name = "max_pool2d",
                       .plan_bytes = sizeof(Plan),
                       .min_inputs = 1,
                       .max_inputs = 1,
                       .infer = [](Infer& io) { infer_pool(io, "max_pool2d", true); },
                       .forward = forward_max,
                       .backward = backward_max,
                       .backward_reads_in = 0,
                       .accumulates = 1});

WDFAST_OP(avg_pool2d, {.name = "avg_pool2d",
                       .plan_bytes = sizeof(Plan),
                       .min_inputs = 1,
                       .max_inputs = 1,
                       .infer = [](Infer& io) { infer_pool(io, "avg_pool2d", false); },
                       .forward = forward<Average>,
                       .backward = backward<Average>,
                       .backward_reads_in = 0,
                       .accumulates = 1});

WDFAST_OP(global_max_pool2d, {.name = "global_max_pool2d",
                              .plan_bytes = sizeof(Plan),
                              .min_inputs = 1,
                              .max_inputs = 1,
                              .infer = [](Infer& io) { infer_global(io, "global_max_pool2d", true); },
                              .forward = forward_max,
                              .backward = backward_max,
                              .backward_reads_in = 0,
                              .accumulates = 1});

WDFAST_OP(global_average_pool2d,
          {.name = "global_average_pool2d",
           .plan_bytes = sizeof(Plan),
           .min_inputs = 1,
           .max_inputs = 1,
           .infer = [](Infer& io) { infer_global(io, "global_average_pool2d", false); },
           .forward = forward<Average>,
           .backward = backward<Average>,
           .backward_reads_in = 0,
           .accumulates = 1});

}  // namespace
}  // namespace WDFAST_NS
