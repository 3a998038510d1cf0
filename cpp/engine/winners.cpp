#include "winners.h"

#include "wdfast/parallel.h"

namespace WDFAST_NS {

// ---- lists ------------------------------------------------------------------------------------------------

void list_by_channel(const Band& band, Winner* lists, int32_t* counts, float* db) {
  constexpr int kGroup = 8;  // channels at once: their counts stay in registers
  const int64_t channels = band.channels, windows = band.windows();
  for (int64_t c = 0; c < channels; c += kGroup) {
    const int n = channels - c < kGroup ? static_cast<int>(channels - c) : kGroup;
    Winner* to[kGroup];
    float sum[kGroup] = {};
    for (int j = 0; j < kGroup; ++j) to[j] = lists + (c + (j < n ? j : 0)) * windows;
    const float* value = band.value + c;
    const uint8_t* byte = band.byte + c;
    for (int64_t row = 0; row < band.rows; ++row)
      for (int64_t column = 0; column < band.columns; ++column, value += channels, byte += channels) {
        const int64_t at = row * band.row_step + column * band.column_step;
        const auto one = [&](int j) {  // a dead winner is overwritten by the next
          const bool alive = byte[j] < kDead;
          *to[j] = {static_cast<int32_t>(at) + band.cell_step[byte[j] & (kDead - 1)], value[j]};
          to[j] += alive;
          sum[j] += alive ? value[j] : 0.0f;
        };
        if (n == kGroup) {
#pragma GCC unroll 8
          for (int j = 0; j < kGroup; ++j) one(j);
        } else {
          for (int j = 0; j < n; ++j) one(j);
        }
      }
    for (int j = 0; j < n; ++j) {
      counts[c + j] = static_cast<int32_t>(to[j] - (lists + (c + j) * windows));
      if (db) db[c + j] += sum[j];
    }
  }
}

void list_by_cell(const Band& band, Winner* lists, int32_t* counts) {
  const int64_t channels = band.channels;
  const float* value = band.value;
  const uint8_t* byte = band.byte;
  for (int64_t window = 0; window < band.windows();
       ++window, value += channels, byte += channels, lists += band.cells * channels, counts += band.cells) {
    if (band.cells <= 4 && channels < 1 << 16) {
      // Four 16-bit cursors in one register: an addition is all that one channel waits for from the last.
      uint64_t cursors = 0;
      for (int64_t c = 0; c < channels; ++c) {
        const uint64_t alive = byte[c] < kDead, shift = (byte[c] & 3u) * 16u;
        lists[(byte[c] & 3) * channels + static_cast<int64_t>(cursors >> shift & 0xffff)] = {
            static_cast<int32_t>(c), value[c]};
        cursors += alive << shift;
      }
      for (int64_t cell = 0; cell < band.cells; ++cell)
        counts[cell] = static_cast<int32_t>(cursors >> (16 * cell) & 0xffff);
      continue;
    }
    for (int64_t cell = 0; cell < band.cells; ++cell) counts[cell] = 0;
    for (int64_t c = 0; c < channels; ++c) {
      if (byte[c] >= kDead) continue;
      lists[byte[c] * channels + counts[byte[c]]++] = {static_cast<int32_t>(c), value[c]};
    }
  }
}

// ---- patches ----------------------------------------------------------------------------------------------

void copy_patches(const Window& w, const Pooling& pool, Image x, int64_t first, int64_t end, int64_t depth,
                  float* to) {
  const bool whole = w.w.dilation == 1 && x.pixel == w.cx;  // a kernel row is one run of X
  const int64_t runs = whole ? 1 : w.w.kernel, length = whole ? w.w.kernel * w.cx : w.cx;
  const int64_t cell = w.w.stride * x.pixel, window = pool.w.stride * cell, cells = pool.w.kernel;
  const int64_t patches = pool.h.kernel * cells * depth;  // of a window
  const auto copy_run = [&]<int64_t kLength>(float* out, const float* from) {
    for (int64_t column = 0; column < pool.w.out; ++column, out += patches, from += window)
      for (int64_t b = 0; b < cells; ++b)
        __builtin_memcpy(out + b * depth, from + b * cell,
                         static_cast<size_t>(kLength ? kLength : length) * 4);
  };
  for (int64_t row = first; row < end; ++row, to += pool.w.out * patches)
    for (int64_t a = 0; a < pool.h.kernel; ++a)
      for (int64_t ky = 0; ky < w.h.kernel; ++ky)
        for (int64_t run = 0; run < runs; ++run) {  // for all cells of a row
          const int64_t y = (row * pool.h.stride + a) * w.h.stride - w.h.before + ky * w.h.dilation;
          const float* from = x.origin + y * x.row + (run * w.w.dilation - w.w.before) * x.pixel;
          float* out = to + a * cells * depth + (ky * runs + run) * length;
          if (length == 9)
            copy_run.template operator()<9>(out, from);
          else
            copy_run.template operator()<0>(out, from);
        }
}

// ---- dW ---------------------------------------------------------------------------------------------------

namespace {

template <int V>
WDFAST_INLINE void weight_gradient(const Winner* list, int64_t n, const float* x, int64_t row, int64_t pixel,
                                   float* dw) {
  vf sum[kWinnerTaps * V];
#pragma GCC unroll 18
  for (int k = 0; k < kWinnerTaps * V; ++k) sum[k] = load(dw + k * kLanes);
  for (int64_t i = 0; i < n; ++i) {
    const float* at = x + list[i].at;
    const vf g = broadcast(list[i].value);
    // Nine addresses stay in registers; of twice as many, fewer are computed each time.
    const int64_t down = V > 1 ? opaque(row) : row, across = V > 1 ? opaque(pixel) : pixel;
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky, at += down)
#pragma GCC unroll 3
      for (int kx = 0; kx < 3; ++kx)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[(3 * ky + kx) * V + v] += g * load(at + kx * across + v * kLanes);
  }
#pragma GCC unroll 18
  for (int k = 0; k < kWinnerTaps * V; ++k) store(dw + k * kLanes, sum[k]);
}

// C channels over all windows, their sums in registers: the patches of a band stay in the L1.
template <int V, int C>
WDFAST_INLINE void patch_gradient(const Band& band, const float* live, const uint8_t* byte,
                                  const float* patches, int64_t depth, float* dw) {
  vf sum[C][V];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[c][v] = load(dw + c * depth + v * kLanes);
  for (int64_t window = 0; window < band.windows(); ++window) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const float* at = patches + (byte[c] & (kDead - 1)) * depth;
      const vf g = broadcast(live[c]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[c][v] += g * load(at + v * kLanes);
    }
    patches += band.cells * depth;
    live += band.channels;
    byte += band.channels;
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(dw + c * depth + v * kLanes, sum[c][v]);
}

template <int V>
WDFAST_INLINE void patch_gradients(const Band& band, const float* live, const float* patches, int64_t depth,
                                   float* dw) {
  constexpr int kSums = kVectorRegisters >= 32 ? 16 : 8, kChannels = kSums / V < 8 ? kSums / V : 8;
  int64_t c = 0;
  for (; c + kChannels <= band.channels; c += kChannels)
    patch_gradient<V, kChannels>(band, live + c, band.byte + c, patches, depth, dw + c * depth);
  for (; c < band.channels; ++c)
    patch_gradient<V, 1>(band, live + c, band.byte + c, patches, depth, dw + c * depth);
}

// Calls f(first input channel, vectors of the block) for each block of input channels, of `most` vectors or
// one.
template <class F>
WDFAST_INLINE void for_blocks(int64_t depth, int64_t most, const F& f) {
  for (int64_t i = 0, vectors; i < depth; i += vectors * kLanes) {
    vectors = depth - i >= most * kLanes ? most : 1;
    f(i, vectors);
  }
}

}  // namespace

