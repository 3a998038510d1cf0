// recurrent: a layer along time, y[t] = h after step t. x (N, T, G·H) is what the input adds to the gates,
// made of all steps by one product beforehand; u (H, G·H), b (G·H,) optional; h, c (N, H): the state it
// starts from, 0 if not given; mask (N, T): a step where it is 0 leaves the state as it is. keep (N, H): what
// h is multiplied with before each product with U, and nowhere else (dropout). f and s are the activations.
//
//   simple   h ← f(x + h·U + b)
//   gru      z, r = s(x + h·U + b), n = f(x + r·(h·U + b)), h ← z·h + (1 − z)·n;  else n = f(x + (r·h)·U + b)
//   lstm     i, f, o = s(x + h·U + b), g = f(x + h·U + b), c ← f·c + i·g, h ← o·f(c)
//
// A block of samples runs through all steps by itself, so threads never wait for one another. Per step one
// product with u, packed once, then the gates row by row. Backward runs the steps in reverse and writes the
// gradients of all gates; that of u is then one product over all steps. Saved: the gates, and of lstm c, of
// gru what the product of its last gate gave (or was of). Gates lie `width` floats apart: whole vectors.
#include "../engine/product.h"
#include "wdfast/activation.h"
#include "wdfast/lanes.h"
#include "wdfast/parallel.h"

