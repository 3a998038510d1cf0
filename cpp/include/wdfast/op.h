// What an op is: three functions over plain buffers, and one line that registers them.
//
// A kernel file is compiled once per instruction set, so nothing here may leave a shared inline function
// behind (the linker keeps one copy, perhaps the AVX-512 one, for everybody). Hence: plain structs without
// non-trivial members, functions that are always inlined, no STL. What a kernel needs from the runtime it
// gets through the `Host` table; so a kernel built outside the tree links against nothing of ours.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef WDFAST_ISA_NAMESPACE
#define WDFAST_ISA_NAMESPACE baseline  // the build defines it: the name of an Isa
#endif
#define WDFAST_NS wdfast::WDFAST_ISA_NAMESPACE
#define WDFAST_INLINE inline __attribute__((always_inline))

namespace wdfast {

constexpr int32_t kAbiVersion = 2;
constexpr int kMaxRank = 8;     // NHWC plus leading model, time and group axes
constexpr int kMaxInputs = 16;  // concatenate is the widest op; bits of the masks below
constexpr int kMaxOutputs = 4;

enum class Isa : int32_t { baseline = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3, amx = 4 };
enum class DType : int32_t { f32 = 0, i32 = 1, u8 = 2, f64 = 3, u16 = 4 };

struct Spec {         // the type of one tensor
  int32_t rank = -1;  // -1: an optional input that was not given
  DType dtype = DType::f32;
  int64_t dim[kMaxRank] = {};

  WDFAST_INLINE bool given() const { return rank >= 0; }
  WDFAST_INLINE int64_t size() const {
    int64_t n = rank < 0 ? 0 : 1;
    for (int i = 0; i < rank; ++i) n *= dim[i];
    return n;
  }
  WDFAST_INLINE int64_t bytes() const {
    return size() * (dtype == DType::u8 ? 1 : dtype == DType::u16 ? 2 : dtype == DType::f64 ? 8 : 4);
  }
};

struct Attrs;  // an op's keyword arguments, read through the functions below

struct Host {  // what the runtime does for a kernel
  int32_t abi;
  void (*fail)(const char* format, ...);                                     // throws ValueError
  void (*parallel)(int64_t n, void (*body)(void*, int64_t), void* context);  // body(context, 0 … n−1)
  void* (*thread_scratch)(size_t bytes);                                     // 64-byte aligned, per thread
  int64_t (*attr_int)(const Attrs*, const char* name, int64_t fallback);
  double (*attr_float)(const Attrs*, const char* name, double fallback);
  const char* (*attr_string)(const Attrs*, const char* name, const char* fallback);
  int (*attr_ints)(const Attrs*, const char* name, int64_t* out, int capacity);  // count, −1 if absent
};
extern const Host* host;

// Shape inference: reads `in` and the attributes, fills `plan` and the specs that follow.
struct Infer {
  int32_t n_in = 0;
  const Spec* in = nullptr;
  const Attrs* attrs = nullptr;
  void* plan = nullptr;  // the op's own plain struct, zeroed; handed to every later call

  int32_t n_out = 1;
  Spec out[kMaxOutputs];
  int64_t saved_bytes = 0;            // kept from forward to backward (an argmax, a mask, statistics)
  int64_t forward_scratch_bytes = 0;  // shared by all threads, alive during one call
  int64_t backward_scratch_bytes = 0;
  double flops = 0;  // of forward, a multiply-add counted as two; for the plan and the benches
  double backward_flops = 0;

  template <class Plan>
  WDFAST_INLINE Plan& plan_as() const {
    return *static_cast<Plan*>(plan);
  }
};

struct Call {
  const void* plan;
  const Spec* in_spec;
  const Spec* out_spec;
  void* const* in;  // null for an optional input that was not given
  void* const* out;
  void* saved;
  void* scratch;
  void* const* d_out;   // gradients of the outputs, never null in backward
  void* const* d_in;    // gradients to write; null where none is wanted
  uint32_t accumulate;  // bit i: add to d_in[i] instead of overwriting (only if the op declares it)
  int32_t training;
  uint64_t seed, step;  // with `stream` (the node's number) the whole key of its random numbers
  uint32_t stream;

  template <class Plan>
  WDFAST_INLINE const Plan& plan_as() const {
    return *static_cast<const Plan*>(plan);
  }
  WDFAST_INLINE float* f32_in(int i) const { return static_cast<float*>(in[i]); }
  WDFAST_INLINE int32_t* i32_in(int i) const { return static_cast<int32_t*>(in[i]); }
  WDFAST_INLINE float* f32_out(int i = 0) const { return static_cast<float*>(out[i]); }
  WDFAST_INLINE float* f32_d_out(int i = 0) const { return static_cast<float*>(d_out[i]); }
  WDFAST_INLINE float* f32_d_in(int i) const { return static_cast<float*>(d_in[i]); }
};

struct OpDef {
  const char* name;
  int32_t plan_bytes = 0;  // an op without a plan leaves it out
  int32_t min_inputs, max_inputs;
  void (*infer)(Infer&);
  void (*forward)(const Call&);
  void (*backward)(const Call&) = nullptr;  // null: no gradient flows through this op
  uint32_t differentiable = ~0u;            // bit i: input i may want a gradient
  uint32_t backward_reads_in = ~0u;         // bit i: backward reads input i (keeps it alive)
  bool backward_reads_out = false;
  uint32_t mutates = 0;             // bit i: input i is updated in place (running statistics, parameters)
  uint32_t accumulates = 0;         // bit i: backward honours `accumulate` for input i
  bool alias = false;               // output 0 is input 0 under another shape: no forward, no backward
  bool random = false;              // reads seed, step and stream
  bool saves_for_backward = false;  // forward takes `saved` as null where no backward follows
  Isa isa = Isa::baseline;
};

void register_op(const OpDef* def);

}  // namespace wdfast

namespace WDFAST_NS {
constexpr Isa kIsa = Isa::WDFAST_ISA_NAMESPACE;
}

// One line at the end of a kernel file:  WDFAST_OP(dense, { .name = "dense", … });
// The definition is constant data; the only code that runs at load time is one call.
#define WDFAST_OP(stem, ...)                \
  constexpr wdfast::OpDef stem##_def = [] { \
    wdfast::OpDef def __VA_ARGS__;          \
    def.isa = WDFAST_NS::kIsa;              \
    return def;                             \
  }();                                      \
  [[maybe_unused]] const bool stem##_registered = (wdfast::register_op(&stem##_def), true)
