// Vectors of float as wide as the instruction set, from GCC/Clang vector extensions: + − * / and
// comparisons are operators, and the same source is SSE2, AVX2, AVX-512 or NEON.
#pragma once

#include "wdfast/op.h"
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace WDFAST_NS {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kVectorRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kVectorRegisters = 32;
#else
constexpr int kLanes = 4;
constexpr int kVectorRegisters = 16;
#endif

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));
typedef float vf_unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

static WDFAST_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
static WDFAST_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
// Begins to bring in the cache line of p, to be written. Inline for a reason: GCC takes a function that does
// nothing else for one without effect, and leaves its calls out.
static WDFAST_INLINE void ask_for_line(const float* p) { __builtin_prefetch(p, 1); }
static WDFAST_INLINE vi load(const int32_t* p) { return *reinterpret_cast<const vi_unaligned*>(p); }
static WDFAST_INLINE void store(int32_t* p, vi v) { *reinterpret_cast<vi_unaligned*>(p) = v; }
static WDFAST_INLINE vf broadcast(float s) { return s - vf{}; }  // s − 0, not 0 + s: keeps −0
static WDFAST_INLINE vi broadcast(int32_t s) { return s - vi{}; }

#if defined(__AVX2__) && !defined(__AVX512F__)
static WDFAST_INLINE __m256i lanes_below(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}
#endif

// The first n lanes, 0 ≤ n ≤ kLanes; the others read as zero and are not written. On AVX2 and AVX-512 a mask,
// not a copy of n floats: partial vectors are common, as images have 3 channels.
static WDFAST_INLINE vf load_partial(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_maskload_ps(p, lanes_below(n)));
#else
  if (n == kLanes) return load(p);
  vf v = {};
  __builtin_memcpy(&v, p, static_cast<size_t>(n) * 4);
  return v;
#endif
}
static WDFAST_INLINE void store_partial(float* p, vf v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  if (n == kLanes) return store(p, v);  // a masked store takes a Zen 12 cycles
  _mm256_maskstore_ps(p, lanes_below(n), reinterpret_cast<__m256>(v));
#else
  if (n == kLanes) return store(p, v);
  __builtin_memcpy(p, &v, static_cast<size_t>(n) * 4);
#endif
}

static WDFAST_INLINE vf select(vi condition, vf yes, vf no) { return condition ? yes : no; }
// NaN in `a` is kept by both (a comparison with NaN is false, so `a` is what remains).
// The instructions give their second operand unless the first is strictly beyond it, which is the same.
static WDFAST_INLINE vf vmax(vf a, vf b) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(
      _mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(a)));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_max_ps(reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(a)));
#else
  return a < b ? b : a;
#endif
}
static WDFAST_INLINE vf vmin(vf a, vf b) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(
      _mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(a)));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_min_ps(reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(a)));
#else
  return b < a ? b : a;
#endif
}
static WDFAST_INLINE vf vabs(vf a) {
  return reinterpret_cast<vf>(reinterpret_cast<vi>(a) & broadcast(int32_t{0x7fffffff}));
}
static WDFAST_INLINE vf copysign(vf magnitude, vf sign) {
  const vi bit = broadcast(static_cast<int32_t>(0x80000000u));
  return reinterpret_cast<vf>((reinterpret_cast<vi>(magnitude) & ~bit) | (reinterpret_cast<vi>(sign) & bit));
}
static WDFAST_INLINE vf vsqrt(vf a) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(a)));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_sqrt_ps(reinterpret_cast<__m256>(a)));
#else
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}
static WDFAST_INLINE vf to_float(vi a) { return __builtin_convertvector(a, vf); }
static WDFAST_INLINE vi to_int(vf a) { return __builtin_convertvector(a, vi); }  // towards zero