namespace WDFAST_NS {
namespace {

// ---- contract -----------------------------------------------------------------------------------------

constexpr int64_t kBlock = 8;     // samples per task: two tiles of 4; u comes from L2 once for all of them
constexpr int64_t kInBlock = 96;  // rows of du per task: whole tiles of 6, 12 and 14 nearly divide it
constexpr int64_t kTaskFlops = 1 << 19;  // below this (about 4 µs) no thread is woken

enum class Cell : int32_t { simple, gru, lstm };

struct Plan {
  Cell cell;
  bool reset_after, reversed;
  ActivationSpec f, s;
  int64_t n, t, h, width, gates;
};

struct Part {  // gates whose recurrent sums are of the same factor
  int64_t first, gates;
};
int64_t part_count(const Plan& p) { return p.cell == Cell::gru ? 2 : 1; }
Part part_of(const Plan& p, int64_t i) {
  if (p.cell != Cell::gru) return {0, p.gates};
  return i == 0 ? Part{0, 2} : Part{2, 1};
}
bool resets_before(const Plan& p) { return p.cell == Cell::gru && !p.reset_after; }
bool resets_after(const Plan& p) { return p.cell == Cell::gru && p.reset_after; }

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t gate_floats(const Plan& p) { return p.n * p.t * p.gates * p.width; }
int64_t saved_gates(const Plan& p) {
  return p.cell == Cell::simple ? 0 : gate_floats(p) + p.n * p.t * p.width;
}
int64_t kernel_floats(const Plan& p) { return p.h * p.gates * p.width; }

ActivationSpec activation_attr(Infer& io, const char* name, const char* usual) {
  const char* given = host->attr_string(io.attrs, name, usual);
  const char* const names[] = {"linear", "relu", "leaky_relu", "sigmoid", "tanh", "elu"};
  for (int i = 0; i < 6; ++i)
    if (text_equal(given, names[i])) return {static_cast<Activation>(i), i == 2 ? 0.2f : 1.0f};
  host->fail("recurrent: argument '%s': expected linear, relu, leaky_relu, sigmoid, tanh or elu, got '%s'",
             name, given);
  __builtin_unreachable();
}

void infer(Infer& io) {
  Plan& p = io.plan_as<Plan>();
  const char* const names[] = {"x", "u", "b", "h", "c", "mask", "keep"};
  for (int i = 0; i < io.n_in; ++i)
    if (io.in[i].given()) check_dtype("recurrent", names[i], io.in[i], DType::f32);
  const char* cell = host->attr_string(io.attrs, "cell", "lstm");
  const char* const cells[] = {"simple", "gru", "lstm"};
  int kind = 0;
  while (kind < 3 && !text_equal(cell, cells[kind])) ++kind;
  WDFAST_CHECK(kind < 3, "recurrent: argument 'cell': expected simple, gru or lstm, got '%s'", cell);
  p.cell = static_cast<Cell>(kind);
  p.gates = kind == 0 ? 1 : kind == 1 ? 3 : 4;
  p.f = activation_attr(io, "activation", "tanh");
  p.s = activation_attr(io, "recurrent_activation", "sigmoid");
  p.reset_after = host->attr_int(io.attrs, "reset_after", 1) != 0;
  p.reversed = host->attr_int(io.attrs, "reversed", 0) != 0;
  check_rank("recurrent", "x", io.in[0], 3);
  check_rank("recurrent", "u", io.in[1], 2);
  p.n = io.in[0].dim[0];
  p.t = io.in[0].dim[1];
  p.h = io.in[1].dim[0];
  p.width = padded_columns(p.h);
  check_dim("recurrent", "u", io.in[1], 1, p.gates * p.h);
  check_dim("recurrent", "x", io.in[0], 2, p.gates * p.h);
  for (int i = 2; i < io.n_in; ++i) {
    if (!io.in[i].given()) continue;
    check_rank("recurrent", names[i], io.in[i], i == 2 ? 1 : 2);
    if (i > 2) check_dim("recurrent", names[i], io.in[i], 0, p.n);
    check_dim("recurrent", names[i], io.in[i], i > 2, i == 2 ? p.gates * p.h : i == 5 ? p.t : p.h);
  }
  WDFAST_CHECK(p.cell == Cell::lstm || io.n_in <= 4 || !io.in[4].given(),
               "recurrent: argument 'c': only an lstm has it");
  io.out[0] = io.in[0];
  io.out[0].dim[2] = p.h;
  if (p.cell == Cell::lstm) {
    io.n_out = 2;
    io.out[1] = {.rank = 2, .dtype = DType::f32, .dim = {p.n, p.h}};
  }
  const bool drops = io.n_in > 6 && io.in[6].given();
  io.saved_bytes = (saved_gates(p) + (drops ? p.n * p.t * p.width : 0)) * 4;
  io.forward_scratch_bytes = (kernel_floats(p) + p.gates * p.width) * 4;
  const int64_t last = resets_after(p) ? p.n * p.t * p.width : 0;
  io.backward_scratch_bytes = (kernel_floats(p) + gate_floats(p) + last) * 4;
  io.flops = 2.0 * static_cast<double>(p.n * p.t) * static_cast<double>(p.h * p.gates * p.h);
  io.backward_flops = 2 * io.flops;
}

// Where things lie. `at` numbers the steps of all samples: sample · T + t.
struct Gates {
  float* data;
  int64_t row;  // floats from one step to the next
};
Gates gates_of(const Call& call) {  // of a simple layer the only gate is its output
  const Plan& p = call.plan_as<Plan>();
  if (p.cell == Cell::simple) return {call.f32_out(), p.h};
  return {static_cast<float*>(call.saved), p.gates * p.width};
}
float* extra_of(const Call& call, int64_t at) {  // lstm: c; gru: see above
  const Plan& p = call.plan_as<Plan>();
  return static_cast<float*>(call.saved) + gate_floats(p) + at * p.width;
}
float* kept_of(const Call& call, int64_t at) {  // h · keep
  const Plan& p = call.plan_as<Plan>();
  return static_cast<float*>(call.saved) + saved_gates(p) + at * p.width;
}
int64_t time_of(const Plan& p, int64_t step) { return p.reversed ? p.t - 1 - step : step; }
bool is_masked(const Call& call, int64_t at) { return call.in[5] && call.f32_in(5)[at] == 0.0f; }

// h and c before a step; null: zeros.
const float* state_before(const Call& call, int64_t sample, int64_t step) {
  const Plan& p = call.plan_as<Plan>();
  if (step > 0) return call.f32_out() + (sample * p.t + time_of(p, step - 1)) * p.h;
  return call.in[3] ? call.f32_in(3) + sample * p.h : nullptr;
}
const float* cell_before(const Call& call, int64_t sample, int64_t step) {
  const Plan& p = call.plan_as<Plan>();
  if (step > 0) return extra_of(call, sample * p.t + time_of(p, step - 1));
  return call.in[4] ? call.f32_in(4) + sample * p.h : nullptr;
}
const float* kept_before(const Call& call, int64_t sample, int64_t step) {
  const Plan& p = call.plan_as<Plan>();
  return call.in[6] ? kept_of(call, sample * p.t + time_of(p, step)) : state_before(call, sample, step);
}
WDFAST_INLINE vf load_or_zero(const float* from, int64_t i, auto lanes) {
  return from ? load(from + i, lanes) : vf{};
}

// body(first, end) over blocks of samples.
template <class Body>
WDFAST_INLINE void for_blocks(const Plan& p, const Body& body) {
  const bool tiny = 2 * p.n * p.t * p.h * p.gates * p.h < kTaskFlops;
  parallel_blocks(p.n, tiny ? p.n : kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kBlock) body(first, least(first + kBlock, end));
  });
}

