// optimizer_step: one training step of many parameters in one pass over p, g and the state.
//
//   g' = clip(scale·g) + λ₂ (p − r) + λ₁ sign(p)   penalty in the gradient (coupled); r: the anchor, or 0
//   u  = direction(g', state)                      update_rules.h
//   p ← p − (s·mask·(p − r) + η u)                 s: multiplicative shrink; mask: 1, or u·p ≥ 0 (cautious)
//   p ← soft(p, t₁/D) / (1 + t₂/D |p₀|^(q−2))      proximal: exact zeros; D: 1, or √v̂ + ε (adaptive);
//                                                  p₀: p before the step
//   p ← p · min(1, c/‖p‖) per output               max_norm, a second pass where a norm is above c
//   emit per segment, from before the update: Σp², Σ|p|, #(p = 0), Σu·p, Σg², #(g not finite)
//
// What a segment is and where its numbers come from: engine/segments.h. One vector of it: engine/sweep.h.
// Here is what happens to a unit of work, and to the whole.
#include "../engine/product.h"
#include "../engine/sweep.h"
#include "wdfast/lanes.h"

namespace WDFAST_NS {
namespace {

// ---- a unit of work -----------------------------------------------------------------------------------

struct Work {      // what every unit needs
  float* columns;  // Σp² per output and unit of the segments whose norms are bounded
  int64_t slot_bytes, rounding_seed;
  uint64_t number;  // of the step
  Step step;
  const float *x, *dy;  // the factors of the gradient, if it is given by them: (terms, in) and (terms, out)
  int64_t terms, in, out;
};

// Elements [begin, end), whole rows, of xᵀ·dy.
const float* make_gradient(const Work& work, int64_t begin, int64_t end) {
  float* rows = static_cast<float*>(
      host->thread_scratch(static_cast<size_t>(kGradientRows * work.out + kOuterScratch) * 4));
  outer_long({.a = work.x + begin / work.out,
              .a_stride = work.in,
              .a_row_stride = 0,
              .b = work.dy,
              .b_stride = work.out,
              .b_row_stride = 0,
              .pixels = work.terms,
              .rows = 1,
              .c = rows,
              .c_stride = work.out,
              .k = (end - begin) / work.out,
              .columns = work.out,
              .add = false},
             rows + kGradientRows * work.out);
  return rows;
}

// The n < kLanes elements that are no whole vector, stepped in a copy; `sums` takes their lanes alone.
void sweep_rest(Sweep sweep, const Arrays& a, int64_t n, int64_t slot_bytes, const Segment& segment,
                const Step& step, Sums& sums) {
  vf copies[kMaxSlots + 5];
  int used = 0;
  const auto copy = [&](auto* from, size_t bytes) -> char* {
    if (!from) return nullptr;
    copies[used] = vf{};
    __builtin_memcpy(&copies[used], from, static_cast<size_t>(n) * bytes);
    return reinterpret_cast<char*>(&copies[used++]);
  };
  const auto put = [&](auto* to, const void* from, size_t bytes) {
    if (to) __builtin_memcpy(to, from, static_cast<size_t>(n) * bytes);
  };
  const auto floats = [&](const float* from) { return reinterpret_cast<float*>(copy(from, sizeof(float))); };
  const size_t slot = static_cast<size_t>(slot_bytes);
  const Arrays one = {floats(a.p),       {copy(a.s[0], slot), copy(a.s[1], slot), copy(a.s[2], slot)},
                      floats(a.g),       floats(a.anchor),
                      floats(a.average), floats(a.accumulator),
                      a.random};
  Sums rest = {};
  sweep(one, 1, segment, step, &rest);
  put(a.p, one.p, sizeof(float)), put(a.average, one.average, sizeof(float));
  put(a.accumulator, one.accumulator, sizeof(float));
  for (int k = 0; k < kMaxSlots; ++k) put(a.s[k], one.s[k], slot);
  const vi inside = lane_numbers() < static_cast<int32_t>(n);
  const auto add = [&](vf& sum, vf lanes) { sum += select(inside, lanes, vf{}); };
  add(sums.squares, rest.squares), add(sums.magnitudes, rest.magnitudes);
  add(sums.alignment, rest.alignment), add(sums.gradient_squares, rest.gradient_squares);
  add(sums.after, rest.after), add(sums.total_squares, rest.total_squares), add(sums.second, rest.second);
  sums.zeros += rest.zeros & inside, sums.non_finite += rest.non_finite & inside;
}

void flush(const Sums& sums, double* out) {
  const vf in_order[kSums] = {sums.squares,   sums.magnitudes,       to_float(-sums.zeros),
                              sums.alignment, sums.gradient_squares, to_float(-sums.non_finite),
                              sums.after,     sums.total_squares,    sums.second};
  for (int k = 0; k < kSums; ++k)
    for (int lane = 0; lane < kLanes; ++lane) out[k] += static_cast<double>(in_order[k][lane]);
}

// columns[j] += Σ p[., j]² over rows that lie `outputs` apart.
void add_squares(const float* p, int64_t rows, int64_t width, int64_t outputs, float* columns) {
  for_vectors(0, width, [&](int64_t j, auto lanes) {
    vf sum = {};
    for (int64_t i = 0; i < rows; ++i) {
      const vf x = load(p + i * outputs + j, lanes);
      sum += x * x;
    }
    store(columns + j, sum, lanes, true);
  });
}

// How many elements to step first so that the rest starts on a cache line: a vector over two of them costs as
// much as several decays. Only where nobody sums: the order of a sum must not depend on where memory was
// free.
int64_t before_line(const float* p, int64_t n) {
  const int64_t into = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p) / sizeof(float) % kLine);
  return into && n > kLine ? kLine - into : n;
}

