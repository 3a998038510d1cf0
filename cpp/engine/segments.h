// The segments of one call of optimizer_step, read and checked before anything is written.
//
// A segment is one parameter: where it lies in each array, its decays, its share of the learning rate. Each
// of its strengths is multiplied by one value of `hyper`, its clock, so λ can follow the learning rate or a
// schedule of its own; clock −1 is the constant 1.
//
// A shrink that depends on a sum over a tensor or the model reads it from `memory`, where the step before
// left it, or where a call with `measure` (which updates nothing else) has put it.
#pragma once

#include "step_plan.h"

namespace WDFAST_NS {
namespace {

// Reads and checks a row before anything is written.
int64_t position(int64_t row, const double* values, Column column, const char* of, int64_t size,
                 int64_t length) {
  const double at = values[column];
  WDFAST_CHECK(at >= 0 && at <= static_cast<double>(size - length) && at == __builtin_floor(at),
               "%s: argument 'table': segment %lld: %lld elements at %g are not within the %lld of %s", kOp,
               static_cast<long long>(row), static_cast<long long>(length), at, static_cast<long long>(size),
               of);
  return static_cast<int64_t>(at);
}

double clocked(const Plan& plan, int64_t row, const double* values, int column, const double* hyper) {
  const double clock = values[column + 1];
  WDFAST_CHECK(clock >= -1 && clock < static_cast<double>(plan.clocks) && clock == __builtin_floor(clock),
               "%s: argument 'table': segment %lld: %g is not a clock", kOp, static_cast<long long>(row),
               clock);
  return clock < 0 ? values[column] : values[column] * hyper[static_cast<int64_t>(clock)];
}

double column_sum(const Plan& plan, const double* memory, int64_t column) {
  double sum = 0;
  for (int64_t i = 0; i < plan.memory_rows; ++i) sum += memory[i * kMemoryColumns + column];
  return sum;
}

// What of a segment depends on sums of the step before, or of a measuring call.
void recall(const Plan& plan, const double* row, const double* hyper, const double* memory, Segment& s) {
  const double* own = memory + s.memory_row * kMemoryColumns;
  const double norm = __builtin_sqrt(own[kSquaresNow]), gradient = own[kMeasuredGradient];
  s.target = row[kTarget];
  s.multiplier = own[kMultiplier];
  s.bound = s.form == kConstrained ? s.target : own[kBound];
  if (s.form == kConstrainedInitial && s.bound < 0) s.bound = s.target * own[kSquaresNow];
  if (s.form == kStable) {
    const bool odd = (static_cast<int64_t>(hyper[kStep]) & 1) == (plan.exact ? 1 : 0);
    const double mean =
        column_sum(plan, memory, odd ? kSecondOdd : kSecondEven) / column_sum(plan, memory, kElements);
    s.shrink = mean > 0 ? static_cast<float>(static_cast<double>(s.shrink) / __builtin_sqrt(mean)) : 0;
  } else if (s.form == kNormTarget) {
    s.shrink = norm > 0 ? static_cast<float>(static_cast<double>(s.shrink) * (1 - s.target / norm)) : 0;
  } else if (s.form >= kConstrained) {
    if (s.bound >= 0)
      s.multiplier += (own[kSquaresNow] - s.bound) / static_cast<double>(s.length ? s.length : 1);
    if (s.multiplier < 0) s.multiplier = 0;
    s.shrink = static_cast<float>(2 * s.multiplier * static_cast<double>(s.shrink));
  }
  if (plan.measure) return;
  const double all = plan.global_clip_norm > 0 ? column_sum(plan, memory, kMeasuredGradient) : 0;
  const auto factor = [](double limit, double squares) {
    const double size = __builtin_sqrt(squares);
    return limit > 0 && size > limit ? limit / size : 1.0;
  };
  s.clip = static_cast<float>(factor(plan.clip_norm, gradient) * factor(plan.global_clip_norm, all));
}

// Where the arrays of a segment begin.
Arrays arrays_at(const double* addresses) {
  const auto at = [addresses](int column) {
    return reinterpret_cast<float*>(static_cast<uintptr_t>(addresses[column]));
  };
  const auto slot = [&](int i) { return reinterpret_cast<char*>(at(kSlotAddress + i)); };
  return {at(kParameterAddress),
          {slot(0), slot(1), slot(2)},
          at(kGradientAddress),
          at(kAnchorAddress),
          at(kAverageAddress),
          at(kAccumulatorAddress),
          nullptr};
}
Arrays arrays_at(const Plan& plan, const Call& call, int64_t parameter, int64_t gradient, int64_t state) {
  const auto at = [&](int input, int64_t from) {
    return call.in[input] ? call.f32_in(input) + from : nullptr;
  };
  const auto slot = [&](int i) {
    return call.in[4 + i] ? static_cast<char*>(call.in[4 + i]) + state * plan.slot_bytes : nullptr;
  };
  return {at(0, parameter),    {slot(0), slot(1), slot(2)}, at(1, gradient), at(kAnchor, state),
          at(kAverage, state), at(kAccumulator, state),     nullptr};
}

Exponent exponent_of(float power) {
  const float halves = 2 * (power < 0 ? -power : power);
  return halves <= 4 && halves == __builtin_floorf(halves) ? static_cast<Exponent>(halves) : Exponent::other;
}

int64_t read_segments(const Plan& plan, const Call& call, Segment* segments) {
  const double* table = static_cast<const double*>(call.in[2]);
  const double* hyper = static_cast<const double*>(call.in[3]);
  const double* memory = static_cast<const double*>(call.in[kMemory]);
  const double* addresses = static_cast<const double*>(call.in[kAddresses]);
  int64_t parameter_end = 0, state_end = 0, units = 0, columns = 0, bounded = 0;
  for (int64_t i = 0; i < plan.segments; ++i) {
    const double* row = table + i * kColumns;
    Segment& s = segments[i];
    s.length = position(i, row, kLength, "param", plan.parameters, 0);
    if (addresses) {
      s.begin = arrays_at(addresses + i * kAddressColumns);
      parameter_end += s.length;
      WDFAST_CHECK(parameter_end <= plan.parameters, "%s: argument 'elements': the segments have more", kOp);
    } else {
      const int64_t parameter = position(i, row, kParameterAt, "param", plan.parameters, s.length);
      const int64_t gradient = plan.out ? 0 : position(i, row, kGradientAt, "grad", plan.gradients, s.length);
      int64_t state = 0;
      if (plan.states || kRuleInfo[static_cast<int>(plan.rule)].slots)
        state = position(i, row, kStateAt, "slot1", plan.states, s.length);
      WDFAST_CHECK(parameter >= parameter_end, "%s: argument 'table': segment %lld overlaps the one before",
                   kOp, static_cast<long long>(i));
      WDFAST_CHECK(state >= state_end || !plan.states,
                   "%s: argument 'table': the state of segment %lld overlaps the one before", kOp,
                   static_cast<long long>(i));
      parameter_end = parameter + s.length;
      state_end = state + s.length;
      s.begin = arrays_at(plan, call, parameter, gradient, state);
    }
    s.state_at = plan.rounding_seed < 0 ? 0 : position(i, row, kStateAt, "slot1", int64_t{1} << 48, 0);
    const bool has_average = s.begin.average;
    s.rate = static_cast<float>(row[kRateShare] * hyper[kRate]);
    s.l2 = static_cast<float>(clocked(plan, i, row, kL2, hyper));
    s.l1 = static_cast<float>(clocked(plan, i, row, kL1, hyper));
    s.shrink = static_cast<float>(clocked(plan, i, row, kShrink, hyper));
    s.proximal_l1 = static_cast<float>(clocked(plan, i, row, kProximalL1, hyper));
    s.proximal_l2 = static_cast<float>(clocked(plan, i, row, kProximalL2, hyper));
    s.kept = 1 / (1 + s.proximal_l2);
    s.power = s.proximal_l2 > 0 ? static_cast<float>(row[kPower] - 2) : 0;
    s.exponent = exponent_of(s.power);
    s.max_norm = static_cast<float>(row[kMaxNorm]);
    s.anchored = row[kAnchored] != 0;
    s.clip_value = static_cast<float>(plan.clip_value), s.clip = 1;
    s.average = has_average ? static_cast<float>(hyper[kStep] > 1 ? 1 - plan.average_momentum : 1.0) : 0;
    s.accumulated = static_cast<float>(1 / static_cast<double>(plan.accumulation_steps));
    const int form =
        static_cast<int>(row[kForm] >= 0 && row[kForm] < static_cast<double>(kForms) ? row[kForm] : -1);
    const double own = row[kMemoryRow];
    WDFAST_CHECK(form >= 0 && form < kForms && (form < kStable || memory),
                 "%s: argument 'table': segment %lld: %g is not a form of shrink, or has no memory", kOp,
                 static_cast<long long>(i), row[kForm]);
    s.form = static_cast<Form>(form);
    s.cautious = form == kCautious;
    WDFAST_CHECK(form < kConstrainedWarmStart || (row[kTarget] >= 1 && row[kTarget] < 1e15 &&
                                                  row[kTarget] == __builtin_floor(row[kTarget])),
                 "%s: argument 'table': segment %lld: its bound waits for %g steps", kOp,
                 static_cast<long long>(i), row[kTarget]);
    WDFAST_CHECK(!s.anchored || s.begin.anchor, "%s: argument 'anchor': segment %lld decays towards one", kOp,
                 static_cast<long long>(i));
    s.outputs = position(i, row, kOutputs, "param", s.length, 0);
    WDFAST_CHECK(!(s.max_norm > 0) || !s.length || (s.outputs > 0 && s.length % s.outputs == 0),
                 "%s: argument 'table': segment %lld: %lld outputs do not divide its length", kOp,
                 static_cast<long long>(i), static_cast<long long>(s.outputs));
    s.memory_row = 0;
    if (memory) {
      WDFAST_CHECK(own >= 0 && own < static_cast<double>(plan.memory_rows) && own == __builtin_floor(own),
                   "%s: argument 'table': segment %lld: %g is not a row of memory", kOp,
                   static_cast<long long>(i), own);
      s.memory_row = static_cast<int64_t>(own);
      recall(plan, row, hyper, memory, s);
    }
    s.adaptive = row[kAdaptive] != 0;
    WDFAST_CHECK(!s.adaptive || has_divisor(plan.rule),
                 "%s: argument 'table': segment %lld: rule %s divides by no root that could be a metric", kOp,
                 static_cast<long long>(i), kRuleInfo[static_cast<int>(plan.rule)].name);
    const bool proximal = s.proximal_l1 != 0 || s.proximal_l2 != 0;
    const int special = (s.l1 != 0) + s.cautious + proximal + s.anchored;
    const bool rare = has_average || plan.measure || plan.accumulation_steps > 1 || plan.clip_value > 0;
    s.path = rare || special + (memory ? 1 : 0) > 1 ? Path::all
             : memory                               ? Path::remembering
             : s.anchored                           ? Path::anchored
             : s.l1 != 0                            ? Path::subgradient
             : s.cautious                           ? Path::cautious
             : proximal                             ? Path::proximal
             : s.l2 != 0 || s.shrink != 0           ? Path::linear
                                                    : Path::plain;
    s.unit = s.length > kLong ? kLongUnit : kBlock;
    s.columns_at = columns;
    const bool limited = s.max_norm > 0 && s.length > 0;
    if (limited) s.unit = s.outputs * clamp(ceil_div(kBlock, s.outputs), kRows, kBlock);
    if (plan.out) s.unit = round_up(s.unit, kGradientRows * plan.out);
    if (limited) {
      bounded += s.outputs;
      columns += (s.length + s.unit - 1) / s.unit * s.outputs;
    }
    s.first_unit = units;
    s.units = (s.length + s.unit - 1) / s.unit;
    units += s.units;
  }
  WDFAST_CHECK(bounded <= plan.bounded_outputs,
               "%s: argument 'bounded_outputs': expected the %lld outputs whose norm is bounded, got %lld",
               kOp, static_cast<long long>(bounded), static_cast<long long>(plan.bounded_outputs));
  return units;
}

}  // namespace
}  // namespace WDFAST_NS