// body(panel) over the panels of one step's product, of `k` summands. Threads share them where all samples
// are one block, and there is enough to do.
template <class Body>
WDFAST_INLINE void for_panels(int64_t panels, int64_t rows, int64_t k, const Body& body) {
  parallel_blocks(panels, kTaskFlops / (2 * rows * k * kPanel) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) body(panel);
  });
}

// ---- forward ------------------------------------------------------------------------------------------

// u by panels of columns, the gates `width` apart; then b, spread alike.
void pack_kernel(const Call& call, float* packed) {
  const Plan& p = call.plan_as<Plan>();
  const float *u = call.f32_in(1), *b = call.f32_in(2);
  const auto spread = [&](const float* row, int64_t column) {
    const int64_t j = column % p.width;
    return load_partial(row + column / p.width * p.h + j, least(p.h - j, kLanes));
  };
  for (int64_t i = 0; i < part_count(p); ++i) {
    const Part part = part_of(p, i);
    for (int64_t panel = 0; panel < panel_count(part.gates * p.width); ++panel) {
      const int64_t first = part.first * p.width + panel * kPanel;
      const int64_t columns = panel_columns(part.gates * p.width, panel);
      parallel_blocks(p.h, kStreamGrain / columns, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k)
          for (int64_t j = 0; j < columns; j += kLanes)
            store(packed + first * p.h + k * columns + j, spread(u + k * p.gates * p.h, first + j));
      });
    }
  }
  float* bias = packed + kernel_floats(p);
  for (int64_t j = 0; j < p.gates * p.width; j += kLanes) store(bias + j, b ? spread(b, j) : vf{});
}

// sums = a·u + b, of the gates of one part; a null: b alone.
void recurrent_sums(const Plan& p, const float* packed, Part part, const float* a, int64_t a_stride,
                    float* sums, int64_t rows) {
  const Run run = {0, p.h};
  const int64_t all = p.gates * p.width;
  for_panels(panel_count(part.gates * p.width), rows, p.h, [&](int64_t panel) {
    const int64_t first = part.first * p.width + panel * kPanel;
    const int64_t columns = panel_columns(part.gates * p.width, panel);
    multiply({.a = a ? a : sums,
              .a_stride = a_stride,
              .runs = &run,
              .n_runs = a ? 1 : 0,
              .b = packed + first * p.h,
              .b_stride = columns,
              .c = sums + first,
              .c_stride = all,
              .bias = packed + kernel_floats(p) + first,
              .columns = columns,
              .add = false,
              .relu = false},
             rows);
  });
}

