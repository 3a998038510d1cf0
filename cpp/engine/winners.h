// The gradient behind a max-pool: one value a window, and none where ReLU is flat. What convolution's
// backward sums over all cells are here sums over those winners alone: a quarter of the products for windows
// of 2 × 2.
//
//   dW[k, i, c] += Σ over winners of channel c   g · X[cell·s + k·d − pad, i]
//   dX[cell·s + k·d − pad, i] += Σ over channels that won in the cell   g · W[k, i, c]
//
// Kernels of 3 × 3: input channels lie in vector lanes. A band of windows is sorted into a list for each
// channel (for dW) and one for each cell (for dX); W and dW are held so that what a list needs lies together:
// [block of input channels][rows of taps][output channel][tap][input channel].
#pragma once

#include "pooling.h"
#include "window.h"

namespace WDFAST_NS {

constexpr int kWinnerTaps = 9;
struct WinnerLayout {
  int vectors;  // input channels of a block
  int rows;     // of taps that lie together
};
// W: what all lists need of a row of taps stays in the L1, 24 KB of 64 channels. dW: all nine taps in
// registers.
constexpr WinnerLayout kRead = {kVectorRegisters >= 32 ? 2 : 4, 1};
constexpr WinnerLayout kSummed = {kVectorRegisters >= 32 ? 2 : 1, 3};

struct Winner {
  int32_t at;  // in a channel's list: floats to its patch of X; in a cell's: the channel
  float value;
};

// Windows of a band of pooled rows of one image; X here is what `patches` points into.
struct Band {
  const float* value;   // of the first window: g, `channels` apart from window to window
  const uint8_t* byte;  // the winning cell; with kDead set there is none
  int64_t rows, columns, channels, cells;
  int64_t row_step, column_step;  // floats of X from a window's patch to the next one's
  const int32_t* cell_step;       // floats of X from a window's patch to each of its cells'
  int64_t windows() const { return rows * columns; }
};

// Σ g per channel is added to db if it is given. lists: channels × windows, counts: channels.
void list_by_channel(const Band& band, Winner* lists, int32_t* counts, float* db);
// lists: windows × cells × channels, counts: windows × cells.
void list_by_cell(const Band& band, Winner* lists, int32_t* counts);

// Copies the patch of X under every cell of the windows of pooled rows [first, end), one after the other,
// `depth` floats apart.
void copy_patches(const Window& w, const Pooling& pool, Image x, int64_t first, int64_t end, int64_t depth,
                  float* to);

// dw[block][channel][tap][…] += Σ g·X; `depth` input channels, whole vectors; row, pixel: floats between
// taps.
void add_weight_gradient(const Winner* lists, const int32_t* counts, int64_t channels, int64_t windows,
                         const float* x, int64_t row, int64_t pixel, int64_t depth, float* dw);
// The same where a patch is one run of `depth` floats, whole vectors (a first layer's few channels), without
// lists: dw[channel][depth] += Σ g·patch, dw may be null. patches: windows × cells × depth. live: room for
// windows × channels floats.
void add_patch_gradient(const Band& band, const float* patches, int64_t depth, float* dw, float* db,
                        float* live);

// Where the nine taps of a cell lie in dX: rows and columns of it that exist.
struct Target {
  float* origin;                   // cell (0, 0) of the image
  int64_t row, pixel;              // floats
  int64_t height, width;           // cells that exist
  int64_t y, x;                    // of the first window's first tap; may lie outside
  int64_t row_step, column_step;   // cells from a window to the next
  int64_t stride_h, stride_w;      // cells of dX from one cell of a window to the next
  int64_t pool_w;                  // cells of a window's row
  int64_t dilation_h, dilation_w;  // between taps
};
// dX += Σ g·W over the lists of a band's cells.
void add_data_gradient(const Winner* lists, const int32_t* counts, const Band& band, const float* packed,
                       int64_t depth, const Target& to);

// W (3, 3, depth, channels) → kRead; kSummed → dW. depth: whole vectors.
void pack_winner_weights(const float* w, int64_t depth, int64_t channels, float* packed);
void unpack_winner_weights(const float* packed, int64_t depth, int64_t channels, float* w, bool add);
// The patches' dW: w (rows, channels) (+)= packed[channel][row], `stride` floats from channel to channel.
void unpack_patch_weights(const float* packed, int64_t stride, int64_t rows, int64_t channels, float* w,
                          bool add);

}  // namespace WDFAST_NS