// Elements [begin, end) of a segment, whose arrays begin at `first`.
void update_elements(const Work& work, Sweep sweep, const Segment& s, const Arrays& first, int64_t begin,
                     int64_t end, float* columns, double* out) {
  const bool bounded = s.max_norm > 0 && !work.step.measure && !work.step.hold;
  const bool whole_rows = bounded && s.outputs <= kChunk;
  const bool summed = work.step.statistics || s.path >= Path::remembering;
  const bool rounds = work.rounding_seed >= 0 && !work.step.measure && !work.step.hold;
  const int64_t chunk = whole_rows                    ? kChunk / s.outputs * s.outputs
                        : summed || bounded || rounds ? kChunk
                                                      : s.unit;
  alignas(64) uint16_t random[kChunk + 2 * kRandomGroup];
  for (int64_t at = begin; at < end;) {
    int64_t n = end - at < chunk ? end - at : chunk;
    const int64_t column = bounded ? at % s.outputs : 0;
    if (bounded && !whole_rows && n > s.outputs - column) n = s.outputs - column;
    if (!summed && !bounded && at == begin) n = before_line(first.p + at, n);
    const int64_t vectors = n / kLanes, rest = n % kLanes;
    Arrays a = behind(first, at, work.slot_bytes);
    a.random = random + (s.state_at + at) % kRandomGroup;
    if (rounds)
      random_halves(static_cast<uint64_t>(work.rounding_seed), work.number, s.state_at + at, n, random);
    Sums sums = {};
    sweep(a, vectors, s, work.step, &sums);
    if (rest)
      sweep_rest(sweep, behind(a, n - rest, work.slot_bytes), rest, work.slot_bytes, s, work.step, sums);
    if (summed) flush(sums, out);
    if (whole_rows) add_squares(a.p, n / s.outputs, s.outputs, s.outputs, columns);
    if (bounded && !whole_rows) add_squares(a.p, 1, n, n, columns + column);
    at += n;
  }
}

