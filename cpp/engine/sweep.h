// The step of whole vectors of one segment, compiled per rule, per kind of state, and per kind of decay: most
// decays need one branch, and have a sweep without the others. A step moves as many bytes as it must, and two
// cores have about 25 cycles for a vector of Adam, 12 for one of SGD, before they cost time.
#pragma once

#include "bfloat16.h"
#include "segments.h"
#include "wdfast/integers.h"

namespace WDFAST_NS {
namespace {

constexpr int64_t kChunk = 4096;  // elements whose sums are float: ≤ 1024 a lane, before they meet in double

struct Step {  // what all segments share
  Coefficients c;
  float scale;
  bool measure, hold;  // hold: this gradient is only added to the accumulator
  bool statistics;     // whether anybody asked for them: without, an in-cache step is a third faster
};

static WDFAST_INLINE vf averaged(const Segment& s, vf average, vf next) {
  return s.average < 1 ? average + (next - average) * s.average : next;
}

struct Sums {
  vf squares, magnitudes, alignment, gradient_squares, after, total_squares, second;
  vi zeros, non_finite;  // minus the counts: a true lane is −1
};

static WDFAST_INLINE void store_state(float* p, vf v, const uint16_t*, int) { store(p, v); }
static WDFAST_INLINE void store_state(bfloat16* p, vf v, const uint16_t* random, int slot) {
  store(p, v, random_of(random, slot));
}

// x^|q−2| for x ≥ 0, to 1e-6 of it: 2^(|q−2| log₂ x), both polynomials as short as that allows (least squares
// at Chebyshev points, in double), as a step has no time for more.
static WDFAST_INLINE vf magnitude_power(vf x, const Segment& s) {
  switch (s.exponent) {
    case Exponent::none:
      return x;
    case Exponent::half:
      return vsqrt(x);
    case Exponent::one:
      return x;
    case Exponent::three_halves:
      return x * vsqrt(x);
    case Exponent::two:
      return x * x;
    case Exponent::other:
      break;
  }
  const vi bits = reinterpret_cast<vi>(vmax(x, broadcast(1.17549435e-38f)));
  const vi exponent = (bits - 0x3f3504f3) >> 23;  // the mantissa m is in [√½, √2)
  const vf m = reinterpret_cast<vf>(bits - (exponent << 23)) - 1.0f;
  vf log_over_m = broadcast(0.172128731f);
  log_over_m = log_over_m * m - 0.269506274f;
  log_over_m = log_over_m * m + 0.2956336f;
  log_over_m = log_over_m * m - 0.359350653f;
  log_over_m = log_over_m * m + 0.480629147f;
  log_over_m = log_over_m * m - 0.72136404f;
  log_over_m = log_over_m * m + 1.44269643f;
  const vf power = broadcast(s.power < 0 ? -s.power : s.power) * (m * log_over_m + to_float(exponent));
  const vf bounded = vmin(vmax(power, broadcast(-126.0f)), broadcast(127.0f));
  const vf nearest = (bounded + 12582912.0f) - 12582912.0f;  // 1.5·2²³: adding it rounds
  const vf r = bounded - nearest;
  vf y = broadcast(0.00134004322f);
  y = y * r + 0.0096760371f;
  y = y * r + 0.0555032721f;
  y = y * r + 0.240221074f;
  y = y * r + 0.693147207f;
  y = y * r + 1.00000008f;
  const vf result = reinterpret_cast<vf>(reinterpret_cast<vi>(y) + (to_int(nearest) << 23));
  return select(x == 0.0f, x, result);
}

// Steps whole vectors. By value: what it reads of a segment stays in registers, as no store can change it.
template <Rule R, Path kPath, class Slot>
void sweep(const Arrays a, int64_t vectors, const Segment segment, const Step step, Sums* out) {
  constexpr int kSlots = kRuleInfo[static_cast<int>(R)].slots;
  constexpr bool kEvery = kPath == Path::all;
  const auto has = [](Path path) { return kPath == path || kPath == Path::all; };
  const Coefficients c = step.c;
  Slot* slot[kMaxSlots];
  for (int k = 0; k < kSlots; ++k) slot[k] = reinterpret_cast<Slot*>(a.s[k]);
  const float scale = kEvery ? step.scale : step.scale * segment.clip;
  Sums sums = *out;
  for (int64_t i = 0; i < vectors * kLanes; i += kLanes) {
    const vf weight = load(a.p + i), gradient = load(a.g + i);
    vf total = scale * gradient, pull = weight, u = {};
    const vi is_zero = weight == 0.0f;
    if constexpr (kEvery) {
      if (a.accumulator) {
        total += load(a.accumulator + i);
        if (!step.measure) store(a.accumulator + i, step.hold ? total : vf{});
        total *= segment.accumulated;
      }
      sums.total_squares += total * total;
      if (segment.clip_value > 0)
        total = vmin(vmax(total, broadcast(-segment.clip_value)), broadcast(segment.clip_value));
      total *= segment.clip;
    }
    if (kPath == Path::anchored || (kEvery && segment.anchored)) pull -= load(a.anchor + i);
    if constexpr (has(Path::subgradient))
      total += select(is_zero, vf{}, copysign(broadcast(segment.l1), weight));
    if constexpr (kPath != Path::plain) total += segment.l2 * pull;
    if (!kEvery || !step.hold) {
      vf s[kMaxSlots] = {};
      for (int k = 0; k < kSlots; ++k) s[k] = load(slot[k] + i);
      u = direction<R>(total, s, c);
      vf change = segment.rate * u;
      if constexpr (kPath != Path::plain) {
        const vf shrunk = segment.shrink * pull;
        if (kPath == Path::cautious || (kEvery && segment.cautious))
          change += select(u * weight >= 0.0f, shrunk, vf{});
        else
          change += shrunk;
      }
      vf next = weight - change;
      if constexpr (has(Path::proximal)) {
        const vf power = magnitude_power(vabs(weight), segment);
        vf near = broadcast(segment.proximal_l1), stretch = broadcast(segment.proximal_l2);
        if (has_divisor(R) && segment.adaptive) {
          const vf metric = divisor<R>(s, c);
          near /= metric, stretch /= metric;
        }
        next -= vmin(vmax(next, -near), near);
        if (segment.exponent != Exponent::none)
          next = segment.power < 0 ? next * power / (power + stretch) : next / (1.0f + stretch * power);
        else if (segment.adaptive)
          next /= 1.0f + stretch;
        else
          next *= segment.kept;
      }
      if constexpr (has(Path::remembering)) {
        sums.after += next * next;
        sums.second += second_moment<R>(s, c);
      }
      if constexpr (kEvery)
        if (segment.average > 0 && !(segment.max_norm > 0) && !step.measure)
          store(a.average + i, averaged(segment, load(a.average + i), next));
      if (!kEvery || !step.measure) {
        store(a.p + i, next);
        for (int k = 0; k < kSlots; ++k) store_state(slot[k] + i, s[k], a.random + i, k);
      }
    }
    if (!step.statistics) continue;
    sums.squares += weight * weight;
    sums.magnitudes += vabs(weight);
    sums.alignment += u * weight;
    sums.gradient_squares += gradient * gradient;
    sums.zeros += is_zero;
    sums.non_finite += ~(vabs(gradient) <= 3.40282347e38f);
  }
  *out = sums;
}

using Sweep = void (*)(Arrays, int64_t, Segment, Step, Sums*);

template <Rule R, class Slot>
Sweep sweep_of(Path path) {
  const Sweep all[kPaths] = {sweep<R, Path::plain, Slot>,       sweep<R, Path::linear, Slot>,
                             sweep<R, Path::anchored, Slot>,    sweep<R, Path::subgradient, Slot>,
                             sweep<R, Path::cautious, Slot>,    sweep<R, Path::proximal, Slot>,
                             sweep<R, Path::remembering, Slot>, sweep<R, Path::all, Slot>};
  return all[static_cast<int>(path)];
}

}  // namespace
}  // namespace WDFAST_NS