void add_weight_gradient(const Winner* lists, const int32_t* counts, int64_t channels, int64_t windows,
                         const float* x, int64_t row, int64_t pixel, int64_t depth, float* dw) {
  for_blocks(depth, kSummed.vectors, [&](int64_t i, int64_t vectors) {
    const int64_t stride = kWinnerTaps * vectors * kLanes;
    for (int64_t c = 0; c < channels; ++c, dw += stride)
      if (vectors == kSummed.vectors)
        weight_gradient<kSummed.vectors>(lists + c * windows, counts[c], x + i, row, pixel, dw);
      else
        weight_gradient<1>(lists + c * windows, counts[c], x + i, row, pixel, dw);
  });
}

void add_patch_gradient(const Band& band, const float* patches, int64_t depth, float* dw, float* db,
                        float* live) {
  const int64_t n = band.windows() * band.channels;
  const uint8_t* __restrict byte = band.byte;
  const float* __restrict value = band.value;
  float* __restrict to = live;
  for (int64_t i = 0; i < n; ++i) {  // bits, not a comparison: a branch would be guessed wrong half the time
    const uint32_t mask = static_cast<uint32_t>(byte[i] >> 7) - 1u;
    to[i] = __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, value[i]) & mask);
  }
  if (db)
    for_vectors(0, band.channels, [&](int64_t c, auto lanes) {
      vf sum = load(db + c, lanes);
      for (int64_t window = 0; window < band.windows(); ++window)
        sum += load(live + window * band.channels + c, lanes);
      store(db + c, sum, lanes);
    });
  if (!dw) return;
  int64_t i = 0;
  for (; i + 4 * kLanes <= depth; i += 4 * kLanes) patch_gradients<4>(band, live, patches + i, depth, dw + i);
  for (; i + 2 * kLanes <= depth; i += 2 * kLanes) patch_gradients<2>(band, live, patches + i, depth, dw + i);
  for (; i < depth; i += kLanes) patch_gradients<1>(band, live, patches + i, depth, dw + i);
}