// gate = activation(x + sums)
void open_gate(const ActivationSpec& spec, const float* x, const float* sums, float* gate, int64_t n) {
  with_activation(spec.kind, [&](auto a) {
    for_vectors(0, n, [&](int64_t i, auto lanes) {
      store(gate + i, activate<a.value>(load(x + i, lanes) + load(sums + i, lanes), spec.alpha), lanes);
    });
  });
}

void copy_row(float* to, const float* from, int64_t n) {
  for_vectors(0, n, [&](int64_t i, auto lanes) { store(to + i, load_or_zero(from, i, lanes), lanes); });
}

void keep_row(float* to, const float* from, const float* keep, int64_t n, bool add) {
  for_vectors(0, n, [&](int64_t i, auto lanes) {
    store(to + i, load_or_zero(from, i, lanes) * load(keep + i, lanes), lanes, add);
  });
}

// The gates that need no other: of gru z and r (and r·h), of lstm i, f, o.
void first_gates(const Call& call, int64_t sample, int64_t step, const float* sums) {
  const Plan& p = call.plan_as<Plan>();
  const int64_t at = sample * p.t + time_of(p, step), h = p.h;
  const float* x = call.f32_in(0) + at * p.gates * h;
  float* gates = gates_of(call).data + at * gates_of(call).row;
  if (is_masked(call, at)) {
    if (resets_before(p)) copy_row(extra_of(call, at), nullptr, h);
    return;
  }
  for (int64_t g = 0; g < p.gates; ++g)
    if (p.cell != Cell::simple && g != 2)
      open_gate(p.s, x + g * h, sums + g * p.width, gates + g * p.width, h);
  if (!resets_before(p)) return;
  const float* before = kept_before(call, sample, step);
  float* product = extra_of(call, at);
  for_vectors(0, h, [&](int64_t i, auto lanes) {
    store(product + i, load(gates + p.width + i, lanes) * load_or_zero(before, i, lanes), lanes);
  });
}

// The last gate, and with it the new state.
void new_state(const Call& call, int64_t sample, int64_t step, float* sums) {
  const Plan& p = call.plan_as<Plan>();
  const int64_t at = sample * p.t + time_of(p, step), h = p.h, width = p.width;
  const float *x = call.f32_in(0) + at * p.gates * h, *before = state_before(call, sample, step);
  float *y = call.f32_out() + at * h, *gates = gates_of(call).data + at * gates_of(call).row;
  if (is_masked(call, at)) {
    copy_row(y, before, h);
    if (p.cell == Cell::lstm) copy_row(extra_of(call, at), cell_before(call, sample, step), h);
    return;
  }
  if (p.cell == Cell::simple) return open_gate(p.f, x, sums, y, h);
  float *extra = extra_of(call, at), *last = sums + 2 * width;
  if (resets_after(p))
    for_vectors(0, h, [&](int64_t i, auto lanes) {
      store(extra + i, load(last + i, lanes), lanes);
      store(last + i, load(last + i, lanes) * load(gates + width + i, lanes), lanes);
    });
  open_gate(p.f, x + 2 * h, last, gates + 2 * width, h);
  if (p.cell == Cell::gru)
    return for_vectors(0, h, [&](int64_t i, auto lanes) {
      const vf z = load(gates + i, lanes), n = load(gates + 2 * width + i, lanes);
      store(y + i, z * (load_or_zero(before, i, lanes) - n) + n, lanes);
    });
  const float* cell = cell_before(call, sample, step);
  with_activation(p.f.kind, [&](auto a) {
    for_vectors(0, h, [&](int64_t i, auto lanes) {
      const vf c = load(gates + width + i, lanes) * load_or_zero(cell, i, lanes) +
                   load(gates + i, lanes) * load(gates + 2 * width + i, lanes);
      store(extra + i, c, lanes);
      store(y + i, load(gates + 3 * width + i, lanes) * activate<a.value>(c, p.f.alpha), lanes);
    });
  });
}

