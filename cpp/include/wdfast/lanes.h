// Loops over vectors of which the last may be partial, so that a body is written once:
//   for_vectors(0, n, [&](int64_t i, auto lanes) { store(y + i, 2.0f * load(x + i, lanes), lanes); });
#pragma once

#include "wdfast/simd.h"

namespace WDFAST_NS {

struct Whole {};  // all lanes, known at compile time; a partial vector has its number of lanes, an int64_t

static WDFAST_INLINE vf load(const float* p, Whole) { return load(p); }
static WDFAST_INLINE vf load(const float* p, int64_t lanes) { return load_partial(p, lanes); }
static WDFAST_INLINE void store(float* p, vf v, Whole) { store(p, v); }
static WDFAST_INLINE void store(float* p, vf v, int64_t lanes) { store_partial(p, v, lanes); }
static WDFAST_INLINE void store(float* p, vf v, Whole lanes, bool add) {
  store(p, add ? load(p, lanes) + v : v);
}
static WDFAST_INLINE void store(float* p, vf v, int64_t lanes, bool add) {
  store(p, add ? load(p, lanes) + v : v, lanes);
}

static WDFAST_INLINE vi lane_numbers() {
  vi v = {};
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

typedef uint8_t vb __attribute__((vector_size(kLanes)));
typedef uint16_t vshort __attribute__((vector_size(kLanes * 2)));

static WDFAST_INLINE size_t count(Whole) { return kLanes; }
static WDFAST_INLINE size_t count(int64_t lanes) { return static_cast<size_t>(lanes); }

// The low bytes of the lanes. By way of 16 bits: to a fourth of their size GCC takes lanes one by one.
template <class Lanes>
static WDFAST_INLINE void store_bytes(uint8_t* to, vi v, Lanes lanes) {
  const vb bytes = __builtin_convertvector(__builtin_convertvector(v, vshort), vb);
  __builtin_memcpy(to, &bytes, count(lanes));
}
template <class Lanes>
static WDFAST_INLINE vi load_bytes(const uint8_t* from, Lanes lanes) {
  vb bytes = {};
  __builtin_memcpy(&bytes, from, count(lanes));
  return __builtin_convertvector(__builtin_convertvector(bytes, vshort), vi);
}

// `v` with the lanes that a partial vector lacks set to `other`, the neutral element of a reduction.
static WDFAST_INLINE vf fill_rest(vf v, Whole, float) { return v; }
static WDFAST_INLINE vf fill_rest(vf v, int64_t lanes, float other) {
  return select(lane_numbers() < static_cast<int32_t>(lanes), v, broadcast(other));
}

template <class Body>
static WDFAST_INLINE void for_vectors(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, Whole{});
  if (i < end) body(i, end - i);
}

}  // namespace WDFAST_NS
