#include "program.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>

#include "thread_pool.h"

namespace wdfast {
namespace {

constexpr int64_t kGrain = 16384;  // floats per block of a fill, copy or add
constexpr char kHeld = 1, kReceived = 2;

struct Stream {  // the context of the three built-in loops over floats
  float* to;
  const float* from;
  float value;
  int64_t n;
};

template <class Loop>
void stream_blocks(Stream stream, Loop) {
  parallel((stream.n + kGrain - 1) / kGrain,
           [](void* context, int64_t block) {
             const Stream& s = *static_cast<Stream*>(context);
             const int64_t end = std::min(s.n, (block + 1) * kGrain);
             for (int64_t i = block * kGrain; i < end; ++i) Loop::apply(s, i);
           },
           &stream);
}
struct Fill {
  static void apply(const Stream& s, int64_t i) { s.to[i] = s.value; }
};
struct Copy {
  static void apply(const Stream& s, int64_t i) { s.to[i] = s.from[i]; }
};
struct Add {
  static void apply(const Stream& s, int64_t i) { s.to[i] += s.from[i]; }
};

}  // namespace

const Program::Tensor& Program::at(int tensor) const {
  if (tensor < 0 || static_cast<size_t>(tensor) >= tensors_.size())
    throw std::out_of_range("Program: there is no tensor " + std::to_string(tensor));
  return tensors_[static_cast<size_t>(tensor)];
}

int Program::add_tensor(const Spec& spec, Kind kind) {
  if (compiled_) throw std::logic_error("Program: compiled already");
  const int id = static_cast<int>(tensors_.size());
  tensors_.push_back({.spec = spec, .kind = kind, .root = id});
  return id;
}

int Program::raw_tensor(int64_t bytes) {
  Spec spec{.rank = 1, .dtype = DType::u8};
  spec.dim[0] = bytes;
  return add_tensor(spec, Kind::temporary);
}

int Program::feed(const Spec& spec, bool needs_grad) {
  const int id = add_tensor(spec, Kind::feed);
  at(id).needs_grad = needs_grad;
  return id;
}

int Program::bind(const Spec& spec, void* data, void* grad) {
  const int id = add_tensor(spec, Kind::bound);
  at(id).data = data;
  if (grad) {
    const int g = add_tensor(spec, Kind::bound);
    at(g).data = grad;
    at(id).grad = g;
    at(id).needs_grad = true;
  }
  return id;
}

Program::Entry& Program::append(Pass pass) {
  Entry& entry = entries_.emplace_back();
  entry.pass = pass;
  entry.part = parts_ - 1;
  return entry;
}

std::vector<int> Program::op(const std::string& name, Attrs attrs, const std::vector<int>& inputs) {
  std::vector<Spec> specs;
  for (int id : inputs) specs.push_back(id < 0 ? Spec{} : at(id).spec);
  Node& node = nodes_.emplace_back(name, std::move(attrs), std::move(specs));
  std::vector<int> in = inputs;
  in.resize(node.in.size(), -1);

  bool needs_grad = false;
  if (node.def->backward || node.def->alias)
    for (size_t i = 0; i < in.size(); ++i)
      needs_grad |= in[i] >= 0 && at(in[i]).needs_grad && (node.def->differentiable >> i & 1);

  std::vector<int> outs;
  for (const Spec& spec : node.out) {
    const int id = add_tensor(spec, Kind::temporary);
    at(id).needs_grad = needs_grad && spec.dtype == DType::f32;
    if (node.def->alias) at(id).root = at(in[0]).root;
    outs.push_back(id);
  }
  if (node.def->alias) return outs;

  const int saved = node.saved_bytes ? raw_tensor(node.saved_bytes) : -1;
  const int scratch = node.forward_scratch_bytes ? raw_tensor(node.forward_scratch_bytes) : -1;
  Entry& entry = append(Pass::forward);
  entry.node = &node;
  entry.in = std::move(in);
  entry.out = outs;
  entry.saved = saved;
  entry.scratch = scratch;
  entry.stream = static_cast<uint32_t>(nodes_.size());
  return outs;
}

int Program::grad_tensor(int value) {  // aliases share their root's gradient
  Tensor& owner = root(value);
  if (owner.grad < 0) {
    const Spec spec = owner.spec;
    const int g = add_tensor(spec, Kind::temporary);
    root(value).grad = g;
  }
  return root(value).grad;
}

bool Program::is_read(int value) const {
  for (const Entry& entry : entries_)
    for (int input : entry.in)
      if (input >= 0 && at(input).root == at(value).root) return true;
  return false;
}

int Program::grad_of(int tensor) const { return at(at(tensor).root).grad; }

std::vector<int> Program::differentiate(const std::vector<std::pair<int, int>>& seeds, bool accumulate) {
  const size_t n_forward = entries_.size();
  // By root: whether its gradient holds something, from before (kHeld) or from these seeds (kReceived).
  std::vector<char> written(tensors_.size(), 0);
  ++parts_;
  if (accumulate)
    for (size_t i = 0; i < written.size(); ++i)
      if (tensors_[i].kind == Kind::bound && tensors_[i].grad >= 0) written[i] = kHeld;

  for (const auto& [value, seed] : seeds) {
    if (!at(value).needs_grad) continue;
    // Nothing else is added to the gradient of what no op reads and no other seed is for: it can be the seed.
    const auto same = [&](const auto& other) { return at(other.first).root == at(value).root; };
    if (seed >= 0 && at(seed).kind != Kind::temporary && at(value).root == value && root(value).grad < 0 &&
        !is_read(value) && std::count_if(seeds.begin(), seeds.end(), same) == 1)
      root(value).grad = seed;
    const int g = grad_tensor(value);
    char& done = written[static_cast<size_t>(at(value).root)];
    int source = seed;
    if (seed < 0) {
      source = done ? add_tensor(at(value).spec, Kind::temporary) : g;
      Entry& fill = append(Pass::fill);
      fill.out = {source};
      fill.value = 1.0f;
    }
    if (source != g) {
      Entry& entry = append(done ? Pass::add : Pass::copy);
      entry.in = {source};
      entry.out = {g};
    }
    done = kReceived;
  }
  for (size_t i = n_forward; i-- > 0;)
    if (entries_[i].pass == Pass::forward) append_backward(entries_[i], written);

  std::vector<int> received;
  for (size_t i = 0; i < written.size(); ++i)
    if (written[i] == kReceived && tensors_[i].kind != Kind::temporary)
      received.push_back(static_cast<int>(i));
  return received;
}

void Program::append_backward(const Entry& forward, std::vector<char>& written) {
  const auto is_written = [&](int id) -> char& { return written[static_cast<size_t>(at(id).root)]; };
  const OpDef& def = *forward.node->def;
  bool reached = false;
  for (int out : forward.out) reached |= at(out).needs_grad && is_written(out);
  if (!reached) return;

  std::vector<int> d_out, d_in(forward.in.size(), -1);
  for (int out : forward.out) {
    if (!at(out).needs_grad) {  // an integer output
      d_out.push_back(-1);
      continue;
    }
    const int g = grad_tensor(out);
    d_out.push_back(g);
    if (!is_written(out)) {  // an output that the loss does not use: its gradient is zero
      append(Pass::fill).out = {g};
      is_written(out) = kReceived;
    }
  }
  uint32_t accumulate = 0;
  std::vector<std::pair<int, int>> additions;  // (temporary, gradient)
  for (size_t i = 0; i < forward.in.size(); ++i) {
    const int id = forward.in[i];
    if (id < 0 || !at(id).needs_grad || !(def.differentiable >> i & 1)) continue;
    const int g = grad_tensor(id);
    bool twice = false;  // x + x: the second contribution cannot be written by the same call
    for (size_t j = 0; j < i; ++j) twice |= d_in[j] >= 0 && at(forward.in[j]).root == at(id).root;
    if (!is_written(id)) {
      d_in[i] = g;
    } else if (!twice && (def.accumulates >> i & 1)) {
      d_in[i] = g;
      accumulate |= 1u << i;
    } else {
      d_in[i] = add_tensor(at(id).spec, Kind::temporary);
      additions.emplace_back(d_in[i], g);
    }
    is_written(id) = kReceived;
  }
  const int scratch =
      forward.node->backward_scratch_bytes ? raw_tensor(forward.node->backward_scratch_bytes) : -1;
  Entry& entry = append(Pass::backward);
  entry.node = forward.node;
  entry.in = forward.in;
  entry.out = forward.out;
  entry.d_out = std::move(d_out);
  entry.d_in = std::move(d_in);
  entry.saved = forward.saved;
  entry.scratch = scratch;
  entry.accumulate = accumulate;
  entry.stream = forward.stream;
  for (const auto& [from, to] : additions) {
    Entry& add = append(Pass::add);
    add.in = {from};
    add.out = {to};
  }
}

// Calls visit(tensor, is_used) for every buffer of an entry, in the order of its pointers.
template <class Visit>
void Program::visit_buffers(Entry& entry, const Visit& visit) {
  const bool backward = entry.pass == Pass::backward;
  const OpDef* def = entry.node ? entry.node->def : nullptr;
  for (size_t i = 0; i < entry.in.size(); ++i)
    visit(entry.in[i], !backward || (def->backward_reads_in >> i & 1));
  for (int id : entry.out) visit(id, !backward || def->backward_reads_out);
  for (int id : entry.d_out) visit(id, true);
  for (int id : entry.d_in) visit(id, true);
  visit(entry.saved, true);
  visit(entry.scratch, true);
}

void Program::compile(const std::vector<int>& keep, bool repeat) {
  if (compiled_) throw std::logic_error("Program: compiled already");
  compiled_ = true;
  int index = 0;
  for (Entry& entry : entries_) {
    visit_buffers(entry, [&](int id, bool used) {
      if (id < 0 || !used) return;
      Lifetime& life = root(id).life;
      if (life.first < 0) life.first = index;
      life.last = index;
    });
    ++index;
  }
  for (int id : keep) {
    root(id).life.last = index;
    root(id).kept = true;
  }
  for (const Entry& entry : entries_) {
    if (entry.saved < 0 || !entry.node->def->saves_for_backward) continue;
    Lifetime& life = at(entry.saved).life;
    if (life.first == life.last) life.first = life.last = -1;  // nothing reads it: no memory, and null
  }
  const auto part_at = [&](int i) { return entries_[static_cast<size_t>(i)].part; };
  for (Tensor& tensor : tensors_) {
    Lifetime& life = tensor.life;
    if (repeat && life.first >= 0 && life.last < index && part_at(life.first) != part_at(life.last))
      life.last = index;
  }

  std::vector<Lifetime> lives;
  std::vector<Tensor*> owners;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    Tensor& tensor = tensors_[i];
    if (tensor.kind != Kind::temporary || tensor.root != static_cast<int>(i) || tensor.life.first < 0)
      continue;
    tensor.life.bytes = tensor.spec.bytes();
    lives.push_back(tensor.life);
    owners.push_back(&tensor);
  }
  arena_ = Arena(plan_offsets(lives));
  for (size_t i = 0; i < owners.size(); ++i) owners[i]->data = arena_.data() + lives[i].offset;