void update_unit(const Work& work, Sweep sweep, const Segment& s, int64_t unit, double* out) {
  const int64_t begin = unit * s.unit, end = s.length - begin < s.unit ? s.length : begin + s.unit;
  float* columns = work.columns + s.columns_at + unit * s.outputs;
  for (int64_t j = 0; s.max_norm > 0 && j < s.outputs; ++j) columns[j] = 0;
  for (int k = 0; k < kSums; ++k) out[k] = 0;
  if (!work.x) return update_elements(work, sweep, s, s.begin, begin, end, columns, out);
  Arrays first = s.begin;
  const int64_t most = kGradientRows * work.out;
  for (int64_t at = begin; at < end; at += most) {
    const int64_t stop = end - at < most ? end : at + most;
    first.g = make_gradient(work, at, stop) - at;
    update_elements(work, sweep, s, first, at, stop, columns, out);
  }
}

constexpr int64_t kFactors = 512;  // outputs of a task

// p ← p·min(1, c/‖p‖) for each output, a column of the segment as rows × outputs, from the units' sums of
// squares; then the average, which the sweep left to this place.
void bound_norms(const Work& work, const Segment& s) {
  const Arrays& whole = s.begin;
  float* factors = work.columns + s.columns_at;  // in the place of the first unit's sums
  const double limit = static_cast<double>(s.max_norm);
  parallel_blocks(s.outputs, kFactors, [&](int64_t begin, int64_t end) {
    double squares[kFactors] = {};
    for (int64_t unit = 0; unit < s.units; ++unit)
      for (int64_t j = begin; j < end; ++j)
        squares[j - begin] += static_cast<double>(factors[unit * s.outputs + j]);
    for (int64_t j = begin; j < end; ++j) {
      const double norm = __builtin_sqrt(squares[j - begin]);
      factors[j] = norm > limit ? static_cast<float>(limit / norm) : 1.0f;
    }
  });
  bool inside = true;
  for (int64_t j = 0; j < s.outputs; ++j) inside &= factors[j] == 1.0f;
  if (inside && !whole.average) return;
  parallel_blocks(s.length, s.unit, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += s.outputs)
      for_vectors(0, s.outputs, [&](int64_t j, auto lanes) {
        const vf next = load(whole.p + row + j, lanes) * load(factors + j, lanes);
        store(whole.p + row + j, next, lanes);
        if (!whole.average) return;
        float* average = whole.average + row + j;
        store(average, averaged(s, load(average, lanes), next), lanes);
      });
  });
}

// ---- the step -----------------------------------------------------------------------------------------

// Sets the bound of a constraint that has none yet, if this step is where.
void await_bound(const Segment& s, int64_t step, double* row) {
  const double squares = row[kSquaresNow];
  const int64_t wait = static_cast<int64_t>(s.target);
  if (s.form == kConstrainedWarmStart && step >= wait) row[kBound] = squares;
  if (s.form != kConstrainedInflection || step % wait != 0) return;
  const double growth = squares - row[kSample];
  if (growth < row[kGrowth]) row[kBound] = squares;
  row[kSample] = squares, row[kGrowth] = growth;
}

void remember(const Plan& plan, const Segment& s, const double* sums, int64_t step, double* memory) {
  double* row = memory + s.memory_row * kMemoryColumns;
  row[step & 1 ? kSecondOdd : kSecondEven] = sums[kSecond];
  if (plan.measure) {
    row[kMeasuredGradient] = sums[kTotalSquares];
    if (plan.exact) row[kSquaresNow] = sums[kSquares];
  } else {
    row[kMultiplier] = s.multiplier;
    row[kSquaresNow] = sums[kAfter];
    row[kBound] = s.bound;
    if (s.bound < 0) await_bound(s, step, row);
  }
}

