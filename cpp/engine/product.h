// Products of whole matrices, in blocks that stay in cache: what dense, matmul and weight gradients are.
//
//   multiply_matrix   C = A · B, or A · Bᵀ     B is packed as it is used, a block of k and columns at a time
//   outer_long        C = Aᵀ · B               both are packed, a block of their rows at a time
//
// Loops around the register tiles of tile.h: of a block of B a panel stays in the L1 while rows of A pass by,
// and the block in the L2.
#pragma once

#include "tile.h"

namespace WDFAST_NS {

constexpr int64_t kBlockDepth = 256;                      // lanes of k in a block of B
constexpr int64_t kBlockColumns = 128 / kPanel * kPanel;  // … and columns: 128 KB, a part of any L2
constexpr int64_t kProductScratch = kBlockDepth * kBlockColumns + kBlockColumns;  // floats

struct MatrixProduct {
  const float* a;
  int64_t a_stride;  // lanes
  const float* b;    // B[k][j] at b + k · b_stride + j; transposed: at b + j · b_stride + k
  int64_t b_stride;
  bool transposed;
  int64_t depth;  // terms of the sum
  float* c;
  int64_t c_stride;
  const float* bias;  // `columns` floats, added; or null
  int64_t columns;
  bool add;  // C += instead of C =
  bool relu;
  bool pairs;  // A in lanes of bfloat16; B is rounded as it is packed
};
void multiply_matrix(const MatrixProduct& m, int64_t rows, float* scratch);

// Any number of columns, pixels and rows of them. `scratch` has room for kOuterScratch floats.
constexpr int64_t kOuterPixels = 128;
constexpr int64_t kOuterRows = 192;                       // of C, and …
constexpr int64_t kOuterColumns = 512 / kPanel * kPanel;  // … columns: 96 KB and 256 KB of packed factors
constexpr int64_t kOuterScratch = kOuterPixels * (kOuterRows + kOuterColumns) + 2 * kLanes;
void outer_long(const Outer& o, float* scratch);

}  // namespace WDFAST_NS
