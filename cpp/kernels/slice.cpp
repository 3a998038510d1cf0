// slice: along every axis `size` elements from `start`, every `stride`-th (negative: backwards); float32 or
// int32. A size of −1 means all from `start` on, so that a whole axis may have any length.
#include "wdfast/check.h"
#include "wdfast/index.h"
#include "wdfast/parallel.h"

namespace WDFAST_NS {
namespace {

typedef int32_t Word __attribute__((may_alias));

struct Plan {
  int32_t n_outer;
  int64_t dim[kMaxRank], stride[kMaxRank];  // outer axes of the output, innermost first; strides in the input
  int64_t n, n_in, inner, step, offset;
};

void infer(Infer& io) {
  Plan& plan = io.plan_as<Plan>();
  const Spec& x = io.in[0];
  check_dtype("slice", "x", x, x.dtype == DType::i32 ? DType::i32 : DType::f32);
  int64_t start[kMaxRank], size[kMaxRank], step[kMaxRank];
  const int counts[3] = {host->attr_ints(io.attrs, "start", start, kMaxRank),
                         host->attr_ints(io.attrs, "size", size, kMaxRank),
                         host->attr_ints(io.attrs, "stride", step, kMaxRank)};
  for (int axis = 0; counts[2] < 0 && axis < x.rank; ++axis) step[axis] = 1;
  WDFAST_CHECK(counts[0] == x.rank && counts[1] == x.rank && (counts[2] < 0 || counts[2] == x.rank),
               "slice: arguments 'start', 'size' and 'stride': expected %d numbers each", x.rank);
  io.out[0] = x;
  plan.inner = plan.step = 1;
  plan.n_in = x.size();
  int64_t stride = 1;
  bool whole = true;  // all axes behind this one are copied whole, so that they are one run
  for (int axis = x.rank - 1; axis >= 0; --axis) {
    const int64_t dim = x.dim[axis], s = step[axis];
    WDFAST_CHECK(s != 0, "slice: argument 'stride': expected a number other than 0 at axis %d", axis);
    WDFAST_CHECK(start[axis] >= 0 && start[axis] <= dim,
                 "slice: argument 'start': expected 0 to %lld at axis %d, got %lld",
                 static_cast<long long>(dim), axis, static_cast<long long>(start[axis]));
    if (size[axis] == -1)
      size[axis] = s > 0 ? (dim - start[axis] + s - 1) / s : start[axis] / -s + (start[axis] < dim);
    const int64_t last = start[axis] + (size[axis] - 1) * s;
    WDFAST_CHECK(
        size[axis] >= 0 && (size[axis] == 0 || (start[axis] < dim && last >= 0 && last < dim)),
        "slice: argument 'size': %lld elements from %lld in steps of %lld leave axis %d of %lld elements",
        static_cast<long long>(size[axis]), static_cast<long long>(start[axis]), static_cast<long long>(s),
        axis, static_cast<long long>(dim));
    io.out[0].dim[axis] = size[axis];
    plan.offset += start[axis] * stride;
    if (whole && (s == 1 || plan.inner == 1)) {
      plan.step = plan.inner == 1 ? s * stride : plan.step;
      plan.inner *= size[axis];
      whole = size[axis] == dim && s == 1;
    } else {
      whole = false;
      plan.dim[plan.n_outer] = size[axis];
      plan.stride[plan.n_outer++] = s * stride;
    }
    stride *= dim;
  }
  plan.n = io.out[0].size();
}

// copy(from, to, step, count): from the input's element `from`, in steps, to the output's from `to` on.
template <class Copy>
WDFAST_INLINE void for_each_run(const Plan& plan, const Copy& copy) {
  parallel_blocks(plan.n, kStreamGrain, [&](int64_t i, int64_t end) {
    while (i < end) {
      const int64_t at = i % plan.inner, count = plan.inner - at < end - i ? plan.inner - at : end - i;
      const int64_t row = offset_of(i / plan.inner, plan.n_outer, plan.dim, plan.stride);
      copy(plan.offset + row + at * plan.step, i, plan.step, count);
      i += count;
    }
  });
}

void forward(const Call& call) {
  const Word* x = static_cast<const Word*>(call.in[0]);
  Word* y = static_cast<Word*>(call.out[0]);
  for_each_run(call.plan_as<Plan>(), [&](int64_t from, int64_t to, int64_t step, int64_t count) {
    const Word* source = x + from;
    Word* target = y + to;  // a local: words may alias anything, `y` in its closure too
    if (step == 1)
      for (int64_t i = 0; i < count; ++i) target[i] = source[i];
    else
      for (int64_t i = 0; i < count; ++i) target[i] = source[i * step];
  });
}

void backward(const Call& call) {
  const Plan& plan = call.plan_as<Plan>();
  const float* dy = call.f32_d_out();
  float* dx = call.f32_d_in(0);
  parallel_blocks(plan.n_in, kStreamGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) dx[i] = 0;
  });
  for_each_run(plan, [&](int64_t from, int64_t to, int64_t step, int64_t count) {
    if (step == 1)
      for (int64_t i = 0; i < count; ++i) dx[from + i] = dy[to + i];
    else
      for (int64_t i = 0; i < count; ++i) dx[from + i * step] = dy[to + i];
  });
}

WDFAST_OP(slice, {.name = "slice",
                  .plan_bytes = sizeof(Plan),
                  .min_inputs = 1,
                  .max_inputs = 1,
                  .infer = infer,
                  .forward = forward,
                  .backward = backward,
                  .backward_reads_in = 0});

}  // namespace
}  // namespace WDFAST_NS