  slots_.resize(tensors_.size());
  for (Entry& entry : entries_) {
    std::vector<int> ids;
    visit_buffers(entry, [&](int id, bool used) { ids.push_back(used ? id : -1); });
    entry.pointers.assign(ids.size(), nullptr);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0) continue;
      entry.pointers[i] = root(ids[i]).data;
      const Kind kind = root(ids[i]).kind;
      if (kind != Kind::temporary) slots_[static_cast<size_t>(at(ids[i]).root)].push_back(&entry.pointers[i]);
      if (kind == Kind::feed) required_.emplace_back(entry.part, at(ids[i]).root);
    }
    if (!entry.node) {
      entry.count = at(entry.out[0]).spec.size();
      continue;
    }
    void** p = entry.pointers.data();
    Call& call = entry.call;
    call.plan = entry.node->plan.data();
    call.in_spec = entry.node->in.data();
    call.out_spec = entry.node->out.data();
    call.in = p, p += entry.in.size();
    call.out = p, p += entry.out.size();
    call.d_out = p, p += entry.d_out.size();
    call.d_in = p, p += entry.d_in.size();
    call.saved = p[0];
    call.scratch = p[1];
    call.accumulate = entry.accumulate;
    call.training = training_;
    call.stream = entry.stream;
  }
}