void forward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  if (p.n * p.h == 0) return;
  float* packed = static_cast<float*>(call.scratch);
  pack_kernel(call, packed);
  const int64_t all = p.gates * p.width;
  for_blocks(p, [&](int64_t begin, int64_t end) {
    float* sums = static_cast<float*>(host->thread_scratch(static_cast<size_t>(kBlock * all * 4)));
    for (int64_t step = 0; step < p.t; ++step) {
      for (int64_t n = begin; call.in[6] && n < end; ++n)
        keep_row(kept_of(call, n * p.t + time_of(p, step)), state_before(call, n, step),
                 call.f32_in(6) + n * p.h, p.h, false);
      const float* before = kept_before(call, begin, step);
      const int64_t stride = call.in[6] ? p.t * p.width : step > 0 ? p.t * p.h : p.h;
      for (int64_t i = 0; i < part_count(p); ++i)
        if (i == 0 || p.reset_after)
          recurrent_sums(p, packed, part_of(p, i), before, stride, sums, end - begin);
      for (int64_t n = begin; n < end; ++n) first_gates(call, n, step, sums + (n - begin) * all);
      if (resets_before(p))
        recurrent_sums(p, packed, part_of(p, 1), extra_of(call, begin * p.t + time_of(p, step)),
                       p.t * p.width, sums, end - begin);
      for (int64_t n = begin; n < end; ++n) new_state(call, n, step, sums + (n - begin) * all);
    }
    if (p.cell == Cell::lstm)
      for (int64_t n = begin; n < end; ++n)
        copy_row(call.f32_out(1) + n * p.h, cell_before(call, n, p.t), p.h);
  });
}

// ---- backward -----------------------------------------------------------------------------------------

struct Gradients {
  const float* packed;  // uᵀ of each part, by panels
  float* gates;         // of every step: of x + h·U + b
  float* last;          // gru that resets after: of the last gate's h·U + b
};
Gradients gradients_of(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  float* scratch = static_cast<float*>(call.scratch);
  float* gates = scratch + kernel_floats(p);
  float* last = gates + gate_floats(p);
  return {scratch, p.width == p.h && call.d_in[0] ? call.f32_d_in(0) : gates, last};
}

// A part's gradients of h·U + b, and how far apart those of two steps lie.
struct Sums {
  const float* data;
  int64_t row;
};
Sums sums_of(const Call& call, int64_t i) {
  const Plan& p = call.plan_as<Plan>();
  const Gradients d = gradients_of(call);
  if (i == 1 && p.reset_after) return {d.last, p.width};
  return {d.gates + part_of(p, i).first * p.width, p.gates * p.width};
}

void pack_transposed_kernel(const Call& call, float* packed) {
  const Plan& p = call.plan_as<Plan>();
  const int64_t panels = panel_count(p.h);
  parallel_for(part_count(p) * panels, [&](int64_t task) {
    const Part part = part_of(p, task / panels);
    const int64_t first = task % panels * kPanel, rows = part.gates * p.h;
    pack_transposed(packed + part.first * p.h * p.width + first * rows,
                    call.f32_in(1) + first * p.gates * p.h + part.first * p.h, p.gates * p.h, rows,
                    panel_columns(p.h, task % panels));
  });
}

// dh (+)= (gradients of one part at a step) · uᵀ
void state_gradient(const Call& call, int64_t i, int64_t begin, int64_t end, int64_t step, float* dh,
                    bool add) {
  const Plan& p = call.plan_as<Plan>();
  const Part part = part_of(p, i);
  const Sums sums = sums_of(call, i);
  const int64_t rows = part.gates * p.h;
  Run runs[4];
  for (int64_t g = 0; g < part.gates; ++g) runs[g] = {g * p.width, p.h};
  for_panels(panel_count(p.h), end - begin, rows, [&](int64_t panel) {
    const int64_t first = panel * kPanel, columns = panel_columns(p.h, panel);
    multiply({.a = sums.data + (begin * p.t + time_of(p, step)) * sums.row,
              .a_stride = p.t * sums.row,
              .runs = runs,
              .n_runs = part.gates,
              .b = gradients_of(call).packed + part.first * p.h * p.width + first * rows,
              .b_stride = padded_columns(columns),
              .c = dh + first,
              .c_stride = p.width,
              .bias = nullptr,
              .columns = columns,
              .add = add,
              .relu = false},
             end - begin);
  });
}

