// The extension module. It walks the registry; nothing here knows a single op.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "../runtime/cpu_features.h"
#include "../runtime/program.h"
#include "../runtime/registry.h"
#include "../runtime/thread_pool.h"

namespace py = pybind11;
using namespace wdfast;

namespace {

using Shape = std::vector<int64_t>;
using SpecTuple = std::pair<Shape, std::string>;

constexpr const char* kDTypeNames[] = {"float32", "int32", "uint8", "float64", "uint16"};
constexpr int kDTypes = 5;

DType dtype_from(const std::string& name) {
  for (int i = 0; i < kDTypes; ++i)
    if (name == kDTypeNames[i]) return static_cast<DType>(i);
  throw py::type_error("expected dtype float32, int32, uint8, float64 or uint16, got " + name);
}

// NumPy's number of the type: its name is a string that NumPy composes, or parses, at every call.
int number_of(DType dtype) {
  static const int numbers[kDTypes] = {py::dtype::of<float>().num(), py::dtype::of<int32_t>().num(),
                                       py::dtype::of<uint8_t>().num(), py::dtype::of<double>().num(),
                                       py::dtype::of<uint16_t>().num()};
  return numbers[static_cast<int>(dtype)];
}

DType dtype_of(const py::array& array) {
  const py::dtype dtype = array.dtype();
  for (int i = 0; i < kDTypes; ++i)
    if (dtype.num() == number_of(static_cast<DType>(i))) return static_cast<DType>(i);
  return dtype_from(py::str(dtype.attr("name")));
}

Spec spec_from(const int64_t* dims, size_t rank, DType dtype) {
  if (rank > kMaxRank) throw std::invalid_argument("expected at most 8 dimensions");
  Spec spec;
  spec.rank = static_cast<int32_t>(rank);
  spec.dtype = dtype;
  for (size_t i = 0; i < rank; ++i) spec.dim[i] = dims[i];
  return spec;
}

Spec spec_from(const Shape& shape, const std::string& dtype) {
  return spec_from(shape.data(), shape.size(), dtype_from(dtype));
}

SpecTuple to_tuple(const Spec& spec) {
  return {Shape(spec.dim, spec.dim + spec.rank), kDTypeNames[static_cast<int>(spec.dtype)]};
}

// Python has brought arrays into this form already (wdfast.ops._dispatch); here is the last line of defence.
Spec spec_of(const py::array& array) {
  const int wanted = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  if ((array.flags() & wanted) != wanted || array.dtype().byteorder() == '>')
    throw std::invalid_argument("expected an aligned, C-contiguous array in native byte order");
  static_assert(sizeof(py::ssize_t) == sizeof(int64_t));
  return spec_from(reinterpret_cast<const int64_t*>(array.shape()), static_cast<size_t>(array.ndim()),
                   dtype_of(array));
}

py::array empty_array(const Spec& spec) {
  return py::array(py::dtype(number_of(spec.dtype)), Shape(spec.dim, spec.dim + spec.rank));
}

Attrs attrs_from(const py::dict& dict) {
  Attrs attrs;
  for (const auto& [key, value] : dict) {
    const auto name = key.cast<std::string>();
    auto& slot = attrs.values[name];
    try {
      if (py::isinstance<py::str>(value))
        slot = value.cast<std::string>();
      else if (py::isinstance<py::sequence>(value) || py::isinstance<py::array>(value))
        slot = value.cast<std::vector<int64_t>>();
      else if (PyIndex_Check(value.ptr()))  // int, bool and NumPy's
        slot = value.cast<int64_t>();
      else
        slot = value.cast<double>();
    } catch (const py::cast_error&) {
      throw py::type_error("argument '" + name + "': expected a str, a number or several ints, got " +
                           py::repr(value).cast<std::string>());
    }
  }
  return attrs;
}

struct AlignedBuffer {
  explicit AlignedBuffer(int64_t bytes)
      : data(bytes ? std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64)) : nullptr) {
    if (bytes && !data) throw std::bad_alloc();
  }
  ~AlignedBuffer() { std::free(data); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  void* data;
};

using OptionalArrays = std::vector<std::optional<py::array>>;