void Program::rebind(int tensor, void* data, void* grad) {
  if (!compiled_) throw std::logic_error("Program: not compiled yet");
  const Tensor& bound = at(tensor);
  if (bound.kind != Kind::bound || (bound.grad >= 0) != (grad != nullptr))
    throw std::invalid_argument("Program.rebind: tensor " + std::to_string(tensor) +
                                " was not bound, or not in the same way");
  const auto move = [this](int id, void* to) {
    at(id).data = to;
    for (void** slot : slots_[static_cast<size_t>(id)]) *slot = to;
  };
  move(tensor, data);
  if (grad) move(bound.grad, grad);
}

void* Program::data(int tensor) const {
  if (!compiled_) throw std::logic_error("Program: not compiled yet");
  const Tensor& owner = at(at(tensor).root);
  if (owner.kind == Kind::temporary && !owner.kept)
    throw std::invalid_argument("Program: tensor " + std::to_string(tensor) +
                                " was not kept: its memory may hold another by now");
  if (!owner.data && at(tensor).spec.size())
    throw std::logic_error("Program: feed " + std::to_string(tensor) + " has no data yet");
  return owner.data;
}

void Program::execute(const Entry& entry) {
  if (entry.pass == Pass::forward) return entry.node->def->forward(entry.call);
  if (entry.pass == Pass::backward) return entry.node->def->backward(entry.call);
  const size_t n_in = entry.in.size();
  const Stream stream{static_cast<float*>(entry.pointers[n_in]),
                      n_in ? static_cast<const float*>(entry.pointers[0]) : nullptr, entry.value,
                      entry.count};
  if (entry.pass == Pass::fill) stream_blocks(stream, Fill{});
  if (entry.pass == Pass::copy) stream_blocks(stream, Copy{});
  if (entry.pass == Pass::add) stream_blocks(stream, Add{});
}