// The lanes met in a binary tree: the same order on every call.
static WDFAST_INLINE float horizontal_sum(vf v) {
  float lane[kLanes];
  store(lane, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
static WDFAST_INLINE float horizontal_max(vf v) {
  float lane[kLanes];
  store(lane, v);
  float m = lane[0];
  for (int i = 1; i < kLanes; ++i) m = lane[i] > m ? lane[i] : m;
  return m;
}

// eˣ to 1–2 ulp: x = n ln2 + r, |r| ≤ ln2/2, a degree-6 polynomial (Cephes expf's coefficients), times 2ⁿ in
// two factors so that results down to the denormals are reached. +inf above 88.73, 0 below −103.98.
static WDFAST_INLINE vf vexp(vf x) {
  const vf clamped = vmin(vmax(x, broadcast(-104.0f)), broadcast(89.0f));
  const vf magic = broadcast(12582912.0f);  // 1.5·2²³: adding it rounds to the nearest integer
  const vf n = (clamped * 1.44269504088896341f + magic) - magic;
  vf r = clamped - n * 0.693359375f;  // ln2 in two parts, the first exact in 12 bits
  r = r + n * 2.12194440e-4f;
  vf p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const vi exponent = to_int(n);
  const vi half = exponent >> 1;
  const vf scale1 = reinterpret_cast<vf>((half + 127) << 23);
  const vf scale2 = reinterpret_cast<vf>((exponent - half + 127) << 23);
  const vf y = p * scale1 * scale2;
  return x == x ? y : x;
}

// ln x to 1–2 ulp (Cephes logf); −inf at 0, NaN below.
static WDFAST_INLINE vf vlog(vf x) {
  const vi tiny_mask = x < 1.17549435e-38f;
  const vf scaled = select(tiny_mask, x * 8388608.0f, x);  // denormals by 2²³
  const vi bits = reinterpret_cast<vi>(scaled);
  vi exponent = ((bits >> 23) & 0xff) - 126 - (tiny_mask & 23);
  vf m = reinterpret_cast<vf>((bits & 0x007fffff) | 0x3f000000);  // mantissa in [½, 1)
  const vi small = m < 0.707106781186547524f;
  exponent += small;  // a true lane is −1
  m = select(small, m + m, m) - 1.0f;
  const vf e = to_float(exponent);
  const vf z = m * m;
  vf p = broadcast(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  vf y = p * m * z;
  y = y + e * -2.12194440e-4f;
  y = y - 0.5f * z;
  y = m + y + e * 0.693359375f;
  y = select(x == __builtin_inff(), x, y);
  y = select(x == 0.0f, broadcast(-__builtin_inff()), y);
  return select(x >= 0.0f, y, broadcast(__builtin_nanf("")));
}

// 1/(1+e⁻ˣ), from e^−|x| so that neither end overflows.
static WDFAST_INLINE vf vsigmoid(vf x) {
  const vf e = vexp(-vabs(x));
  const vf s = 1.0f / (1.0f + e);
  return select(x < 0.0f, e * s, s);
}

// tanh x: a polynomial near 0 (Cephes tanhf), else 1 − 2/(e^2|x| + 1).
static WDFAST_INLINE vf vtanh(vf x) {
  const vf a = vabs(x);
  const vf z = x * x;
  vf p = broadcast(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const vf near = p * z * x + x;
  const vf far = copysign(1.0f - 2.0f / (vexp(a + a) + 1.0f), x);
  const vf y = select(a < 0.625f, near, far);
  return x == x ? y : x;
}

// erf x within 1.5e-7 absolute (Abramowitz & Stegun 7.1.26 has that bound; a Taylor series near 0 keeps the
// relative error there).
static WDFAST_INLINE vf verf(vf x) {
  const vf a = vabs(x);
  const vf z = x * x;
  // Σ (−1)ⁿ x²ⁿ⁺¹ / (n!(2n+1)) · 2/√π, for |x| < 0.9
  vf s = broadcast(-1.3227513e-5f);
  s = s * z + 1.0683761e-4f;
  s = s * z - 7.5757576e-4f;
  s = s * z + 4.6296296e-3f;
  s = s * z - 2.3809524e-2f;
  s = s * z + 1.0e-1f;
  s = s * z - 3.3333333e-1f;
  s = s * z + 1.0f;
  const vf near = s * x * 1.128379167f;
  const vf t = 1.0f / (1.0f + 0.3275911f * a);
  vf p = broadcast(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const vf far = copysign(1.0f - p * t * vexp(-z), x);
  return select(a < 0.9f, near, far);
}

}  // namespace WDFAST_NS