// One op on arrays, now. With `d_out`, its backward as well; then the result is the gradients of `wanted`.
std::vector<std::optional<py::array>> execute(const std::string& name, const OptionalArrays& inputs,
                                              const py::dict& attrs,
                                              const std::optional<OptionalArrays>& d_out,
                                              const std::vector<bool>& wanted, bool training, uint64_t seed,
                                              uint64_t step) {
  std::vector<Spec> specs;
  for (const auto& input : inputs) specs.push_back(input ? spec_of(*input) : Spec{});
  const Node node(name, attrs_from(attrs), specs);
  const OpDef& def = *node.def;
  const size_t n_in = node.in.size();

  std::vector<void*> in(n_in, nullptr), out, grad_out, grad_in(n_in, nullptr);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i]) continue;
    if ((def.mutates >> i & 1) && !inputs[i]->writeable())
      throw std::invalid_argument(name + ": input " + std::to_string(i) +
                                  " is updated in place and must be writable");
    in[i] = const_cast<void*>(inputs[i]->data());
  }
  OptionalArrays results, gradients, updated;  // backward repeats forward: what it updates was updated before
  for (size_t i = 0; d_out && i < inputs.size(); ++i)
    if (in[i] && (def.mutates >> i & 1)) {
      updated.push_back(empty_array(specs[i]));
      in[i] = std::memcpy(updated.back()->mutable_data(), in[i], static_cast<size_t>(specs[i].bytes()));
    }
  for (const Spec& spec : node.out) {
    results.push_back(empty_array(spec));
    out.push_back(results.back()->mutable_data());
  }
  const AlignedBuffer saved(node.saved_bytes);
  const AlignedBuffer scratch(std::max(node.forward_scratch_bytes, node.backward_scratch_bytes));
  Call call{};
  call.plan = node.plan.data();
  call.in_spec = node.in.data();
  call.out_spec = node.out.data();
  call.in = in.data();
  call.out = out.data();
  call.saved = saved.data;
  call.scratch = scratch.data;
  call.training = training;
  call.seed = seed;
  call.step = step;
  if (d_out) {
    if (!def.backward && !def.alias) throw std::invalid_argument(name + ": this op has no gradient");
    if (d_out->size() != node.out.size())
      throw std::invalid_argument(name + ": expected one gradient per output");
    for (size_t i = 0; i < node.out.size(); ++i) {
      const auto& gradient = (*d_out)[i];
      if (gradient && to_tuple(spec_of(*gradient)) != to_tuple(node.out[i]))
        throw std::invalid_argument(name + ": argument 'dy': its shape or dtype is not that of the output");
      grad_out.push_back(gradient ? const_cast<void*>(gradient->data()) : nullptr);
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      const bool give = inputs[i] && (i >= wanted.size() || wanted[i]) && (def.differentiable >> i & 1) &&
                        node.in[i].dtype == DType::f32;
      gradients.push_back(give ? std::optional(empty_array(node.in[i])) : std::nullopt);
      if (give) grad_in[i] = gradients.back()->mutable_data();
    }
    call.d_out = grad_out.data();
    call.d_in = grad_in.data();
  }
  {
    const py::gil_scoped_release release;
    if (def.alias) {
      std::memcpy(out[0], in[0], static_cast<size_t>(node.out[0].bytes()));
      if (d_out && grad_in[0]) std::memcpy(grad_in[0], grad_out[0], static_cast<size_t>(node.in[0].bytes()));
    } else {
      def.forward(call);
      if (d_out) def.backward(call);
    }
  }
  return d_out ? gradients : results;
}

