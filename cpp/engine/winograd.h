// Winograd's minimal filtering for 3 × 3 kernels of stride 1 (Lavin and Gray, arXiv 1509.09308): 24 products
// for a tile of 2 × 4 outputs where the sliding sum takes 72, or 16 where it takes 36 for one of 2 × 2.
//
//   gather    Y = Aᵀ [(G W Gᵀ) ⊙ (Bᵀ X B)] A     ⊙: for each of the cells a product of matrices over channels
//   weights   dW = Gᵀ [Σ over tiles (Bᵀ X B) ⊗ (A dY Aᵀ)] G     its derivative for W
//
// The gradient of X is a gather with W turned and transposed. Against float64 the wide tile's error is 1.1 to
// 1.7 times that of a float32 BLAS over the same patches, the small one’s 0.7 to 1; 4 × 4 would have 2 to 3.
// An infinity in X makes NaN of its whole tile. Channels are whole vectors; a block of tiles passes through
// transform, products and transform while it is in cache.
//
// With `pairs` the transforms are float32 as before, and their results are rounded to bfloat16 for the
// products. The tile is the small one then: its error is 1.7 times that of a sliding sum of bfloat16
// products.
#pragma once

#include "window.h"

namespace WDFAST_NS {

// Products a tile of 2 rows of so many pixels takes.
constexpr int64_t winograd_cells(int64_t across) { return 4 * (across + 2); }

// How many pixels a tile is best wide, 2 or 4; 0 where Winograd does not apply, or saves no work: transforms
// cost as much as a few channels' products.
int64_t winograd_tile(const Window& w);

// U, cells × in × out floats (or half as many pairs): of W (3, 3, in, out) for the gather; turned and
// transposed for the gradient of X, which then has `out` channels and takes `in`.
void winograd_filter(const float* w, int64_t in, int64_t out, int64_t across, float* u, bool pairs);
void winograd_filter_adjoint(const float* w, int64_t in, int64_t out, int64_t across, float* u, bool pairs);
// dW (+)= Gᵀ dU G, from what `winograd_weights` added up.
void winograd_filter_gradient(const float* du, int64_t in, int64_t out, int64_t across, float* dw, bool add);

int64_t winograd_scratch_floats(int64_t across, int64_t in, int64_t out);

struct WinogradRows {  // rows [first, end) of Y, `width` pixels each, whose cell (i, j) starts at X(i − top,
                       // j − left)
  int64_t first, end, width, top, left;
  int64_t in, out;  // channels
  int64_t across;   // pixels of a tile
  bool pairs;
  Range x_rows, x_columns;  // of X, that exist: the others are zero
};
void winograd_gather(const WinogradRows& r, Image x, const float* u, const float* bias, bool relu, bool add,
                     Image y, float* scratch);
// du, cells × in × out floats, += over rows of dY.
void winograd_weights(const WinogradRows& r, Image x, Image dy, float* du, float* scratch);

// The same of whole images, in parallel, for many channels: the tiles of many images are transformed first,
// so that a product reads its part of U once for all of them, and no thread needs a dU of its own (du = here,
// not
// +=). `scratch` has room for winograd_batch_floats.
struct WinogradBatch {
  WinogradRows rows;  // all of an image
  int64_t images;
  int64_t x_image, y_image;  // floats from one to the next
};
bool winograd_batched(int64_t in, int64_t out, int64_t across);
int64_t winograd_batch_floats(const WinogradBatch& b);
void winograd_gather(const WinogradBatch& b, Image x, const float* u, const float* bias, bool relu, bool add,
                     Image y, float* scratch);
void winograd_weights(const WinogradBatch& b, Image x, Image dy, float* du, float* scratch);

}  // namespace WDFAST_NS