void Program::run(int64_t steps, const std::vector<Row>& feeds, const std::vector<Row>& results,
                  int64_t first_step, uint64_t seed, int part, int threads, double* seconds_per_entry) {
  if (!compiled_) throw std::logic_error("Program: not compiled yet");
  for (const Row& row : feeds) {
    if (at(row.tensor).kind != Kind::feed)
      throw std::invalid_argument("Program.run: tensor " + std::to_string(row.tensor) + " is not a feed");
    at(row.tensor).data = row.data;
  }
  for (const auto& [reader, tensor] : required_)
    if ((part < 0 || part == reader) && !at(tensor).data && at(tensor).spec.size())
      throw std::invalid_argument("Program.run: feed " + std::to_string(tensor) + " was never given");
  for (const Row& row : results) data(row.tensor);  // throws if it cannot be read
  const ThreadLimit limit(threads);
  for (int64_t s = 0; s < steps; ++s) {
    for (const Row& row : feeds) {
      void* data = row.data + s * row.stride;
      root(row.tensor).data = data;
      for (void** slot : slots_[static_cast<size_t>(at(row.tensor).root)]) *slot = data;
    }
    size_t index = 0;
    for (Entry& entry : entries_) {
      const size_t i = index++;
      if (part >= 0 && entry.part != part) continue;
      entry.call.step = static_cast<uint64_t>(first_step + s);
      entry.call.seed = seed;
      if (!seconds_per_entry) {
        execute(entry);
        continue;
      }
      const auto begin = std::chrono::steady_clock::now();
      execute(entry);
      seconds_per_entry[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    for (const Row& row : results)
      std::memcpy(row.data + s * row.stride, root(row.tensor).data,
                  static_cast<size_t>(at(row.tensor).spec.bytes()));
  }
}

std::vector<Program::Description> Program::describe() const {
  std::vector<Description> rows;
  for (const Entry& entry : entries_) {
    int64_t bytes = 0;
    for (const auto* ids : {&entry.in, &entry.out, &entry.d_in, &entry.d_out})
      for (int id : *ids)
        if (id >= 0) bytes += at(id).spec.bytes();
    const bool backward = entry.pass == Pass::backward;
    rows.push_back({entry.node ? entry.node->def->name : "gradient_sum",
                    backward     ? "backward"
                    : entry.node ? "forward"
                                 : "backward",
                    !entry.node ? 0
                    : backward  ? entry.node->backward_flops
                                : entry.node->flops,
                    bytes});
  }
  return rows;
}

}  // namespace wdfast
