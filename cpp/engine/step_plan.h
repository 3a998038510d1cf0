// What optimizer_step is told: the columns of its tables, the plan made of its arguments, and what a segment
// is.
#pragma once

#include "wdfast/integers.h"
#include "wdfast/parallel.h"
#include "wdfast/update_rules.h"

namespace WDFAST_NS {
namespace {

constexpr const char* kOp = "optimizer_step";

// Columns of `table`, a row per segment.
enum Column {
  kParameterAt,
  kGradientAt,
  kStateAt,
  kLength,
  kRateShare,
  kL2,
  kL2Clock,
  kL1,
  kL1Clock,
  kShrink,
  kShrinkClock,
  kForm,  // of the shrink, enum Form
  kTarget,
  kProximalL1,
  kProximalL1Clock,
  kProximalL2,
  kProximalL2Clock,
  kPower,
  kAdaptive,  // whether what is proximal is measured in the metric √v̂ + ε
  kAnchored,
  kMaxNorm,
  kOutputs,  // the last axis: what max_norm bounds is each of these
  kMemoryRow,
  kColumns
};
enum Form : int {
  kPlainShrink,
  kCautious,
  kStable,
  kNormTarget,
  kConstrained,            // the bound is the target, or set once for each segment: to
  kConstrainedInitial,     // the target times Σp² before the first step;
  kConstrainedWarmStart,   // Σp² after as many steps as the target says;
  kConstrainedInflection,  // Σp² where its growth between samples, so many steps apart, first falls
  kForms
};
// Inputs beside param, grad, table, hyper and the slots; the first three lie as the slots do. The last two
// are given instead of grad: the gradient of the only segment, a matrix, is their product xᵀ·dy.
enum Input { kAnchor = 4 + kMaxSlots, kAverage, kAccumulator, kMemory, kAddresses, kX, kDy, kInputs };
// Columns of `addresses`, a row per segment, given instead of the arrays of weights when each parameter has
// memory of its own; positions do not count then. Who makes it has checked what it points to.
enum Address {
  kParameterAddress,
  kGradientAddress,
  kSlotAddress,
  kAnchorAddress = kSlotAddress + kMaxSlots,
  kAverageAddress,
  kAccumulatorAddress,
  kAddressColumns
};
// Columns of `memory`, a row per parameter of the optimizer. Σv̂ has one for even steps and one for odd, so
// that all calls of a step read what the step before left.
enum Memory {
  kMultiplier,
  kSquaresNow,
  kMeasuredGradient,
  kElements,
  kSecondEven,
  kSecondOdd,
  kBound,   // of constrained: κ; below 0 until it is set
  kSample,  // Σp² when it was last sampled
  kGrowth,  // by how much it was more than the sample before
  kMemoryColumns
};
// The first values of `hyper`; any that follow are clocks.
enum Hyper { kRate, kStep, kGradientScale, kMomentumProduct, kHyperFixed };
// Columns of `stats`.
enum Statistic { kSquares, kMagnitudes, kZeros, kAlignment, kGradientSquares, kNonFinite, kStatistics };
// The sums behind them that `memory` takes.
enum Sum { kAfter = kStatistics, kTotalSquares, kSecond, kSums };

constexpr int64_t kBlock = kStreamGrain;  // elements of a unit of work
// In a long segment a unit is 2 MB of each array: a core's prefetcher loses its streams that seldom.
constexpr int64_t kLong = int64_t{1} << 22, kLongUnit = 32 * kBlock;
constexpr int64_t kRows = 64;          // of a bounded segment a unit has at least so many rows: few sums
constexpr int64_t kGradientRows = 48;  // of xᵀ·dy that are made, and stepped while they are in cache

struct Plan {
  Rule rule;
  RuleConstants constants;
  int64_t segments, clocks, parameters, gradients, states, max_units, memory_rows;
  double clip_value, clip_norm, global_clip_norm, average_momentum;
  int64_t accumulation_steps, accumulation_clock, bounded_outputs;
  int64_t slot_bytes, rounding_seed;  // 4: float32; 2: bfloat16, stochastically rounded
  int64_t terms, in, out;             // of the factors of the gradient, if it is given by them; else 0
  bool measure, exact, statistics;
};

struct Arrays {  // where a run of elements lies
  float* p;
  char* s[kMaxSlots];  // float or bfloat16
  const float *g, *anchor;
  float *average, *accumulator;
  const uint16_t* random;  // of bfloat16 state
};

// The same arrays, i elements on.
Arrays behind(const Arrays& a, int64_t i, int64_t slot_bytes) {
  const auto on = [i](auto* from) { return from ? from + i : from; };
  const auto slot = [=](char* from) { return from ? from + i * slot_bytes : from; };
  return {on(a.p),       {slot(a.s[0]), slot(a.s[1]), slot(a.s[2])},
          on(a.g),       on(a.anchor),
          on(a.average), on(a.accumulator),
          on(a.random)};
}

// Which branches of a step a segment needs: most decays need one, compiled apart, free of the others.
enum class Path : int32_t { plain, linear, anchored, subgradient, cautious, proximal, remembering, all };
constexpr int kPaths = 8;

// Of p_norm: q − 2, whose multiples of one half need no logarithm.
enum class Exponent : int32_t { none, half, one, three_halves, two, other };

struct Segment {  // one row, with this step's values
  Arrays begin;
  int64_t state_at, length, first_unit, units, memory_row;
  int64_t unit;  // elements; whole rows where norms are bounded
  int64_t outputs, columns_at;
  Path path;
  Form form;
  double target, multiplier, bound;                                             // constrained: μ, κ
  float rate, l2, l1, shrink, proximal_l1, proximal_l2, kept, power, max_norm;  // kept: 1/(1 + t₂)
  Exponent exponent;
  float clip_value, clip, average, accumulated;  // clip: a factor; average: weight of the newest, 0: not here
  bool cautious, anchored, adaptive;
};

// How many floats the sums of squares of bounded outputs need.
int64_t columns_room(const Plan& plan) {
  return plan.bounded_outputs ? plan.parameters / kRows + plan.bounded_outputs : 0;
}

// terms, in and out of x (…, in) and dy (…, out), which lie in whole vectors.
static void read_factors(const Infer& io, int64_t (&sizes)[3]) {
  const Spec &x = io.in[kX], &dy = io.in[kDy];
  check_dtype(kOp, "x", x, DType::f32);
  check_dtype(kOp, "dy", dy, DType::f32);
  WDFAST_CHECK(x.rank > 0 && dy.rank > 0, "%s: arguments 'x' and 'dy': expected at least 1 dimension", kOp);
  const int64_t in = x.dim[x.rank - 1], out = dy.dim[dy.rank - 1];
  WDFAST_CHECK(
      in > 0 && out > 0 && out % kLanes == 0 && x.size() / in == dy.size() / out,
      "%s: arguments 'x' and 'dy': expected (…, in) and (…, out) with as many rows, and out a multiple "
      "of %d",
      kOp, kLanes);
  WDFAST_CHECK(io.in[0].size() == in * out && io.in[2].dim[0] == 1,
               "%s: argument 'param': expected the one matrix whose gradient is xᵀ·dy, %lld × %lld", kOp,
               static_cast<long long>(in), static_cast<long long>(out));
  sizes[0] = x.size() / in, sizes[1] = in, sizes[2] = out;
}

static void infer(Infer& io) {
  const char* const slot_names[] = {"slot1", "slot2", "slot3"};
  const Spec &p = io.in[0], &g = io.in[1], &table = io.in[2], &hyper = io.in[3];
  const bool by_address = io.in[kAddresses].given(), by_factors = io.in[kX].given() && io.in[kDy].given();
  WDFAST_CHECK(io.in[kX].given() == io.in[kDy].given() && !(by_factors && (by_address || g.given())),
               "%s: arguments 'x' and 'dy': both or none, and then no 'grad'", kOp);
  for (int i = 0; i < kMemory; ++i) {
    const bool given = io.in[i].given(), table_or_hyper = i == 2 || i == 3;
    WDFAST_CHECK(given || i > 3 || (by_address && !table_or_hyper) || (by_factors && i == 1),
                 "%s: input %d is required", kOp, i);
    WDFAST_CHECK(!given || !by_address || table_or_hyper, "%s: argument 'addresses': given instead of arrays",
                 kOp);
  }
  if (by_address) {
    check_dtype(kOp, "addresses", io.in[kAddresses], DType::f64);
    check_rank(kOp, "addresses", io.in[kAddresses], 2);
    check_dim(kOp, "addresses", io.in[kAddresses], 0, table.dim[0]);
    check_dim(kOp, "addresses", io.in[kAddresses], 1, kAddressColumns);
  } else {
    check_dtype(kOp, "param", p, DType::f32);
    if (!by_factors) check_dtype(kOp, "grad", g, DType::f32);
  }
  int64_t factors[3] = {};
  if (by_factors) read_factors(io, factors);
  check_dtype(kOp, "table", table, DType::f64);
  check_rank(kOp, "table", table, 2);
  check_dim(kOp, "table", table, 1, kColumns);
  check_dtype(kOp, "hyper", hyper, DType::f64);
  check_rank(kOp, "hyper", hyper, 1);
  WDFAST_CHECK(hyper.dim[0] >= kHyperFixed, "%s: argument 'hyper': expected at least %d values, got %lld",
               kOp, static_cast<int>(kHyperFixed), static_cast<long long>(hyper.dim[0]));
  const Rule rule = parse_rule(kOp, io.attrs);
  const RuleInfo& info = kRuleInfo[static_cast<int>(rule)];
  const int64_t rounding_seed = host->attr_int(io.attrs, "rounding_seed", -1);
  for (int i = 0; i < kMaxSlots; ++i) {
    const Spec& slot = io.in[4 + i];
    WDFAST_CHECK(by_address || slot.given() == (i < info.slots),
                 "%s: argument '%s': rule %s has %d state arrays", kOp, slot_names[i], info.name, info.slots);
    if (!slot.given()) continue;
    check_dtype(kOp, slot_names[i], slot, rounding_seed < 0 ? DType::f32 : DType::u16);
    WDFAST_CHECK(slot.size() == io.in[4].size(), "%s: argument '%s': expected as many elements as slot1", kOp,
                 slot_names[i]);
  }
  RuleConstants constants;
  const auto constant = [&](const char* name, double fallback, double below) {
    const double value = host->attr_float(io.attrs, name, fallback);
    WDFAST_CHECK(value >= 0 && value < below, "%s: argument '%s': expected a number in [0, %g), got %g", kOp,
                 name, below, value);
    return value;
  };
  constants.momentum = constant("momentum", 0.9, 1);
  constants.beta_1 = constant("beta_1", 0.9, 1);
  constants.beta_2 = constant("beta_2", 0.999, 1);
  constants.epsilon = constant("epsilon", 1e-7, __builtin_inf());
  constants.momentum_decay = constant("momentum_decay", 1, __builtin_inf());

  int64_t states = io.in[4].given() ? io.in[4].size() : 0;
  const char* const extra_names[] = {"anchor", "average", "accumulator"};
  for (int i = kAnchor; i <= kAccumulator; ++i) {
    if (!io.in[i].given()) continue;
    check_dtype(kOp, extra_names[i - kAnchor], io.in[i], DType::f32);
    if (!states) states = io.in[i].size();
    WDFAST_CHECK(io.in[i].size() == states, "%s: argument '%s': expected as many elements as slot1", kOp,
                 extra_names[i - kAnchor]);
  }
  const Spec& memory = io.in[kMemory];
  if (memory.given()) {
    check_dtype(kOp, "memory", memory, DType::f64);
    check_rank(kOp, "memory", memory, 2);
    check_dim(kOp, "memory", memory, 1, kMemoryColumns);
  }
  const int64_t elements = by_address ? host->attr_int(io.attrs, "elements", 0) : p.size();
  WDFAST_CHECK(elements >= 0, "%s: argument 'elements': expected an int ≥ 0, got %lld", kOp,
               static_cast<long long>(elements));
  const int64_t segments = table.dim[0], max_units = elements / kBlock + segments;
  const double inf = __builtin_inf();
  Plan& plan = io.plan_as<Plan>();
  plan = {rule,
          constants,
          segments,
          hyper.dim[0],
          elements,
          by_address || by_factors ? elements : g.size(),
          by_address ? elements : states,
          max_units,
          memory.given() ? memory.dim[0] : 0,
          constant("clip_value", 0, inf),
          constant("clip_norm", 0, inf),
          constant("global_clip_norm", 0, inf),
          constant("average_momentum", 0.99, 1),
          static_cast<int64_t>(host->attr_float(io.attrs, "accumulation_steps", 1)),
          static_cast<int64_t>(host->attr_float(io.attrs, "accumulation_clock", -1)),
          static_cast<int64_t>(constant("bounded_outputs", 0, 1e15)),
          rounding_seed < 0 ? 4 : 2,
          rounding_seed,
          factors[0],
          factors[1],
          factors[2],
          host->attr_float(io.attrs, "measure", 0) != 0,
          host->attr_float(io.attrs, "exact", 0) != 0,
          host->attr_float(io.attrs, "statistics", 1) != 0};
  const bool accumulates = by_address ? plan.accumulation_steps > 1 : io.in[kAccumulator].given();
  WDFAST_CHECK(accumulates == (plan.accumulation_steps > 1) &&
                   accumulates == (plan.accumulation_clock >= 0) && plan.accumulation_clock < plan.clocks &&
                   plan.accumulation_steps > 0,
               "%s: argument 'accumulator': given with accumulation_steps ≥ 2 and their clock", kOp);
  WDFAST_CHECK(plan.memory_rows || !(plan.measure || plan.clip_norm > 0 || plan.global_clip_norm > 0),
               "%s: argument 'memory': norms and measures need it", kOp);
  io.out[0] = {.rank = 2, .dtype = DType::f64, .dim = {segments, kStatistics}};
  io.forward_scratch_bytes = segments * static_cast<int64_t>(sizeof(Segment)) +
                             max_units * kSums * static_cast<int64_t>(sizeof(double)) +
                             columns_room(plan) * static_cast<int64_t>(sizeof(float)) +
                             max_units * static_cast<int64_t>(sizeof(int32_t));
  io.flops = 20.0 * static_cast<double>(elements);  // of the order of Adam's
}

}  // namespace
}  // namespace WDFAST_NS