// The addresses of the arrays of a training step, into the first two columns of a table that the native step
// reads, once it is sure that the step may write there: values share memory with nothing, gradients may with
// one another. `names` are those of the values, then of the gradients.
void locate(const py::list& names, const py::list& values, const py::list& grads,
            py::array_t<double, py::array::c_style> addresses) {
  const size_t n = values.size();
  if (names.size() != 2 * n || grads.size() != n || addresses.ndim() != 2 ||
      addresses.shape(0) != static_cast<py::ssize_t>(n) || addresses.shape(1) < 2)
    throw std::invalid_argument("locate: expected two names, two arrays and a row of addresses for each");
  struct Span {
    uintptr_t begin, end;
    size_t name;
  };
  std::vector<Span> spans;
  const auto said = [&](size_t name) { return py::str(names[name]).cast<std::string>(); };
  const auto span_of = [&](const py::handle& object, size_t name) {
    const bool value = name < n;
    if (!py::isinstance<py::array>(object)) throw py::type_error(said(name) + ": expected an array");
    const auto array = py::reinterpret_borrow<py::array>(object);
    const int wanted = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
    const bool usable = (array.flags() & wanted) == wanted && (!value || array.writeable());
    if (array.dtype().num() != py::dtype::num_of<float>() || array.dtype().byteorder() == '>' || !usable)
      throw py::type_error(said(name) + ": expected " + (value ? "writable, " : "") +
                           "aligned, C-contiguous float32, got " +
                           py::str(array.attr("dtype")).cast<std::string>() + (usable ? "" : " that is not"));
    const auto begin = reinterpret_cast<uintptr_t>(array.data());
    if (array.size()) spans.push_back({begin, begin + static_cast<uintptr_t>(array.nbytes()), name});
    return array;
  };
  double* row = addresses.mutable_data();
  for (size_t i = 0; i < n; ++i, row += addresses.shape(1)) {
    const py::array value = span_of(values[i], i), grad = span_of(grads[i], n + i);
    const Shape have(grad.shape(), grad.shape() + grad.ndim());
    const Shape want(value.shape(), value.shape() + value.ndim());
    if (have != want)
      throw std::invalid_argument(said(n + i) + ": expected shape " +
                                  py::repr(py::cast(want)).cast<std::string>() + ", got " +
                                  py::repr(py::cast(have)).cast<std::string>());
    row[0] = static_cast<double>(reinterpret_cast<uintptr_t>(value.data()));  // exact: they have 47 bits
    row[1] = static_cast<double>(reinterpret_cast<uintptr_t>(grad.data()));
  }
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  uintptr_t end_of_any = 0, end_of_values = 0;
  for (const Span& span : spans) {
    const bool value = span.name < n;
    if (span.begin < (value ? end_of_any : end_of_values))
      throw std::invalid_argument(said(span.name) + " shares memory with another array");
    end_of_any = std::max(end_of_any, span.end);
    if (value) end_of_values = std::max(end_of_values, span.end);
  }
}

py::dict describe_ops() {
  py::dict ops;
  for (const auto& [name, defs] : all_ops()) {
    py::dict row;
    std::vector<std::string> isas;
    for (const OpDef* def : defs) isas.push_back(isa_name(def->isa));
    const OpDef& def = *defs.front();
    row["isas"] = isas;
    row["min_inputs"] = def.min_inputs;
    row["max_inputs"] = def.max_inputs;
    row["differentiable"] = def.backward || def.alias ? def.differentiable : 0u;
    row["mutates"] = def.mutates;
    row["random"] = def.random;
    row["alias"] = def.alias;
    ops[name.c_str()] = row;
  }
  return ops;
}

py::dict infer(const std::string& name, const std::vector<std::optional<SpecTuple>>& inputs,
               const py::dict& attrs) {
  std::vector<Spec> specs;
  for (const auto& input : inputs) specs.push_back(input ? spec_from(input->first, input->second) : Spec{});
  const Node node(name, attrs_from(attrs), specs);
  std::vector<SpecTuple> out;
  for (const Spec& spec : node.out) out.push_back(to_tuple(spec));
  py::dict result;
  result["out"] = out;
  result["flops"] = node.flops;
  result["backward_flops"] = node.backward_flops;
  result["saved_bytes"] = node.saved_bytes;
  return result;
}

// A Program and the arrays whose memory it uses.
struct PyProgram {
  explicit PyProgram(bool training) : program(training) {}
  Program program;
  std::map<int, py::array> kept;
  std::map<int, py::array> fed;
  std::mutex running;  // its buffers hold one run at a time

  static void* twin(const py::array& array, const std::optional<py::array>& grad) {
    if (!grad) return nullptr;
    if (to_tuple(spec_of(*grad)) != to_tuple(spec_of(array)) || !grad->writeable())
      throw std::invalid_argument("Program.bind: argument 'grad': expected a writable twin of 'array'");
    return const_cast<void*>(grad->data());
  }