// d ← d · activation′, from the activation's value
void times_slope(const ActivationSpec& spec, const float* value, float* d, int64_t n) {
  with_activation(spec.kind, [&](auto a) {
    for_vectors(0, n, [&](int64_t i, auto lanes) {
      store(d + i, load(d + i, lanes) * activation_slope<a.value>(load(value + i, lanes), spec.alpha), lanes);
    });
  });
}

// The gradients of a step's gates, from dh and dc, which become what reaches the step before past the
// product.
void gate_gradients(const Call& call, int64_t sample, int64_t step, float* dh, float* dc) {
  const Plan& p = call.plan_as<Plan>();
  const int64_t at = sample * p.t + time_of(p, step), h = p.h, width = p.width;
  const Gradients d = gradients_of(call);
  const float *dy = call.f32_d_out() + at * h, *gates = gates_of(call).data + at * gates_of(call).row;
  float *to = d.gates + at * p.gates * width, *last = d.last + at * width;
  for_vectors(0, h, [&](int64_t i, auto lanes) { store(dh + i, load(dy + i, lanes), lanes, true); });
  if (is_masked(call, at)) {
    copy_row(to, nullptr, p.gates * width);
    if (resets_after(p)) copy_row(last, nullptr, h);
    return;
  }
  if (p.cell == Cell::simple) {
    copy_row(to, dh, h);
    times_slope(p.f, gates, to, h);
    return copy_row(dh, nullptr, h);
  }
  if (p.cell == Cell::gru) {
    const float *before = state_before(call, sample, step), *sums = extra_of(call, at);
    for_vectors(0, h, [&](int64_t i, auto lanes) {
      const vf z = load(gates + i, lanes), n = load(gates + 2 * width + i, lanes), g = load(dh + i, lanes);
      store(to + i, g * (load_or_zero(before, i, lanes) - n), lanes);
      store(to + 2 * width + i, g - g * z, lanes);
      store(dh + i, g * z, lanes);
    });
    times_slope(p.s, gates, to, h);
    times_slope(p.f, gates + 2 * width, to + 2 * width, h);
    if (!p.reset_after) return;
    for_vectors(0, h, [&](int64_t i, auto lanes) {
      const vf g = load(to + 2 * width + i, lanes);
      store(last + i, g * load(gates + width + i, lanes), lanes);
      store(to + width + i, g * load(sums + i, lanes), lanes);
    });
    return times_slope(p.s, gates + width, to + width, h);
  }
  const float *c = extra_of(call, at), *before = cell_before(call, sample, step);
  with_activation(p.f.kind, [&](auto a) {
    for_vectors(0, h, [&](int64_t i, auto lanes) {
      const vf value = activate<a.value>(load(c + i, lanes), p.f.alpha), g = load(dh + i, lanes);
      const vf through = g * load(gates + 3 * width + i, lanes) * activation_slope<a.value>(value, p.f.alpha);
      const vf gc = load(dc + i, lanes) + through;
      store(to + i, gc * load(gates + 2 * width + i, lanes), lanes);
      store(to + width + i, gc * load_or_zero(before, i, lanes), lanes);
      store(to + 2 * width + i, gc * load(gates + i, lanes), lanes);
      store(to + 3 * width + i, g * value, lanes);
      store(dc + i, gc * load(gates + width + i, lanes), lanes);
      store(dh + i, vf{}, lanes);
    });
  });
  for (int64_t g = 0; g < 4; ++g) times_slope(g == 2 ? p.f : p.s, gates + g * width, to + g * width, h);
}

