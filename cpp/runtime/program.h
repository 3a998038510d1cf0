// The executor: a list of ops with bound buffers, built once per batch shape, then run for many steps
// without allocating, without Python and without a lock.
//
//   feed / bind / op    describe the computation in the order it runs
//   differentiate       appends the backward of what was described so far, in reverse
//   compile             plans the memory and binds every pointer
//   rebind              lets a compiled program work on other memory: on another model's weights
//   run                 executes; feeds and results advance by one row per step
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "arena.h"
#include "registry.h"

namespace wdfast {

struct Row {  // one array over many steps: step s uses data + s * stride (stride 0: always the same)
  int tensor;
  char* data;
  int64_t stride;
};

class Program {
 public:
  explicit Program(bool training) : training_(training) {}

  int feed(const Spec& spec, bool needs_grad);
  int bind(const Spec& spec, void* data, void* grad);  // memory of the caller's; grad may be null
  std::vector<int> op(const std::string& name, Attrs attrs, const std::vector<int>& inputs);

  // seeds: (value, tensor holding its gradient; −1 for a gradient of ones). With `accumulate`, gradients of
  // bound tensors are added to what is there. Returns the bound and fed tensors to which one was added or
  // written.
  std::vector<int> differentiate(const std::vector<std::pair<int, int>>& seeds, bool accumulate);
  int grad_of(int tensor) const;  // −1 if none

  // keep: the values that outlive a run. With `repeat`, so does what part 1 reads of part 0: it may run
  // again.
  void compile(const std::vector<int>& keep, bool repeat);
  // Afterwards, other memory for what was bound, of the same spec; a gradient where there was one.
  void rebind(int tensor, void* data, void* grad);
  // Runs part `part` of the list (0: before differentiate, 1: from it on), or all of it (−1).
  void run(int64_t steps, const std::vector<Row>& feeds, const std::vector<Row>& results, int64_t first_step,
           uint64_t seed, int part, int threads, double* seconds_per_entry);

  const Spec& spec(int tensor) const { return at(tensor).spec; }
  void* data(int tensor) const;  // throws unless it outlives a run: a feed, bound, or named in `keep`
  int64_t arena_bytes() const { return arena_.bytes(); }

  struct Description {
    std::string name, pass;
    double flops;
    int64_t bytes;
  };
  std::vector<Description> describe() const;

 private:
  enum class Kind { feed, bound, temporary };
  enum class Pass { forward, backward, fill, copy, add };
  struct Tensor {
    Spec spec;
    Kind kind;
    int root;  // the tensor whose memory this one shares (itself, unless an alias)
    bool needs_grad = false;
    bool kept = false;
    int grad = -1;
    void* data = nullptr;
    Lifetime life{.bytes = 0, .first = -1, .last = -1, .offset = 0};
  };
  struct Entry {
    Pass pass;
    Node* node = nullptr;
    std::vector<int> in, out, d_out, d_in;
    int saved = -1, scratch = -1;
    uint32_t accumulate = 0, stream = 0;
    int part = 0;
    float value = 0;    // of a fill
    int64_t count = 0;  // floats of a fill, copy or add
    std::vector<void*> pointers;
    Call call{};
  };

  int add_tensor(const Spec& spec, Kind kind);
  int raw_tensor(int64_t bytes);
  const Tensor& at(int tensor) const;
  Tensor& at(int tensor) { return const_cast<Tensor&>(std::as_const(*this).at(tensor)); }
  Tensor& root(int tensor) { return at(at(tensor).root); }
  int grad_tensor(int value);
  bool is_read(int value) const;
  Entry& append(Pass pass);
  void append_backward(const Entry& forward, std::vector<char>& written);
  template <class Visit>
  void visit_buffers(Entry& entry, const Visit& visit);
  static void execute(const Entry& entry);

  bool training_;
  bool compiled_ = false;
  int parts_ = 1;
  std::deque<Node> nodes_;
  std::vector<Tensor> tensors_;
  std::deque<Entry> entries_;
  std::vector<std::vector<void**>>
      slots_;  // per tensor: where the pointer of what is fed or bound is written
  std::vector<std::pair<int, int>> required_;  // (part, feed that it reads)
  Arena arena_;
};

}  // namespace wdfast