  void keep(int tensor, const py::array& array, const std::optional<py::array>& grad) {
    kept[tensor] = array;
    if (grad) kept[program.grad_of(tensor)] = *grad;
  }

  int bind(const py::array& array, const std::optional<py::array>& grad) {
    const int tensor = program.bind(spec_of(array), const_cast<void*>(array.data()), twin(array, grad));
    keep(tensor, array, grad);
    return tensor;
  }

  void rebind(int tensor, const py::array& array, const std::optional<py::array>& grad) {
    if (to_tuple(spec_of(array)) != to_tuple(program.spec(tensor)))
      throw std::invalid_argument(
          "Program.rebind: argument 'array': expected the shape and dtype of tensor " +
          std::to_string(tensor));
    const std::unique_lock guard(running, std::try_to_lock);
    if (!guard) throw std::runtime_error("Program.rebind: another thread is running this program");
    program.rebind(tensor, const_cast<void*>(array.data()), twin(array, grad));
    keep(tensor, array, grad);
  }

  Row row(const char* what, int tensor, const py::array& array, int64_t steps, bool writable) {
    const Spec have = spec_of(array), want = program.spec(tensor);
    const bool per_step = have.rank == want.rank + 1;
    bool same = have.dtype == want.dtype && (per_step || have.rank == want.rank);
    for (int i = 0; same && i < want.rank; ++i) same = have.dim[i + per_step] == want.dim[i];
    if (!same || (per_step && have.dim[0] < steps) || (!per_step && writable && steps > 1))
      throw std::invalid_argument(std::string("Program.run: ") + what + " " + std::to_string(tensor) +
                                  ": its shape or dtype does not fit the tensor");
    if (writable && !array.writeable()) throw std::invalid_argument("Program.run: a result must be writable");
    return {tensor, static_cast<char*>(const_cast<void*>(array.data())), per_step ? want.bytes() : 0};
  }

  void run(int64_t steps, const std::map<int, py::array>& feeds, const std::map<int, py::array>& results,
           int64_t first_step, uint64_t seed, int part, int threads,
           const std::optional<py::array_t<double, py::array::c_style>>& seconds) {
    std::vector<Row> feed_rows, result_rows;
    for (const auto& [tensor, array] : feeds) feed_rows.push_back(row("feed", tensor, array, steps, false));
    for (const auto& [tensor, array] : results)
      result_rows.push_back(row("result", tensor, array, steps, true));
    for (const auto& [tensor, array] : feeds) fed[tensor] = array;  // alive until another takes its place
    double* times = nullptr;
    if (seconds) {
      if (seconds->size() != static_cast<py::ssize_t>(program.describe().size()))
        throw std::invalid_argument("Program.run: argument 'seconds': expected one value per entry");
      times = const_cast<double*>(seconds->data());
    }
    run_alone(steps, feed_rows, result_rows, first_step, seed, part, threads > 0 ? threads : num_threads(),
              times);
  }

  // One step of the whole: what these tensors are where `feeds` are these arrays (a scalar as one of 1).
  std::vector<py::array> evaluate(const std::vector<int>& feeds, const std::vector<py::array>& arrays,
                                  const std::vector<int>& outputs) {
    if (feeds.size() != arrays.size())
      throw std::invalid_argument("Program.evaluate: argument 'arrays': expected one per feed");
    std::vector<Row> feed_rows, result_rows;
    for (size_t i = 0; i < feeds.size(); ++i) feed_rows.push_back(row("feed", feeds[i], arrays[i], 1, false));
    std::vector<py::array> results;
    for (const int tensor : outputs) {
      Spec spec = program.spec(tensor);
      if (spec.rank == 0) spec.dim[spec.rank++] = 1;
      result_rows.push_back(
          {tensor, static_cast<char*>(results.emplace_back(empty_array(spec)).mutable_data()), 0});
    }
    for (size_t i = 0; i < feeds.size(); ++i) fed[feeds[i]] = arrays[i];
    run_alone(1, feed_rows, result_rows, 0, 0, -1, num_threads(), nullptr);
    return results;
  }