// gru that resets before its product: d is the gradient of r·h; what r takes of it, and what h.
void reset_gradients(const Call& call, int64_t sample, int64_t step, const float* d, float* dh) {
  const Plan& p = call.plan_as<Plan>();
  const int64_t at = sample * p.t + time_of(p, step);
  if (is_masked(call, at)) return;
  const float* r = gates_of(call).data + at * p.gates * p.width + p.width;
  const float *before = kept_before(call, sample, step), *keep = call.f32_in(6);
  float* to = gradients_of(call).gates + at * p.gates * p.width + p.width;
  for_vectors(0, p.h, [&](int64_t i, auto lanes) {
    const vf g = load(d + i, lanes), taken = g * load(r + i, lanes);
    store(to + i, g * load_or_zero(before, i, lanes), lanes);
    store(dh + i, keep ? taken * load(keep + sample * p.h + i, lanes) : taken, lanes, true);
  });
  times_slope(p.s, r, to, p.h);
}

void steps_backward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  for_blocks(p, [&](int64_t begin, int64_t end) {
    const int64_t size = kBlock * p.width;
    float* dh = static_cast<float*>(host->thread_scratch(static_cast<size_t>(3 * size * 4)));
    float *dc = dh + size, *reset = dc + size;
    for (int64_t i = 0; i < size; i += kLanes) store(dh + i, vf{});
    if (p.cell == Cell::lstm)
      for (int64_t n = begin; n < end; ++n)
        copy_row(dc + (n - begin) * p.width, call.f32_d_out(1) + n * p.h, p.h);
    for (int64_t step = p.t; step-- > 0;) {
      for (int64_t n = begin; n < end; ++n)
        gate_gradients(call, n, step, dh + (n - begin) * p.width, dc + (n - begin) * p.width);
      if (resets_before(p)) {
        state_gradient(call, 1, begin, end, step, reset, false);
        for (int64_t n = begin; n < end; ++n)
          reset_gradients(call, n, step, reset + (n - begin) * p.width, dh + (n - begin) * p.width);
      }
      if (step == 0 && !call.d_in[3]) continue;
      float* past = call.in[6] ? reset : dh;
      state_gradient(call, 0, begin, end, step, past, !call.in[6]);
      if (resets_after(p)) state_gradient(call, 1, begin, end, step, past, true);
      for (int64_t n = begin; call.in[6] && n < end; ++n)
        keep_row(dh + (n - begin) * p.width, past + (n - begin) * p.width, call.f32_in(6) + n * p.h, p.h,
                 true);
    }
    for (int i = 3; i < 5; ++i)
      for (int64_t n = begin; call.d_in[i] && n < end; ++n)
        copy_row(call.f32_d_in(i) + n * p.h, (i == 3 ? dh : dc) + (n - begin) * p.width, p.h);
  });
}

// Of du the rows [k, k + kInBlock) and the columns [first, first + columns) of one part: over all steps the
// factor of its product, times the gradients.
void kernel_gradient(const Call& call, int64_t i, int64_t k, int64_t first, int64_t columns, float* du) {
  const Plan& p = call.plan_as<Plan>();
  const Sums sums = sums_of(call, i);
  const int64_t gate = first / p.h, from = p.width == p.h ? first : gate * p.width + first % p.h;
  float* packed = static_cast<float*>(host->thread_scratch(kOuterScratch * 4));
  Outer o = {.a = call.f32_out() + k + (p.reversed ? p.h : 0),
             .a_stride = p.h,
             .a_row_stride = p.t * p.h,
             .b = sums.data + from + (p.reversed ? 0 : sums.row),
             .b_stride = sums.row,
             .b_row_stride = p.t * sums.row,
             .pixels = p.t > 0 ? p.t - 1 : 0,
             .rows = p.n,
             .c = du + k * p.gates * p.h + part_of(p, i).first * p.h + first,
             .c_stride = p.gates * p.h,
             .k = least(p.h - k, kInBlock),
             .columns = columns,
             .add = false};
  const bool reset = i == 1 && resets_before(p);
  if (reset || call.in[6]) {
    o.a = (reset ? extra_of(call, 0) : kept_of(call, 0)) + k, o.a_stride = p.width, o.a_row_stride = 0;
    o.b = sums.data + from, o.pixels = p.n * p.t, o.rows = 1;
    return outer_long(o, packed);
  }
  outer_long(o, packed);
  if (!call.in[3] || p.t == 0) return;
  o.a = call.f32_in(3) + k, o.a_row_stride = 0;
  o.b = sums.data + from + time_of(p, 0) * sums.row, o.b_stride = p.t * sums.row;
  o.pixels = p.n, o.rows = 1, o.add = true;
  outer_long(o, packed);
}