void forward(const Call& call) {
  const Plan& plan = call.plan_as<Plan>();
  const double* hyper = static_cast<const double*>(call.in[3]);
  double* memory = static_cast<double*>(const_cast<void*>(call.in[kMemory]));
  Segment* segments = static_cast<Segment*>(call.scratch);
  double* partial = reinterpret_cast<double*>(segments + plan.segments);
  float* columns = reinterpret_cast<float*>(partial + plan.max_units * kSums);
  int32_t* owner = reinterpret_cast<int32_t*>(columns + columns_room(plan));
  WDFAST_CHECK(hyper[kStep] >= 1, "%s: argument 'hyper': steps count from 1, got %g", kOp, hyper[kStep]);
  const int64_t units = read_segments(plan, call, segments);
  int64_t elements = 0;
  for (int64_t i = 0; i < plan.segments; ++i) {
    elements += segments[i].length;
    for (int64_t unit = 0; unit < segments[i].units; ++unit)
      owner[segments[i].first_unit + unit] = static_cast<int32_t>(i);
  }
  const bool hold = plan.accumulation_clock >= 0 && hyper[plan.accumulation_clock] == 0;
  const Coefficients c = coefficients(plan.rule, plan.constants, hyper[kStep], hyper[kMomentumProduct]);
  const Work work = {
      columns,
      plan.slot_bytes,
      plan.rounding_seed,
      static_cast<uint64_t>(hyper[kStep]),
      {c, static_cast<float>(hyper[kGradientScale]), plan.measure, hold, plan.statistics || plan.measure},
      call.f32_in(kX),
      call.f32_in(kDy),
      plan.terms,
      plan.in,
      plan.out};
  Sweep sweeps[kPaths];
  with_rule(plan.rule, [&](auto rule) {
    for (int i = 0; i < kPaths; ++i) {
      const Path path = static_cast<Path>(i);
      sweeps[i] = sweep_of<rule.value, float>(path);
      if constexpr (kRuleInfo[static_cast<int>(rule.value)].slots > 0)
        if (plan.rounding_seed >= 0) sweeps[i] = sweep_of<rule.value, bfloat16>(path);
    }
  });

  const auto update = [&](int64_t unit) {
    const Segment& s = segments[owner[unit]];
    update_unit(work, sweeps[static_cast<int>(s.path)], s, unit - s.first_unit, partial + unit * kSums);
  };
  // Many short segments are no more work than one: not worth waking a thread. Products are.
  if (elements <= kStreamGrain && !plan.out)
    for (int64_t unit = 0; unit < units; ++unit) update(unit);
  else
    parallel_for(units, update);

  double* stats = static_cast<double*>(call.out[0]);
  for (int64_t i = 0; i < plan.segments; ++i) {  // the units of a segment meet in a binary tree
    const Segment& s = segments[i];
    double* sum = partial + s.first_unit * kSums;
    for (int k = 0; k < kSums; ++k)
      for (int64_t left = s.units; left > 1; left = (left + 1) / 2)
        for (int64_t b = 0; b < (left + 1) / 2; ++b)
          sum[b * kSums + k] = sum[2 * b * kSums + k] + (2 * b + 1 < left ? sum[(2 * b + 1) * kSums + k] : 0);
    for (int k = 0; k < kStatistics; ++k) stats[i * kStatistics + k] = s.units ? sum[k] : 0;
    if (!s.units || hold) continue;
    if (s.max_norm > 0 && !plan.measure) bound_norms(work, s);
    if (memory) remember(plan, s, sum, static_cast<int64_t>(hyper[kStep]), memory);
  }
}

// ---- registration -------------------------------------------------------------------------------------

WDFAST_OP(optimizer_step, {.name = "optimizer_step",
                           .plan_bytes = sizeof(Plan),
                           .min_inputs = 0,  // `infer` says which, with addresses, factors or without
                           .max_inputs = kInputs,
                           .infer = infer,
                           .forward = forward,
                           .mutates = 0b011101110001});

}  // namespace
}  // namespace WDFAST_NS