// ---- dX ---------------------------------------------------------------------------------------------------

namespace {

// Of the three taps of one row; y, x: where the first of them lies.
template <int V>
WDFAST_INLINE void data_gradient(const Winner* list, int64_t n, const float* w, const Target& to, int64_t y,
                                 int64_t x, int64_t channel) {
  vf sum[3 * V] = {};
  for (int64_t i = 0; i < n; ++i) {
    const float* at = w + list[i].at * (3 * V * kLanes);
    const vf g = broadcast(list[i].value);
#pragma GCC unroll 12
    for (int k = 0; k < 3 * V; ++k) sum[k] += g * load(at + k * kLanes);
  }
  float* row = to.origin + y * to.row + channel;
#pragma GCC unroll 3
  for (int kx = 0; kx < 3; ++kx) {
    const int64_t at_x = x + kx * to.dilation_w;
    if (at_x < 0 || at_x >= to.width) continue;
    float* cell = row + at_x * to.pixel;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(cell + v * kLanes, load(cell + v * kLanes) + sum[kx * V + v]);
  }
}

}  // namespace

void add_data_gradient(const Winner* lists, const int32_t* counts, const Band& band, const float* packed,
                       int64_t depth, const Target& to) {
  for_blocks(depth, kRead.vectors, [&](int64_t i, int64_t vectors) {
    // A row of taps at a time: its weights stay in the L1 for all cells.
    for (int64_t ky = 0; ky < 3; ++ky, packed += band.channels * 3 * vectors * kLanes) {
      const Winner* list = lists;
      const int32_t* count = counts;
      for (int64_t row = 0; row < band.rows; ++row)
        for (int64_t column = 0; column < band.columns; ++column)
          for (int64_t cell = 0; cell < band.cells; ++cell, ++count, list += band.channels) {
            const int64_t y = to.y + row * to.row_step + cell / to.pool_w * to.stride_h + ky * to.dilation_h;
            const int64_t x = to.x + column * to.column_step + cell % to.pool_w * to.stride_w;
            if (*count == 0 || y < 0 || y >= to.height) continue;
            if (vectors == kRead.vectors)
              data_gradient<kRead.vectors>(list, *count, packed, to, y, x, i);
            else
              data_gradient<1>(list, *count, packed, to, y, x, i);
          }
    }
  });
}

// ---- weights ----------------------------------------------------------------------------------------------

namespace {

// f(row of W, where its first channel is in packed, from there to the next channel) for every row of W.
template <class F>
void for_rows(WinnerLayout layout, int64_t depth, int64_t channels, const F& f) {
  parallel_for(kWinnerTaps, [&](int64_t tap) {
    for_blocks(depth, layout.vectors, [&](int64_t i, int64_t vectors) {
      const int64_t width = vectors * kLanes, together = 3 * layout.rows, stride = together * width;
      const int64_t at = (i * kWinnerTaps + tap / together * stride) * channels + tap % together * width;
      for (int64_t lane = 0; lane < width; ++lane) f((tap * depth + i + lane) * channels, at + lane, stride);
    });
  });
}

}  // namespace

void pack_winner_weights(const float* w, int64_t depth, int64_t channels, float* packed) {
  for_rows(kRead, depth, channels, [=](int64_t row, int64_t at, int64_t stride) {
    for (int64_t c = 0; c < channels; ++c) packed[at + c * stride] = w[row + c];
  });
}

void unpack_winner_weights(const float* packed, int64_t depth, int64_t channels, float* w, bool add) {
  for_rows(kSummed, depth, channels, [=](int64_t row, int64_t at, int64_t stride) {
    for (int64_t c = 0; c < channels; ++c) w[row + c] = packed[at + c * stride] + (add ? w[row + c] : 0.0f);
  });
}

void unpack_patch_weights(const float* packed, int64_t stride, int64_t rows, int64_t channels, float* w,
                          bool add) {
  for (int64_t k = 0; k < rows; ++k)
    for (int64_t c = 0; c < channels; ++c)
      w[k * channels + c] = packed[c * stride + k] + (add ? w[k * channels + c] : 0.0f);
}

}  // namespace WDFAST_NS