// Of db the same columns: four sums, so that no step waits for the last.
void bias_gradient(const Call& call, int64_t i, int64_t first, int64_t columns, float* db) {
  const Plan& p = call.plan_as<Plan>();
  const Sums sums = sums_of(call, i);
  const int64_t from = p.width == p.h ? first : first / p.h * p.width + first % p.h;
  for_vectors(0, columns, [&](int64_t j, auto lanes) {
    vf sum[4] = {};
    for (int64_t at = 0; at < p.n * p.t; ++at)
      sum[at & 3] += load(sums.data + at * sums.row + from + j, lanes);
    store(db + part_of(p, i).first * p.h + first + j, (sum[0] + sum[1]) + (sum[2] + sum[3]), lanes);
  });
}

void backward(const Call& call) {
  const Plan& p = call.plan_as<Plan>();
  const Gradients d = gradients_of(call);
  if (p.n * p.h > 0) {
    pack_transposed_kernel(call, static_cast<float*>(call.scratch));
    steps_backward(call);
  }
  const int64_t blocks = (p.h + kInBlock - 1) / kInBlock;
  for (int64_t i = 0; i < part_count(p) && (call.d_in[1] || call.d_in[2]); ++i) {
    // The columns of a gate by themselves, unless no gap lies between two gates.
    const int64_t run = p.width == p.h ? part_of(p, i).gates * p.h : p.h,
                  runs = part_of(p, i).gates * p.h / run;
    const int64_t panels = panel_count(run);
    const bool tiny = 2 * p.n * p.t * p.h * p.gates * p.h < kTaskFlops;
    parallel_blocks(blocks * runs * panels, tiny ? blocks * runs * panels : 1,
                    [&](int64_t begin, int64_t end) {
                      for (int64_t task = begin; task < end; ++task) {
                        const int64_t k = task % blocks * kInBlock, panel = task / blocks % panels;
                        const int64_t first = task / blocks / panels * run + panel * kPanel,
                                      columns = panel_columns(run, panel);
                        if (call.d_in[1]) kernel_gradient(call, i, k, first, columns, call.f32_d_in(1));
                        if (call.d_in[2] && k == 0) bias_gradient(call, i, first, columns, call.f32_d_in(2));
                      }
                    });
  }
  float* dx = call.f32_d_in(0);
  if (!dx || d.gates == dx) return;
  const int64_t rows = p.n * p.t * p.gates;
  parallel_blocks(rows, kStreamGrain / (p.width + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) copy_row(dx + row * p.h, d.gates + row * p.width, p.h);
  });
}

// ---- registration -------------------------------------------------------------------------------------

WDFAST_OP(recurrent, {.name = "recurrent",
                      .plan_bytes = sizeof(Plan),
                      .min_inputs = 2,
                      .max_inputs = 7,
                      .infer = infer,
                      .forward = forward,
                      .backward = backward,
                      .differentiable = 0b0011111,
                      .backward_reads_in = 0b1111010,
                      .backward_reads_out = true});

}  // namespace
}  // namespace WDFAST_NS
