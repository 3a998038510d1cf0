// The two register-tiled inner loops that convolution, dense and matmul are made of.
//
//   multiply   C[p, :] = Σ_k A[p, k] · B[k, :]     p: pixels or batch rows, k: taps × channels
//   outer      C[k, :] = Σ_p  A[p, k] · B[p, :]    the weight gradient
//
// Output channels lie in vector lanes, several pixels in registers; A is read where it is (no im2col): its
// rows have one stride, its k are a list of contiguous runs. B is read a panel of up to kPanelVectors vectors
// wide at a time; where its rows are not whole vectors it is packed with zeros at the right edge.
//
// A factor is a float or, with `pairs`, the bfloat16 of two terms that follow each other in the sum (two k in
// `multiply`, two p in `outer`; see pairs.h). Either is 32 bits: strides, runs and sizes count such lanes,
// and both kinds are one loop.
#pragma once

#include "pairs.h"
#include "wdfast/integers.h"

namespace WDFAST_NS {

// AVX-512: 6 pixels × 4 vectors = 24 accumulators of 32 registers; with 16 registers 6 × 2.
constexpr int kPanelVectors = kVectorRegisters >= 32 ? 4 : 2;
constexpr int kPanel = kPanelVectors * kLanes;  // columns of a full panel

struct Run {  // `length` consecutive k, at A + offset
  int64_t offset;
  int64_t length;
};

struct Multiply {
  const float* a;
  int64_t a_stride;  // lanes from one pixel to the next
  const Run* runs;
  int64_t n_runs;
  const float* b;    // a panel: `columns` rounded up to whole vectors are read of each row
  int64_t b_stride;  // padded_columns(columns) if packed
  float* c;
  int64_t c_stride;
  const float* bias;  // added, as many floats as the panel is wide; or null
  int64_t columns;    // of this panel, 1 … kPanel
  bool add;           // C += instead of C =
  bool relu;
  bool pairs = false;
  bool ask = false;  // for the lines of C before the products, as the stores would wait for them
  // What a later product reads from memory: so many lines are asked for while these products are made, one
  // with each k. Not of one vector's width, whose loop is too short.
  const float* next = nullptr;
  int64_t next_lines = 0;
};

struct Outer {
  const float* a;
  int64_t a_stride, a_row_stride;
  const float* b;  // `columns` rounded up to whole vectors are read
  int64_t b_stride, b_row_stride;
  int64_t pixels, rows;  // p runs over rows × pixels
  float* c;
  int64_t c_stride;
  int64_t k;        // rows of C: consecutive floats of A
  int64_t columns;  // of C, 1 … kPanel
  bool add;         // C += instead of C =
  bool pairs = false;
  bool tiled = false;  // A is packed by `pack_tiles`; its strides do not count
};

void multiply(const Multiply& m, int64_t pixels);
void outer(const Outer& o);

// A of `outer`, the k of each register tile by themselves, for panels of o.columns. In place, the few floats
// that a tile takes of each pixel are a cache line each, and all in the same sets of the L1 where pixels lie
// a power of two apart. Takes k · pixels · rows + kLanes floats.
void pack_tiles(float* to, const Outer& o);

static WDFAST_INLINE int64_t padded_columns(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
static WDFAST_INLINE int64_t panel_count(int64_t n) { return (n + kPanel - 1) / kPanel; }
static WDFAST_INLINE int64_t panel_columns(int64_t n, int64_t panel) {
  return n - panel * kPanel < kPanel ? n - panel * kPanel : kPanel;
}

// Lanes of n terms.
static WDFAST_INLINE int64_t lane_count(int64_t n, bool pairs) { return pairs ? (n + 1) / 2 : n; }

// Packs rows of a row-major matrix: to[k][0 … padded) = from[k * stride + …], zeros at the right edge. With
// `pairs` rows 2k and 2k + 1 become row k of pairs; an odd last one is paired with zeros.
void pack_rows(float* to, const float* from, int64_t stride, int64_t rows, int64_t columns,
               bool pairs = false);
// The same, panel after panel, each `panel` lanes from the one before.
void pack_panels(float* to, int64_t panel, const float* from, int64_t stride, int64_t rows, int64_t columns,
                 bool pairs = false);
// The same of a transposed matrix: to[k][j] = from[j * stride + k].
void pack_transposed(float* to, const float* from, int64_t stride, int64_t rows, int64_t columns,
                     bool pairs = false);
// Rows rounded to bfloat16 where they are, `lane_count(columns)` lanes each: the A of `multiply`.
void round_rows(float* to, const float* from, int64_t stride, int64_t rows, int64_t columns);

}  // namespace WDFAST_NS
