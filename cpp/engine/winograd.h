// Winograd's minimal filtering for 3 × 3 kernels of stride 1: 16 products for a tile of 2 × 2 outputs where
// the sliding sum takes 36 (Lavin and Gray, arXiv 1509.09308, F(2×2, 3×3)).
//
//   gather    Y = Aᵀ [(G W Gᵀ) ⊙ (Bᵀ X B)] A     ⊙: for each of 16 cells a product of matrices over channels
//   weights   dW = Gᵀ [Σ over tiles (Bᵀ X B) ⊗ (A dY Aᵀ)] G     its derivative for W
//
// The gradient of X is a gather with W turned and transposed. Its rounding is that of the sliding sum to
// within a small factor: the transforms only add, subtract and halve. An infinity in X makes NaN of its whole
// tile. Channels are whole vectors; a block of tiles passes through transform, products and transform while
// it is in cache.
//
// With `pairs` the transforms are float32 as before, and their results are rounded to bfloat16 for the
// products: the error is 1.7 times that of a sliding sum of bfloat16 products.
#pragma once

#include "window.h"

namespace WDFAST_NS {

constexpr int kWinogradCells = 16;

// Whether it applies, and saves work: transforms cost as much as a few channels' products.
bool winograd_fits(const Window& w);

// U, 16 × in × out floats (or half as many pairs): of W (3, 3, in, out) for the gather; turned and transposed
// for the gradient of X, which then has `out` channels and takes `in`.
void winograd_filter(const float* w, int64_t in, int64_t out, float* u, bool pairs);
void winograd_filter_adjoint(const float* w, int64_t in, int64_t out, float* u, bool pairs);
// dW (+)= Gᵀ dU G, from what `winograd_weights` added up.
void winograd_filter_gradient(const float* du, int64_t in, int64_t out, float* dw, bool add);

int64_t winograd_scratch_floats(int64_t in, int64_t out);

struct WinogradRows {  // rows [first, end) of Y, `width` pixels each, whose cell (i, j) starts at X(i − top,
                       // j − left)
  int64_t first, end, width, top, left;
  int64_t in, out;  // channels
  bool pairs;
  Range x_rows, x_columns;  // of X, that exist: the others are zero
};
void winograd_gather(const WinogradRows& r, Image x, const float* u, const float* bias, bool relu, bool add,
                     Image y, float* scratch);
// du, 16 × in × out floats, += over rows of dY.
void winograd_weights(const WinogradRows& r, Image x, Image dy, float* du, float* scratch);

}  // namespace WDFAST_NS
