// Whole numbers, rounded and bounded.
#pragma once

#include "wdfast/simd.h"

namespace WDFAST_NS {

constexpr int64_t kLine = 16;  // floats of a cache line

static WDFAST_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static WDFAST_INLINE int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }
static WDFAST_INLINE int64_t whole_lines(int64_t floats) { return round_up(floats, kLine); }
static WDFAST_INLINE int64_t clamp(int64_t n, int64_t low, int64_t high) {
  return n < low ? low : n > high ? high : n;
}

// n, unknown to the compiler, which else computes all addresses of a loop ahead and keeps them on the stack.
static WDFAST_INLINE int64_t opaque(int64_t n) {
  asm volatile("" : "+r"(n));
  return n;
}

}  // namespace WDFAST_NS