  template <class... Arguments>
  void run_alone(const Arguments&... arguments) {
    const std::unique_lock guard(running, std::try_to_lock);
    if (!guard) throw std::runtime_error("Program.run: another thread is running this program");
    const py::gil_scoped_release release;
    program.run(arguments...);
  }

  py::array read(int tensor) {
    const Spec& spec = program.spec(tensor);
    py::array copy = empty_array(spec);
    std::memcpy(copy.mutable_data(), program.data(tensor), static_cast<size_t>(spec.bytes()));
    return copy;
  }
};

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "wdfast's compiled half: the op registry, the executor and the thread pool.";
  m.attr("abi_version") = kAbiVersion;
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (Isa isa : supported_isas()) names.push_back(isa_name(isa));
    return names;
  });
  m.def("active_isa", [] { return std::string(isa_name(active_isa())); });
  m.def("set_isa", &set_active_isa, py::arg("name"));
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"), py::call_guard<py::gil_scoped_release>());
  m.def("usable_cores", &usable_cores);
  m.def("ops", &describe_ops);
  m.def("load_library", &load_plugin, py::arg("path"));
  m.def("infer", &infer, py::arg("name"), py::arg("inputs"), py::arg("attrs"));
  m.def("locate", &locate, py::arg("names"), py::arg("values"), py::arg("grads"), py::arg("addresses"));
  m.def("execute", &execute, py::arg("name"), py::arg("inputs"), py::arg("attrs"),
        py::arg("d_out") = py::none(), py::arg("wanted") = std::vector<bool>{}, py::arg("training") = false,
        py::arg("seed") = 0, py::arg("step") = 0);

  py::class_<PyProgram>(m, "Program")
      .def(py::init<bool>(), py::arg("training") = false)
      .def(
          "feed",
          [](PyProgram& self, const Shape& shape, const std::string& dtype, bool needs_grad) {
            return self.program.feed(spec_from(shape, dtype), needs_grad);
          },
          py::arg("shape"), py::arg("dtype") = "float32", py::arg("needs_grad") = false)
      .def("bind", &PyProgram::bind, py::arg("array"), py::arg("grad") = py::none())
      .def("rebind", &PyProgram::rebind, py::arg("tensor"), py::arg("array"), py::arg("grad") = py::none())
      .def(
          "op",
          [](PyProgram& self, const std::string& name, const std::vector<int>& inputs,
             const py::dict& attrs) { return self.program.op(name, attrs_from(attrs), inputs); },
          py::arg("name"), py::arg("inputs"), py::arg("attrs"))
      .def(
          "differentiate",
          [](PyProgram& self, const std::vector<std::pair<int, int>>& seeds, bool accumulate) {
            return self.program.differentiate(seeds, accumulate);
          },
          py::arg("seeds"), py::arg("accumulate") = false)
      .def(
          "grad_of", [](const PyProgram& self, int tensor) { return self.program.grad_of(tensor); },
          py::arg("tensor"))
      .def(
          "compile",
          [](PyProgram& self, const std::vector<int>& keep, bool repeat) {
            self.program.compile(keep, repeat);
          },
          py::arg("keep"), py::arg("repeat") = false)
      .def("run", &PyProgram::run, py::arg("steps"), py::arg("feeds"), py::arg("results"),
           py::arg("first_step") = 0, py::arg("seed") = 0, py::arg("part") = -1, py::arg("threads") = 0,
           py::arg("seconds") = py::none())
      .def("evaluate", &PyProgram::evaluate, py::arg("feeds"), py::arg("arrays"), py::arg("outputs"))
      .def("read", &PyProgram::read, py::arg("tensor"))
      .def(
          "spec", [](const PyProgram& self, int tensor) { return to_tuple(self.program.spec(tensor)); },
          py::arg("tensor"))
      .def("describe",
           [](const PyProgram& self) {
             std::vector<std::tuple<std::string, std::string, double, int64_t>> rows;
             for (const auto& d : self.program.describe())
               rows.emplace_back(d.name, d.pass, d.flops, d.bytes);
             return rows;
           })
      .def_property_readonly("arena_bytes", [](const PyProgram& self) { return self.program.arena_bytes(); });
}
